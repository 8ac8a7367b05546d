"""`poolwright approve POOL [ID]`: do what the advice says, once, in mode recommend.

Without ID: the advice that is given now, which is shown. An advice that has changed since it was
read is not done: its ID is another. If the new setting breaches, poolwright goes back by itself.
"""

import argparse
from typing import Any

from poolwright.cli import control


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = control.add(subparsers, "approve", __doc__)
    parser.add_argument("id", nargs="?", metavar="ID", help="as `poolwright status` shows it")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon; 0. PolicyError and PlantFault as `control.ask`."""
    name = control.advice_id(args)
    control.ask(args, "approve", advice=name)
    undo = control.again(args, "rollback", "--why TEXT")
    print(f"{args.pool}: asked to do advice {name}; undo: {undo}")
    return 0
