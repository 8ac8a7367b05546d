"""What was learned, as it can be drawn: the surrogate over the levels, the schedule over the load.

Both are read off the Plan in force: what is drawn is what is acted on.
"""

import msgspec

from poolwright.core.model import Candidate, Estimate, Observation, Plan, Setting
from poolwright.core.vocabulary import Verdict
from poolwright.engine.snapshot import PoolSnapshot
from poolwright.surface.words import Z_90

_REFUSED = (Verdict.UNSAFE_SLO, Verdict.UNSAFE_MEMORY)
Known = list[float | None]


class Band(msgspec.Struct, kw_only=True):
    """A prediction over the levels: its mean, and the interval that holds 90 %. null: none."""

    mean: Known
    low: Known
    high: Known


class Observed(msgspec.Struct, kw_only=True):
    """One measured window of this slice, at the load that it had."""

    level: int
    age_s: float
    load_rps: float | None
    breached: bool
    latency_p50_s: float | None
    latency_p95_s: float | None
    latency_p99_s: float | None
    jitter_s: float | None
    cpu_cores: float | None
    memory_bytes: float | None
    power_w: float | None
    throughput_rps: float | None
    error_ratio: float | None


class SurrogateAnswer(msgspec.Struct, kw_only=True):
    """The surrogate over one knob, at the load of the last fit.

    Where there are more knobs, the others stand at `others`. `safe`: every constraint holds with
    the confidence that the policy asks for. `verdicts` says of each level why it was not taken.
    """

    plan_version: int
    load_rps: float | None
    knob: str
    others: dict[str, int]
    levels: list[int]
    responses: dict[str, Band]
    objective: Band | None  # in its own units: lower is better
    p_safe: list[float]
    safe: list[bool]
    verdicts: list[Verdict]
    incumbent: int | None  # the best of what is safe, as far as it is known
    probe: int | None  # what would be tried next
    applied: int | None
    observed: list[Observed]


class Predicted(msgspec.Struct, kw_only=True):
    """A mean with its standard error."""

    mean: float
    std: float


class Bin(msgspec.Struct, kw_only=True):
    """What to hold while the load is in [load_low_rps, load_high_rps). null: no upper end."""

    load_low_rps: float
    load_high_rps: float | None
    setting: Setting
    safe_low: Setting
    safe_high: Setting
    predictions: dict[str, Predicted]
    p_safe: float


def schedule(plan: Plan) -> list[Bin]:
    """The learned schedule, ascending by load."""
    return [
        Bin(
            load_low_rps=row.load_lower_rps,
            load_high_rps=row.load_upper_rps,
            setting=row.setting,
            safe_low=row.safe_lower,
            safe_high=row.safe_upper,
            predictions={
                name: Predicted(mean=seen.mean, std=seen.std) for name, seen in row.predictions
            },
            p_safe=row.p_safe,
        )
        for row in plan.schedule
    ]


def surrogate(
    seen: PoolSnapshot, plan: Plan, windows: list[tuple[int, Observation]]
) -> SurrogateAnswer:
    """A slice through what the plan judged: along the first knob, through what is applied.

    `windows`: (when it closed, what it showed).
    """
    knob = seen.policy.knobs[0].name
    applied = None if seen.tick.applied is None else seen.tick.applied.setting
    best = next((c.setting for c in plan.candidates if c.verdict is Verdict.RECOMMENDED), None)
    through = next((s for s in (applied, seen.decision.setting, best) if s is not None), None)
    others = {} if through is None else {n: at for n, at in through.levels if n != knob}

    def level(setting: Setting | None) -> int | None:
        return setting[knob] if setting is not None and _lies_on(setting, knob, others) else None

    judged = sorted(
        (c for c in plan.candidates if _lies_on(c.setting, knob, others)),
        key=lambda c: c.setting[knob],
    )
    asked = max((slo.confidence for slo in seen.policy.slo), default=0.5)
    return SurrogateAnswer(
        plan_version=plan.version,
        load_rps=plan.context.load_rps,
        knob=knob,
        others=others,
        levels=[c.setting[knob] for c in judged],
        responses=_bands(judged),
        objective=_band([c.objective for c in judged]) if judged else None,
        p_safe=[c.p_safe for c in judged],
        safe=[c.verdict not in _REFUSED and c.p_safe >= asked for c in judged],
        verdicts=[c.verdict for c in judged],
        incumbent=level(best),
        probe=level(plan.probes[0].setting) if plan.probes else None,
        applied=level(applied),
        observed=[
            _observed(found, found.setting[knob], (seen.tick.wall_ns - wall_ns) / 1e9)
            for wall_ns, found in windows
            if _lies_on(found.setting, knob, others)
        ],
    )


def _lies_on(setting: Setting, knob: str, others: dict[str, int]) -> bool:
    levels = dict(setting.levels)
    return levels.pop(knob, None) is not None and levels == others


def _bands(judged: list[Candidate]) -> dict[str, Band]:
    predicted = [dict(candidate.predictions) for candidate in judged]
    names = sorted({name for one in predicted for name in one})
    return {name: _band([one.get(name) for one in predicted]) for name in names}


def _band(estimates: list[Estimate] | list[Estimate | None]) -> Band:
    band = Band(mean=[], low=[], high=[])
    for one in estimates:
        band.mean.append(None if one is None else one.mean)
        band.low.append(None if one is None else max(0.0, one.mean - Z_90 * one.std))
        band.high.append(None if one is None else one.mean + Z_90 * one.std)
    return band


def _observed(found: Observation, level: int, age_s: float) -> Observed:
    fields = {field.name for field in msgspec.structs.fields(Observed)}
    means = {name: seen.mean for name, seen in found.responses if name in fields}
    known = ("latency_p50_s", "latency_p95_s", "latency_p99_s", "jitter_s", "cpu_cores",
             "memory_bytes", "power_w", "throughput_rps", "error_ratio")  # fmt: skip
    return Observed(
        level=level,
        age_s=age_s,
        load_rps=found.context.load_rps,
        breached=found.breached,
        **{name: means.get(name) for name in known},
    )
