"""Ten unlike machines behind one balancer, simulated request by request. Nothing here is a formula
of queueing theory: a request waits for a worker, looks into an LRU cache, waits on a back end if
it missed, and takes its turn on the machine's cores, one after the other.

A machine's memory holds its workers and its cache. When they do not fit, a request may meet pages
that were swapped out, which costs it time on the disk while it holds its worker.
"""

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass

import numpy as np

SPAN_S = 10.0  # of one measurement
LOAD_RPS = 420.0
KEYS = 20_000  # distinct things asked for, popular as 1 / rank
BLOCK_KEYS = 60  # cached per block
BLOCK_MB = 16.0
WORKER_MB = 60.0
HIT_CPU_S, MISS_CPU_S = 0.030, 0.130
HIT_IO_S, MISS_IO_S = 0.010, 0.120
FAULT_S = 0.150  # of a request that meets swapped-out pages
SWITCH = 0.004  # more CPU for every other worker that wants a core


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the operator's inventory says of it; `speed` is what it does not say."""

    cores: int
    ram_mb: float
    speed: float


FLEET = (
    Machine(cores=2, ram_mb=1024, speed=1.0),
    Machine(cores=2, ram_mb=2048, speed=0.7),
    Machine(cores=2, ram_mb=4096, speed=1.3),
    Machine(cores=4, ram_mb=2048, speed=0.8),
    Machine(cores=4, ram_mb=4096, speed=1.0),
    Machine(cores=4, ram_mb=2048, speed=1.3),
    Machine(cores=4, ram_mb=4096, speed=0.6),
    Machine(cores=8, ram_mb=4096, speed=0.7),
    Machine(cores=8, ram_mb=4096, speed=1.0),
    Machine(cores=8, ram_mb=6144, speed=1.2),
)
SHARE, WORKERS, CACHE = (1, 24), (1, 64), (1, 128)  # a weight; processes; blocks
# What an operator starts with: traffic by cores, the usual number of workers, a small cache.
DEFAULT = tuple(x for m in FLEET for x in (2 * m.cores, 2 * m.cores + 1, 16))
_POPULARITY = np.cumsum(1.0 / np.arange(1, KEYS + 1))
_POPULARITY /= _POPULARITY[-1]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What one machine showed in a measurement. None: it got no request."""

    load_rps: float
    work_s: float | None = None  # CPU for a request
    hold_s: float | None = None  # that a worker was held by one
    p99_s: float | None = None
    memory_mb: float = 0.0
    count: int = 0


def measure(levels: tuple[int, ...], seed: int) -> tuple[float, list[Shown]]:
    """(p99 over all requests [s], what each machine showed) at share, workers, cache x 10."""
    rng = np.random.default_rng(seed)
    weights = np.array(levels[0::3], dtype=float)
    shares = weights / weights.sum()
    shown, every = [], []
    for machine, share, workers, cache in zip(
        FLEET, shares, levels[1::3], levels[2::3], strict=True
    ):
        load = float(share) * LOAD_RPS
        count = int(rng.poisson(load * SPAN_S))
        memory = workers * WORKER_MB + cache * BLOCK_MB
        if count == 0:
            shown.append(Shown(load_rps=load, memory_mb=memory))
            continue
        latency, work, hold = _serve(machine, count, workers, cache, memory, rng)
        every.append(latency)
        shown.append(
            Shown(
                load_rps=load,
                work_s=work / count,
                hold_s=hold / count,
                p99_s=float(np.quantile(latency, 0.99)),
                memory_mb=memory,
                count=count,
            )
        )
    return float(np.quantile(np.concatenate(every), 0.99)), shown


def _serve(machine, count: int, workers: int, cache: int, memory: float, rng):
    """Latencies of `count` requests, and the CPU and worker seconds they took."""
    at = np.sort(rng.uniform(0.0, SPAN_S, count)).tolist()
    hits = _hits(np.searchsorted(_POPULARITY, rng.random(count)), cache * BLOCK_KEYS)
    faulted = rng.random(count) < max(0.0, 1.0 - machine.ram_mb / memory)
    io = np.where(hits, HIT_IO_S, MISS_IO_S) * rng.gamma(4.0, 0.25, count)
    io = (io + np.where(faulted, FAULT_S * rng.exponential(1.0, count), 0.0)).tolist()
    cpu = np.where(hits, HIT_CPU_S, MISS_CPU_S) / machine.speed * rng.gamma(3.0, 1 / 3, count)
    return _play(at, io, cpu.tolist(), workers, machine.cores)


def _hits(keys, size: int):
    """Which requests find their key in an LRU cache that begins with the most popular ones."""
    held = OrderedDict((int(key), None) for key in range(min(size, KEYS) - 1, -1, -1))
    found = np.zeros(len(keys), dtype=bool)
    for k, key in enumerate(keys.tolist()):
        if key in held:
            found[k] = True
            held.move_to_end(key)
        else:
            held[key] = None
            held.popitem(last=False)
    return found


def _play(at: list[float], io: list[float], cpu: list[float], workers: int, cores: int):
    """Event by event: a worker is held from the start to the end; cores serve in turn."""
    arrival, ready, done = 0, 1, 2
    events = [(when, arrival, k) for k, when in enumerate(at)]  # sorted, hence a heap
    waiting, runnable = deque(), deque()
    free_workers, free_cores = workers, cores
    began, latency = [0.0] * len(at), np.zeros(len(at))
    work = hold = 0.0
    pop, push = heapq.heappop, heapq.heappush
    while events:
        now, kind, k = pop(events)
        if kind == arrival:
            waiting.append(k)
        elif kind == ready:
            runnable.append(k)
        else:
            free_cores += 1
            free_workers += 1
            latency[k] = now - at[k]
            hold += now - began[k]
        while free_workers and waiting:
            k = waiting.popleft()
            free_workers -= 1
            began[k] = now
            push(events, (now + io[k], ready, k))
        while free_cores and runnable:
            k = runnable.popleft()
            free_cores -= 1
            took = cpu[k] * (1.0 + SWITCH * len(runnable))
            work += took
            push(events, (now + took, done, k))
    return latency, work, hold
