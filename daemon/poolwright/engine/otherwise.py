"""What is told of two policies side by side: plain data, and how it is summed up."""

from collections.abc import Container
from dataclasses import dataclass, field
from statistics import median

from poolwright.core.model import Decision, Estimate, Responses, Setting, Tick
from poolwright.core.policy import Slo
from poolwright.core.sample import Sample
from poolwright.core.signals import quantile_of
from poolwright.core.sketch import SketchBuilder
from poolwright.journal.query import Gap

_MINUTE_S = 60.0
_KEPT = 4096  # of a typical value's samples; then every other one goes


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One side of a difference."""

    phase: str
    action: str
    reason: str
    setting: Setting | None
    advice: Setting | None
    moves: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A time in which the two held different settings, from its first tick on.

    `load_rps` (mean) and `latency_p99_s` were recorded; null: not seen. `estimates` are the
    surrogate's of what would have been different, the median over the stretch with its standard
    error. `untried`: nothing was ever measured at the other setting in this run.
    """

    tick: int
    wall_ns: int
    span_s: float
    recorded: Choice
    otherwise: Choice
    load_rps: float | None
    latency_p99_s: float | None
    estimates: Responses
    estimated_s: float  # of span_s: for the rest there was nothing to estimate from
    untried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The whole of a run.

    `estimates`: the differences while apart, medians over time with their standard errors.
    `outside_minutes`: those in which a latency SLO of the other policy was breached, as recorded,
    and in the world as it may have been (estimated while apart).
    """

    run: int
    pool: str
    policy: str
    recorded_policy: str
    ticks: int
    span_s: float
    differing: int  # ticks with another action, phase, reason, setting, advice or move
    first: tuple[int, Choice, Choice] | None  # the first of them: tick, recorded, otherwise
    moves: int
    moves_otherwise: int
    actions: dict[str, tuple[int, int]]  # moves by action: recorded, otherwise
    apart_s: float  # at another setting
    untried_s: float  # of that: at a setting that nothing was measured at
    estimated_s: float  # of that: with an estimate
    estimates: Responses
    outside_minutes: tuple[int, int]
    calibration: dict[str, float]  # share of what was recorded inside the plans' 90 % intervals
    plans: int  # fitted for the other policy
    plan_fault: str  # why the last one that failed did
    unlike_from: int | None  # this release itself decides otherwise than the journal from here on
    cut_before: int | None  # the first tick that retention has kept; null: all are there
    stretches: tuple[Stretch, ...]
    gap: Gap | None


class Typical:
    """Medians over time of estimates and of their errors.

    A median, because a few seconds of an overload that nobody measured are worth anything between
    nothing and an hour's mean. Every tick is one sample; of many, every second, fourth ... is kept.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self.span_s = 0.0
        self._every = 1
        self._seen = 0
        self._kept: dict[str, list[tuple[float, float]]] = {}

    def add(self, found: Responses, dt_s: float) -> None:
        """What was estimated of one tick."""
        self.span_s += dt_s
        self._seen += 1
        if self._seen % self._every:
            return
        for name, seen in found:
            self._kept.setdefault(name, []).append((seen.mean, seen.std))
        if max(map(len, self._kept.values()), default=0) > _KEPT:
            self._every *= 2
            self._kept = {name: kept[::2] for name, kept in self._kept.items()}

    def made(self) -> Responses:
        """The medians."""
        return tuple(
            (name, Estimate(mean=median(m for m, _ in kept), std=median(s for _, s in kept)))
            for name, kept in sorted(self._kept.items())
        )


@dataclass(slots=True)
class Open:
    """A stretch that is not over."""

    tick: Tick
    recorded: Decision
    otherwise: Decision
    span_s: float = 0.0
    load: Typical = field(default_factory=Typical)
    latency: SketchBuilder = field(default_factory=SketchBuilder)
    estimates: Typical = field(default_factory=Typical)

    def see(self, sample: Sample) -> None:
        """One more recorded tick."""
        self.span_s += sample.dt_s
        if sample.load_rps is not None:
            self.load.add((("load_rps", Estimate(mean=sample.load_rps, std=0.0)),), sample.dt_s)
        if sample.latency is not None:
            self.latency.merge(sample.latency)

    def close(self, tried: Container[Setting | None]) -> Stretch:
        """All of it; `tried` are the settings that were measured."""
        load, seen = dict(self.load.made()), self.latency.freeze()
        return Stretch(
            tick=self.tick.index,
            wall_ns=self.tick.wall_ns,
            span_s=self.span_s,
            recorded=choice(self.recorded),
            otherwise=choice(self.otherwise),
            load_rps=load["load_rps"].mean if load else None,
            latency_p99_s=seen.quantile(0.99) if seen.count else None,
            estimates=self.estimates.made(),
            estimated_s=self.estimates.span_s,
            untried=self.otherwise.setting not in tried,
        )


def choice(decision: Decision) -> Choice:
    """What the world would have noticed of a decision."""
    return Choice(
        phase=decision.phase,
        action=decision.action,
        reason=decision.reason,
        setting=decision.setting,
        advice=None if decision.advice is None else decision.advice.setting,
        moves=decision.moves,
    )


class Minutes:
    """Counts the minutes in which a latency quantile of the SLOs was above its bound."""

    def __init__(self, slos: tuple[Slo, ...]) -> None:
        """Failed requests are not counted: an SLO of another response is passed over."""
        self.outside = 0
        self._bounds = [(q, slo.below) for slo in slos if (q := quantile_of(slo.response))]
        self._latency = SketchBuilder()
        self._span_s = 0.0

    def see(self, sample: Sample | None) -> None:
        """One more tick."""
        if sample is None:
            return
        self._span_s += sample.dt_s
        if sample.latency is not None:
            self._latency.merge(sample.latency)
        if self._span_s < _MINUTE_S:
            return
        seen = self._latency.freeze()
        if seen.count:
            self.outside += any(seen.quantile(q) > below for q, below in self._bounds)
        self._latency, self._span_s = SketchBuilder(), 0.0
