"""A garbage-collected service as declared responses, and a tuner that asks them.

young collections a second -> their pause; both and full collections -> the 99th percentile and the
time of a request. The developer knows what HotSpot's manual says: eden and survivor spaces share
the young generation, a survivor space that overflows or a low tenuring threshold promotes what
would soon have died, and promotion, or an old generation left too small, ends in full collections.
He does not know how much lives how long, nor what a copy costs.
"""

import numpy as np

from boat.jvm import HEAP_MB, RATE_RPS, SPAN_S, SURVIVOR, TENURING, YOUNG_MB, Shown
from poolwright.core.model import (
    Context,
    Estimate,
    Evidence,
    FitRequest,
    Observation,
    setting,
)
from poolwright.core.policy import Knob, Policy, Scale
from poolwright.learn.declare import At, Log, Model, Normal, Seen, Values
from poolwright.learn.points import Array, tabulate
from poolwright.learn.surrogate import build

INTERVAL, YOUNG, FULL, P99, BUSY = "interval_s", "young_pause_s", "full_s", "p99_s", "busy_s"
WEIGHTS = ((P99, 0.5, 4e-3), (BUSY, 0.5, 15e-6))  # over about what this JVM's own choice shows
FAILED = 50.0  # the objective of a run that ran out of memory
_REST_S = 2e-3  # of full collections in a run: less is none
POLICY = Policy(
    name="jvm",
    knobs=(
        Knob(name="survivor", lower=SURVIVOR[0], upper=SURVIVOR[1]),
        Knob(name="tenuring", lower=TENURING[0], upper=TENURING[1], scale=Scale.LINEAR),
        Knob(name="young", lower=YOUNG_MB[0], upper=YOUNG_MB[1]),
    ),
    objective=tuple((name, weight) for name, weight, _ in WEIGHTS),
)


def cost_of(shown: Shown) -> float:
    """The objective: 1 is about the JVM's own choice."""
    if shown.failed:
        return FAILED
    seen = {P99: shown.p99_s, BUSY: shown.busy_s}
    return sum(weight * seen[name] / unit for name, weight, unit in WEIGHTS)


def _exp(value: Array) -> Array:
    return np.exp(np.clip(value, -25.0, 8.0))


def _soft(value: Array, width: float) -> Array:
    """The positive part, bent over `width`."""
    return np.logaddexp(0.0, value / width) * width


def eden_mb(at: At) -> Array:
    """What is not the two survivor spaces."""
    survivor, young = at.points.levels[:, 0], at.points.levels[:, 2]
    return np.asarray(young * survivor / (survivor + 2.0))


def survivor_mb(at: At) -> Array:
    """One survivor space."""
    return np.asarray(at.points.levels[:, 2] / (at.points.levels[:, 0] + 2.0))


class Interval(Model):
    """Between young collections: eden fills at a steady rate."""

    response = INTERVAL
    amplitudes = (0.02, 0.05, 0.1)
    noises = (0.02, 0.05, 0.1)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """From the first run."""
        first = float(np.log(eden_mb(seen.at))[0])
        return {"level": Normal(seen.first - first, 0.2), "eden": Normal(1.0, 0.05)}

    def mean(self, p: Values, at: At) -> Array:
        """Log seconds."""
        return np.asarray(p.level + p.eden * np.log(eden_mb(at)))


class Pause(Model):
    """Of a young collection: what is copied, which grows slowly with the interval."""

    response, parents = YOUNG, (INTERVAL,)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """Proportional to a third power or so."""
        return {
            "level": Normal(seen.first, 0.4),
            "interval": Normal(0.4, 0.25),
            "tenuring": Normal(0.02, 0.03),
        }

    def mean(self, p: Values, at: At) -> Array:
        """Log seconds."""
        since = at[INTERVAL] - at.origin(INTERVAL)
        older = at.points.levels[:, 1] - at.first.levels[:, 1]
        return np.asarray(p.level + p.interval * since + p.tenuring * older)


class Full(Model):
    """Seconds of full collections in a run: what promotion and a small old generation make."""

    response, parents = FULL, (INTERVAL,)
    scale = Log(floor=_REST_S)
    amplitudes = (0.2, 0.5, 1.0)
    noises = (0.1, 0.3, 0.6)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """Nothing is known of what lives how long but its order of magnitude."""
        return {
            "need": Normal(float(np.log(2.0)), 0.7),  # MiB that outlive a collection
            "life": Normal(float(np.log(0.1)), 0.7),  # seconds
            "old": Normal(float(np.log(0.5 * HEAP_MB)), 0.3),  # MiB that the old generation needs
            "promoted": Normal(-3.0, 0.8),  # log seconds, when everything is promoted
            "starved": Normal(-1.5, 0.8),  # log seconds, when the old generation is too small
        }

    def mean(self, p: Values, at: At) -> Array:
        """Log of seconds and the floor."""
        aged = np.log(at.points.levels[:, 1] + 0.5) + at[INTERVAL] - p.life
        room = np.log(survivor_mb(at)) - p.need
        spilt = 1.0 / (1.0 + _exp(4.0 * np.minimum(aged, room)))
        old = np.log(HEAP_MB - at.points.levels[:, 2]) - p.old
        starved = 1.0 / (1.0 + _exp(12.0 * old))
        total = spilt * _exp(p.promoted) + starved * _exp(p.starved)
        return np.asarray(np.log(total + _REST_S))


class Tail(Model):
    """The 99th percentile: the part of the longest pauses that one request in a hundred sees.

    A pause d every t keeps a share (d - x) / t of the requests waiting longer than x; a hundredth
    is reached at x = d - t / 100, and the backlog stretches that.
    """

    response, parents = P99, (INTERVAL, YOUNG, FULL)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """Without any pause some tens of microseconds."""
        return {
            "base": Normal(min(seen.first, -9.0), 0.7),
            "young": Normal(0.2, 0.3),
            "full": Normal(-0.3, 0.4),
        }

    def mean(self, p: Values, at: At) -> Array:
        """Log seconds."""
        young = np.exp(at[YOUNG]) * _exp(p.young) - np.exp(at[INTERVAL]) / 100.0
        full = (np.exp(at[FULL]) - _REST_S) * _exp(p.full) - SPAN_S / 100.0
        longest = np.maximum(_soft(young, 2e-4), _soft(full, 1e-3))
        return np.asarray(np.log(_exp(p.base) + longest))


class Busy(Model):
    """The time of a request: its own work, and its part of all collections."""

    response, parents = BUSY, (INTERVAL, YOUNG, FULL)
    amplitudes = (0.02, 0.05, 0.1)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """Half of the first is its own."""
        return {"own": Normal(seen.first - 0.5, 0.4), "share": Normal(0.0, 0.2)}

    def mean(self, p: Values, at: At) -> Array:
        """Log seconds."""
        young = np.exp(at[YOUNG] - at[INTERVAL])
        full = np.maximum(np.exp(at[FULL]) - _REST_S, 0.0) / SPAN_S
        return np.asarray(np.log(_exp(p.own) + _exp(p.share) * (young + full) / RATE_RPS))


GRAPH = (Interval(), Pause(), Full(), Tail(), Busy())


def _lattice() -> Array:
    each = [np.arange(low, high + 1) for low, high in (SURVIVOR, TENURING, YOUNG_MB)]
    return np.stack(np.meshgrid(*each, indexing="ij"), axis=-1).reshape(-1, 3).astype(float)


LATTICE = _lattice()


class Structured:
    """Expected improvement of the objective over the best predicted of what was tried, on the
    whole lattice, in the surrogate's own joint draws.
    """

    def __init__(self) -> None:
        self.evidence: list[Evidence] = []

    def tell(self, levels: tuple[int, ...], shown: Shown) -> None:
        """One run."""
        self.evidence.append(_evidence(len(self.evidence), levels, shown))

    def ask(self) -> tuple[int, ...]:
        """The next (young, survivor, tenuring)."""
        request = FitRequest(
            version=1,
            tick=len(self.evidence),
            policy=POLICY,
            evidence=tuple(self.evidence),
            context=Context(),
            incumbent=self.evidence[-1].observation.setting,
            trust_octaves=99.0,
        )
        table = tabulate(request)
        surrogate = build(table, POLICY, lambda *_: GRAPH)
        tried = np.unique(table.points.levels, axis=0)
        points = table.context_points(np.vstack([tried, LATTICE]), RATE_RPS, 0.0)
        known = [(name, weight, unit) for name, weight, unit in WEIGHTS if name in surrogate.nodes]
        posteriors = surrogate.predict(points, [name for name, _, _ in known])
        means = sum(w * np.exp(posteriors[name].mean) / u for name, w, u in known)
        anchor = int(np.argmin(means[: len(tried)]))
        drawn = surrogate.draws(posteriors, anchor)
        worlds = sum(w * np.exp(np.minimum(drawn[name], 2.0)) / u for name, w, u in known)
        gain = np.maximum(worlds[:, anchor, None] - worlds, 0.0).mean(axis=0)
        been = (points.levels[:, None, :] == tried[None, :, :]).all(axis=-1).any(axis=-1)
        gain[been] = -1.0
        survivor, tenuring, young = points.levels[int(np.argmax(gain))]
        return int(young), int(survivor), int(tenuring)


def _evidence(tick: int, levels: tuple[int, ...], shown: Shown) -> Evidence:
    young, survivor, tenuring = levels
    seen = {FULL: SPAN_S, P99: SPAN_S} if shown.failed else {FULL: _full(shown), P99: shown.p99_s}
    if not shown.failed:
        seen[BUSY] = shown.busy_s
        if shown.young_count:
            seen[INTERVAL] = SPAN_S / shown.young_count
            seen[YOUNG] = shown.young_pause_s
    return Evidence(
        observation=Observation(
            setting=setting(young=young, survivor=survivor, tenuring=tenuring),
            opened_tick=tick,
            closed_tick=tick,
            span_s=SPAN_S,
            sample_count=1,
            context=Context(load_rps=RATE_RPS, foreign_cpu_ratio=0.0),
            responses=tuple(
                sorted((name, Estimate(mean=value, std=0.0)) for name, value in seen.items())
            ),
            app_limited=False,
        )
    )


def _full(shown: Shown) -> float:
    return shown.full_count * shown.full_pause_s
