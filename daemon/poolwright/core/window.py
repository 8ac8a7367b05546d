"""Ticks at one setting become one Observation.

A window opens when a move has settled (and the queue that an earlier setting left behind has
drained), closes when it is long enough and has seen enough, and is dropped when the setting, the
plant or the view of it changes in the middle. Lengths are dithered so that windows do not lock to
a periodic job (the .NET thread pool randomises its sample interval for the same reason).
"""

import math
from random import Random

from poolwright.core.model import Context, Estimate, Observation, Setting
from poolwright.core.policy import Policy
from poolwright.core.sample import Sample
from poolwright.core.signals import QUANTILES, quantile_of
from poolwright.core.sketch import RELATIVE_ERROR, Sketch, SketchBuilder

_ENOUGH_REQUESTS = 50
_LONGEST = 4.0  # times the nominal length, when requests are rare


class Window:
    """Accumulates the samples of one window. `settled_s` counts since the last move."""

    __slots__ = ("_latency", "_policy", "_samples", "_setting", "_span_s", "breached")

    def __init__(self, policy: Policy, setting: Setting, tick: int) -> None:
        """Open a window at `setting` in `tick`, its length drawn from the policy's seed."""
        rule = policy.explore
        jitter = Random(f"{policy.seed}:{tick}").uniform(-rule.window_jitter, rule.window_jitter)
        self._policy = policy
        self._setting = setting
        self._span_s = rule.window_s * (1.0 + jitter)
        self._samples: list[Sample] = []
        self._latency = SketchBuilder()
        self.breached = False

    @property
    def elapsed_s(self) -> float:
        """How long the window has been open."""
        return sum(s.dt_s for s in self._samples)

    def add(self, sample: Sample) -> Observation | None:
        """Take one more sample; the Observation when the window is full."""
        self._samples.append(sample)
        if sample.latency is not None:
            self._latency.merge(sample.latency)
        elapsed = self.elapsed_s
        if elapsed < self._span_s - 1e-6:
            return None
        sketch = self._latency.freeze()
        if sketch.count < _ENOUGH_REQUESTS and elapsed < _LONGEST * self._span_s:
            return None
        return self._close(sketch, elapsed)

    def cut(self) -> Observation | None:
        """Close early, because a guard tripped; None when too little was seen."""
        sketch = self._latency.freeze()
        if sketch.count < _ENOUGH_REQUESTS or not self._samples:
            return None
        return self._close(sketch, self.elapsed_s)

    def _close(self, latency: Sketch, elapsed: float) -> Observation:
        samples = self._samples
        responses: dict[str, Estimate] = {}
        for name, field in (
            ("throughput_rps", "throughput_rps"),
            ("cpu_cores", "cpu_cores"),
            ("memory_bytes", "memory_bytes"),
        ):
            mean = _mean_of([getattr(s, field) for s in samples])
            if mean is not None:
                responses[name] = mean
        power = _power_of(samples)
        if power is not None:
            responses["power_w"] = power
        errors = _error_ratio(samples)
        if errors is not None:
            responses["error_ratio"] = errors
        quantiles = quantiles_of(self._policy)
        responses.update(_latency_of(latency, _inflation(samples), quantiles))
        cost = cost_of(responses, self._policy)
        if cost is not None:
            responses["cost_per_hour"] = cost
        load = _mean_of([s.load_rps for s in samples])
        foreign = _mean_of([s.foreign_cpu_ratio for s in samples])
        estimated = any(s.latency_estimated for s in samples)
        return Observation(
            setting=self._setting,
            opened_tick=samples[0].tick,
            closed_tick=samples[-1].tick,
            span_s=elapsed,
            sample_count=latency.count,
            context=Context(
                load_rps=None if load is None else load.mean,
                foreign_cpu_ratio=None if foreign is None else foreign.mean,
            ),
            responses=tuple(sorted(responses.items())),
            app_limited=self._app_limited(),
            estimated=tuple(sorted((*quantiles, "jitter_s"))) if estimated else (),
            breached=self.breached,
        )

    def _app_limited(self) -> bool:
        """Fewer requests in flight than workers, and nobody waiting: capacity was not tried."""
        busy = _mean_of([s.in_flight for s in self._samples])
        queue = _mean_of([s.queue_length for s in self._samples])
        if busy is None:
            return False
        workers = max(level for _, level in self._setting.levels)
        return busy.mean < 0.8 * workers and (queue is None or queue.mean < 0.5)


def quantiles_of(policy: Policy) -> dict[str, float]:
    """The latency quantiles that are measured: the usual ones and those the policy names."""
    names = (*QUANTILES, *(s.response for s in policy.slo), *(r for r, _ in policy.objective))
    return {name: q for name in names if (q := quantile_of(name)) is not None}


_PRICED = {
    "core_hour": ("cpu_cores", 1.0),
    "gib_hour": ("memory_bytes", 2.0**-30),
    "kwh": ("power_w", 1e-3),
}


def cost_of(responses: dict[str, Estimate], policy: Policy) -> Estimate | None:
    """What the pool costs an hour at the policy's prices; None when a priced thing is unknown."""
    if not policy.prices:
        return None
    mean, variance = 0.0, 0.0
    for what, price in policy.prices:
        name, unit = _PRICED[what]
        if name not in responses:
            return None
        mean += price * unit * responses[name].mean
        variance += (price * unit * responses[name].std) ** 2
    return Estimate(mean=mean, std=math.sqrt(variance))


def _mean_of(values: list[float | None]) -> Estimate | None:
    """Mean and standard error of what is known, None when less than half of it is."""
    known = [v for v in values if v is not None]
    if not known or 2 * len(known) < len(values):
        return None
    n = len(known)
    mean = math.fsum(known) / n
    variance = math.fsum((v - mean) ** 2 for v in known) / max(1, n - 1)
    return Estimate(mean=mean, std=math.sqrt(variance / n), count=n)


def _power_of(samples: list[Sample]) -> Estimate | None:
    """Watts: the source's own standard error does not average out, so it is kept whole."""
    mean = _mean_of([s.power_w for s in samples])
    if mean is None:
        return None
    own = max((s.power_std_w or 0.0) for s in samples)
    return Estimate(mean=mean.mean, std=math.hypot(mean.std, own), count=mean.count)


def _error_ratio(samples: list[Sample]) -> Estimate | None:
    """Failed requests over completed ones, with the error of a proportion (Agresti-Coull)."""
    known = [s for s in samples if s.errors_rps is not None and s.throughput_rps is not None]
    if 2 * len(known) < len(samples):
        return None
    done = sum((s.throughput_rps or 0.0) * s.dt_s for s in known)
    failed = sum((s.errors_rps or 0.0) * s.dt_s for s in known)
    if done < 1.0:
        return None
    centre = (failed + 2.0) / (done + 4.0)
    std = math.sqrt(centre * (1.0 - min(1.0, centre)) / (done + 4.0))
    return Estimate(mean=min(1.0, failed / done), std=std, count=round(done))


def _inflation(samples: list[Sample]) -> float:
    """How many times fewer independent requests there were than requests.

    Neighbours in a queue wait alike. The variance of the ticks' means, against what independent
    requests would give them, is the inflation factor of cluster sampling (Kish, "Survey Sampling",
    section 5.4).
    """
    seen = [s.latency for s in samples if s.latency is not None and s.latency.count]
    total = sum(s.count for s in seen)
    if len(seen) < 3:
        return 1.0
    mean = math.fsum(s.total for s in seen) / total
    spread = math.fsum(s.total_squares for s in seen) / total - mean * mean
    between = math.fsum(s.count * (s.mean - mean) ** 2 for s in seen) / (len(seen) - 1)
    return max(1.0, min(between / spread, total / len(seen))) if spread > 0.0 else 1.0


def _latency_of(
    sketch: Sketch, inflation: float, quantiles: dict[str, float]
) -> dict[str, Estimate]:
    """Quantiles with their standard errors, and jitter, the standard deviation of latency.

    The error of a quantile is half the distance of the order statistics one standard deviation of
    the binomial rank away (David and Nagaraja, "Order Statistics", section 7.1).
    """
    n = sketch.count
    if n < 2:
        return {}
    independent = max(2.0, n / inflation)
    found: dict[str, Estimate] = {}
    for name, q in quantiles.items():
        spread = math.sqrt(q * (1.0 - q) / independent)
        low = sketch.quantile(max(0.0, q - spread))
        high = sketch.quantile(min(1.0, q + spread))
        mean = sketch.quantile(q)
        least = RELATIVE_ERROR * mean  # a bucket's width: the sketch knows no more
        found[name] = Estimate(mean=mean, std=max((high - low) / 2.0, least, 1e-9), count=n)
    std = sketch.std
    found["jitter_s"] = Estimate(mean=std, std=std / math.sqrt(2.0 * (independent - 1.0)), count=n)
    return found
