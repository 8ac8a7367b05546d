"""One pool at one moment, small enough to be sent every tick and to be kept for a day."""

from typing import Annotated, Protocol

import msgspec
from msgspec import UNSET, Meta, UnsetType

from poolwright.core.model import Decision, Setting, Tick
from poolwright.core.policy import Policy
from poolwright.core.sample import Sample
from poolwright.core.vocabulary import Action, Phase, Reason
from poolwright.engine.snapshot import Recent

LEVELS = ("wanted", "commanded", "applied")
QUANTITIES = (
    "load_rps",
    "latency_p50_s",
    "latency_p95_s",
    "latency_p99_s",
    "jitter_s",
    "cpu_cores",
    "memory_bytes",
    "power_w",
    "error_ratio",
)
UnixSeconds = Annotated[float, Meta(description="seconds since 1970 UTC")]


class Levels(msgspec.Struct, frozen=True, kw_only=True):
    """One knob: what is wanted (or advised), what was commanded, what was read back."""

    wanted: int | None
    commanded: int | None
    applied: int | None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One pool in one tick. Levels are of its first knob; null: not known.

    Latency and jitter are over the last ten seconds, everything else is of the tick.
    """

    pool: str
    tick: int
    time_s: UnixSeconds
    phase: Phase
    action: Action
    reason: Reason
    detail: str
    probing: bool
    wanted: int | None
    commanded: int | None
    applied: int | None
    load_rps: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    latency_p99_s: float | None
    jitter_s: float | None
    cpu_cores: float | None
    memory_bytes: float | None
    power_w: float | None
    error_ratio: float | None
    knobs: dict[str, Levels] | UnsetType = UNSET  # where there are several


class Seen(Protocol):
    """A tick with what was made of it: a PoolSnapshot, or one out of the journal."""

    @property
    def pool(self) -> str: ...  # noqa: D102 - as in PoolSnapshot

    @property
    def policy(self) -> Policy: ...  # noqa: D102

    @property
    def tick(self) -> Tick: ...  # noqa: D102

    @property
    def sample(self) -> Sample: ...  # noqa: D102

    @property
    def recent(self) -> Recent: ...  # noqa: D102

    @property
    def decision(self) -> Decision: ...  # noqa: D102


def point(seen: Seen) -> Point:
    """One tick of a pool."""
    decision, sample, recent = seen.decision, seen.sample, seen.recent
    applied = None if seen.tick.applied is None else seen.tick.applied.setting
    knobs = {
        knob.name: Levels(
            wanted=_level(decision.wanted, knob.name),
            commanded=_level(decision.setting, knob.name),
            applied=_level(applied, knob.name),
        )
        for knob in seen.policy.knobs
    }
    first = next(iter(knobs.values()))
    return Point(
        pool=seen.pool,
        tick=seen.tick.index,
        time_s=seen.tick.wall_ns / 1e9,
        phase=decision.phase,
        action=decision.action,
        reason=decision.reason,
        detail=decision.detail,
        probing=decision.probing,
        wanted=first.wanted,
        commanded=first.commanded,
        applied=first.applied,
        load_rps=sample.load_rps,
        latency_p50_s=recent.p50_s,
        latency_p95_s=recent.p95_s,
        latency_p99_s=recent.p99_s,
        jitter_s=recent.jitter_s,
        cpu_cores=sample.cpu_cores,
        memory_bytes=sample.memory_bytes,
        power_w=sample.power_w,
        error_ratio=error_ratio(sample.errors_rps, sample.throughput_rps),
        knobs=knobs if len(knobs) > 1 else UNSET,
    )


def error_ratio(errors_rps: float | None, throughput_rps: float | None) -> float | None:
    """The share of requests that failed; None: not known, or there was none."""
    if errors_rps is None or not throughput_rps:
        return None
    return min(1.0, errors_rps / throughput_rps)


def _level(setting: Setting | None, knob: str) -> int | None:
    return None if setting is None else dict(setting.levels).get(knob)
