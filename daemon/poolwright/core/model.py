"""The words of the core: what is seen, what is wanted, what was decided. Data only.

Everything here is frozen, slotted and keyword-only. A suffix is the unit (`_s`, `_ns`, `_rps`,
`_w`, `_bytes`, `_cores`, `_ratio`). What is not known is None: never -1, never NaN, never 0.
Members of an enumeration are added, never removed: journals outlive releases.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from poolwright.core.policy import Policy
from poolwright.core.sketch import Sketch


class Status(StrEnum):
    """What became of one attempt to see something."""

    OK = "ok"
    NO_DATA = "no_data"  # the source works and has nothing to say (no request in this tick)
    STALE = "stale"  # the source has not said anything new for too long
    ERROR = "error"  # the source is broken; `detail` says how


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One signal as one sensor saw it in one tick.

    `value` is None unless status is ok. `sketch` carries the distribution of a per-request signal
    over the tick. `std` is the standard error where the source knows one. `estimated` marks what
    was modelled rather than measured. Names and units of signals: `core.signals`.
    """

    signal: str
    source: str
    value: float | None = None
    status: Status = Status.OK
    taken_mono_ns: int = 0
    std: float | None = None
    sketch: Sketch | None = None
    estimated: bool = False
    detail: str = ""

    def __post_init__(self) -> None:
        """Refuse a reading that claims to be good and is not."""
        good = self.value is not None and math.isfinite(self.value)
        if good != (self.status is Status.OK):
            raise ValueError(f"reading {self.signal}: {self.status} with value {self.value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A point of the knob lattice: (knob, level) pairs, sorted by knob name."""

    levels: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        """Keep settings comparable: sorted, no knob twice."""
        names = [name for name, _ in self.levels]
        if names != sorted(set(names)):
            raise ValueError(f"a setting's knobs are sorted and distinct, not {names}")

    def __getitem__(self, knob: str) -> int:
        """The level of `knob`; KeyError when the setting does not have it."""
        for name, level in self.levels:
            if name == knob:
                return level
        raise KeyError(knob)

    def __str__(self) -> str:
        """For people: `workers=5`."""
        return " ".join(f"{name}={level}" for name, level in self.levels)

    def replace(self, knob: str, level: int) -> "Setting":
        """The same setting with one knob at another level."""
        return Setting(levels=tuple((n, level if n == knob else old) for n, old in self.levels))


def setting(**levels: int) -> Setting:
    """A Setting from keyword arguments: `setting(workers=5)`."""
    return Setting(levels=tuple(sorted(levels.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What an actuator read back: the real levels, and which incarnation of the plant has them.

    `epoch` changes when the plant restarted or reloaded (another master process, or every worker
    replaced at once); `detail` says in words what was noticed.
    """

    setting: Setting
    epoch: str = ""
    detail: str = ""


class ActuationStatus(StrEnum):
    """How the last actuation went."""

    APPLIED = "applied"
    PENDING = "pending"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actuation:
    """The outcome of obeying the Decision of `decision_tick`, as known when the tick was made."""

    decision_tick: int
    status: ActuationStatus
    took_s: float = 0.0
    detail: str = ""


class CommandKind(StrEnum):
    """What an operator may ask at the control socket."""

    PAUSE = "pause"
    RESUME = "resume"
    RESTORE = "restore"  # back to the baseline: the daemon is stopping and the policy says so


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """An operator's request, with who asked and why."""

    kind: CommandKind
    who: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A quantity with its standard error, in natural units, from `count` samples."""

    mean: float
    std: float
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse NaN and a negative error."""
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std >= 0.0):
            raise ValueError(f"estimate {self.mean} with standard error {self.std}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What acts on the plant and is not ours to set. None: not known."""

    load_rps: float | None = None
    foreign_cpu_ratio: float | None = None


Responses = tuple[tuple[str, Estimate], ...]  # (response name, estimate), sorted by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one window at one setting showed. Response names: `core.signals.RESPONSES`."""

    setting: Setting
    opened_tick: int
    closed_tick: int
    span_s: float
    sample_count: int
    context: Context
    responses: Responses
    app_limited: bool
    estimated: tuple[str, ...] = ()  # the responses that were modelled, not measured
    breached: bool = False  # the guard saw a breach in this window

    def response(self, name: str) -> Estimate | None:
        """The estimate of one response, None when it was not seen."""
        return dict(self.responses).get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """An observation with the weight that age and changes of regime have left it (0..1]."""

    observation: Observation
    weight: float = 1.0


class Verdict(StrEnum):
    """Why a candidate setting was, or was not, taken."""

    RECOMMENDED = "recommended"  # the best posterior mean among safe settings
    PROBE = "probe"  # the most to be learned or gained
    WORSE = "worse"  # safe, but expected to cost more
    UNSAFE_SLO = "unsafe_slo"
    UNSAFE_MEMORY = "unsafe_memory"
    OUTSIDE_TRUST_REGION = "outside_trust_region"
    TABU = "tabu"  # the guard saw it breach lately


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One setting as the surrogate judged it, at the load and foreign CPU of the fit."""

    setting: Setting
    objective: Estimate  # in units of the objective
    p_safe: float  # probability that every SLO and guard holds
    gain_ratio: float  # constrained expected improvement, as a share of the incumbent's objective
    verdict: Verdict
    predictions: Responses
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBin:
    """What to hold while the load is in [load_lower_rps, load_upper_rps)."""

    load_lower_rps: float
    load_upper_rps: float
    setting: Setting
    safe_lower: Setting
    safe_upper: Setting
    p_safe: float
    predictions: Responses


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The surrogate boiled down to a table: all that the fast loop needs, and all that a person
    needs to see what was believed.
    """

    version: int
    fitted_tick: int  # the tick of the FitRequest
    evidence_digest: str
    context: Context  # at which candidates were judged
    schedule: tuple[PlanBin, ...]  # ascending, contiguous in load
    candidates: tuple[Candidate, ...]  # ascending by setting
    probes: tuple[Candidate, ...]  # best first; empty: nothing safe is worth trying
    best_gain_ratio: float  # the regret bound: what the best safe probe is expected to gain
    references: tuple[tuple[str, float], ...] = ()  # what each response is divided by
    belief: tuple[tuple[str, float], ...] = ()  # named parameters of the surrogate
    calibration: tuple[
        tuple[str, float], ...
    ] = ()  # response -> share of evidence in its 90 % interval
    fit_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """Everything the learner needs; the learner keeps nothing between requests."""

    version: int  # the Plan's version
    tick: int
    policy: Policy
    evidence: tuple[Evidence, ...]  # oldest first
    context: Context  # present load and foreign CPU
    incumbent: Setting
    trust_octaves: float  # radius of the trust region round the incumbent, in doublings
    tabu: tuple[Setting, ...] = ()
    memory_limit_bytes: float | None = None  # what `memory_bytes` may not pass
    leverage: bool = False  # this probe shall teach most rather than gain most
    evidence_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Everything uncertain, at one moment. `wall_ns` is for people; the core never uses it."""

    index: int
    mono_ns: int
    wall_ns: int
    readings: tuple[Reading, ...] = ()
    applied: Applied | None = None
    actuation: Actuation | None = None
    commands: tuple[Command, ...] = ()
    plan: Plan | None = None  # only in the tick in which it arrived
    fault: str = ""  # why `applied` is None
    learner_fault: str = ""  # the last fit ended in this; the request must be made again


class Phase(StrEnum):
    """What poolwright is about. Transitions: `core.phase`."""

    WARMUP = "warmup"  # watching the baseline
    EXPLORE = "explore"  # learning by small safe moves
    CONVERGED = "converged"  # holding; a rare probe keeps the model honest
    COOLDOWN = "cooldown"  # a guard tripped; no probe for a while
    BLIND = "blind"  # what the guard needs cannot be seen
    MANUAL = "manual"  # another hand has the knob
    PAUSED = "paused"  # an operator said so


class Action(StrEnum):
    """What the Decision does."""

    HOLD = "hold"
    TRACK = "track"  # follow the schedule
    DITHER = "dither"
    PROBE = "probe"
    RETREAT = "retreat"
    RESTORE = "restore"


class Reason(StrEnum):
    """Why; the text for people is in `core.reasons`."""

    WARMING_UP = "warming_up"
    SETTLING = "settling"
    MEASURING = "measuring"
    WAITING_FOR_PLAN = "waiting_for_plan"
    SCHEDULE = "schedule"
    BEST_KNOWN = "best_known"
    NO_PROBE_WORTH_IT = "no_probe_worth_it"
    BUDGET_SPENT = "budget_spent"
    EXPECTED_GAIN = "expected_gain"
    LEVERAGE = "leverage"
    SLO_BREACH = "slo_breach"
    MEMORY_BREACH = "memory_breach"
    ERROR_BREACH = "error_breach"
    CPU_BREACH = "cpu_breach"
    QUEUEING = "queueing"
    COOLING_DOWN = "cooling_down"
    NO_DATA = "no_data"
    BLIND_TOO_LONG = "blind_too_long"
    OTHER_HAND = "other_hand"
    REASSERT = "reassert"
    PLANT_RESTARTED = "plant_restarted"
    PAUSED_BY_OPERATOR = "paused_by_operator"
    ACTUATION_PENDING = "actuation_pending"
    ACTUATION_FAILED = "actuation_failed"
    READ_BACK_FAILED = "read_back_failed"
    OUT_OF_BOUNDS = "out_of_bounds"
    CLOCK_GAP = "clock_gap"


class ClampKind(StrEnum):
    """Which rule of the envelope changed what was wanted."""

    BOUND = "bound"
    SLEW = "slew"
    DWELL = "dwell"
    SETTLE = "settle"
    LATTICE = "lattice"
    MEMORY = "memory"  # the forecast for the added workers passes the guard


@dataclass(frozen=True, slots=True, kw_only=True)
class Clamp:
    """One change that the envelope made to a wanted level."""

    kind: ClampKind
    knob: str
    wanted: int
    allowed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything that will happen because of one Tick.

    `setting` is what is commanded from now on. `moves` says that the actuator must act.
    `evidence` holds the named numbers on which the decision rests.
    """

    tick: int
    phase: Phase
    action: Action
    setting: Setting | None  # None until the plant was first seen
    moves: bool
    advice: Setting | None = None  # mode recommend: what would be set
    reason: Reason
    detail: str = ""
    clamps: tuple[Clamp, ...] = ()
    evidence: tuple[tuple[str, float], ...] = ()
    observation: Observation | None = None  # of a window that closed in this tick
    fit_request: FitRequest | None = None
    guard_trips: tuple[Reason, ...] = ()
    events: tuple[str, ...] = ()  # in words: what was noticed (restart, drift, phase change)
    state_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What a controller knows from an earlier run. Journalled with the new run, so it replays."""

    baseline: Setting | None = None
    last_safe: Setting | None = None
    evidence: tuple[Evidence, ...] = ()
    plan: Plan | None = None
    notes: tuple[str, ...] = ()  # in words: what recovery found
