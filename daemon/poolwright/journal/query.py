"""Reading a journal, also one that a daemon is writing: read-only, and never in its way."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from poolwright.core.errors import PlantFault
from poolwright.core.model import Decision, Plan, Resume
from poolwright.core.policy import Policy
from poolwright.journal import record, schema
from poolwright.journal.found import BatchRow, DecisionRow, Gap, IntentRow, NoteRow, RunRow
from poolwright.journal.record import Step
from poolwright.journal.resume import last_resume

__all__ = [
    "KINDS",
    "BatchRow",
    "DecisionRow",
    "Gap",
    "IntentRow",
    "JournalReader",
    "NoteRow",
    "RunRow",
]

_DECISION = (
    "SELECT id, run, pool, tick, wall_ns, phase, action, reason, setting, moves, observed,"
    " breached, plan_version, kinds, commands FROM decisions"
)


_LATEST_NS = 2**63 - 1  # SQLite's integers

# What a decision is notable for.
KINDS = ("advice", "command", "guard", "holdout", "move", "phase", "plan", "policy", "window")


class JournalReader:
    """Questions to one journal file. Every method raises PlantFault when it cannot be read."""

    def __init__(self, path: Path, db: sqlite3.Connection | None = None) -> None:
        """Open read-only, unless it is open already as `db`.

        PlantFault: not there, not a journal, a later release's.
        """
        self.path = path
        self.db = schema.connect_read_only(path) if db is None else db

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.db.close()

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """Everything read inside is of one moment, whatever a daemon writes meanwhile."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    def runs(self, pool: str | None = None) -> list[RunRow]:
        """All runs, oldest first."""
        columns = (
            "SELECT id, pool, policy_name, began_wall_ns, ended_wall_ns, end_reason, head_seq,"
            " head_hash, kept_seq, kept_hash FROM runs WHERE ?1 IS NULL OR pool = ?1 ORDER BY id"
        )
        return [RunRow(**row) for row in self._rows(columns, pool)]

    def run(self, run: int) -> RunRow:
        """One run; PlantFault when the journal does not have it."""
        for row in self.runs():
            if row.id == run:
                return row
        raise PlantFault(f"{self.path}: no run {run}")

    def start_of(self, run: int) -> tuple[Policy, Resume | None]:
        """The policy of a run and what it resumed from; None when retention has dropped that."""
        row = self._rows("SELECT policy, resume FROM runs WHERE id = ?", run)[0]
        found = None if row["resume"] is None else record.unsqueeze(row["resume"], Resume)
        return record.unsqueeze(row["policy"], Policy), found

    def known_of(self, pool: str) -> Resume | None:
        """What a new run of `pool` would start from; None: the journal does not know it."""
        try:
            return last_resume(self.db, pool)
        except sqlite3.Error as error:
            raise PlantFault(f"{self.path}: cannot be read: {error}") from error

    def last_step(self, run: int) -> Step | None:
        """The newest tick that is kept of a run, with its decision."""
        headers = self.headers(run)
        steps = self.steps(run, headers[-1].last_tick) if headers else iter(())
        return next(steps, None)

    def start_bytes(self, run: int) -> tuple[bytes, bytes | None]:
        """What `start_of` reads, undecoded."""
        row = self._rows("SELECT policy, resume FROM runs WHERE id = ?", run)[0]
        return row["policy"], row["resume"]

    def decisions(
        self,
        pool: str | None = None,
        *,
        kind: str | None = None,
        since_wall_ns: int = 0,
        limit: int | None = None,
    ) -> list[DecisionRow]:
        """Notable decisions, oldest first; with a limit, the newest so many. `kind`: of `KINDS`."""
        rows = self._rows(
            f"{_DECISION} WHERE (?1 IS NULL OR pool = ?1) AND wall_ns >= ?2"
            " AND (?4 IS NULL OR instr(kinds, ' ' || ?4 || ' ')) ORDER BY id DESC LIMIT ?3",
            pool, since_wall_ns, -1 if limit is None else limit, kind,
        )  # fmt: skip
        return [_decision(row) for row in reversed(rows)]

    def decisions_of_run(self, run: int) -> list[DecisionRow]:
        """The notable decisions of a run, oldest first."""
        return [_decision(r) for r in self._rows(f"{_DECISION} WHERE run = ? ORDER BY id", run)]

    def decisions_after(self, run: int, tick: int, *, limit: int) -> list[DecisionRow]:
        """The next notable decisions of a run that moved something or closed a window."""
        rows = self._rows(
            f"{_DECISION} WHERE run = ? AND tick > ? AND (moves OR observed IS NOT NULL)"
            " ORDER BY tick LIMIT ?",
            run, tick, limit,
        )  # fmt: skip
        return [_decision(row) for row in rows]

    def newest_decision(
        self, pool: str, *, until_wall_ns: int | None = None, moves: bool = False
    ) -> DecisionRow | None:
        """The newest notable decision of a pool, at a time, or that moved something."""
        rows = self._rows(
            f"{_DECISION} WHERE pool = ? AND wall_ns <= ? AND moves >= ?"
            " ORDER BY wall_ns DESC, id DESC LIMIT 1",
            pool, _LATEST_NS if until_wall_ns is None else until_wall_ns, moves,
        )  # fmt: skip
        return _decision(rows[0]) if rows else None

    def decision(self, decision: int) -> DecisionRow | None:
        """One notable decision by its id."""
        rows = self._rows(f"{_DECISION} WHERE id = ?", decision)
        return _decision(rows[0]) if rows else None

    def body(self, decision: int) -> bytes:
        """The JSON of a notable decision, as written."""
        rows = self._rows("SELECT body FROM decisions WHERE id = ?", decision)
        if not rows:
            raise PlantFault(f"{self.path}: no decision {decision}")
        return record.unsqueezed(rows[0]["body"])

    def full_decision(self, decision: int) -> Decision:
        """A notable decision, whole but for its FitRequest."""
        return record.decode(self.body(decision), Decision)

    def plan_blob(self, run: int, tick: int) -> bytes | None:
        """The plan that arrived in a tick, compressed; None when there is none (any more)."""
        rows = self._rows("SELECT blob FROM plans WHERE run = ? AND tick = ?", run, tick)
        return rows[0]["blob"] if rows else None

    def plan_before(self, run: int, tick: int) -> Plan | None:
        """The newest plan that had arrived in a run by `tick`."""
        rows = self._rows(
            "SELECT blob FROM plans WHERE run = ? AND tick <= ? ORDER BY tick DESC LIMIT 1",
            run, tick,
        )  # fmt: skip
        return record.decode_plan(rows[0]["blob"]) if rows else None

    def batches(self, run: int, first_tick: int | None = None) -> Iterator[BatchRow]:
        """The batches of a run in order, from the one that holds `first_tick` on."""
        yield from self._batches_after(
            run, -1 if first_tick is None else self._seq_before(run, "last_tick", first_tick)
        )

    def _batches_after(self, run: int, seq: int) -> Iterator[BatchRow]:
        while True:
            rows = self._rows(
                "SELECT * FROM batches WHERE run = ? AND seq > ? ORDER BY seq LIMIT 16", run, seq
            )
            if not rows:
                return
            for row in rows:
                yield BatchRow(**row)
            seq = int(rows[-1]["seq"])

    def _seq_before(self, run: int, end: str, at: int) -> int:
        """The newest batch whose `end` is before `at`. It ascends with seq: no index is needed."""
        ends = self._rows(
            "SELECT min(seq) AS low, max(seq) AS high FROM batches WHERE run = ?", run
        )
        low, high = ends[0]["low"] or 0, (ends[0]["high"] or 0) + 1
        while low < high:
            middle = (low + high) // 2
            batch = self._rows(
                "SELECT seq, last_tick, last_wall_ns FROM batches WHERE run = ? AND seq >= ?"
                " ORDER BY seq LIMIT 1",
                run, middle,
            )  # fmt: skip
            if not batch or batch[0][end] >= at:
                high = middle
            else:
                low = batch[0]["seq"] + 1
        return low - 1

    def headers(self, run: int) -> list[BatchRow]:
        """The batches of a run in order, without their blobs."""
        rows = self._rows(
            "SELECT id, run, seq, ticks, first_tick, last_tick, first_wall_ns, last_wall_ns,"
            " hash, x'' AS blob FROM batches WHERE run = ? ORDER BY seq",
            run,
        )
        return [BatchRow(**row) for row in rows]

    def dictionary(self, run: int) -> bytes | None:
        """What all batches of a run but the first are compressed with; version 1 had none."""
        found: bytes | None = self._rows("SELECT dictionary FROM runs WHERE id = ?", run)[0][
            "dictionary"
        ]
        return found

    def lines(self, run: int, first_tick: int | None = None) -> Iterator[bytes]:
        """The lines of a run's kept ticks, undecoded; UnknownRecord where some are missing."""
        row = self.run(run)
        dictionary = self.dictionary(run)
        seq = row.kept_seq if first_tick is None else None
        for batch in self.batches(run, first_tick):
            if seq is not None and batch.seq != seq:
                raise record.UnknownRecord(
                    f"run {run}: batches {seq} to {batch.seq - 1} are missing"
                )
            yield from record.unpack(batch.blob, dictionary)
            seq = batch.seq + 1
        if seq is not None and seq < row.head_seq:
            raise record.UnknownRecord(
                f"run {run}: batches {seq} to {row.head_seq - 1} are missing"
            )

    def steps(self, run: int, first_tick: int | None = None) -> Iterator[Step]:
        """The kept ticks of a run with their decisions, in order, plans put back.

        UnknownRecord at the first one that cannot be read.
        """
        for line in self.lines(run, first_tick):
            step = record.decode_line(line)
            if first_tick is None or step.tick.index >= first_tick:
                yield self.with_plan(run, step)

    def steps_since(self, run: int, wall_ns: int) -> Iterator[Step]:
        """The kept ticks of a run from a time on (or up to a batch earlier), without their plans.

        UnknownRecord at the first one that cannot be read.
        """
        dictionary = self.dictionary(run)
        for batch in self._batches_after(run, self._seq_before(run, "last_wall_ns", wall_ns)):
            yield from map(record.decode_line, record.unpack(batch.blob, dictionary))

    def step(self, run: int, tick: int) -> Step | None:
        """One tick; None when the journal does not have it."""
        for step in self.steps(run, tick):
            return step if step.tick.index == tick else None
        return None

    def with_plan(self, run: int, step: Step) -> Step:
        """The step with its plan put back; UnknownRecord when that is missing or changed."""
        if not step.plan_digest:
            return step
        tick = step.tick
        blob = self.plan_blob(run, tick.index)
        if blob is None or record.digest(blob) != step.plan_digest:
            what = "missing" if blob is None else "changed"
            raise record.UnknownRecord(f"run {run}, tick {tick.index}: its plan is {what}")
        return replace(step, tick=replace(tick, plan=record.decode_plan(blob)))

    def gaps(self, run: int) -> list[Gap]:
        """Ticks that were given up, oldest first."""
        rows = self._rows("SELECT * FROM gaps WHERE run = ? ORDER BY first_tick", run)
        return [Gap(**row) for row in rows]

    def intents(self, run: int) -> list[IntentRow]:
        """The moves of a run, oldest first."""
        rows = self._rows(
            "SELECT run, tick, wall_ns, setting, status, closed_wall_ns, took_s, detail"
            " FROM intents WHERE run = ? ORDER BY tick",
            run,
        )
        return [IntentRow(**row) for row in rows]

    def notes(
        self,
        run: int | None = None,
        *,
        pool: str | None = None,
        since_wall_ns: int = 0,
        limit: int | None = None,
    ) -> list[NoteRow]:
        """Events of the daemon itself, oldest first; with a limit, the newest so many."""
        rows = self._rows(
            "SELECT n.run, r.pool, n.wall_ns, n.kind, n.text"
            " FROM notes n LEFT JOIN main.runs r ON r.id = n.run"
            " WHERE (?1 IS NULL OR n.run = ?1) AND (?2 IS NULL OR r.pool = ?2) AND n.wall_ns >= ?3"
            " ORDER BY n.id DESC LIMIT ?4",
            run, pool, since_wall_ns, -1 if limit is None else limit,
        )  # fmt: skip
        return [NoteRow(**row) for row in reversed(rows)]

    def quick_check(self) -> list[str]:
        """SQLite's own opinion of the file; empty when it has no complaint. Reads all of it."""
        rows = self._rows("PRAGMA quick_check(20)")
        return [text for row in rows if (text := str(row["quick_check"])) != "ok"]

    def _rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        try:
            cursor = self.db.execute(query, values)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except sqlite3.Error as error:
            raise PlantFault(f"{self.path}: cannot read the journal: {error}") from error


def _decision(row: dict[str, Any]) -> DecisionRow:
    read = {
        "moves": bool(row["moves"]),
        "breached": bool(row["breached"]),
        "kinds": tuple(row["kinds"].split()),
        "commands": tuple(json.loads(row["commands"] or "[]")),
    }
    return DecisionRow(**{**row, **read})
