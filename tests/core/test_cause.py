"""A slow dependency is told from an overload of our own, as concurrency-limits issue 171 asks."""

from random import Random

import pytest

from poolwright.core.cause import Cause
from poolwright.core.policy import GuardRule
from poolwright.core.sample import Sample
from poolwright.core.sketch import sketch_of

RULE = GuardRule(breach_ticks=3, breach_of_ticks=5, dependency_ratio=1.5)


def sample(*, rps=50.0, service_s=0.1, cpu_s=0.01, host=0.4, queue=0.0, **more):
    """A tick of `rps` requests of that service time, each burning `cpu_s` seconds of CPU."""
    spread = Random(f"{rps}:{service_s}:{cpu_s}")
    count = round(rps)
    service = sketch_of([service_s * spread.uniform(0.6, 1.4) for _ in range(count)])
    seen = {
        "throughput_rps": rps,
        "load_rps": rps,
        "errors_rps": 0.0,
        "service_time": service if count else None,
        "cpu_cores": rps * cpu_s,
        "host_cpu_ratio": host,
        "queue_length": queue,
    }
    return Sample(tick=0, dt_s=1.0, **(seen | more))


def see(cause, one, ticks=1, *, calm=True, size=None):
    """What is said after so many ticks."""
    said = None
    for _ in range(ticks):
        said = cause.see(one, calm=calm, size=size)
    return said


def used_to(one=None, ticks=200):
    """A cause that has learned what is normal."""
    cause = Cause(RULE)
    assert not see(cause, one or sample(), ticks)
    return cause


def test_requests_that_take_longer_without_more_cpu_wait_for_something_slow():
    assert see(used_to(), sample(service_s=0.3), 8, calm=False)


def test_it_takes_k_of_n_ticks_which_is_no_later_than_a_queue_and_ends_soon_after():
    cause = used_to()
    said = [see(cause, sample(service_s=0.4), calm=False) for _ in range(4)]
    assert said == [False, False, True, True]
    assert not see(cause, sample(), 4)


@pytest.mark.parametrize(
    "overload",
    [
        sample(service_s=0.3, cpu_s=0.05),  # the code burns more CPU
        sample(service_s=0.3, host=0.97),  # they share a busy host
        sample(service_s=0.3, rps=90.0),  # more is asked of it than normally
        sample(service_s=0.13),  # hardly longer
    ],
)
def test_an_overload_of_our_own_is_not_blamed_on_others(overload):
    assert not see(used_to(), overload, 60, calm=False)


@pytest.mark.parametrize(
    "unseen",
    [
        {"cpu_cores": None},
        {"host_cpu_ratio": None},
        {"throughput_rps": None},
        {"service_time": None},
    ],
)
def test_without_the_numbers_it_needs_it_says_no(unseen):
    assert not see(used_to(), sample(service_s=0.5, **unseen), 60, calm=False)


def test_without_a_normal_it_says_no():
    cause = Cause(RULE)
    assert not see(cause, sample(service_s=5.0), 600, calm=False)
    assert not see(cause, sample(service_s=9.0), 60, calm=False)


def test_a_pool_in_which_all_workers_block_still_waits_for_something_slow():
    """A queue grows and CPU falls: what completes carries the CPU of a pool that idles."""
    hardly = sample(rps=1.0, service_s=20.0, cpu_cores=0.08, queue=80.0)
    assert see(used_to(), hardly, 10, calm=False)


def test_a_pool_that_completes_nothing_and_burns_nothing_is_blocked():
    silent = sample(rps=0.0, cpu_cores=0.02, queue=80.0)
    assert see(used_to(), silent, 3, calm=False)


def test_a_pool_that_completes_nothing_and_burns_cpu_is_at_fault_itself():
    assert not see(used_to(), sample(rps=0.0, cpu_cores=1.0, queue=80.0), 60, calm=False)


def test_a_pool_that_nobody_asks_is_not_blocked():
    assert not see(used_to(), sample(rps=0.0, cpu_cores=0.0, queue=0.0), 600)


def test_ticks_without_a_completion_are_common_in_a_slow_service():
    rare = used_to(sample(rps=1.0, service_s=3.0, cpu_s=0.5), 400)
    assert not see(rare, sample(rps=0.0, cpu_cores=0.0, queue=2.0), 4, calm=False)


def test_one_long_pause_is_no_trend():
    """A garbage collection: requests of one tick take ten times as long (issue 155 and others)."""
    cause = used_to()
    for _ in range(20):
        assert not see(cause, sample(service_s=1.0), calm=False)
        assert not see(cause, sample(), 10)


def test_a_few_slow_requests_of_a_quiet_service_are_chance():
    cause = used_to(sample(rps=2.0), 300)
    random = Random(3)
    for _ in range(600):
        times = [0.1 * random.expovariate(1.0) for _ in range(2)]
        assert not see(cause, sample(rps=2.0, service_time=sketch_of(times)))


def test_a_long_incident_does_not_become_the_baseline():
    """failsafe-go issue 127; Envoy pull request 11579: here also where nothing else breaches."""
    cause = used_to()
    assert see(cause, sample(service_s=0.3), 1500, calm=True)
    assert not see(cause, sample(), 60)
    assert see(cause, sample(service_s=0.3), 8, calm=True)


def test_an_incident_just_below_the_bound_does_not_become_the_baseline():
    cause = used_to(ticks=3600)
    see(cause, sample(service_s=0.14), 1500)
    assert see(cause, sample(service_s=0.18), 20)


def test_what_lasts_for_half_an_hour_is_the_new_normal():
    """A deploy that calls a slower service: without this it would never grow again."""
    cause = used_to()
    assert see(cause, sample(service_s=0.3), 1700, calm=False)
    assert not see(cause, sample(service_s=0.3), 400, calm=False)
    see(cause, sample(service_s=0.3), 200)
    assert see(cause, sample(service_s=0.9), 8, calm=False)


def test_a_service_that_became_faster_is_believed_at_once():
    cause = used_to()
    see(cause, sample(service_s=0.03), 2400)
    assert see(cause, sample(service_s=0.09), 8, calm=False)


def test_nothing_is_learned_while_things_move_or_breach():
    cause = used_to()
    see(cause, sample(service_s=0.118), 3600, calm=False)
    assert see(cause, sample(service_s=0.165), 20, calm=False)  # 1.4 times what it was of late


def test_fast_failures_are_not_what_is_normal():
    """concurrency-limits issue 176: failures come back fast and look like low latency."""
    cause = Cause(RULE)
    see(cause, sample(service_s=0.005, errors_rps=25.0), 600)
    assert not see(cause, sample(), 60)
    see(cause, sample(service_s=0.005, errors_rps=25.0), 3600)
    assert not see(cause, sample(), 60)


def test_an_idle_night_does_not_change_what_is_normal():
    cause = used_to()
    see(cause, sample(rps=0.0), 8 * 3600)
    assert see(cause, sample(service_s=0.3), 8, calm=False)


def test_after_a_restart_it_learns_anew():
    cause = used_to()
    cause.forget()
    assert not see(cause, sample(service_s=0.3), 60, calm=False)
    see(cause, sample(service_s=0.3), 200)
    assert see(cause, sample(service_s=0.9), 8, calm=False)


def test_a_lock_of_our_own_after_growth_is_not_blamed_on_others():
    cause = used_to()
    see(cause, sample(), 30, size=4)
    assert not see(cause, sample(service_s=0.4), 600, calm=False, size=12)
    assert not see(cause, sample(), 5, size=4)  # back where it was
    assert see(cause, sample(service_s=0.4), 8, calm=False, size=4)


def test_growth_that_was_calm_for_a_minute_is_blamed_no_more():
    cause = used_to()
    see(cause, sample(), 30, size=4)
    see(cause, sample(service_s=0.11), 61, size=8)
    assert see(cause, sample(service_s=0.4), 8, calm=False, size=8)


def test_growth_after_it_became_slow_is_not_what_made_it_slow():
    cause = used_to()
    see(cause, sample(), 30, size=4)
    see(cause, sample(service_s=0.4), 1, calm=False, size=4)
    assert see(cause, sample(service_s=0.4), 8, calm=False, size=8)


def test_a_level_that_cannot_be_read_changes_nothing():
    cause = used_to()
    see(cause, sample(), 30, size=4)
    see(cause, sample(service_s=0.4), 8, calm=False, size=12)
    assert not see(cause, sample(service_s=0.4), 30, calm=False, size=None)
