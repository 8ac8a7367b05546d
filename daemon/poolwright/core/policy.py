"""What the operator wants of one pool: the YAML of `policies/`, bound and checked. Data only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Scale(StrEnum):
    """How steps of a knob compare."""

    LINEAR = "linear"
    LOG = "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """What may be moved, and how: levels lower, lower+step, ... upper."""

    name: str
    lower: int
    upper: int
    step: int = 1
    slew_per_move: int = 4
    settle_s: float = 3.0
    drain_s: float = 0.0
    dwell_s: float = 0.0
    baseline: int | None = None  # None: what was applied when poolwright first came
    scale: Scale = Scale.LOG

    def clamp(self, level: int) -> int:
        """The nearest level on the lattice."""
        steps = round((level - self.lower) / self.step)
        return min(self.upper, max(self.lower, self.lower + steps * self.step))


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Knobs against each other: the sum of `coefficient * product of levels` is at most 0.

    `workers * threads <= 200` has the terms (1, (threads, workers)) and (-200, ()).
    """

    text: str  # as it was written
    terms: tuple[tuple[int, tuple[str, ...]], ...]

    def holds(self, levels: Mapping[str, int]) -> bool:
        """Whether these levels satisfy it; KeyError when a knob is missing."""
        return sum(c * math.prod(levels[name] for name in knobs) for c, knobs in self.terms) <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What an operator has written above the policy, for a time.

    `pin` fixes levels, `freeze` forbids every move, `bounds` (knob, lower, upper) narrows knobs.
    Times are for the engine, which says in each Tick what is in force; None: always.
    """

    reason: str
    pin: tuple[tuple[str, int], ...] = ()
    freeze: bool = False
    bounds: tuple[tuple[str, int, int], ...] = ()
    since_wall_ns: int | None = None
    until_wall_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """A response that must stay below a bound, with the confidence asked of the model."""

    response: str
    below: float
    confidence: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRule:
    """When the guard trips, whatever the model believes."""

    memory_ratio: float = 0.85  # of the cgroup's or host's memory
    cpu_ratio: float = 0.98  # of the host's CPU
    breach_ticks: int = 3  # k of ...
    breach_of_ticks: int = 5  # ... n ticks over the SLO
    blind_s: float = 30.0  # without the signals the SLO needs: return to the last safe setting
    cooldown_s: float = 30.0  # after a retreat
    psi_cpu_ratio: float | None = None  # pressure stall over this: nothing grows, nothing is tried
    psi_memory_ratio: float | None = None
    psi_io_ratio: float | None = None
    connections_ratio: float = 0.90  # of what the dependency accepts, forecast before growing
    fall_ratio: float = 0.30  # a sudden fall in load of more than this ...
    fall_hold_s: float = 1800.0  # ... forbids shrinking for so long: clients may be retrying
    dependency_ratio: float = 1.5  # service time over normal at flat CPU: a slow dependency


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploreRule:
    """How much poolwright may try."""

    probes_per_hour: float = 20.0
    budget_ratio: float = 0.05  # share of time away from the best known setting
    epsilon: float = 0.01  # gain, as a share of the objective, below which a probe is not worth it
    patience: int = 5  # windows without a worthwhile probe until converged
    converged_every: int = 25  # when converged, a window in so many may be a probe
    window_s: float = 30.0
    window_jitter: float = 0.2  # so that windows do not lock to a cron job
    warmup_windows: int = 3  # watched at the baseline before the first move
    slo_budget_ratio: float = 0.20  # share of the SLO's error budget that probes may use
    burn_rate: float = 1.0  # no probe while the error budget burns faster than this
    quiet: tuple[str, ...] = ()  # windows in which nothing is tried (`policy.calendar`)
    holdout_every_s: float = 21600.0  # a comparison with the baseline so often; 0: never


class Mode(StrEnum):
    """How far poolwright is trusted."""

    OBSERVE = "observe"
    RECOMMEND = "recommend"
    AUTO = "auto"


class OtherHand(StrEnum):
    """What to do when somebody else moved a knob."""

    YIELD = "yield"
    REASSERT = "reassert"


class Exit(StrEnum):
    """What stopping the daemon does to the level."""

    KEEP = "keep"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator wants of one pool."""

    name: str
    knobs: tuple[Knob, ...]
    objective: tuple[tuple[str, float], ...]  # (response, weight), all minimised
    slo: tuple[Slo, ...] = ()
    relations: tuple[Relation, ...] = ()
    overrides: tuple[Override, ...] = ()
    prices: tuple[tuple[str, float], ...] = ()  # (what, price), for the response cost_per_hour
    guard: GuardRule = GuardRule()
    explore: ExploreRule = ExploreRule()
    mode: Mode = Mode.RECOMMEND
    on_other_hand: OtherHand = OtherHand.YIELD
    exit: Exit = Exit.KEEP
    cadence_s: float = 1.0
    seed: int = 0
    sha256: str = ""  # of what is in force after layering, not of the files' text
    sources: tuple[str, ...] = field(default=(), compare=False)  # the files it was made of

    def knob(self, name: str) -> Knob:
        """The knob of that name; KeyError when the policy does not have it."""
        for knob in self.knobs:
            if knob.name == name:
                return knob
        raise KeyError(name)
