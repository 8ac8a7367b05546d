"""What the engine publishes after every tick: immutable, and all that people and Prometheus see."""

from dataclasses import dataclass, field
from enum import StrEnum

from poolwright.core.model import Benefit, Decision, Kept, Plan, Setting, Tick
from poolwright.core.policy import Policy
from poolwright.core.sample import Sample


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
    learner: LearnerState
    learner_rss_bytes: int | None
    tick_duration_s: float
    sensor_durations_s: tuple[tuple[str, float], ...]  # (source, seconds)
    # ticks, late_ticks, moves, probes, retreats, windows, fits, fit_failures, sensor_failures,
    # actuation_failures, guard_trips; and guard_trips:<reason>, decisions:<action>:<reason>
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
