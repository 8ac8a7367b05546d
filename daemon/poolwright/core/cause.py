"""Tells a slow dependency from an overload of our own: the first is not cured by workers.

When what a service calls is slow, its requests take longer without using more CPU, on a host that
is not busy and without more being served. Then growing only sends more to what is slow already.
Which it is shows against what is normal, so what is normal must be learned, and only in calm:

- while requests take suspiciously long nothing is learned, or a long incident becomes the baseline
  (as with the limiters of failsafe-go, issue 127, and Envoy, pull request 11579);
- what lasts for half an hour is no incident but how the service is now, after a deploy say: the
  old normal is forgotten, and learned anew from the next calm on.

Workers that wait for a lock of their own look the same. So a slowness that begins after growth is
put down to the growth, and not to a dependency, until the pool is back at its size of before, or
has been calm for a minute at this one.

Where anything needed is unknown the answer is no: the other rules act as if this one did not exist.
"""

import math
from collections import deque

from poolwright.core.policy import GuardRule
from poolwright.core.sample import Sample

_FLAT = 1.2  # times normal: CPU per request, and throughput
_CPU_SHARE = 0.1  # of the time that a request takes longer; less is not what makes it slow
_BLOCKED_CPU = 0.5  # of the pool's normal CPU, at most, in a pool that is blocked
_BLOCKED_REQUESTS = 5.0  # that normally complete in the time in which none did: chance is e^-5
_BUSY_CPU = 0.9  # of the host: requests may be slow because they share it
_FAILING = 0.05  # of requests: failures are fast, and would make everything else look slow
_SPREAD = 1.645  # one-sided 95 %
_LATELY_S = 120.0  # time constants: of what is suspicious ...
_NORMAL_S = 1800.0  # ... and of what is normal
_NEW_NORMAL_S = 1800.0
_LEARNED_S = 60.0
_LEARNED_REQUESTS = 50.0


class _Sums:
    """What a pool did over some time, the past fading."""

    __slots__ = ("cpu_s", "requests", "service_s", "span_s", "squares", "timed")

    def __init__(self) -> None:
        self.span_s = self.requests = self.cpu_s = 0.0
        self.timed = self.service_s = self.squares = 0.0  # of requests whose service time was seen

    def add(self, tick: "_Sums", keep: float) -> None:
        """One more tick, with a share `keep` left of what was."""
        self.span_s = keep * self.span_s + tick.span_s
        self.requests = keep * self.requests + tick.requests
        self.cpu_s = keep * self.cpu_s + tick.cpu_s
        self.timed = keep * self.timed + tick.timed
        self.service_s = keep * self.service_s + tick.service_s
        self.squares = keep * self.squares + tick.squares

    def longer(self, than_s: float) -> bool:
        """Whether requests take longer than that on average, beyond chance."""
        if self.timed < 1.0:
            return False
        mean = self.service_s / self.timed
        variance = max(0.0, self.squares / self.timed - mean * mean)
        return mean - _SPREAD * math.sqrt(variance / self.timed) > than_s


class Cause:
    """Learns what is normal of one plant, and says when a dependency is slow."""

    __slots__ = (
        "_before", "_calm_s", "_keep", "_lately", "_normal", "_now", "_odd_s", "_rule", "_silent_s",
        "_size", "_slow",
    )  # fmt: skip

    def __init__(self, rule: GuardRule) -> None:
        """Start without a normal: nothing is called slow until one was learned."""
        self._rule = rule
        self._keep = 1.0 - 1.0 / rule.breach_of_ticks
        self._slow: deque[bool] = deque(maxlen=rule.breach_of_ticks)
        self.forget()

    def forget(self) -> None:
        """The plant restarted: what was normal may not be any more."""
        self._normal, self._lately, self._now = _Sums(), _Sums(), _Sums()
        self._odd_s = 0.0  # for so long requests have taken suspiciously long
        self._silent_s = 0.0  # for so long none has completed
        self._size: float | None = None  # of the pool
        self._before: float | None = None  # ... when it grew, while that is to blame
        self._calm_s = 0.0  # since then
        self._slow.clear()

    def see(self, sample: Sample, *, calm: bool, size: float | None = None) -> bool:
        """Whether what we see is a slow dependency, k of n ticks; `calm`: settled, no breach.

        `size`: how much the pool can do at once, the product of its levels; None: unknown.
        """
        self._grow(size)
        tick = _sums_of(sample)
        if tick is None:
            self._slow.append(False)
            return False
        self._now.add(tick, self._keep)
        self._lately.add(tick, math.exp(-tick.span_s / _LATELY_S))
        self._silent_s = 0.0 if tick.requests else self._silent_s + tick.span_s
        blocked = odd = False
        if self._known:
            blocked = self._blocked(sample)
            odd = blocked or self._lately.longer(self._service_s(self._rule.dependency_ratio**0.5))
            slow = blocked or (self._before is None and self._longer(tick) and self._flat)
            self._slow.append(slow and self._room(sample))
        self._odd_s = self._odd_s + tick.span_s if odd else 0.0
        if self._odd_s >= _NEW_NORMAL_S:
            self.forget()
        elif calm and not odd and tick.requests and not _failing(sample):
            self._normal.add(tick, math.exp(-tick.span_s / _NORMAL_S))
            self._calm_s += tick.span_s
            if self._calm_s >= _LEARNED_S:
                self._before = None
        return sum(self._slow) >= self._rule.breach_ticks

    def _grow(self, size: float | None) -> None:
        """Note a change of size; growth is to blame for what begins after it."""
        if size is None:
            return
        if self._size is not None and size > self._size and not (self._odd_s or any(self._slow)):
            self._before = self._size if self._before is None else self._before
            self._calm_s = 0.0
        elif self._before is not None and size <= self._before:
            self._before = None
        self._size = size

    @property
    def _known(self) -> bool:
        """Whether enough was seen to say what is normal."""
        normal = self._normal
        return normal.span_s >= _LEARNED_S and normal.timed >= _LEARNED_REQUESTS

    def _service_s(self, ratio: float) -> float:
        """So many times the normal service time."""
        return ratio * self._normal.service_s / self._normal.timed

    def _longer(self, tick: _Sums) -> bool:
        """Whether requests take too long, and in this very tick too: one pause is no trend.

        Many requests of one tick are evidence enough, which is as soon as they begin to queue; of
        few, those of the last ticks have to help.
        """
        bound_s = self._service_s(self._rule.dependency_ratio)
        if tick.timed and tick.service_s <= bound_s * tick.timed:
            return False
        return tick.longer(bound_s) or self._now.longer(bound_s)

    @property
    def _flat(self) -> bool:
        """Whether CPU is not what makes requests slow.

        The second way is for a pool that is all but blocked: the few requests that complete carry
        the CPU that it uses when idle.
        """
        now, normal = self._now, self._normal
        if now.requests <= 0.0:
            return False
        each_s, normal_s = now.cpu_s / now.requests, normal.cpu_s / normal.requests
        longer_s = now.service_s / now.timed - self._service_s(1.0)
        return each_s < _FLAT * normal_s or each_s - normal_s < _CPU_SHARE * longer_s

    def _blocked(self, sample: Sample) -> bool:
        """Whether clients wait, nothing completes any more, and the pool's CPU has little to do."""
        assert sample.cpu_cores is not None
        normal = self._normal
        return (
            bool(sample.queue_length)
            and self._silent_s * normal.requests >= _BLOCKED_REQUESTS * normal.span_s
            and sample.cpu_cores * normal.span_s < _BLOCKED_CPU * normal.cpu_s
        )

    def _room(self, sample: Sample) -> bool:
        """Whether the host has CPU left, and no more is served than normally."""
        if sample.host_cpu_ratio is None or sample.host_cpu_ratio > _BUSY_CPU:
            return False
        now, normal = self._now, self._normal
        return now.requests * normal.span_s <= _FLAT * normal.requests * now.span_s


def _sums_of(sample: Sample) -> _Sums | None:
    """One tick; None unless throughput, CPU and service times of its requests are known."""
    if sample.throughput_rps is None or sample.cpu_cores is None or sample.dt_s <= 0.0:
        return None
    service = sample.service_time
    if service is None and sample.throughput_rps > 0.0:
        return None
    tick = _Sums()
    tick.span_s = sample.dt_s
    tick.requests = sample.throughput_rps * sample.dt_s
    tick.cpu_s = sample.cpu_cores * sample.dt_s
    if service is not None:
        tick.timed, tick.service_s = float(service.count), service.total
        tick.squares = service.total_squares
    return tick


def _failing(sample: Sample) -> bool:
    """Whether more than a few requests fail, or errors are watched and not seen."""
    if sample.errors_rps is None:
        return "errors_rps" in sample.missing
    return sample.errors_rps > _FAILING * (sample.throughput_rps or 0.0)
