"""What a `prometheus` sensor may be told: which signal comes from which metric, and presets."""

from dataclasses import dataclass, field
from typing import Literal

from poolwright.core.units import Bytes, Seconds

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
DECLARED = {
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
    signals: Signals = field(
        default_factory=Signals, metadata={"doc": "signal: where it comes from"}
    )
    preset: Literal["kepler", "scaphandre", "node_exporter", "ipmi_exporter"] | None = field(
        default=None, metadata={"doc": "the exporter whose metrics of power are to be taken"}
    )
    timeout: Seconds = field(default=0.5, metadata={"doc": "for the whole scrape"})
    max_bytes: Bytes = field(
        default=8 * 1024 * 1024, metadata={"doc": "longest page, after decompression"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A metric of power that an exporter may have, and how good it is."""

    source: Source
    std_ratio: float
    text: str


# A machine's own meter; RAPL, which the exporters hand on.
_METER_STD_RATIO, _RAPL_STD_RATIO = 0.03, 0.02
_OWN_PATH = "*/intel-rapl:*"  # intel-rapl-mmio:* tells the same once more
# Zones lie within one another (psys > package > core) and are never added up, but for dram, which
# lies beside package. A shell pattern for these two: p-a, d-r; psys is p-s.
_PACKAGE_AND_DRAM = "[pd][ar]*"


def _rapl(text: str, counter: str, **labels: str) -> Offer:
    source = Source(counter=counter, labels=labels)
    return Offer(source=source, std_ratio=_RAPL_STD_RATIO, text=text)


def _gauge(text: str, gauge: str, std_ratio: float, scale: float = 1.0) -> Offer:
    return Offer(source=Source(gauge=gauge, scale=scale), std_ratio=std_ratio, text=text)


_ZONES = "node_rapl_joules_total"
_PACKAGES = "node_rapl_package_joules_total"
# Best first: the first that a page has is taken, and kept.
PRESETS: dict[str, tuple[Offer, ...]] = {
    "kepler": (
        _gauge("Kepler: the machine, by Redfish", "kepler_platform_watts", _METER_STD_RATIO),
        _rapl("Kepler: RAPL psys", "kepler_node_cpu_joules_total", zone="psys"),
        _rapl(
            "Kepler: RAPL packages and dram",
            "kepler_node_cpu_joules_total",
            zone=_PACKAGE_AND_DRAM,
        ),
    ),
    "scaphandre": (
        _gauge("Scaphandre: RAPL", "scaph_host_power_microwatts", _RAPL_STD_RATIO, 1e-6),
    ),
    "node_exporter": (
        _rapl("node_exporter: RAPL psys", _ZONES, rapl_zone="psys*", path=_OWN_PATH),
        _rapl(
            "node_exporter: RAPL packages and dram",
            _ZONES,
            rapl_zone=_PACKAGE_AND_DRAM,
            path=_OWN_PATH,
        ),
        _rapl("node_exporter: RAPL psys", "node_rapl_psys_joules_total", path=_OWN_PATH),
        _rapl("node_exporter: RAPL, CPU packages only", _PACKAGES, path=_OWN_PATH),
        _rapl("node_exporter: RAPL, CPU packages only", _PACKAGES),
    ),
    "ipmi_exporter": tuple(
        _gauge("ipmi_exporter: the machine, by DCMI", name, _METER_STD_RATIO)
        for name in (
            "ipmi_dcmi_power_consumption_watts",
            "ipmi_dcmi_power_consumption_current_watts",  # as its documentation has it
        )
    ),
}
