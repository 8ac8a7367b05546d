"""Scrapes what a service exposes for Prometheus and takes the signals that the mapping names.

    - kind: prometheus
      url: http://127.0.0.1:9100/metrics
      signals:
        throughput: {counter: http_requests_total, labels: {job: web}}
        errors: {counter: http_requests_total, labels: {job: web, code: "5*"}}
        latency: {histogram: http_request_duration_seconds}
        service_time: {summary: handler_milliseconds, scale: 0.001}
        memory: {gauge: process_resident_memory_bytes}
    - {kind: prometheus, url: "http://127.0.0.1:28282/metrics", preset: kepler}   # power

Quantiles come from classic buckets: those of all series and of all ticks are put together before a
quantile is taken, and no quantile is ever averaged. A summary gives its mean: its quantiles cover a
window of the exporter's own, and those of two processes cannot be put together. Native histograms
travel as protobuf; the drafts of a text form are refused by name where no classic buckets stand
beside them (the parser of prometheus_client 0.26 loses their buckets below one second).

Label patterns are shell patterns; all series that match are added up. A page is believed whole or
not at all: when it is late, too long, cut, or cannot be parsed, every reading is an error.
"""

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from functools import partial

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.sensors.prometheus_mapping import (
    DECLARED,
    PRESETS,
    SIGNALS,
    PrometheusOptions,
    Source,
)
from poolwright.sensors.prometheus_page import Counters, Labels, PageError, Series, Sieve, spread
from poolwright.sensors.scrape import Terms, Url, scrape

_OPENMETRICS = "application/openmetrics-text"
_ACCEPT = {_OPENMETRICS: ";version=1.0.0", "text/plain": ";version=0.0.4;q=0.5"}
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_BEYOND_RATIO = 0.01


class _Wanted:
    """One signal: what to look for on a page, and what was counted up to the last one."""

    def __init__(self, key: str, source: Source) -> None:
        """Check the mapping. Raises PolicyError."""
        self.signal, kinds = SIGNALS[key]
        named = {kind: getattr(source, kind) for kind in DECLARED if getattr(source, kind)}
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
        self.held: Mapping[Labels, Series] | None = None  # of energy, when it last moved
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
            if family.type not in DECLARED[self.kind]:
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
        self._offers = [
            (offer, _Wanted("power", offer.source))
            for offer in PRESETS.get(options.preset or "", ())
        ]
        if not self._wanted and not self._offers:
            raise PolicyError("signals: names no signal, and there is no preset")
        self.signals = tuple(one.signal for one in self._wanted)
        if self._offers:
            if "power_w" in self.signals:
                raise PolicyError(f"signals.power: the preset {options.preset} gives it already")
            self.signals += ("power_w",)
        every = [*self._wanted, *(one for _, one in self._offers)]
        self._lines = frozenset(name for one in every for name in one.lines)
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
        readings = [
            self._reading(one, families, now_ns, partial(tell, signal=one.signal))
            for one in self._wanted
        ]
        if self._offers:
            readings.append(self._power(families, now_ns, partial(tell, signal="power_w")))
        return tuple(readings)

    def _power(self, families: list[Metric], now_ns: int, tell: "partial[Reading]") -> Reading:
        """The best metric of power that the preset knows; the one that was found first stays."""
        if len(self._offers) > 1:
            found = [pair for pair in self._offers if _has(pair[1], families)]
            if not found:
                names = ", ".join(dict.fromkeys(one.name for _, one in self._offers))
                detail = f"{self._options.url}: none of {names} is on the page"
                return tell(status=Status.ERROR, detail=detail)
            self._offers = found[:1]
        offer, one = self._offers[0]
        reading = self._reading(one, families, now_ns, tell)
        if reading.value is None:
            return reading
        return replace(reading, std=offer.std_ratio * reading.value, detail=offer.text)

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
                raise PageError(f"{one.name} is not on the page")  # noqa: TRY301 - said below
            series = {} if isinstance(found, str) else found
            if one.kind == "gauge":
                return _gauge(one, series, tell)
            if one.signal == "power_w" and series:
                return _energy(one, series, now_ns, tell)
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
    value = _finite(sum(s.counts[0] for s in series.values()) * one.scale, one.name)
    if one.signal == "power_w" and value == 0.0:
        return tell(status=Status.NO_DATA, detail=f"{one.name} is 0 watts: nothing is measured")
    return tell(value=value)


def _energy(
    one: _Wanted, series: Mapping[Labels, Series], now_ns: int, tell: "partial[Reading]"
) -> Reading:
    """Mean watts since the counters of joules last moved. Raises PageError.

    An exporter that counts every five seconds has not measured zero watts in the other four. RAPL
    begins again at zero every few minutes, which looks like a restart: what was lost is not known.
    """
    none = partial(tell, status=Status.NO_DATA)
    before, one.held = one.held, series
    if before == series:
        return none(detail=f"{one.name} has not moved since the last scrape")
    growth = one.counters.advance(series, now_ns)
    if growth is None or before is None:
        return none(detail="a difference needs two scrapes")
    if growth.restarted or before.keys() != series.keys():
        return none(detail=f"{one.name} was counted from zero again, or its series are others")
    joules = sum(s.counts[0] for s in growth.series) * one.scale
    return tell(value=_finite(joules / growth.elapsed_s, one.name))


def _has(one: _Wanted, families: list[Metric]) -> bool:
    """Whether the page has at least one series of it that can be believed."""
    try:
        return isinstance(found := one.look(families), dict) and bool(found)
    except PageError:
        return False


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
