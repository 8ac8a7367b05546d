"""Each mechanism of the plant shows what it is there to show."""

from dataclasses import replace

import pytest
from test_plant import CALM, mean_latency, run, values

from poolwright.core.errors import PolicyError
from poolwright.core.model import Status
from poolwright.sim.plant import Disturbance, Plant
from poolwright.sim.power import PowerCurve, machines
from poolwright.sim.shape import (
    MIB,
    Cache,
    Clients,
    Connections,
    Memory,
    OverCap,
    Pauses,
    Scope,
    ServiceClass,
)

BURNS = replace(CALM, service=(ServiceClass(cpu=0.02, io=0.0),))


def test_a_slow_dependency_costs_latency_and_no_cpu():
    calm, slow = Plant(CALM, 40, 1), Plant(CALM, 40, 1)
    slow.disturbance = Disturbance(dependency_factor=4.0)
    before, after = run(calm, 60, 80.0), run(slow, 60, 80.0)
    assert mean_latency(after) > 3.0 * mean_latency(before)
    assert slow.totals.cpu_s == pytest.approx(calm.totals.cpu_s, rel=0.02)


def test_neighbours_take_their_share_of_the_cpu():
    plant = Plant(BURNS, 30, 1)
    plant.disturbance = Disturbance(foreign_cores=30.0)
    seen = values(run(plant, 20, 400.0) and plant.tick(400.0))
    assert seen["host_cpu_cores"] == pytest.approx(4.0)
    assert seen["cpu_cores"] == pytest.approx(2.0, rel=0.05), "30 threads against 30"
    assert seen["psi_cpu_ratio"] == pytest.approx(1.0)


def test_under_one_lock_more_workers_serve_no_more():
    locked = replace(BURNS, lock=0.5, cores=16.0)
    few, many = Plant(locked, 4, 1), Plant(locked, 40, 1)
    run(few, 30, 300.0)
    run(many, 30, 300.0)
    assert many.totals.done == pytest.approx(30 * 100, rel=0.05), "1 / (0.5 * 20 ms)"
    assert few.totals.done == pytest.approx(many.totals.done, rel=0.05)


def test_threads_of_one_interpreter_burn_one_core():
    for gil, cores in ((True, 1.0), (False, 4.0)):
        plant = Plant(replace(BURNS, threads=8, gil=gil), 1, 1)
        run(plant, 20, 400.0)
        assert plant.truth.cpu_s == pytest.approx(cores, rel=0.01)


def test_more_workers_have_colder_caches():
    shape = replace(CALM, cache=Cache(miss_cpu=0.03, keys=12, ttl=2.0))
    cpu = []
    for workers in (4, 16):
        plant = Plant(shape, workers, 1)
        run(plant, 60, 40.0)
        cpu.append(plant.totals.cpu_s)
    assert cpu[1] > 1.4 * cpu[0]


def test_garbage_collection_of_workers_burns_and_delays():
    calm, paused = (
        Plant(replace(CALM, pauses=pauses), 20, 1)
        for pauses in (Pauses(), Pauses(every=2.0, lasts=0.2))
    )
    before, after = run(calm, 100, 50.0), run(paused, 100, 50.0)
    extra = paused.totals.cpu_s - calm.totals.cpu_s
    assert extra == pytest.approx(20 * 100 / 2.0 * 0.2, rel=0.15)
    assert max(t.p99_s for t in after) > max(t.p99_s for t in before)


def test_while_the_pool_is_frozen_nobody_is_answered():
    shape = replace(CALM, pauses=Pauses(every=3.0, lasts=0.5, scope=Scope.POOL))
    plant, silent = Plant(shape, 20, 1), 0
    for _ in range(2000):
        plant.tick(200.0, 0.05)
        if plant.truth.done == 0 and plant.truth.cpu_s == 0.0:
            silent += 1
    assert silent * 0.05 == pytest.approx(100.0 * 0.5 / 3.5, rel=0.25)
    assert plant.totals.errors == 0


def test_a_leak_ends_in_a_kill_and_a_fresh_worker():
    memory = Memory(leak=2 * MIB, limit=2_000_000_000)
    plant = Plant(replace(CALM, memory=memory), 4, 1)
    truths = run(plant, 60, 60.0)
    kill = next(i for i, t in enumerate(truths) if t.killed)
    assert truths[kill].host_memory_bytes > memory.limit
    assert truths[kill + 1].host_memory_bytes < memory.limit
    assert plant.workers == 4
    assert plant.totals.errors <= 4 * plant.totals.killed
    assert [t.memory_bytes for t in truths[:kill]] == sorted(t.memory_bytes for t in truths[:kill])


def test_memory_is_base_workers_warmth_and_what_the_disturbance_leaks():
    plain = Memory(base=100, worker=10, warm=40, warm_requests=1, leak=0)
    plant = Plant(replace(CALM, memory=plain), 5, 1)
    assert plant.truth.memory_bytes == 0.0
    run(plant, 20, 100.0)
    assert plant.truth.memory_bytes == pytest.approx(100 + 5 * (10 + 40))
    plant.disturbance = Disturbance(leak_bytes=3.0)
    (truth,) = run(plant, 1, 100.0)
    assert truth.memory_bytes == pytest.approx(350 + 3.0 * truth.arrived, abs=3.0 * 10)


def test_workers_beyond_the_connection_cap_fail_their_requests():
    shape = replace(CALM, connections=Connections(per_worker=2, limit=10))
    plant = Plant(shape, 5, 1)
    run(plant, 20, 50.0)
    assert plant.totals.errors == 0
    plant.resize(10)
    run(plant, 5, 50.0)
    truths = run(plant, 20, 50.0)
    seen = values(plant.tick(50.0))
    assert (seen["connections"], seen["connections_limit"]) == (10.0, 10.0)
    failed = sum(t.failed for t in truths) / sum(t.done for t in truths)
    assert failed > 0.3
    plant.resize(5)  # the oldest go, and give theirs back
    run(plant, 5, 50.0)
    assert sum(t.errors for t in run(plant, 20, 50.0)) == 0


def test_where_requests_wait_for_a_connection_the_cap_is_the_capacity():
    shape = replace(CALM, connections=Connections(limit=4, over=OverCap.WAIT))
    plant = Plant(shape, 30, 1)
    run(plant, 60, 200.0)
    assert plant.totals.done == pytest.approx(60 * 4 / 0.04, rel=0.05)


def test_a_full_backlog_refuses():
    plant = Plant(replace(CALM, backlog=10), 1, 1)
    truths = run(plant, 20, 100.0)
    assert {t.waiting for t in truths[3:]} <= set(range(6, 11))
    assert plant.totals.refused == plant.totals.errors > 20 * 70
    assert max(t.latency.quantile(1.0) for t in truths) < 30 * 0.05


def storm(retries):
    """Good answers a second, a minute after a burst that lasted ten seconds.

    The backlog is short: one of 2048 takes 100 s to drain (at 100/s less 80/s), retries or not.
    """
    clients = Clients(timeout=1.0, retries=retries, backoff=0.5)
    plant = Plant(replace(BURNS, cores=2.0, backlog=200, clients=clients), 10, 1)
    assert sum(t.errors for t in run(plant, 20, 80.0)) == 0
    run(plant, 10, 300.0)
    run(plant, 60, 80.0)
    return sum(t.latency.count for t in run(plant, 20, 80.0)) / 20


def test_retries_keep_an_overload_alive_after_its_cause_is_gone():
    assert storm(0) == pytest.approx(80.0, rel=0.05)
    assert storm(8) < 8.0


def test_a_client_that_gave_up_has_failed_when_its_patience_ended():
    shape = replace(
        CALM, service=(ServiceClass(cpu=0.0, io=10.0, io_cv=0.0),), clients=Clients(timeout=2.0)
    )
    plant = Plant(shape, 5, 1)
    truths = run(plant, 1, 5.0) + run(plant, 14, 0.0)
    asked = truths[0].arrived
    assert [t.timed_out for t in truths] == [0, 0, asked, *([0] * 12)]
    assert sum(t.latency.count for t in truths) == 0
    assert plant.totals.errors == asked
    assert plant.totals.done > 0, "and was served all the same"


def test_the_service_may_answer_with_errors():
    plant = Plant(CALM, 20, 1)
    plant.disturbance = Disturbance(fail_ratio=0.25)
    run(plant, 60, 50.0)
    assert plant.totals.failed / plant.totals.done == pytest.approx(0.25, abs=0.03)
    assert plant.totals.errors == plant.totals.failed


# -- what sensors see ----------------------------------------------------------------------------


def test_a_proxy_sees_every_end_and_the_service_only_what_it_served():
    shape = replace(CALM, backlog=5, clients=Clients(timeout=0.3))
    seen = {}
    for sees in (True, False):
        plant = Plant(replace(shape, sees_latency=sees), 2, 1)
        run(plant, 5, 100.0)
        seen[sees] = values(plant.tick(100.0)), plant.truth
    proxy, truth = seen[True]
    assert proxy["errors_rps"] == truth.errors > 0
    assert proxy["throughput_rps"] == truth.errors + truth.latency.count
    served, truth = seen[False]
    assert served["errors_rps"] == 0.0
    assert served["throughput_rps"] == truth.done < 50
    assert "latency_s" not in served


def test_a_quiet_service_has_no_latency_rather_than_a_good_one():
    plant = Plant(CALM, 4, 1)
    seen = {r.signal: r for r in plant.tick(0.0)}
    for name in ("latency_s", "service_time_s"):
        assert (seen[name].status, seen[name].value) == (Status.NO_DATA, None)
    assert seen["throughput_rps"].value == 0.0
    assert seen["queue_length"].value == 0.0
    assert seen["power_w"].value == pytest.approx(CALM.power.idle_w)


def test_an_accept_queue_that_nobody_sees_is_not_reported():
    plant = Plant(replace(CALM, sees_queue=False), 1, 1)
    run(plant, 5, 100.0)
    assert not {"queue_length", "queue_limit"} & values(plant.tick(100.0)).keys()


def test_samples_of_the_queue_are_its_length_through_the_tick():
    plant = Plant(CALM, 1, 1)
    run(plant, 10, 100.0)
    before = plant.waiting
    queue = {r.signal: r for r in plant.tick(100.0)}["queue_length"]
    assert queue.value == plant.waiting > before > 100
    assert queue.sketch.count == 20
    assert before < queue.sketch.mean < plant.waiting


def test_power_follows_the_four_knots():
    curve = PowerCurve(idle_w=60.0, at_10_w=130.0, at_50_w=150.0, full_w=200.0)
    shares = (-1.0, 0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0, 2.0)
    assert [curve.watts(u) for u in shares] == pytest.approx(
        [60.0, 60.0, 95.0, 130.0, 140.0, 150.0, 175.0, 200.0, 200.0]
    )
    plant = Plant(replace(BURNS, power=curve), 4, 1)
    (truth,) = run(plant, 1, 2000.0)
    assert truth.joules == pytest.approx(200.0, rel=0.01)


def test_curves_of_real_machines_are_near_what_was_measured():
    for name, watts in machines().items():
        curve = PowerCurve(server=name)
        off = [abs(curve.watts(i / 10) - w) / watts[-1] for i, w in enumerate(watts)]
        assert max(off) < 0.11, name
    assert PowerCurve(server="dl360 g7").knots == PowerCurve().knots
    for name in ("no such machine", "Dell"):
        with pytest.raises(PolicyError, match="names no one machine"):
            PowerCurve(server=name)
