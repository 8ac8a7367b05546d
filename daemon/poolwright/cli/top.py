"""`poolwright top`: all pools, live. Keys: j k or arrows, Enter or d to explain, h for help, q.

Into a pipe: a line a pool, once; --count N times, or with --interval until it is ended. Ends with
3 when the daemon could not be asked last.
"""

import argparse
import itertools
import math
import os
import sys
import threading
from pathlib import Path
from typing import Any

from poolwright.cli.status import add_address, address, latest
from poolwright.core.errors import PlantFault
from poolwright.engine.snapshot import PoolSnapshot
from poolwright.surface.page import COLUMNS, row
from poolwright.surface.words import utc

_INTERVAL_S = 1.0
_EXIT_GONE = 3


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("top", help="watch all pools, live", description=__doc__)
    add_address(parser)
    parser.add_argument(
        "--journal", type=Path, metavar="FILE",
        help="for explanations (default: the configuration's, or where it usually is)",
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=_seconds, metavar="S", help=f"between looks (default: {_INTERVAL_S:g})"
    )
    parser.add_argument("--count", type=_count, metavar="N", help="end after so many looks")


def run(args: argparse.Namespace) -> int:
    """Watch until `q`, or print. PolicyError and PlantFault as `status`."""
    url = address(args)
    if sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from poolwright.cli.top_screen import Screen  # noqa: PLC0415 - only a terminal needs rich

        screen = Screen(url, _journal(args), args.interval or _INTERVAL_S, args.count)
        return screen.run()
    return _print(args, url)


def _print(args: argparse.Namespace, url: str) -> int:
    """A line a pool; what cannot be seen is said on standard error, and tried again."""
    pause = threading.Event()
    interval_s = args.interval or _INTERVAL_S
    for look in itertools.count(1):
        fault = _look(url)
        if fault:
            print(f"poolwright: {fault}", file=sys.stderr, flush=True)
        last = args.count if args.count or args.interval else 1
        if look == last:
            return _EXIT_GONE if fault else 0
        pause.wait(interval_s)
    raise AssertionError("it counts for ever")


def _look(url: str) -> str:
    """Print what is seen now; else why nothing is."""
    try:
        snapshot, _, stale = latest(url)
    except PlantFault as error:
        return str(error)
    if snapshot is None or stale:
        return stale
    for pool in snapshot.pools:
        print(f"{utc(snapshot.wall_ns)}  {line(pool)}")
    sys.stdout.flush()
    return ""


def line(pool: PoolSnapshot) -> str:
    """A pool as one line for people and grep."""
    cells = dict(zip(COLUMNS, row(pool), strict=True))
    name, phase, why = cells.pop("pool"), cells.pop("phase"), cells.pop("why")
    told = "  ".join(f"{head} {cell}" for head, cell in cells.items())
    return f"{name}  {phase}  {told}  {why}"


def _journal(args: argparse.Namespace) -> Path:
    if args.journal is not None:
        return Path(args.journal)
    from poolwright.cli.explain import DEFAULT_JOURNAL, journal_of  # noqa: PLC0415

    return DEFAULT_JOURNAL if args.config is None else journal_of(args)


def _seconds(written: str) -> float:
    try:
        found = float(written)
    except ValueError:
        found = math.nan
    if not 0.1 <= found <= 3600.0:
        raise argparse.ArgumentTypeError(f"{written!r} is not between 0.1 and 3600 seconds")
    return found


def _count(written: str) -> int:
    if not (written.isascii() and written.isdigit()) or int(written) == 0:
        raise argparse.ArgumentTypeError(f"a count is at least 1, not {written!r}")
    return int(written)
