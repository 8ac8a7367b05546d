"""The last day of every pool in memory, in three resolutions.

A slot of a level holds one bucket of time, found by its number modulo the number of slots; a slot
that holds another bucket is of an earlier turn and counts as empty. So nothing is ever moved, and
what is read back from the journal fits in beside what has come meanwhile.
"""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise

import msgspec
from msgspec import UNSET, UnsetType

from poolwright.surface.point import LEVELS, QUANTITIES, Point, UnixSeconds

STEPS = ((1, 960), (10, 390), (60, 1500))  # (seconds a bucket, buckets): 16 min, 65 min, 25 h
_WORST = frozenset({"latency_p95_s", "latency_p99_s"})  # a peak must not be averaged away
_DECIMALS = 6
_GAP_STEPS = 2.5  # longer without a bucket, and nothing is known of the time between

Row = Mapping[str, float]
Known = list[float | None]


class KnobHistory(msgspec.Struct, kw_only=True):
    """One knob's levels over time."""

    wanted: Known
    commanded: Known
    applied: Known


class HistoryAnswer(msgspec.Struct, kw_only=True):
    """Columns of equal length. null: not known. A row of nulls stands where nothing was seen.

    `time_s` is the beginning of a bucket of `step_s`. Of a bucket, latency p95 and p99 are the
    highest, levels the last, and everything else is the mean.
    """

    pool: str
    from_s: UnixSeconds
    to_s: UnixSeconds
    step_s: float
    time_s: list[UnixSeconds]
    wanted: Known
    commanded: Known
    applied: Known
    load_rps: Known
    latency_p50_s: Known
    latency_p95_s: Known
    latency_p99_s: Known
    jitter_s: Known
    cpu_cores: Known
    memory_bytes: Known
    power_w: Known
    error_ratio: Known
    knobs: dict[str, KnobHistory] | UnsetType = UNSET  # where there are several


def row_of(point: Point) -> dict[str, float]:
    """What is kept of a point, of it only what is known. Levels are named `knob.wanted`."""
    found = {name: getattr(point, name) for name in QUANTITIES}
    if point.knobs is UNSET:
        found |= {f".{level}": getattr(point, level) for level in LEVELS}
    else:
        for knob, levels in point.knobs.items():
            found |= {f"{knob}.{level}": getattr(levels, level) for level in LEVELS}
    return {name: value for name, value in found.items() if value is not None}


class Level:
    """Buckets of one length."""

    def __init__(self, step_s: int, slots: int) -> None:
        """Empty; a column takes its memory when it is first written to."""
        self.step_s = step_s
        self.buckets = array("q", [-1]) * slots
        self.columns: dict[str, array[float]] = {}
        self._filling = -1  # the bucket whose means are being made
        self._sums: dict[str, tuple[float, int]] = {}

    def put(self, time_s: float, row: Row) -> None:
        """Add one tick to its bucket."""
        bucket = int(time_s // self.step_s)
        slot = bucket % len(self.buckets)
        if bucket != self._filling:
            self._filling = bucket
            self._sums.clear()
            self._clear(bucket)
        for name, value in row.items():
            column = self._column(name)
            if name in _WORST:
                before = column[slot]
                column[slot] = value if math.isnan(before) else max(value, before)
            elif "." in name:
                column[slot] = value
            else:
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + value, count + 1
                column[slot] = (total + value) / (count + 1)

    def fill(self, buckets: Sequence[int], columns: Mapping[str, Sequence[float]]) -> None:
        """Add whole buckets of the past, where there is none."""
        places = [
            (at, bucket % len(self.buckets))
            for at, bucket in enumerate(buckets)
            if bucket > self.buckets[bucket % len(self.buckets)]
        ]
        for at, _ in places:
            self._clear(buckets[at])
        for name, values in columns.items():
            column = self._column(name)
            for at, slot in places:
                column[slot] = values[at]

    def kept(self, from_s: float, to_s: float) -> list[int]:
        """The buckets that are there of a span of time, ascending."""
        newest = max(self.buckets)
        last = min(int(to_s // self.step_s), newest)
        first = max(int(from_s // self.step_s), newest - len(self.buckets) + 1)
        size = len(self.buckets)
        return [
            bucket for bucket in range(first, last + 1) if self.buckets[bucket % size] == bucket
        ]

    def column(self, name: str, buckets: Iterable[int]) -> list[float]:
        """A column's values; NaN: not known."""
        column, size = self.columns.get(name), len(self.buckets)
        if column is None:
            return [math.nan for _ in buckets]
        return [round(column[bucket % size], _DECIMALS) for bucket in buckets]

    def _clear(self, bucket: int) -> None:
        slot = bucket % len(self.buckets)
        self.buckets[slot] = bucket
        for column in self.columns.values():
            column[slot] = math.nan

    def _column(self, name: str) -> "array[float]":
        if name not in self.columns:
            self.columns[name] = array("f", [math.nan]) * len(self.buckets)
        return self.columns[name]


class History:
    """One pool's last day."""

    def __init__(self) -> None:
        """Empty."""
        self.levels = tuple(Level(step_s, slots) for step_s, slots in STEPS)
        self.cadence_s = 1.0

    def put(self, time_s: float, row: Row) -> None:
        """One more tick."""
        for level in self.levels:
            level.put(time_s, row)

    def answer(
        self, pool: str, knobs: Sequence[str], from_s: float, to_s: float, most: int
    ) -> HistoryAnswer:
        """At most `most` rows of a span of time, in the finest resolution that reaches back to it.

        `knobs`: of the pool, the first one first.
        """
        level = self._reaching(from_s)
        buckets = level.kept(from_s, to_s)
        every = max(1, -(-(buckets[-1] - buckets[0] + 1) // most)) if buckets else 1
        groups = _grouped(buckets, every)
        step_s = float(level.step_s * every)
        gap_s = _GAP_STEPS * max(step_s, self.cadence_s)
        times = [float(group[0] * level.step_s) for group in groups]
        breaks = [at for at, (one, two) in enumerate(pairwise(times), 1) if two - one > gap_s]
        breaks = breaks[: most - len(times)]

        def column(name: str) -> Known:
            values = level.column(name, buckets)
            if every > 1:
                rest = iter(values)
                values = [_folded(name, [next(rest) for _ in group]) for group in groups]
            for at in reversed(breaks):
                values.insert(at, math.nan)
            return values  # type: ignore[return-value]  # NaN is written as null

        for at in reversed(breaks):
            times.insert(at, times[at - 1] + step_s)
        several = len(knobs) > 1
        levels = {
            knob: KnobHistory(
                **{name: column(f"{knob if several else ''}.{name}") for name in LEVELS}
            )
            for knob in knobs
        }
        first = levels[knobs[0]]
        return HistoryAnswer(
            pool=pool,
            from_s=from_s,
            to_s=to_s,
            step_s=step_s,
            time_s=times,
            **{name: getattr(first, name) for name in LEVELS},
            **{name: column(name) for name in QUANTITIES},
            knobs=levels if several else UNSET,
        )

    def _reaching(self, from_s: float) -> Level:
        """The finest level that reaches back so far."""
        for level in self.levels:
            if from_s >= (max(level.buckets) - len(level.buckets) + 1) * level.step_s:
                return level
        return self.levels[-1]


def _grouped(buckets: Sequence[int], every: int) -> list[list[int]]:
    """The buckets of each span of so many; a span with none of them is left out."""
    spans = groupby(buckets, key=lambda bucket: (bucket - buckets[0]) // every)
    return [list(group) for _, group in spans]


def _folded(name: str, values: Sequence[float]) -> float:
    """Several buckets' value as one."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan
    if name in _WORST:
        return max(known)
    return known[-1] if "." in name else round(sum(known) / len(known), _DECIMALS)
