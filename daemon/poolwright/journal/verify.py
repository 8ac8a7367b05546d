"""Whether a journal is whole: every batch chained, every record readable, every table agreeing."""

from dataclasses import dataclass

from poolwright.core.errors import PlantFault
from poolwright.core.model import Decision
from poolwright.journal import record
from poolwright.journal.query import BatchRow, DecisionRow, Gap, JournalReader, RunRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `verify` found. `damage` empty: whole, but for the gaps that the journal itself told."""

    runs: int
    batches: int
    ticks: int
    dropped_batches: int  # by retention, in order
    damage: tuple[str, ...]
    gaps: tuple[Gap, ...]


def verify(reader: JournalReader) -> Report:
    """Read everything, as of one moment. PlantFault when the file cannot be read at all."""
    damage: list[str] = []
    gaps: list[Gap] = []
    batches = ticks = dropped = 0
    with reader.one_moment():
        damage += [f"the file: {text}" for text in reader.quick_check()]
        runs = reader.runs()
        for run in runs:
            checked = _Run(reader, run)
            checked.check()
            damage += checked.damage
            batches += checked.batches
            ticks += checked.ticks
            dropped += run.kept_seq
            gaps += reader.gaps(run.id)
    return Report(
        runs=len(runs),
        batches=batches,
        ticks=ticks,
        dropped_batches=dropped,
        damage=tuple(damage),
        gaps=tuple(gaps),
    )


class _Run:
    """The checks of one run."""

    def __init__(self, reader: JournalReader, run: RunRow) -> None:
        self._reader = reader
        self._run = run
        self._rows: dict[int, DecisionRow] = {}
        self._last_tick: int | None = None
        self._dictionary: bytes | None = None
        self.damage: list[str] = []
        self.batches = 0
        self.ticks = 0

    def check(self) -> None:
        """Fill `damage`."""
        self._check_start()
        self._rows = {row.tick: row for row in self._reader.decisions_of_run(self._run.id)}
        self._dictionary = self._reader.dictionary(self._run.id)
        intents = {intent.tick for intent in self._reader.intents(self._run.id)}
        head, seq = self._run.kept_hash, self._run.kept_seq
        first_kept: int | None = None
        for batch in self._reader.batches(self._run.id):
            first_kept = batch.first_tick if first_kept is None else first_kept
            if batch.seq != seq:
                self._say(f"batches {seq} to {batch.seq - 1} are missing")
            elif record.chain(head, batch.header, batch.blob) != batch.hash:
                self._say(f"batch {batch.seq} (ticks {batch.first_tick} to {batch.last_tick}) is"
                          " changed, or the one before it is")  # fmt: skip
            head, seq = batch.hash, batch.seq + 1
            self._check_batch(batch, intents)
        if seq != self._run.head_seq:
            self._say(f"batches {seq} to {self._run.head_seq - 1} are missing")
        elif head != self._run.head_hash:
            self._say("the last batch is not the one that was written last")
        if first_kept is not None:
            self._check_left_over(first_kept)

    def _check_start(self) -> None:
        policy, resume = self._reader.start_bytes(self._run.id)
        try:
            self._reader.start_of(self._run.id)
        except record.UnknownRecord as error:
            self._say(f"its beginning: {error}")
        if self._run.kept_seq == 0:
            began = (self._run.pool, self._run.began_wall_ns, policy, resume or b"")
            if record.genesis(*began) != self._run.kept_hash:
                self._say("its beginning (pool, time, policy or resume) is changed")

    def _check_batch(self, batch: BatchRow, intents: set[int]) -> None:
        self.batches += 1
        try:
            lines = record.unpack(batch.blob, self._dictionary)
        except record.UnknownRecord as error:
            self._say(f"batch {batch.seq}: {error}")
            return
        self.ticks += len(lines)
        if len(lines) != batch.ticks:
            self._say(f"batch {batch.seq} has {len(lines)} ticks, not {batch.ticks}")
        for line in lines:
            try:
                step = self._reader.with_plan(self._run.id, record.decode_line(line))
            except record.UnknownRecord as error:
                self._say(f"batch {batch.seq}: {error}")
                continue
            index = step.tick.index
            if self._last_tick is not None and index <= self._last_tick:
                self._say(f"tick {index} comes after tick {self._last_tick}")
            self._last_tick = index
            if step.decision.moves and index not in intents:
                self._say(f"tick {index} moves, and its intent is missing")
            self._check_row(index, step.decision)

    def _check_row(self, tick: int, decision: Decision) -> None:
        row = self._rows.pop(tick, None)
        if row is None:
            if decision.moves or decision.observation is not None:
                self._say(f"the decision of tick {tick} is missing from the list")
            return
        shown = (row.phase, row.action, row.reason, row.moves)
        written = (decision.phase, decision.action, decision.reason, decision.moves)
        try:
            # Through the present types on both sides: a field may have been added since.
            body = record.encode(self._reader.full_decision(row.id))
            same = shown == written and body == record.encode(decision)
        except PlantFault as error:
            self._say(f"decision {row.id}: {error}")
            return
        if not same:
            self._say(f"decision {row.id} (tick {tick}) is not the one that was made in its tick")

    def _check_left_over(self, first_kept: int) -> None:
        """Rows that no tick stands behind, of ticks that should still be there."""
        for row in self._rows.values():
            if row.tick >= first_kept:
                self._say(f"decision {row.id} is of tick {row.tick}, which is missing")

    def _say(self, text: str) -> None:
        self.damage.append(f"run {self._run.id} ({self._run.pool}): {text}")
