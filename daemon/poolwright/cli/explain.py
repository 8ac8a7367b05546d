"""`poolwright explain POOL`: why a decision was made, and what came of it.

Without --at and --decision: the last decision that moved something, else the last notable one.
How to read it, and the JSON: docs/explain.md.
"""

import argparse
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from poolwright.cli.moment import AGO, when
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Setting, setting
from poolwright.core.policy import Policy
from poolwright.journal.query import DecisionRow, JournalReader
from poolwright.surface import words
from poolwright.surface.story import explanation, tell

DEFAULT_JOURNAL = Path("/var/lib/poolwright/journal.db")


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "explain", help="tell why a decision was made", description=__doc__
    )
    # argparse takes "-10m" for an option unless it looks like a negative number to it.
    parser._negative_number_matcher = AGO  # noqa: SLF001 - there is no other way to say so
    parser.add_argument("pool", metavar="POOL")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--at",
        type=when,
        metavar="TIME",
        help="the newest notable decision at that time: 03:12 (the newest such), "
        "'03:12 Europe/Berlin', -10m, 2026-11-21T07:00:00+01:00; local time unless said",
    )
    which.add_argument(
        "--decision", type=int, metavar="ID", help="as `poolwright journal list` shows it"
    )
    parser.add_argument(
        "--why-not", metavar="LEVEL", help="why it was not this level: 8, or workers=8"
    )
    add_journal(parser)
    parser.add_argument("--json", action="store_true", help="print the account as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the account. PlantFault when the journal cannot be read or has no such decision."""
    path = journal_of(args)
    with JournalReader(path) as reader, reader.one_moment():
        row, asked = _row(reader, args)
        story = tell(reader, row)
    other = None if args.why_not is None else _setting(args.why_not, story.policy)
    found = explanation(row, story, other)
    if args.json:
        print(msgspec.json.encode(found).decode())
    else:
        print(f"{found.text}\n\n{asked}(decision {row.id} of run {row.run} in {path})")
    return 0


def _row(reader: JournalReader, args: argparse.Namespace) -> tuple[DecisionRow, str]:
    """The decision that is meant, and for a time what it is to that time."""
    if args.decision is not None:
        found = reader.decision(args.decision)
        if found is None or found.pool != args.pool:
            raise PlantFault(f"{reader.path}: pool {args.pool!r} has no decision {args.decision}")
        return found, ""
    newest = reader.newest_decision(args.pool)
    if newest is None:
        pools = ", ".join(sorted({run.pool for run in reader.runs()})) or "none"
        raise PlantFault(
            f"{reader.path}: no notable decision of pool {args.pool!r} yet (pools: {pools})"
        )
    if args.at is None:
        return reader.newest_decision(args.pool, moves=True) or newest, ""
    ended_ns = reader.run(newest.run).ended_wall_ns
    at_ns = args.at(time.time_ns() if ended_ns is None else max(ended_ns, newest.wall_ns))
    found = reader.newest_decision(args.pool, until_wall_ns=at_ns)
    if found is None:
        first = reader.decisions(args.pool)[0]
        raise PlantFault(
            f"{reader.path}: nothing is known of {words.utc(at_ns)}; the first decision of pool "
            f"{args.pool!r} is of {words.utc(first.wall_ns)}"
        )
    return found, _asked(at_ns, found, ended_ns)


def _asked(at_ns: int, row: DecisionRow, ended_ns: int | None) -> str:
    """What moment was understood, and how old the decision was then."""
    there = datetime.fromtimestamp(at_ns / 1e9).astimezone()
    local = "" if there.utcoffset() is None or not there.utcoffset() else f", {there:%H:%M:%S %Z}"
    age = words.seconds((at_ns - row.wall_ns) / 1e9)
    line = f"asked about {words.utc(at_ns)}{local}: this decision was {age} old then"
    if ended_ns is not None and at_ns > ended_ns:
        line += f", and the run had ended at {words.utc(ended_ns)}"
    return f"{line}\n"


def _setting(written: str, policy: Policy) -> Setting:
    """`8` for a policy of one knob, or `workers=8`. PolicyError when it is neither."""
    knobs = [knob.name for knob in policy.knobs]
    pairs = [item.partition("=") for item in written.split()]
    if len(pairs) == 1 and not pairs[0][1] and len(knobs) == 1:
        pairs = [(knobs[0], "=", pairs[0][0])]
    try:
        found = setting(**{name: int(level) for name, _, level in pairs})
    except ValueError as error:
        raise PolicyError(f"--why-not {written}: not a level such as 8") from error
    if [name for name, _ in found.levels] != sorted(knobs):
        raise PolicyError(f"--why-not {written}: the policy's knobs are {', '.join(knobs)}")
    return found


def add_journal(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which journal."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--journal",
        type=Path,
        default=DEFAULT_JOURNAL,
        metavar="PATH",
        help="(default: %(default)s)",
    )
    where.add_argument("--config", type=Path, metavar="FILE", help="use this one's journal")


def journal_of(args: argparse.Namespace) -> Path:
    """The journal that was asked for; PolicyError and PlantFault as `load_config`."""
    if args.config is None:
        return Path(args.journal)
    from poolwright.policy.config import load_config  # noqa: PLC0415 only here is YAML needed

    return Path(load_config(args.config).journal)
