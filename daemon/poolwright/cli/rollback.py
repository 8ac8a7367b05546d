"""`poolwright rollback POOL --why TEXT`: back to what was held before the last move, and pause.

With --to: to that setting, or to the baseline. A pin is let go.
"""

import argparse
from typing import Any

from poolwright.cli import control

BASELINE = "baseline"


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = control.add(subparsers, "rollback", __doc__, why=None)
    parser.add_argument(
        "--to", nargs="+", default=[], metavar="KNOB=LEVEL", help=f"or `{BASELINE}`"
    )


def run(args: argparse.Namespace) -> int:
    """Ask the daemon; 0. PolicyError and PlantFault as `control.ask`."""
    more: dict[str, object] = {}
    if args.to == [BASELINE]:
        more = {"to": BASELINE}
    elif args.to:
        more = {"setting": control.levels(args.to)}
    said = control.ask(args, "rollback", **more)
    where = said.get("setting", "what was held before the last move")
    undo = control.again(args, "resume")
    print(f"{args.pool}: asked to roll back to {where}, and to pause; undo: {undo}")
    return 0
