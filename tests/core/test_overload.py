"""Past the peak of throughput more workers are a reason for the queue, and no remedy."""

from dataclasses import replace

import pytest
import ticks

from poolwright.core import learning, overload, planned, reflexes
from poolwright.core.guard import Verdict
from poolwright.core.model import Action, Estimate, Phase, Reason, setting


def state_of(served, *, load=50.0, workers=8, std=1.0, guard_rps=40.0):
    """A state whose plan expects `served[n]` requests/s of n workers at `load`."""
    bench = ticks.Bench(workers=workers)
    bench.run(4)
    state = bench.controller._state
    made = ticks.plan(1, workers, levels=served)
    state.plan = replace(
        made,
        candidates=tuple(
            replace(
                c,
                predictions=(
                    ("throughput_rps", Estimate(mean=served[c.setting["workers"]], std=std)),
                ),
            )
            for c in made.candidates
        ),
    )
    state.phase, state.commanded = Phase.EXPLORE, setting(workers=workers)
    for _ in range(40):
        state.schedule.see(load)
    assert planned.same_load(state)
    return state


def test_while_clients_queue_fewer_workers_are_taken_when_they_serve_more():
    state = state_of({6: 44.0, 7: 40.4, 8: 40.0})
    state.queued = True
    assert not learning._too_soon(state, setting(workers=6))
    assert learning._too_soon(state, setting(workers=7)), "one in a hundred is within the noise"


def test_without_a_way_up_one_that_may_well_serve_more_is_taken():
    state = state_of({6: 39.0, 8: 40.0}, std=3.0)
    state.queued = True
    assert learning._too_soon(state, setting(workers=6))
    state.growth_hold_s = 60.0
    assert not learning._too_soon(state, setting(workers=6))


@pytest.mark.parametrize(
    ("served", "load"),
    [({6: 50.0, 8: 49.5}, 50.0), ({8: 40.0}, 50.0), ({6: 60.0, 8: 40.0}, 90.0)],
    ids=["the plan knows of no overload", "it did not judge it", "it judged another load"],
)
def test_where_the_plan_does_not_know_nothing_shrinks_in_a_queue(served, load):
    state = state_of(served)
    for _ in range(40):
        state.schedule.see(load)
    state.queued = True
    assert learning._too_soon(state, setting(workers=6))


def test_nothing_grows_for_a_queue_that_the_plan_says_more_workers_will_not_serve():
    state = state_of({8: 40.0, 10: 34.0, 12: 39.5})
    assert overload._in_vain(state, setting(workers=10))
    assert not overload._in_vain(state, setting(workers=12)), "it may"
    assert not overload._in_vain(state, setting(workers=11)), "nobody knows"


def test_what_is_being_tried_is_left_while_another_service_is_slow():
    state = state_of({8: 50.0, 6: 50.0})
    state.previous, state.probing = setting(workers=6), True
    slow = Verdict(tripped=(), slow_dependency=True)
    left = reflexes.incident(state, slow)
    assert (left.action, left.reason) == (Action.RETREAT, Reason.SLOW_DEPENDENCY)
    assert left.wanted == setting(workers=6)
    assert not state.probing
    assert reflexes.incident(state, slow) is None, "what is held is held"
    state.probing = True
    assert reflexes.incident(state, Verdict(tripped=())) is None
