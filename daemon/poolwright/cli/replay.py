"""`poolwright replay JOURNAL`: decide again from the journalled ticks, and compare.

Ends with 0 when every decision comes out the same, 1 at a first difference, 4 when a gap in the
journal stopped it before the end. With --policy: what that policy would have decided on the same
days, and what may have come of it (docs/explain.md); 0 then, or 4.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from poolwright.cli.what_if import told_otherwise
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Decision
from poolwright.core.policy import Mode
from poolwright.engine.otherwise import WhatIf
from poolwright.engine.replay import Difference, Outcome, replay
from poolwright.engine.what_if import Learner, what_if
from poolwright.journal import record
from poolwright.journal.query import Gap, JournalReader

EXIT_DIFFERS = 1
EXIT_GAPS = 4


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "replay", help="decide again from a journal, and compare", description=__doc__
    )
    parser.add_argument("journal", type=Path, metavar="JOURNAL")
    parser.add_argument("--run", dest="run_id", type=int, metavar="N", help="(default: all runs)")
    parser.add_argument("--pool", help="only the runs of this pool")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="decide under this one instead")
    parser.add_argument(
        "--auto", action="store_true", help="with --policy: as if its mode were auto"
    )
    parser.add_argument(
        "--show", type=_count, default=10, metavar="N",
        help="with --policy: the N longest differences (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="JSON lines, one a run; all of it")


def _count(written: str) -> int:
    if not (written.isascii() and written.isdigit()):
        raise argparse.ArgumentTypeError(f"{written!r} is not a count")
    return int(written)


def run(args: argparse.Namespace) -> int:
    """Replay; PolicyError or PlantFault when a file cannot be read or a run not be replayed."""
    from poolwright.core.controller import Controller  # noqa: PLC0415 - not for --help
    from poolwright.policy.load import load_policy  # noqa: PLC0415

    if args.auto and args.policy is None:
        raise PolicyError("--auto is about another policy: say which with --policy FILE")
    policy = None if args.policy is None else load_policy(args.policy)
    if policy is not None and args.auto:
        policy = replace(policy, mode=Mode.AUTO)
    worst = 0
    with JournalReader(args.journal) as reader, reader.one_moment():
        for run_id in _runs(reader, args):
            result: Outcome | WhatIf
            if policy is None:
                result = replay(reader, run_id, Controller)
            else:
                result = what_if(reader, run_id, Controller, policy, _learner())
            if args.json:
                print(record.encode(_plain(result)).decode())
            else:
                print("\n".join(_told(result, args.show)))
            worst = worst if worst == EXIT_DIFFERS else _status(result) or worst
    return worst


def _runs(reader: JournalReader, args: argparse.Namespace) -> list[int]:
    """The runs asked for; of all runs, those that retention has cut are passed over, and told."""
    if args.run_id is not None:
        row = reader.run(args.run_id)
        if args.pool not in {None, row.pool}:
            raise PlantFault(f"{reader.path}: run {row.id} is of pool {row.pool}, not {args.pool}")
        return [row.id]
    rows = reader.runs(args.pool)
    there = [row.id for row in rows if row.head_seq > row.kept_seq]
    if there and args.policy is not None:
        return there
    whole = [row.id for row in rows if row.kept_seq == 0]
    if not whole:
        raise PlantFault(
            f"{reader.path}: none of {len(rows)} runs is there from its beginning"
            if rows
            else f"{reader.path}: no run{'' if args.pool is None else f' of pool {args.pool}'}"
        )
    if len(whole) < len(rows) and not args.json:
        print(f"{len(rows) - len(whole)} runs passed over: retention dropped their first ticks")
    return whole


def _learner() -> Learner:
    if "numpy" not in sys.modules:
        threads = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        os.environ.update(dict.fromkeys(threads, "1"))
    from poolwright.learn.forecast import Forecast  # noqa: PLC0415 - numpy takes its time
    from poolwright.learn.plan import make_plan  # noqa: PLC0415

    return Learner(plan=make_plan, forecast=Forecast)


def _status(result: Outcome | WhatIf) -> int:
    if isinstance(result, Outcome) and not result.identical:
        return EXIT_DIFFERS
    return EXIT_GAPS if result.gap is not None else 0


def _told(result: Outcome | WhatIf, show: int) -> list[str]:
    if isinstance(result, WhatIf):
        lines = told_otherwise(result, show)
    elif result.difference is None:
        lines = [f"run {result.run}: {result.ticks} decisions, identical"]
    else:
        lines = [
            (
                f"run {result.run}: decision {result.ticks}, of tick"
                f" {result.difference.tick.index}, is the first that differs"
            )
        ]
        lines += _changes(result.difference)
    return lines + _gap(result.gap)


def _changes(difference: Difference) -> list[str]:
    lines = [
        f"  journalled: {_short(difference.journalled)}",
        f"  now:        {_short(difference.replayed)}",
    ]
    lines += [f"  {c.path}: {c.journalled!s} -> {c.replayed!s}" for c in difference.changes]
    return lines


def _short(decision: Decision) -> str:
    moves = " (moves)" if decision.moves else ""
    wanted = decision.setting if decision.advice is None else f"advice {decision.advice.setting}"
    return f"{decision.phase} {decision.action} {wanted}{moves}: {decision.reason}"


def _gap(gap: Gap | None) -> list[str]:
    if gap is None:
        return []
    return [
        (
            f"  stopped at a gap: {gap.ticks} ticks from {gap.first_tick} to {gap.last_tick} are"
            f" missing ({gap.reason}); what follows rests on them"
        )
    ]


def _plain(result: Outcome | WhatIf) -> dict[str, Any]:
    """The result as plain data, with its verdict."""
    data: dict[str, Any] = msgspec.to_builtins(result, enc_hook=str)
    if isinstance(result, Outcome):
        data["identical"] = result.identical
    return data
