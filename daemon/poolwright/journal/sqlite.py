"""The journal in one SQLite file: the writing side.

WAL mode, one writer (`lock.py`), any number of readers (`query.py`). Two strengths of commit:
ticks are written in batches with `synchronous = NORMAL` (a power cut may take the last seconds,
kill -9 only what is in memory), while whatever must be known after any crash (a run's begin and
end, an intent, a note, a pool's baseline, what an operator settled) commits with
`synchronous = FULL`, which also makes every earlier commit durable.

On opening after a crash SQLite replays its own log; no full check is run, since that takes seconds
a gigabyte and the daemon should be guarding. `last_resume` checks the newest batch of the pool and
says what it found; `verify.py` checks everything when asked.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, Decision, Resume, Setting, Tick
from poolwright.core.policy import Policy
from poolwright.journal import record, retention, rows, schema
from poolwright.journal.lock import WriterLock
from poolwright.journal.pending import Entry, Pending
from poolwright.journal.resume import last_resume
from poolwright.journal.retention import Retention

HELD_TICKS_MAX = 600  # a run's ticks in memory while the file cannot be written
_BUSY_S = 2.0  # nobody else writes; a reader's checkpoint may hold us this long


class SqliteJournal:
    """ports.Journal over SQLite. Calls must not overlap.

    While the file cannot be written, `append` keeps the tick (up to 600 a run, then the oldest
    are given up and a gap is recorded), raises PlantFault, and tries again at the next tick. A
    move in such a tick must not be made: it is later recorded as an intent that was refused.
    """

    def __init__(
        self,
        path: Path,
        *,
        batch_ticks: int = 10,
        max_age_s: float | None = retention.MAX_AGE_S,
        max_bytes: int | None = retention.MAX_BYTES,
    ) -> None:
        """Open or create. PlantFault: another writer, not a journal, a later release's, no space.

        A file that is refused is not touched.
        """
        if batch_ticks < 1:
            raise ValueError(f"a batch has at least one tick, not {batch_ticks}")
        self.path = path
        self._batch_ticks = batch_ticks
        self._keep = Retention(max_age_s=max_age_s, max_bytes=max_bytes)
        self._runs: dict[int, Pending] = {}
        self._flushes = 0
        self._synchronous = ""
        if _holds_something(path):
            schema.connect_read_only(path).close()
        self._lock = WriterLock(path)
        try:
            self._db: sqlite3.Connection | None = self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            if not _holds_something(self.path):
                schema.create(self.path)
            db = sqlite3.connect(
                self.path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise PlantFault(f"{self.path}: cannot open the journal: {error}") from error
        try:
            db.execute("PRAGMA cache_size = -512")
            db.execute("PRAGMA journal_size_limit = 4194304")
            schema.migrate(db, self.path)
        except sqlite3.Error as error:
            db.close()
            raise PlantFault(f"{self.path}: cannot open the journal: {error}") from error
        except BaseException:
            db.close()
            raise
        return db

    def begin_run(self, pool: str, policy: Policy, resume: Resume, wall_ns: int) -> int:
        """Open a run, durably; its id.

        `resume.baseline` and `.last_safe`, when given, become the pool's, and `.kept` always.
        """
        policy_blob, resume_blob = record.squeeze(policy), record.squeeze(resume)
        genesis = record.genesis(pool, wall_ns, policy_blob, resume_blob)
        with self._transaction(durable=True) as db:
            row = db.execute(
                "INSERT INTO runs (pool, policy_name, began_wall_ns, policy, resume, head_hash,"
                " kept_hash) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (pool, policy.name, wall_ns, policy_blob, resume_blob, genesis, genesis),
            ).fetchone()
            db.execute("INSERT OR IGNORE INTO pools (pool) VALUES (?)", (pool,))
            for column, level in (("baseline", resume.baseline), ("last_safe", resume.last_safe)):
                if level is not None:
                    rows.set_pool(db, pool, column, level)
            rows.set_pool(db, pool, "kept", resume.kept)
            known = db.execute("SELECT baseline FROM pools WHERE pool = ?", (pool,)).fetchone()
        for earlier in self._runs.values():
            if earlier.pool == pool:
                earlier.kept = None
        run_id = int(row[0])
        self._runs[run_id] = Pending(
            id=run_id,
            pool=pool,
            head_hash=genesis,
            baseline_known=known[0] is not None,
            # The first batches differ in length, so that not all pools write in the same slot.
            due=self._batch_ticks - (run_id - 1) % self._batch_ticks,
        )
        return run_id

    def append(self, run_id: int, tick: Tick, decision: Decision) -> None:
        """Keep a tick and its decision; durable, with an intent, when the decision moves something,
        and when it has `kept` something.

        The first applied level ever read back of a pool becomes its baseline, durably.
        """
        run = self._runs[run_id]
        run.add(tick, decision, HELD_TICKS_MAX)
        baseline = None
        if not run.baseline_known and tick.applied is not None:
            baseline = tick.applied.setting
        durable = decision.moves or baseline is not None or run.kept is not None
        if not (durable or run.failing or len(run.entries) >= run.due):
            return
        try:
            self._flush_run(run, durable=durable, baseline=baseline)
        except PlantFault:
            if decision.moves:
                run.refused.add(tick.index)
            raise
        if self._flushes >= retention.EVERY_FLUSHES and not decision.moves:
            self._flushes = 0
            self._prune()

    def close_intent(self, run_id: int, actuation: Actuation, wall_ns: int) -> None:
        """What became of an intent, also of an earlier run. A pending actuation leaves it open.

        When the file cannot be written, the news is kept and written with the next flush.
        """
        run = self._runs.get(run_id)
        if run is not None and actuation.decision_tick in run.refused:
            return  # it will be written as refused
        with self._reading() as db:
            known = db.execute(
                "SELECT 1 FROM intents WHERE run = ? AND tick = ?",
                (run_id, actuation.decision_tick),
            ).fetchone()
        if known is None:
            raise PlantFault(
                f"{self.path}: run {run_id} has no intent of tick {actuation.decision_tick}"
            )
        if run is None:
            with self._transaction(durable=True) as db:
                rows.close_intent(db, run_id, actuation, wall_ns)
        else:
            run.closes.append((actuation, wall_ns))
            self._flush_run(run, durable=False)

    def open_intents(self, pool: str) -> Sequence[tuple[int, int, Setting]]:
        """Intents that were never closed: (run_id, tick, setting), oldest first."""
        with self._reading() as db:
            found = db.execute(
                "SELECT run, tick, setting FROM intents WHERE pool = ? AND closed_wall_ns IS NULL"
                " ORDER BY run, tick",
                (pool,),
            ).fetchall()
        return [(run, tick, record.decode(text, Setting)) for run, tick, text in found]

    def note(self, run_id: int, wall_ns: int, kind: str, text: str) -> None:
        """Keep an event of the daemon itself, durably."""
        with self._transaction(durable=True) as db:
            db.execute(
                "INSERT INTO notes (run, wall_ns, kind, text) VALUES (?, ?, ?, ?)",
                (run_id, wall_ns, kind, text),
            )

    def flush(self) -> None:
        """Make durable what is batched. Every run is tried; the first failure is raised."""
        failure: PlantFault | None = None
        for run in self._runs.values():
            try:
                self._flush_run(run, durable=True)
            except PlantFault as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def end_run(self, run_id: int, reason: str, wall_ns: int) -> None:
        """Close a run, durably; on PlantFault it stays open and may be closed again.

        One that was opened for another policy and never entered leaves nothing: else the pool's
        newest run would not be the one that goes on.
        """
        run = self._runs[run_id]
        goes_on = any(other.pool == run.pool and other.id < run.id for other in self._runs.values())
        self._flush_run(run, durable=False)
        with self._transaction(durable=True) as db:
            if run.last_tick is None and goes_on:
                db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
            else:
                db.execute(
                    "UPDATE runs SET ended_wall_ns = ?, end_reason = ? WHERE id = ?",
                    (wall_ns, reason, run_id),
                )
        del self._runs[run_id]

    def last_resume(self, pool: str) -> Resume | None:
        """What a new run of `pool` may start from; None when the journal does not know the pool."""
        with self._reading() as db:
            return last_resume(db, pool)

    def close(self) -> None:
        """Flush and close. May be called twice. On PlantFault all is closed nevertheless."""
        if self._db is None:
            return
        try:
            self.flush()
        finally:
            db, self._db = self._db, None
            db.close()
            self._lock.release()

    def _flush_run(self, run: Pending, *, durable: bool, baseline: Setting | None = None) -> None:
        """Write everything that is pending of one run; what was written leaves the memory.

        A backlog goes a batch at a time, so that while the disk is full a try costs one batch.
        """
        run.failing = True
        while len(run.entries) > self._batch_ticks:
            self._write_part(run, durable=False, baseline=None)
        if run.entries or run.closes or run.gap or durable:
            self._write_part(run, durable=durable, baseline=baseline)
        run.failing = False
        run.due = self._batch_ticks
        run.baseline_known = run.baseline_known or baseline is not None

    def _write_part(self, run: Pending, *, durable: bool, baseline: Setting | None) -> None:
        """One transaction: the oldest pending ticks, up to a batch, with all that they bring."""
        entries = list(islice(run.entries, self._batch_ticks))
        whole = len(entries) == len(run.entries)
        head = run.head_hash
        with self._transaction(durable=durable) as db:
            if run.gap is not None:
                db.execute(
                    "INSERT INTO gaps VALUES (?, ?, ?, ?, ?)",
                    (run.id, *run.gap, "the journal could not be written"),
                )
            if entries:
                head = self._write_batch(db, run, entries)
            if whole:  # an intent is in the file before its end is
                for actuation, wall_ns in run.closes:
                    rows.close_intent(db, run.id, actuation, wall_ns)
            if baseline is not None:
                rows.set_pool(db, run.pool, "baseline", baseline)
            if run.kept is not None:
                rows.set_pool(db, run.pool, "kept", run.kept)
        if run.next_seq == 0 and entries:
            run.dictionary = entries[-1].line
        run.gap = run.kept = None
        run.head_hash = head
        run.next_seq += bool(entries)
        for entry in entries:
            run.entries.popleft()
            run.refused.discard(entry.tick)
        if whole:
            run.closes.clear()
        self._flushes += 1

    def _write_batch(self, db: sqlite3.Connection, run: Pending, entries: list[Entry]) -> str:
        """The batch, its rows and intents; the hash it leaves at the head of the chain."""
        blob = record.pack([entry.line for entry in entries], run.dictionary)
        header = (
            run.id, run.next_seq, len(entries), entries[0].tick, entries[-1].tick,
            entries[0].wall_ns, entries[-1].wall_ns,
        )  # fmt: skip
        head = record.chain(run.head_hash, header, blob)
        db.execute(
            "INSERT INTO batches (run, seq, ticks, first_tick, last_tick, first_wall_ns,"
            " last_wall_ns, hash, blob) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*header, head, blob),
        )
        db.execute(
            "UPDATE runs SET head_seq = ?, head_hash = ? WHERE id = ?",
            (run.next_seq + 1, head, run.id),
        )
        if run.next_seq == 0:
            line = entries[-1].line
            db.execute("UPDATE runs SET dictionary = ? WHERE id = ?", (line, run.id))
        for entry in entries:
            rows.write_entry(db, run, entry)
        return head

    def _prune(self) -> None:
        newest = self._newest_wall_ns()
        if newest is not None:
            with self._transaction(durable=False) as db:
                retention.prune(db, self._keep, newest)
            with self._reading() as db:
                retention.shrink(db)

    def _newest_wall_ns(self) -> int | None:
        with self._reading() as db:
            row = db.execute("SELECT last_wall_ns FROM batches ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            raise PlantFault(f"{self.path}: the journal is closed")
        try:
            yield self._db
        except sqlite3.Error as error:
            raise PlantFault(f"{self.path}: cannot read the journal: {error}") from error

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing. PlantFault, naming the file, when it fails."""
        db = self._db
        if db is None:
            raise PlantFault(f"{self.path}: the journal is closed")
        try:
            level = "FULL" if durable else "NORMAL"
            if level != self._synchronous:
                db.execute(f"PRAGMA synchronous = {level}")
                self._synchronous = level
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(db)
            raise PlantFault(f"{self.path}: cannot write the journal: {error}") from error
        except BaseException:
            _roll_back(db)
            raise


def _holds_something(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PlantFault(f"{path}: cannot open the journal: {error}") from error


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # SQLite itself rolls back after some I/O errors
        db.execute("ROLLBACK")
