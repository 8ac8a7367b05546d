"""`poolwright resume POOL`: take the level up again, after `pause` or `rollback`, after another
hand moved it, or after poolwright stood down because tuning did not help.
"""

import argparse
from typing import Any

from poolwright.cli import control


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    control.add(subparsers, "resume", __doc__)


def run(args: argparse.Namespace) -> int:
    """Ask the daemon; 0. PolicyError and PlantFault as `control.ask`."""
    control.ask(args, "resume")
    print(f"{args.pool}: asked to resume; undo: {control.again(args, 'pause')}")
    return 0
