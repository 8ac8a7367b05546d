"""The event engine against a slow and obvious one, and against the textbook where it is exact."""

import math

import pytest
from slow_pool import SlowPool

from poolwright.sim.demand import Demand
from poolwright.sim.plant import Plant
from poolwright.sim.pool import Pool
from poolwright.sim.shape import (
    Cache,
    Connections,
    Disturbance,
    Law,
    OverCap,
    PlantShape,
    ServiceClass,
)

NO_CACHE = Cache(miss_cpu=0.0)


def shaped(*, cpu=0.02, io=0.05, cpu_cv=0.3, io_cv=1.0, law=Law.GAMMA, **more):
    kind = ServiceClass(cpu=cpu, io=io, cpu_cv=cpu_cv, io_cv=io_cv, law=law)
    return PlantShape(service=(kind,), cache=NO_CACHE, **more)


# name: (shape, workers, requests/s, disturbance)
GRID = {
    "idle workers abound": (shaped(cores=4.0), 30, 60, Disturbance()),
    "workers are short": (shaped(cpu=0.006, cores=4.0), 4, 75, Disturbance()),
    "cpu is short": (shaped(cores=2.0), 40, 95, Disturbance()),
    "both are short": (shaped(cores=2.0, backlog=50), 9, 120, Disturbance()),
    "half a core": (shaped(cpu=0.01, cores=0.5), 6, 40, Disturbance()),
    "heavy tails": (
        shaped(cpu_cv=4.0, io_cv=3.0, law=Law.PARETO, cores=3.0), 12, 80, Disturbance(),
    ),
    "neighbours burn": (shaped(cores=4.0), 20, 80, Disturbance(foreign_cores=3.5)),
    "slow dependency, bad deploy": (
        shaped(cores=4.0), 20, 60, Disturbance(dependency_factor=3.0, cpu_factor=1.7),
    ),
    "threads under one interpreter": (shaped(cores=4.0, threads=4), 3, 70, Disturbance()),
    "threads without": (shaped(cores=4.0, threads=4, gil=False), 3, 70, Disturbance()),
    "a lock of all": (shaped(cores=4.0, lock=0.5), 20, 85, Disturbance()),
    "a lock and threads": (shaped(cores=4.0, lock=0.4, threads=3), 5, 85, Disturbance()),
    "few connections": (
        shaped(cores=4.0, connections=Connections(limit=4, over=OverCap.WAIT)), 20, 70,
        Disturbance(),
    ),
    "no backlog": (shaped(cores=4.0, backlog=0), 5, 80, Disturbance()),
}  # fmt: skip


def both(name, seed, seconds):
    """The same requests through the pool, in ticks, and through the slow simulation."""
    shape, workers, rps, outside = GRID[name]
    demand, pool = Demand(shape, seed), Pool(shape, workers, shape.threads, seed)
    arrivals, cpus, ios, done = [], [], [], []
    tick = 0
    while tick < seconds or pool.waiting or any(pool.in_service()):
        mine = demand.arrivals(float(tick), 1.0, rps) if tick < seconds else []
        asked = demand.ask(len(mine), 1.0)
        arrivals, cpus, ios = arrivals + mine, cpus + asked[0], ios + asked[1]
        pool.offer(mine, asked)
        tick += 1
        pool.advance(float(tick), outside)
        done += pool.finished()
    slow = SlowPool(
        workers=workers, threads=shape.threads, cores=shape.cores, foreign=outside.foreign_cores,
        lock=shape.lock, gil=shape.gil, backlog=shape.backlog, connections=shape.connections.limit,
    )  # fmt: skip
    factor, slower = outside.cpu_factor, outside.dependency_factor
    slow.run(arrivals, [c * factor for c in cpus], [w * slower for w in ios])
    return pool, done, slow, arrivals


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GRID)
def test_every_request_starts_and_ends_when_the_slow_simulation_says(name, seed):
    """To a nanosecond, for ten seconds: three times some seven hundred requests.

    But four seconds where CPU and workers are both short: there the slow simulation also departs
    from itself, tenfold a second, when one burst is made 1e-13 s longer.
    """
    pool, done, slow, arrivals = both(name, seed, 4 if name == "both are short" else 10)
    assert pool.refused == slow.refused
    assert len(done) == len(slow.done) == len(arrivals) - len(slow.refused)
    found = {s[1]: (s[0], s[2]) for s in done}
    for finish, arrival, start in slow.done:
        assert found[arrival] == pytest.approx((finish, start), rel=0.0, abs=1e-9)
    assert pool.burned_s == pytest.approx(slow.burned, rel=1e-9)


@pytest.mark.parametrize("name", GRID)
def test_latency_and_throughput_over_longer_are_those_of_the_slow_simulation(name):
    pool, done, slow, _ = both(name, 9, 40)
    mine = sorted(s[0] - s[1] for s in done)
    theirs = sorted(finish - arrival for finish, arrival, _ in slow.done)
    assert len(mine) == pytest.approx(len(theirs), rel=0.005)
    for share in (0.5, 0.99):
        at = int(share * len(mine)), int(share * len(theirs))
        assert mine[at[0]] == pytest.approx(theirs[at[1]], rel=0.02)
    assert pool.burned_s == pytest.approx(slow.burned, rel=0.01)


def waits(shape, workers, rps, *, span_s, service, seed=5, cut_s=10.0):
    """Mean of finish - arrival (or, without `service`, of start - arrival), and its error.

    The error is that of batch means: 20 batches, each long against the correlation of the queue.
    """
    demand, pool = Demand(shape, seed), Pool(shape, workers, 1, seed)
    seen = []
    for tick in range(round(span_s / cut_s)):
        arrivals = demand.arrivals(tick * cut_s, cut_s, rps)
        pool.offer(arrivals, demand.ask(len(arrivals), 1.0))
        pool.advance((tick + 1) * cut_s, Disturbance())
        seen += [(s[1], (s[0] if service else s[2]) - s[1]) for s in pool.finished()]
    seen.sort()
    late = [took for arrival, took in seen if arrival > span_s / 20]
    size = len(late) // 20
    means = [sum(late[i * size : (i + 1) * size]) / size for i in range(20)]
    mean = sum(means) / 20
    return mean, math.sqrt(sum((m - mean) ** 2 for m in means) / 19 / 20)


def agrees(found, expected):
    mean, error = found
    assert error < 0.05 * expected, f"too short a run: {mean} +- {error}"
    assert abs(mean - expected) < 3.5 * error, f"{mean} +- {error}, textbook {expected}"


def erlang_c(servers, load):
    """Probability of waiting (Kleinrock, Queueing Systems I, 1975, equation 3.40)."""
    below = sum(load**k / math.factorial(k) for k in range(servers))
    full = load**servers / math.factorial(servers) * servers / (servers - load)
    return full / (below + full)


@pytest.mark.parametrize(
    ("workers", "rho", "span_s"), [(1, 0.5, 800), (1, 0.8, 1500), (4, 0.7, 1500), (4, 0.9, 3000)]
)
def test_exponential_service_waits_as_erlang_says(workers, rho, span_s):
    """The fuller, the longer a queue lasts, and the longer must be looked for the same error."""
    rps, mean = 100.0, workers * rho / 100.0
    shape = shaped(cpu=0.0, io=mean, io_cv=1.0, backlog=10**6)
    expected = erlang_c(workers, workers * rho) * mean / (workers * (1 - rho))
    agrees(waits(shape, workers, rps, span_s=span_s, service=False), expected)


def test_constant_service_waits_half_as_long():
    shape = shaped(cpu=0.0, io=0.008, io_cv=0.0, backlog=10**6)
    expected = 0.8 * 0.008 / (2 * 0.2)  # M/D/1, Pollaczek and Khinchine
    agrees(waits(shape, 1, 100.0, span_s=1000, service=False), expected)


@pytest.mark.parametrize(("cv", "span_s"), [(0.0, 600), (1.0, 1000), (3.0, 1500)])
def test_a_shared_core_takes_the_same_mean_time_whatever_the_spread(cv, span_s):
    """M/G/1 processor sharing is insensitive (Kleinrock II, 1976, section 4.4): x / (1 - rho)."""
    shape = shaped(cpu=0.007, cpu_cv=cv, io=0.0, cores=1.0)
    agrees(waits(shape, 400, 100.0, span_s=span_s, service=True), 0.007 / 0.3)


def test_requests_in_the_service_are_arrivals_times_their_time_in_it():
    """Little 1961: L = lambda W, from samples of L every 50 ms."""
    plant = Plant(shaped(cores=2.0), 9, seed=3)
    inside = ended = latency = 0.0
    for _ in range(4_000):
        plant.tick(80.0, 0.05)
        inside += plant.outstanding / 4_000
        ended += plant.truth.latency.count
        latency += plant.truth.latency.total
    assert inside == pytest.approx(ended / 200.0 * latency / ended, rel=0.01)
