"""The methods by name, behind one small interface.

A method lives through a slot (`slot`), tells which settings were held in it, and says what it
would recommend now. Methods that decide once a window derive from `Windowed`.
"""

import time
from typing import Protocol

import numpy as np

from search.world import Seen, World

Levels = tuple[int, ...]


class Method(Protocol):
    """What the harness runs. `spent_ms` is the CPU time of deciding so far, without the simulation:
    a neighbour on the machine does not change it.
    """

    spent_ms: float

    def slot(self, slot: int) -> list[Levels]:
        """Live through one slot; the setting of each tick, or one for the whole slot."""

    def recommend(self) -> Levels:
        """What should be held, as far as is known."""


class Windowed:
    """One decision a window: `learn` what the last setting showed, then `propose` the next."""

    def __init__(self, world: World) -> None:
        """The first window is the operator's default, for every method."""
        self.world = world
        self.plant = world.plant
        self.now: Levels = world.plant.start
        self.seen: list[tuple[Levels, Seen]] = []
        self.rng = np.random.default_rng([13, world.seed])
        self.spent_ms = 0.0

    def slot(self, slot: int) -> list[Levels]:
        """Hold, measure, decide."""
        held = self.now
        shown = self.world.window(held, slot)
        self.seen.append((held, shown))
        began = time.process_time()
        self.learn(held, shown)
        self.now = self.bounded(self.propose())
        self.spent_ms += 1e3 * (time.process_time() - began)
        return [held]

    def bounded(self, levels: Levels) -> Levels:
        """Whole levels within the knobs' bounds."""
        pairs = zip(levels, self.plant.spans, strict=True)
        return tuple(int(min(high, max(low, round(x)))) for x, (_, low, high) in pairs)

    def learn(self, held: Levels, seen: Seen) -> None:
        """Take a window."""

    def propose(self) -> Levels:
        """The next setting."""
        return self.now

    def recommend(self) -> Levels:
        """What is held: a control law recommends by doing."""
        return self.now


class BestSeen(Windowed):
    """Recommends the setting of the best observation, as black-box optimisers do."""

    def recommend(self) -> Levels:
        """The setting of the lowest cost that was ever seen."""
        return min(self.seen, key=lambda pair: pair[1].cost)[0]


class Random(BestSeen):
    """Uniform over the whole lattice."""

    def propose(self) -> Levels:
        """Anything."""
        return tuple(int(self.rng.integers(low, high + 1)) for _, low, high in self.plant.spans)


class Fixed(Windowed):
    """The operator's default for ever."""


class Folk(Windowed):
    """2 * cores + 1 workers, and one thread."""

    def propose(self) -> Levels:
        """The rule."""
        return (2 * self.plant.cores + 1, *self.plant.start[1:])


class Hindsight(Windowed):
    """The best single setting at the steady load, which nobody knows before."""

    def __init__(self, world: World) -> None:
        """Enumerate."""
        super().__init__(world)
        truth = self.plant.truth(self.plant.lattice, self.plant.load, 0.0)
        row = int(np.argmin(self.plant.charged(truth, self.plant.load)))
        self.best = tuple(int(level) for level in self.plant.lattice[row])

    def propose(self) -> Levels:
        """It."""
        return self.best


BASELINES = {
    "random": Random,
    "fixed: operator's default": Fixed,
    "fixed: 2*cores+1": Folk,
    "fixed: best in hindsight": Hindsight,
}
