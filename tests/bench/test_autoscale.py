"""Facebook's published savings fall out of the three published points and our own schedule."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import autoscale

# Saving of concentrating to medium CPU at a cluster's load: 1 - (pool at 150 W, rest at 60 W) over
# (all at 130 + 40 u W), worked out by hand from the published points.
BY_HAND = {0.10: 0.418, 0.15: 0.360, 0.20: 0.304, 0.23: 0.272, 0.25: 0.250, 0.40: 0.096, 0.50: 0.0}


@pytest.fixture(scope="module")
def smooth():
    return autoscale.day_load(0.0, 0)


def cluster(server=None, **settings):
    made = {"server": server or autoscale.facebook(), "count": 400, "limit": 0.5, **settings}
    return autoscale.Cluster(**made)


@pytest.mark.parametrize(("load", "saving"), BY_HAND.items())
def test_concentrating_saves_what_the_three_points_say(load, saving):
    pool = cluster(count=10_000)
    active = pool.best(load, load)
    found = 1.0 - float(pool.watts(active, load)) / float(pool.watts(pool.count, load))
    assert found == pytest.approx(saving, abs=0.001)
    assert load * pool.count / active <= 0.5 + 1e-9


def test_the_three_points_alone_give_both_published_figures():
    night, day = autoscale.published(autoscale.facebook())
    assert night == pytest.approx(0.27, abs=0.005)
    assert day == pytest.approx(0.13, abs=0.005)


def test_the_schedule_keeps_nearly_all_of_it(smooth):
    loads, night = smooth
    fine = autoscale.play(cluster(bin=autoscale.FINE), "day", loads, night=night)
    assert fine.night == pytest.approx(0.27, abs=0.01)
    assert fine.day == pytest.approx(0.13, abs=0.01)
    coarse = autoscale.play(cluster(), "day", loads, night=night)
    assert 0.24 < coarse.night < fine.night
    assert 0.10 < coarse.day < fine.day


def test_no_active_server_is_busier_than_the_limit_and_the_schedules_hysteresis(smooth):
    loads, night = smooth
    found = autoscale.play(cluster(), "day", loads, night=night)
    assert found.most_busy < 0.5 * 1.05 * 1.01  # a hundredth for the lag of a growing load


def test_a_server_that_saves_nothing_by_resting_is_never_taken_out(smooth):
    loads, night = smooth
    flat = next(s for s in autoscale.measured() if "ML110" in s.name)
    kept = autoscale.play(cluster(flat), "day", loads, night=night)
    assert kept.day == 0.0
    assert kept.least_active == 1.0
    off = autoscale.play(cluster(flat, off=True), "day", loads, night=night)
    assert off.day > 0.1


def test_a_measured_curve_is_read_off_at_its_points_and_between():
    server = next(s for s in autoscale.measured() if "DL360 G7" in s.name)
    watts = server.watts(np.array([0.0, 0.1, 0.15, 1.0]))
    assert watts == pytest.approx([55.6, 95.4, (95.4 + 107.0) / 2, 216.0])


def test_the_first_request_costs_facebooks_server_seventy_watts():
    server = autoscale.facebook()
    assert float(server.watts(1e-9)) - float(server.watts(0.0)) == pytest.approx(70.0)


def test_a_growing_load_is_served_at_once_and_a_falling_one_is_followed_slowly():
    step = np.concatenate([np.full(100, 0.2), np.full(100, 0.4), np.full(200, 0.2)])
    active = autoscale.follow(cluster(), step)
    grown = int(np.argmax(active[100:] > active[99])) + 100
    shrunk = int(np.argmax(active[200:] < active[199])) + 200
    assert grown <= 106
    assert shrunk >= 220
    assert active[-1] < active[199]


def test_the_same_seed_gives_the_same_day_and_another_a_different_one():
    assert np.array_equal(autoscale.day_load(0.05, 3)[0], autoscale.day_load(0.05, 3)[0])
    assert not np.array_equal(autoscale.day_load(0.05, 3)[0], autoscale.day_load(0.05, 4)[0])


def test_a_plan_that_was_learned_from_a_day_saves_nearly_as_much_and_keeps_the_limit():
    loads, night = autoscale.day_load(autoscale.NOISE, 0)
    before, _ = autoscale.day_load(autoscale.NOISE, 1)
    pool = cluster(count=autoscale.LEARNED)
    plan = autoscale.taught(pool, before, 0)
    found = autoscale.play(pool, "day", loads, night=night, plan=plan)
    assert 0.20 < found.night < 0.28
    assert 0.09 < found.day < 0.14
    assert found.over < 0.02
