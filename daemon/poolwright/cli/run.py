"""`poolwright run`: the daemon."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import uvloop

from poolwright.engine.live import Daemon
from poolwright.engine.notify import Notifier
from poolwright.engine.tick import CoreFault
from poolwright.policy.config import load_config
from poolwright.surface.http import Surface

_EX_SOFTWARE = 70


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("run", help="the daemon")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--verbose", action="store_true", help="log what is asked and answered")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM. Raises PolicyError and PlantFault for what stops the start."""
    _log(verbose=args.verbose)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(args.config))
    except CoreFault as fault:
        logging.getLogger("poolwright").critical("%s", fault)
        return _EX_SOFTWARE
    return 0


async def _main(path: Path) -> None:
    config = load_config(path)
    daemon = Daemon(path, config, Notifier.from_environment())
    pools = [pool.name for pool in config.pools]
    surface = Surface(daemon.snapshot, journal=Path(config.journal), pools=pools)

    async def start() -> None:
        await surface.start(
            config.listen,
            config.control,
            daemon.command,
            config.control_group,
            allowed_hosts=config.allowed_hosts,
        )

    await daemon.run(start, surface.close, surface.published)


def _log(*, verbose: bool) -> None:
    """To stderr: with the level as a prefix that the journal of systemd reads, else with a time."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_LevelPrefix("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class _LevelPrefix(logging.Formatter):
    """sd-daemon(3): `<3>` for an error, and so on."""

    def format(self, record: logging.LogRecord) -> str:
        """The message with its level."""
        levels = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
        return f"<{levels.get(record.levelno, 2)}>{super().format(record)}"
