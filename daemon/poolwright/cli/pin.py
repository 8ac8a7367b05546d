"""`poolwright pin POOL workers=12`: hold one setting, in any mode but observe, until `unpin`.

Knobs that are not named stay as they are, and the policy's bounds hold. With --until or --for it
ends by itself. The pin survives a restart of the daemon.
"""

import argparse
import time
from datetime import UTC, datetime
from typing import Any

from poolwright.cli import control
from poolwright.cli.moment import moment
from poolwright.core.errors import PolicyError
from poolwright.policy.quantities import parse_duration
from poolwright.surface.words import until


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = control.add(subparsers, "pin", __doc__, why=None)
    parser.add_argument("levels", nargs="+", metavar="KNOB=LEVEL")
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--until", type=moment, metavar="TIME", help="2027-01-01T00:00:00+01:00; UTC unless said"
    )
    end.add_argument("--for", dest="span_s", type=_span_s, metavar="DURATION", help="45m, 2h, 1d")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon; 0. PolicyError and PlantFault as `control.ask`."""
    wanted = control.levels(args.levels)
    end_ns = args.until
    if args.span_s is not None:
        end_ns = time.time_ns() + round(args.span_s * 1e9)
    more = {} if end_ns is None else {"until": _rfc3339(end_ns)}
    said = control.ask(args, "pin", setting=wanted, **more)
    undo = control.again(args, "unpin")
    print(f"{args.pool}: asked to pin {said.get('setting', '')}{until(end_ns)}; undo: {undo}")
    return 0


def _span_s(written: str) -> float:
    try:
        return parse_duration(written)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{written!r} {error}") from error


def _rfc3339(wall_ns: int) -> str:
    try:
        return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat()
    except (ValueError, OverflowError) as error:
        raise PolicyError(f"the pin would end beyond the calendar: {error}") from error
