"""Throughput and latency: (levels, load, foreign CPU) -> capacity -> utilisation -> both.

Capacity: Gunther's Universal Scalability Law, X(c) = gamma c / infl(c) with
infl(c) = 1 + alpha (c-1) + beta c (c-1) and beta = (1-alpha) / N*^2, so that N* is where X peaks.
c is the product of the knobs' levels; with several knobs each has a yield, the exponent by which
its doublings count, and a bend, by which that changes from doubling to doubling. Waiting in units
of the service time: rho^(sqrt(2 (c+1)) - 1) / (c (1-rho)), Sakasegawa's approximation of M/M/c
(1977), and above rho = 0.95 its tangent.
"""

import numpy as np

from poolwright.core.signals import quantile_of
from poolwright.learn.declare import At, Model, Normal, Seen, Values
from poolwright.learn.points import Array, Table

_KNEE = 0.95
_SHARP = 25.0  # how sharply throughput bends from load to capacity
_STRETCHED = 0.2  # log of what contention made of the service times that were seen
SHARED = ("gamma", "alpha", "peak", "foreign")


def shared_by(knobs: tuple[str, ...]) -> tuple[str, ...]:
    """The parameters of capacity; with several knobs also their yields, and how those bend."""
    several = knobs if len(knobs) > 1 else ()
    return (*SHARED, *(f"{what}_{knob}" for what in ("yield", "bend") for knob in several))


def concurrency(p: Values, at: At) -> Array:
    """(m, n) requests that can be in service at once."""
    of = vars(p)
    yields = [of[name] for name in of if name.startswith("yield_")]
    c = at.points.concurrency[None, :]
    if not yields:
        return c
    bends = [of[name] for name in of if name.startswith("bend_")]
    more = at.octaves
    lost = sum(
        (each - 1.0) * more[:, k] + bend * more[:, k] ** 2 / 2.0
        for k, (each, bend) in enumerate(zip(yields, bends, strict=True))
    )
    return np.asarray(np.maximum(c * np.exp2(np.clip(lost, -6.0, 6.0)), 0.5))


def _inflation(p: Values, n: Array) -> Array:
    alpha = np.minimum(_exp(p.alpha), 0.9)
    beta = (1.0 - alpha) / _exp(p.peak) ** 2
    return np.asarray(np.maximum(1.0 + alpha * (n - 1.0) + beta * n * (n - 1.0), 0.1))


def _exp(value: Array) -> Array:
    return np.exp(np.clip(value, -30.0, 30.0))


def capacity(p: Values, at: At) -> Array:
    """(m, n) X [rps]."""
    c = concurrency(p, at)
    free = 1.0 - np.clip(p.foreign, 0.0, 0.95) * at.points.foreign
    return np.asarray(_exp(p.gamma) * c * free / _inflation(p, c))


def waiting(rho: Array, c: Array) -> Array:
    """Mean wait in service times, with the tangent beyond the knee; rho is capped at 3."""
    power = np.sqrt(2.0 * (c + 1.0)) - 1.0
    inside = np.minimum(rho, _KNEE)
    wait = inside**power / (c * (1.0 - inside))
    steepness = power / _KNEE + 1.0 / (1.0 - _KNEE)
    return np.asarray(wait * (1.0 + steepness * (np.clip(rho, _KNEE, 3.0) - _KNEE)))


def _capacity_priors(seen: Seen) -> dict[str, Normal]:
    """Gamma from what was completed and from the lower quartile of the fastest quantile seen."""
    table = seen.table
    c = table.points.concurrency
    done = table.mean.get("throughput_rps", np.full(len(c), np.nan))
    served = np.where(np.isfinite(done) & (done > 0.0), done, table.points.load)
    guesses = [float(np.log(np.max(served / c)))]
    known = {name: q for name in table.mean if (q := quantile_of(name)) and table.seen(name)}
    if known:
        name = min(known, key=lambda name: known[name])
        latency = table.mean[name]
        rows = np.isfinite(latency) & (latency > 0.0) & (table.overload == 0.0)
        if rows.any():
            tail = -0.15 * np.log(1.0 - known[name])
            guesses.append(float(tail - np.quantile(np.log(latency[rows]), 0.25)))
    upper = float(np.prod([max(knob.upper, 1) for knob in table.axes.knobs]))
    several = table.knobs if len(table.knobs) > 1 else ()
    first = float(c[0])  # the operator's default: as likely too large, unless it was overrun
    if several or table.overload[0] > 0.0:
        first = max(2.0 * first, 0.4 * upper)
    peak = max(min(upper, first), 2.0)
    return {
        "gamma": Normal(max(guesses) + (0.0 if several else _STRETCHED), 0.6),
        "alpha": Normal(float(np.log(0.02)), 1.0),
        "peak": Normal(float(np.log(peak)), 0.7),
        "foreign": Normal(0.5, 0.25),
        **{f"yield_{knob}": Normal(0.9, 0.3) for knob in several},
        **{f"bend_{knob}": Normal(-0.1, 0.2) for knob in several},
    }


class Throughput(Model):
    """Completions: the load while there is capacity for it, capacity beyond."""

    response = "throughput_rps"
    discount = 1.0
    blame = -1.0
    amplitudes = (0.01, 0.03, 0.1)
    noises = (0.01, 0.02, 0.05, 0.12, 0.3)

    def __init__(self, knobs: tuple[str, ...]) -> None:
        """For a pool of these knobs."""
        self.shared = shared_by(knobs)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """Those of capacity."""
        return _capacity_priors(seen)

    def mean(self, p: Values, at: At) -> Array:
        """Log load below capacity, log X above, smooth between."""
        room = np.log(capacity(p, at) / at.points.load)
        return np.asarray(np.log(at.points.load) - np.logaddexp(0.0, -_SHARP * room) / _SHARP)

    def observed(self, table: Table) -> tuple[Array, Array]:
        """At most the load: while a backlog drains more is completed than comes."""
        done = np.minimum(table.mean[self.response], table.points.load)
        least = np.where(table.points.load > table.load_floor, 1e-3 * table.points.load, np.nan)
        return np.maximum(done, least), table.std[self.response]


class Latency(Model):
    """A quantile of latency: service time, stretched by the busy workers, and waiting.

    The trend stands for what every further worker costs a request whatever the load (its own cold
    cache, its share of memory bandwidth): the USL knows only of busy workers.
    """

    blame = 1.0

    def __init__(
        self, response: str, knobs: tuple[str, ...], strays_with: str | None = None
    ) -> None:
        """Of a response whose name is a latency quantile."""
        quantile = quantile_of(response)
        assert quantile is not None, response
        self.response, self.quantile = response, quantile
        self.shared = shared_by(knobs)
        self.strays_with = strays_with
        if strays_with is None:
            self.amplitudes = (0.025, 0.05, 0.1, 0.2, 0.35)  # the lowest quantile queues least

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """The wait's factor is what an exponential wait's quantile has."""
        return {
            **_capacity_priors(seen),
            "service": Normal(
                self._service(seen) - (0.0 if len(seen.knobs) > 1 else _STRETCHED), 0.5
            ),
            "trend": Normal(0.0, 0.1),
            "wait": Normal(float(np.log(max(-np.log(1.0 - self.quantile), 0.1))), 0.8),
            **({} if seen.at.strayed is None else {"together": Normal(1.0, 0.3)}),
        }

    def _service(self, seen: Seen) -> float:
        """Log of the service time's quantile: no more than the lower quartile of the latencies.

        Nor more than what the workers had to spare: utilisation is at most 1, so the mean service
        time is at most c / throughput; its quantile is taken as if it were exponential. That bound
        is what tells a slow service from a queue when every window was in overload.
        """
        guess = float(np.quantile(seen.value, 0.25))
        done = seen.table.mean.get("throughput_rps", np.full(len(seen.table.points), np.nan))
        busy = np.isfinite(done) & (done > 0.0)
        if busy.any():
            spare = float(np.min(np.log(seen.table.points.concurrency[busy] / done[busy])))
            guess = min(guess, spare + float(np.log(max(-np.log(1.0 - self.quantile), 1.0))))
        return guess

    def mean(self, p: Values, at: At) -> Array:
        """Log seconds."""
        c = concurrency(p, at)
        rho = at.points.load / capacity(p, at)
        stretch = np.log(_inflation(p, c * np.minimum(rho, 1.0)))
        wait = np.log1p(np.exp(np.clip(p.wait, -10.0, 10.0)) * waiting(rho, c))
        chance = 0.0 if at.strayed is None else p.together * at.strayed
        return np.asarray(p.service + stretch + wait + p.trend * at.octaves.sum(axis=1) + chance)

    def bounds(self, table: Table) -> Array:
        """A growing queue shows less than the steady state would, a draining one more."""
        return table.overload
