"""How a response is declared: parameters with priors, a mean, what it depends on.

After Dalibard, Schaarschmidt and Yoneki, "BOAT" (WWW 2017): a response is a parametric mean plus a
Gaussian-process residual, and responses are nodes of a graph. A node is fitted to what was
*measured* of its parents (given them it does not depend on the rest); where nothing was measured
yet, the parents' predictions stand in.

    class GcPause(Model):
        response, parents = "gc_pause_s", ("memory_bytes",)

        def priors(self, seen):
            return {"base": Normal(seen.first, 0.7), "slope": Normal(1.0, 0.5)}

        def mean(self, p, at):
            return p.base + p.slope * (at["memory_bytes"] - at.origin("memory_bytes"))

Installed under the entry-point group `poolwright.models`, a Model (class or instance) adds a
response or replaces the one of that name; an entry called `graph` (responses seen, policy ->
Models) replaces the shipped graph.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np

from poolwright.core.policy import Policy
from poolwright.learn.points import Array, Points, Table

_TOP = 8.0  # e^8 times the largest value seen is as bad as anything


@dataclass(frozen=True, slots=True)
class Normal:
    """A prior. A parameter that must be positive is declared by its logarithm."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A response that is modelled as log(value + floor)."""

    floor: float = 0.0

    def forward(self, value: Array, std: Array) -> tuple[Array, Array]:
        """To model space, by the delta method; NaN where there is no logarithm."""
        shifted = np.where(value + self.floor > 0.0, value + self.floor, np.nan)
        return np.log(shifted), std / shifted

    def natural(self, values: Array, most: float) -> Array:
        """To natural units, at most `most`: what is extrapolated wildly stays finite."""
        top = np.log(most + self.floor + 1e-9) + _TOP
        return np.asarray(np.maximum(np.exp(np.minimum(values, top)) - self.floor, 0.0))

    def spread(self, natural: Array, std: Array) -> Array:
        """The standard deviation in natural units of one in model space."""
        return np.asarray((natural + self.floor) * np.expm1(np.minimum(std, 3.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A response that is modelled as value / unit."""

    unit: float = 1.0

    def forward(self, value: Array, std: Array) -> tuple[Array, Array]:
        """To model space."""
        return value / self.unit, std / self.unit

    def natural(self, values: Array, most: float) -> Array:  # noqa: ARG002  as Log has it
        """To natural units."""
        return values * self.unit

    def spread(self, natural: Array, std: Array) -> Array:  # noqa: ARG002
        """The standard deviation in natural units of one in model space."""
        return std * self.unit


Scale: TypeAlias = Log | Linear
Values: TypeAlias = SimpleNamespace  # the parameters by name, each (m, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Where a mean is asked for: points, and what their parents are there (model space)."""

    points: Points
    first: Points  # the oldest window
    parents: dict[str, Array] = field(default_factory=dict)
    origins: dict[str, float] = field(default_factory=dict)
    strayed: Array | None = None  # (n,) see Model.strays_with; None where nothing was measured

    def __getitem__(self, parent: str) -> Array:
        """A parent's value in model space: the logarithm, or the multiple of its unit."""
        return self.parents[parent]

    def __contains__(self, parent: str) -> bool:
        """Whether anything of that parent was ever measured."""
        return parent in self.parents

    def origin(self, parent: str) -> float:
        """The parent's first measured value, in model space."""
        return self.origins[parent]

    @property
    def octaves(self) -> Array:
        """(n, knobs) doublings of each knob over the oldest window's."""
        return np.asarray(self.points.octaves - self.first.octaves)

    @property
    def log_load(self) -> Array:
        """Log of the load over the oldest window's."""
        return np.log(self.points.load / self.first.load)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What priors may rest on: the evidence, and this response in model space."""

    table: Table
    policy: Policy
    at: At
    value: Array

    @property
    def first(self) -> float:
        """The oldest window's value."""
        return float(self.value[0])

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names, sorted."""
        return self.table.knobs


class Model:
    """One response. Subclass it; `response`, `priors` and `mean` are enough.

    `shared` parameters mean the same in every node that has them: the first to be fitted hands its
    posterior on as the others' prior, its standard deviations times `discount`. What idle workers
    showed may raise a shared parameter's response and never lower it: `blame` is the sign of the
    deviation that would.

    A window in which everything was slow says little of its setting. What the windows of
    `strays_with`, a response fitted before, strayed by chance, `At.strayed` brings to this one's
    mean, where they were measured: a control variate (Lavenberg and Welch, 1981).
    """

    response: str
    parents: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    discount: float = 2.0
    blame: float = 0.0
    strays_with: str | None = None
    scale: Scale = Log()
    amplitudes: tuple[float, ...] = (0.1, 0.2, 0.35)  # of the residual
    noises: tuple[float, ...] = (0.02, 0.04, 0.07, 0.11, 0.17, 0.26)  # between windows

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """The parameters, in order."""
        raise NotImplementedError

    def mean(self, p: Values, at: At) -> Array:
        """(m, n) in model space, for m values of each parameter at n points."""
        raise NotImplementedError

    def scale_of(self, table: Table) -> Scale:  # noqa: ARG002
        """How it is modelled, where that depends on the evidence."""
        return self.scale

    def observed(self, table: Table) -> tuple[Array, Array]:
        """(n,) what was measured and its standard error, natural units; NaN: nothing."""
        return table.mean[self.response], table.std[self.response]

    def bounds(self, table: Table) -> Array:
        """(n,) +1 where a window gives a lower bound only, -1 an upper one, else 0."""
        return np.zeros(len(table.points))


Graph: TypeAlias = Callable[[Iterable[str], Policy], tuple[Model, ...]]


def ordered(models: Iterable[Model]) -> tuple[Model, ...]:
    """Parents before children, else as given. ValueError for two of one response, or a cycle."""
    left = list(models)
    names = [model.response for model in left]
    if len(set(names)) != len(names):
        raise ValueError(f"two models of one response: {', '.join(sorted(names))}")
    done: list[Model] = []
    while left:
        made = {model.response for model in done}
        ready = next((m for m in left if not (set(m.parents) & set(names)) - made), None)
        if ready is None:
            raise ValueError(f"models in a circle: {', '.join(m.response for m in left)}")
        left.remove(ready)
        done.append(ready)
    return tuple(done)


@lru_cache(maxsize=1)
def installed() -> tuple[Graph | None, tuple[Model, ...]]:
    """What other packages bring: a graph instead of the shipped one, and further models.

    Raises ValueError when an entry cannot be loaded, or is neither.
    """
    graph: Graph | None = None
    models: list[Model] = []
    for entry in sorted(entry_points(group="poolwright.models"), key=lambda entry: entry.name):
        try:
            found = entry.load()
        except Exception as error:
            raise ValueError(f"model {entry.name} ({entry.value}): {error}") from error
        if entry.name == "graph":
            graph = found
            continue
        model = found() if isinstance(found, type) else found
        if not isinstance(model, Model):
            what = f"model {entry.name} ({entry.value}) is no poolwright Model"
            raise ValueError(what)  # noqa: TRY004  what a reply can carry
        models.append(model)
    return graph, tuple(models)
