"""After a sudden fall in load nothing may shrink for a while: the clients may come back at once.

An outage in front of the service looks like a fall in load; a pool that follows it down is too
small for the retries that come when the outage ends (Netflix, "Scryer: Netflix's Predictive Auto
Scaling Engine", 2013: "a sudden drop in traffic ... is sometimes followed by a retry storm").

The mean of the last half minute stands against the median of what two minutes were like that ended
half a minute before it. A median, so that the end of a short burst is no fall; two minutes, so
that the slope of an evening (some per cent in two minutes) is none either. Time is counted only
while the load was known: what went down behind a blind spot counts as having fallen suddenly.
"""

import math
from collections import deque

from poolwright.core.policy import GuardRule

_BUCKET_S = 5.0
_RECENT = 6  # buckets
_GAP = 6
_BEFORE = 24
_SIGMAS = 3.0
_MEDIAN_VARIANCE = math.pi / 2.0  # of a median, against that of the mean of as many values
_BACK = 0.9  # of what the load was
_BACK_S = 300.0  # twice the longest pause of common clients between retries (gRPC: 120 s)


class Fall:
    """Watches the offered load for a sudden fall."""

    __slots__ = ("_back_s", "_before_rps", "_buckets", "_open", "_rule", "_unknown_s", "hold_s")

    def __init__(self, rule: GuardRule) -> None:
        """Start with nothing seen."""
        self._rule = rule
        self._buckets: deque[tuple[float, float]] = deque(maxlen=_RECENT + _GAP + _BEFORE)
        self._open = (0.0, 0.0)  # requests, seconds
        self._unknown_s = 0.0
        self._before_rps = 0.0
        self._back_s = 0.0
        self.hold_s = 0.0  # for so long nothing may shrink

    def see(self, load_rps: float | None, dt_s: float) -> None:
        """Account for one tick; `load_rps` None: not known."""
        self.hold_s = max(0.0, self.hold_s - dt_s)
        if load_rps is None:
            self._unknown_s += dt_s
            self._back_s = 0.0
            if self._unknown_s > self._rule.fall_hold_s:  # what fell then would be over by now
                self._buckets.clear()
                self._open = (0.0, 0.0)
            return
        self._unknown_s = 0.0
        requests, seconds = self._open[0] + load_rps * dt_s, self._open[1] + dt_s
        self._open = (requests, seconds)
        if seconds < _BUCKET_S:
            return
        self._buckets.append(self._open)
        self._open = (0.0, 0.0)
        self._judge()
        self._come_back(seconds)

    def _judge(self) -> None:
        """Begin to hold when the load has fallen further than chance explains."""
        if len(self._buckets) < _RECENT + _GAP + _BEFORE:
            return
        seen = list(self._buckets)
        recent, recent_s = _sum(seen[-_RECENT:])
        _, before_s = _sum(seen[:_BEFORE])
        rates = sorted(n / s for n, s in seen[:_BEFORE])
        before_rps = (rates[_BEFORE // 2 - 1] + rates[_BEFORE // 2]) / 2.0
        # Requests of a steady load are Poisson: the variance of a count is its mean.
        least = (1.0 - self._rule.fall_ratio) * before_rps * recent_s
        variance = least + least * least / max(before_rps * before_s, 1.0) * _MEDIAN_VARIANCE
        if recent >= least - _SIGMAS * math.sqrt(variance):
            return
        # A second fall is still one from what was there before the first.
        self._before_rps = max(before_rps, self._before_rps if self.hold_s > 0.0 else 0.0)
        self.hold_s = self._rule.fall_hold_s
        self._back_s = 0.0
        self._buckets.clear()  # the same fall counts once

    def _come_back(self, seconds: float) -> None:
        """End the hold when the load has long been what it was: those who retry are here."""
        if self.hold_s == 0.0 or len(self._buckets) < _RECENT:
            return
        recent, recent_s = _sum(list(self._buckets)[-_RECENT:])
        back = recent >= _BACK * self._before_rps * recent_s
        self._back_s = self._back_s + seconds if back else 0.0
        if self._back_s >= _BACK_S:
            self.hold_s = 0.0


def _sum(buckets: list[tuple[float, float]]) -> tuple[float, float]:
    return math.fsum(n for n, _ in buckets), math.fsum(s for _, s in buckets)
