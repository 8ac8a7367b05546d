"""`poolwright journal list|show|export|verify`: what happened, from the journal file.

A live journal may be read: the daemon is not disturbed. `verify` ends with 0 when the journal is
whole, 1 when it is damaged, 4 when it is whole but says itself that ticks are missing.
"""

import argparse
import heapq
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.journal import record
from poolwright.journal.export import records, whole_file, write_lines, write_parquet
from poolwright.journal.query import KINDS, DecisionRow, JournalReader, NoteRow, RunRow
from poolwright.journal.verify import Report, verify

DEFAULT_JOURNAL = Path("/var/lib/poolwright/journal.db")
EXIT_DAMAGED = 1
EXIT_GAPS = 4
_TOLD = ("advice", "holdout", "events", "guard_trips")
_AGO_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Row = DecisionRow | NoteRow


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "journal", help="list, show, export or verify what happened", description=__doc__
    )
    actions = parser.add_subparsers(dest="journal_action", metavar="ACTION", required=True)
    listed = _action(actions, "list", "notable decisions and the daemon's notes, newest last")
    _filters(listed, limit=50)
    listed.add_argument(
        "--kind", choices=(*KINDS, "note"), metavar="KIND",
        help=f"only these: {', '.join(KINDS)}, note",
    )  # fmt: skip
    listed.add_argument("--json", action="store_true", help="JSON lines")
    shown = _action(actions, "show", "one decision, whole")
    which = shown.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", type=int, metavar="ID", help="as `list` shows it")
    which.add_argument("--tick", type=int, help="any tick that is kept, notable or not")
    shown.add_argument("--run", dest="run_id", type=int, help="the run of --tick (default: last)")
    shown.add_argument("--pool", help="the pool of --tick")
    shown.add_argument("--json", action="store_true")
    exported = _action(actions, "export", "runs, ticks, decisions and notes, for programs")
    _filters(exported, limit=None)
    exported.add_argument(
        "--format", choices=("jsonl", "parquet"), default="jsonl",
        help="jsonl: every record, whole; parquet: one row a tick (default: %(default)s)",
    )  # fmt: skip
    exported.add_argument(
        "--out", default="-", metavar="FILE", help="written whole or not at all; - is stdout"
    )
    verified = _action(actions, "verify", "check every hash and every record")
    verified.add_argument("--json", action="store_true")
    parser.set_defaults(func=run)


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
    parser.add_argument(
        "--journal", type=Path, default=DEFAULT_JOURNAL, metavar="PATH",
        help="(default: %(default)s)",
    )  # fmt: skip
    return parser


def _filters(parser: argparse.ArgumentParser, limit: int | None) -> None:
    parser.add_argument("--pool")
    parser.add_argument(
        "--since", type=since, default=0, metavar="WHEN",
        help="15m, 2h, 1d ago, or 2026-11-21T07:00 (UTC unless said)",
    )  # fmt: skip
    parser.add_argument(
        "--limit",
        type=_count,
        default=limit,
        metavar="N",
        help="the newest N (default: %(default)s)",
    )


def since(text: str) -> int:
    """Wall nanoseconds of a moment, as a person writes it."""
    ago = re.fullmatch(r"(\d+)([smhd])", text)
    if ago:
        return time.time_ns() - int(ago[1]) * _AGO_S[ago[2]] * 10**9
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 2h nor 2026-11-21T07:00") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1e9)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"a count is at least 1, not {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Do what was asked; PlantFault when the journal cannot be read or has no such thing."""
    with JournalReader(args.journal) as reader:
        if args.journal_action == "verify":
            return _verify(reader, args.json)
        with reader.one_moment():
            if args.journal_action == "list":
                _list(reader, args)
            elif args.journal_action == "show":
                _show(reader, args)
            else:
                _export(reader, args)
    return 0


def _list(reader: JournalReader, args: argparse.Namespace) -> None:
    """Decisions in their order, and the daemon's notes where they fall among them."""
    of = {"since_wall_ns": args.since, "limit": args.limit}
    kind = args.kind
    rows = [] if kind == "note" else reader.decisions(args.pool, kind=kind, **of)
    notes = reader.notes(pool=args.pool, **of) if kind in (None, "note", "policy") else []
    if kind == "policy":
        notes = [note for note in notes if note.kind.startswith("policy")]
    both: tuple[list[Row], list[Row]] = ([*rows], [*notes])
    items = list(heapq.merge(*both, key=lambda item: item.wall_ns))[-(args.limit or 0) :]
    if args.json:
        for item in items:
            print(msgspec.json.encode(_plain(reader, item)).decode())
    elif not items:
        print("nothing of that kind" if kind else "no decisions")
    else:
        _table(reader, items)


def _plain(reader: JournalReader, item: Row) -> dict[str, Any]:
    """The row, and of a decision what it told: advice, holdout, events, guard trips."""
    found: dict[str, Any] = msgspec.to_builtins(item)
    if isinstance(item, DecisionRow):
        told = _told(reader, item)
        found |= {name: told[name] for name in _TOLD if told.get(name)}
    return found


def _told(reader: JournalReader, row: DecisionRow) -> dict[str, Any]:
    """The decision as plain data, whatever release wrote it."""
    try:
        body: dict[str, Any] = msgspec.json.decode(reader.body(row.id))
    except (record.UnknownRecord, msgspec.DecodeError) as error:
        return {"events": [f"unreadable: {error}"]}
    return body


def _table(reader: JournalReader, items: list[Row]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only when a table is drawn
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    heads = ("id", "time", "pool", "run", "tick", "phase", "action", "setting", "reason", "window")
    for head in heads:
        table.add_column(head, no_wrap=True)
    table.add_column("told", overflow="fold")
    for item in items:
        if isinstance(item, NoteRow):
            blank = [""] * 3
            table.add_row("", moment(item.wall_ns), item.pool or "-", str(item.run), *blank,
                          "", item.kind, "", item.text)  # fmt: skip
            continue
        window = "" if item.observed is None else item.observed
        table.add_row(
            str(item.id), moment(item.wall_ns), item.pool, str(item.run), str(item.tick),
            item.phase, f"{item.action}{' (moves)' if item.moves else ''}", item.setting or "-",
            item.reason, f"{window} breached" if item.breached else window,
            "; ".join(_words(item, _told(reader, item))),
        )  # fmt: skip
    # Into a pipe nothing is cut off to fit a width.
    Console(width=None if sys.stdout.isatty() else 400, highlight=False, markup=False).print(table)


def _words(row: DecisionRow, told: dict[str, Any]) -> Iterator[str]:
    """What people want to know of a decision beside its columns."""
    for command in row.commands:
        what = [command["kind"]]
        if command.get("setting"):
            what.append(_levels(command["setting"]))
        if command.get("advice_id"):
            what.append(f"advice {command['advice_id']}")
        why = f": {command['why']}" if command.get("why") else ""
        yield f"{' '.join(what)} by {command.get('who') or 'somebody'}{why}"
    advice, holdout = told.get("advice"), told.get("holdout")
    if advice and "advice" in row.kinds:
        gain = f", {advice['gain']['mean']:.1%} better" if advice.get("gain") else ""
        yield (f"advice {advice['id']}: {_levels(advice['setting'])} instead of"
               f" {_levels(advice['replaces'])}{gain}")  # fmt: skip
    if holdout:
        tuned, baseline = _levels(holdout["tuned"]), _levels(holdout["baseline"])
        yield (f"{tuned} is {holdout['gain_ratio']:.1%} better than the baseline {baseline}"
               f" at {holdout['load_rps']:.0f} rps")  # fmt: skip
    if "guard" in row.kinds and told.get("guard_trips"):
        yield f"tripped: {', '.join(told['guard_trips'])}"
    if not row.commands:  # they tell of the same
        yield from told.get("events", ())


def _levels(levels: dict[str, Any]) -> str:
    return " ".join(f"{knob}={level}" for knob, level in levels["levels"])


def moment(wall_ns: int) -> str:
    """A wall time for people, in UTC."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _show(reader: JournalReader, args: argparse.Namespace) -> None:
    shown: dict[str, Any]
    if args.id is not None:
        row = reader.decision(args.id)
        if row is None:
            raise PlantFault(f"{reader.path}: no decision {args.id}")
        shown = {"row": row, "decision": msgspec.Raw(reader.body(args.id))}
        run_id, tick = row.run, row.tick
        line = next(reader.lines(run_id, tick), None)  # gone when retention dropped the ticks
    else:
        run_id, tick = _run_of(reader, args).id, args.tick
        shown = {}
        line = next(reader.lines(run_id, tick), None)
        if line is None:
            raise PlantFault(f"{reader.path}: run {run_id} has no tick {tick}")
    if line is not None:
        shown |= _tick_shown(reader, run_id, tick, required=args.id is None)
    shown["intents"] = [i for i in reader.intents(run_id) if i.tick == tick]
    data = msgspec.json.encode(shown)
    print((data if args.json else msgspec.json.format(data, indent=2)).decode())


def _tick_shown(reader: JournalReader, run_id: int, tick: int, *, required: bool) -> dict[str, Any]:
    step = reader.step(run_id, tick)
    if step is None:
        if required:
            raise PlantFault(f"{reader.path}: run {run_id} has no tick {tick}")
        return {}
    return {
        "tick": msgspec.Raw(record.encode(step.tick)),
        "decision": msgspec.Raw(record.encode(step.decision)),
    }


def _run_of(reader: JournalReader, args: argparse.Namespace) -> RunRow:
    if args.run_id is not None:
        return reader.run(args.run_id)
    runs = reader.runs(args.pool)
    if not runs:
        of = "" if args.pool is None else f" of pool {args.pool}"
        raise PlantFault(f"{reader.path}: no run{of}")
    return runs[-1]


def _export(reader: JournalReader, args: argparse.Namespace) -> None:
    """Write what is kept. PolicyError for Parquet into a pipe, PlantFault as `whole_file`."""
    which = (args.pool, args.since, args.limit)
    if args.format == "jsonl" and args.out == "-":
        write_lines(sys.stdout.buffer, records(reader, *which))
        return
    if args.out == "-":
        raise PolicyError("a Parquet file has its index at its end: give it a name with --out FILE")
    with whole_file(Path(args.out)) as out:
        if args.format == "parquet":
            count, what = write_parquet(out, reader, *which), "ticks"
        else:
            count, what = write_lines(out, records(reader, *which)), "records"
    print(f"{args.out}: {count} {what}", file=sys.stderr)


def _verify(reader: JournalReader, as_json: bool) -> int:
    report = verify(reader)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _print_report(reader.path, report)
    if report.damage:
        return EXIT_DAMAGED
    return EXIT_GAPS if report.gaps else 0


def _print_report(path: Path, report: Report) -> None:
    for text in report.damage:
        print(f"damaged: {text}")
    for gap in report.gaps:
        print(
            f"gap: run {gap.run}: {gap.ticks} ticks from {gap.first_tick} to {gap.last_tick}"
            f" are missing: {gap.reason}"
        )
    dropped = f", {report.dropped_batches} batches dropped by retention"
    print(
        f"{path}: {report.runs} runs, {report.batches} batches, {report.ticks} ticks"
        f"{dropped if report.dropped_batches else ''}: "
        f"{f'{len(report.damage)} faults' if report.damage else 'whole'}"
        f"{' but for the gaps above' if report.gaps and not report.damage else ''}"
    )
