"""Who comes when, and what each request asks for: drawn ahead in blocks, from one seed.

Arrivals are a Poisson process of any rate: unit-exponential marks are laid out on the axis of
expected arrivals, and a tick takes those within its `rate * time` (the time-change theorem; Lewis
and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning", 1979, section 1). How
many numbers are drawn does not depend on how time is cut into ticks.
"""

import hashlib
import math
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from poolwright.sim.shape import Law, PlantShape

_BLOCK = 4096  # requests drawn at a time
_NO_SPREAD = 1e-6  # a smaller cv is none: its square would be lost in rounding

Asked = tuple[list[float], list[float], list[int]]  # CPU seconds, I/O seconds, cache keys


class Demand:
    """The endless sequence of requests of one (shape, seed)."""

    def __init__(self, shape: PlantShape, seed: int) -> None:
        self._shape = shape
        digest = hashlib.sha256(f"demand:{seed}".encode()).digest()
        when, what = np.random.SeedSequence(int.from_bytes(digest)).spawn(2)
        self._when = np.random.Generator(np.random.PCG64(when))
        self._what = np.random.Generator(np.random.PCG64(what))
        self._marks: list[float] = []
        self._next = 0  # index of the next mark
        self._at = 0.0  # how much of the present block's axis is used up
        self._asked: Asked = ([], [], [])
        self._taken = 0

    def arrivals(self, began_s: float, dt_s: float, rate_rps: float) -> list[float]:
        """Times of arrival in (began_s, began_s + dt_s], ascending."""
        found: list[float] = []
        left = rate_rps * dt_s
        if left <= 0.0:
            return found
        per = 1.0 / rate_rps
        while True:
            until = self._at + left
            last = bisect_right(self._marks, until, self._next)
            zero = began_s + dt_s - until * per
            found += [zero + mark * per for mark in self._marks[self._next : last]]
            self._next = last
            if last < len(self._marks):
                self._at = until
                break
            left = until - (self._marks[-1] if self._marks else 0.0)
            self._marks = self._when.standard_exponential(_BLOCK).cumsum().tolist()
            self._next, self._at = 0, 0.0
        return found

    def ask(self, count: int, cost: float) -> Asked:
        """What the next `count` requests ask for, `cost` times as much as usual."""
        cpu, io, keys = self._asked
        while len(cpu) - self._taken < count:
            self._draw()
            cpu, io, keys = self._asked
        first, self._taken = self._taken, self._taken + count
        some, waits = cpu[first : self._taken], io[first : self._taken]
        if cost != 1.0:
            some, waits = [x * cost for x in some], [x * cost for x in waits]
        return some, waits, keys[first : self._taken]

    def _draw(self) -> None:
        """Append a block, and forget what was taken."""
        shape, rng = self._shape, self._what
        shares = np.array([kind.share for kind in shape.service]).cumsum()
        kinds = np.searchsorted(shares / shares[-1], rng.random(_BLOCK), side="right")
        cpu, io = np.zeros(_BLOCK), np.zeros(_BLOCK)
        for index, kind in enumerate(shape.service):
            mine = kinds == index
            cpu[mine] = _spread(rng, kind.cpu, kind.cpu_cv, kind.law)[mine]
            io[mine] = _spread(rng, kind.io, kind.io_cv, kind.law)[mine]
        keys = rng.integers(0, shape.cache.keys, _BLOCK)
        old, taken = self._asked, self._taken
        self._asked = (
            old[0][taken:] + cpu.tolist(),
            old[1][taken:] + io.tolist(),
            old[2][taken:] + keys.tolist(),
        )
        self._taken = 0


def _spread(rng: np.random.Generator, mean: float, cv: float, law: Law) -> NDArray[np.float64]:
    """A block of demands with this mean and coefficient of variation."""
    if mean == 0.0 or cv < _NO_SPREAD:
        return np.full(_BLOCK, mean)
    if law is Law.GAMMA:
        return rng.gamma(1.0 / cv**2, mean * cv**2, _BLOCK)
    if law is Law.LOGNORMAL:
        square = math.log1p(cv**2)
        return rng.lognormal(math.log(mean) - square / 2.0, math.sqrt(square), _BLOCK)
    tail = 1.0 + math.sqrt(1.0 + 1.0 / cv**2)  # Pareto: cv^2 = 1 / (tail (tail - 2))
    return (rng.pareto(tail, _BLOCK) + 1.0) * (mean * (tail - 1.0) / tail)
