"""Proof of benefit: the arithmetic of a comparison, and the statistics by seeded simulation."""

import math
from bisect import bisect_left
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit  # scipy.stats takes a second to import
from ticks import policy

from poolwright.core.benefit import (
    SHORTFALL,
    SLACK,
    Trial,
    benefit_of,
    cost_of,
    due,
    t_quantile,
    useless,
)
from poolwright.core.model import Context, Estimate, Holdout, Observation, setting
from poolwright.core.policy import ExploreRule
from poolwright.learn import judge

TUNED, BASELINE = setting(workers=7), setting(workers=5)
REFERENCES = {"latency_p99_s": 0.5, "memory_bytes": 2e8, "jitter_s": 0.5}
WEIGHTS = (
    ("jitter_s", 0.2),
    ("latency_p99_s", 1.0),
    ("memory_bytes", 0.2),
    ("throughput_rps", 0.5),
)
RULE = policy(objective=WEIGHTS)


def seen(at=TUNED, load=80.0, foreign=0.1, **responses):
    """One window; responses by name, in natural units."""
    given_here = {
        "throughput_rps": load,
        "latency_p99_s": 0.2,
        "jitter_s": 0.05,
        "memory_bytes": 3e8,
        **responses,
    }
    return Observation(
        setting=at,
        opened_tick=0,
        closed_tick=30,
        span_s=30.0,
        sample_count=2400,
        context=Context(load_rps=load, foreign_cpu_ratio=foreign),
        responses=tuple(
            (name, Estimate(mean=value, std=0.0))
            for name, value in sorted(given_here.items())
            if value is not None
        ),
        app_limited=False,
    )


def compare(*costs, loads=(80.0, 80.0, 80.0), foreign=(0.1, 0.1, 0.1)):
    """A trial fed with the costs of its three legs."""
    trial = Trial(TUNED, BASELINE)
    for cost, load, other in zip(costs, loads, foreign, strict=True):
        trial.take(seen(trial.wants, load, other), cost)
    return trial


def holdout(gain, *, breached=False, baseline=BASELINE, tick=0):
    return Holdout(
        baseline=baseline,
        tuned=TUNED,
        load_rps=80.0,
        gain_ratio=gain,
        breached=breached,
        closed_tick=tick,
    )


def holdouts(*gains):
    return tuple(holdout(gain) for gain in gains)


# --- the cost of a window


class NaturalUnits:
    """A surrogate whose responses are modelled in natural units."""

    def natural(self, response, values):
        return values


def the_learners_cost(observation):
    """The same window through the learner's own formula."""
    means = {name: np.array([estimate.mean]) for name, estimate in observation.responses}
    goal = judge.Goal(
        weights=WEIGHTS, references=tuple(REFERENCES.items()), costly=tuple(means), bounded=()
    )
    load = np.array([observation.context.load_rps])
    return float(judge.objective(goal, NaturalUnits(), means, load)[0])


@given(
    load=st.floats(1.0, 1e4),
    share=st.floats(0.05, 1.2),
    p99=st.floats(1e-3, 30.0),
    spread=st.floats(0.01, 3.0),
    memory=st.floats(1e6, 1e10),
)
def test_a_window_costs_what_the_learner_says_it_costs(load, share, p99, spread, memory):
    window = seen(
        load=load,
        throughput_rps=share * load,
        latency_p99_s=p99,
        jitter_s=spread * p99,
        memory_bytes=memory,
    )
    assert cost_of(window, RULE, REFERENCES) == pytest.approx(the_learners_cost(window), rel=1e-6)


def test_what_is_short_of_the_load_costs_and_what_is_above_earns_nothing():
    def cost(done):
        return cost_of(seen(throughput_rps=done), RULE, REFERENCES)

    assert cost(79.0) == cost(80.0) == cost(90.0), "within the slack, or more than was asked"
    assert cost(40.0) - cost(80.0) == pytest.approx(1.9 * SHORTFALL * (0.5 - SLACK))


@pytest.mark.parametrize("name", ["latency_p99_s", "jitter_s", "memory_bytes", "throughput_rps"])
def test_a_response_that_was_not_seen_has_no_cost_of_zero(name):
    assert cost_of(seen(**{name: None}), RULE, REFERENCES) is None


def test_without_a_reference_or_a_load_nothing_is_known():
    window = seen()
    assert cost_of(window, RULE, {**REFERENCES, "jitter_s": 0.0}) is None
    assert cost_of(window, RULE, {"latency_p99_s": 0.5}) is None
    for load in (None, 0.0):
        context = replace(window.context, load_rps=load)
        assert cost_of(replace(window, context=context), RULE, REFERENCES) is None


def test_what_has_no_weight_need_not_be_seen():
    rule = policy(objective=(("latency_p99_s", 1.0), ("power_w", 0.0)))
    assert cost_of(seen(), rule, REFERENCES) == pytest.approx(0.4)


# --- one comparison


def test_it_wants_tuned_then_baseline_then_tuned():
    trial = Trial(TUNED, BASELINE)
    order = []
    while not trial.done:
        order.append(trial.wants)
        assert trial.result(90) is None
        trial.take(seen(trial.wants), 1.0)
    assert order == [TUNED, BASELINE, TUNED]
    assert trial.wants == TUNED
    trial.take(seen(TUNED), 9.0)
    assert trial.result(90) == holdout(0.0, tick=90), "what comes after the end changes nothing"


def test_windows_at_another_setting_are_ignored():
    trial = Trial(TUNED, BASELINE)
    trial.take(seen(BASELINE), 9.0)
    trial.take(seen(setting(workers=6)), 9.0)
    assert trial.wants == TUNED
    trial.take(seen(TUNED), 0.9)
    trial.take(seen(TUNED), 9.0)
    trial.take(seen(BASELINE), 1.0)
    trial.take(seen(TUNED), 0.9)
    assert trial.result(1).gain_ratio == pytest.approx(0.1)


def test_a_setting_is_not_compared_with_itself():
    with pytest.raises(ValueError, match="workers=7 cannot be compared with itself"):
        Trial(TUNED, TUNED)


@given(st.floats(0.1, 10.0), st.floats(-0.4, 0.4), st.floats(-0.5, 0.9))
def test_a_drift_that_is_linear_in_time_does_not_bias(cost, slope, gain):
    drift = [cost * (1.0 + slope * leg) for leg in (-1.0, 0.0, 1.0)]
    trial = compare((1 - gain) * drift[0], drift[1], (1 - gain) * drift[2])
    assert trial.result(0).gain_ratio == pytest.approx(gain, abs=1e-9)


@pytest.mark.parametrize(
    ("loads", "foreign", "why"),
    [
        ((80.0, 92.0, 92.0), (0.1, 0.1, 0.1), "load 80 rps tuned, 92 at the baseline"),
        ((80.0, 80.0, 70.0), (0.1, 0.1, 0.1), "load 70 rps tuned, 80 at the baseline"),
        ((80.0, 80.0, 80.0), (0.1, 0.3, 0.3), "CPU that others use 10% tuned, 30%"),
        ((80.0, 80.0, 80.0), (0.3, 0.3, 0.1), "CPU that others use 10% tuned, 30%"),
    ],
)
def test_legs_that_do_not_match_give_no_result(loads, foreign, why):
    trial = compare(0.9, 1.0, 0.9, loads=loads, foreign=foreign)
    assert trial.done
    assert trial.wants == TUNED
    assert trial.result(0) is None
    assert why in trial.why


def test_legs_within_the_limits_match_and_the_load_is_their_mean():
    trial = compare(0.9, 1.0, 0.9, loads=(73.0, 80.0, 87.0), foreign=(0.0, 0.14, 0.28))
    assert trial.result(0).load_rps == pytest.approx(80.0)


@pytest.mark.parametrize("unknown", [{"load": None}, {"foreign": None}, {"load": 0.0}])
def test_what_cannot_be_matched_ends_before_the_baseline_is_tried(unknown):
    trial = Trial(TUNED, BASELINE)
    given_here = {"load": 80.0, "foreign": 0.1, **unknown}
    window = seen()
    context = Context(load_rps=given_here["load"], foreign_cpu_ratio=given_here["foreign"])
    trial.take(replace(window, context=context), 1.0)
    assert trial.done
    assert trial.wants == TUNED
    assert trial.result(0) is None


@pytest.mark.parametrize(
    ("cost_so_far", "gain"),
    [(None, 0.0), (0.5, 0.0), (2.0, 0.5)],
    ids=["nothing measured", "cheap and in breach", "dear"],
)
def test_a_baseline_that_breaches_is_a_result_and_bounds_the_gain_from_below(cost_so_far, gain):
    trial = Trial(TUNED, BASELINE)
    trial.take(seen(TUNED), 1.0)
    trial.breach(cost_so_far)
    assert trial.done
    assert trial.wants == TUNED
    found = trial.result(40)
    assert (found.breached, found.gain_ratio, found.closed_tick) == (True, gain, 40)


def test_a_breach_after_the_baselines_window_counts_with_that_windows_cost():
    trial = Trial(TUNED, BASELINE)
    trial.take(seen(TUNED), 1.0)
    trial.take(seen(BASELINE), 4.0)
    trial.breach(None)
    assert trial.result(0).gain_ratio == pytest.approx(0.75)


def test_a_breach_before_the_first_leg_says_nothing_of_the_baseline():
    trial = Trial(TUNED, BASELINE)
    trial.breach(3.0)
    assert trial.done
    assert trial.result(0) is None


def test_what_was_abandoned_has_no_result_and_what_is_finished_keeps_it():
    trial = Trial(TUNED, BASELINE)
    trial.take(seen(TUNED), 1.0)
    trial.abandon("the service restarted")
    assert (trial.done, trial.wants, trial.why) == (True, TUNED, "the service restarted")
    assert trial.result(0) is None
    finished = compare(0.9, 1.0, 0.9)
    finished.abandon("too late")
    finished.breach(9.0)
    assert finished.result(0).gain_ratio == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("costs", "gain"),
    [((5.0, 1.0, 5.0), -1.0), ((0.0, 0.0, 0.0), 0.0), ((0.1, 0.0, 0.1), -1.0), ((0, 1, 0), 1.0)],
)
def test_a_gain_stays_between_minus_one_and_one(costs, gain):
    assert compare(*costs).result(0).gain_ratio == gain


# --- many comparisons


def test_the_t_quantile_is_students():
    for df in (*range(1, 41), 60, 120, 1000):
        assert t_quantile(df) == pytest.approx(stdtrit(df, 0.975), rel=1.3e-3)
    with pytest.raises(ValueError, match="0 degrees"):
        t_quantile(0)


def test_below_three_there_is_a_mean_and_no_interval():
    assert benefit_of(()) is None
    for n in (1, 2):
        found = benefit_of(holdouts(*[0.1] * n))
        assert (found.count, found.lower, found.upper) == (n, None, None)
        assert found.mean == pytest.approx(0.1)


def test_below_six_it_is_students_interval():
    gains = (0.02, 0.08, 0.05, 0.11)
    mean, half = np.mean(gains), stdtrit(3, 0.975) * np.std(gains, ddof=1) / 2.0
    found = benefit_of(holdouts(*gains))
    assert (found.mean, found.count) == (pytest.approx(mean), 4)
    assert (found.lower, found.upper) == pytest.approx((mean - half, mean + half), abs=2e-4)


def test_from_six_on_it_is_the_trimmed_means_interval():
    gains = np.random.default_rng(3).normal(0.1, 0.04, 13)
    found = benefit_of(holdouts(*gains))
    inner = np.sort(gains)[2:-2]  # a fifth of thirteen, at each end
    assert found.mean == pytest.approx(inner.mean())
    winsorised = np.clip(gains, inner[0], inner[-1])
    error = winsorised.std(ddof=1) * math.sqrt(12.0 / (9.0 * 8.0))
    assert found.upper - found.mean == pytest.approx(stdtrit(8, 0.975) * error, rel=2e-3)


def test_one_odd_comparison_of_six_does_not_decide():
    steady = (0.09, 0.10, 0.11, 0.10, 0.12)
    for odd in (-1.0, 1.0):
        found = benefit_of(holdouts(*steady, odd))
        assert 0.08 <= found.lower < found.mean < found.upper <= 0.13


def test_one_odd_comparison_of_four_settles_nothing():
    found = benefit_of(holdouts(-0.05, -0.06, -0.05, 1.0))
    assert found.lower < 0.0 < found.upper
    assert not useless(found, 0.01)


def test_comparisons_with_an_earlier_baseline_do_not_count():
    old = [holdout(-0.5, baseline=setting(workers=2)) for _ in range(9)]
    found = benefit_of((*old, *holdouts(0.1, 0.12, 0.11)))
    assert found.count == 3
    assert found.lower > 0.0


@given(
    st.lists(st.tuples(st.floats(-1.0, 1.0), st.booleans()), min_size=3, max_size=32).filter(
        lambda rows: any(breached for _, breached in rows)
    )
)
def test_an_interval_with_a_breach_reaches_further_up_and_no_further_down(rows):
    gains = [max(0.0, gain) if breached else gain for gain, breached in rows]
    found = benefit_of([holdout(g, breached=b) for g, (_, b) in zip(gains, rows, strict=True)])
    exact = benefit_of(holdouts(*gains))
    assert (found.mean, found.lower) == (exact.mean, exact.lower)
    assert min(1.0, exact.upper) <= found.upper <= 1.0


@pytest.mark.parametrize("count", range(3, 33))
def test_a_baseline_that_breached_once_is_never_proof_that_tuning_is_useless(count):
    """Cheap while it held, so every comparison speaks for it, but for the one it could not end."""
    rows = [*holdouts(*[-0.02] * (count - 1)), holdout(0.0, breached=True)]
    assert useless(benefit_of(rows[:-1]), 0.01) or count == 3
    assert not useless(benefit_of(rows), 0.01)


def test_useless_asks_for_three_and_for_the_upper_end():
    assert not useless(None, 0.01)
    assert not useless(benefit_of(holdouts(-0.1, -0.1)), 0.01)
    assert useless(benefit_of(holdouts(-0.1, -0.1, -0.1)), 0.01)
    assert useless(benefit_of(holdouts(0.004, 0.005, 0.006)), 0.01)
    assert not useless(benefit_of(holdouts(0.014, 0.015, 0.016)), 0.01)
    assert not useless(benefit_of(holdouts(-0.2, 0.0, 0.1)), 0.01)


def test_the_first_comes_soon_then_often_until_proven_then_rarely():
    def wait(*gains, tick=0):
        """Seconds until the next one is due, to the minute."""
        past = tuple(holdout(gain, tick=tick) for gain in gains)
        return next(s for s in range(0, 10**6, 60) if due(s, 21600.0, past))

    assert wait() == 2700
    ticks = range(1, 200, 7)
    for gains, pace in (
        ((0.1,), 0.25),
        ((0.3, -0.3, 0.1), 0.25),
        ((0.1, 0.11, 0.12), 4.0),
        ((-0.1, -0.11, -0.12), 1.0),
    ):
        waits = [wait(*gains, tick=tick) / 21600.0 / pace for tick in ticks]
        assert all(0.74 <= w <= 1.26 for w in waits)
        assert np.mean(waits) == pytest.approx(1.0, abs=0.05)


def test_proven_comparisons_go_round_the_clock():
    """Once a day on average, and yet not at the same time of day."""
    now, hours, past = 0, set(), holdouts(0.1, 0.11, 0.12)
    for _ in range(60):
        last = past[-1].closed_tick
        now = next(t for t in range(last, last + 10**6, 300) if due(t - last, 21600.0, past))
        hours.add(now % 86400 // 3600)
        past = (*past[1:], holdout(0.11, tick=now))
    assert len(hours) >= 20


def test_never_is_never():
    assert not due(1e12, 0.0, ())
    assert not due(1e12, 0.0, holdouts(0.1, 0.2, 0.3))


# --- statistics, by seeded simulation


def normal(rng):
    return rng.gauss(0.0, 1.0)


def heavy(rng):
    """Student's t with three degrees of freedom, scaled to a variance of one."""
    return rng.gauss(0.0, 1.0) / math.sqrt(rng.gammavariate(1.5, 2.0))


def spoiled(rng):
    """One in ten is five times as far off."""
    return rng.gauss(0.0, 5.0 if rng.random() < 0.1 else 1.0)


@pytest.mark.parametrize("noise", [normal, heavy, spoiled])
def test_the_interval_covers_the_truth_as_often_as_it_says(noise):
    """For each number of comparisons within three errors of what is seen, closer for them all."""
    rng = Random(20261121)
    trials, shares = 500, []
    for count in range(3, 21):
        covered = 0
        for _ in range(trials):
            found = benefit_of(holdouts(*(0.1 + 0.02 * noise(rng) for _ in range(count))))
            covered += found.lower <= 0.1 <= found.upper
        shares.append(covered / trials)
        assert 0.92 <= shares[-1] <= 0.98, f"{count} comparisons"
    assert 0.94 <= sum(shares) / len(shares) <= 0.96


def live(seed, *, gain, noise, std, most_s, most=10**6):
    """Days of comparisons at the default pace; (holdouts until it stands down or None, seconds)."""
    rng, every = Random(seed), ExploreRule().holdout_every_s
    past, now, count, steps = (), 0.0, 0, range(256)  # of ten minutes: no wait is longer
    while now < most_s and count < most:
        since = 600.0 * bisect_left(steps, True, key=lambda n: due(600.0 * n, every, past))
        now += since
        legs = [math.exp(std * noise(rng)) for _ in range(3)]
        trial = compare((1.0 - gain) * legs[0], legs[1], (1.0 - gain) * legs[2])
        past = (*past, trial.result(round(now)))[-32:]
        count += 1
        if useless(benefit_of(past), ExploreRule().epsilon):
            return count, now
    return None, now


WEEK_S = 7 * 86400.0


@pytest.mark.parametrize("noise", [normal, heavy])
def test_a_gain_of_five_percent_is_not_given_up_within_a_week(noise):
    """Windows with 5 % of noise each: less than one pool in a hundred stands down in error."""
    weeks = 300
    wrong = [live(s, gain=0.05, noise=noise, std=0.05, most_s=WEEK_S)[0] for s in range(weeks)]
    assert sum(count is not None for count in wrong) / weeks < 0.01


@pytest.mark.parametrize(
    ("gain", "std", "median", "p90"),
    [(-0.10, 0.05, 5, 9), (-0.05, 0.05, 8, 17), (-0.05, 0.02, 4, 6), (0.0, 0.02, 25, 70)],
)
def test_it_stands_down_when_tuning_does_not_help(gain, std, median, p90):
    """Comparisons until then; none may need more than a hundred and fifty."""
    counts = sorted(
        live(s, gain=gain, noise=normal, std=std, most_s=math.inf, most=150)[0] or 1000
        for s in range(100)
    )
    assert counts[50] <= median
    assert counts[90] <= p90
    assert counts[-1] <= 150
