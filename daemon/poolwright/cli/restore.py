"""`poolwright restore`: put the baseline back after a crash, where the policy says `exit: restore`.

Does nothing when the daemon ended by itself, or where the policy says `exit: keep`. Leaves alone,
and says so, what another hand moved, an operator paused or pinned, or the policy pins or freezes.
Exits 1 when a pool could not be restored, 3 when the daemon is still running.
"""

import argparse
import asyncio
import logging
from pathlib import Path
from typing import Any

from poolwright.engine.restore import restore
from poolwright.policy.config import load_config


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "restore", help="put the baseline back after a crash", description=__doc__
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Restore; 0 all done, 1 not."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return 1 if asyncio.run(restore(load_config(args.config))) else 0
