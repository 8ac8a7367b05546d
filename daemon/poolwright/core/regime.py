"""Is this still the service that was learned? Restarts, deploys, and drift.

Drift is watched with a two-sided CUSUM (Page, "Continuous inspection schemes", Biometrika 1954) on
the standardised innovation of log latency: what a window showed against what the plan expected of
it, winsorised at 3. With k = 0.75 and h = 7 a shift of two standard deviations is found in about
five windows, at about two false alarms in a thousand.
"""

import math

from poolwright.core.model import Applied, Observation, Plan

_CUSUM_K = 0.75
_CUSUM_H = 7.0
_WINSOR = 3.0
_NEAR = 0.15  # a prediction speaks for loads within 15 %
_RESPONSE = "latency_p99_s"
_FLOOR = 0.10  # of log latency: no plan is trusted closer than this


class Regime:
    """Watches the plant's incarnation and the plan's errors."""

    __slots__ = ("_down", "_epoch", "_up")

    def __init__(self) -> None:
        """Start knowing no plant."""
        self._epoch: str | None = None
        self._up = 0.0
        self._down = 0.0

    def restarted(self, applied: Applied | None) -> bool:
        """Whether the plant is another incarnation than in the tick before."""
        if applied is None:
            return False
        before, self._epoch = self._epoch, applied.epoch
        return before is not None and before != applied.epoch

    def innovation(self, seen: Observation, plan: Plan | None) -> float | None:
        """How many standard deviations log latency is off the plan; None when it does not say."""
        load = seen.context.load_rps
        actual = seen.response(_RESPONSE)
        if plan is None or actual is None or load is None or plan.context.load_rps is None:
            return None
        if abs(load / max(plan.context.load_rps, 1e-9) - 1.0) > _NEAR or actual.mean <= 0.0:
            return None
        for candidate in plan.candidates:
            if candidate.setting == seen.setting:
                expected = dict(candidate.predictions).get(_RESPONSE)
                if expected is None or expected.mean <= 0.0:
                    return None
                error = math.hypot(expected.std / expected.mean, actual.std / actual.mean, _FLOOR)
                return math.log(actual.mean / expected.mean) / error
        return None

    def drifted(self, innovation: float | None) -> bool:
        """Feed one innovation; True when the sum of them says that the service has changed."""
        if innovation is None:
            return False
        z = max(-_WINSOR, min(_WINSOR, innovation))
        self._up = max(0.0, self._up + z - _CUSUM_K)
        self._down = max(0.0, self._down - z - _CUSUM_K)
        if max(self._up, self._down) < _CUSUM_H:
            return False
        self.forget()
        return True

    def forget(self) -> None:
        """Start the sums again."""
        self._up = self._down = 0.0
