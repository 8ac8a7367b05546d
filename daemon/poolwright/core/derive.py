"""From the Readings of one Tick to its Sample.

Latency is what the client feels. Measured where a sensor knows when a request set out; else
composed of the service time and the delay in the accept queue, and then marked as an estimate.
Little's law (Little, "A proof for the queuing formula L = lambda W", 1961) gives the delay of a
first-come-first-served queue: a request that finds q others waiting waits q / throughput. The
requests that complete now found the queue as it was when they arrived, so the estimate looks back
by the delay itself.
Offered load is completions plus growth of the queue: completions alone hide an overload.
"""

from collections import deque

from poolwright.core.model import Reading, Status, Tick
from poolwright.core.sample import Sample
from poolwright.core.sketch import Sketch, SketchBuilder, bucket_value

_LOOK_BACK = 64  # ticks
_PAIRS = 128  # points of the composed latency distribution: an odd stride pairs them evenly
_STRIDE = 47
_ALWAYS_SAID = frozenset({"connections", "connections_limit"})  # gauges: silence is a fault


class Deriver:
    """Remembers the last tick, for differences."""

    __slots__ = ("_mono_ns", "_queue", "_queues", "_rate")

    def __init__(self) -> None:
        """Start without a past."""
        self._mono_ns: int | None = None
        self._queue: float | None = None
        self._queues: deque[tuple[int, Sketch]] = deque(maxlen=_LOOK_BACK)  # (mono_ns, lengths)
        self._rate: float | None = None  # smoothed completions a second, for the queue's delay

    def derive(self, tick: Tick) -> Sample:
        """The Sample of `tick`."""
        good, missing = _pick(tick.readings)
        dt_s = 0.0 if self._mono_ns is None else (tick.mono_ns - self._mono_ns) / 1e9
        self._mono_ns = tick.mono_ns
        throughput = _value(good, "throughput_rps")
        queue = _value(good, "queue_length")
        load = None if "queue_length" in missing else throughput  # it may be growing unseen
        if (
            load is not None
            and throughput is not None
            and queue is not None
            and self._queue is not None
            and dt_s > 0.0
        ):
            load = max(0.0, throughput + (queue - self._queue) / dt_s)
        self._queue = queue
        if throughput is None:
            self._rate = None
        else:
            self._rate = throughput if self._rate is None else 0.6 * self._rate + 0.4 * throughput
        service = good["service_time_s"].sketch if "service_time_s" in good else None
        latency, estimated = self._latency(good, service, tick.mono_ns)
        cores = _value(good, "cpu_cores")
        host = _value(good, "host_cpu_cores")
        cpus = _value(good, "host_cpu_count")
        power = good.get("power_w")
        return Sample(
            tick=tick.index,
            dt_s=dt_s,
            load_rps=load,
            throughput_rps=throughput,
            errors_rps=_value(good, "errors_rps"),
            latency=latency,
            latency_estimated=estimated,
            service_time=service,
            queue_length=queue,
            queue_delay_s=self._delay(good.get("queue_length")),
            in_flight=_in_flight(good, throughput, service),
            cpu_cores=cores,
            memory_bytes=_value(good, "memory_bytes"),
            memory_limit_bytes=_value(good, "memory_limit_bytes"),
            host_memory_used_bytes=_value(good, "host_memory_used_bytes"),
            host_cpu_ratio=None if host is None or not cpus else min(1.0, host / cpus),
            foreign_cpu_ratio=_foreign(cores, host, cpus),
            psi_cpu_ratio=_value(good, "psi_cpu_ratio"),
            psi_memory_ratio=_value(good, "psi_memory_ratio"),
            psi_io_ratio=_value(good, "psi_io_ratio"),
            throttled_ratio=_value(good, "throttled_ratio"),
            oom_kills=_value(good, "oom_kills"),
            connections=_value(good, "connections"),
            connections_limit=_value(good, "connections_limit"),
            power_w=None if power is None else power.value,
            power_std_w=None if power is None else power.std,
            power_source="" if power is None else power.source,
            missing=missing,
        )

    def _delay(self, reading: Reading | None) -> float | None:
        """Mean seconds that requests of this tick wait for a worker; None: cannot be known."""
        if reading is None or self._rate is None:
            return None
        seen = reading.sketch
        queue = seen.mean if seen is not None and seen.count else reading.value
        if not queue:
            return 0.0
        return queue / self._rate if self._rate > 0.0 else None

    def _latency(
        self, good: dict[str, Reading], service: Sketch | None, mono_ns: int
    ) -> tuple[Sketch | None, bool]:
        """What clients felt in this tick, and whether that is an estimate."""
        queue = good.get("queue_length")
        if queue is None:
            self._queues.clear()
        else:
            self._queues.append((mono_ns, queue.sketch or _point(queue.value or 0.0)))
        measured = good.get("latency_s")
        if measured is not None and measured.sketch is not None and measured.sketch.count:
            return measured.sketch, measured.estimated
        if service is None or queue is None or not self._rate or not service.count:
            return None, False
        return compose(service, self._found_by_those_done(mono_ns), 1.0 / self._rate), True

    def _found_by_those_done(self, mono_ns: int) -> Sketch:
        """The queue as it was when the requests that complete now arrived."""
        assert self._rate
        for seen_ns, queue in reversed(self._queues):
            if (mono_ns - seen_ns) / 1e9 >= queue.mean / self._rate:
                return queue
        return self._queues[0][1]


def compose(service: Sketch, queue: Sketch, seconds_each: float) -> Sketch:
    """The distribution of service time plus queue delay, taken as independent.

    `queue` holds samples of the queue's length, each place in it costing `seconds_each`. The sum is
    built from evenly spaced quantiles of both, paired by a stride that has no factor in common
    with their number, and has about as many counts as `service`.
    """
    count = service.count
    points = min(count, _PAIRS)
    served = _quantile_points(service, points)
    waited = _quantile_points(queue, points)
    builder = SketchBuilder()
    stride = _STRIDE if points % _STRIDE else _STRIDE - 4
    times = max(1, round(count / points))
    for i in range(points):
        builder.add(served[i] + waited[i * stride % points] * seconds_each, times)
    return builder.freeze()


def _quantile_points(sketch: Sketch, points: int) -> list[float]:
    """`points` values at the quantiles (i + 1/2) / points, in one pass over the buckets."""
    count = sketch.count
    found: list[float] = []
    seen, value = sketch.zeros, 0.0
    bins = iter(sketch.bins)
    for i in range(points):
        rank = (i + 0.5) / points * count
        while seen <= rank:
            bucket = next(bins, None)
            if bucket is None:
                break
            value = bucket_value(bucket[0])
            seen += bucket[1]
        found.append(value)
    return found


def _pick(readings: tuple[Reading, ...]) -> tuple[dict[str, Reading], tuple[str, ...]]:
    """The first good reading of each signal, and the signals that a broken source kept from us.

    A distribution goes before a mean, whoever comes first: quantiles cannot be made of means.
    There is no signal that can be negative: one that is comes from a broken source.
    """
    good: dict[str, Reading] = {}
    broken: dict[str, None] = {}
    for reading in readings:
        if reading.status is Status.OK and (reading.value or 0.0) >= 0.0:
            first = good.setdefault(reading.signal, reading)
            if first.sketch is None and reading.sketch is not None:
                good[reading.signal] = reading
        elif reading.status is not Status.NO_DATA or reading.signal in _ALWAYS_SAID:
            broken[reading.signal] = None
    return good, tuple(signal for signal in broken if signal not in good)


def _value(good: dict[str, Reading], signal: str) -> float | None:
    reading = good.get(signal)
    return None if reading is None else reading.value


def _in_flight(
    good: dict[str, Reading], throughput: float | None, service: Sketch | None
) -> float | None:
    """Busy workers: counted where a sensor does, else by Little's law."""
    if "in_flight" in good:
        return good["in_flight"].value
    return None if throughput is None or not service else throughput * service.mean


def _point(value: float) -> Sketch:
    builder = SketchBuilder()
    builder.add(max(0.0, value))
    return builder.freeze()


def _foreign(cores: float | None, host: float | None, cpus: float | None) -> float | None:
    """The share of the host's CPU that others use, 0..1."""
    if cores is None or host is None or not cpus:
        return None
    return min(1.0, max(0.0, (host - cores) / cpus))
