"""The newest Snapshot as Prometheus metrics. What is not known is an absent sample."""

from bisect import bisect_left
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from poolwright.engine.snapshot import Snapshot
from poolwright.surface import pool_metrics, steering_metrics
from poolwright.surface.family import family
from poolwright.surface.words import ready

# Upper bounds of the tick histogram's buckets, in seconds.
TICK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class TickHistogram:
    """Durations of all ticks of one pool, not only of those that a scrape happens to see."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        """Start empty."""
        self.counts = [0] * (len(TICK_BUCKETS) + 1)
        self.total_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one tick."""
        self.counts[bisect_left(TICK_BUCKETS, duration_s)] += 1
        self.total_s += duration_s

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, ticks at or below it), as the exposition format wants it."""
        bounds = [*map(str, TICK_BUCKETS), "+Inf"]
        return [(bound, sum(self.counts[: i + 1])) for i, bound in enumerate(bounds)]


class SnapshotCollector(Collector):
    """Renders what `latest` gives; `published` is called once a slot, `collect` once a scrape."""

    def __init__(self, version: str, latest: Callable[[], Snapshot | None]) -> None:
        """`latest` gives None until the first slot is over."""
        self._version = version
        self._latest = latest
        self._ticks: dict[str, TickHistogram] = {}

    def published(self, snapshot: Snapshot) -> None:
        """Count the durations of a slot's ticks."""
        for pool in snapshot.pools:
            self._ticks.setdefault(pool.pool, TickHistogram()).add(pool.tick_duration_s)

    def collect(self) -> Iterator[Metric]:
        """Every metric family that has a sample."""
        yield InfoMetricFamily(
            "poolwright_build", "The running version.", value={"version": self._version}
        )
        snapshot = self._latest()
        is_ready = snapshot is not None and ready(snapshot)
        yield family("gauge", "ready", "Whether every pool has seen its plant.", [({}, is_ready)])
        if snapshot is None:
            return
        pools = snapshot.pools
        for found in (
            *_daemon(snapshot),
            *pool_metrics.families(pools),
            *steering_metrics.families(snapshot),
            *self._tick_durations(),
        ):
            if found.samples:
                yield found

    def _tick_durations(self) -> Iterator[Metric]:
        found = HistogramMetricFamily(
            "poolwright_tick_duration_seconds",
            "Time from the start of a tick until its snapshot.",
            labels=["pool"],
        )
        for pool, ticks in self._ticks.items():
            found.add_metric([pool], buckets=ticks.cumulative(), sum_value=ticks.total_s)
        yield found


class Exposition:
    """The collector in a registry of its own, beside the metrics of this process."""

    def __init__(self, version: str, latest: Callable[[], Snapshot | None]) -> None:
        """`version` is poolwright's own."""
        self.collector = SnapshotCollector(version, latest)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self.collector)
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, in the format that `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _daemon(snapshot: Snapshot) -> Iterator[Metric]:
    yield family(
        "gauge",
        "snapshot_timestamp_seconds",
        "When the newest slot ended.",
        [({}, snapshot.wall_ns / 1e9)],
    )
    yield family(
        "gauge",
        "journal_ok",
        "Whether the journal can be written.",
        [({}, not snapshot.journal_error)],
    )
