"""Netflix's lesson: a fall in load is often an outage, and its end a storm of retries."""

import math
from random import Random

import pytest

from poolwright.core.fall import Fall
from poolwright.core.policy import GuardRule

RULE = GuardRule(fall_ratio=0.30, fall_hold_s=1800.0)


def poisson(random, mean):
    """A Poisson number: by waiting times when small, else by the normal law it approaches."""
    if mean > 50.0:
        return max(0.0, round(random.gauss(mean, math.sqrt(mean))))
    count, at = 0, random.expovariate(1.0)
    while at < mean:
        count += 1
        at += random.expovariate(1.0)
    return float(count)


def see(fall, rps, seconds, random=None):
    """`seconds` ticks at that load (a function of the second, or a number, or None)."""
    for second in range(seconds):
        load = rps(second) if callable(rps) else rps
        fall.see(load if random is None or load is None else poisson(random, load), 1.0)


def fallen(before=100.0, after=50.0):
    fall = Fall(RULE)
    see(fall, before, 300)
    see(fall, after, 60)
    return fall


def test_a_sudden_fall_forbids_shrinking_for_the_time_that_the_policy_says():
    fall = Fall(RULE)
    see(fall, 100.0, 300)
    assert fall.hold_s == 0.0
    see(fall, 50.0, 40)
    assert fall.hold_s > 1780.0
    see(fall, 50.0, 1700)
    assert fall.hold_s > 0.0
    see(fall, 50.0, 150)
    assert fall.hold_s == 0.0


def test_a_known_load_of_zero_is_a_fall():
    assert fallen(after=0.0).hold_s > 0.0


def test_an_unknown_load_is_no_fall():
    assert fallen(after=None).hold_s == 0.0


def test_a_smaller_fall_than_the_policy_says_is_none():
    assert fallen(after=72.0).hold_s == 0.0
    assert fallen(after=68.0).hold_s == 0.0  # it might be chance
    assert fallen(after=60.0).hold_s > 0.0


def test_a_fall_that_takes_half_a_minute_is_sudden():
    fall = Fall(RULE)
    see(fall, 100.0, 300)
    see(fall, lambda second: 100.0 - 2.0 * second, 30)
    see(fall, 40.0, 40)
    assert fall.hold_s > 0.0


def test_what_went_down_behind_a_blind_spot_counts_as_sudden():
    fall = Fall(RULE)
    see(fall, 100.0, 300)
    see(fall, None, 600)
    assert fall.hold_s == 0.0
    see(fall, 40.0, 120)
    assert fall.hold_s > 0.0


def test_after_a_blind_spot_longer_than_the_hold_nothing_is_remembered():
    fall = Fall(RULE)
    see(fall, 100.0, 300)
    see(fall, None, 1900)
    see(fall, 40.0, 400)
    assert fall.hold_s == 0.0


def test_an_evening_is_no_fall():
    random, fall = Random(4), Fall(RULE)
    for second in range(6 * 3600):  # from the top of the day to its bottom, ten to one
        rps = 110.0 + 90.0 * math.cos(math.pi * second / (6 * 3600))
        fall.see(poisson(random, rps), 1.0)
        assert fall.hold_s == 0.0


def test_the_end_of_a_short_burst_is_no_fall():
    fall = Fall(RULE)
    see(fall, 50.0, 300)
    see(fall, 500.0, 45)
    see(fall, 50.0, 300)
    assert fall.hold_s == 0.0


@pytest.mark.parametrize("rps", [0.1, 0.5, 2.0, 10.0, 60.0, 400.0])
@pytest.mark.parametrize("seed", range(3))
def test_noise_of_a_constant_load_is_no_fall(rps, seed):
    random, fall = Random(f"{rps}:{seed}"), Fall(RULE)
    for _ in range(7200):
        fall.see(poisson(random, rps), 1.0)
        assert fall.hold_s == 0.0


def test_a_load_that_is_back_for_minutes_ends_the_hold_and_a_short_return_does_not():
    fall = fallen()
    see(fall, 95.0, 200)
    assert fall.hold_s > 0.0  # those who back off for two minutes may not have been here
    see(fall, 50.0, 120)
    see(fall, 95.0, 200)
    assert fall.hold_s > 0.0
    see(fall, 95.0, 200)
    assert fall.hold_s == 0.0


def test_a_load_that_is_only_half_back_does_not_end_the_hold():
    fall = fallen()
    see(fall, 75.0, 1200)
    assert fall.hold_s > 0.0


def test_what_is_not_seen_is_not_taken_for_a_return():
    fall = fallen()
    see(fall, lambda second: None if second % 60 == 0 else 100.0, 1200)
    assert fall.hold_s > 0.0


def test_the_end_of_the_storm_is_a_fall_of_its_own():
    fall = fallen()
    see(fall, 200.0, 400)  # the clients retry: back, and more
    assert fall.hold_s == 0.0
    see(fall, 100.0, 60)
    assert fall.hold_s > 0.0


def test_a_second_fall_in_a_fall_is_measured_from_what_was_there_first():
    fall = fallen(after=60.0)
    see(fall, 60.0, 200)
    see(fall, 20.0, 60)
    assert fall.hold_s > 1700.0
    see(fall, 58.0, 600)  # back to the middle is not back
    assert fall.hold_s > 0.0


def test_slow_ticks_see_a_fall_too():
    fall = Fall(RULE)
    for _ in range(60):
        fall.see(100.0, 10.0)
    for _ in range(10):
        fall.see(40.0, 10.0)
    assert fall.hold_s > 0.0
