"""The error budget: the multiwindow burn rate of the Site Reliability Workbook."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ticks import policy

from poolwright.core.burn import ErrorBudget
from poolwright.core.policy import ExploreRule, Slo
from poolwright.core.sample import Sample
from poolwright.core.sketch import sketch_of

P99 = Slo(response="latency_p99_s", below=0.5)
ERRORS = Slo(response="error_ratio", below=0.01)


def budget(*slo, burn_rate=1.0):
    """Windows of 10 s: the short one is 50 s, the long one 600 s."""
    return ErrorBudget(
        policy(slo=slo or (P99,), explore=ExploreRule(window_s=10.0, burn_rate=burn_rate))
    )


def sample(*, slow=0, fast=100, errors=0.0, dt_s=1.0, **more):
    """One tick with so many requests over and under half a second."""
    latency = sketch_of([0.1] * fast + [2.0] * slow) if fast + slow else None
    seen = {
        "throughput_rps": (slow + fast) / dt_s,
        "load_rps": (slow + fast) / dt_s,
        "errors_rps": errors,
        "queue_length": 0.0,
        "latency": latency,
    }
    return Sample(tick=0, dt_s=dt_s, **(seen | more))


IDLE = sample(fast=0)
BLIND = sample(latency=None)  # requests ran, and nobody knows how long they took


def see(found, one, ticks):
    for _ in range(ticks):
        found.see(one)
    return found


def test_at_burn_rate_one_just_as_many_requests_are_bad_as_the_slo_allows():
    assert see(budget(), sample(slow=1, fast=99), 600).rates == pytest.approx((1.0, 1.0))
    assert see(budget(ERRORS), sample(errors=3.0), 600).rates == pytest.approx((3.0, 3.0))


def test_of_several_slos_the_worst_counts():
    found = see(budget(P99, ERRORS), sample(slow=2, fast=98, errors=5.0), 600)
    assert found.rates == pytest.approx((5.0, 5.0))
    assert see(budget(ERRORS, P99), sample(slow=7, fast=93), 600).rates == pytest.approx((7.0, 7.0))
    assert found.burning


def test_a_budget_that_is_spent_as_allowed_does_not_burn():
    assert not see(budget(), sample(slow=1, fast=99), 600).burning
    assert see(budget(), sample(slow=2, fast=98), 600).burning
    assert not see(budget(burn_rate=3.0), sample(slow=2, fast=98), 600).burning


def test_a_short_blip_in_a_good_hour_does_not_stop_probing():
    found = see(budget(), sample(), 600)
    see(found, sample(slow=10, fast=90), 20)
    short, long = found.rates
    assert short > 1.0 > long
    assert not found.burning


def test_what_goes_on_burns_and_what_has_ended_does_not_hold_for_long():
    found = see(budget(), sample(), 600)
    see(found, sample(slow=10, fast=90), 120)
    assert found.burning
    see(found, sample(), 61)
    short, long = found.rates
    assert short < 1.0 < long
    assert not found.burning


def test_few_requests_are_no_evidence():
    assert not see(budget(), sample(slow=1, fast=0), 1).burning
    assert see(budget(), sample(slow=1, fast=0), 3).burning  # three of three is no chance at 1 %


def test_nothing_seen_is_unknown_and_not_good():
    assert budget().rates == (None, None)
    assert see(budget(), IDLE, 600).rates == (None, None)
    assert see(budget(), BLIND, 600).rates == (None, None)


@pytest.mark.parametrize("nothing", [IDLE, BLIND])
def test_time_without_requests_or_without_sight_does_not_thin_out_what_was_seen(nothing):
    found = see(budget(), sample(slow=10, fast=90), 120)
    before = found.rates
    see(found, nothing, 5000)
    assert found.burning
    assert found.rates == before


def test_a_tick_costs_its_burn_rate_times_its_length():
    assert budget().spent_s(sample(slow=5, fast=95)) == pytest.approx(5.0)
    assert budget().spent_s(sample(slow=5, fast=95, dt_s=2.0)) == pytest.approx(10.0)
    assert budget(P99, ERRORS).spent_s(sample(errors=8.0)) == pytest.approx(8.0)
    assert budget().spent_s(sample()) == 0.0


def test_a_tick_in_which_nobody_asked_costs_nothing():
    assert budget(P99, ERRORS).spent_s(IDLE) == 0.0


@pytest.mark.parametrize(
    "unseen",
    [
        BLIND,
        sample(fast=0, throughput_rps=None, load_rps=None),
        sample(fast=0, queue_length=12.0),  # they ask and get no answer
        sample(fast=0, queue_length=None, load_rps=None),  # they may, behind a broken sensor
    ],
)
def test_a_tick_whose_requests_cannot_be_seen_costs_what_the_slo_allows(unseen):
    assert budget().spent_s(unseen) == 1.0


def test_a_policy_without_slo_has_no_budget_to_burn():
    found = see(ErrorBudget(policy(slo=())), sample(slow=100), 100)
    assert found.rates == (None, None)
    assert not found.burning
    assert found.spent_s(sample(slow=100)) == 0.0


def test_an_slo_that_allows_nothing_does_not_divide_by_zero():
    found = see(budget(Slo(response="error_ratio", below=0.0)), sample(errors=1.0), 60)
    assert found.burning
    assert see(budget(Slo(response="error_ratio", below=0.0)), sample(), 60).rates == (0.0, 0.0)


TICKS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 40), st.sampled_from([0.5, 1.0, 7.0])), max_size=80
)


@given(TICKS, st.data())
def test_more_bad_requests_never_look_better(ticks, data):
    better, worse = budget(), budget()
    for slow, fast, dt_s in ticks:
        more = data.draw(st.integers(0, fast))
        good, bad = (sample(slow=slow + n, fast=fast - n, dt_s=dt_s) for n in (0, more))
        better.see(good)
        worse.see(bad)
        assert worse.spent_s(bad) >= better.spent_s(good)
        assert worse.burning >= better.burning
        for a, b in zip(better.rates, worse.rates, strict=True):
            assert (a is None) == (b is None)
            assert a is None or b >= a


@given(TICKS)
def test_the_short_window_forgets_before_the_long_one_and_both_forget(ticks):
    found = budget()
    for slow, fast, dt_s in ticks:
        found.see(sample(slow=slow, fast=fast, dt_s=dt_s))
    see(found, sample(), 60)
    assert found.rates[0] == 0.0
    see(found, sample(), 560)
    assert found.rates == (0.0, 0.0)


def test_the_rates_are_those_of_one_slo_the_one_that_burns_in_both_windows():
    watch = budget(P99, ERRORS)
    for _ in range(60):
        watch.see(sample(slow=50))  # long ago every third request was slow
    for _ in range(120):
        watch.see(sample())
    for _ in range(60):
        watch.see(sample(errors=20.0))  # now every fifth fails
    short, long = watch.rates
    assert short == pytest.approx(20.0, rel=0.2), "of requests, a hundredth may fail"
    assert long == pytest.approx(20.0 * 60 / 240, rel=0.2)
