"""`poolwright unpin POOL`: let go of what `pin` holds; nothing is moved by that alone.

A pin that a policy's `override` holds is the policy's, and ends there.
"""

import argparse
from typing import Any

from poolwright.cli import control


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    control.add(subparsers, "unpin", __doc__)


def run(args: argparse.Namespace) -> int:
    """Ask the daemon; 0. PolicyError and PlantFault as `control.ask`."""
    control.ask(args, "unpin")
    undo = control.again(args, "pin", "KNOB=LEVEL --why TEXT")
    print(f"{args.pool}: asked to unpin; undo: {undo}")
    return 0
