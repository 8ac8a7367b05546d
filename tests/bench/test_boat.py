"""The plants, the peers and the structured tuners of BOAT's comparison."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from boat import balance, fleet, fleet_tuner, gc_model, jvm, peers, race

SMALL = [
    peers.Dimension(name="a", low=1, high=64),
    peers.Dimension(name="b", low=0, high=5, log=False),
]


# The fleet: mechanisms


def test_one_worker_on_one_core_is_a_queue_in_order():
    rng = np.random.default_rng(1)
    at = np.sort(rng.uniform(0, 10, 200)).tolist()
    io, cpu = rng.exponential(0.02, 200).tolist(), rng.exponential(0.03, 200).tolist()
    latency, work, hold = fleet._play(at, io, cpu, workers=1, cores=1)
    end, expected = 0.0, []
    for k in range(200):  # Lindley
        end = max(end, at[k]) + io[k] + cpu[k]
        expected.append(end - at[k])
    assert latency == pytest.approx(expected)
    assert work == pytest.approx(sum(cpu))
    assert hold == pytest.approx(sum(io) + sum(cpu))


def test_with_workers_and_cores_for_all_nobody_waits():
    io, cpu = [0.5] * 20, [0.25] * 20
    latency, _, hold = fleet._play([0.01 * k for k in range(20)], io, cpu, workers=20, cores=20)
    assert latency == pytest.approx(0.75)
    assert hold == pytest.approx(20 * 0.75)


def test_the_cache_forgets_what_was_used_longest_ago():
    assert fleet._hits(np.array([0, 5, 1, 0, 5, 1]), 2).tolist() == [True, False] + [False] * 4
    assert fleet._hits(np.array([0, 5, 0, 1]), 2).tolist() == [True, False, True, False]


def shown(machine, **changed):
    """What machine 0 showed with some levels of its own changed."""
    levels = list(fleet.DEFAULT)
    for knob, level in changed.items():
        levels[3 * machine + ("share", "workers", "cache").index(knob)] = level
    return fleet.measure(tuple(levels), 7)[1][machine]


def test_swapping_costs_a_machine_whose_workers_do_not_fit():
    fits, swaps = shown(0, workers=8, cache=1), shown(0, workers=64, cache=1)
    assert fits.memory_mb < fleet.FLEET[0].ram_mb < swaps.memory_mb
    assert swaps.hold_s > fits.hold_s + 0.5 * fleet.FAULT_S


def test_a_larger_cache_spares_cpu_and_a_larger_share_brings_load():
    assert shown(9, cache=128).work_s < 0.8 * shown(9, cache=1).work_s
    assert shown(9, share=24).load_rps > 1.3 * shown(9).load_rps


def test_a_measurement_is_the_same_for_the_same_seed_and_differs_for_another():
    assert fleet.measure(fleet.DEFAULT, 3) == fleet.measure(fleet.DEFAULT, 3)
    assert fleet.measure(fleet.DEFAULT, 3)[0] != fleet.measure(fleet.DEFAULT, 4)[0]


def test_the_box_per_core_holds_the_operators_default_nearly():
    levels = balance.levels_of(balance.point_of_default())
    assert levels[0::3] == fleet.DEFAULT[0::3]
    for mine, theirs in zip(levels, fleet.DEFAULT, strict=True):
        assert abs(mine - theirs) <= 1
    for point, d in zip(balance.point_of_default(), balance.space_per_core(), strict=True):
        assert d.low <= point <= d.high


# The structured tuner of the fleet


def test_equal_tails_mix_to_themselves_and_a_worse_machine_to_something_between():
    shares = np.array([[0.3, 0.7]])
    same = fleet_tuner.mixture(np.log([[[0.2, 0.2]]]), shares)
    assert np.exp(same) == pytest.approx(0.2)
    mixed = np.exp(fleet_tuner.mixture(np.log([[[0.2, 1.0]]]), shares))[0, 0]
    over = 0.3 * np.exp(-fleet_tuner.TAIL * mixed / 0.2) + 0.7 * np.exp(-fleet_tuner.TAIL * mixed)
    assert over == pytest.approx(0.01, rel=1e-3)


def test_the_parts_of_the_traffic_are_the_best_of_all():
    parts, grid = fleet_tuner.PARTS, fleet_tuner.GRID
    slopes = (0.02, 0.05, 0.09)
    logs = [np.tile((slope * parts)[:, None], (1, len(grid))) for slope in slopes]
    units = np.arange(1, parts[-1] + 1)
    costs = [units * np.exp(fleet_tuner.POWER * np.interp(np.log(units), np.log(parts), log[:, 0]))
             for log in logs]  # fmt: skip
    best = min(
        (
            (costs[0][a - 1] + costs[1][b - 1] + costs[2][99 - a - b], (a, b, 100 - a - b))
            for a, b in itertools.product(units, units)
            if 1 <= 100 - a - b <= units[-1]
        )
    )[1]
    levels = fleet_tuner._best(logs)
    weights = np.array(levels[0::3])
    assert weights.max() == fleet.SHARE[1]
    assert weights / weights.sum() == pytest.approx(np.array(best) / 100, abs=0.02)


def test_after_one_measurement_of_the_default_the_structured_tuner_is_much_better():
    tuner = fleet_tuner.Structured(0)
    _, seen = fleet.measure(fleet.DEFAULT, 0)
    tuner.tell(fleet.DEFAULT, seen)
    asked = tuner.ask()
    bounds = [fleet.SHARE, fleet.WORKERS, fleet.CACHE] * len(fleet.FLEET)
    assert all(low <= x <= high for x, (low, high) in zip(asked, bounds, strict=True))
    assert balance.true(asked) < 0.8 * balance.true(fleet.DEFAULT)


# The JVM


LOG = """\
[0.101s][info][gc] Using Serial
[0.350s][info][gc] GC(0) Pause Young (Allocation Failure) 16M->9M(62M) 7.000ms
[0.900s][info][gc] GC(1) Pause Young (Allocation Failure) 26M->12M(62M) 2.500ms
[1.100s][info][gc] GC(3) Pause Young (Allocation Failure) 26M->12M(62M) 1.500ms
[1.100s][info][gc] GC(2) Pause Full (Allocation Failure) 40M->27M(62M) 24.000ms
"""


def test_pauses_after_the_warm_up_are_read_from_the_jvms_log():
    pauses = jvm.pauses_of(LOG)
    assert pauses == {"Young": [0.0025, 0.0015], "Full": [0.024]}
    seen = jvm.shown_of("6000 90000000 5000 2000000 9000000 -7\n", pauses)
    assert (seen.p99_s, seen.busy_s) == pytest.approx((0.002, 1.5e-5))
    assert (seen.young_count, seen.young_pause_s) == (2, 0.002)
    assert (seen.full_count, seen.full_pause_s) == (1, 0.024)
    assert gc_model.cost_of(seen) == pytest.approx(0.5 * 2 / 4 + 0.5)


def test_a_run_that_failed_is_dear_and_shows_no_throughput():
    assert gc_model.cost_of(jvm.Shown(failed=True)) == gc_model.FAILED
    responses = dict(gc_model._evidence(0, jvm.START, jvm.Shown(failed=True)).observation.responses)
    assert set(responses) == {gc_model.FULL, gc_model.P99}


@pytest.mark.e2e
@pytest.mark.skipif(bool(jvm.missing()), reason=jvm.missing() or "there is a JDK")
def test_a_real_jvm_collects_more_often_with_a_small_young_generation():
    small, large = jvm.run((4, 8, 15)), jvm.run((20, 8, 15))
    assert not small.failed
    assert not large.failed
    assert small.young_count > 2 * large.young_count > 2
    assert 0.0 < small.p99_s < jvm.SPAN_S


def played(young, survivor, tenuring):
    """A run as a service would show it whose full collections begin above 28 MiB of young."""
    eden = young * survivor / (survivor + 2)
    full = 3 if young > 28 or young / (survivor + 2) < 1.5 else 0
    return jvm.Shown(
        failed=young > 40,
        p99_s=1e-3 + 5e-5 * eden + 0.008 * full,
        busy_s=8e-6 + 6e-5 / eden + 4e-6 * full,
        young_count=round(300 / eden),
        young_pause_s=1e-3 * eden**0.4,
        full_count=full,
        full_pause_s=0.024 if full else 0.0,
    )


def test_the_structured_tuner_of_the_jvm_leaves_the_full_collections_behind():
    tuner, now, costs = gc_model.Structured(), (8, 8, 15), []
    for _ in range(6):
        seen = played(*now)
        costs.append(gc_model.cost_of(seen))
        tuner.tell(now, seen)
        now = tuner.ask()
    assert min(costs) < 0.5 * costs[0]


# Peers and the race


@pytest.mark.parametrize("name", [name for name in peers.catalogue() if name != "OpenTuner"])
@pytest.mark.filterwarnings("ignore")
def test_a_peer_stays_in_its_box_takes_the_default_first_and_repeats_itself(name):
    runs = []
    for _ in range(2):
        tuner = peers.catalogue()[name](SMALL, 5, 3)
        tuner.tell((8, 2), 3.0)
        asked = []
        for _ in range(6):
            levels = tuner.ask()
            tuner.tell(levels, 1.0 + abs(levels[0] - 20) + levels[1])
            asked.append(levels)
        tuner.close()
        runs.append(asked)
    assert runs[0] == runs[1]
    assert all(d.low <= x <= d.high for at in runs[0] for x, d in zip(at, SMALL, strict=True))
    assert len(set(runs[0])) > 2


def test_what_was_found_is_judged_apart_from_the_measurement_that_found_it():
    run = race.Run(method="m", seed=0)
    costs = iter([3.0, 1.0, 2.0])  # the second was luck
    tried = iter([(2,), (3,)])
    race.play(run, lambda: next(tried), lambda *_: None, lambda *_: (next(costs), None), (1,), 3)
    assert run.incumbents == [(1,), (2,), (2,)]
    record = run.record({(1,): 3.0, (2,): 2.5, (3,): 2.0}.__getitem__)
    assert record["best"] == [3.0, 2.5, 2.5]


def test_the_table_says_when_a_method_never_comes_near_the_best():
    records = [
        {"method": "good", "seed": 0, "best": [3.0, 1.05, 1.0], "ask_ms": 1.0},
        {"method": "bad", "seed": 0, "best": [3.0, 2.0, 2.0], "ask_ms": 1.0},
    ]
    lines = race.table(records, "s").splitlines()
    good, bad = lines[4], lines[5]
    assert "| good |" in good
    assert "| 2 [2, 2] |" in good
    assert "| > 3 [4, 4] |" in bad


def test_a_part_of_a_methods_name_means_it_and_a_wrong_one_is_refused():
    known = ["random", "TPE (hyperopt)", "TPE (Optuna)"]
    assert race.chosen("tpe", known) == known[1:]
    with pytest.raises(SystemExit, match="none of"):
        race.chosen("bogus", known)
