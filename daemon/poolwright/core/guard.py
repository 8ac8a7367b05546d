"""The guard: each tick, before anything that was learned. Model-free.

A breach is judged on the requests of the last few ticks, and only when it is more than chance: of
n requests, n(1-q) may be slower than the bound of a quantile q, give or take the binomial spread;
the variance of n latencies may pass the square of a bound on jitter, give or take its own spread.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from poolwright.core.burn import Tally, allowed_ratio, beyond_chance, tally
from poolwright.core.cause import Cause
from poolwright.core.model import Reason, Setting
from poolwright.core.policy import Policy, Slo
from poolwright.core.sample import Sample
from poolwright.core.sketch import Sketch, bucket_value, merged

_SPREAD = 1.645  # one-sided 95 %
_PRESSURES = ("psi_cpu_ratio", "psi_memory_ratio", "psi_io_ratio")  # in GuardRule and in Sample
_QUEUEING_TICKS = 3
_DRAIN_TICKS = 3
_DRAIN_SHARE = 0.93  # a queue that lost 7 % in three ticks is going away by itself
_BUSY_CPU = 0.9  # of the host: more workers would only share it
_FULL_CPU = 0.97  # in two ticks in a row: busy, whatever it was before
_THROTTLED = 0.25  # of the periods of a CPU quota: the mean hides that it is used up in bursts


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the guard says of this tick.

    `tripped` is sustained (k of n ticks); `blind_s` is how long the guard has missed what it
    needs; `queueing` says that clients wait for a worker, and have for a while; `slow_dependency`
    that what the service calls is slow, so that more workers would not help.
    """

    tripped: tuple[Reason, ...] = ()
    blind_s: float = 0.0
    blind_to: tuple[str, ...] = ()
    queueing: bool = False
    slow_dependency: bool = False


class Guard:
    """Keeps the last few ticks and judges them."""

    __slots__ = (
        "_blind_s", "_breaches", "_cause", "_ceilings", "_errors", "_policy", "_queueing",
        "_queues", "_recent", "_tallies", "_timed",
    )  # fmt: skip

    def __init__(self, policy: Policy) -> None:
        """Start with an empty memory."""
        n = policy.guard.breach_of_ticks
        self._policy = policy
        self._cause = Cause(policy.guard)
        self._recent: deque[Sample] = deque(maxlen=n)
        counted = ((slo, allowed_ratio(slo)) for slo in policy.slo)
        self._tallies: tuple[tuple[Slo, float, deque[Tally | None]], ...] = tuple(
            (slo, allowed, deque(maxlen=n)) for slo, allowed in counted if allowed is not None
        )
        names = {s.response for s in policy.slo} | {r for r, _ in policy.objective}
        self._timed = any(r.startswith(("latency", "jitter")) for r in names)
        self._errors = "error_ratio" in names
        ceilings = ((name, getattr(policy.guard, name)) for name in _PRESSURES)
        self._ceilings = tuple((n, limit) for n, limit in ceilings if limit is not None)
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
        """Whether the host's CPU was nearly used up over the recent ticks, or a quota in a quarter
        of its periods: more workers would only share it, and wait longer for the next period.
        """
        held = [s.throttled_ratio for s in self._recent if s.throttled_ratio is not None]
        if held and sum(held) / len(held) > _THROTTLED:
            return True
        known = [s.host_cpu_ratio for s in self._recent if s.host_cpu_ratio is not None]
        return bool(known) and (sum(known) / len(known) > _BUSY_CPU or min(known[-2:]) > _FULL_CPU)

    @property
    def throughput_rps(self) -> float | None:
        """Requests served well a second over the recent ticks."""
        known = [
            s.throughput_rps - (s.errors_rps or 0.0)
            for s in self._recent
            if s.throughput_rps is not None and "errors_rps" not in s.missing
        ]
        return sum(known) / len(known) if known else None

    def _recent_queue(self) -> float | None:
        return self._queues[-1] if self._queues else None

    def forget(self) -> None:
        """Drop what was seen at another setting: it must not speak against this one."""
        self._recent.clear()
        self._breaches.clear()
        self._queues.clear()
        for _, _, seen in self._tallies:
            seen.clear()
        self._queueing = 0

    def restart(self) -> None:
        """The plant restarted: drop also what was normal of it."""
        self.forget()
        self._cause.forget()

    def judge(self, sample: Sample, applied: Setting | None, *, calm: bool = True) -> Verdict:
        """The verdict on this tick.

        `calm`: the plant has settled; what is normal is learned then, while nothing breaches.
        """
        self._recent.append(sample)
        self._queues.append(sample.queue_length)
        for slo, _, seen in self._tallies:
            seen.append(tally(sample, slo))
        blind_to = self._unseen(sample)
        self._blind_s = self._blind_s + sample.dt_s if blind_to else 0.0
        self._breaches.append(frozenset(self._breached(sample)))
        waiting = self._waiting(sample, applied)
        self._queueing = self._queueing + 1 if waiting else 0
        calm = calm and not waiting and not any(self._breaches)
        return Verdict(
            tripped=self._tripped(),
            blind_s=self._blind_s,
            blind_to=blind_to,
            queueing=self._queueing >= _QUEUEING_TICKS and not self.draining,
            slow_dependency=self._cause.see(
                sample,
                calm=calm,
                size=None if applied is None else math.prod(n for _, n in applied.levels),
            ),
        )

    def _tripped(self) -> tuple[Reason, ...]:
        """The rules that k of the last n ticks broke."""
        counts: dict[Reason, int] = {}
        for breaches in self._breaches:
            for reason in breaches:
                counts[reason] = counts.get(reason, 0) + 1
        least = self._policy.guard.breach_ticks
        tripped = {reason for reason, n in counts.items() if n >= least}
        if any(sample.oom_kills for sample in self._recent):
            tripped.add(Reason.MEMORY_BREACH)  # a worker is dead already: one tick is enough
        return tuple(sorted(tripped))

    def _unseen(self, sample: Sample) -> tuple[str, ...]:
        """The signals that a rule of the policy needs and that this tick does not give."""
        unseen: list[str] = []
        if sample.throughput_rps is None:
            unseen.append("throughput_rps")
        if self._timed and sample.latency is None and sample.throughput_rps != 0.0:
            unseen.append("latency_s")
        if self._errors and sample.errors_rps is None:
            unseen.append("errors_rps")
        if sample.host_memory_used_bytes is None or sample.memory_limit_bytes is None:
            unseen.append("host_memory_used_bytes")
        unseen += [name for name, _ in self._ceilings if getattr(sample, name) is None]
        return tuple(unseen)

    def _breached(self, sample: Sample) -> Iterator[Reason]:
        """The rules that this tick breaks."""
        rule = self._policy.guard
        used, limit = sample.host_memory_used_bytes, sample.memory_limit_bytes
        if used is not None and limit and used > rule.memory_ratio * limit:
            yield Reason.MEMORY_BREACH
        if self._burns(sample):
            yield Reason.CPU_BREACH
        if any((getattr(sample, name) or 0.0) > limit for name, limit in self._ceilings):
            yield Reason.PRESSURE_BREACH
        for slo, allowed, seen in self._tallies:
            bad = total = 0.0
            for one in seen:
                if one is not None:
                    bad += one[0]
                    total += one[1]
            if beyond_chance(round(bad), round(total), allowed):
                failing = slo.response == "error_ratio"
                yield Reason.ERROR_BREACH if failing else Reason.SLO_BREACH
        for slo in self._policy.slo:
            if slo.response == "jitter_s" and self._unsteady(slo.below):
                yield Reason.SLO_BREACH

    def _burns(self, sample: Sample) -> bool:
        """The host's CPU is used up, and not mostly by others: a smaller pool would free it."""
        ratio, foreign = sample.host_cpu_ratio, sample.foreign_cpu_ratio
        if ratio is None or ratio <= self._policy.guard.cpu_ratio:
            return False
        return foreign is None or foreign <= ratio / 2.0

    def _unsteady(self, below_s: float) -> bool:
        """Whether the latencies of the last few ticks spread further than that, beyond chance."""
        seen = [s.latency for s in self._recent if s.latency is not None and s.latency.count]
        count = sum(one.count for one in seen)
        if count < 2:
            return False
        mean = math.fsum(one.total for one in seen) / count
        variance = math.fsum(one.total_squares for one in seen) / count - mean * mean
        if variance <= below_s * below_s:
            return False
        without, freedom = _without_largest(merged(seen))
        return min(variance, without) > below_s * below_s * _chance(freedom)

    def _waiting(self, sample: Sample, applied: Setting | None) -> bool:
        """Whether clients wait longer than they are served, or the queue is a pool long."""
        if sample.queue_length is None or applied is None:
            return False
        service = sample.service_time
        if service is not None and service.count and sample.queue_delay_s is not None:
            return sample.queue_delay_s > service.mean
        return sample.queue_length > max(level for _, level in applied.levels)


def _without_largest(sketch: Sketch) -> tuple[float, float]:
    """The variance of all values but the largest, and its degrees of freedom (1 or more).

    A breach must not rest on one request. Of n values with kurtosis k the variance of the sample
    variance is (k - 1) / n times its square, as of a chi-square with 2 n / (k - 1) degrees
    (O'Neill, "Some Useful Moment Results in Sampling Problems", The American Statistician 68,
    2014); n - 1 where values are normal, fewer where a few of them make up most of the variance.
    """
    largest = len(sketch.bins) - 1
    seen = [(bucket_value(index), n - (i == largest)) for i, (index, n) in enumerate(sketch.bins)]
    seen.append((0.0, sketch.zeros))
    count = sum(n for _, n in seen)
    mean = math.fsum(n * value for value, n in seen) / count
    variance = math.fsum(n * (value - mean) ** 2 for value, n in seen) / count
    if variance == 0.0:
        return 0.0, 1.0
    fourth = math.fsum(n * (value - mean) ** 4 for value, n in seen) / count
    kurtosis = max(3.0, fourth / (variance * variance))
    return variance, max(1.0, 2.0 * (count - 1) / (kurtosis - 1.0))


def _chance(freedom: float) -> float:
    """What a sample variance of 1 passes by chance in 5 %, with so many degrees of freedom.

    Wilson and Hilferty, "The distribution of chi-square", PNAS 17, 1931.
    """
    spread = 2.0 / (9.0 * freedom)
    return (1.0 - spread + _SPREAD * math.sqrt(spread)) ** 3
