"""A pool of workers to practise on: discrete-event, seeded, and ignorant of the surrogate.

Requests arrive as a Poisson process, wait first-come-first-served for one of `workers`, burn CPU
and wait on I/O. CPU is shared: while more requests burn than there are cores, each burns slower.
Every worker keeps a cache of its own, so that more workers miss more often, and memory. None of
the formulas of `learn/` (Universal Scalability Law, queueing approximations) appear here.
"""

import heapq
from dataclasses import dataclass
from random import Random

from poolwright.core.model import Applied, Reading, Setting, Status, setting
from poolwright.core.sketch import SketchBuilder

_QUEUE_SAMPLES = 20  # within a tick


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantShape:
    """What kind of service it is. Times in seconds of one request."""

    cpu_s: float = 0.006
    io_s: float = 0.050
    miss_cpu_s: float = 0.030  # burned in addition when the worker's cache does not have the key
    keys: int = 12
    ttl_s: float = 2.0
    cores: float = 2.0
    worker_bytes: float = 40e6
    base_bytes: float = 60e6
    memory_limit_bytes: float = 8e9
    idle_w: float = 60.0
    busy_w: float = 150.0


class Plant:
    """Advance it tick by tick; it gives the Readings of its sensors and obeys a new level."""

    def __init__(self, shape: PlantShape, workers: int, seed: int) -> None:
        """A plant with `workers` idle workers at time zero."""
        self.shape = shape
        self.now_s = 0.0
        self._random = Random(f"plant:{seed}")
        self._next_id = workers
        self._free: list[tuple[float, int]] = [(0.0, i) for i in range(workers)]
        self._leaving = 0
        self._fresh: dict[tuple[int, int], float] = {}
        self._burning: list[float] = []  # when requests that burn CPU stop doing so
        self._waiting: list[tuple[float, float]] = []  # (arrival, start) of those that queue
        self._done: list[tuple[float, float, float]] = []  # heap of (finish, latency, service)

    @property
    def workers(self) -> int:
        """Workers that serve, less those told to go."""
        return len(self._free) - self._leaving

    def resize(self, workers: int) -> None:
        """Add idle workers at once; let surplus ones finish what they do."""
        while self.workers < workers:
            if self._leaving:
                self._leaving -= 1
                continue
            heapq.heappush(self._free, (self.now_s, self._next_id))
            self._next_id += 1
        self._leaving += self.workers - workers

    def tick(self, load_rps: float, dt_s: float = 1.0) -> tuple[Reading, ...]:
        """Serve `dt_s` seconds of load; what the sensors would say at the end of it."""
        end = self.now_s + dt_s
        burned = 0.0
        at = self.now_s
        while load_rps > 0.0:
            at += self._random.expovariate(load_rps)
            if at >= end:
                break
            burned += self._serve(at)
        began, self.now_s = self.now_s, end
        return self._readings(began, end, burned)

    def applied(self) -> Applied:
        """What an actuator would read back."""
        return Applied(setting=setting(workers=self.workers), epoch="sim")

    def obey(self, wanted: Setting) -> None:
        """Move to a commanded setting at once."""
        self.resize(wanted["workers"])

    def _serve(self, arrival: float) -> float:
        """Take one request through the pool; the CPU seconds it burns."""
        free, worker = heapq.heappop(self._free)
        while self._leaving and free <= arrival:
            self._leaving -= 1
            free, worker = heapq.heappop(self._free)
        start = max(arrival, free)
        key = self._random.randrange(self.shape.keys)
        cpu = self.shape.cpu_s * self._random.uniform(0.5, 1.5)
        if self._fresh.get((worker, key), -1.0) < start:
            cpu += self.shape.miss_cpu_s
            self._fresh[worker, key] = start + self.shape.ttl_s
        while self._burning and self._burning[0] <= start:
            heapq.heappop(self._burning)
        slow = max(1.0, (len(self._burning) + 1) / self.shape.cores)
        service = cpu * slow + self._random.expovariate(1.0 / self.shape.io_s)
        finish = start + service
        heapq.heappush(self._burning, start + cpu * slow)
        heapq.heappush(self._free, (finish, worker))
        heapq.heappush(self._done, (finish, finish - arrival, service))
        if start > arrival:
            self._waiting.append((arrival, start))
        return cpu

    def _readings(self, began: float, end: float, burned: float) -> tuple[Reading, ...]:
        latency, service, queue = SketchBuilder(), SketchBuilder(), SketchBuilder()
        done = 0
        while self._done and self._done[0][0] <= end:
            _, waited, served = heapq.heappop(self._done)
            latency.add(waited)
            service.add(served)
            done += 1
        for i in range(1, _QUEUE_SAMPLES + 1):
            at = began + (end - began) * i / _QUEUE_SAMPLES
            length = sum(1 for a, s in self._waiting if a <= at < s)
            queue.add(float(length))
        self._waiting = [(a, s) for a, s in self._waiting if s > end]
        dt, shape = end - began, self.shape
        cores = min(shape.cores, burned / dt)
        held = shape.base_bytes + shape.worker_bytes * len(self._free)
        values: dict[str, float] = {
            "throughput_rps": done / dt,
            "errors_rps": 0.0,
            "queue_length": float(sum(1 for a, s in self._waiting if a <= end < s)),
            "cpu_cores": cores,
            "memory_bytes": held,
            "host_cpu_cores": cores,
            "host_cpu_count": shape.cores,
            "host_memory_used_bytes": held + 1e9,
            "memory_limit_bytes": shape.memory_limit_bytes,
            "power_w": shape.idle_w + (shape.busy_w - shape.idle_w) * cores / shape.cores,
        }
        sketches = {"queue_length": queue.freeze()}
        if done:
            sketches |= {"latency_s": latency.freeze(), "service_time_s": service.freeze()}
            values |= {name: sketches[name].mean for name in ("latency_s", "service_time_s")}
        now = round(end * 1e9)
        found = [
            Reading(signal=n, source="sim", value=v, sketch=sketches.get(n), taken_mono_ns=now)
            for n, v in values.items()
        ]
        if not done:
            found += [
                Reading(signal=n, source="sim", status=Status.NO_DATA, taken_mono_ns=now)
                for n in ("latency_s", "service_time_s")
            ]
        return tuple(found)
