"""How fast the error budget of the SLOs burns.

The burn rate is the share of bad requests over the share that the SLO allows: at 1 the budget is
used up exactly at the end of its period. The budget is said to burn when two windows both say so
(Google, "The Site Reliability Workbook", chapter "Alerting on SLOs", section 6, multiwindow): the
long one says that it matters, the short one that it is still going on, so that probing stops soon
after a breach begins and goes on soon after it ends.

Time is counted only while requests were seen: a quiet night or a broken sensor neither thins out
nor outlives what was seen before it.
"""

import math
from collections import deque

from poolwright.core.policy import Policy, Slo
from poolwright.core.sample import Sample
from poolwright.core.signals import quantile_of

_SPREAD = 1.645  # one-sided 95 %
_SHORT = 5  # windows; a twelfth of the long one, as the workbook has it
_LONG = 60
_LEAST_ALLOWED = 1e-6  # an SLO that allows nothing must not divide by zero


Tally = tuple[float, float]  # requests that broke an SLO, and all; not whole where rates are seen


def allowed_ratio(slo: Slo) -> float | None:
    """The share of requests that may be bad; None for an SLO that no single request can break."""
    quantile = quantile_of(slo.response)
    if quantile is not None:
        return max(_LEAST_ALLOWED, 1.0 - quantile)
    return max(_LEAST_ALLOWED, slo.below) if slo.response == "error_ratio" else None


def tally(sample: Sample, slo: Slo) -> Tally | None:
    """What this tick's requests say of an SLO that has an `allowed_ratio`; None: nothing."""
    if slo.response == "error_ratio":
        if sample.errors_rps is None or sample.throughput_rps is None:
            return None
        return sample.errors_rps * sample.dt_s, sample.throughput_rps * sample.dt_s
    if sample.latency is None:
        return None
    return sample.latency.above(slo.below), sample.latency.count


def beyond_chance(bad: float, total: float, allowed: float) -> bool:
    """Whether `bad` of `total` is more than a share `allowed` explains (one-sided 95 %, normal)."""
    return bad > total * allowed + _SPREAD * math.sqrt(total * allowed * (1.0 - allowed)) + 1.0


class ErrorBudget:
    """Watches how fast the error budget of a policy's SLOs is used up."""

    __slots__ = ("_most", "_rings", "_seen", "_slos")

    def __init__(self, policy: Policy) -> None:
        """Start with nothing seen."""
        found = ((slo, allowed_ratio(slo)) for slo in policy.slo)
        self._slos = tuple((slo, allowed) for slo, allowed in found if allowed is not None)
        self._rings = tuple(_Ring(policy.explore.window_s) for _ in self._slos)
        self._most = policy.explore.burn_rate
        self._seen: tuple[Sample, tuple[Tally | None, ...]] | None = None  # the last tick's tallies

    def see(self, sample: Sample) -> None:
        """Account for one tick."""
        for seen, ring in zip(self._tallies(sample), self._rings, strict=True):
            if seen is not None and seen[1] > 0.0:
                ring.add(*seen, sample.dt_s)

    @property
    def burning(self) -> bool:
        """Whether an SLO's budget burns faster than the policy allows, in both windows."""
        return any(
            all(beyond_chance(*seen, min(1.0, self._most * allowed)) for seen in ring.windows)
            for (_, allowed), ring in zip(self._slos, self._rings, strict=True)
        )

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """The burn rates of the short and of the long window; None: unknown.

        Of the worst SLO, which is the one whose slower window burns fastest: both must, to burn.
        """
        worst: tuple[float | None, float | None] = (None, None)
        for (_, allowed), ring in zip(self._slos, self._rings, strict=True):
            short, long = (bad / total / allowed if total else None for bad, total in ring.windows)
            if _slower(short, long) > _slower(*worst):
                worst = short, long
        return worst

    def spent_s(self, sample: Sample) -> float:
        """Seconds of error budget that this tick used: its burn rate times its length.

        What cannot be seen is taken to have cost what the SLO allows (burn rate 1), unless it is
        known that nobody asked for anything.
        """
        idle = sample.load_rps == 0.0 and not sample.queue_length
        pairs = zip(self._tallies(sample), self._slos, strict=True)
        rates = (_rate(seen, allowed, idle=idle) for seen, (_, allowed) in pairs)
        return max(rates, default=0.0) * sample.dt_s

    def _tallies(self, sample: Sample) -> tuple[Tally | None, ...]:
        """Of each SLO; counted once a tick, though it is asked for twice."""
        if self._seen is None or self._seen[0] is not sample:
            self._seen = sample, tuple(tally(sample, slo) for slo, _ in self._slos)
        return self._seen[1]


def _slower(short: float | None, long: float | None) -> float:
    """The slower of two burn rates; what is unknown is slower than all."""
    return -1.0 if short is None or long is None else min(short, long)


def _rate(seen: Tally | None, allowed: float, *, idle: bool) -> float:
    if seen is not None and seen[1] > 0.0:
        return seen[0] / seen[1] / allowed
    return 0.0 if idle else 1.0


class _Ring:
    """Bad and total requests over the last windows: whole ones, and the one that is open."""

    __slots__ = ("_bad", "_closed", "_long", "_open_s", "_short", "_span_s", "_total")

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._closed: deque[Tally] = deque(maxlen=_LONG)
        self._short = self._long = (0.0, 0.0)  # sums over what is closed
        self._bad = self._total = self._open_s = 0.0

    def add(self, bad: float, total: float, dt_s: float) -> None:
        """Account for `dt_s` seconds in which requests were seen."""
        self._bad += bad
        self._total += total
        self._open_s += dt_s
        if self._open_s < self._span_s:
            return
        self._closed.append((self._bad, self._total))
        self._bad = self._total = self._open_s = 0.0
        closed = tuple(self._closed)  # summed anew once a window: running sums drift
        self._short, self._long = _sum(closed[-_SHORT:]), _sum(closed)

    @property
    def windows(self) -> tuple[Tally, Tally]:
        """Bad and total requests of the short and of the long window."""
        (bad, total), (bad_long, total_long) = self._short, self._long
        return (
            (bad + self._bad, total + self._total),
            (bad_long + self._bad, total_long + self._total),
        )


def _sum(buckets: tuple[Tally, ...]) -> Tally:
    return math.fsum(b for b, _ in buckets), math.fsum(n for _, n in buckets)
