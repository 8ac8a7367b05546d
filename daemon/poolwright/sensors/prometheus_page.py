"""A page of Prometheus text or OpenMetrics: what is wanted of it, and how counters grew.

Only the wanted families are handed to the parsers of prometheus_client; the rest of a page of
megabytes is passed over by a byte search as it streams in, and never held.
"""

import math
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from poolwright.core.sketch import Sketch, SketchBuilder

MOST_LINES = 5_000  # wanted lines on one page; the parsers need about 14 us a line
MOST_LINE_BYTES = 1 << 20
MOST_GAP_S = 60.0  # a difference over a longer gap is history, not a tick
_TYPE = b"# TYPE "
_NAME = re.compile(rb"(?:# TYPE )?([a-zA-Z_:][a-zA-Z0-9_:]*)(?=[ \t{])")
_POINTS = 20  # into which a bucket is spread: finer than the sketch for bounds 1.5 apart
_MOST_COUNT = 2**53  # whole numbers above are not exact in a float
_FLAPPING = 3  # resets within the last ten scrapes

Labels = tuple[tuple[str, str], ...]


class PageError(ValueError):
    """A page that cannot be believed; the message says why."""


class Sieve:
    """Keeps the lines of wanted families out of a page that comes in chunks of any size."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.encode() for name in names)
        starts = sorted(self._names | {_TYPE + name for name in self._names})
        # a longer start is found by its own beginning
        self._starts = [
            b"\n" + one for one in starts if not any(one != s and one.startswith(s) for s in starts)
        ]
        self._kept: list[bytes] = []
        self._rest = b""
        self._last = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the page. Raises PageError when too much of it is wanted."""
        end = chunk.rfind(b"\n")
        if end < 0:
            self._rest += chunk
            if len(self._rest) > MOST_LINE_BYTES:
                raise PageError(f"a line is longer than {MOST_LINE_BYTES} bytes")
            return
        block = b"\n" + self._rest + chunk[: end + 1]
        self._rest = chunk[end + 1 :]
        self._last = block[block.rfind(b"\n", 0, -1) + 1 :]
        found: dict[int, bytes] = {}
        for start in self._starts:
            at = block.find(start)
            while at >= 0:
                stop = block.index(b"\n", at + 1)
                named = _NAME.match(block, at + 1, stop)
                if named is not None and named[1] in self._names:
                    found[at] = block[at + 1 : stop]
                at = block.find(start, stop)
        self._kept.extend(found[at] for at in sorted(found))
        if len(self._kept) > MOST_LINES:
            raise PageError(f"over {MOST_LINES} lines of the wanted metrics: expose fewer series")

    def families(self, *, openmetrics: bool) -> list[Metric]:
        """The wanted families, once the page is whole. Raises PageError."""
        if openmetrics:
            if self._rest != b"# EOF" and (self._rest or self._last != b"# EOF\n"):
                raise PageError("the page is cut: it does not end in # EOF")
        elif self._rest or not self._last:
            raise PageError("the page is empty or cut: its last line does not end")
        text = b"".join(line + b"\n" for line in self._kept)
        try:
            if openmetrics:
                page = text.decode() + "# EOF\n"
                return list(parse_openmetrics(page))  # type: ignore[no-untyped-call]
            return list(parse_text(text.decode()))
        except Exception as exc:  # the parsers raise many kinds on garbage
            raise PageError(f"cannot be parsed: {type(exc).__name__}: {exc}"[:200]) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What one series, or the series of one histogram, counted: since its start or since a scrape.

    `counts` never fall but at a restart: one count, or cumulative buckets with the upper `bounds`.
    """

    counts: tuple[float, ...]
    bounds: tuple[float, ...] = ()
    total: float | None = None  # the _sum
    created: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What was counted between two scrapes."""

    elapsed_s: float
    series: tuple[Series, ...]
    restarted: bool  # so that what was counted just before the restart is not in it


class Counters:
    """Differences between scrapes, with restarts, and series that come and go.

    A count that fell, other buckets, or another `_created` time is a restart: the series counted
    from zero. A series never seen before was created since the last scrape and counts from zero
    as well. One that vanishes is remembered for `MOST_GAP_S`, so that it may come back.
    """

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._known: dict[Labels, tuple[int, Series]] = {}
        self._restarts: deque[bool] = deque(maxlen=10)

    def advance(self, current: Mapping[Labels, Series], now_ns: int) -> Growth | None:
        """The growth since the last scrape, None at the first and after a gap of `MOST_GAP_S`."""
        last_ns = self._last_ns
        if last_ns is not None and now_ns <= last_ns:
            return None
        known = self._known
        fresh = last_ns is None or now_ns - last_ns > MOST_GAP_S * 1e9
        grown = [_grown(known[key][1] if key in known else None, s) for key, s in current.items()]
        restarted = any(again for _, again in grown)
        self._last_ns = now_ns
        self._known = {
            key: one
            for key, one in known.items()
            if not restarted and now_ns - one[0] <= MOST_GAP_S * 1e9
        } | {key: (now_ns, one) for key, one in current.items()}
        if fresh or last_ns is None:
            return None
        self._restarts.append(restarted)
        return Growth(
            elapsed_s=(now_ns - last_ns) / 1e9,
            series=tuple(one for one, _ in grown),
            restarted=restarted,
        )

    @property
    def flapping(self) -> bool:
        """Whether counts fall again and again: several processes answer in turn at one endpoint."""
        return sum(self._restarts) >= _FLAPPING


def _grown(before: Series | None, now: Series) -> tuple[Series, bool]:
    """What `now` counted since `before`, and whether it started again in between."""
    if before is None:
        return now, False
    if (
        before.bounds != now.bounds
        or before.created != now.created
        or any(new < old for new, old in zip(now.counts, before.counts, strict=True))
    ):
        return now, True
    total = None
    if now.total is not None and before.total is not None:
        total = now.total - before.total
    counts = tuple(new - old for new, old in zip(now.counts, before.counts, strict=True))
    return replace(now, counts=counts, total=total), False


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A histogram's growth as a distribution. `beyond`: how many lie above the highest bound."""

    count: int
    beyond: int
    mean: float | None  # exact when the histogram has a _sum
    sketch: Sketch | None


def spread(grown: Iterable[Series], scale: float) -> Spread:
    """The distribution of what histograms counted, values times `scale` (to seconds).

    Values are laid evenly into each bucket, as Prometheus' histogram_quantile assumes; those above
    the highest finite bound are put at it. Raises PageError for buckets that are not cumulative,
    not whole numbers, or below zero.
    """
    builder = SketchBuilder()
    count = beyond = 0
    total: float | None = 0.0
    for one in grown:
        within, above = _lay_all(builder, one, scale)
        count += within + above
        beyond += above
        total = None if total is None or one.total is None else total + one.total
    if count == 0:
        return Spread(count=0, beyond=0, mean=None, sketch=None)
    sketch = builder.freeze()
    if not math.isfinite(sketch.total_squares):
        raise PageError("the buckets reach beyond reason")
    whole = sketch.count == count  # false when a histogram has no finite bucket
    if total is None or not 0.0 <= total * scale < math.inf:
        mean = sketch.mean if whole else None
        return Spread(count=count, beyond=beyond, mean=mean, sketch=sketch if whole else None)
    mean = total * scale / count
    if not whole:
        return Spread(count=count, beyond=beyond, mean=mean, sketch=None)
    # the exact mean, and the deviation within the buckets
    squares = count * (sketch.std * sketch.std + mean * mean)
    if not math.isfinite(squares):
        raise PageError("the _sum reaches beyond reason")
    sketch = replace(sketch, total=mean * count, total_squares=squares)
    return Spread(count=count, beyond=beyond, mean=mean, sketch=sketch)


def _lay_all(builder: SketchBuilder, one: Series, scale: float) -> tuple[int, int]:
    """Add one histogram's values; how many lie in finite buckets, and how many above."""
    below, lower = 0, 0.0
    for upper, cumulative in zip(one.bounds, one.counts, strict=True):
        times = round(cumulative) - below
        if times < 0 or cumulative != round(cumulative) or cumulative > _MOST_COUNT:
            raise PageError(f"the bucket le={upper} is not a cumulative count")
        if math.isinf(upper):
            if len(one.bounds) > 1:
                builder.add(lower * scale, times)
            return below, times
        if times:
            if upper < 0:
                raise PageError(f"a duration below zero in the bucket le={upper}")
            _lay(builder, lower * scale, upper * scale, times)
        below, lower = round(cumulative), max(0.0, upper)
    raise PageError("the bucket le=+Inf is missing")


def _lay(builder: SketchBuilder, lower: float, upper: float, times: int) -> None:
    points = min(times, _POINTS)
    each, more = divmod(times, points)
    for i in range(points):
        builder.add(lower + (upper - lower) * (i + 0.5) / points, each + (i < more))
