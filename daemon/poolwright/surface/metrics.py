"""The newest Snapshot as Prometheus metrics. What is not known is an absent sample."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from poolwright.engine.snapshot import Snapshot
from poolwright.surface import counted, pool_metrics, response_metrics, steering_metrics
from poolwright.surface.counted import Counted
from poolwright.surface.family import Rows, family
from poolwright.surface.words import ready


class JournalFile:
    """The journal as a file: how large it is, and how large it may be."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        """Nothing is opened."""
        self._path = path
        self._most_bytes = most_bytes

    def families(self) -> Iterator[Metric]:
        """Its size with the write-ahead log, where it is there, and its bound."""
        size: int | None = None
        with suppress(OSError):
            size = self._path.stat().st_size
            size += self._path.with_name(f"{self._path.name}-wal").stat().st_size
        text = "Size of the journal with its write-ahead log."
        yield family("gauge", "journal_size_bytes", text, [({}, size)])
        text = "Size above which the oldest of the journal is dropped."
        yield family("gauge", "journal_limit_bytes", text, [({}, self._most_bytes)])


class SnapshotCollector(Collector):
    """Renders what `latest` gives; `published` is called once a slot, `collect` once a scrape."""

    def __init__(
        self,
        version: str,
        latest: Callable[[], Snapshot | None],
        journal: JournalFile | None = None,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`latest` gives None until the first slot is over; `mono_ns`: the ticks' clock."""
        self._version = version
        self._latest = latest
        self._journal = journal
        self._mono_ns = mono_ns
        self._counted: dict[str, Counted] = {}

    def published(self, snapshot: Snapshot) -> None:
        """Count what a slot has brought."""
        for pool in snapshot.pools:
            self._counted.setdefault(pool.pool, Counted()).see(pool)

    def collect(self) -> Iterator[Metric]:
        """Every metric family that has a sample."""
        yield InfoMetricFamily(
            "poolwright_build", "The running version.", value={"version": self._version}
        )
        snapshot = self._latest()
        is_ready = snapshot is not None and ready(snapshot)
        yield family("gauge", "ready", "Whether every pool has seen its plant.", [({}, is_ready)])
        if self._journal is not None:
            yield from (found for found in self._journal.families() if found.samples)
        if snapshot is None:
            return
        now_ns = self._mono_ns()
        for found in (
            *_daemon(snapshot, now_ns),
            *pool_metrics.families(snapshot.pools, self._counted),
            *response_metrics.families(snapshot.pools, self._counted),
            *steering_metrics.families(snapshot),
            *counted.families(self._counted, now_ns),
        ):
            if found.samples:
                yield found


class Exposition:
    """The collector in a registry of its own, beside the metrics of this process."""

    def __init__(
        self,
        version: str,
        latest: Callable[[], Snapshot | None],
        journal: JournalFile | None = None,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`version` is poolwright's own; the rest as for SnapshotCollector."""
        self.collector = SnapshotCollector(version, latest, journal, mono_ns)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self.collector)
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, in the format that `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _daemon(snapshot: Snapshot, now_ns: int) -> Iterator[Metric]:
    text = "When the newest slot ended."
    yield family("gauge", "snapshot_timestamp_seconds", text, [({}, snapshot.wall_ns / 1e9)])
    text = "Time between two slots."
    yield family("gauge", "cadence_seconds", text, [({}, snapshot.cadence_s)])
    ages: Rows = [({"pool": p.pool}, (now_ns - p.tick.mono_ns) / 1e9) for p in snapshot.pools]
    text = "Time since the pool's newest tick began."
    yield family("gauge", "tick_age_seconds", text, ages)
    text = "Whether the journal can be written."
    yield family("gauge", "journal_ok", text, [({}, not snapshot.journal_error)])
