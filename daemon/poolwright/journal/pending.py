"""What a run has in memory and not yet in the file."""

from collections import deque
from dataclasses import dataclass, field

from poolwright.core.model import Actuation, Decision, Phase, Reason, Setting, Tick
from poolwright.journal import record

NOT_MOVED = "the journal could not be written, so nothing was moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tick, encoded, with what it adds to the other tables."""

    tick: int
    wall_ns: int
    line: bytes
    decision: Decision | None  # when it is worth a row of its own
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
    closes: list[tuple[Actuation, int]] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)  # moves that could not be made durable
    last_tick: int | None = None
    failing: bool = False  # the last flush failed: try at every tick
    _phase: Phase | None = None
    _trips: tuple[Reason, ...] = ()
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
        notable = self._notable(tick, decision)
        self.entries.append(
            Entry(
                tick=tick.index,
                wall_ns=tick.wall_ns,
                line=line,
                decision=record.without_fit(decision) if notable else None,
                moves=decision.setting if decision.moves else None,
                plan=plan,
                plan_version=self._plan_version,
                weights=_weights(decision),
            )
        )
        self.last_tick = tick.index
        self._phase, self._trips = decision.phase, decision.guard_trips
        while len(self.entries) > limit:
            self._give_up(self.entries.popleft())

    def _notable(self, tick: Tick, decision: Decision) -> bool:
        return bool(
            decision.moves
            or decision.observation is not None
            or tick.plan is not None
            or tick.commands
            or decision.phase is not self._phase
            or decision.guard_trips != self._trips  # a lasting trip is one event
            or decision.events
        )

    def _give_up(self, entry: Entry) -> None:
        first, _, count = self.gap or (entry.tick, entry.tick, 0)
        self.gap = (first, entry.tick, count + 1)
        self.refused.discard(entry.tick)


def _weights(decision: Decision) -> bytes | None:
    """The weights below 1 of the evidence, by observation, as JSON."""
    if decision.fit_request is None:
        return None
    return record.encode(
        {
            record.observation_key(item.observation): item.weight
            for item in decision.fit_request.evidence
            if item.weight < 1.0
        }
    )
