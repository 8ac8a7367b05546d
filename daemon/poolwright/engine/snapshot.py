"""What the engine publishes after every tick: immutable, and all that people and Prometheus see."""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum

from poolwright.core.model import (
    Action,
    Benefit,
    Decision,
    Kept,
    Plan,
    Reason,
    Setting,
    Status,
    Tick,
)
from poolwright.core.policy import Policy
from poolwright.core.sample import Sample
from poolwright.core.sketch import merged

_RECENT_S = 10.0


class LearnerState(StrEnum):
    """What the learner process is doing."""

    ASLEEP = "asleep"
    STARTING = "starting"
    FITTING = "fitting"
    IDLE = "idle"
    FAILED = "failed"  # the last request ended in a death or a kill; it will be asked again


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """Latency over the last ten seconds of ticks, None where nothing was seen."""

    span_s: float = 0.0
    count: int = 0
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    jitter_s: float | None = None
    estimated: bool = False


class RecentLatency:
    """Keeps ten seconds of ticks; the work is left to who asks."""

    def __init__(self) -> None:
        self._kept: deque[Sample] = deque()

    def see(self, sample: Sample) -> None:
        """One more tick."""
        self._kept.append(sample)
        while len(self._kept) > 1 and self._span_s > _RECENT_S:
            self._kept.popleft()

    def summary(self) -> Recent:
        """Latency over what is kept."""
        sketch = merged(s.latency for s in self._kept if s.latency is not None)
        if not sketch.count:
            return Recent(span_s=self._span_s)
        return Recent(
            span_s=self._span_s,
            count=sketch.count,
            p50_s=sketch.quantile(0.50),
            p95_s=sketch.quantile(0.95),
            p99_s=sketch.quantile(0.99),
            jitter_s=sketch.std,
            estimated=any(s.latency_estimated for s in self._kept if s.latency is not None),
        )

    @property
    def _span_s(self) -> float:
        return sum(s.dt_s for s in self._kept)


class Tally(Counter[str]):
    """How often what happened; the names are those of `PoolSnapshot.counters`."""

    def __init__(self) -> None:
        super().__init__()
        self._tripped: tuple[Reason, ...] = ()

    def see(self, tick: Tick, decision: Decision) -> None:
        """Count what this tick brought."""
        self["ticks"] += 1
        self[f"decisions:{decision.action}:{decision.reason}"] += 1
        if decision.moves:
            self["moves"] += 1
            if decision.action in (Action.PROBE, Action.DITHER):
                self["probes"] += 1
            if decision.action is Action.RETREAT:
                self["retreats"] += 1
        if decision.observation is not None:
            self["windows"] += 1
        if decision.holdout is not None:
            self["holdouts"] += 1
        if tick.learner_fault:
            self["fit_failures"] += 1
        for reason in decision.guard_trips:
            if reason not in self._tripped:  # a trip is counted when it begins
                self["guard_trips"] += 1
                self[f"guard_trips:{reason}"] += 1
        self._tripped = decision.guard_trips
        if any(r.status in (Status.ERROR, Status.STALE) for r in tick.readings):
            self["sensor_failures"] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """One pool after one tick. Counters are (name, count) pairs since the start of the run."""

    pool: str
    run_id: int
    policy: Policy
    endpoint: str  # of the actuator
    baseline: Setting | None
    tick: Tick
    sample: Sample
    recent: Recent
    decision: Decision
    plan: Plan | None
    last_move: Decision | None
    last_move_wall_ns: int | None
    previous: Setting | None = None  # held before the present one, probes aside; None: none was
    learner: LearnerState
    learner_rss_bytes: int | None
    tick_duration_s: float
    sensor_durations_s: tuple[tuple[str, float], ...]  # (source, seconds)
    # ticks, late_ticks, moves, probes, retreats, windows, holdouts, fits, fit_failures,
    # sensor_failures, actuation_failures, guard_trips; guard_trips:<reason>;
    # decisions:<action>:<reason>
    counters: tuple[tuple[str, int], ...]
    benefit: Benefit | None = None  # of tuning over the baseline; None: never compared
    kept: Kept = field(default_factory=Kept)  # pause, pin, rejected advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The whole daemon after one slot."""

    version: str
    started_wall_ns: int
    wall_ns: int
    cadence_s: float
    journal_error: str  # empty: the journal can be written
    policy_error: str = ""  # why the last reload was refused; empty: what is on disk is in force
    reloads: tuple[tuple[str, int], ...] = ()  # (applied | unchanged | refused, how often)
    pools: tuple[PoolSnapshot, ...]


def decision_id(run_id: int, tick: int) -> str:
    """`RUN/TICK`: names a decision in logs, exemplars and `poolwright explain --decision`."""
    return f"{run_id}/{tick}"
