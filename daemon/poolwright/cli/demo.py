"""`poolwright demo`: a real gunicorn service under real load, tuned before your eyes.

Starts everything on loopback, ends everything. Needs gunicorn: `pip install 'poolwright[demo]'`.
"""

import argparse
import asyncio
import importlib.util
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from poolwright.core.errors import PolicyError


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "demo",
        help="tune a real gunicorn service under real load, before your eyes",
        description=__doc__,
    )
    parser.add_argument("--seconds", type=int, default=170, metavar="N", help="of load (170)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of load and policy (0)")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, only")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep everything in this new folder: logs, files"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when it came to its end, 128 + n when signal n ended it.

    Raises PolicyError for wrong arguments, PlantFault when something that it started died.
    """
    if importlib.util.find_spec("gunicorn") is None:
        raise PolicyError("the demo needs gunicorn: pip install 'poolwright[demo]'")
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415  only here, and slow

    from poolwright.demo.run import Options, run_demo  # noqa: PLC0415
    from poolwright.demo.view import Lively, Plain, Silent, View, notes, table_of  # noqa: PLC0415

    options = Options(seconds=args.seconds, seed=args.seed, keep=args.keep)
    console = Console()
    view: View = Silent()
    if not args.json:
        view = Lively(console) if console.is_terminal else Plain(console)
    received: list[int] = []
    task = asyncio.current_task()
    assert task is not None, "asyncio.run made one"

    def stop(number: int) -> None:
        if not received:  # a second Ctrl-C must not cut the cleaning up short
            task.cancel()
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        with view:
            outcome = await run_demo(options, view.show)
    except asyncio.CancelledError:
        if not received:
            raise
        print("poolwright: stopped; everything that was started has ended", file=sys.stderr)
        return 128 + received[0]
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(outcome)).decode())
    else:
        console.print(table_of(outcome))
        print("\n".join(notes(outcome)))  # not wrapped: paths and commands are to be copied
    return 0
