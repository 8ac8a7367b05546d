"""A mergeable quantile sketch: logarithmic buckets with a bounded relative error.

DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", VLDB 2019), section 2: with gamma = (1 + a) / (1 - a), a value x > 0
falls in bucket ceil(log_gamma x), whose midpoint 2 gamma^i / (gamma + 1) is within a of x.

A Sketch is a value: what a sensor saw in one tick travels in a Reading, is journalled, and is
merged by the core into windows of any length. Negative values are refused: every quantity that
poolwright sketches (a latency, a queue length) is at least zero.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter

RELATIVE_ERROR = 0.01
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(GAMMA)
_SMALLEST = 1e-9  # below a nanosecond a latency is zero
_SECOND: Callable[[tuple[int, int]], int] = itemgetter(1)  # a third faster than a generator


class _Counted:
    _count: int
    __slots__ = ("_count",)  # of a Sketch, when it has been asked for: it is, twenty times a tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch(_Counted):
    """Counts in logarithmic buckets: `bins` is sorted by bucket index; `zeros` counts zeros."""

    bins: tuple[tuple[int, int], ...] = ()
    zeros: int = 0
    total: float = 0.0
    total_squares: float = 0.0

    @property
    def count(self) -> int:
        """How many values were seen."""
        try:
            return self._count
        except AttributeError:
            count = self.zeros + _times(self.bins)
            object.__setattr__(self, "_count", count)
            return count

    @property
    def mean(self) -> float:
        """The arithmetic mean, exact. Raises ValueError when empty."""
        count = self.count
        if count == 0:
            raise ValueError("an empty sketch has no mean")
        return self.total / count

    @property
    def std(self) -> float:
        """The population standard deviation, exact up to rounding. Raises ValueError when empty."""
        mean = self.mean
        return math.sqrt(max(0.0, self.total_squares / self.count - mean * mean))

    def quantile(self, q: float) -> float:
        """The value below which a share `q` (0..1) of the values lies; ValueError when empty."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile lies in 0..1, not {q}")
        count = self.count
        if count == 0:
            raise ValueError("an empty sketch has no quantile")
        rank = q * (count - 1)
        below = count
        for index, n in reversed(self.bins):  # from the top: tails are what is asked for
            below -= n
            if rank >= below:
                return bucket_value(index)
        return 0.0

    def above(self, threshold: float) -> int:
        """How many values exceed `threshold`, to the sketch's relative error."""
        first = bisect_left(self.bins, (_first_above(threshold),))
        return _times(self.bins[first:])


def _times(bins: tuple[tuple[int, int], ...]) -> int:
    """How many values are in the bins."""
    return sum(map(_SECOND, bins))


def bucket_index(value: float) -> int:
    """The bucket of a positive value."""
    return math.ceil(math.log(value) / _LOG_GAMMA)


def bucket_value(index: int) -> float:
    """The midpoint of a bucket, in the unit of the sketched values."""
    return 2.0 * math.exp(index * _LOG_GAMMA) / (GAMMA + 1.0)


def _first_above(threshold: float) -> int:
    """The lowest bucket that a value can fall in whose midpoint is above `threshold`."""
    if threshold <= _SMALLEST:
        index = bucket_index(_SMALLEST) - 1
    else:
        index = math.floor(math.log(threshold * (GAMMA + 1.0) / 2.0) / _LOG_GAMMA)
    while bucket_value(index) <= threshold:
        index += 1
    return index


class SketchBuilder:
    """Accumulates values, then freezes them into a Sketch. Used by sensors and in merges."""

    __slots__ = ("_bins", "total", "total_squares", "zeros")

    def __init__(self) -> None:
        """Start empty."""
        self._bins: dict[int, int] = {}
        self.zeros = 0
        self.total = 0.0
        self.total_squares = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count `value` (finite, at least zero; else ValueError) `times` times."""
        if not (0.0 <= value < math.inf):
            raise ValueError(f"a sketch holds finite values of at least zero, not {value}")
        if value < _SMALLEST:
            self.zeros += times
            return
        index = bucket_index(value)
        self._bins[index] = self._bins.get(index, 0) + times
        self.total += value * times
        self.total_squares += value * value * times

    def merge(self, sketch: Sketch) -> None:
        """Add everything that `sketch` saw."""
        for index, n in sketch.bins:
            self._bins[index] = self._bins.get(index, 0) + n
        self.zeros += sketch.zeros
        self.total += sketch.total
        self.total_squares += sketch.total_squares

    def freeze(self) -> Sketch:
        """The sketch of everything added so far; the builder may go on."""
        return Sketch(
            bins=tuple(sorted(self._bins.items())),
            zeros=self.zeros,
            total=self.total,
            total_squares=self.total_squares,
        )


def sketch_of(values: Iterable[float]) -> Sketch:
    """The sketch of `values`, each finite and at least zero."""
    builder = SketchBuilder()
    for value in values:
        builder.add(value)
    return builder.freeze()


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """The sketch of everything that any of `sketches` saw."""
    builder = SketchBuilder()
    for sketch in sketches:
        builder.merge(sketch)
    return builder.freeze()
