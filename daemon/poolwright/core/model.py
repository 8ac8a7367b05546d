"""The words of the core: what is seen, what is wanted, what was decided. Data only.

Everything here is frozen, slotted and keyword-only. A suffix is the unit (`_s`, `_ns`, `_rps`,
`_w`, `_bytes`, `_cores`, `_ratio`). What is not known is None: never -1, never NaN, never 0.
Enumerations are in `core.vocabulary`.
"""

import math
from dataclasses import dataclass

from poolwright.core.policy import Override, Policy
from poolwright.core.sketch import Sketch
from poolwright.core.vocabulary import (
    Action as Action,
)
from poolwright.core.vocabulary import (
    ActuationStatus as ActuationStatus,
)
from poolwright.core.vocabulary import (
    ClampKind as ClampKind,
)
from poolwright.core.vocabulary import (
    CommandKind as CommandKind,
)
from poolwright.core.vocabulary import (
    Phase as Phase,
)
from poolwright.core.vocabulary import (
    Reason as Reason,
)
from poolwright.core.vocabulary import (
    Status as Status,
)
from poolwright.core.vocabulary import (
    Verdict as Verdict,
)


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

    def __repr__(self) -> str:
        """As the generated one, which takes three times as long."""
        return f"Setting(levels={self.levels!r})"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Actuation:
    """The outcome of obeying the Decision of `decision_tick`, as known when the tick was made."""

    decision_tick: int
    status: ActuationStatus
    took_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """An operator's request, with who asked and why.

    `setting` is what PIN holds and where ROLLBACK goes (None: to what was held before the last
    move). `until_wall_ns` is for people and for the engine, which unpins when it has passed.
    """

    kind: CommandKind
    who: str = ""
    why: str = ""
    setting: Setting | None = None
    advice_id: str = ""
    until_wall_ns: int | None = None


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
    """An observation, and for how many windows it counts: less after a change, more when merged."""

    observation: Observation
    weight: float = 1.0


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
    prior: tuple[Evidence, ...] = ()  # of another host or a staging run: believed as far as it fits
    context: Context  # present load and foreign CPU
    incumbent: Setting
    trust_octaves: float  # radius of the trust region round the incumbent, in doublings
    tabu: tuple[Setting, ...] = ()
    memory_limit_bytes: float | None = None  # what `memory_bytes` may not pass
    leverage: bool = False  # this probe shall teach most rather than gain most
    evidence_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Everything uncertain, at one moment. `wall_ns` is for people; the core never uses it.

    What the calendar says (`quiet`, `overrides`) and what the other pools of this host do
    (`may_probe`, `room_*`) is uncertain too, so the engine puts it here and it replays.
    """

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
    quiet: str = ""  # the quiet window that is open now, as written
    overrides: tuple[Override, ...] = ()  # those of the policy that are in force now
    may_probe: bool = True  # False: another pool of this host is being experimented with
    rival: str = ""  # which one
    room_bytes: float | None = None  # memory left of what all pools share; None: no such budget
    room_cores: float | None = None  # CPU left of what all pools share; None: no such budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Clamp:
    """One change that the envelope made to a wanted level."""

    kind: ClampKind
    knob: str
    wanted: int
    allowed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What would be set in mode recommend.

    `id` is the same for as long as the same change is advised. `gain` is the expected relative
    fall of the objective (0.1: ten per cent better); None: not known.
    """

    id: str
    setting: Setting
    replaces: Setting
    gain: Estimate | None
    p_safe: float | None
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdout:
    """One finished comparison tuned / baseline / tuned at matched load.

    `gain_ratio` is how much lower the objective was when tuned, as a share of the baseline's;
    `breached`: the baseline had to be left early because it breached (the gain is then at least
    this much).
    """

    baseline: Setting
    tuned: Setting
    load_rps: float
    gain_ratio: float
    breached: bool
    closed_tick: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Benefit:
    """What tuning is worth: mean gain over holdouts with its 95 % interval (Student's t)."""

    mean: float
    lower: float | None  # None: too few holdouts for an interval
    upper: float | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an operator or a proof has settled, and what must therefore survive a restart."""

    phase: Phase = Phase.WARMUP  # PAUSED, MANUAL or STOOD_DOWN; else WARMUP
    phase_why: str = ""  # who paused, whose hand it was
    pin: Setting | None = None
    pin_until_wall_ns: int | None = None
    pin_why: str = ""
    rejected: tuple[str, ...] = ()  # ids of advice not to be given again, oldest first
    holdouts: tuple[Holdout, ...] = ()  # newest last, at most 32


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
    advice: Advice | None = None  # mode recommend: what would be set
    reason: Reason
    detail: str = ""
    clamps: tuple[Clamp, ...] = ()
    evidence: tuple[tuple[str, float], ...] = ()
    observation: Observation | None = None  # of a window that closed in this tick
    fit_request: FitRequest | None = None
    guard_trips: tuple[Reason, ...] = ()
    events: tuple[str, ...] = ()  # in words: what was noticed (restart, drift, phase change)
    probing: bool = False  # away from the best known setting to learn or to compare
    asks_probe: bool = False  # a probe is ready and waits for `Tick.may_probe`
    reserved_bytes: float = 0.0  # memory that the move under way is expected to take ...
    reserved_cores: float = 0.0  # ... and CPU; what other pools must leave alone
    holdout: Holdout | None = None  # that ended in this tick
    kept: Kept | None = None  # when it changed in this tick
    state_digest: str = ""

    @property
    def wanted(self) -> Setting | None:
        """What it is about: the advised setting where there is advice, else the commanded one."""
        return self.setting if self.advice is None else self.advice.setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What a controller knows from an earlier run. Journalled with the new run, so it replays."""

    baseline: Setting | None = None
    last_safe: Setting | None = None
    evidence: tuple[Evidence, ...] = ()
    prior: tuple[Evidence, ...] = ()  # of another host, never a reason to call a setting safe
    plan: Plan | None = None
    notes: tuple[str, ...] = ()  # in words: what recovery found
    kept: Kept = Kept()
    budget: tuple[float, float, float] | None = None  # probes, seconds and SLO seconds left
