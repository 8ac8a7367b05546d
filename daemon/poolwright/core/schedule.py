"""Following the plan as the load moves: grow at once, shrink slowly.

Two views of the load: a short mean, which only ever asks for growth, and the largest of the last
half minute, which is what a shrink must serve. A bin's edge has a band of hysteresis, so that
the noise of arrivals does not move a pool to and fro.
"""

from collections import deque

from poolwright.core.model import Plan, PlanBin, Setting

_SHORT_TICKS = 5
_LONG_TICKS = 30
_SMOOTHING = 0.1
_SURGE = 1.2  # a short mean so far above the smooth one is growth, not noise
_EDGE = 0.05  # hysteresis at the edges of a bin, as a share of the load


class Schedule:
    """Remembers recent loads and the bin it is in."""

    __slots__ = ("_bin", "_loads", "_smooth")

    def __init__(self) -> None:
        """Start without loads."""
        self._loads: deque[float] = deque(maxlen=_LONG_TICKS)
        self._smooth: float | None = None
        self._bin: tuple[int, int] | None = None  # (plan version, index)

    def see(self, load_rps: float | None) -> None:
        """Take the load of one tick; an unknown load is skipped, never counted as zero."""
        if load_rps is None:
            return
        self._loads.append(load_rps)
        if self._smooth is None:
            self._smooth = load_rps
        else:
            self._smooth += _SMOOTHING * (load_rps - self._smooth)

    @property
    def load_rps(self) -> float | None:
        """The load to plan for: the smooth mean, or the short one when it surges."""
        if self._smooth is None:
            return None
        short = list(self._loads)[-_SHORT_TICKS:]
        mean = sum(short) / len(short)
        return mean if mean > _SURGE * self._smooth else self._smooth

    def entry(self, plan: Plan | None) -> PlanBin | None:
        """The plan's bin for the present load; its nearest end outside the loads it covers."""
        load = self.load_rps
        if plan is None or not plan.schedule or load is None:
            return None
        bins = plan.schedule
        held = self._bin
        if held is not None and held[0] == plan.version:
            present = bins[held[1]]
            low, high = present.load_lower_rps, present.load_upper_rps
            if low * (1.0 - _EDGE) <= load < high * (1.0 + _EDGE):
                return present
        index = sum(1 for b in bins[:-1] if load >= b.load_upper_rps)
        self._bin = (plan.version, index)
        return bins[index]

    def wanted(self, plan: Plan | None, current: Setting) -> PlanBin | None:
        """The bin whose setting should be held now; None when the plan is silent.

        A smaller setting than the current one is returned only when it also serves the largest
        load of the last half minute.
        """
        entry = self.entry(plan)
        if entry is None or plan is None or not _shrinks(entry.setting, current):
            return entry
        peak = max(self._peaks(), default=0.0)
        if peak >= (1.0 + _EDGE) * plan.schedule[-1].load_upper_rps:
            return None  # more than it has seen: what would be enough for that is not known
        for candidate in plan.schedule:
            if peak < candidate.load_upper_rps or candidate is plan.schedule[-1]:
                return candidate if _shrinks(candidate.setting, current) else None
        return entry

    def _peaks(self) -> list[float]:
        """Means of five ticks over the long memory: single ticks are mostly arrival noise."""
        loads = list(self._loads)
        n = _SHORT_TICKS
        return [sum(loads[i : i + n]) / n for i in range(max(0, len(loads) - n + 1))]


def _shrinks(wanted: Setting, current: Setting) -> bool:
    return any(wanted[name] < level for name, level in current.levels)
