"""Is this still the service that was learned? Restarts, deploys, and drift.

Drift is watched with a two-sided CUSUM (Page, "Continuous inspection schemes", Biometrika 1954) on
the standardised innovations of log latency and of the log of CPU per request: what a window showed
against what the plan expected of it, winsorised at 3. With k = 0.75 and h = 7 a shift of two
standard deviations is found in about five windows, at about two false alarms in a thousand. The
latency of a window in which a queue grew says how long it has grown, and is no sign of anything.

What follows from a change is its kind's: a new incarnation halves what was learned
(`core.reflexes`), a slow dependency is not learned at all, and drift leaves a sixteenth
(`core.learning`).
"""

import math
from dataclasses import dataclass

from poolwright.core.model import Applied, Estimate, Observation, Plan, Responses

_CUSUM_K = 0.75
_WINSOR = 3.0
_NEAR = 0.15  # a prediction speaks for loads within 15 %
_SHORT = 0.98  # of the load completed, and less: a queue grows
_LATENCY = "latency_p99_s"

Innovations = tuple[tuple[str, float], ...]  # (response, standard deviations off), sorted


@dataclass(frozen=True, slots=True)
class _Watch:
    """How a response is watched: no plan is trusted closer than `floor`, of its logarithm."""

    name: str  # for people
    floor: float
    limit: float  # h
    per_request: bool = False


_WATCHED = {
    "cpu_cores": _Watch("CPU per request", 0.10, 9.0, per_request=True),
    _LATENCY: _Watch("latency", 0.10, 7.0),
}


class Regime:
    """Watches the plant's incarnation and the plan's errors."""

    __slots__ = ("_epoch", "_sums")

    def __init__(self) -> None:
        """Start knowing no plant."""
        self._epoch: str | None = None
        self._sums: dict[str, tuple[float, float]] = {}  # upwards, downwards

    def restarted(self, applied: Applied | None) -> bool:
        """Whether the plant is another incarnation than in the tick before."""
        if applied is None:
            return False
        before, self._epoch = self._epoch, applied.epoch
        return before is not None and before != applied.epoch

    def innovations(self, seen: Observation, plan: Plan | None) -> Innovations:
        """How many standard deviations each watched response is off the plan, where it says."""
        load = seen.context.load_rps
        if plan is None or load is None or not plan.context.load_rps:
            return ()
        ratio = load / plan.context.load_rps
        if abs(ratio - 1.0) > _NEAR:
            return ()
        expected: Responses = next(
            (c.predictions for c in plan.candidates if c.setting == seen.setting), ()
        )
        found = []
        for name, guess in expected:
            watch, actual = _WATCHED.get(name), seen.response(name)
            if watch is None or actual is None or guess.mean <= 0.0 or actual.mean <= 0.0:
                continue
            if name == _LATENCY and _queue_grew(seen, load):
                continue
            scale = ratio if watch.per_request else 1.0
            found.append((name, _deviation(actual, guess, scale, watch.floor)))
        return tuple(found)

    def drifted(self, innovations: Innovations) -> str:
        """Feed a window's innovations. What has changed, for people; empty: nothing has."""
        for name, value in innovations:
            z = max(-_WINSOR, min(_WINSOR, value))
            up, down = self._sums.get(name, (0.0, 0.0))
            up, down = max(0.0, up + z - _CUSUM_K), max(0.0, down - z - _CUSUM_K)
            self._sums[name] = up, down
            if max(up, down) >= _WATCHED[name].limit:
                self.forget()
                return _WATCHED[name].name
        return ""

    def forget(self) -> None:
        """Start the sums again."""
        self._sums.clear()


def _queue_grew(seen: Observation, load_rps: float) -> bool:
    done = seen.response("throughput_rps")
    return done is not None and done.mean + 2.0 * done.std < _SHORT * load_rps


def _deviation(actual: Estimate, guess: Estimate, scale: float, floor: float) -> float:
    error = math.hypot(guess.std / guess.mean, actual.std / actual.mean, floor)
    return math.log(actual.mean / (scale * guess.mean)) / error
