"""`poolwright reject POOL [ID] --why TEXT`: not this advice again, until the service changes.

Without ID: the advice that is given now, which is shown.
"""

import argparse
from typing import Any

from poolwright.cli import control


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = control.add(subparsers, "reject", __doc__, why=None)
    parser.add_argument("id", nargs="?", metavar="ID", help="as `poolwright status` shows it")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon; 0. PolicyError and PlantFault as `control.ask`."""
    name = control.advice_id(args)
    control.ask(args, "reject", advice=name)
    undo = control.again(args, "pin", "KNOB=LEVEL --why TEXT")
    print(f"{args.pool}: asked to reject advice {name}; to have it all the same: {undo}")
    return 0
