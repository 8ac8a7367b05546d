"""Budgets for probes: how many an hour, how much time away from the best known setting, and how
much of the SLO's error budget.

All are token buckets over an hour: full at the start, so that a new service can be learned, and
filled again at the policy's rate. What a probe took beyond what was left is owed, or the shares
would not hold: a probe that breaches badly may cost more than an hour's worth in seconds.
"""

from poolwright.core.policy import ExploreRule

_HOUR_S = 3600.0
_DEBT_HOURS = 24.0  # of income: one lie of a sensor must not end probing for good


class Bucket:
    """Tokens, filled evenly at `per_hour`, up to an hour's worth; below zero they are owed.

    It holds what one probe needs (`least`) even where that is more than an hour's worth: a small
    share means rare probes, and only a share of 0 means none.
    """

    __slots__ = ("_per_hour", "capacity", "tokens")

    def __init__(self, per_hour: float, *, least: float, left: float | None = None) -> None:
        """Start with `left`, or full."""
        self._per_hour = per_hour
        self.capacity = max(per_hour, least) if per_hour > 0.0 else 0.0
        self.tokens = self.capacity if left is None else min(self.capacity, left)

    def pass_time(self, dt_s: float) -> None:
        """Fill for `dt_s` seconds."""
        self.tokens = min(self.capacity, self.tokens + self._per_hour * dt_s / _HOUR_S)

    def spend(self, amount: float) -> None:
        """Take `amount`, at least zero."""
        self.tokens = max(-_DEBT_HOURS * self._per_hour, self.tokens - amount)


class Budget:
    """What may still be tried."""

    __slots__ = ("_probes", "_seconds", "_slo", "_window_s")

    def __init__(self, rule: ExploreRule, left: tuple[float, float, float] | None = None) -> None:
        """Start with what an earlier run left, or full."""
        probes, seconds, slo = (None, None, None) if left is None else left
        window_s = self._window_s = rule.window_s
        self._probes = Bucket(rule.probes_per_hour, least=1.0, left=probes)
        self._seconds = Bucket(rule.budget_ratio * _HOUR_S, least=window_s, left=seconds)
        self._slo = Bucket(rule.slo_budget_ratio * _HOUR_S, least=window_s, left=slo)

    def pass_time(self, dt_s: float, *, probing: bool, slo_s: float = 0.0) -> None:
        """Account for one tick, spent on a probe or not; `slo_s`: error budget that it used."""
        for bucket in (self._probes, self._seconds, self._slo):
            bucket.pass_time(dt_s)
        if probing:
            self._seconds.spend(dt_s)
            self._slo.spend(slo_s)

    def allows(self) -> bool:
        """Whether a probe of one window may begin that burns the error budget at rate 1."""
        return (
            self._probes.tokens >= 1.0
            and self._seconds.tokens >= self._window_s
            and self._slo.tokens >= self._window_s
        )

    @property
    def never(self) -> bool:
        """Whether the policy leaves nothing for probes, now or later."""
        return not all(b.capacity for b in (self._probes, self._seconds, self._slo))

    def spend(self) -> None:
        """A probe begins."""
        self._probes.spend(1.0)

    @property
    def left(self) -> tuple[float, float, float]:
        """Probes, seconds, and seconds of error budget left; negative: owed."""
        return self._probes.tokens, self._seconds.tokens, self._slo.tokens
