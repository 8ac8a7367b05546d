"""What a policy promises (`slo`) and when it retreats whatever the model believes (`guard`)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from poolwright.core import policy as core_policy
from poolwright.core.units import Ratio, Seconds
from poolwright.policy.bind import Contradiction

KNOB_NAMES = (
    "workers",
    "threads",
    "pool_size",
    "concurrency",
    "connections",
    "maxconn",
    "weight",
    "replicas",
)

# Metadata of a field that holds globs of the names of pools.
POOLS = {
    "pattern": r"[a-z0-9*?-]{1,63}",
    "says": "is no glob of pools: it is of a-z, 0-9, -, * and ?",
}

# Keys that name a latency quantile: latency_p50, latency_p99.9; one spelling of each.
LATENCY = r"latency_p[1-9][0-9]?(?:\.[0-9]{0,2}[1-9])?"

# Where the defaults come from; the empty fields are not looked at.
_SLO = core_policy.Slo(response="", below=1.0)
_GUARD = core_policy.GuardRule()


def doc(text: str, **rules: Any) -> dict[str, Any]:
    """Metadata of a field: its description, and what `policy.bind` checks."""
    return {"doc": text, **rules}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What every bound of an SLO has."""

    confidence: Ratio = field(
        default=_SLO.confidence,
        metadata=doc(
            "how sure the model must be that the bound holds before a setting is tried",
            above=0.5,
            below=1.0,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationBound(Bound):
    """A time that must stay below a bound."""

    below: Seconds = field(metadata=doc("the bound", above=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioBound(Bound):
    """A share that must stay below a bound."""

    below: Ratio = field(metadata=doc("the bound", above=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class SloRules:
    """What the service owes its users. Keys are named as in `core.signals`."""

    latency: dict[str, DurationBound] = field(
        default_factory=dict,
        metadata=doc(
            "so many per cent of requests are faster: latency_p50, latency_p99, latency_p99.9",
            keys_like=LATENCY,
            examples=("latency_p50", "latency_p90", "latency_p95", "latency_p99"),
        ),
    )
    jitter: DurationBound | None = field(
        default=None,
        metadata=doc("standard deviation of latency"),
    )
    error_ratio: RatioBound | None = field(
        default=None, metadata=doc("requests failed, of all requests")
    )

    REFUSED: ClassVar[dict[str, str]] = {
        "memory": "is a ceiling of the host, not a promise to users: write it under `guard`",
        "cpu": "is a ceiling of the host, not a promise to users: write it under `guard`",
        "throughput": "has no upper bound to keep; throughput is kept at the load by itself",
        "power": "cannot gate safety: watts are often modelled; give it a weight in `objective`",
        "cost": "is not a promise to users; give it a weight in `objective`",
    }

    def bounds(self) -> dict[str, DurationBound | RatioBound]:
        """What is promised, by its name in the policy."""
        found: dict[str, DurationBound | RatioBound] = dict(self.latency)
        if self.jitter is not None:
            found["jitter"] = self.jitter
        if self.error_ratio is not None:
            found["error_ratio"] = self.error_ratio
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """A share that the guard does not let pass."""

    below: Ratio = field(metadata=doc("the share", above=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Pressure stall (PSI): share of time some task waited. Left out: no such limit."""

    cpu: Ceiling | None = field(default=None, metadata=doc("waited for CPU"))
    memory: Ceiling | None = field(default=None, metadata=doc("waited for memory"))
    io: Ceiling | None = field(default=None, metadata=doc("waited for I/O"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFall:
    """A sudden fall in load: clients may be about to retry, so nothing shrinks."""

    more_than: Ratio = field(
        default=_GUARD.fall_ratio, metadata=doc("a fall by more than this ...", above=0)
    )
    hold: Seconds = field(
        default=_GUARD.fall_hold_s,
        metadata=doc("... forbids shrinking for so long; 0s: no such rule", max=86400),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """What the pool waits for has become slow: more workers would not help."""

    slower_than: float = field(
        default=_GUARD.dependency_ratio,
        metadata=doc("service time over its usual, at CPU that is not higher", above=1, max=1000),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """How many ticks over an SLO are a breach."""

    ticks: int = field(default=_GUARD.breach_ticks, metadata=doc("so many ...", min=1, max=1000))
    of: int = field(
        default=_GUARD.breach_of_ticks, metadata=doc("... of the last so many", min=1, max=1000)
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """More bad ticks than ticks."""
        if self.ticks > self.of:
            message = f"{self.ticks} of {self.of} ticks can never be over the SLO"
            yield Contradiction(("ticks",), ("ticks", "of"), message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """When to retreat, whatever the model believes."""

    memory: Ceiling = field(
        default=Ceiling(below=_GUARD.memory_ratio),
        metadata=doc("of the cgroup's or the host's memory, forecast before growing"),
    )
    cpu: Ceiling = field(
        default=Ceiling(below=_GUARD.cpu_ratio), metadata=doc("of the host's CPU, whoever uses it")
    )
    pressure: Pressure = field(
        default=Pressure(), metadata=doc("over this nothing grows and nothing is tried")
    )
    connections: Ceiling = field(
        default=Ceiling(below=_GUARD.connections_ratio),
        metadata=doc(
            "of the connections that a dependency accepts, forecast before growing; "
            "where a sensor sees them"
        ),
    )
    load_fall: LoadFall = field(default=LoadFall(), metadata=doc("a sudden fall in load"))
    dependency: Dependency = field(
        default=Dependency(), metadata=doc("when a slow dependency is to blame")
    )
    breach: Breach = field(default=Breach(), metadata=doc("ticks over the SLO"))
    blind: Seconds = field(
        default=_GUARD.blind_s,
        metadata=doc(
            "without the signals the SLO needs for so long: back to the last safe setting", above=0
        ),
    )
    cooldown: Seconds = field(
        default=_GUARD.cooldown_s, metadata=doc("after a retreat, how long nothing is tried")
    )
