"""What no single snapshot holds: counted over all slots, so that no scrape misses anything.

Durations of ticks, when each sensor was last well, time spent on probes, moves to and fro, and
what the newest window has measured. The newest decision of a kind is its exemplar.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar

from poolwright.core.model import Observation, Setting, Status
from poolwright.engine.snapshot import PoolSnapshot, decision_id
from poolwright.surface.family import Rows, family

# Upper bounds of the tick histogram's buckets, in seconds.
TICK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
WELL = (Status.OK, Status.NO_DATA)
_WORST_LAST = (Status.NO_DATA, Status.OK, Status.STALE, Status.ERROR)
Bucket = tuple[str, float] | tuple[str, float, Exemplar]  # upper bound, ticks, the newest in it


class Counted:
    """One pool's counts since the daemon started."""

    def __init__(self) -> None:
        """Start empty."""
        self.observation: Observation | None = None  # of the newest window that closed
        self.decisions: dict[tuple[str, str], Exemplar] = {}  # (action, reason) -> the newest
        self.failures: dict[str, int] = {}  # sensor -> reads that failed
        self.reversals: dict[str, int] = {}  # knob -> moves against the one before
        self.probing_s = 0.0
        self._ticks = [0] * (len(TICK_BUCKETS) + 1)
        self._examples: dict[int, Exemplar] = {}  # bucket -> the newest
        self._total_s = 0.0
        self._well_ns: dict[str, int] = {}  # sensor -> when it was last well, or first looked at
        self._ways: dict[str, int] = {}  # knob -> the sign of its last move
        self._held: Setting | None = None
        self._newest = (0, -1)

    def see(self, pool: PoolSnapshot) -> None:
        """Count a tick, once: a slot whose tick failed shows the one before again."""
        which = (pool.run_id, pool.tick.index)
        if which == self._newest:
            return
        self._newest = which
        decision = pool.decision
        example = Exemplar(
            {"decision_id": decision_id(pool.run_id, decision.tick)}, 1.0, pool.tick.wall_ns / 1e9
        )
        self.decisions[decision.action, decision.reason] = example
        if decision.probing:
            self.probing_s += pool.sample.dt_s
        self.observation = decision.observation or self.observation
        self._see_duration(pool.tick_duration_s, example)
        self._see_sensors(pool)
        there = None if pool.tick.applied is None else pool.tick.applied.setting
        if not decision.probing and there is not None and there == decision.setting:
            self._see_held(there)

    def sensor_ages_s(self, now_ns: int) -> dict[str, float]:
        """Seconds since each sensor was last well; since it was first asked, when it never was."""
        return {sensor: (now_ns - at) / 1e9 for sensor, at in self._well_ns.items()}

    def durations(self) -> tuple[list[Bucket], float]:
        """The cumulative histogram of ticks, and the sum of their durations in seconds."""
        rows: list[Bucket] = []
        for i, bound in enumerate([*map(str, TICK_BUCKETS), "+Inf"]):
            count, newest = float(sum(self._ticks[: i + 1])), self._examples.get(i)
            rows.append((bound, count) if newest is None else (bound, count, newest))
        return rows, self._total_s

    def _see_duration(self, spent_s: float, example: Exemplar) -> None:
        bucket = bisect_left(TICK_BUCKETS, spent_s)
        self._ticks[bucket] += 1
        self._examples[bucket] = example._replace(value=spent_s)
        self._total_s += spent_s

    def _see_sensors(self, pool: PoolSnapshot) -> None:
        for sensor, status in sensor_states(pool).items():
            self.failures.setdefault(sensor, 0)
            self._well_ns.setdefault(sensor, pool.tick.mono_ns)
            if status in WELL:
                self._well_ns[sensor] = pool.tick.mono_ns
            else:
                self.failures[sensor] += 1

    def _see_held(self, now: Setting) -> None:
        """What is commanded and really there: neither a probe and its way back are a reversal, nor
        a move that fails.
        """
        before, self._held = self._held, now
        for knob, level in now.levels:
            self.reversals.setdefault(knob, 0)
            step = 0 if before is None else level - dict(before.levels).get(knob, level)
            if step:
                way = 1 if step > 0 else -1
                self.reversals[knob] += self._ways.get(knob, way) != way
                self._ways[knob] = way


def sensor_states(pool: PoolSnapshot) -> dict[str, Status]:
    """The worst of what each sensor gave in the newest tick."""
    worst: dict[str, Status] = {}
    for reading in pool.tick.readings:
        seen = (worst.get(reading.source, Status.NO_DATA), reading.status)
        worst[reading.source] = max(seen, key=_WORST_LAST.index)
    return worst


def families(counted: Mapping[str, Counted], now_ns: int) -> Iterator[Metric]:
    """All of them, at monotonic time `now_ns`; one without a sample says nothing."""
    ages: Rows = [
        ({"pool": pool, "sensor": sensor}, age_s)
        for pool, counts in counted.items()
        for sensor, age_s in counts.sensor_ages_s(now_ns).items()
    ]
    text = "Time since the last good sample of the sensor; since the first try, when none was good."
    yield family("gauge", "sensor_age_seconds", text, ages)
    failures: Rows = [
        ({"pool": pool, "sensor": sensor}, count)
        for pool, counts in counted.items()
        for sensor, count in counts.failures.items()
    ]
    text = "Reads of a sensor that gave something broken or stale."
    yield family("counter", "sensor_failures", text, failures, "_total")
    reversals: Rows = [
        ({"pool": pool, "knob": knob}, count)
        for pool, counts in counted.items()
        for knob, count in counts.reversals.items()
    ]
    text = "Changes of the level held, probes aside, against the direction of the one before."
    yield family("counter", "reversals", text, reversals, "_total")
    probing: Rows = [({"pool": pool}, counts.probing_s) for pool, counts in counted.items()]
    text = "Time away from the best known setting; its rate is the probe share."
    yield family("counter", "probing_seconds", text, probing, "_total")
    found = HistogramMetricFamily(
        "poolwright_tick_duration_seconds",
        "Time from the start of a tick until its snapshot.",
        labels=["pool"],
        unit="seconds",
    )
    for pool, counts in counted.items():
        buckets, total_s = counts.durations()
        found.add_metric([pool], buckets=buckets, sum_value=total_s)
    yield found
