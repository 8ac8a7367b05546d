"""Evidence as arrays: where it was seen (Points) and what was seen there (Table)."""

from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from poolwright.core.model import Context, Evidence, FitRequest, Setting
from poolwright.core.policy import Knob, Scale

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

_BALANCE = 0.02  # of the load: completed this much more or less is a queue that changes
_LOAD_FLOOR = 0.01  # of the highest load seen: below it the logarithm says nothing useful


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Inputs of the surrogate: knob levels (n, knobs), load [rps] and foreign CPU share (n,).

    `places` (n, knobs) are the levels on each knob's own scale, in octaves: see `axes_of`.
    """

    levels: Array
    places: Array
    load: Array
    foreign: Array

    def __len__(self) -> int:
        """How many points."""
        return len(self.load)

    def __getitem__(self, rows: "Mask | NDArray[np.intp] | slice") -> "Points":
        """Some of the points."""
        return Points(
            levels=self.levels[rows],
            places=self.places[rows],
            load=self.load[rows],
            foreign=self.foreign[rows],
        )

    @property
    def concurrency(self) -> Array:
        """Requests that can be in service at once: the product of the knobs (workers x threads)."""
        return np.asarray(np.prod(np.maximum(self.levels, 0.5), axis=1), dtype=np.float64)

    @property
    def octaves(self) -> Array:
        """log2 of each knob's level; a level of 0 counts as one half."""
        return np.asarray(np.log2(np.maximum(self.levels, 0.5)), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """How far levels are apart. On a log scale a doubling is 1; on a linear one the whole range
    is as long as it would be on a log scale, and every step is equally long.
    """

    knobs: tuple[Knob, ...]  # sorted by name

    @property
    def names(self) -> tuple[str, ...]:
        """The knobs' names."""
        return tuple(knob.name for knob in self.knobs)

    def places(self, levels: Array) -> Array:
        """(n, knobs) levels to places [octaves]; a level of 0 counts as one half."""
        octaves = np.log2(np.maximum(levels, 0.5))
        for k, knob in enumerate(self.knobs):
            if knob.scale is Scale.LINEAR and knob.upper > knob.lower:
                length = np.log2(knob.upper / max(knob.lower, 0.5))
                octaves[:, k] = levels[:, k] * length / (knob.upper - knob.lower)
        return np.asarray(octaves, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The usable evidence, oldest first. A response that was not seen is NaN in `mean`.

    `overload` is +1 where less was completed than came (a queue grew), -1 where more (one drained).
    """

    axes: Axes
    points: Points
    weight: Array
    idle: Mask  # app-limited and less than half busy: says nothing against the capacity
    breached: Mask
    overload: Array
    mean: dict[str, Array]
    std: dict[str, Array]
    load_floor: float
    own: Mask  # seen here; the others are a prior's

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names, sorted."""
        return self.axes.names

    def seen(self, response: str) -> bool:
        """Whether any row has `response`."""
        return response in self.mean and bool(np.isfinite(self.mean[response]).any())

    def context_points(self, levels: Array, load: float | Array, foreign: float) -> Points:
        """`levels` at one load (or one each), floored as the evidence was."""
        loads = np.maximum(np.broadcast_to(np.asarray(load, dtype=np.float64), len(levels)), 0.0)
        return Points(
            levels=levels,
            places=self.axes.places(levels),
            load=np.maximum(loads, self.load_floor),
            foreign=np.full(len(levels), foreign),
        )


def oldest_median(table: Table, response: str) -> float | None:
    """The median of `response` at the oldest setting that has it; None when nothing has."""
    if not table.seen(response):
        return None
    values, levels = table.mean[response], table.points.levels
    first = levels[int(np.argmax(np.isfinite(values)))]
    return float(np.nanmedian(values[np.all(levels == first, axis=1)]))


def _load_of(evidence: Evidence) -> float | None:
    """Offered load; what was completed stands in where nobody knew the arrivals."""
    observation = evidence.observation
    if observation.context.load_rps is not None:
        return observation.context.load_rps
    completed = observation.response("throughput_rps")
    return None if completed is None else completed.mean


def levels_of(setting: Setting, knobs: tuple[str, ...]) -> list[float]:
    """The levels in the order of `knobs`; ValueError when the setting is of other knobs."""
    if tuple(name for name, _ in setting.levels) != knobs:
        raise ValueError(f"a setting of {', '.join(knobs)} was expected, not {setting}")
    return [float(level) for _, level in setting.levels]


def _known_foreign(ratios: list[float | None]) -> Array:
    """Foreign CPU shares; an unknown one is taken for the median of those known."""
    known = [ratio for ratio in ratios if ratio is not None]
    usual = float(np.median(known)) if known else 0.0  # no row knows: it cannot explain anything
    return np.array([usual if ratio is None else ratio for ratio in ratios], dtype=np.float64)


def _in_order(evidence: tuple[Evidence, ...]) -> list[Evidence]:
    """Oldest first, as given; what opened in the same tick in an order of its own.

    Rounding depends on the order of rows, and a plan must not depend on how ties were listed.
    """
    runs = (list(run) for _, run in groupby(evidence, lambda item: item.observation.opened_tick))
    return [item for run in runs for item in (run if len(run) == 1 else sorted(run, key=repr))]


def _overload(loads: Array, mean: dict[str, Array], std: dict[str, Array]) -> Array:
    """+1 where a queue grew, -1 where one drained, beyond what chance makes of completions."""
    if "throughput_rps" not in mean:
        return np.zeros(len(loads))
    slack = _BALANCE * loads + 2.0 * std["throughput_rps"]
    away = loads - mean["throughput_rps"]
    with np.errstate(invalid="ignore"):  # NaN, not seen, compares false
        return np.where(away > slack, 1.0, np.where(-away > slack, -1.0, 0.0))


def tabulate(request: FitRequest) -> Table:
    """The evidence of `request` as arrays, its prior first. ValueError when none is usable."""
    axes = Axes(knobs=tuple(sorted(request.policy.knobs, key=lambda knob: knob.name)))
    ordered = [*_in_order(request.prior), *_in_order(request.evidence)]
    kept = [
        (evidence, load, k >= len(request.prior))
        for k, evidence in enumerate(ordered)
        if evidence.weight > 0.0
        and evidence.observation.responses
        and (load := _load_of(evidence)) is not None
    ]
    if not kept:
        raise ValueError("no usable evidence: no window with a weight, a load and a response")
    observations = [evidence.observation for evidence, _, _ in kept]
    loads = np.array([load for _, load, _ in kept], dtype=np.float64)
    floor = max(_LOAD_FLOOR * float(loads.max()), 1e-3)
    levels = np.array([levels_of(o.setting, axes.names) for o in observations])
    points = Points(
        levels=levels,
        places=axes.places(levels),
        load=np.maximum(loads, floor),
        foreign=_known_foreign([o.context.foreign_cpu_ratio for o in observations]),
    )
    names = sorted({name for o in observations for name, _ in o.responses})
    mean = {name: np.full(len(kept), np.nan) for name in names}
    std = {name: np.full(len(kept), np.nan) for name in names}
    for row, observation in enumerate(observations):
        for name, estimate in observation.responses:
            mean[name][row] = estimate.mean
            std[name][row] = estimate.std
    middle = mean.get("latency_p50_s", np.full(len(kept), np.nan))
    busy = points.load * middle / points.concurrency  # Little's law; NaN compares false
    return Table(
        axes=axes,
        points=points,
        weight=np.array([evidence.weight for evidence, _, _ in kept]),
        idle=np.array([o.app_limited for o in observations]) & ~(busy >= 0.5),
        breached=np.array([o.breached for o in observations]),
        overload=_overload(loads, mean, std),
        mean=mean,
        std=std,
        load_floor=floor,
        own=np.array([own for _, _, own in kept]),
    )


def present(request: FitRequest, table: Table) -> Context:
    """Load and foreign CPU now; the newest window's where the request does not know."""
    load, foreign = request.context.load_rps, request.context.foreign_cpu_ratio
    return Context(
        load_rps=float(table.points.load[-1]) if load is None else load,
        foreign_cpu_ratio=float(table.points.foreign[-1]) if foreign is None else foreign,
    )
