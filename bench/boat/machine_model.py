"""One machine of the fleet as declared responses: CPU for a request -> how long a worker is held ->
the 99th percentile, with memory beside. The developer knows each machine's cores and memory, and
how requests queue; not its speed, its cache's hits, what a worker weighs or what swapping costs.

The form is not the simulator's: queues are Sakasegawa's M/M/c, and the rest straight lines in the
logarithm. What the lines miss is left to each response's Gaussian process.
"""

import numpy as np

from poolwright.learn.declare import At, Linear, Model, Normal, Seen, Values
from poolwright.learn.flow import waiting
from poolwright.learn.points import Array

WORK, HOLD, P99, MEMORY = "work_s", "hold_s", "p99_s", "memory_gb"


def _exp(value: Array) -> Array:
    return np.exp(np.clip(value, -12.0, 8.0))


class Work(Model):
    """CPU seconds of a request: a larger cache spares some, more workers cost some."""

    response = WORK
    amplitudes = (0.02, 0.05, 0.1)
    noises = (0.01, 0.02, 0.04, 0.08)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """Doubling the cache spares some 15 %."""
        return {
            "level": Normal(seen.first, 0.3),
            "cache": Normal(-0.15, 0.1),
            "workers": Normal(0.01, 0.02),
        }

    def mean(self, p: Values, at: At) -> Array:
        """Log seconds; knobs in the order of their names."""
        return np.asarray(p.level + p.cache * at.octaves[:, 0] + p.workers * at.octaves[:, 1])


class Memory(Model):
    """So much for a worker and a block of cache."""

    response = MEMORY
    scale = Linear()
    amplitudes = (0.001, 0.01)
    noises = (0.001, 0.01)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """Halves of the first measurement, by levels."""
        each = seen.first / 2.0
        cache, workers = (float(x) for x in seen.at.first.levels[0])
        return {
            "base": Normal(0.0, 0.1 * seen.first),
            "block": Normal(each / cache, each / cache),
            "worker": Normal(each / workers, each / workers),
        }

    def mean(self, p: Values, at: At) -> Array:
        """Gigabytes."""
        levels = at.points.levels
        return np.asarray(p.base + p.block * levels[:, 0] + p.worker * levels[:, 1])


class Hold(Model):
    """How long a request holds its worker: the back end, a queue for the cores, and swapping.

    No longer queue than there are workers to stand in it.
    """

    response, parents = HOLD, (WORK, MEMORY)

    def __init__(self, cores: int, ram_gb: float) -> None:
        """Of a machine with so much."""
        self.cores, self.ram_gb = float(cores), ram_gb

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """The back end takes about as long as the CPU."""
        return {
            "away": Normal(0.0, 0.7),
            "queue": Normal(0.0, 0.4),
            "swap": Normal(1.0, 1.0),
        }

    def mean(self, p: Values, at: At) -> Array:
        """Log seconds."""
        work = np.exp(at[WORK])
        rho = at.points.load * work / self.cores
        queue = waiting(rho, np.full_like(rho, self.cores))
        most = np.maximum(at.points.levels[:, 1] / self.cores - 1.0, 0.0)
        queue = np.minimum(queue * _exp(p.queue), most)
        away = _exp(p.away) + _exp(p.swap) * swapped(at, self.ram_gb)
        return np.asarray(np.log(work) + np.log1p(queue + away))


def swapped(at: At, ram_gb: float) -> Array:
    """The share of what is wanted that does not fit."""
    memory = np.maximum(at[MEMORY], 1e-3)
    return np.asarray(np.maximum(1.0 - ram_gb / memory, 0.0))


class Tail(Model):
    """The 99th percentile: a multiple of the time held, and a queue for workers and for cores."""

    response, parents = P99, (WORK, HOLD)

    def __init__(self, cores: int) -> None:
        """Of a machine with so many."""
        self.cores = float(cores)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """As an exponential time would have it, give or take a factor of two."""
        return {
            "tail": Normal(1.3, 0.4),
            "cores": Normal(1.0, 0.7),
            "workers": Normal(1.5, 0.7),
        }

    def mean(self, p: Values, at: At) -> Array:
        """Log seconds."""
        work, hold = np.exp(at[WORK]), np.exp(at[HOLD])
        busy = at.points.load * work / self.cores
        workers = at.points.levels[:, 1]
        full = at.points.load * hold / workers
        queue = waiting(busy, np.full_like(busy, self.cores)) * work * _exp(p.cores)
        line = waiting(full, np.broadcast_to(workers, full.shape)) * hold * _exp(p.workers)
        return np.asarray(np.log(hold * _exp(p.tail) + queue + line))


def graph_of(cores: int, ram_gb: float) -> tuple[Model, ...]:
    """The responses of one machine, parents first."""
    return (Work(), Memory(), Hold(cores, ram_gb), Tail(cores))
