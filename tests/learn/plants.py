"""Plants to learn on, written without any of the surrogate's formulas.

A window is a discrete-event simulation of c first-come-first-served workers (Kiefer and Wolfowitz's
recursion). A request waits for I/O and burns CPU; each worker keeps a cache that expires, so more
workers mean more misses; CPU is shared, so a busy host stretches every burst. Memory is a base and
a share per worker. Nothing here knows of USL, utilisation laws or log-normal noise.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from poolwright.core.model import Context, Estimate, Evidence, Observation, setting

MIB = 2.0**20


@dataclass(frozen=True, kw_only=True)
class Plant:
    cores: float = 2.0
    cpu_s: float = 0.006
    miss_s: float = 0.012
    io_s: float = 0.045
    ttl_s: float = 0.25
    base_mib: float = 60.0
    worker_mib: float = 35.0
    idle_w: float = 20.0
    core_w: float = 12.0
    overhead_cores: float = 0.012  # of each worker, whatever it does

    def cpu_of(self, workers: int, load: float) -> float:
        """CPU seconds of a request: its own, and a miss where its worker's cache expired."""
        per_worker = load / workers
        return self.cpu_s + self.miss_s / (1.0 + per_worker * self.ttl_s)

    def stretch(self, workers: int, load: float, foreign: float) -> float:
        """By how much a burst of CPU takes longer because the host is shared."""
        free = self.cores * (1.0 - foreign) - self.overhead_cores * workers
        share = min(load * self.cpu_of(workers, load) / max(free, 0.05), 0.98)
        return 1.0 / (1.0 - share**2)

    def latencies(self, rng, workers, load, seconds, warm_s=2.0, foreign=0.0):
        """Waiting plus service [s] of those who arrived after `warm_s`, and completions in time."""
        arrivals = np.cumsum(rng.exponential(1.0 / load, int(load * (seconds + warm_s) * 1.3) + 20))
        arrivals = arrivals[arrivals < seconds + warm_s]
        burst = self.cpu_of(workers, load) * self.stretch(workers, load, foreign)
        service = rng.gamma(4.0, self.io_s / 4.0, len(arrivals))
        service += rng.exponential(burst, len(arrivals))
        free = [0.0] * workers
        ends = np.empty(len(arrivals))
        for k, (at, took) in enumerate(zip(arrivals.tolist(), service.tolist(), strict=True)):
            end = max(at, free[0]) + took
            heapq.heapreplace(free, end)
            ends[k] = end
        late = arrivals >= warm_s
        done = int(((ends >= warm_s) & (ends < seconds + warm_s)).sum())
        return (ends - arrivals)[late], done

    def memory(self, workers: int) -> float:
        return (self.base_mib + self.worker_mib * workers) * MIB

    def cpu(self, workers: int, served: float) -> float:
        cpu = served * self.cpu_of(workers, max(served, 1e-3)) + self.overhead_cores * workers
        return min(cpu, self.cores)

    def power(self, workers: int, served: float) -> float:
        return self.idle_w + self.core_w * self.cpu(workers, served) ** 0.8


def quantile_estimate(values: np.ndarray, q: float) -> Estimate:
    """A quantile, its standard error from order statistics one binomial sigma away."""
    half = np.sqrt(q * (1.0 - q) / len(values))
    low, high = np.quantile(values, [max(q - half, 0.0), min(q + half, 1.0)])
    mean = float(np.quantile(values, q))
    return Estimate(mean=mean, std=float(high - low) / 2.0, count=len(values))


def window(plant: Plant, rng, tick: int, workers: int, load: float, *, seconds=8.0, foreign=0.0):
    """One observation, as a window of the real service would give it."""
    felt, done = plant.latencies(rng, workers, load, seconds, foreign=foreign)
    served = done / seconds
    offered = len(felt) / seconds
    cpu = plant.cpu(workers, served)
    power = plant.power(workers, served) * rng.normal(1.0, 0.01)
    memory = plant.memory(workers) * rng.normal(1.0, 0.01)
    spread = float(felt.std())
    responses = {
        "throughput_rps": Estimate(mean=served, std=0.3),
        "latency_p50_s": quantile_estimate(felt, 0.5),
        "latency_p95_s": quantile_estimate(felt, 0.95),
        "latency_p99_s": quantile_estimate(felt, 0.99),
        "jitter_s": Estimate(mean=spread, std=0.1 * spread),
        "power_w": Estimate(mean=power, std=0.01 * power),
        "cpu_cores": Estimate(mean=cpu * rng.normal(1.0, 0.02), std=0.02 * cpu),
        "memory_bytes": Estimate(mean=memory, std=0.01 * memory),
        "error_ratio": Estimate(mean=0.0, std=0.0),
    }
    busy = served * float(np.median(felt))
    return Evidence(
        observation=Observation(
            setting=setting(workers=workers),
            opened_tick=tick,
            closed_tick=tick + 8,
            span_s=seconds,
            sample_count=len(felt),
            context=Context(load_rps=offered, foreign_cpu_ratio=foreign),
            responses=tuple(sorted(responses.items())),
            app_limited=busy < workers,
        )
    )


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Long-run cost and safety of every setting at one load."""

    levels: tuple[int, ...]
    cost: np.ndarray
    p99: np.ndarray

    def best(self, slo_s: float) -> float:
        return float(self.cost[self.p99 <= slo_s].min())


def truth(plant: Plant, load: float, levels: range, weights: dict, references: dict) -> Truth:
    """By brute force: one long simulation per level, same arrivals for all."""
    cost, p99 = [], []
    for workers in levels:
        rng = np.random.default_rng(99)
        felt, done = plant.latencies(rng, workers, load, 40.0)
        p99.append(float(np.quantile(felt, 0.99)))
        served = done / 40.0
        values = {
            "latency_p99_s": p99[-1],
            "jitter_s": float(felt.std()),
            "power_w": plant.power(workers, served),
            "cpu_cores": plant.cpu(workers, served),
            "memory_bytes": plant.memory(workers),
        }
        cost.append(sum(w * values[name] / references[name] for name, w in weights.items()))
    return Truth(levels=tuple(levels), cost=np.array(cost), p99=np.array(p99))
