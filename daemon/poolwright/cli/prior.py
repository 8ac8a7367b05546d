"""`poolwright prior POOL`: what was learned of a pool, as a file for another host.

Put the file beside the other host's configuration and name it there: `prior: FILE` in its pool.
It is believed as far as it foretells that host's first windows, and never makes a setting safe.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from poolwright.cli.explain import add_journal, journal_of
from poolwright.core.errors import PlantFault
from poolwright.journal.prior import encode_prior
from poolwright.journal.query import JournalReader


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "prior", help="write what was learned of a pool, for another host", description=__doc__
    )
    parser.add_argument("pool", metavar="POOL")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: standard output)")
    add_journal(parser)


def run(args: argparse.Namespace) -> int:
    """Write it. PlantFault when the journal cannot be read or knows nothing of the pool."""
    path = journal_of(args)
    with JournalReader(path) as reader, reader.one_moment():
        runs = reader.runs(args.pool)
        known = reader.known_of(args.pool) if runs else None
        if known is None:
            pools = ", ".join(sorted({run.pool for run in reader.runs()})) or "none"
            raise PlantFault(f"{path}: no pool {args.pool!r} (pools: {pools})")
        policy, _ = reader.start_of(runs[-1].id)
    if not known.evidence:
        raise PlantFault(f"{path}: nothing was measured of pool {args.pool!r} yet")
    written = encode_prior(args.pool, policy, known.evidence)
    if args.out is None:
        sys.stdout.buffer.write(written)
        return 0
    try:
        args.out.write_bytes(written)
    except OSError as error:
        raise PlantFault(f"{args.out}: cannot be written: {error.strerror}") from error
    print(f"{args.out}: {len(known.evidence)} windows of {args.pool}", file=sys.stderr)
    return 0
