"""What is known of a decision: the records of the journal, and the account made of them.

An Account is what programs get (`explain --json`, docs/explain.md): suffixes are units, a missing
value is null, times are UTC. `surface.accounting` makes it, `surface.explain` says it in words.
"""

from dataclasses import dataclass
from typing import Literal

from poolwright.core.model import (
    Actuation,
    Advice,
    Decision,
    Holdout,
    Observation,
    Plan,
    Reason,
    Status,
    Tick,
    Verdict,
)
from poolwright.core.policy import Policy

Levels = dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A decision with what was known before it and what came after. None: the journal has none."""

    pool: str
    wall_ns: int
    decision: Decision
    policy: Policy
    tick: Tick | None = None  # the tick that was decided on
    plan: Plan | None = None  # in force at that time
    actuation: Actuation | None = None  # how the move went
    read_back_s: float | None = None  # until the setting was seen to be applied
    windows: tuple[Observation, ...] = ()  # that closed at the setting, until it was left
    left_by: Decision | None = None  # what moved away from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One reading that the decision had. `age_s`: how old it was then."""

    signal: str
    source: str
    value: float | None
    unit: str
    std: float | None
    status: Status
    age_s: float
    estimated: bool  # modelled by the sensor, not measured
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its standard error, and where 90 % of its belief lies."""

    response: str
    mean: float
    std: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the plan in force said of the setting.

    `load_rps` is the load that it was said of. `same_load`: that of the decision, within 5 %.
    """

    plan_version: int
    fitted_tick: int
    setting: Levels
    load_rps: float | None
    same_load: bool
    p_safe: float | None
    responses: tuple[Interval, ...]
    calibration: dict[str, float]  # share of the evidence inside the plan's 90 % intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """The bin of the plan's schedule that the load of the decision lies in, or the nearest one.

    The responses are those at the bin's upper end.
    """

    load_lower_rps: float
    load_upper_rps: float
    setting: Levels
    safe_lower: Levels
    safe_upper: Levels
    p_safe: float
    responses: tuple[Interval, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A setting as the plan judged it. `objective` is the score: lower is better."""

    setting: Levels
    taken: bool
    objective: float
    objective_std: float
    p_safe: float
    gain_ratio: float
    verdict: Verdict
    vetoed: bool  # not to be held, whatever its score
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What stepped in. A clamp has its knob, with what was wanted and what it allowed."""

    kind: Literal["guard", "clamp", "veto", "event"]
    rule: str  # the reason or the kind of clamp; empty for an event
    text: str
    knob: str | None = None
    wanted: int | None = None
    allowed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A response of one window against what was expected of it.

    `z`: how many standard deviations apart, both errors counted; `inside`: within 90 %.
    """

    response: str
    seen: float
    seen_std: float
    expected: float | None = None  # null: nothing was said of this response at this load
    expected_std: float | None = None
    z: float | None = None
    inside: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A window that closed at the setting after the decision."""

    closed_tick: int
    span_s: float
    load_rps: float | None
    breached: bool
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """The decision that moved away from the setting."""

    tick: int
    setting: Levels | None
    action: str
    reason: Reason
    reason_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. `inside` of `compared` checks lay within the 90 % intervals."""

    actuation: Actuation | None
    read_back_s: float | None
    windows: tuple[Measured, ...]
    compared: int
    inside: int
    left_by: Left | None
    holdout: Holdout | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Everything about one decision, for programs. Fields are added, never removed."""

    pool: str
    tick: int
    wall_ns: int
    time: str
    policy: str
    policy_sha256: str
    mode: str
    phase: str
    action: str
    moves: bool
    reason: Reason
    reason_text: str
    detail: str
    was: Levels | None  # the setting before it
    setting: Levels | None  # that is commanded from here on
    advice: Advice | None
    numbers: dict[str, float]  # that the decision itself names, units in the names
    inputs: tuple[Input, ...] | None  # null: the tick is no longer in the journal
    window: Observation | None  # that closed in this tick
    said: tuple[str, ...]  # by operators, the calendar and the other pools of the host
    expectation: Expectation | None
    schedule: Scheduled | None
    alternatives: tuple[Alternative, ...]
    judged_at_rps: float | None  # the load of the alternatives
    rules: tuple[Rule, ...]
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyNot:
    """Why it was not another setting, in words."""

    setting: Levels
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer of `poolwright explain --json`. `id` as `journal list` shows it."""

    version: Literal[1] = 1
    id: int
    run: int
    account: Account
    why_not: WhyNot | None
    text: str
