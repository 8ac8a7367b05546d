"""The learner without one of its parts, by what it is asked: its code is not touched.

`residual` (parametric only) and `mean` (Gaussian process only) replace the graph of models, which
make_plan takes as an argument; the others change the FitRequest.
"""

import inspect
import statistics
from collections.abc import Callable
from dataclasses import replace

from poolwright.core.model import Context, Evidence, FitRequest, Plan
from poolwright.learn.plan import make_plan

Planner = Callable[[FitRequest], Plan]
_EVERYWHERE = 64.0  # octaves
_NEXT_TO_NOTHING = 1e-4  # amplitude of a residual
_FREE = (0.1, 0.2, 0.35, 0.6, 1.0)  # amplitudes of a residual that has no mean to help it


def without_trust_region(request: FitRequest) -> FitRequest:
    """The whole lattice is near."""
    return replace(request, trust_octaves=_EVERYWHERE)


def without_safe_set(request: FitRequest) -> FitRequest:
    """Nothing is forbidden. (The core's guard still is there, and the forecast of memory.)"""
    policy = replace(request.policy, slo=())
    return replace(request, policy=policy, memory_limit_bytes=None)


def without_context(request: FitRequest) -> FitRequest:
    """Every window had the same load and no foreign CPU."""
    loads = [item.observation.context.load_rps for item in request.evidence]
    known = [load for load in loads if load is not None]
    usual = statistics.median(known) if known else None

    def blind(item: Evidence) -> Evidence:
        context = Context(load_rps=usual, foreign_cpu_ratio=0.0)
        return replace(item, observation=replace(item.observation, context=context))

    return replace(
        request,
        evidence=tuple(blind(item) for item in request.evidence),
        context=Context(load_rps=usual, foreign_cpu_ratio=0.0),
    )


_REQUESTS = {
    "trust region": without_trust_region,
    "safe set": without_safe_set,
    "context": without_context,
}


def ablated(what: str) -> Planner:
    """make_plan without `what`; SystemExit when this tree's learner cannot do without it."""
    if not what:
        return make_plan
    if what in _REQUESTS:
        change = _REQUESTS[what]
        return lambda request: make_plan(change(request))
    if what not in ("residual", "mean") or "graph" not in inspect.signature(make_plan).parameters:
        raise SystemExit(f"this tree's learner cannot do without {what!r}")
    graph = _without_residual if what == "residual" else _without_mean
    return lambda request: make_plan(request, graph=graph)


def _without_residual(responses, policy):
    from poolwright.learn.responses import shipped

    models = shipped(responses, policy)
    for model in models:
        model.amplitudes = (_NEXT_TO_NOTHING,)
    return models


def _without_mean(responses, policy):
    from poolwright.learn.declare import Model, Normal
    from poolwright.learn.responses import shipped

    class Flat(Model):
        """A constant and a Gaussian process, with the shipped model's view of the response."""

        amplitudes = _FREE

        def __init__(self, like: Model) -> None:
            self.response, self.noises = like.response, like.noises
            self.scale_of, self.observed, self.bounds = like.scale_of, like.observed, like.bounds

        def priors(self, seen):
            return {"level": Normal(seen.first, 1.0)}

        def mean(self, p, at):
            return p.level + 0.0 * at.log_load

    return tuple(Flat(model) for model in shipped(responses, policy))
