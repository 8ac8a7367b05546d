"""What a run has in memory and not yet in the file."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from poolwright.core.model import Actuation, Decision, Kept, Setting, Tick
from poolwright.journal import record

NOT_MOVED = "the journal could not be written, so nothing was moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tick, encoded, with what it adds to the other tables."""

    tick: int
    wall_ns: int
    line: bytes
    decision: Decision | None  # when it is worth a row of its own
    kinds: str  # what makes it so: words, each between spaces
    commands: bytes | None  # of the tick, as JSON
    moves: Setting | None  # when it needs an intent
    plan: tuple[int, bytes] | None  # (version, blob) of a plan that arrived
    plan_version: int | None  # the newest plan known at this tick
    weights: bytes | None  # of the evidence, when a fit was asked for


@dataclass(slots=True)
class Pending:
    """A run between two flushes. At most `limit` ticks are held; then the oldest are given up."""

    id: int
    pool: str
    head_hash: str
    baseline_known: bool
    due: int  # write when so many ticks are held
    next_seq: int = 0
    entries: deque[Entry] = field(default_factory=deque)
    gap: tuple[int, int, int] | None = None  # first tick, last tick, how many were given up
    dictionary: bytes | None = None  # of the run's batches, once the first is written
    kept: Kept | None = None  # to be written; it outlives the ticks that are given up
    closes: list[tuple[Actuation, int]] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)  # moves that could not be made durable
    last_tick: int | None = None
    failing: bool = False  # the last flush failed: try at every tick
    _seen: tuple[Any, ...] = (None, (), "", "", ())  # what `_kinds` compares with
    _plan_version: int | None = None

    def add(self, tick: Tick, decision: Decision, limit: int) -> None:
        """Take a tick; ticks come in ascending order."""
        assert decision.tick == tick.index, "a decision is journalled with its own tick"
        assert self.last_tick is None or tick.index > self.last_tick, "ticks ascend within a run"
        plan, plan_digest = None, ""
        if tick.plan is not None:
            plan_digest, blob = record.encode_plan(tick.plan)
            plan = (tick.plan.version, blob)
            self._plan_version = tick.plan.version
        line = record.encode_line(tick, decision, plan_digest)
        kinds = self._kinds(tick, decision)
        notable = kinds or decision.events or decision.kept is not None
        self.entries.append(
            Entry(
                tick=tick.index,
                wall_ns=tick.wall_ns,
                line=line,
                decision=record.without_fit(decision) if notable else None,
                kinds=kinds,
                commands=record.encode(tick.commands) if tick.commands else None,
                moves=decision.setting if decision.moves else None,
                plan=plan,
                plan_version=self._plan_version,
                weights=_weights(decision),
            )
        )
        self.last_tick = tick.index
        self.kept = decision.kept or self.kept
        while len(self.entries) > limit:
            self._give_up(self.entries.popleft())

    def _kinds(self, tick: Tick, decision: Decision) -> str:
        """What makes a decision notable, beside its words: ` move  phase `."""
        before = self._seen
        advised = before[2] if decision.advice is None else decision.advice.id
        now = (decision.phase, decision.guard_trips, advised, tick.quiet, tick.overrides)
        found = ""
        if now != before:  # a lasting trip, or the same advice again, is one event
            self._seen = now
            found += " phase " if now[0] is not before[0] else ""
            found += " guard " if now[1] != before[1] else ""
            found += " advice " if now[2] != before[2] else ""
            found += " policy " if now[3:] != before[3:] else ""
        found += " move " if decision.moves else ""
        found += " command " if tick.commands else ""
        found += " plan " if tick.plan is not None else ""
        found += " window " if decision.observation is not None else ""
        return found + (" holdout " if decision.holdout is not None else "")

    def _give_up(self, entry: Entry) -> None:
        first, _, count = self.gap or (entry.tick, entry.tick, 0)
        self.gap = (first, entry.tick, count + 1)
        self.refused.discard(entry.tick)


def _weights(decision: Decision) -> bytes | None:
    """The weights of the evidence, by observation, as JSON."""
    if decision.fit_request is None:
        return None
    return record.encode(
        {
            record.observation_key(item.observation): item.weight
            for item in decision.fit_request.evidence
        }
    )
