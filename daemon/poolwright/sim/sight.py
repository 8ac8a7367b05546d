"""What sensors see of a simulated service.

With `sees_latency` a proxy's log is read: every attempt is a line when it ends, refused and
timed-out ones included. Without, the service's own statistics are: only what it served.
"""

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

from poolwright.core.model import Reading, Status
from poolwright.core.sketch import Sketch, sketch_of
from poolwright.sim.clients import Ended
from poolwright.sim.pool import Pool
from poolwright.sim.shape import PlantShape
from poolwright.sim.sketches import sketch_array

if TYPE_CHECKING:
    from poolwright.sim.plant import Truth

_SAMPLES = 20  # of the queue within a tick
_NO_QUEUE = Sketch(zeros=_SAMPLES)
_MINUTE_S = 60.0  # of the load average


class Eyes:
    """The sensors of one service."""

    def __init__(self, shape: PlantShape) -> None:
        self._shape = shape
        self._load_average = 0.0

    def see(
        self, truth: "Truth", pool: Pool, ended: Ended, service: Sketch, foreign_cores: float
    ) -> tuple[Reading, ...]:
        """The Readings at the end of the tick that `truth` tells of."""
        shape, dt_s = self._shape, truth.dt_s
        running = pool.runnable + foreign_cores
        self._load_average += (running - self._load_average) * -math.expm1(-dt_s / _MINUTE_S)
        values = {
            "throughput_rps": truth.done / dt_s,
            "errors_rps": truth.failed / dt_s,
            "cpu_cores": truth.cpu_s / dt_s,
            "memory_bytes": truth.memory_bytes,
            "worker_count": float(truth.workers),
            "host_cpu_cores": min(shape.cores, (truth.cpu_s + truth.foreign_s) / dt_s),
            "host_cpu_count": shape.cores,
            "host_memory_used_bytes": truth.host_memory_bytes,
            "memory_limit_bytes": float(shape.memory.limit),
            "load_average": self._load_average,
            "psi_cpu_ratio": min(1.0, truth.stalled_s / dt_s),
            "power_w": truth.joules / dt_s,
        }
        sketches: dict[str, Sketch | None] = {"service_time_s": service}
        if shape.sees_latency:
            lines = len(ended.answered) + ended.errors
            values |= {"throughput_rps": lines / dt_s, "errors_rps": ended.errors / dt_s}
            same = ended.waited is ended.answered
            sketches["latency_s"] = truth.latency if same else sketch_array(ended.waited)
        if shape.sees_queue:
            values |= {
                "queue_length": float(truth.waiting),
                "queue_limit": float(shape.backlog),
            }
            sketches["queue_length"] = _queue(pool, truth.at_s - dt_s, dt_s)
        if shape.connections.limit:
            values["connections"] = float(pool.connections)
            values["connections_limit"] = float(shape.connections.limit)
        return _readings(values, sketches, round(truth.at_s * 1e9))


def _readings(
    values: dict[str, float], sketches: dict[str, Sketch | None], now_ns: int
) -> tuple[Reading, ...]:
    found: list[Reading] = []
    for signal in ("latency_s", "service_time_s"):
        sketch = sketches.pop(signal, None)
        if sketch is not None and sketch.count:
            values[signal] = sketch.mean
            sketches[signal] = sketch
        elif sketch is not None:
            found.append(
                Reading(signal=signal, source="sim", status=Status.NO_DATA, taken_mono_ns=now_ns)
            )
    found += [
        Reading(signal=name, source="sim", value=v, sketch=sketches.get(name), taken_mono_ns=now_ns)
        for name, v in values.items()
    ]
    return tuple(found)


def _queue(pool: Pool, began_s: float, dt_s: float) -> Sketch:
    """Samples of the queue's length through the tick."""
    arrivals, starts = pool.arrivals, pool.starts
    if arrivals == starts:  # everyone began on arrival
        return _NO_QUEUE
    lengths: list[float] = []
    for i in range(1, _SAMPLES + 1):
        at = began_s + dt_s * i / _SAMPLES
        lengths.append(float(bisect_right(arrivals, at) - bisect_right(starts, at)))
    return sketch_of(lengths)
