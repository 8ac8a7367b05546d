"""How many requests a second come to a simulated service, and what each costs, over time.

A Load gives the mean rate; the plant makes a Poisson process of it. In YAML each is a mapping with
a `kind`: `{kind: step, before: 50/s, after: 200/s, at: 10m}`.
"""

import csv
import functools
import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from poolwright.core.errors import PolicyError
from poolwright.core.units import PathText, Rps, Seconds
from poolwright.sim.kinds import bind_kind

TRACES = {
    "worldcup98": "worldcup98_1min_14d.csv",
    "aws_elb": "aws_elb_requests_5min_14d.csv",
    "azure_llm": "azure_llm_conv_2023_1s_1h.csv",
}


def _doc(text: str, **rules: Any) -> dict[str, Any]:
    """Metadata of a field: its description, and what `policy.bind` checks."""
    return {"doc": text, **rules}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests a second over time. Times are seconds after the start of the simulation."""

    kind: ClassVar[str] = ""

    @abstractmethod
    def rate(self, at_s: float) -> float:
        """Mean requests a second at `at_s`; never negative."""
        raise NotImplementedError

    def cost(self, at_s: float) -> float:  # noqa: ARG002
        """What a request costs at `at_s`, as a multiple of the usual."""
        return 1.0

    @classmethod
    def bind_node(cls, node: Any, binder: Any, where: str) -> Any:
        """The load of the `kind` that a mapping names."""
        return bind_kind(node, binder, where, LOADS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(Load):
    """Always the same."""

    kind: ClassVar[str] = "constant"
    rps: Rps = field(default=50.0, metadata=_doc("the rate"))

    def rate(self, at_s: float) -> float:  # noqa: ARG002
        """The rate."""
        return self.rps


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Load):
    """From one rate to another at once."""

    kind: ClassVar[str] = "step"
    before: Rps = field(metadata=_doc("the rate at first"))
    after: Rps = field(metadata=_doc("the rate from `at` on"))
    at: Seconds = field(metadata=_doc("when it changes"))

    def rate(self, at_s: float) -> float:
        """One or the other."""
        return self.before if at_s < self.at else self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp(Load):
    """From one rate to another in a straight line."""

    kind: ClassVar[str] = "ramp"
    before: Rps = field(metadata=_doc("the rate at first"))
    after: Rps = field(metadata=_doc("the rate in the end"))
    at: Seconds = field(metadata=_doc("when it begins to change"))
    lasts: Seconds = field(metadata=_doc("how long it takes", above=0))

    def rate(self, at_s: float) -> float:
        """In between, while it changes."""
        part = min(1.0, max(0.0, (at_s - self.at) / self.lasts))
        return self.before + (self.after - self.before) * part


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst(Load):
    """A higher (or lower) rate for a time, once or again and again."""

    kind: ClassVar[str] = "burst"
    base: Rps = field(default=0.0, metadata=_doc("the rate outside bursts"))
    peak: Rps = field(metadata=_doc("the rate within"))
    at: Seconds = field(metadata=_doc("when the first begins"))
    lasts: Seconds = field(metadata=_doc("how long each is", above=0))
    every: Seconds | None = field(
        default=None, metadata=_doc("from one's begin to the next's; left out: once", above=0)
    )

    def rate(self, at_s: float) -> float:
        """The peak within a burst."""
        since = at_s - self.at
        if self.every is not None and since >= 0.0:
            since %= self.every
        return self.peak if 0.0 <= since < self.lasts else self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class Diurnal(Load):
    """A sine of one day."""

    kind: ClassVar[str] = "diurnal"
    low: Rps = field(metadata=_doc("the rate at night"))
    high: Rps = field(metadata=_doc("the rate at the peak"))
    period: Seconds = field(default=86_400.0, metadata=_doc("length of the day", above=0))
    peak_at: Seconds = field(default=43_200.0, metadata=_doc("when the first peak is"))

    def rate(self, at_s: float) -> float:
        """Between low and high."""
        turn = math.cos(2.0 * math.pi * (at_s - self.peak_at) / self.period)
        return self.low + (self.high - self.low) * (1.0 + turn) / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace(Load):
    """The shape of a real day, scaled to a peak. It begins again when it is over.

    A file is CSV with a header: the first column is the time (seconds, or ISO 8601), ascending;
    `rps` or else `requests` is the rate, and columns that end in `_tokens` are what the requests
    of the row cost in all.
    """

    kind: ClassVar[str] = "trace"
    name: str = field(default="", metadata=_doc("of a shipped trace"))
    path: PathText = field(default="", metadata=_doc("of a file, in place of a name"))
    peak: Rps = field(default=100.0, metadata=_doc("what its highest rate is scaled to"))
    speed: float = field(default=1.0, metadata=_doc("how much faster than it was", above=0))
    start: Seconds = field(default=0.0, metadata=_doc("where in the trace to begin"))
    costs: bool = field(default=False, metadata=_doc("requests cost what they did in the trace"))

    def __post_init__(self) -> None:
        """Refuse what names no trace, and a file that holds none. PolicyError."""
        if bool(self.name) == bool(self.path):
            raise PolicyError("a trace has either a name or a path")
        if self.name and self.name not in TRACES:
            raise PolicyError(f"no trace {self.name!r}; there are: {', '.join(TRACES)}")
        series = self._series
        if self.costs and series.costs is None:
            raise PolicyError(f"the trace {self.name or self.path} does not say what requests cost")

    @property
    def _series(self) -> "Series":
        return _shipped(self.name) if self.name else _read(Path(self.path))

    def rate(self, at_s: float) -> float:
        """The trace's rate, interpolated between rows, scaled."""
        series = self._series
        times, rates = series.times, series.rates
        at = self._when(at_s, series)
        i = min(bisect_right(times, at), len(times) - 1)
        part = (at - times[i - 1]) / (times[i] - times[i - 1])
        return (rates[i - 1] + (rates[i] - rates[i - 1]) * part) * self.peak / series.peak

    def cost(self, at_s: float) -> float:
        """The mean cost of a request in the row, over that of all requests."""
        series = self._series
        if not self.costs or series.costs is None:
            return 1.0
        return series.costs[bisect_right(series.times, self._when(at_s, series)) - 1]

    def _when(self, at_s: float, series: "Series") -> float:
        return (self.start + at_s * self.speed) % series.times[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum(Load):
    """Several loads at once."""

    kind: ClassVar[str] = "sum"
    parts: tuple[Load, ...] = field(metadata=_doc("what is added up", nonempty=True))

    def rate(self, at_s: float) -> float:
        """The sum of their rates."""
        return sum(part.rate(at_s) for part in self.parts)

    def cost(self, at_s: float) -> float:
        """The mean over the requests of all."""
        rates = [part.rate(at_s) for part in self.parts]
        if not sum(rates):
            return 1.0
        costs = (part.cost(at_s) for part in self.parts)
        return sum(rate * cost for rate, cost in zip(rates, costs, strict=True)) / sum(rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise(Load):
    """A load times a log-normal factor of mean 1, drawn every so often, straight in between."""

    kind: ClassVar[str] = "noise"
    of: Load = field(metadata=_doc("what is disturbed"))
    cv: float = field(default=0.1, metadata=_doc("std of the factor", min=0, max=10))
    every: Seconds = field(default=10.0, metadata=_doc("how often it is drawn", above=0))
    seed: int = field(default=0, metadata=_doc("of the draws"))

    def rate(self, at_s: float) -> float:
        """The rate, disturbed."""
        index, part = divmod(at_s / self.every, 1.0)
        before, after = (_factor(self.seed, self.cv, int(index) + k) for k in (0, 1))
        return self.of.rate(at_s) * (before + (after - before) * part)

    def cost(self, at_s: float) -> float:
        """What it costs undisturbed."""
        return self.of.cost(at_s)


LOADS: dict[str, type[Load]] = {
    kind.kind: kind for kind in (Constant, Step, Ramp, Burst, Diurnal, Trace, Sum, Noise)
}


@functools.lru_cache(maxsize=1024)
def _factor(seed: int, cv: float, index: int) -> float:
    square = math.log1p(cv * cv)
    draw = Random(f"noise:{seed}:{index}").gauss(0.0, 1.0)
    return math.exp(math.sqrt(square) * draw - square / 2.0)


@dataclass(frozen=True, slots=True)
class Series:
    """The rows of a trace. `times` begin at 0."""

    times: tuple[float, ...]  # seconds
    rates: tuple[float, ...]  # requests a second
    peak: float
    costs: tuple[float, ...] | None  # of a request, as a multiple of the mean over all


@functools.lru_cache(maxsize=8)
def _shipped(name: str) -> Series:
    return _series(resources.files("poolwright.sim") / "traces" / TRACES[name])


@functools.lru_cache(maxsize=8)
def _read(path: Path) -> Series:
    return _series(path)


def _series(file: Traversable | Path) -> Series:
    """The trace in a file. PolicyError when it cannot be read or is none."""
    try:
        with file.open(encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        return _checked(rows)
    except OSError as error:
        raise PolicyError(f"{file}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyError(f"{file}: is no trace: {error}") from error


def _checked(rows: list[dict[str, str]]) -> Series:
    if len(rows) < 2:
        raise ValueError("two rows at least are wanted")
    clock = next(iter(rows[0]))
    column = "rps" if "rps" in rows[0] else "requests"
    times = [_seconds(row[clock]) for row in rows]
    rates = [float(row[column]) for row in rows]
    if not all(a < b for a, b in pairwise(times)):
        raise ValueError(f"{clock} does not ascend")
    if not all(0.0 <= rate < math.inf for rate in rates) or not any(rates):
        raise ValueError(f"{column} is not a rate")
    tokens = [name for name in rows[0] if name.endswith("_tokens")]
    costs = tuple(_costs(rates, rows, tokens)) if tokens else None
    return Series(tuple(at - times[0] for at in times), tuple(rates), max(rates), costs)


def _costs(rates: list[float], rows: list[dict[str, str]], tokens: list[str]) -> Iterator[float]:
    """Mean cost of a request in each row; a row without requests has that of the row before."""
    spent = [sum(float(row[name]) for name in tokens) for row in rows]
    mean = sum(spent) / sum(rates)
    cost = 1.0
    for rate, of_row in zip(rates, spent, strict=True):
        if rate:
            cost = of_row / rate / mean
        yield cost


def _seconds(text: str) -> float:
    """Seconds of a number, or since 1970 of an ISO 8601 time (UTC when it does not say)."""
    if text.replace(".", "", 1).isdigit():
        return float(text)
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
