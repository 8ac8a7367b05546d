"""The structured tuner of the fleet, on poolwright's declarative layer.

Each machine is a pool of its own to the layer: knobs cache and workers, its part of the traffic as
load. What was measured of a machine teaches only that machine's responses (BOAT's conditional
independence). The whole is the mixture of the machines' tails by their parts of the traffic.

The next setting (BOAT, section 4, "efficient": draw, optimise, rank): worlds are drawn from the
posterior, the best setting of each is found, and of these the one of highest expected improvement
over the best predicted mean of what was tried is taken. Finding it uses the structure too: on each
machine the best knobs for a part of the traffic, and then the parts by dynamic programming.
"""

import math
from dataclasses import dataclass

import numpy as np

from boat.fleet import CACHE, FLEET, LOAD_RPS, SHARE, WORKERS, Shown
from boat.machine_model import HOLD, MEMORY, P99, WORK, graph_of
from poolwright.core.model import (
    Context,
    Estimate,
    Evidence,
    FitRequest,
    Observation,
    setting,
)
from poolwright.core.policy import Knob, Policy
from poolwright.learn.points import tabulate
from poolwright.learn.surrogate import Surrogate, build

UNITS = 100  # the traffic is handed out in hundredths
PARTS = np.unique(np.round(np.geomspace(1, 40, 18)).astype(int))  # looked at on each machine
DRAWN = 6  # worlds a decision
SAMPLES = 128  # of the objective, for the expected improvement
POWER = 3.0  # the mean of tails that stands for the mixture's while the parts are sought
TAIL = math.log(100.0)  # an exponential's 99th percentile over its mean
POLICY = Policy(
    name="machine",
    knobs=(
        Knob(name="cache", lower=CACHE[0], upper=CACHE[1]),
        Knob(name="workers", lower=WORKERS[0], upper=WORKERS[1]),
    ),
    objective=((P99, 1.0),),
)


def _spaced(low: int, high: int, count: int):
    return np.unique(np.round(np.geomspace(low, high, count)).astype(int))


GRID = np.array([(c, w) for c in _spaced(*CACHE, 15) for w in _spaced(*WORKERS, 13)], dtype=float)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One machine's log tail over parts of the traffic (rows) and the grid of knobs (columns)."""

    mean: np.ndarray
    std: np.ndarray


class Structured:
    """ask/tell, with what every machine showed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([3, seed])
        self.evidence: list[list[Evidence]] = [[] for _ in FLEET]
        self.tried: list[tuple[int, ...]] = []

    def tell(self, levels: tuple[int, ...], shown: list[Shown]) -> None:
        """One measurement, machine by machine."""
        tick = len(self.tried)
        for k, one in enumerate(shown):
            if one.count:
                self.evidence[k].append(_evidence(tick, levels[3 * k : 3 * k + 3], one))
        self.tried.append(tuple(levels))

    def ask(self) -> tuple[int, ...]:
        """The next setting."""
        models = [self._fit(k) for k in range(len(FLEET))]
        fields = [_field(model) for model in models]
        drawn = [_best([f.mean for f in fields])]
        for _ in range(DRAWN):
            z = np.clip(self.rng.normal(size=len(FLEET)), -1.5, 1.5)
            drawn.append(_best([f.mean + x * f.std for x, f in zip(z, fields, strict=True)]))
        fresh = [one for one in dict.fromkeys(drawn) if one not in self.tried] or drawn[:1]
        worlds = _worlds(models, [*fresh, *dict.fromkeys(self.tried)], self.rng)
        incumbent = np.argmin(worlds[:, len(fresh) :].mean(axis=0)) + len(fresh)
        gain = np.maximum(worlds[:, incumbent, None] - worlds[:, : len(fresh)], 0.0).mean(axis=0)
        return fresh[int(np.argmax(gain))]

    def _fit(self, k: int) -> Surrogate:
        machine = FLEET[k]
        rows = tuple(self.evidence[k])
        request = FitRequest(
            version=1,
            tick=len(self.tried),
            policy=POLICY,
            evidence=rows,
            context=Context(),
            incumbent=rows[-1].observation.setting,
            trust_octaves=99.0,
        )
        models = graph_of(machine.cores, machine.ram_mb / 1024.0)
        return build(tabulate(request), POLICY, lambda *_: models)


def _evidence(tick: int, levels: tuple[int, ...], one: Shown) -> Evidence:
    assert one.work_s is not None
    assert one.hold_s is not None
    assert one.p99_s is not None
    root = math.sqrt(one.count)
    seen = {
        WORK: Estimate(mean=one.work_s, std=0.8 * one.work_s / root, count=one.count),
        HOLD: Estimate(mean=one.hold_s, std=one.hold_s / root, count=one.count),
        # An exponential tail's quantile has std 10 / sqrt(n) of its mean, the p99 being 4.6 of it.
        P99: Estimate(mean=one.p99_s, std=2.2 * one.p99_s / root, count=one.count),
        MEMORY: Estimate(mean=one.memory_mb / 1024.0, std=0.0, count=1),
    }
    _, workers, cache = levels
    return Evidence(
        observation=Observation(
            setting=setting(cache=cache, workers=workers),
            opened_tick=tick,
            closed_tick=tick,
            span_s=1.0,
            sample_count=one.count,
            context=Context(load_rps=one.load_rps, foreign_cpu_ratio=0.0),
            responses=tuple(sorted(seen.items())),
            app_limited=False,
        )
    )


def _field(model: Surrogate) -> Field:
    """Predictions over parts x grid."""
    levels = np.tile(GRID, (len(PARTS), 1))
    loads = np.repeat(PARTS / UNITS * LOAD_RPS, len(GRID))
    seen = model.predict(model.table.context_points(levels, loads, 0.0), (P99,))[P99]
    shape = (len(PARTS), len(GRID))
    return Field(mean=seen.mean.reshape(shape), std=seen.std.reshape(shape))


def _best(logs: list[np.ndarray]) -> tuple[int, ...]:
    """The setting of least power mean of the tails, weighted by parts of the traffic."""
    units = np.arange(1, PARTS[-1] + 1)
    total = np.full(UNITS + 1, np.inf)
    total[0] = 0.0
    origin = []
    for log in logs:
        least = np.interp(np.log(units), np.log(PARTS), log.min(axis=1))
        cost = units * np.exp(POWER * np.minimum(least, 4.0))
        sums = np.full((len(units), UNITS + 1), np.inf)
        for row, unit in enumerate(units):
            sums[row, unit:] = cost[row] + total[: UNITS + 1 - unit]
        origin.append(sums.argmin(axis=0))
        total = sums.min(axis=0)
    left, parts = UNITS, []
    for back in reversed(origin):
        parts.append(int(units[back[left]]))
        left -= parts[-1]
    levels: list[int] = []
    weight = SHARE[1] / max(parts)
    for part, log in zip(reversed(parts), logs, strict=True):
        near = int(np.argmin(np.abs(np.log(PARTS) - math.log(part))))
        cache, workers = GRID[int(log[near].argmin())]
        levels += [max(SHARE[0], round(weight * part)), int(workers), int(cache)]
    return tuple(levels)


def _worlds(models: list[Surrogate], settings: list[tuple[int, ...]], rng) -> np.ndarray:
    """(SAMPLES, settings): the log of the whole's tail in worlds drawn from the posterior."""
    table = np.array(settings, dtype=float)
    shares = table[:, 0::3] / table[:, 0::3].sum(axis=1, keepdims=True)
    tails = np.empty((SAMPLES, len(settings), len(models)))
    for k, model in enumerate(models):
        levels = table[:, [3 * k + 2, 3 * k + 1]]
        points = model.table.context_points(levels, shares[:, k] * LOAD_RPS, 0.0)
        seen = model.predict(points, (P99,))[P99]
        normals = rng.normal(size=(SAMPLES, 1))  # one world a draw: alike at all points
        tails[:, :, k] = seen.mean + normals * seen.std
    return mixture(np.minimum(tails, 5.0), shares)


def mixture(logs: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Log of the time that one request in a hundred exceeds, of exponential tails; by bisection."""
    low, high = logs.min(axis=-1), logs.max(axis=-1)
    for _ in range(24):
        middle = 0.5 * (low + high)
        over = np.sum(shares * np.exp(-TAIL * np.exp(middle[..., None] - logs)), axis=-1) > 0.01
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return 0.5 * (low + high)
