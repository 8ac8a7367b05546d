"""`poolwright run`: the daemon."""

import argparse
import asyncio
import logging
from pathlib import Path
from typing import Any

import uvloop

from poolwright.cli import log
from poolwright.engine.live import Daemon
from poolwright.engine.notify import Notifier
from poolwright.engine.tick import CoreFault
from poolwright.policy.config import DaemonConfig, load_config
from poolwright.surface.http import Surface

_EX_SOFTWARE = 70


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("run", help="the daemon")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--verbose", action="store_true", help="log what is asked and answered")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="of the log (default: as the configuration says)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM. Raises PolicyError and PlantFault for what stops the start."""
    config = load_config(args.config)
    log.start(args.log_format or config.log_format, verbose=args.verbose)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(args.config, config))
    except CoreFault as fault:
        logging.getLogger("poolwright").critical("%s", fault)
        return _EX_SOFTWARE
    return 0


async def _main(path: Path, config: DaemonConfig) -> None:
    daemon = Daemon(path, config, Notifier.from_environment())
    surface = Surface(
        daemon.snapshot,
        journal=Path(config.journal),
        journal_most_bytes=config.journal_max_bytes,
        pools=[pool.name for pool in config.pools],
    )

    async def start() -> None:
        await surface.start(
            config.listen,
            config.control,
            daemon.command,
            config.control_group,
            allowed_hosts=config.allowed_hosts,
        )

    await daemon.run(start, surface.close, surface.published)
