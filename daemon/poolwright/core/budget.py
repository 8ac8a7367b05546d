"""Budgets for probes: how many an hour, and how much time away from the best known setting.

Both are token buckets over an hour: full at the start, so that a new service can be learned, and
filled again at the policy's rate.
"""

from poolwright.core.policy import ExploreRule

_HOUR_S = 3600.0


class Bucket:
    """Tokens up to `capacity`, filled evenly over an hour."""

    __slots__ = ("capacity", "tokens")

    def __init__(self, capacity: float) -> None:
        """Start full."""
        self.capacity = capacity
        self.tokens = capacity

    def pass_time(self, dt_s: float) -> None:
        """Fill for `dt_s` seconds."""
        self.tokens = min(self.capacity, self.tokens + self.capacity * dt_s / _HOUR_S)


class Budget:
    """What may still be tried."""

    __slots__ = ("_probes", "_seconds", "_window_s")

    def __init__(self, rule: ExploreRule) -> None:
        """Start with an hour's worth."""
        self._probes = Bucket(rule.probes_per_hour)
        self._seconds = Bucket(rule.budget_ratio * _HOUR_S)
        self._window_s = rule.window_s

    def pass_time(self, dt_s: float, *, probing: bool) -> None:
        """Account for one tick, spent on a probe or not."""
        self._probes.pass_time(dt_s)
        self._seconds.pass_time(dt_s)
        if probing:
            self._seconds.tokens = max(0.0, self._seconds.tokens - dt_s)

    def allows(self) -> bool:
        """Whether a probe of one window may begin."""
        return self._probes.tokens >= 1.0 and self._seconds.tokens >= self._window_s

    def spend(self) -> None:
        """A probe begins."""
        self._probes.tokens -= 1.0

    @property
    def left(self) -> tuple[float, float]:
        """Probes and seconds left."""
        return self._probes.tokens, self._seconds.tokens
