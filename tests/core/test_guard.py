"""What the guard says of a tick, before anything that was learned."""

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ticks import policy

from poolwright.core.burn import beyond_chance
from poolwright.core.guard import Guard
from poolwright.core.model import Reason, setting
from poolwright.core.policy import GuardRule, Slo
from poolwright.core.sample import Sample
from poolwright.core.sketch import merged, sketch_of

FOUR = setting(workers=4)
STEADY = [0.1 + 0.001 * i for i in range(50)]  # seconds


def sample(latencies=STEADY, **more):
    """A tick of a healthy service with these latencies."""
    sketch = sketch_of(latencies) if latencies else None
    seen = {
        "throughput_rps": float(len(latencies)),
        "load_rps": float(len(latencies)),
        "errors_rps": 0.0,
        "latency": sketch,
        "service_time": sketch,
        "queue_length": 0.0,
        "queue_delay_s": 0.0,
        "cpu_cores": 0.01 * len(latencies),
        "host_cpu_ratio": 0.4,
        "foreign_cpu_ratio": 0.1,
        "memory_bytes": 400e6,
        "host_memory_used_bytes": 1e9,
        "memory_limit_bytes": 8e9,
    }
    return Sample(tick=0, dt_s=1.0, **(seen | more))


def judge(guard, one, ticks=1, **more):
    for _ in range(ticks):
        verdict = guard.judge(one, FOUR, **more)
    return verdict


def guard(*slo, **rule):
    return Guard(policy(slo=slo, objective=(), guard=GuardRule(**rule)))


P99 = Slo(response="latency_p99_s", below=0.5)
JITTER = Slo(response="jitter_s", below=0.05)


def test_a_healthy_service_trips_nothing():
    verdict = judge(guard(P99, JITTER, psi_cpu_ratio=0.5), sample(psi_cpu_ratio=0.1), 60)
    assert verdict.tripped == ()
    assert verdict.blind_to == ()
    assert not verdict.queueing
    assert not verdict.slow_dependency


# Quantiles of any order


@pytest.mark.parametrize("response", ["latency_p50_s", "latency_p90_s", "latency_p99.9_s"])
def test_a_quantile_of_any_order_is_kept(response):
    slo = Slo(response=response, below=0.5)
    share = 1.2 * (1.0 - float(response[9:-2]) / 100.0)
    slow = round(1000 * share) or 1
    bad = sample([2.0] * max(slow, 4) * 3 + [0.1] * 200)
    assert judge(guard(slo), bad, 5).tripped == (Reason.SLO_BREACH,)
    assert judge(guard(slo), sample(), 5).tripped == ()


def test_one_slow_request_of_a_quiet_service_is_chance():
    one = guard(P99)
    judge(one, sample([0.1]), 10)
    assert judge(one, sample([9.0])).tripped == ()
    assert judge(one, sample([0.1]), 10).tripped == ()


def test_a_breach_is_k_of_n_ticks_and_is_forgotten_with_the_setting():
    one = guard(P99, breach_ticks=3, breach_of_ticks=5)
    assert judge(one, sample([2.0] * 50), 2).tripped == ()
    assert judge(one, sample([2.0] * 50)).tripped == (Reason.SLO_BREACH,)
    one.forget()
    assert judge(one, sample()).tripped == ()


LATENCIES = st.lists(st.lists(st.floats(1e-3, 2.0), max_size=30), min_size=1, max_size=12)


@given(LATENCIES, st.sampled_from([0.5, 0.9, 0.99]))
def test_counting_ticks_says_the_same_as_merging_their_sketches(ticks, quantile):
    slo = Slo(response=f"latency_p{quantile * 100:.0f}_s", below=0.5)
    one = guard(slo, breach_ticks=1, breach_of_ticks=5)
    over = []
    for i, latencies in enumerate(ticks):
        seen = sample(latencies)
        together = merged(sketch_of(t) for t in ticks[max(0, i - 4) : i + 1])
        over.append(beyond_chance(together.above(0.5), together.count, 1.0 - quantile))
        tripped = Reason.SLO_BREACH in judge(one, seen).tripped
        assert tripped == any(over[-5:])


# Jitter


def test_latency_that_spreads_further_than_the_slo_allows_trips_the_guard():
    unsteady = [0.02, 0.18] * 25  # a standard deviation of 80 ms around a good mean
    assert judge(guard(JITTER), sample(unsteady), 5).tripped == (Reason.SLO_BREACH,)
    assert judge(guard(JITTER), sample(), 5).tripped == ()


def test_a_slow_service_with_little_jitter_keeps_an_slo_on_jitter():
    assert judge(guard(JITTER), sample([9.0, 9.01] * 25), 5).tripped == ()


def test_one_outlier_is_no_jitter():
    one = guard(JITTER)
    for _ in range(30):
        assert judge(one, sample([*STEADY, 2.0])).tripped == ()
        assert judge(one, sample(), 4).tripped == ()


@pytest.mark.parametrize("law", ["normal", "exponential"])
@pytest.mark.parametrize("per_tick", [2, 10, 60])
def test_jitter_just_within_its_bound_seldom_trips_by_chance(law, per_tick):
    """One-sided 95 % a tick, over five ticks that share requests; three of five must agree."""
    random = Random(f"{law}:{per_tick}")
    trips = 0
    for _ in range(100):
        one = guard(JITTER)
        for _ in range(5):
            if law == "normal":
                seen = [max(0.0, random.gauss(1.0, 0.05)) for _ in range(per_tick)]
            else:
                seen = [random.expovariate(1 / 0.05) for _ in range(per_tick)]
            verdict = judge(one, sample(seen))
        trips += bool(verdict.tripped)
    assert trips <= 12


def test_jitter_well_over_its_bound_trips_whatever_its_law():
    random = Random(7)
    one = guard(JITTER)
    for _ in range(5):
        verdict = judge(one, sample([random.expovariate(1 / 0.08) for _ in range(60)]))
    assert verdict.tripped == (Reason.SLO_BREACH,)


def test_jitter_of_too_few_requests_is_unknown():
    assert judge(guard(JITTER), sample([9.0]), 1).tripped == ()
    assert judge(guard(JITTER), sample([]), 9).tripped == ()


# Pressure


@pytest.mark.parametrize("resource", ["cpu", "memory", "io"])
def test_pressure_above_its_limit_trips_after_k_of_n_ticks(resource):
    name = f"psi_{resource}_ratio"
    one = guard(**{name: 0.30})
    stalled = sample(**{name: 0.40})
    assert judge(one, stalled, 2).tripped == ()
    assert judge(one, stalled).tripped == (Reason.PRESSURE_BREACH,)
    assert judge(one, sample(**{name: 0.25}), 5).tripped == ()


def test_pressure_without_a_limit_is_nobodys_business():
    one = guard(psi_io_ratio=0.3)
    stalled = sample(psi_cpu_ratio=1.0, psi_memory_ratio=None, psi_io_ratio=0.1)
    verdict = judge(one, stalled, 9)
    assert verdict.tripped == ()
    assert verdict.blind_to == ()


def test_pressure_that_has_a_limit_and_cannot_be_seen_is_blindness():
    verdict = judge(guard(psi_memory_ratio=0.3), sample(psi_memory_ratio=None), 7)
    assert verdict.blind_to == ("psi_memory_ratio",)
    assert verdict.blind_s == 7.0
    assert verdict.tripped == ()


# Sight


def test_an_idle_service_is_seen_although_it_has_no_latency():
    assert judge(guard(P99), sample([])).blind_to == ()


@pytest.mark.parametrize(
    ("unseen", "named"),
    [
        ({"latency": None}, ("latency_s",)),
        ({"throughput_rps": None}, ("throughput_rps",)),
        ({"latency": None, "throughput_rps": None}, ("throughput_rps", "latency_s")),
        ({"errors_rps": None}, ("errors_rps",)),
        ({"memory_limit_bytes": None}, ("host_memory_used_bytes",)),
    ],
)
def test_what_the_policy_needs_and_cannot_see_is_named(unseen, named):
    one = guard(P99, Slo(response="error_ratio", below=0.01))
    assert judge(one, sample(**unseen)).blind_to == named


# Causes


def test_a_slow_dependency_is_told_and_an_overload_of_our_own_is_not_blamed_on_it():
    """concurrency-limits issue 171."""
    slow = [3.0 * s for s in STEADY]
    one, other = guard(P99), guard(P99)
    assert not judge(one, sample(), 120).slow_dependency
    assert not judge(other, sample(), 120).slow_dependency
    assert judge(one, sample(slow), 10).slow_dependency
    assert not judge(other, sample(slow, cpu_cores=1.9), 10).slow_dependency


def test_what_is_normal_outlives_a_change_of_setting_and_not_a_restart():
    slow = sample([3.0 * s for s in STEADY])
    one, other = guard(P99), guard(P99)
    judge(one, sample(), 120)
    judge(other, sample(), 120)
    one.forget()
    other.restart()
    assert judge(one, slow, 10).slow_dependency
    assert not judge(other, slow, 10).slow_dependency


@pytest.mark.parametrize("unhealthy", [{"queue_delay_s": 0.4}, {"host_memory_used_bytes": 7.9e9}])
def test_a_breach_or_a_queue_is_never_learned_as_normal(unhealthy):
    one = guard(P99)
    judge(one, sample([0.02] * 50, **unhealthy), 600)
    assert not judge(one, sample(), 30).slow_dependency  # five times that, and yet the first normal


def test_what_the_controller_does_not_call_calm_is_not_learned():
    one = guard(P99)
    judge(one, sample([0.02] * 50), 600, calm=False)
    assert not judge(one, sample(), 30, calm=False).slow_dependency


# Whatever is seen


SEEN = st.builds(
    lambda latencies, **more: replace(sample(latencies), **more),
    st.lists(st.floats(0.0, 100.0), max_size=20),
    dt_s=st.sampled_from([0.0, 0.5, 1.0, 3600.0]),
    throughput_rps=st.one_of(st.none(), st.floats(0.0, 1e6)),
    errors_rps=st.one_of(st.none(), st.floats(0.0, 1e6)),
    cpu_cores=st.one_of(st.none(), st.floats(0.0, 64.0)),
    host_cpu_ratio=st.one_of(st.none(), st.floats(0.0, 1.0)),
    queue_length=st.one_of(st.none(), st.floats(0.0, 1e5)),
    queue_delay_s=st.one_of(st.none(), st.floats(0.0, 1e5)),
    psi_io_ratio=st.one_of(st.none(), st.floats(0.0, 1.0)),
)


@given(st.lists(SEEN, max_size=40), st.booleans())
def test_any_world_is_judged_and_the_same_world_alike(world, calm):
    errors = Slo(response="error_ratio", below=0.01)
    one, other = (guard(P99, JITTER, errors, psi_io_ratio=0.5) for _ in range(2))
    for seen in world:
        verdict = one.judge(seen, FOUR, calm=calm)
        assert verdict == other.judge(seen, FOUR, calm=calm)
        assert math.isfinite(verdict.blind_s)
        assert bool(verdict.blind_to) == (verdict.blind_s > 0.0) or seen.dt_s == 0.0
        if seen.cpu_cores is None or seen.throughput_rps is None:
            assert not verdict.slow_dependency


def test_service_times_of_no_request_at_all_are_no_service_times():
    empty = sample([], service_time=sketch_of([]), queue_length=9.0, queue_delay_s=3.0)
    assert judge(guard(P99), empty, 3).queueing


def test_completions_whose_errors_are_not_seen_are_not_taken_for_served():
    guard = Guard(policy())
    for missing, errors in (((), 10.0), (("errors_rps",), None)):
        guard.judge(
            Sample(tick=0, dt_s=1.0, throughput_rps=50.0, errors_rps=errors, missing=missing),
            setting(workers=4),
        )
    assert guard.throughput_rps == 40.0
