"""The names of what is seen (signals) and of what is modelled (responses), with their units.

A sensor gives signals, one Reading each, every tick. The core derives from them one Sample a tick,
and from the Samples of a window the responses that the surrogate models.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """Unit and meaning of one signal."""

    unit: str
    meaning: str


SIGNALS: dict[str, SignalSpec] = {
    "throughput_rps": SignalSpec("rps", "requests completed a second since the last tick"),
    "errors_rps": SignalSpec("rps", "requests failed (status 5xx) a second since the last tick"),
    "service_time_s": SignalSpec(
        "s", "mean time in a worker; sketch: its distribution over the tick's requests"
    ),
    "latency_s": SignalSpec(
        "s", "mean time the client waited, queue included; sketch: its distribution"
    ),
    "queue_length": SignalSpec(
        "count", "connections waiting to be accepted, now; sketch: samples within the tick"
    ),
    "queue_limit": SignalSpec("count", "length at which the kernel refuses connections"),
    "in_flight": SignalSpec("count", "requests being served, now"),
    "cpu_cores": SignalSpec("cores", "CPU used by the pool since the last tick"),
    "memory_bytes": SignalSpec("bytes", "memory of the pool: PSS where readable, else RSS"),
    "worker_count": SignalSpec("count", "worker processes seen"),
    "host_cpu_cores": SignalSpec("cores", "CPU used by the whole host since the last tick"),
    "host_cpu_count": SignalSpec("cores", "CPU that may be used: cgroup quota or logical CPUs"),
    "host_memory_used_bytes": SignalSpec("bytes", "memory in use within memory_limit_bytes"),
    "memory_limit_bytes": SignalSpec("bytes", "memory that may be used: cgroup limit or RAM"),
    "load_average": SignalSpec("count", "1-minute load average"),
    "psi_cpu_ratio": SignalSpec("ratio", "share of time some task waited for CPU"),
    "psi_memory_ratio": SignalSpec("ratio", "share of time some task waited for memory"),
    "psi_io_ratio": SignalSpec("ratio", "share of time some task waited for I/O"),
    "connections": SignalSpec("count", "connections in use at what the pool depends on"),
    "connections_limit": SignalSpec("count", "connections that it accepts"),
    "power_w": SignalSpec("w", "power; source says from where, estimated says modelled"),
}

RESPONSES: dict[str, str] = {
    "throughput_rps": "rps",
    "latency_p50_s": "s",
    "latency_p95_s": "s",
    "latency_p99_s": "s",
    "jitter_s": "s",  # the standard deviation of latency within the window
    "power_w": "w",
    "cpu_cores": "cores",
    "memory_bytes": "bytes",
    "error_ratio": "ratio",
    "cost_per_hour": "1/h",  # in the currency of the policy's prices
}

# What a policy calls a response, without its unit.
RESPONSE_NAMES: dict[str, str] = {
    "throughput": "throughput_rps",
    "latency_p50": "latency_p50_s",
    "latency_p95": "latency_p95_s",
    "latency_p99": "latency_p99_s",
    "jitter": "jitter_s",
    "power": "power_w",
    "cpu": "cpu_cores",
    "memory": "memory_bytes",
    "error_ratio": "error_ratio",
    "cost": "cost_per_hour",
}

QUANTILES = ("latency_p50_s", "latency_p95_s", "latency_p99_s")  # seen whatever the policy says
_LATENCY = re.compile(r"latency_p([1-9][0-9]?(?:\.[0-9]{1,3})?)")


def response_of(name: str) -> str | None:
    """The response that a policy calls `name`; None when there is none.

    Besides RESPONSE_NAMES there is every latency quantile: latency_p90, latency_p99.9.
    """
    if name in RESPONSE_NAMES:
        return RESPONSE_NAMES[name]
    return f"{name}_s" if _LATENCY.fullmatch(name) else None


def quantile_of(response: str) -> float | None:
    """0.99 of `latency_p99_s`; None of what is no latency quantile."""
    found = _LATENCY.fullmatch(response.removesuffix("_s"))
    return None if found is None else float(f"{found[1]}e-2")
