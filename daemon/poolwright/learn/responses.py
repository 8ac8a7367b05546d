"""The shipped graph: what each response hangs on.

levels, load, foreign CPU -> capacity -> throughput_rps -> cpu_cores -> power_w
                                      -> latency quantiles -> jitter_s
levels -> memory_bytes;   levels, load -> cost_per_hour, error_ratio
"""

from collections.abc import Iterable

import numpy as np

from poolwright.core.policy import Policy
from poolwright.core.signals import quantile_of
from poolwright.learn.declare import At, Linear, Log, Model, Normal, Scale, Seen, Values
from poolwright.learn.flow import Latency, Throughput
from poolwright.learn.points import Array, Table, oldest_median

_ERROR_SHARE = 0.1  # of an error-ratio bound: below it one error ratio is as good as another
_KNOTS = (0.1, 0.5, 1.0)  # shares of full CPU, and 0, at which power is calibrated


class Plain(Model):
    """Linear in the logarithms of the levels and of the load, over the parents if there are any.

    `knob` and `load` are the priors of the slopes per octave of a knob and per e-fold of load.
    """

    def __init__(
        self,
        response: str,
        *,
        parents: tuple[str, ...] = (),
        spread: float = 0.5,
        knob: Normal,
        load: Normal,
        scale: Scale | None = None,
    ) -> None:
        """`spread` is the standard deviation of the level round the oldest window's."""
        self.response, self.parents = response, parents
        self._spread, self._knob, self._load = spread, knob, load
        self.scale = scale or Log()

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """The level is that of the oldest window."""
        first = seen.first - sum(seen.at.origin(name) for name in self.parents if name in seen.at)
        knobs = {f"octave_{name}": self._knob for name in seen.knobs}
        return {"level": Normal(first, self._spread), **knobs, "load": self._load}

    def mean(self, p: Values, at: At) -> Array:
        """Each parent counts with exponent 1."""
        slopes = [value for name, value in vars(p).items() if name.startswith("octave_")]
        total = p.level + p.load * at.log_load
        for k, slope in enumerate(slopes):
            total = total + slope * at.octaves[:, k]
        return np.asarray(total + sum(at[name] for name in self.parents if name in at))


class Cpu(Model):
    """Seconds of CPU for each request served, and for each worker whatever it does."""

    response = "cpu_cores"
    parents = ("throughput_rps",)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """At first nine tenths are for requests."""
        return {
            "work": Normal(seen.first - 0.1, 0.5),
            "idle": Normal(seen.first - 2.3, 1.0),
            "trend": Normal(0.05, 0.1),
        }

    def mean(self, p: Values, at: At) -> Array:
        """Log cores."""
        served, first = np.log(at.points.load), float(np.log(at.first.load[0]))
        if self.parents[0] in at:
            served, first = at[self.parents[0]], at.origin(self.parents[0])
        octaves = at.octaves.sum(axis=1)
        work = np.exp(np.clip(p.work + p.trend * octaves + served - first, -30.0, 30.0))
        idle = np.exp(np.clip(p.idle + np.log(2.0) * octaves, -30.0, 30.0))
        return np.asarray(np.log(work + idle))


class Power(Model):
    """Watts over CPU: four knots at 0, 10, 50 and 100 %, concave.

    Full CPU is taken for twice the oldest window's, as utilisation of the host is not a response.
    A machine's first work costs most (autoscaling lives on that); the falling slopes are declared,
    each being the next one's and something more.
    """

    response = "power_w"
    parents = ("cpu_cores",)
    amplitudes = (0.025, 0.05, 0.1, 0.175)
    noises = (0.01, 0.02, 0.035, 0.055, 0.085, 0.13)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """Slopes: watts of full CPU over the idle watts, as medians of 619 SPECpower curves."""
        steep = {"flat": Normal(-0.5, 0.8), "mid": Normal(-0.7, 0.8), "step": Normal(0.0, 0.8)}
        busy = {f"octave_{name}": Normal(0.0, 0.05) for name in seen.knobs}
        if self.parents[0] not in seen.at:
            return {"level": Normal(seen.first, 0.3), "load": Normal(0.3, 0.3), **busy}
        return {"level": Normal(seen.first, 0.3), **steep, **busy}

    def mean(self, p: Values, at: At) -> Array:
        """Log watts, over what they were in the oldest window."""
        knobs = [value for name, value in vars(p).items() if name.startswith("octave_")]
        more = sum(slope * at.octaves[:, k] for k, slope in enumerate(knobs))
        if "load" in vars(p):
            return np.asarray(p.level + p.load * at.log_load + more)
        first = at.origin(self.parents[0])
        now = np.exp(np.clip(at[self.parents[0]] - first, -20.0, 20.0)) / 2.0  # of twice the first
        curve = np.log(_curve(p, now)) - np.log(_curve(p, np.array([0.5])))
        return np.asarray(p.level + curve + more)


def _curve(p: Values, share: Array) -> Array:
    """Watts over idle watts at shares of full CPU; beyond 1 the last slope goes on."""
    flat = np.exp(np.clip(p.flat, -20.0, 5.0))
    mid = flat + np.exp(np.clip(p.mid, -20.0, 5.0))
    step = mid + np.exp(np.clip(p.step, -20.0, 5.0))
    low, middle, _ = _KNOTS
    return np.asarray(
        1.0
        + step * np.minimum(share, low)
        + mid * np.clip(share - low, 0.0, middle - low)
        + flat * np.maximum(share - middle, 0.0)
    )


class Memory(Model):
    """A base, and a share of each level: a level more never frees memory."""

    response = "memory_bytes"
    amplitudes = (0.003, 0.01, 0.02)
    noises = (0.005, 0.01, 0.02, 0.04)

    def scale_of(self, table: Table) -> Scale:
        """In units of what the oldest setting used."""
        return Linear(unit=max(oldest_median(table, self.response) or 1.0, 1.0))

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """Half of it the base."""
        each = Normal(float(np.log(0.5 / len(seen.knobs))), 0.7)
        return {"base": Normal(0.5, 0.3), **{f"share_{name}": each for name in seen.knobs}}

    def mean(self, p: Values, at: At) -> Array:
        """In units."""
        shares = [value for name, value in vars(p).items() if name.startswith("share_")]
        over = at.points.levels / np.maximum(at.first.levels, 1.0)
        each = (np.exp(np.clip(s, -20.0, 5.0)) * over[:, k] for k, s in enumerate(shares))
        return np.asarray(p.base + sum(each))


def primary_latency(responses: Iterable[str], policy: Policy) -> str | None:
    """The quantile under an SLO, else the one in the objective, else the highest that was seen."""
    known = {name: q for name in responses if (q := quantile_of(name))}
    slos = [slo.response for slo in policy.slo]
    weighted = [name for name, weight in policy.objective if weight > 0.0]
    for names in (slos, weighted, list(known)):
        seen = [name for name in known if name in names]
        if seen:
            return max(seen, key=lambda name: known[name])
    return None


def shipped(responses: Iterable[str], policy: Policy) -> tuple[Model, ...]:
    """The graph for a pool of which `responses` were seen. Of latencies the lowest quantile comes
    first, with which the others stray, then the primary.
    """
    seen = sorted(responses)
    knobs = tuple(sorted(knob.name for knob in policy.knobs))
    primary = primary_latency(seen, policy)
    known = {name: q for name in seen if (q := quantile_of(name))}
    lowest = min(known, key=lambda name: known[name], default=None)
    latencies = sorted(known, key=lambda name: (name != lowest, name != primary, name))
    bounds = [slo.below for slo in policy.slo if slo.response == "error_ratio"]
    floor = Log(floor=_ERROR_SHARE * min(bounds, default=0.01))
    jitter = () if primary is None else (primary,)
    return (
        Throughput(knobs),
        *(Latency(name, knobs, None if name == lowest else lowest) for name in latencies),
        Plain("jitter_s", parents=jitter, spread=0.7, knob=Normal(0.0, 0.2), load=Normal(0.0, 0.3)),
        Cpu(),
        Power(),
        Memory(),
        Plain("error_ratio", spread=1.0, knob=Normal(0.0, 0.3), load=Normal(0.3, 0.5), scale=floor),
        Plain("cost_per_hour", knob=Normal(0.3, 0.3), load=Normal(0.3, 0.3)),
    )
