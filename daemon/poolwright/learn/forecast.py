"""One setting against another at any load, as the surrogate believes it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from poolwright.core.model import Estimate, FitRequest, Responses, Setting
from poolwright.learn.judge import goal_of, objective
from poolwright.learn.points import levels_of, present, tabulate
from poolwright.learn.surrogate import build, short

OBJECTIVE = "objective"  # beside the responses, in units of the policy's objective
_LOAD_STEP = 1.03  # loads nearer than this are one


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """What two settings would show at one load; `differences` are those of the second's means."""

    one: Responses
    other: Responses
    differences: Responses  # the objective among them


class Forecast:
    """A surrogate fitted once, and asked often. ValueError as of `make_plan`."""

    def __init__(self, request: FitRequest) -> None:
        """Fit every response to the evidence of `request`."""
        self._table = tabulate(request)
        self._surrogate = build(self._table, request.policy)
        self._goal = goal_of(request, self._table, self._surrogate)
        foreign = present(request, self._table).foreign_cpu_ratio
        assert foreign is not None
        self._foreign = foreign
        self.versus = lru_cache(maxsize=4096)(self._versus)

    def at(self, one: Setting, other: Setting, load_rps: float) -> Versus:
        """Both at a load, to within 1.5 % of it."""
        step = round(float(np.log(max(load_rps, 1e-9)) / np.log(_LOAD_STEP)))
        return self.versus(one, other, step)

    def _versus(self, one: Setting, other: Setting, step: int) -> Versus:
        levels = np.array([levels_of(setting, self._table.knobs) for setting in (one, other)])
        points = self._table.context_points(levels, _LOAD_STEP**step, self._foreign)
        posteriors = self._surrogate.predict(points, self._surrogate.nodes)
        draws = self._surrogate.draws(posteriors, 0)
        values = {name: draws[name] for name in self._goal.costly}
        cost = objective(self._goal, self._surrogate, values, points.load)
        worlds = {name: self._surrogate.natural(name, drawn) for name, drawn in draws.items()}
        apart = {OBJECTIVE: cost[:, 1] - cost[:, 0]}
        apart |= {name: world[:, 1] - world[:, 0] for name, world in worlds.items()}
        seen = self._surrogate.estimates(posteriors)
        return Versus(
            one=seen[0],
            other=seen[1],
            differences=tuple(
                (name, Estimate(mean=short(float(np.median(gap))), std=short(float(gap.std()))))
                for name, gap in sorted(apart.items())
            ),
        )
