"""What the operator wants of one pool: the YAML of `policies/`, bound and checked. Data only."""

from dataclasses import dataclass
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
    guard: GuardRule = GuardRule()
    explore: ExploreRule = ExploreRule()
    mode: Mode = Mode.RECOMMEND
    on_other_hand: OtherHand = OtherHand.YIELD
    exit: Exit = Exit.KEEP
    cadence_s: float = 1.0
    seed: int = 0
    sha256: str = ""

    def knob(self, name: str) -> Knob:
        """The knob of that name; KeyError when the policy does not have it."""
        for knob in self.knobs:
            if knob.name == name:
                return knob
        raise KeyError(name)
