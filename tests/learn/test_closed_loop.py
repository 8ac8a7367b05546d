"""make_plan in a loop with plants that know nothing of its formulas."""

import numpy as np
import pytest
from learn_loop import SLO_S, WEIGHTS, closed_loop
from plants import MIB, Plant, truth

LEVELS = range(1, 25)


def case(seed: int) -> tuple[Plant, float, int, float]:
    """A plant, its load, where the operator had started it, and the memory it may use [MiB]."""
    rng = np.random.default_rng(1000 + seed)
    plant = Plant(
        cpu_s=rng.uniform(0.003, 0.008),
        miss_s=rng.uniform(0.004, 0.014),
        io_s=rng.uniform(0.03, 0.06),
        worker_mib=rng.uniform(25.0, 45.0),
        core_w=rng.uniform(8.0, 16.0),
    )
    start = (5, 12)[seed % 2]
    limit_mib = plant.memory(max(start, 12)) / MIB * 1.06
    return plant, float(rng.uniform(45.0, 85.0)), start, limit_mib


def test_it_finds_the_best_setting_and_never_passes_the_memory_limit():
    good, told = 0, []
    for seed in range(10):
        plant, load, start, limit_mib = case(seed)
        run = closed_loop(plant, seed, load, start, limit_mib)
        references = dict(run.plans[0].references)
        known = truth(plant, load, LEVELS, WEIGHTS, references)
        regret = known.cost[run.final - 1] / known.best(SLO_S) - 1.0
        good += regret <= 0.10
        told.append(f"{seed}: {start} -> {run.final} regret {regret:.3f} probes {run.probed}")
        assert all(plant.memory(w) <= limit_mib * MIB for w in run.probed), told[-1]
        assert plant.memory(run.final) <= limit_mib * MIB
        assert run.windows <= 25
    assert good >= 9, "\n".join(told)


def test_it_gets_out_of_overload_without_being_told_the_capacity():
    """Three workers for 80 rps: every window at the start is a queue that grows."""
    plant = Plant()
    run = closed_loop(plant, 3, 80.0, 3, 700.0)
    known = truth(plant, 80.0, LEVELS, WEIGHTS, dict(run.plans[0].references))
    assert known.p99[run.final - 1] <= SLO_S
    assert run.final >= 6
    assert run.windows <= 20


@pytest.mark.parametrize("response", ["latency_p99_s", "memory_bytes", "cpu_cores", "power_w"])
def test_fresh_windows_fall_into_the_predicted_interval(response):
    """Nine tenths of what comes next, from settings that were seen, within the 90 % interval."""
    from learn_loop import request
    from plants import window

    from poolwright.core.model import setting
    from poolwright.learn.plan import make_plan

    plant, rng = Plant(), np.random.default_rng(7)
    levels = (6, 7, 8, 10, 12)
    past = [window(plant, rng, 10 * k, levels[k % 5], 80.0) for k in range(25)]
    plan = make_plan(request(past, setting(workers=8)))
    by_setting = {c.setting: dict(c.predictions)[response] for c in plan.candidates}
    inside = []
    for k in range(60):
        new = window(plant, rng, 1000 + k, levels[k % 5], 80.0).observation
        seen, expected = new.response(response), by_setting[new.setting]
        spread = 1.645 * float(np.hypot(expected.std, seen.std))
        inside.append(abs(seen.mean - expected.mean) <= spread)
    assert np.mean(inside) >= 0.8
