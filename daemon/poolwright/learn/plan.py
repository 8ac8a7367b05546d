"""From evidence to a plan: the learner's one function."""

import numpy as np

from poolwright.core.model import FitRequest, Plan
from poolwright.learn.decide import choose
from poolwright.learn.declare import Graph
from poolwright.learn.judge import goal_of
from poolwright.learn.points import levels_of, present, tabulate
from poolwright.learn.prior import weighed
from poolwright.learn.schedule import held, make_schedule
from poolwright.learn.surrogate import beliefs, build, calibration


def make_plan(request: FitRequest, graph: Graph | None = None) -> Plan:
    """Fit every response to the evidence and judge the knob lattice.

    `graph` replaces the shipped models and those installed. Pure and stateless: the same request
    gives the same plan (bytes, with one BLAS thread); `fit_s` is left 0. Raises ValueError when
    nothing can be learned: no usable evidence, a setting of other knobs, an objective of which
    nothing was ever seen, or an installed model that cannot be loaded.
    """
    request = weighed(request, graph)
    table = tabulate(request)
    surrogate = build(table, request.policy, graph)
    goal = goal_of(request, table, surrogate)
    now = present(request, table)
    assert now.load_rps is not None
    assert now.foreign_cpu_ratio is not None
    incumbent = np.array([levels_of(request.incumbent, table.knobs)])
    schedule = make_schedule(request, table, surrogate, goal, now)
    wanted = held(schedule, now.load_rps).setting
    choice = choose(request, table, surrogate, goal, now, wanted)
    return Plan(
        version=request.version,
        fitted_tick=request.tick,
        evidence_digest=request.evidence_digest,
        context=now,
        schedule=schedule,
        candidates=choice.candidates,
        probes=choice.probes,
        best_gain_ratio=choice.best_gain_ratio,
        references=goal.references,
        belief=beliefs(
            surrogate, table.context_points(incumbent, now.load_rps, now.foreign_cpu_ratio)
        ),
        calibration=calibration(surrogate),
    )
