"""What kind of service a simulated pool is: plain data, bindable from YAML.

Fields with a unit in their type are written with it (`6ms`, `512MiB`, `20%`) and are base units
(seconds, bytes, shares) in Python. `Disturbance` is what happens to the pool from outside; it may
be changed between ticks.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from poolwright.core.units import Bytes, Ratio, Seconds
from poolwright.sim.power import PowerCurve

MIB = 2**20


class Law(StrEnum):
    """How a demand spreads about its mean, given its coefficient of variation (std / mean)."""

    GAMMA = "gamma"  # cv 1 is the exponential distribution
    LOGNORMAL = "lognormal"
    PARETO = "pareto"  # a power-law tail with finite variance


class OverCap(StrEnum):
    """What happens when the dependency has no connection left."""

    WAIT = "wait"  # a request waits, in its worker, for one to be given back
    FAIL = "fail"  # workers that came too late have none: their requests fail at once


class Scope(StrEnum):
    """Whom a pause stops."""

    WORKER = "worker"  # one worker collects garbage, burning CPU, with a request in its hands
    POOL = "pool"  # nothing of the pool moves: a frozen cgroup, a stop-the-world collector


def _doc(text: str, **rules: Any) -> dict[str, Any]:
    """Metadata of a field: its description, and what `policy.bind` checks."""
    return {"doc": text, **rules}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClass:
    """A kind of request: `cpu` seconds of a core, then `io` seconds of waiting for a dependency."""

    share: float = field(
        default=1.0, metadata=_doc("weight of this kind among all requests", above=0)
    )
    cpu: Seconds = field(default=0.006, metadata=_doc("mean CPU time"))
    io: Seconds = field(default=0.050, metadata=_doc("mean wait for the dependency"))
    cpu_cv: float = field(
        default=0.3,
        metadata=_doc("spread of the CPU time: std / mean; 0: always the same", min=0, max=50),
    )
    io_cv: float = field(
        default=1.0,
        metadata=_doc("spread of the wait: std / mean; 0: always the same", min=0, max=50),
    )
    law: Law = field(default=Law.GAMMA, metadata=_doc("how both spread"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Each worker has a cache of its own: the more workers, the colder each."""

    miss_cpu: Seconds = field(
        default=0.030, metadata=_doc("CPU burned in addition at a miss; 0s: there is no cache")
    )
    keys: int = field(
        default=12,
        metadata=_doc("how many things are asked for, all equally often", min=1, max=100_000),
    )
    ttl: Seconds = field(default=2.0, metadata=_doc("how long a worker's entry is fresh"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Garbage collection and other standstills."""

    every: Seconds = field(
        default=0.0, metadata=_doc("mean time between pauses, uniform in 0.5..1.5 of it; 0s: none")
    )
    lasts: Seconds = field(default=0.050, metadata=_doc("length of a pause"))
    scope: Scope = field(default=Scope.WORKER, metadata=_doc("whom it stops"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Where the pool's memory goes. Past `limit` the kernel kills the largest worker."""

    base: Bytes = field(default=60 * MIB, metadata=_doc("of the pool, whatever its size"))
    worker: Bytes = field(default=40 * MIB, metadata=_doc("of a worker that has just booted"))
    warm: Bytes = field(default=0, metadata=_doc("what a worker grows by while it warms up"))
    warm_requests: int = field(
        default=500, metadata=_doc("requests in which it grows by 63 % of that", min=1)
    )
    leak: Bytes = field(
        default=0, metadata=_doc("what each request leaves behind in its worker, for ever")
    )
    host: Bytes = field(
        default=1_000_000_000, metadata=_doc("used by everything else under the same limit")
    )
    limit: Bytes = field(default=8_000_000_000, metadata=_doc("of the cgroup or the host", min=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What a new worker costs before it serves."""

    lasts: Seconds = field(
        default=1.0, metadata=_doc("from fork to the first request, when there is CPU enough")
    )
    cpu: Seconds = field(
        default=0.3, metadata=_doc("CPU burned meanwhile, in competition with requests")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """Those who ask, and ask again.

    A client that gives up has failed; the service does not know and serves its request all the
    same. Refused, failed and timed-out requests come back after a back-off that doubles.
    """

    timeout: Seconds = field(default=0.0, metadata=_doc("patience; 0s: endless"))
    retries: int = field(
        default=0, metadata=_doc("how often a failed request comes back", min=0, max=100)
    )
    backoff: Seconds = field(
        default=1.0, metadata=_doc("before the first retry; doubles, and is spread by +-50 %")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """To what the pool depends on. Each worker holds its connections while it lives."""

    per_worker: int = field(default=1, metadata=_doc("connections that a worker holds", min=0))
    limit: int = field(
        default=0, metadata=_doc("connections that the dependency accepts; 0: any number", min=0)
    )
    over: OverCap = field(default=OverCap.FAIL, metadata=_doc("what happens above the limit"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantShape:
    """What kind of service it is, on what kind of host, asked by what kind of clients."""

    service: tuple[ServiceClass, ...] = field(
        default=(ServiceClass(),), metadata=_doc("the mix of requests", nonempty=True)
    )
    cores: float = field(
        default=2.0, metadata=_doc("CPU that the pool and its neighbours share", above=0, max=4096)
    )
    threads: int = field(
        default=1, metadata=_doc("requests that a worker serves at a time", min=1, max=1000)
    )
    gil: bool = field(default=True, metadata=_doc("the threads of a worker burn CPU one at a time"))
    lock: Ratio = field(
        default=0.0,
        metadata=_doc("share of a request's CPU time that is spent under one lock of all"),
    )
    cache: Cache = field(default=Cache(), metadata=_doc("the caches of the workers"))
    pauses: Pauses = field(default=Pauses(), metadata=_doc("garbage collection"))
    memory: Memory = field(default=Memory(), metadata=_doc("memory, and where it ends"))
    boot: Boot = field(default=Boot(), metadata=_doc("what a new worker costs"))
    backlog: int = field(
        default=2048, metadata=_doc("connections that may wait; further ones are refused", min=0)
    )
    clients: Clients = field(default=Clients(), metadata=_doc("patience and retries"))
    connections: Connections = field(
        default=Connections(), metadata=_doc("to what the pool depends on")
    )
    power: PowerCurve = field(default=PowerCurve(), metadata=_doc("watts of the host"))
    sees_queue: bool = field(default=True, metadata=_doc("a sensor sees the accept queue"))
    sees_latency: bool = field(
        default=True, metadata=_doc("a sensor sees what clients waited, and what failed for them")
    )


@dataclass(slots=True, kw_only=True)
class Disturbance:
    """What acts on the pool from outside. Factors are 1 and amounts 0 when nothing is amiss."""

    dependency_factor: float = 1.0  # every wait for the dependency takes so many times longer
    cpu_factor: float = 1.0  # every request burns so many times more: a bad deploy
    foreign_cores: float = 0.0  # threads of neighbours that would burn a whole core each
    foreign_bytes: float = 0.0  # memory of neighbours, above `Memory.host`
    leak_factor: float = 1.0  # of `Memory.leak`
    leak_bytes: float = 0.0  # added to every request's leak
    fail_ratio: float = 0.0  # share of requests that the service answers with an error

    def __post_init__(self) -> None:
        """Refuse what no world does."""
        self.check()

    def check(self) -> None:
        """ValueError when a value is negative, not finite, or a factor of time is zero."""
        for name in Disturbance.__slots__:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"disturbance {name} is {value}")
        if self.cpu_factor == 0.0 or self.fail_ratio > 1.0:
            raise ValueError(f"no such disturbance: {self}")
