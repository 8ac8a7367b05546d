import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.budget import Budget
from poolwright.core.policy import ExploreRule

RULE = ExploreRule(
    probes_per_hour=20.0, budget_ratio=0.05, slo_budget_ratio=0.20, window_s=30.0
)  # 20 probes, 180 seconds and 720 seconds of error budget an hour


def probe(budget, *, seconds=30, burn_rate=0.0):
    """One probe, tick by tick."""
    budget.spend()
    for _ in range(seconds):
        budget.pass_time(1.0, probing=True, slo_s=burn_rate)


def test_a_new_service_may_be_learned_at_once():
    assert Budget(RULE).left == (20.0, 180.0, 720.0)
    assert Budget(RULE).allows()


def test_probes_end_when_the_hour_has_seen_enough_of_them_and_go_on_later():
    budget = Budget(RULE)
    for _ in range(20):
        assert budget.allows()
        budget.spend()
    assert not budget.allows()
    budget.pass_time(181.0, probing=False)
    assert budget.allows()


def test_time_away_from_the_best_setting_is_a_share_of_all_time():
    budget = Budget(RULE)
    away = 0
    for _ in range(24 * 120):  # a day in half minutes
        if budget.allows():
            probe(budget)
            away += 30
        else:
            budget.pass_time(30.0, probing=False)
    assert 0.045 * 86400 < away < 0.05 * 86400 + 180


def test_probes_that_burn_the_error_budget_end_although_time_and_number_are_left():
    budget = Budget(RULE)
    probe(budget, seconds=10, burn_rate=72.0)
    assert budget.left[0] > 18
    assert budget.left[1] > 160
    assert not budget.allows()


def test_error_budget_that_the_service_burns_without_a_probe_is_not_ours():
    budget = Budget(RULE)
    budget.pass_time(30.0, probing=False, slo_s=3000.0)
    assert budget.left == (20.0, 180.0, 720.0)


def test_what_a_probe_took_beyond_what_was_left_is_owed():
    budget = Budget(RULE)
    probe(budget, seconds=30, burn_rate=100.0)  # 3000 seconds: four hours' worth
    assert budget.left[2] == pytest.approx(720.0 - 3000.0 + 30 * 0.2, abs=0.3)
    budget.pass_time(3 * 3600.0, probing=False)
    assert not budget.allows()
    budget.pass_time(3600.0, probing=False)
    assert budget.allows()


def test_a_lie_of_a_sensor_ends_probing_for_a_day_and_not_for_good():
    budget = Budget(RULE)
    budget.pass_time(1.0, probing=True, slo_s=1e12)
    budget.pass_time(25 * 3600.0, probing=False)
    assert budget.allows()


@pytest.mark.parametrize(
    "nothing", [{"probes_per_hour": 0.0}, {"budget_ratio": 0.0}, {"slo_budget_ratio": 0.0}]
)
def test_a_share_of_zero_means_never(nothing):
    budget = Budget(ExploreRule(**nothing))
    assert not budget.allows()
    budget.pass_time(1e6, probing=False)
    assert not budget.allows()


def test_a_share_of_less_than_a_window_an_hour_means_rarely():
    budget = Budget(ExploreRule(budget_ratio=0.005, window_s=30.0))  # 18 seconds an hour
    assert budget.allows()
    probe(budget)
    budget.pass_time(3600.0, probing=False)
    assert not budget.allows()
    budget.pass_time(3600.0, probing=False)
    assert budget.allows()


def test_what_an_earlier_run_left_is_what_is_left():
    budget = Budget(RULE)
    probe(budget, burn_rate=3.0)
    again = Budget(RULE, budget.left)
    assert again.left == budget.left
    smaller = Budget(ExploreRule(probes_per_hour=1.0, window_s=30.0), budget.left)
    assert smaller.left[0] == 1.0


MOMENTS = st.lists(
    st.tuples(st.floats(0.0, 1e5), st.booleans(), st.floats(0.0, 1e6), st.booleans()), max_size=60
)


@given(MOMENTS, st.floats(0.0, 100.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_no_bucket_ever_holds_more_than_its_capacity(moments, probes, share, slo_share):
    rule = ExploreRule(probes_per_hour=probes, budget_ratio=share, slo_budget_ratio=slo_share)
    budget = Budget(rule)
    full = budget.left
    for dt_s, probing, slo_s, spends in moments:
        budget.pass_time(dt_s, probing=probing, slo_s=slo_s)
        if spends and budget.allows():
            budget.spend()
        assert all(left <= most for left, most in zip(budget.left, full, strict=True))
        assert all(map(math.isfinite, budget.left))
        assert budget.left[0] >= 0.0
