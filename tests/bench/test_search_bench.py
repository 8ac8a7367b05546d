"""The search bench measures what it says: plants, laws by hand, the loop, the score."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from search import ablations, laws, methods, plants, score, sidecar, world

KINDS = ("usl", "plateau", "retrograde", "bimodal", "memory_cliff", "threads", "pool", "saturated")


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    from scipy import linalg  # noqa: F401  its own BLAS must be loaded to be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


def seen(**changes):
    found = {
        "load": 100.0, "foreign": 0.0, "throughput": 100.0, "p50": 0.1, "p95": 0.2, "p99": 0.3,
        "mean": 0.1, "least": 0.05, "jitter": 0.05, "wait": 0.0, "service": 0.1,
        "service_least": 0.05, "service_p50": 0.1, "service_p90": 0.15, "busy": 10.0, "queue": 0.0,
        "cpu": 2.0, "cores": 8, "memory": 1e9, "power": 100.0, "cost": 1.5,
    }  # fmt: skip
    return world.Seen(**{**found, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_a_plant_is_the_same_for_the_same_seed_and_leaves_something_to_gain(kind):
    one, two = plants.make(kind, 32, 3), plants.make(kind, 32, 3)
    truth = one.truth(one.lattice, one.load, 0.0)
    assert one.start == two.start
    assert np.array_equal(truth.p95, two.truth(two.lattice, two.load, 0.0).p95)
    row = one.lattice.tolist().index(list(one.start))
    charged = one.charged(truth, one.load)
    assert charged[row] >= 1.14 * charged.min()
    assert one.feasible(truth)[row]
    assert one.feasible(truth)[int(np.argmin(charged))]


def test_waiting_is_erlangs():
    known = plants.erlang_c(np.array([1.0, 2.0, 2.0]), np.array([0.5, 0.5, 0.75]))
    assert known == pytest.approx([0.5, 1 / 3, 9 / 14])


def test_more_load_or_foreign_cpu_is_never_faster():
    plant = plants.make("usl", 64, 1)
    x = np.array([plant.start])
    calm = plant.truth(x, 0.8 * plant.load, 0.0).p95[0]
    assert plant.truth(x, plant.load, 0.0).p95[0] > calm
    assert plant.truth(x, 0.8 * plant.load, 0.3).p95[0] > calm


def test_memory_jumps_at_its_cliff_and_grows_faster_past_it():
    plant = plants.make("memory_cliff", 64, 0)
    used = plant.memory(plant.lattice)
    steps = np.diff(used)
    at = plant.cliff_at - 1
    assert steps[at] > 2.0 * steps[at - 1]
    assert steps[at + 1] > 2.0 * steps[at - 1]
    assert plant.memory_top >= plant.cliff_at


def test_the_cost_is_the_objective_that_poolwright_minimises():
    from poolwright.core.benefit import cost_of
    from poolwright.core.model import Context, Estimate, Observation

    plant = plants.make("usl", 64, 2)
    policy = sidecar.policy_of(plant, 0)
    means = {"latency_p95_s": 0.3, "power_w": 150.0, "jitter_s": 0.1, "throughput_rps": 60.0}
    observation = Observation(
        setting=sidecar.Setting(levels=(("workers", 5),)),
        opened_tick=0, closed_tick=5, span_s=30.0, sample_count=100,
        context=Context(load_rps=80.0, foreign_cpu_ratio=0.0),
        responses=tuple(sorted((n, Estimate(mean=m, std=0.0)) for n, m in means.items())),
        app_limited=False,
    )  # fmt: skip
    bound = plant.slo_s
    references = {"latency_p95_s": bound, "jitter_s": bound, "power_w": plant.power_ref}
    theirs = cost_of(observation, policy, references)
    assert plant.cost_of(0.3, 150.0, 0.1, 60.0 / 80.0) == pytest.approx(theirs)


def test_every_method_of_a_seed_meets_the_same_load():
    cell = world.CELLS["diurnal-64"]
    one, two = world.make_world(cell, 4), world.make_world(cell, 4)
    one.window(one.plant.start, 0)
    assert np.array_equal(one.loads, two.loads)
    assert np.array_equal(one.foreign, two.foreign)
    assert one.foreign.max() > 0.0
    assert one.loads.max() / one.loads.min() > 1.5


def test_a_deploy_makes_the_service_slower():
    found = world.make_world(world.CELLS["deploy-64"], 0)
    found.enter(79)
    before = found.truth(found.plant.start, 5).capacity[0]
    found.enter(80)
    assert found.truth(found.plant.start, 5).capacity[0] < before


def test_noise_has_the_size_that_the_cell_says():
    found = world.make_world(world.CELLS["usl-64@20"], 0)
    scales = np.array([found.factor()[0] for _ in range(3000)])
    assert np.std(np.log(scales[scales < 1.7])) == pytest.approx(0.2, rel=0.15)
    found = world.make_world(world.CELLS["usl-64@5"], 0)
    outliers = np.mean([found.factor()[0] > 1.4 for _ in range(3000)])
    assert 0.02 <= outliers <= 0.04


def test_the_controller_makes_one_observation_a_slot_and_a_probe_takes_no_more():
    found = world.make_world(world.CELLS["usl-64"], 5)
    subject = sidecar.Sidecar(found)
    closed = []
    step = subject.controller.step

    def spied(tick):
        decision = step(tick)
        if decision.observation is not None:
            closed.append(decision.observation)
        return decision

    subject.controller.step = spied
    held = [subject.slot(slot) for slot in range(3)]
    assert [len(ticks) for ticks in held] == [world.TICKS] * 3
    assert len({ticks[0] for ticks in held}) > 1  # it probes
    assert len(closed) == 3
    assert [o.span_s for o in closed] == pytest.approx([30.0] * 3)
    assert [subject.to_levels(o.setting) for o in closed] == [ticks[0] for ticks in held]
    for observation, ticks in zip(closed, held, strict=True):
        truth = found.truth(ticks[0], 0)
        assert observation.response("memory_bytes").mean == pytest.approx(truth.memory[0], rel=0.02)
        assert observation.response("latency_p95_s").mean == pytest.approx(truth.p95[0], rel=0.9)
        assert observation.context.load_rps == pytest.approx(found.plant.load, rel=0.15)


def test_a_sketch_of_counts_is_the_sketch_of_the_values():
    from poolwright.core.sketch import sketch_of

    values, counts = np.array([0.1, 0.2, 0.4]), np.array([3, 0, 2])
    built = sidecar.sketch_counts(values, counts)
    known = sketch_of([0.1, 0.1, 0.1, 0.4, 0.4])
    assert built.bins == known.bins
    assert built.total == pytest.approx(known.total)
    assert built.total_squares == pytest.approx(known.total_squares)


def request_of(found):
    timing = importlib.import_module("search.timing")
    from poolwright.core.model import Context, FitRequest, Setting

    plant = found.plant
    return FitRequest(
        version=1, tick=0, policy=sidecar.policy_of(plant, 0),
        evidence=timing.evidence_of(found, 4),
        context=Context(load_rps=plant.load, foreign_cpu_ratio=0.2),
        incumbent=Setting(levels=(("workers", plant.start[0]),)),
        trust_octaves=0.5, memory_limit_bytes=plant.memory_limit,
    )  # fmt: skip


def test_an_ablation_takes_one_part_away_and_leaves_the_rest():
    whole = request_of(world.make_world(world.CELLS["usl-64"], 0))
    wide = ablations.without_trust_region(whole)
    assert replace(wide, trust_octaves=0.5) == whole
    free = ablations.without_safe_set(whole)
    assert free.policy.slo == ()
    assert free.memory_limit_bytes is None
    blind = ablations.without_context(whole)
    contexts = {item.observation.context for item in blind.evidence}
    assert contexts == {blind.context}
    assert [i.observation.responses for i in blind.evidence] == [
        i.observation.responses for i in whole.evidence
    ]


def test_what_the_learner_cannot_leave_out_is_refused():
    with pytest.raises(SystemExit, match="cannot do without"):
        ablations.ablated("thunder")


@pytest.mark.parametrize("what", ["trust region", "safe set", "context"])
def test_an_ablated_learner_makes_a_plan(what):
    request = request_of(world.make_world(world.CELLS["usl-64"], 0))
    assert ablations.ablated(what)(request).candidates


def test_a_window_is_one_sample_of_a_law():
    told = laws.sample_of(seen(queue=4.0), 1.0)
    assert (told.span_s, told.done, told.throughput) == (1.0, 3000.0, 100.0)
    assert (told.service, told.quantile(0.5), told.quantile(0.9)) == (0.1, 0.1, 0.15)
    assert (told.busy, told.in_flight, told.reserved) == (10.0, 10.0, 14.0)


def test_a_law_stays_within_bounds_and_moves_only_workers():
    found = world.make_world(world.CELLS["two-knob"], 0)
    law = laws.LAWS["uWSGI busyness"](found)
    for slot in range(20):
        held = law.slot(slot)[0]
        assert held[1] == found.plant.start[1]
        assert 1 <= held[0] <= found.plant.memory_top


def test_windows_to_the_oracle_need_five_in_a_row():
    found = score.Score(world.make_world(world.CELLS["usl-64"], 0))
    found.near = [False, True, True, False, *[True] * 5, False]
    assert found.windows_to_oracle == 5
    found.near = [True] * 4 + [False] * 3 + [True] * 4
    assert found.windows_to_oracle == 12


def test_a_slot_is_charged_by_its_ticks_and_broken_by_any_of_them():
    found = world.make_world(world.CELLS["usl-64"], 0)
    plant = found.plant
    one = score.Score(found)
    top = (plant.memory_top + 1,)
    best = methods.Hindsight(found).best
    one.take(0, [best] * 5 + [top], best)
    assert one.hard == [True]
    assert one.near == [True]
    assert one.regret[0] > 0.1
    assert one.moves()[0] == 1
    calm = score.Score(found)
    calm.take(0, [best], best)
    assert calm.hard == [False]
    assert calm.regret[0] == pytest.approx(0.0, abs=0.05)
    assert calm.final() == pytest.approx(0.0, abs=1e-9)


def test_a_run_repeats_to_the_bit_and_its_row_can_be_printed():
    run = importlib.import_module("search.run")
    options = {"label": "poolwright", "warmup": 1, "ablate": "", "revision": "x"}
    cells = world.CELLS
    cells["short"] = replace(cells["usl-64"], name="short", windows=6)
    try:
        one = run.run_one(("short", "random", 3, options))
        two = run.run_one(("short", "random", 3, options))
        mine = run.run_one(("short", "poolwright", 3, options))
    finally:
        del cells["short"]
    assert one["by_slot"] == two["by_slot"]
    assert mine["faults"] == []
    assert mine["plans"] >= 1
    printed = score.table("short", {"random": [one, two], "poolwright": [mine]})
    assert printed.count("\n| ") == 3
    assert "latency_p95_s" in score.calibration_table({"poolwright": [mine]})


def test_a_deploy_and_a_peak_are_told_beside_their_tables():
    calm = {"x": [{"by_slot": [9.0] * 120 + [0.02] * 40}]}
    assert "- x: 2.0 %" in score.told_beside(world.CELLS["deploy-64"], calm)
    calm = {"x": [{"by_slot": [9.0] * 40 + [0.25] * 20}]}
    assert "- x: 0.800" in score.told_beside(world.CELLS["saturated-64"], calm)
    assert score.told_beside(world.CELLS["usl-64"], calm) == ""


def test_names_are_chosen_whole_by_beginning_or_all():
    run = importlib.import_module("search.run")
    known = ["random", "Optuna GP", "Optuna TPE"]
    assert run._chosen("Optuna*;random", known, ";") == ["Optuna GP", "Optuna TPE", "random"]
    assert run._chosen("all", known, ";") == known
    with pytest.raises(SystemExit):
        run._chosen("thunder", known, ";")


def test_calibration_counts_only_windows_at_the_load_that_the_plan_spoke_of():
    from poolwright.core.model import Estimate

    found = sidecar.Calibration()
    here = sidecar.Setting(levels=(("workers", 4),))
    guess = SimpleNamespace(setting=here, predictions=(("power_w", Estimate(mean=100.0, std=5.0)),))
    plan = SimpleNamespace(context=SimpleNamespace(load_rps=50.0), candidates=(guess,))

    def fresh(load, power):
        known = {"power_w": Estimate(mean=power, std=0.0)}
        context = SimpleNamespace(load_rps=load)
        return SimpleNamespace(setting=here, context=context, response=known.get)

    found.see(plan, fresh(50.0, 105.0))
    found.see(plan, fresh(50.0, 120.0))
    found.see(plan, fresh(70.0, 105.0))
    assert (found.inside, found.asked) == ({"power_w": 1}, {"power_w": 2})
