"""The control laws do by hand what their sources say, and a sample is one in their own time."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import laws


def seen(**changes):
    """A second in which 20 workers served 100 requests of 0.1 s each."""
    at = {
        q: changes.pop(name, default)
        for name, q, default in (("p50", 0.5, 0.1), ("p90", 0.9, 0.15))
    }
    found = {
        "span_s": 1.0, "settled": True, "done": 100.0, "throughput": 100.0, "service": 0.1,
        "quantile": at.__getitem__, "busy": 10.0, "queue": 0.0, "cpu": 2.0, "foreign": 0.0,
        "cores": 8.0, **changes,
    }  # fmt: skip
    found.setdefault("in_flight", found["busy"])
    found.setdefault("reserved", found["busy"] + found["queue"])
    return laws.Sample(**found)


def made(law, start=20, most=64, **options):
    return law(start, 1, most, np.random.default_rng(0), **options)


@pytest.mark.parametrize("law", laws.LAWS.values(), ids=lambda law: law.__name__)
def test_a_law_stays_within_its_bounds(law):
    rng = np.random.default_rng(1)
    for start in (2, 9):
        subject, n = law(start, 2, 9, np.random.default_rng(0), slo_s=0.1), start
        for _ in range(300):
            busy = float(rng.uniform(0.0, n))
            told = seen(busy=busy, service=float(rng.uniform(0.05, 0.5)), queue=rng.uniform(0, 60))
            if subject.ready(n, told):
                n = subject.take(n, told)
            assert 2 <= n <= 9


def test_aimd_adds_one_when_half_used_and_backs_off_on_a_timeout():
    law = made(laws.Aimd, slo_s=0.5)
    assert law.next(20, seen(busy=10.0)) == 21
    assert law.next(20, seen(busy=9.0)) == 20
    assert law.next(20, seen(service=0.6)) == 18


def test_vegas_keeps_its_queue_between_three_and_six():
    law = made(laws.Vegas)
    law.jitter = 1.0
    assert law.next(20, seen(service=0.10)) == 20  # the baseline
    assert law.next(20, seen(service=0.101)) == 26  # a queue of 1: plus beta
    assert law.next(20, seen(service=0.109)) == 21  # 2: plus one
    assert law.next(20, seen(service=0.12)) == 20  # 4: hold
    assert law.next(20, seen(service=0.20)) == 19  # 10: minus one
    assert law.next(20, seen(service=0.20, busy=9.0)) == 20  # limited by its load


def test_gradient2_settles_at_the_queue_over_one_less_the_gradient():
    law = made(laws.Gradient2)
    law.count, law.long = 700, 0.1
    for _ in range(200):
        law.long = 0.1
        law.level = law.next(20, seen(service=0.1 * 1.5 / 0.8, busy=60.0))
    assert law.level == pytest.approx(20.0, abs=0.5)


def test_envoy_measures_at_three_and_settles_at_its_fixed_point():
    law = made(laws.Envoy)
    assert law.next(20, seen()) == 3.0
    law.level = law.next(3, seen(p50=0.1))
    assert law.level == 20.0
    for _ in range(100):
        law.level = law.next(20, seen(p50=0.125 / 0.8))
    assert law.level == pytest.approx(20.0, abs=4.0)  # g / (1 - g)^2, rounded down as it goes


def test_goertzel_finds_the_amplitude_of_its_own_wave_only():
    wave = [5.0 + 2.0 * (k // 2 % 2) for k in range(32)]
    amplitude = abs(laws.DotNet.goertzel(wave, 4))
    assert amplitude == pytest.approx(1.0 / np.sqrt(2.0), rel=1e-6)
    assert abs(laws.DotNet.goertzel(wave, 32 / 9)) == pytest.approx(0.0, abs=1e-9)


def test_net_hill_climbing_climbs_while_a_thread_buys_throughput_and_no_longer():
    law = made(laws.DotNet, start=5, span_s=1.0)
    levels = []
    for _ in range(120):
        n = int(law.level)
        levels.append(n)
        law.level = max(1.0, law.next(n, seen(throughput=10.0 * min(n, 30))))
    assert 25 <= np.mean(levels[-20:]) <= 40


def test_busyness_adds_over_half_and_removes_only_after_a_while():
    law = made(laws.Busyness, span_s=3.0)
    assert law.next(20, seen(busy=11.0)) == 21
    quiet = [law.next(20, seen(busy=2.0)) for _ in range(10)]
    assert quiet == [20] * 9 + [19]
    assert law.next(20, seen(busy=6.0, queue=40.0)) == 21


def test_celery_follows_the_requests_and_does_not_shrink_at_once():
    law = made(laws.Celery, span_s=30.0)
    assert law.next(20, seen(busy=5.0)) == 20  # it never grew
    assert law.next(20, seen(busy=20.0, queue=4.5)) == 25
    assert law.next(25, seen(busy=5.0)) == 25
    assert law.next(25, seen(busy=5.0)) == 5


def test_hpa_tolerates_a_tenth_and_shrinks_to_the_most_of_five_minutes():
    law = made(laws.Hpa, span_s=30.0)
    assert law.next(20, seen(busy=17.0)) == 20
    assert law.next(20, seen(busy=20.0)) == 25
    assert [law.next(25, seen(busy=10.0)) for _ in range(9)] == [25] * 9
    assert law.next(25, seen(busy=10.0)) == 13


def test_arc_and_failsafe_back_off_when_latency_is_unusual():
    arc, limiter = made(laws.VectorArc), made(laws.Failsafe)
    for k in range(20):
        arc.next(20, seen(service=0.1 + 0.002 * (k % 2), busy=19.0))
        assert limiter.next(20, seen(p90=0.1)) == 21
    assert arc.next(20, seen(service=0.1, busy=19.0)) == 21
    assert arc.next(20, seen(service=0.3, busy=19.0)) == 18
    found = [limiter.next(20, seen(p90=0.1 * 1.5**k)) for k in range(6)]
    assert found[-1] == 19


def test_a_window_of_few_requests_is_dropped_by_netflix_and_grows_on_for_failsafe():
    few = seen(done=9.0)
    assert made(laws.Aimd).take(20, few) == 20
    assert made(laws.Aimd).take(20, seen()) == 21
    limiter = made(laws.Failsafe)
    assert not limiter.ready(20, few)
    assert limiter.ready(20, seen(done=50.0))
    assert not limiter.ready(20, seen(done=49.0, span_s=30.0))


def test_net_waits_until_what_is_under_way_is_a_small_error():
    law = made(laws.DotNet)
    assert law.ready(20, seen(done=5.0))  # the first sample is taken as it is
    law.next(20, seen(done=5.0))
    assert not law.ready(20, seen(done=126.0))  # 19 / 126 is over 0.15
    assert law.ready(20, seen(done=127.0))


def test_envoy_forgets_what_a_measurement_found_under_way_and_asks_for_fifty():
    law = made(laws.Envoy)
    assert law.take(20, seen(span_s=0.1)) == 3
    assert law.ready(3, seen(settled=False, done=2.0))
    assert law.take(3, seen(settled=False, done=2.0, p50=9.0)) == 3
    assert not law.ready(3, seen(done=49.0))
    assert law.take(3, seen(done=50.0, p50=0.1)) == 20
    assert law.base == 0.1
    waited = 0
    while law.take(20, seen(p50=0.125 / 0.8)) != 3:
        waited += 1
    assert waited == pytest.approx(600, abs=2)  # a minute of samples


def test_busyness_is_judged_over_three_cycles_and_a_backlog_in_any():
    law = made(laws.Busyness)
    assert [law.next(20, seen(busy=11.0)) for _ in range(6)] == [20, 20, 21] * 2
    assert law.next(20, seen(busy=6.0, queue=34.0)) == 21


def test_celery_keeps_what_it_grew_to_for_half_a_minute():
    law = made(laws.Celery)
    assert law.next(20, seen(busy=20.0, queue=5.0)) == 25
    kept = [law.next(25, seen(busy=5.0)) for _ in range(31)]
    assert kept == [25] * 30 + [5]


def test_hpa_on_cpu_is_told_what_a_worker_may_use():
    law = made(laws.HpaOnCpu)
    law.target = 0.05
    assert law.next(20, seen(cpu=1.05)) == 20
    assert law.next(20, seen(cpu=1.5)) == 30
    assert law.next(20, seen(cpu=9.0)) == 40  # at most to twice
    assert math.isnan(laws.HpaOnCpu.target)
