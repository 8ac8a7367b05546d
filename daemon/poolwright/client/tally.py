"""Seconds counted in the logarithmic buckets of `core.sketch`, from the start of the process on.

Counts are never reset: who reads them takes differences, so several may read, and a reader that
was away has lost nothing. `core.sketch` itself is not imported for it would bring `dataclasses`
into the application, a quarter of what the whole client weighs.
"""

from math import ceil, log

LOG_GAMMA = log(1.01 / 0.99)  # of core.sketch.GAMMA; a test compares the buckets of both
_SMALLEST_S = 1e-9
_LARGEST_S = 1e6  # so that there are at most 1,727 buckets


class Tally:
    """A distribution of seconds. One writer at a time; the caller's lock sees to it."""

    __slots__ = ("_bins", "_squares", "_total", "_zeros")

    def __init__(self) -> None:
        """Start empty."""
        self._bins: dict[int, int] = {}
        self._zeros = 0
        self._total = 0.0
        self._squares = 0.0

    def add(self, seconds: float) -> None:
        """Count one; below a nanosecond, and what a clock made negative, is zero."""
        if seconds < _SMALLEST_S:
            self._zeros += 1
            return
        seconds = min(seconds, _LARGEST_S)
        index = ceil(log(seconds) / LOG_GAMMA)
        bins = self._bins
        bins[index] = bins.get(index, 0) + 1
        self._total += seconds
        self._squares += seconds * seconds

    def told(self) -> dict[str, object]:
        """As it goes over the wire."""
        return {
            "bins": list(self._bins.items()),
            "zeros": self._zeros,
            "total": self._total,
            "squares": self._squares,
        }
