"""Evidence of another host, or of a staging run, believed as far as it foretells what is seen here.

A prior's windows count a quarter each at most. Once there are windows of this host, the surrogate
of the prior alone is asked what they would show; by as much as they are further off than it said,
the prior counts less: its weight is divided by the mean squared standardised error where that is
above 1, and below a hundredth it is not used at all. (A power prior, Ibrahim and Chen, Statistical
Science 2000, with its exponent from the fit.) What was tried elsewhere was not tried here: neither
the schedule nor an incumbent takes it for a setting that was visited.
"""

from dataclasses import replace

import numpy as np

from poolwright.core.model import Evidence, FitRequest
from poolwright.learn.declare import Graph
from poolwright.learn.points import tabulate
from poolwright.learn.surrogate import build

_MOST = 0.25  # of a window's weight
_LEAST = 0.0025
_COMPARED = 8  # windows, the oldest: later ones tell of drift
_FLOOR = 0.1  # of a response's logarithm: nothing is foretold closer between two hosts


def weighed(request: FitRequest, graph: Graph | None = None) -> FitRequest:
    """The request with its prior's weights as it deserves; without it when it deserves none."""
    if not request.prior:
        return request
    weight = _MOST / max(1.0, _error(request, graph))
    if weight < _LEAST:
        return replace(request, prior=())
    return replace(request, prior=tuple(_at(item, weight) for item in request.prior))


def _at(item: Evidence, weight: float) -> Evidence:
    return replace(item, weight=min(1.0, item.weight) * weight)


def _error(request: FitRequest, graph: Graph | None) -> float:
    """Mean squared standardised error of the prior over this host's windows; 1 without any."""
    own = request.evidence[:_COMPARED]
    if not own:
        return 1.0
    alone = replace(request, evidence=request.prior, prior=())
    surrogate = build(tabulate(alone), request.policy, graph)
    here = tabulate(replace(request, evidence=own, prior=()))
    posteriors = surrogate.predict(here.points, surrogate.nodes)
    errors: list[float] = []
    for name, seen in posteriors.items():
        node = surrogate.nodes[name]
        if not here.seen(name) or name == "error_ratio":
            continue
        value, std = node.scale.forward(*node.model.observed(here))
        spread = np.sqrt(seen.std**2 + surrogate.noise(name, seen) ** 2 + std**2 + _FLOOR**2)
        away = ((value - seen.mean) / spread)[np.isfinite(value)]
        if len(away):
            errors.append(float(np.mean(away**2)))
    return float(np.mean(errors)) if errors else 1.0
