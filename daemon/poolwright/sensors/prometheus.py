"""Scrapes what a service exposes for Prometheus and takes the signals that the mapping names.

    - kind: prometheus
      url: http://127.0.0.1:9100/metrics
      signals:
        throughput: {counter: http_requests_total, labels: {job: web}}
        errors: {counter: http_requests_total, labels: {job: web, code: "5*"}}
        latency: {histogram: http_request_duration_seconds}
        service_time: {summary: handler_milliseconds, scale: 0.001}
        memory: {gauge: process_resident_memory_bytes}

Label patterns are shell patterns; all series that match are added up. A page is believed whole or
not at all: when it is late, too long, cut, or cannot be parsed, every reading is an error.
"""

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.units import Bytes, Seconds
from poolwright.sensors.prometheus_page import Counters, Labels, PageError, Series, Sieve, spread
from poolwright.sensors.scrape import Terms, Url, scrape

_OPENMETRICS = "application/openmetrics-text"
_ACCEPT = {_OPENMETRICS: ";version=1.0.0", "text/plain": ";version=0.0.4;q=0.5"}
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_BEYOND_RATIO = 0.01

# YAML name -> signal and the kinds of metric that can tell it
SIGNALS: dict[str, tuple[str, frozenset[str]]] = {
    "throughput": ("throughput_rps", frozenset({"counter"})),
    "errors": ("errors_rps", frozenset({"counter"})),
    "latency": ("latency_s", frozenset({"histogram", "summary"})),
    "service_time": ("service_time_s", frozenset({"histogram", "summary"})),
    "queue_length": ("queue_length", frozenset({"gauge"})),
    "worker_count": ("worker_count", frozenset({"gauge"})),
    "cpu": ("cpu_cores", frozenset({"counter"})),
    "memory": ("memory_bytes", frozenset({"gauge"})),
    "power": ("power_w", frozenset({"gauge", "counter"})),
    "connections": ("connections", frozenset({"gauge"})),
    "connections_limit": ("connections_limit", frozenset({"gauge"})),
}
# what a page may declare a metric to be; a counter may be the _count of a histogram or summary
_DECLARED = {
    "counter": {"counter", "unknown", "untyped", "histogram", "summary"},
    "gauge": {"gauge", "unknown", "untyped"},
    "histogram": {"histogram"},
    "summary": {"summary"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where one signal comes from: exactly one of the four kinds, by the metric's name."""

    counter: str | None = field(default=None, metadata={"doc": "its growth a second"})
    gauge: str | None = field(default=None, metadata={"doc": "its value"})
    histogram: str | None = field(default=None, metadata={"doc": "name without _bucket"})
    summary: str | None = field(default=None, metadata={"doc": "name without _sum; mean only"})
    labels: dict[str, str] = field(
        default_factory=dict, metadata={"doc": "shell patterns that a series' labels must match"}
    )
    scale: float = field(
        default=1.0, metadata={"doc": "factor to seconds, bytes, cores or watts: 0.001 for ms"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Which signals to take, and where from."""

    throughput: Source | None = field(default=None, metadata={"doc": "requests completed"})
    errors: Source | None = field(default=None, metadata={"doc": "requests failed"})
    latency: Source | None = field(default=None, metadata={"doc": "what clients waited, in all"})
    service_time: Source | None = field(default=None, metadata={"doc": "time in a worker"})
    queue_length: Source | None = field(default=None, metadata={"doc": "requests waiting, now"})
    worker_count: Source | None = field(default=None, metadata={"doc": "workers, now"})
    cpu: Source | None = field(default=None, metadata={"doc": "counter of CPU seconds"})
    memory: Source | None = field(default=None, metadata={"doc": "bytes, now"})
    power: Source | None = field(default=None, metadata={"doc": "watts, or counter of joules"})
    connections: Source | None = field(
        default=None, metadata={"doc": "connections in use at what the pool depends on, now"}
    )
    connections_limit: Source | None = field(
        default=None, metadata={"doc": "connections that it accepts, now"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusOptions:
    """What a `prometheus` sensor may be told."""

    url: str = field(metadata={"doc": "http://host:port/path of the metrics"})
    signals: Signals = field(metadata={"doc": "signal: where it comes from"})
    timeout: Seconds = field(default=0.5, metadata={"doc": "for the whole scrape"})
    max_bytes: Bytes = field(
        default=8 * 1024 * 1024, metadata={"doc": "longest page, after decompression"}
    )


class _Wanted:
    """One signal: what to look for on a page, and what was counted up to the last one."""

    def __init__(self, key: str, source: Source) -> None:
        """Check the mapping. Raises PolicyError."""
        self.signal, kinds = SIGNALS[key]
        named = {kind: getattr(source, kind) for kind in _DECLARED if getattr(source, kind)}
        if len(named) != 1 or not named.keys() <= kinds:
            choice = " or ".join(sorted(kinds))
            raise PolicyError(f"signals.{key}: needs exactly one metric, a {choice}")
        self.kind, self.name = next(iter(named.items()))
        if not _METRIC.fullmatch(self.name):
            raise PolicyError(f"signals.{key}: {self.name!r} is not the name of a metric")
        if not 0.0 < source.scale < math.inf:
            raise PolicyError(f"signals.{key}.scale: must be above 0, not {source.scale}")
        self.scale = source.scale
        self.counters = Counters()
        self._labels = {
            name: re.compile(fnmatch.translate(pattern)) for name, pattern in source.labels.items()
        }
        stem = self.name.removesuffix("_total") if self.kind == "counter" else self.name
        self._created = stem + "_created"
        suffixes = {"histogram": ("_bucket", "_sum"), "summary": ("_sum", "_count")}
        # OpenMetrics declares a counter without the _total of its samples
        plain = {self.name, stem + "_total"} if self.kind == "counter" else {self.name}
        self.samples = (
            frozenset(self.name + end for end in suffixes[self.kind])
            if self.kind in suffixes
            else frozenset(plain)
        )
        # the OpenMetrics parser refuses a histogram without its _count
        self.lines = self.samples | {self.name, stem, self._created, self.name + "_count"}

    def look(self, families: list[Metric]) -> dict[Labels, Series] | str:
        """The matching series, or why there is no telling. Raises PageError for false numbers."""
        mine = [f for f in families if any(s.name in self.samples for s in f.samples)]
        if not mine:
            if any(s.native_histogram for f in families if f.name == self.name for s in f.samples):
                raise PageError(f"{self.name} is a native histogram: expose classic buckets too")
            declared = any(family.name in self.lines for family in families)
            return "declared, but without a series yet" if declared else ""
        for family in mine:
            if family.type not in _DECLARED[self.kind]:
                raise PageError(f"{self.name} is a {family.type}, not a {self.kind}")
        samples = [s for f in mine for s in f.samples if s.name in self.samples]
        absent = [n for n in self._labels if not any(n in s.labels for s in samples)]
        if absent:
            raise PageError(f"no series of {self.name} has the label {', '.join(absent)}")
        created = {
            _key(s): _amount(s) for f in families for s in f.samples if s.name == self._created
        }
        groups: dict[Labels, list[Sample]] = {}
        for sample in samples:
            if all(p.match(sample.labels.get(n, "")) for n, p in self._labels.items()):
                groups.setdefault(_key(sample), []).append(sample)
        return {key: self._series(group, created.get(key)) for key, group in groups.items()}

    def _series(self, group: list[Sample], created: float | None) -> Series:
        """One series, checked. Raises PageError."""
        totals = [_amount(s) for s in group if s.name == self.name + "_sum"]
        counts = [s for s in group if s.name != self.name + "_sum"]
        if self.kind != "histogram":
            if len(counts) != 1 or len(totals) != (self.kind == "summary"):
                raise PageError(f"{self.name}: a series is there twice or in part")
            total = totals[0] if totals else None
            return Series(counts=(_amount(counts[0]),), total=total, created=created)
        buckets = sorted((_bound(s), _amount(s)) for s in counts)
        bounds = tuple(bound for bound, _ in buckets)
        if not bounds or bounds[-1] != math.inf or len(set(bounds)) != len(bounds):
            raise PageError(f"{self.name}: a bucket is there twice, or le=+Inf is not")
        values = tuple(value for _, value in buckets)
        if list(values) != sorted(values):
            raise PageError(f"{self.name}: its buckets are not cumulative")
        total = totals[0] if len(totals) == 1 else None
        return Series(counts=values, bounds=bounds, total=total, created=created)


def _key(sample: Sample) -> Labels:
    return tuple(sorted(pair for pair in sample.labels.items() if pair[0] != "le"))


def _amount(sample: Sample) -> float:
    """The value, finite and at least zero, as every signal is. Raises PageError."""
    try:
        amount = float(sample.value)
    except OverflowError as exc:  # the parsers give whole numbers of any length
        raise PageError(f"{sample.name} is beyond reason") from exc
    if not 0.0 <= amount < math.inf:
        raise PageError(f"{sample.name} is {sample.value}")
    return amount


def _bound(sample: Sample) -> float:
    try:
        bound = float(sample.labels["le"])
    except (KeyError, ValueError) as exc:
        raise PageError(f"{sample.name}: a bucket without a readable le") from exc
    if math.isnan(bound):
        raise PageError(f"{sample.name}: a bucket with le=NaN")
    return bound


class Prometheus:
    """Signals from one Prometheus or OpenMetrics endpoint, scraped every tick.

    A new connection is made for each scrape: a kept one could hold a worker of the service.
    """

    Options = PrometheusOptions
    signals: tuple[str, ...]

    def __init__(self, options: PrometheusOptions, pool: str) -> None:
        """Check the mapping. Raises PolicyError."""
        self._url = Url.parse(options.url)
        if not 0.0 < options.timeout < math.inf or options.max_bytes <= 0:
            raise PolicyError("timeout and max_bytes must be above 0")
        self.pool = pool
        self.source = f"prometheus {options.url}"
        self.deadline_s = options.timeout + 0.1
        self._options = options
        chosen = ((f.name, getattr(options.signals, f.name)) for f in fields(options.signals))
        self._wanted = [_Wanted(key, source) for key, source in chosen if source is not None]
        if not self._wanted:
            raise PolicyError("signals: names no signal")
        self.signals = tuple(one.signal for one in self._wanted)
        self._lines = frozenset(name for one in self._wanted for name in one.lines)
        self._terms = Terms(accept=_ACCEPT, timeout_s=options.timeout, most_bytes=options.max_bytes)
        self._started = False

    async def start(self) -> None:
        """Open nothing: a dead endpoint shows at the first read."""
        self._started = True

    async def close(self) -> None:
        """Nothing is kept between reads."""
        self._started = False

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """Scrape; one Reading a signal, every one an error when the page cannot be believed."""
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        try:
            families = await self._scrape()
        except PlantFault as exc:
            failed = partial(tell, status=Status.ERROR, detail=str(exc))
            return tuple(failed(signal=name) for name in self.signals)
        return tuple(
            self._reading(one, families, now_ns, partial(tell, signal=one.signal))
            for one in self._wanted
        )

    async def _scrape(self) -> list[Metric]:
        """The wanted families of one whole page. Raises PlantFault naming the url."""
        url = self._options.url
        if not self._started:
            raise PlantFault(f"{url}: the sensor is not started")
        sieve = Sieve(self._lines)
        try:
            kind = await scrape(self._url, self._terms, sieve.feed)
            return sieve.families(openmetrics=kind == _OPENMETRICS)
        except PageError as exc:
            raise PlantFault(f"{url}: {exc}") from exc

    def _reading(
        self, one: _Wanted, families: list[Metric], now_ns: int, tell: "partial[Reading]"
    ) -> Reading:
        """What the page says of one signal."""
        error = partial(tell, status=Status.ERROR)
        try:
            found = one.look(families)
            if found == "":
                return error(detail=f"{self._options.url}: {one.name} is not on the page")
            series = {} if isinstance(found, str) else found
            if one.kind == "gauge":
                return _gauge(one, series, tell)
            growth = one.counters.advance(series, now_ns)
            if isinstance(found, str):
                return tell(status=Status.NO_DATA, detail=f"{one.name} is {found}")
            if growth is None:
                return tell(status=Status.NO_DATA, detail="a difference needs two scrapes")
            if one.counters.flapping:
                return error(
                    detail=f"{self._options.url}: {one.name} falls again and again: several"
                    " processes answer in turn (use the client's multiprocess mode)"
                )
            tell = partial(tell, estimated=growth.restarted)
            note = "counted from zero again: a lower bound" if growth.restarted else ""
            if one.kind == "counter":
                grown = sum(s.counts[0] for s in growth.series) * one.scale
                return tell(value=_finite(grown / growth.elapsed_s, one.name), detail=note)
            return _durations(one, growth.series, tell, note)
        except PageError as exc:
            return error(detail=f"{self._options.url}: {exc}")


def _gauge(one: _Wanted, series: Mapping[Labels, Series], tell: "partial[Reading]") -> Reading:
    if not series:
        return tell(status=Status.NO_DATA, detail=f"no series of {one.name} matches the labels")
    return tell(value=_finite(sum(s.counts[0] for s in series.values()) * one.scale, one.name))


def _durations(
    one: _Wanted, grown: Iterable[Series], tell: "partial[Reading]", note: str
) -> Reading:
    """The reading of a histogram or summary that grew by `grown`. Raises PageError."""
    none = partial(tell, status=Status.NO_DATA, estimated=False, detail="no request in this tick")
    if one.kind == "summary":
        count = sum(s.counts[0] for s in grown)
        total = sum(s.total or 0.0 for s in grown)
        if count == 0:
            return none()
        if total < 0:
            raise PageError(f"{one.name}_sum fell while its count grew")
        told = "mean only: a summary's quantiles cover the exporter's own window"
        mean = _finite(total * one.scale / count, one.name)
        return tell(value=mean, detail="; ".join(filter(None, (told, note))))
    found = spread(grown, one.scale)
    if found.count == 0:
        return none()
    if found.mean is None:
        raise PageError(f"{one.name} has neither _sum nor a finite bucket")
    if found.beyond > _BEYOND_RATIO * found.count:
        note = (
            f"{found.beyond} of {found.count} values lie above the highest bucket: quantiles are"
            " lower bounds; add buckets"
        )
        tell = partial(tell, estimated=True)
    return tell(value=_finite(found.mean, one.name), sketch=found.sketch, detail=note)


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise PageError(f"{name} adds up to {value}")
    return value
