"""The plant as a service: what operators do to it, what clients do, what sensors see."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolwright.core.model import Status, setting
from poolwright.core.signals import SIGNALS
from poolwright.core.sketch import sketch_of
from poolwright.sim.plant import Disturbance, Plant, PlantShape
from poolwright.sim.shape import (
    MIB,
    Boot,
    Cache,
    Clients,
    Connections,
    Law,
    Memory,
    OverCap,
    Pauses,
    Scope,
    ServiceClass,
)
from poolwright.sim.sketches import sketch_array

CALM = PlantShape(service=(ServiceClass(cpu=0.01, io=0.04),), cores=4.0, cache=Cache(miss_cpu=0.0))


def run(plant, seconds, rps, **more):
    """The truths of so many ticks of a second."""
    found = []
    for _ in range(seconds):
        plant.tick(rps, **more)
        found.append(plant.truth)
    return found


def values(readings):
    return {r.signal: r.value for r in readings if r.status is Status.OK}


def mean_latency(truths):
    return sum(t.latency.total for t in truths) / sum(t.latency.count for t in truths)


# -- laws that hold whatever happens -------------------------------------------------------------

shapes = st.builds(
    PlantShape,
    service=st.lists(
        st.builds(
            ServiceClass,
            share=st.floats(0.1, 5.0),
            cpu=st.floats(0.0, 0.05),
            io=st.floats(0.0, 0.3),
            cpu_cv=st.floats(0.0, 3.0),
            io_cv=st.floats(0.0, 3.0),
            law=st.sampled_from(Law),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    cores=st.floats(0.3, 8.0),
    threads=st.integers(1, 3),
    gil=st.booleans(),
    lock=st.sampled_from([0.0, 0.3]),
    cache=st.sampled_from([Cache(), Cache(miss_cpu=0.0)]),
    pauses=st.sampled_from(
        [Pauses(), Pauses(every=0.7, lasts=0.2), Pauses(every=1.5, lasts=0.9, scope=Scope.POOL)]
    ),
    memory=st.sampled_from(
        [Memory(), Memory(leak=4 * MIB, limit=1_500_000_000), Memory(limit=1_010_000_000)]
    ),
    boot=st.builds(Boot, lasts=st.floats(0.0, 3.0), cpu=st.sampled_from([0.0, 0.5])),
    backlog=st.sampled_from([0, 3, 40, 2048]),
    clients=st.sampled_from([Clients(), Clients(timeout=0.4, retries=3, backoff=0.2)]),
    connections=st.sampled_from(
        [Connections(), Connections(limit=2), Connections(limit=2, over=OverCap.WAIT)]
    ),
    sees_queue=st.booleans(),
    sees_latency=st.booleans(),
)  # fmt: skip

deeds = st.one_of(
    st.tuples(st.just("tick"), st.sampled_from([0.0, 5.0, 80.0]), st.sampled_from([0.1, 1.0, 2.5])),
    st.tuples(st.just("resize"), st.integers(1, 9)),
    st.tuples(st.just("threads"), st.integers(1, 3)),
    st.tuples(st.just("kill")),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(
        st.just("disturb"),
        st.builds(
            Disturbance,
            dependency_factor=st.sampled_from([0.0, 1.0, 5.0]),
            cpu_factor=st.sampled_from([1.0, 3.0]),
            foreign_cores=st.sampled_from([0.0, 2.5]),
            foreign_bytes=st.sampled_from([0.0, 7.5e9]),
            leak_bytes=st.sampled_from([0.0, 1e6]),
            fail_ratio=st.sampled_from([0.0, 0.5]),
        ),
    ),
)


def do(plant, deed):
    """One deed; the readings when it was a tick."""
    match deed:
        case "tick", rps, dt_s:
            return plant.tick(rps, dt_s)
        case "resize", workers:
            plant.resize(workers)
        case "threads", threads:
            plant.obey(setting(threads=threads))
        case "kill", *_:
            plant.kill_worker()
        case "restart", graceful:
            plant.restart(graceful=graceful)
        case "disturb", disturbance:
            plant.disturbance = disturbance
    return None


@settings(max_examples=90, deadline=None)
@given(shape=shapes, workers=st.integers(1, 9), story=st.lists(deeds, max_size=25))
def test_whatever_happens_no_request_is_created_or_forgotten(shape, workers, story):
    """arrived = served + waiting + refused + lost + in service, after every tick."""
    plant, twin = Plant(shape, workers, 3), Plant(shape, workers, 3)
    for deed in [*story, ("tick", 20.0, 1.0)]:
        seen = do(plant, deed)
        assert seen == do(twin, deed), "the same calls, the same world"
        if seen is None:
            continue
        sums, truth = plant.totals, plant.truth
        gone = sums.done + sums.refused + sums.lost
        assert sums.arrived == gone + truth.waiting + truth.in_service
        assert (plant.waiting, plant.in_service) == (truth.waiting, truth.in_service)
        assert sums.errors <= sums.arrived
        assert truth.waiting <= shape.backlog
        assert truth.in_service <= 3 * truth.workers
        assert truth.cpu_s <= shape.cores * truth.dt_s * 1.000001
        assert truth.cpu_s >= -1e-6
        assert plant.applied().setting["workers"] == plant.workers
        for reading in seen:
            assert reading.signal in SIGNALS
            assert reading.taken_mono_ns == round(plant.now_s * 1e9)
            assert reading.value is None or reading.value >= 0.0


def test_clients_get_one_end_each():
    """Answered, failed, refused, lost or given up: once, when all is over."""
    shape = replace(CALM, backlog=30, clients=Clients(timeout=0.5, retries=2, backoff=0.3))
    plant, answered = Plant(shape, 3, 1), 0
    plant.disturbance.fail_ratio = 0.1
    for second in range(100):
        plant.tick(90.0 if second < 40 else 0.0)
        answered += plant.truth.latency.count
        if second in (10, 20):
            plant.kill_worker()
    assert plant.outstanding == 0
    assert plant.totals.timed_out > 0 < plant.totals.refused
    assert plant.totals.lost > 0 < plant.totals.failed
    assert answered + plant.totals.errors == plant.totals.arrived


def test_another_seed_is_another_world_with_the_same_laws():
    a, b = (run(Plant(CALM, 10, seed), 200, 80.0) for seed in (1, 2))
    assert [t.arrived for t in a] != [t.arrived for t in b]
    assert mean_latency(a) == pytest.approx(mean_latency(b), rel=0.03)


def test_how_time_is_cut_into_ticks_changes_nothing():
    coarse, fine = Plant(CALM, 6, 1), Plant(CALM, 6, 1)
    for _ in range(20):
        coarse.tick(90.0, 2.0)
    for _ in range(400):
        fine.tick(90.0, 0.1)
    for name in ("arrived", "done", "cpu_s"):
        assert getattr(fine.totals, name) == pytest.approx(getattr(coarse.totals, name), abs=1e-6)


@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize("cv", [0.0, 0.5, 2.0])
def test_demands_have_the_mean_and_the_spread_that_are_written(law, cv):
    from poolwright.sim.demand import Demand

    kind = ServiceClass(cpu=0.02, cpu_cv=cv, io=0.0, law=law)
    cpu, io, _ = Demand(replace(CALM, service=(kind,)), 4).ask(60_000, 1.0)
    mean = sum(cpu) / len(cpu)
    assert not any(io)
    assert mean == pytest.approx(0.02, rel=0.03)
    if law is Law.GAMMA or cv < 1.0:  # the variance of the others converges too slowly to test
        std = math.sqrt(sum((x - mean) ** 2 for x in cpu) / len(cpu))
        assert std / mean == pytest.approx(cv, abs=0.08)


def test_the_mix_of_requests_has_the_shares_that_are_written():
    from poolwright.sim.demand import Demand

    kinds = (
        ServiceClass(share=3.0, cpu=0.01, cpu_cv=0.0, io=0.0),
        ServiceClass(share=1.0, cpu=0.5, cpu_cv=0.0, io=0.0),
    )
    cpu, _, _ = Demand(replace(CALM, service=kinds), 4).ask(40_000, 2.0)
    assert set(cpu) == {0.02, 1.0}, "and cost the multiple that is asked"
    assert cpu.count(1.0) / len(cpu) == pytest.approx(0.25, abs=0.01)


@given(st.lists(st.floats(0.0, 1e6), max_size=300))
def test_sketches_made_at_once_are_those_made_one_by_one(found):
    assert sketch_array(found) == sketch_of(found)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("count", [1, 100])
def test_sketches_made_at_once_refuse_what_the_others_refuse(bad, count):
    with pytest.raises(ValueError, match="finite values of at least zero"):
        sketch_array([1.0] * count + [bad])


# -- what operators do ---------------------------------------------------------------------------


def test_a_new_worker_serves_when_it_has_booted_and_not_before():
    shape = replace(CALM, boot=Boot(lasts=3.0, cpu=0.5))
    plant = Plant(shape, 1, 1)
    run(plant, 5, 100.0)
    plant.resize(4)
    assert plant.applied().setting == setting(workers=4)
    booting, booted = run(plant, 3, 100.0), run(plant, 3, 100.0)
    assert sum(t.done for t in booting) < 3 * 30
    assert sum(t.done for t in booted) > 3 * 65
    assert booting[0].cpu_s > 1.5, "booting burns"


def test_a_smaller_pool_loses_nobody():
    plant = Plant(CALM, 12, 1)
    run(plant, 5, 100.0)
    plant.resize(2)
    assert plant.workers == 2
    run(plant, 3, 20.0)
    run(plant, 30, 0.0)
    assert plant.truth.workers == 2
    assert plant.totals.errors == 0
    assert plant.totals.done == plant.totals.arrived


def test_a_killed_worker_loses_what_it_had_and_is_replaced():
    shape = replace(CALM, service=(ServiceClass(cpu=0.0, io=5.0, io_cv=0.0),), threads=3)
    plant = Plant(shape, 2, 1)
    run(plant, 2, 10.0)
    assert plant.in_service == 6
    plant.kill_worker()
    (truth,) = run(plant, 1, 0.0)
    assert (truth.lost, truth.errors, truth.workers) == (3, 3, 2)
    assert plant.applied().setting == setting(workers=2)
    assert plant.applied().epoch == "sim-0"


def test_a_reload_goes_back_to_the_start_and_loses_nobody():
    plant = Plant(CALM, 3, 1)
    plant.resize(9)
    run(plant, 5, 100.0)
    plant.restart()
    assert plant.applied().setting == setting(workers=3)
    assert plant.applied().epoch == "sim-1"
    run(plant, 60, 10.0)
    assert plant.totals.errors == 0


def test_a_hard_restart_loses_all_that_were_there():
    plant = Plant(CALM, 2, 1)
    run(plant, 5, 200.0)
    waiting, served = plant.waiting, plant.in_service
    assert waiting > 100
    plant.restart(graceful=False)
    (truth,) = run(plant, 1, 0.0)
    assert (truth.refused, truth.lost, truth.errors) == (waiting, served, waiting + served)


def test_threads_are_a_knob_when_asked_for():
    plant = Plant(CALM, 2, 1, threads=2, knobs=("workers", "threads"))
    assert plant.applied().setting == setting(workers=2, threads=2)
    plant.obey(setting(workers=3, threads=5))
    run(plant, 5, 20.0)
    assert plant.applied().setting == setting(workers=3, threads=5)
    assert plant.truth.workers == 3
    assert plant.totals.errors == 0
    with pytest.raises(KeyError):
        plant.obey(setting(processes=3))


@pytest.mark.parametrize("workers", [0, -3])
def test_a_service_without_workers_is_refused(workers):
    with pytest.raises(ValueError, match="at least one"):
        Plant(CALM, workers, 1)
    with pytest.raises(ValueError, match="at least one"):
        Plant(CALM, 1, 1).resize(workers)


@pytest.mark.parametrize(
    "wrong", [{"cpu_factor": 0.0}, {"fail_ratio": 1.1}, {"foreign_cores": math.nan}]
)
def test_a_disturbance_that_no_world_has_is_refused(wrong):
    with pytest.raises(ValueError, match="disturbance"):
        Disturbance(**wrong)
    plant = Plant(CALM, 1, 1)
    for name, value in wrong.items():
        setattr(plant.disturbance, name, value)
    with pytest.raises(ValueError, match="disturbance"):
        plant.tick(1.0)
