"""What demo and convergence bench make of what they saw: one code, so that they can be compared.

Latency, throughput and errors are the load generator's, that is the clients'. CPU, memory and
power are read by poolwright's own sensors in this process, independently of the daemon.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from poolwright.core.model import Reading, Status
from poolwright.core.policy import Policy
from poolwright.core.sketch import merged
from poolwright.demo.loadgen import Report

_BLOCK = 5  # seconds over which a p99 is held against its bound: 400 requests at 80 a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """One second of the run. None: not known."""

    report: Report
    ended_mono_ns: int
    workers: int | None
    cpu_cores: float | None = None
    memory_bytes: float | None = None
    power_w: float | None = None
    power_std_w: float | None = None
    power_source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Some seconds, taken together. Means are over seconds, quantiles over requests.

    `jitter_s` is the standard deviation of latency. `breach_ratio` is the share of blocks of five
    seconds whose p99 was over the SLO's bound; None without a whole block or without such an SLO.
    """

    seconds: int
    workers: float | None
    load_rps: float
    throughput_rps: float
    errors: tuple[tuple[str, int], ...]
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    jitter_s: float | None
    cpu_cores: float | None
    memory_bytes: float | None
    power_w: float | None
    power_std_w: float | None
    power_source: str
    breach_ratio: float | None
    lateness_max_s: float | None

    @property
    def error_count(self) -> int:
        """Errors of every kind."""
        return sum(n for _, n in self.errors)


def second_of(
    report: Report, ended_mono_ns: int, workers: int | None, readings: Iterable[Reading]
) -> Second:
    """A Second of what was reported and read together."""
    good = {r.signal: r for r in readings if r.status is Status.OK}
    power = good.get("power_w")
    return Second(
        report=report,
        ended_mono_ns=ended_mono_ns,
        workers=workers,
        cpu_cores=good["cpu_cores"].value if "cpu_cores" in good else None,
        memory_bytes=good["memory_bytes"].value if "memory_bytes" in good else None,
        power_w=power.value if power else None,
        power_std_w=power.std if power else None,
        power_source=power.source if power else "",
    )


def summarise(seconds: Sequence[Second], p99_bound_s: float | None) -> Summary:
    """The Summary of `seconds`; ValueError when there is none."""
    if not seconds:
        raise ValueError("nothing to summarise")
    reports = [s.report for s in seconds]
    latency = merged(r.latency for r in reports)
    some = latency.count > 0
    errors: dict[str, int] = {}
    for report in reports:
        for kind, n in report.errors.items():
            errors[kind] = errors.get(kind, 0) + n
    late = [r.lateness_max_s for r in reports if r.lateness_max_s is not None]
    return Summary(
        seconds=len(seconds),
        workers=_mean([s.workers for s in seconds]),
        load_rps=sum(r.intended for r in reports) / len(reports),
        throughput_rps=sum(r.completed for r in reports) / len(reports),
        errors=tuple(sorted(errors.items())),
        p50_s=latency.quantile(0.50) if some else None,
        p95_s=latency.quantile(0.95) if some else None,
        p99_s=latency.quantile(0.99) if some else None,
        jitter_s=latency.std if some else None,
        cpu_cores=_mean([s.cpu_cores for s in seconds]),
        memory_bytes=_mean([s.memory_bytes for s in seconds]),
        power_w=_mean([s.power_w for s in seconds]),
        power_std_w=_mean([s.power_std_w for s in seconds]),
        power_source=next((s.power_source for s in seconds if s.power_source), ""),
        breach_ratio=None if p99_bound_s is None else _breach_ratio(reports, p99_bound_s),
        lateness_max_s=max(late) if late else None,
    )


def p99_bound(policy: Policy) -> float | None:
    """The bound on p99 latency in seconds, None when the policy has none."""
    return next((s.below for s in policy.slo if s.response == "latency_p99_s"), None)


def references(policy: Policy, baseline: Summary) -> dict[str, float]:
    """What each response of the objective is divided by, as the learner does (Plan.references).

    Latencies and jitter by the bound on p99 latency, the others by what they are at the baseline.
    Raises ValueError where the baseline did not show what is needed.
    """
    bound = p99_bound(policy)
    found: dict[str, float] = {}
    for response, _ in policy.objective:
        timed = response.startswith("latency") or response == "jitter_s"
        value = bound if timed and bound is not None else _response(baseline, response)
        if value <= 0.0:
            raise ValueError(f"{response} is {value} at the baseline: nothing to divide by")
        found[response] = value
    return found


def objective(policy: Policy, summary: Summary, divide_by: dict[str, float]) -> float:
    """The policy's objective: the weighted sum of responses over their references. Less is better.

    Raises ValueError where a response was not seen: a missing one must not count as free.
    """
    return math.fsum(
        weight * _response(summary, response) / divide_by[response]
        for response, weight in policy.objective
    )


def _response(summary: Summary, response: str) -> float:
    field = {"latency_p50_s": "p50_s", "latency_p95_s": "p95_s", "latency_p99_s": "p99_s"}
    value: float | None = getattr(summary, field.get(response, response), None)
    if value is None:
        raise ValueError(f"{response} was not seen")
    return value


def _breach_ratio(reports: Sequence[Report], bound_s: float) -> float | None:
    blocks = [reports[i : i + _BLOCK] for i in range(0, len(reports) - _BLOCK + 1, _BLOCK)]
    seen = [latency for b in blocks if (latency := merged(r.latency for r in b)).count]
    if not seen:
        return None
    return sum(latency.quantile(0.99) > bound_s for latency in seen) / len(seen)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else None
