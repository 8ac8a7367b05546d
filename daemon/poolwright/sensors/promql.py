"""Signals from a Prometheus server (or Thanos, Mimir, VictoriaMetrics) by instant queries.

    - kind: promql
      url: http://127.0.0.1:9090
      queries:
        throughput: sum(rate(http_requests_total{job="web"}[15s]))
        latency: sum(rate(http_seconds_sum[15s])) / sum(rate(http_seconds_count[15s]))
      newest: min(timestamp(up{job="web"}))
      max_age: 15s

A query gives exactly one sample, in the base unit of its signal: a rate a second, seconds, bytes,
cores, watts. The time that an answer carries is that of the question, so it does not tell how old
the data is: Prometheus answers with samples of up to five minutes ago, and `rate` with ever less of
a window. `newest` asks when the newest sample was taken; older than `max_age` is stale.

A server answers a tick later than the service itself would, and over a window: where the service
can be scraped, kind `prometheus` sees more (quantiles) and sooner.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlencode

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.units import Seconds
from poolwright.sensors.prometheus_mapping import SIGNALS
from poolwright.wire.endpoint import Access, Endpoint
from poolwright.wire.http import Url, words
from poolwright.wire.pointer import decode

_NUMBER = re.compile(r"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,4})?")
_NO_NUMBERS = {"NaN": "is NaN (nothing divided by nothing?)"}
_NO_NUMBERS |= dict.fromkeys(("+Inf", "-Inf", "Inf"), "is infinite (divided by nothing?)")
_AT_ONCE = 4  # queries under way together: a server has a limit of its own (20 by default)
_TOLD_MOST = 2
_API = "/api/v1/query"

Tell = Callable[..., Reading]


class _Absent(Exception):
    """There is no sample, or none that is a number; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromqlOptions(Access):
    """What a `promql` sensor may be told."""

    url: str = field(metadata={"doc": "of the server, before /api/v1/query"})
    queries: dict[str, str] = field(
        metadata={
            "doc": "signal: an expression that gives one sample, in seconds, bytes, cores, 1/s",
            "keys": tuple(SIGNALS),
            "nonempty": True,
        }
    )
    newest: str | None = field(
        default=None,
        metadata={"doc": "expression: when the newest data was scraped, in Unix seconds"},
    )
    max_age: Seconds = field(
        default=30.0, metadata={"doc": "data that is older is stale", "above": 0}
    )
    timeout: Seconds = field(default=0.8, metadata={"doc": "for all queries", "above": 0})

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        self.check(_server(self.url))
        asked = {**self.queries, "newest": self.newest or "-"}
        empty = [key for key, query in asked.items() if not query.strip()]
        if empty:
            raise PolicyError(f"queries: {', '.join(empty)}: an empty expression")


class Promql:
    """Instant queries, asked every tick."""

    Options = PromqlOptions
    signals: tuple[str, ...]

    def __init__(
        self, options: PromqlOptions, pool: str, *, wall_s: Callable[[], float] = time.time
    ) -> None:
        """Nothing is asked yet. `wall_s`: seconds since 1970."""
        self.pool = pool
        self.source = f"promql {options.url}"
        self.deadline_s = options.timeout + 0.1
        self._options = options
        self._url = _server(options.url)
        self._endpoint = Endpoint(self._url, options)
        self._queries = {SIGNALS[key][0]: query for key, query in options.queries.items()}
        self.signals = tuple(self._queries)
        self._seen: set[str] = set()  # signals that had a sample once
        self._wall_s = wall_s

    async def start(self) -> None:
        """Open nothing: a dead server shows at the first read."""

    async def close(self) -> None:
        """Nothing is kept between reads."""

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal; whatever is wrong with one query spoils no other."""
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        room = asyncio.Semaphore(_AT_ONCE)
        until_s = asyncio.get_running_loop().time() + self._options.timeout
        newest = self._options.newest
        ask = partial(self._sample, room, until_s)
        answers = await asyncio.gather(
            *(ask(query) for query in self._queries.values()),
            *(() if newest is None else (ask(newest),)),
            return_exceptions=True,
        )
        late = None if newest is None else self._late(answers[-1])
        return tuple(
            self._reading(signal, partial(tell, signal=signal), answer, late)
            for signal, answer in zip(self.signals, answers, strict=False)
        )

    def _late(self, answer: Any) -> tuple[Status, str] | None:
        """What the answer to `newest` makes of all the others; None: nothing."""
        where = f"{self._url.text}: newest"
        match answer:
            case PlantFault() as fault:
                return Status.ERROR, f"newest: {fault}"
            case _Absent() as absent:
                return Status.STALE, f"{where}: {absent}"
            case BaseException() as error:
                raise error
        asked_s, newest_s = answer
        age_s = asked_s - newest_s
        if age_s > self._options.max_age:
            return Status.STALE, f"{where}: the newest data is {age_s:.0f} s old"
        if age_s < -self._options.max_age:
            return Status.ERROR, f"{where}: lies {-age_s:.0f} s ahead; is it Unix seconds?"
        return None

    def _reading(
        self, signal: str, tell: Tell, answer: Any, late: tuple[Status, str] | None
    ) -> Reading:
        match answer:
            case PlantFault() as fault:
                return tell(status=Status.ERROR, detail=str(fault))
            case _Absent() as absent:
                # what was there and is not any more has gone stale
                status = Status.STALE if signal in self._seen else Status.NO_DATA
                return tell(status=status, detail=f"{self._url.text}: {absent}")
            case BaseException() as error:
                raise error
        asked_s, value = answer
        if late is not None:
            return tell(status=late[0], detail=late[1])
        age_s = self._wall_s() - asked_s
        if abs(age_s) > self._options.max_age:
            detail = f"{self._url.text}: answers of {age_s:.0f} s ago: a cache, or another clock"
            return tell(status=Status.STALE, detail=detail)
        if value < 0:
            return tell(status=Status.ERROR, detail=f"{self._url.text}: is {value:g}, below zero")
        self._seen.add(signal)
        return tell(value=value)

    async def _sample(
        self, room: asyncio.Semaphore, until_s: float, query: str
    ) -> tuple[float, float]:
        """(time, value) of the one sample that `query` gives. Raises PlantFault, _Absent."""
        async with room:
            left_s = max(0.01, until_s - asyncio.get_running_loop().time())
            question = urlencode({"query": query, "timeout": f"{1000 * left_s:.0f}ms"})
            target = f"{self._url.target}?{question}"
            status, page = await self._endpoint.ask("GET", left_s, target=target, any_status=True)
        try:
            return _one(_data(status, page))
        except PlantFault as fault:
            raise PlantFault(f"{self._url.text}: {_short(query)}: {fault}") from fault
        except _Absent as absent:
            raise _Absent(f"{_short(query)} {absent}") from absent


def _data(status: int, page: bytes) -> Any:
    """The `data` of an answer. Raises PlantFault with the server's own words when it is none."""
    try:
        answer = decode(page)
    except PlantFault as fault:
        raise PlantFault(f"answered {status}, and {fault}") from fault
    if not isinstance(answer, dict) or answer.get("status") not in {"success", "error"}:
        raise PlantFault(f"answered {status}, and not as a Prometheus does: is the url right?")
    if answer["status"] == "error":
        raise PlantFault(f"{_said(answer.get('errorType'))}: {_said(answer.get('error'))}")
    if answer.get("warnings"):  # a part of the data is missing: Thanos, remote reads
        raise PlantFault(f"warnings: {_said(answer['warnings'])}")
    if not 200 <= status < 300:
        raise PlantFault(f"answered {status}")
    return answer.get("data")


def _one(found: Any) -> tuple[float, float]:
    """(time, value) of a scalar or of a vector of one. Raises PlantFault, _Absent."""
    kind = found.get("resultType") if isinstance(found, dict) else None
    result = found.get("result") if isinstance(found, dict) else None
    if kind == "vector" and isinstance(result, list):
        if not result:
            raise _Absent("gives no sample")
        if len(result) > 1:
            some = ", ".join(_said(_member(one, "metric")) for one in result[:_TOLD_MOST])
            raise PlantFault(
                f"gives {len(result)} samples where one is wanted, such as {some}: "
                "sum() them, or match labels"
            )
        if _member(result[0], "histogram") is not None:
            raise PlantFault("gives a native histogram: take histogram_avg() of it")
        return _pair(_member(result[0], "value"))
    if kind == "scalar":
        return _pair(result)
    raise PlantFault(f"gives a {_said(kind)}, not one sample")


def _pair(pair: Any) -> tuple[float, float]:
    match pair:
        case [int() | float() as asked_s, str() as text] if 0 <= asked_s < 1e12:
            pass
        case _:
            raise PlantFault(f"gives {_said(pair)}, which is no sample")
    if text in _NO_NUMBERS:
        raise _Absent(_NO_NUMBERS[text])
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise PlantFault(f"gives {_said(text)}, which is no number")
    return float(asked_s), value


def _member(one: Any, name: str) -> Any:
    return one.get(name) if isinstance(one, dict) else None


def _said(what: Any) -> str:
    """A server's own words, fit for a terminal."""
    return words(str(what)[:400].encode("ascii", "replace"))


def _short(query: str) -> str:
    return query if len(query) <= 80 else f"{query[:77]}..."


def _server(url: str) -> Url:
    """Where queries go. Raises PolicyError."""
    parsed = Url.parse(url.rstrip("/") + _API, secure=True)
    if "?" in url or "#" in url:
        raise PolicyError(f"url: {url!r}: the server's address alone, without ? and #")
    return parsed
