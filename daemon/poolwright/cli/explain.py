"""`poolwright explain POOL`: why a decision was made, and what came of it.

Without --at and --decision: the last decision that moved something, else the last notable one.
"""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from poolwright.cli.decision_name import decision_name, named
from poolwright.cli.moment import moment
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import (
    Actuation,
    ActuationStatus,
    Decision,
    Observation,
    Setting,
    setting,
)
from poolwright.core.policy import Policy
from poolwright.journal.query import DecisionRow, JournalReader
from poolwright.surface.explain import Story, explain, text

DEFAULT_JOURNAL = Path("/var/lib/poolwright/journal.db")


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "explain", help="tell why a decision was made", description=__doc__
    )
    parser.add_argument("pool", metavar="POOL")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--at",
        type=moment,
        metavar="TIME",
        help="the newest notable decision at that time: 2026-11-21T07:00:00+01:00, UTC unless said",
    )
    which.add_argument(
        "--decision",
        type=decision_name,
        metavar="ID",
        help="of `journal list`, or RUN/TICK of the log",
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
        row = _row(reader, args)
        story = tell(reader, row)
    other = None if args.why_not is None else _setting(args.why_not, story.policy)
    sections = explain(story, other)
    if args.json:
        print(_json(row, story, sections))
    else:
        print(f"{text(sections)}\n\n(decision {row.id} of run {row.run} in {path})")
    return 0


def tell(reader: JournalReader, row: DecisionRow) -> Story:
    """Everything that the journal knows about a decision."""
    decision = reader.full_decision(row.id)
    policy, resume = reader.start_of(row.run)
    step = reader.step(row.run, row.tick)
    plan = reader.plan_before(row.run, row.tick)
    if plan is None and resume is not None:
        plan = resume.plan
    after, left_by = _later(reader, row, decision)
    return Story(
        pool=row.pool,
        wall_ns=row.wall_ns,
        decision=decision,
        policy=policy,
        tick=None if step is None else step.tick,
        plan=plan,
        actuation=_actuation(reader, row),
        after=after,
        left_by=left_by,
    )


def _row(reader: JournalReader, args: argparse.Namespace) -> DecisionRow:
    if args.decision is not None:
        found = named(reader, args.decision)
        if found is None or found.pool != args.pool:
            raise PlantFault(f"{reader.path}: pool {args.pool!r} has no decision {args.decision}")
        return found
    rows = reader.decisions(args.pool)
    if not rows:
        pools = ", ".join(sorted({run.pool for run in reader.runs()})) or "none"
        raise PlantFault(
            f"{reader.path}: no notable decision of pool {args.pool!r} yet (pools: {pools})"
        )
    if args.at is None:
        return next((row for row in reversed(rows) if row.moves), rows[-1])
    before = [row for row in rows if row.wall_ns <= args.at]
    if not before:
        first = datetime.fromtimestamp(rows[0].wall_ns / 1e9, UTC).isoformat(timespec="seconds")
        raise PlantFault(f"{reader.path}: nothing is known of that time; the first is of {first}")
    return before[-1]


def _later(
    reader: JournalReader, row: DecisionRow, decision: Decision
) -> tuple[Observation | None, Decision | None]:
    """The next window at the setting decided on, or else what moved away before one closed."""
    for later in _after(reader, row):
        seen = later.observation
        if seen is not None and seen.setting == decision.setting and seen.opened_tick >= row.tick:
            return seen, None
        if later.moves and later.setting != decision.setting:
            return None, later
    return None, None


def _after(reader: JournalReader, row: DecisionRow) -> Iterator[Decision]:
    for later in reader.decisions_of_run(row.run):
        if later.tick > row.tick and (later.moves or later.observed is not None):
            yield reader.full_decision(later.id)


def _actuation(reader: JournalReader, row: DecisionRow) -> Actuation | None:
    """What became of the move's intent; None when nobody knows."""
    for intent in reader.intents(row.run):
        if intent.tick == row.tick and intent.status in set(ActuationStatus):
            return Actuation(
                decision_tick=row.tick,
                status=ActuationStatus(intent.status),
                took_s=intent.took_s or 0.0,
                detail=intent.detail,
            )
    return None


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


def _json(row: DecisionRow, story: Story, sections: object) -> str:
    whole = {"id": row.id, "run": row.run, "account": sections, "story": story}
    return msgspec.json.encode(whole).decode()
