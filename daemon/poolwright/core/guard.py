"""The guard: each tick, before anything that was learned. Model-free.

A breach is judged on the requests of the last few ticks, and only when it is more than chance: of
n requests, n(1-q) may be slower than the bound of a quantile q, give or take the binomial spread.
"""

import math
from collections import deque
from dataclasses import dataclass

from poolwright.core.model import Reason, Setting
from poolwright.core.policy import Policy, Slo
from poolwright.core.sample import Sample
from poolwright.core.signals import quantile_of
from poolwright.core.sketch import SketchBuilder

_SPREAD = 1.645  # one-sided 95 %
_QUEUEING_TICKS = 3
_DRAIN_TICKS = 3
_DRAIN_SHARE = 0.93  # a queue that lost 7 % in three ticks is going away by itself
_BUSY_CPU = 0.9  # of the host: more workers would only share it


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the guard says of this tick.

    `tripped` is sustained (k of n ticks); `blind_s` is how long the guard has missed what it
    needs; `queueing` says that clients wait for a worker, and have for a while.
    """

    tripped: tuple[Reason, ...] = ()
    blind_s: float = 0.0
    blind_to: tuple[str, ...] = ()
    queueing: bool = False


class Guard:
    """Keeps the last few ticks and judges them."""

    __slots__ = ("_blind_s", "_breaches", "_policy", "_queueing", "_queues", "_recent")

    def __init__(self, policy: Policy) -> None:
        """Start with an empty memory."""
        n = policy.guard.breach_of_ticks
        self._policy = policy
        self._recent: deque[Sample] = deque(maxlen=n)
        self._breaches: deque[frozenset[Reason]] = deque(maxlen=n)
        self._blind_s = 0.0
        self._queueing = 0
        self._queues: deque[float | None] = deque(maxlen=_DRAIN_TICKS + 1)

    @property
    def draining(self) -> bool:
        """Whether a queue is there and is going away by itself."""
        before, now = self._queues[0] if self._queues else None, self._recent_queue()
        return (
            self.queue_seen
            and bool(before)
            and now is not None
            and now <= _DRAIN_SHARE * (before or 0.0)
        )

    @property
    def queue_seen(self) -> bool:
        """Whether enough ticks of the queue were seen to tell a draining one from a growing one."""
        return len(self._queues) == self._queues.maxlen

    @property
    def cpu_busy(self) -> bool:
        """Whether the host's CPU was nearly used up over the recent ticks."""
        known = [s.host_cpu_ratio for s in self._recent if s.host_cpu_ratio is not None]
        return bool(known) and sum(known) / len(known) > _BUSY_CPU

    @property
    def throughput_rps(self) -> float | None:
        """Completions a second over the recent ticks."""
        known = [s.throughput_rps for s in self._recent if s.throughput_rps is not None]
        return sum(known) / len(known) if known else None

    def _recent_queue(self) -> float | None:
        return self._queues[-1] if self._queues else None

    def forget(self) -> None:
        """Drop what was seen at another setting: it must not speak against this one."""
        self._recent.clear()
        self._breaches.clear()
        self._queues.clear()
        self._queueing = 0

    def judge(self, sample: Sample, applied: Setting | None) -> Verdict:
        """The verdict on this tick."""
        self._recent.append(sample)
        self._queues.append(sample.queue_length)
        blind_to = self._unseen(sample)
        self._blind_s = self._blind_s + sample.dt_s if blind_to else 0.0
        self._breaches.append(self._breached(sample))
        counts: dict[Reason, int] = {}
        for breaches in self._breaches:
            for reason in breaches:
                counts[reason] = counts.get(reason, 0) + 1
        rule = self._policy.guard
        tripped = tuple(sorted(r for r, n in counts.items() if n >= rule.breach_ticks))
        waiting = self._waiting(sample, applied)
        self._queueing = self._queueing + 1 if waiting else 0
        return Verdict(
            tripped=tripped,
            blind_s=self._blind_s,
            blind_to=blind_to,
            queueing=self._queueing >= _QUEUEING_TICKS and not self.draining,
        )

    def _unseen(self, sample: Sample) -> tuple[str, ...]:
        """The signals that a rule of the policy needs and that this tick does not give."""
        unseen: list[str] = []
        if sample.throughput_rps is None:
            unseen.append("throughput_rps")
        busy = sample.throughput_rps is None or sample.throughput_rps > 0.0
        responses = {s.response for s in self._policy.slo} | {r for r, _ in self._policy.objective}
        if (
            busy
            and sample.latency is None
            and any(r.startswith(("latency", "jitter")) for r in responses)
        ):
            unseen.append("latency_s")
        if "error_ratio" in responses and sample.errors_rps is None:
            unseen.append("errors_rps")
        if sample.host_memory_used_bytes is None or sample.memory_limit_bytes is None:
            unseen.append("host_memory_used_bytes")
        return tuple(unseen)

    def _breached(self, sample: Sample) -> frozenset[Reason]:
        """The rules that this tick breaks."""
        found: set[Reason] = set()
        rule = self._policy.guard
        used, limit = sample.host_memory_used_bytes, sample.memory_limit_bytes
        if used is not None and limit and used > rule.memory_ratio * limit:
            found.add(Reason.MEMORY_BREACH)
        if self._burns(sample):
            found.add(Reason.CPU_BREACH)
        for slo in self._policy.slo:
            quantile = quantile_of(slo.response)
            if quantile is not None and self._slow(slo, quantile):
                found.add(Reason.SLO_BREACH)
            if slo.response == "error_ratio" and self._failing(slo):
                found.add(Reason.ERROR_BREACH)
        return frozenset(found)

    def _burns(self, sample: Sample) -> bool:
        """The host's CPU is used up, and not mostly by others: a smaller pool would free it."""
        ratio, foreign = sample.host_cpu_ratio, sample.foreign_cpu_ratio
        if ratio is None or ratio <= self._policy.guard.cpu_ratio:
            return False
        return foreign is None or foreign <= ratio / 2.0

    def _slow(self, slo: Slo, quantile: float) -> bool:
        """More requests over the bound than the quantile allows, beyond chance."""
        builder = SketchBuilder()
        for sample in self._recent:
            if sample.latency is not None:
                builder.merge(sample.latency)
        sketch = builder.freeze()
        return _beyond_chance(sketch.above(slo.below), sketch.count, 1.0 - quantile)

    def _failing(self, slo: Slo) -> bool:
        done = failed = 0.0
        for s in self._recent:
            if s.errors_rps is not None and s.throughput_rps is not None:
                done += s.throughput_rps * s.dt_s
                failed += s.errors_rps * s.dt_s
        return _beyond_chance(round(failed), round(done), slo.below)

    def _waiting(self, sample: Sample, applied: Setting | None) -> bool:
        """Whether clients wait longer than they are served, or the queue is a pool long."""
        if sample.queue_length is None or applied is None:
            return False
        served = sample.service_time.mean if sample.service_time else None
        if served is not None and sample.queue_delay_s is not None:
            return sample.queue_delay_s > served
        return sample.queue_length > max(level for _, level in applied.levels)


def _beyond_chance(bad: int, total: int, allowed: float) -> bool:
    """Whether `bad` of `total` is more than a share `allowed` explains (one-sided 95 %, normal)."""
    return bad > total * allowed + _SPREAD * math.sqrt(total * allowed * (1.0 - allowed)) + 1.0


def memory_allows(
    sample: Sample, policy: Policy, applied: int, wanted: int, *, held_before: bool = False
) -> int:
    """The most workers, at least `applied`, whose forecast memory stays within the guard.

    The forecast is the pool's mean memory a worker for each one added. Without a reading of
    memory nothing may be added, but for a setting that was held before.
    """
    if wanted <= applied:
        return wanted
    used, limit, own = sample.host_memory_used_bytes, sample.memory_limit_bytes, sample.memory_bytes
    if used is None or limit is None or own is None or applied <= 0:
        return wanted if held_before else applied
    room = policy.guard.memory_ratio * limit - used
    each = own / applied
    if each <= 0.0:
        return wanted
    return min(wanted, applied + max(0, math.floor(room / each)))
