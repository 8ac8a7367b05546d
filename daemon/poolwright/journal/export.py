"""A journal as JSON lines, whole, or as Parquet, one row a tick, for those who analyse.

Both stream: what is in memory at any time is one row group, however long the journal is. A file
appears under its name only when it is complete.
"""

import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from poolwright.core.errors import PlantFault
from poolwright.core.model import Observation, Reading, Setting
from poolwright.core.signals import RESPONSES, SIGNALS
from poolwright.core.sketch import Sketch
from poolwright.journal import record
from poolwright.journal.query import JournalReader, RunRow
from poolwright.journal.record import Step

ROWS = 4096  # of a row group: an hour, and about 10 MB while it is made
_QUANTILES = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))
_SKETCHED = ("latency_s", "service_time_s")

# Column -> (Arrow type, what it tells). A unit is the end of a name. null: not known.
COLUMNS: dict[str, tuple[str, str]] = {
    "run": ("int64", "the run, as `journal list` shows it"),
    "pool": ("string", "its pool"),
    "policy": ("string", "the name of its policy"),
    "tick": ("int64", "the tick's index in its run"),
    "time": ("timestamp[ns, tz=UTC]", "when, by the host's clock"),
    "phase": ("string", "what poolwright was about"),
    "action": ("string", "what the decision did"),
    "reason": ("string", "why"),
    "detail": ("string", "why, in words"),
    "moves": ("bool", "whether the actuator had to act"),
    "probing": ("bool", "away from the best known setting, to learn or to compare"),
    "guard_trips": ("string", "the guards that were tripped, between commas"),
    "clamps": ("string", "the rules that changed what was wanted, between commas"),
    "advice_id": ("string", "the advice that stood"),
    "plan_version": ("int64", "of the plan that arrived in this tick"),
    "actuation": ("string", "how the last move went, where this tick tells it"),
    "actuation_took_s": ("float64", "how long it took"),
    **{name: ("float64", spec.meaning) for name, spec in SIGNALS.items()},
    **{
        f"{signal.removesuffix('_s')}_{word}_s": ("float64", f"quantile of {signal} in the tick")
        for signal in _SKETCHED
        for word, _ in _QUANTILES
    },
    "window_s": ("float64", "length of the window that closed in this tick"),
    "window_load_rps": ("float64", "its load"),
    "window_breached": ("bool", "whether an objective was breached in it"),
    **{
        f"window_{response}": ("float64", f"{response} of that window")
        for response, unit in RESPONSES.items()
        if unit != "1/h"
    },
    **{
        f"window_{response}_error": ("float64", "the standard error of it")
        for response, unit in RESPONSES.items()
        if unit != "1/h"
    },
}
KNOB_COLUMNS: dict[str, tuple[str, str]] = {
    "applied_KNOB": ("int64", "the level that was read back; one column for each knob"),
    "commanded_KNOB": ("int64", "the level that the decision holds; one column for each knob"),
}

Item = dict[str, Any]


def records(
    reader: JournalReader, pool: str | None, since_ns: int, limit: int | None
) -> Iterator[Item]:
    """Every kept record with its `kind`, run by run; `limit` is of ticks a run."""
    for row in reader.runs(pool):
        policy, resume = reader.start_of(row.id)
        yield {"kind": "run", "run": row, "policy": policy, "resume": resume}
        for gap in reader.gaps(row.id):
            yield {"kind": "gap", "gap": gap}
        for intent in reader.intents(row.id):
            if intent.wall_ns >= since_ns:
                yield {"kind": "intent", "intent": intent}
        for note in reader.notes(row.id):
            if note.wall_ns >= since_ns:
                yield {"kind": "note", "note": note}
        for found in _steps(reader, row.id, since_ns, limit):
            if isinstance(found, Step):
                tick = {"tick": found.tick, "decision": found.decision}
                yield {"kind": "tick", "run": row.id, **tick}
            else:
                yield {"kind": "unreadable", "run": row.id, **found}


def write_lines(out: IO[bytes], items: Iterable[Item]) -> int:
    """One JSON object a line; how many."""
    count = 0
    for count, item in enumerate(items, start=1):  # noqa: B007 - the last one counts
        out.write(record.encode(item) + b"\n")
    return count


def write_parquet(
    out: IO[bytes], reader: JournalReader, pool: str | None, since_ns: int, limit: int | None
) -> int:
    """One row a tick, in row groups; how many rows. PlantFault without pyarrow."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise PlantFault("Parquet needs pyarrow: pip install 'poolwright[parquet]'") from error
    runs = reader.runs(pool)
    knobs = sorted({k.name for row in runs for k in reader.start_of(row.id)[0].knobs})
    columns = {**COLUMNS, **_of_knobs(knobs)}
    kinds = {"timestamp[ns, tz=UTC]": pa.timestamp("ns", tz="UTC")}
    schema = pa.schema(
        [
            pa.field(name, kinds.get(kind) or pa.type_for_alias(kind), metadata={"meaning": told})
            for name, (kind, told) in columns.items()
        ]
    )
    written = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for rows in _groups(_rows(reader, runs, since_ns, limit)):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            written += len(rows)
    return written


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when all is written, and leaves nothing when it is not.

    PlantFault where it cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise PlantFault(f"{path}: cannot be written: {error.strerror}") from error
    made = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        made.chmod(0o640)  # as the journal: the operator's, not everybody's
        made.replace(path)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise PlantFault(f"{path}: cannot be written: {error.strerror or error}") from error
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _groups(rows: Iterator[Item]) -> Iterator[list[Item]]:
    group: list[Item] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS:
            yield group
            group = []
    if group:
        yield group


def _rows(
    reader: JournalReader, runs: list[RunRow], since_ns: int, limit: int | None
) -> Iterator[Item]:
    for run in runs:
        for found in _steps(reader, run.id, since_ns, limit):
            if not isinstance(found, Step):
                raise PlantFault(
                    f"{reader.path}: run {run.id}: {found['why']}; --format jsonl gives it raw"
                )
            yield _row(run, found)


def _steps(
    reader: JournalReader, run: int, since_ns: int, limit: int | None
) -> Iterator[Step | Item]:
    """The kept ticks of a run, plans put back; in place of one that cannot be read, why."""
    first, skip = _from(reader, run, since_ns, limit)
    if first is None and (since_ns or limit is not None):
        return
    for i, line in enumerate(reader.lines(run, first)):
        if i < skip:
            continue
        try:
            step = reader.with_plan(run, record.decode_line(line))
        except record.UnknownRecord as error:
            yield {"why": str(error), "raw": record.raw_line(line)}
            continue
        if step.tick.wall_ns >= since_ns:
            yield step


def _from(
    reader: JournalReader, run: int, since_ns: int, limit: int | None
) -> tuple[int | None, int]:
    """The first tick of the first batch that is wanted, and how many of its lines are not."""
    if not since_ns and limit is None:
        return None, 0
    wanted: deque[tuple[int, int]] = deque()
    count = 0
    for batch in reader.batches(run):
        if batch.last_wall_ns < since_ns:
            continue
        wanted.append((batch.first_tick, batch.ticks))
        count += batch.ticks
        if limit is None:
            break
        while count - wanted[0][1] >= limit:
            count -= wanted.popleft()[1]
    if not wanted:
        return None, 0
    return wanted[0][0], 0 if limit is None else max(0, count - limit)


def _of_knobs(knobs: list[str]) -> dict[str, tuple[str, str]]:
    return {
        name.replace("KNOB", knob): (kind, told)
        for knob in knobs
        for name, (kind, told) in KNOB_COLUMNS.items()
    }


def _row(run: RunRow, step: Step) -> Item:
    tick, decision = step.tick, step.decision
    row: Item = {
        "run": run.id,
        "pool": run.pool,
        "policy": run.policy_name,
        "tick": tick.index,
        "time": tick.wall_ns,
        "phase": decision.phase,
        "action": decision.action,
        "reason": decision.reason,
        "detail": decision.detail or None,
        "moves": decision.moves,
        "probing": decision.probing,
        "guard_trips": ",".join(decision.guard_trips) or None,
        "clamps": ",".join(clamp.kind for clamp in decision.clamps) or None,
        "advice_id": None if decision.advice is None else decision.advice.id,
        "plan_version": None if tick.plan is None else tick.plan.version,
    }
    if tick.actuation is not None:
        row["actuation"] = tick.actuation.status
        row["actuation_took_s"] = tick.actuation.took_s
    row |= _levels("applied", None if tick.applied is None else tick.applied.setting)
    row |= _levels("commanded", decision.setting)
    row |= _seen(tick.readings)
    if decision.observation is not None:
        row |= _window(decision.observation)
    return row


def _levels(which: str, setting: Setting | None) -> Item:
    return {} if setting is None else {f"{which}_{knob}": level for knob, level in setting.levels}


def _seen(readings: tuple[Reading, ...]) -> Item:
    """Of a signal that several sources gave: the first."""
    row: Item = {}
    for reading in readings:
        if reading.value is None or reading.signal in row:
            continue
        row[reading.signal] = reading.value
        if reading.signal in _SKETCHED and reading.sketch is not None and reading.sketch.count:
            row |= _quantiles(reading.signal.removesuffix("_s"), reading.sketch)
    return row


def _quantiles(signal: str, seen: Sketch) -> Item:
    return {f"{signal}_{word}_s": seen.quantile(q) for word, q in _QUANTILES}


def _window(seen: Observation) -> Item:
    row: Item = {
        "window_s": seen.span_s,
        "window_load_rps": seen.context.load_rps,
        "window_breached": seen.breached,
    }
    for response, found in seen.responses:
        row[f"window_{response}"] = found.mean
        row[f"window_{response}_error"] = found.std
    return row
