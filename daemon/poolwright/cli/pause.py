"""`poolwright pause POOL`: watch, and move nothing until `resume`."""

import argparse
from typing import Any

from poolwright.cli import control


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    control.add(subparsers, "pause", __doc__)


def run(args: argparse.Namespace) -> int:
    """Ask the daemon; 0. PolicyError and PlantFault as `control.ask`."""
    control.ask(args, "pause")
    print(f"{args.pool}: asked to pause; undo: {control.again(args, 'resume')}")
    return 0
