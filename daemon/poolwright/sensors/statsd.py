"""gunicorn's own metrics, sent to us over UDP: `gunicorn --statsd-host HOST:PORT`.

What gunicorn sends (gunicorn/instrument/statsd.py, arbiter.py), one line a packet:

    PREFIXgunicorn.request.duration:12.5|ms      per request; time in the worker, queue excluded
    PREFIXgunicorn.requests:1|c|@1.0             per request
    PREFIXgunicorn.request.status.200:1|c|@1.0   per request
    PREFIXgunicorn.workers:4|g                   when the count changed
    PREFIXgunicorn.backlog:7|h                   about every second, with --enable-backlog-metric

Several lines in a packet, sample rates and dogstatsd tags are understood as well.
"""

import math
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from poolwright.core.model import Reading, Status
from poolwright.core.sketch import SketchBuilder
from poolwright.core.units import HostPort, Seconds
from poolwright.sensors.datagram import Datagram, Pulse, requests_told

_MOST_COUNT = 1e9  # of one counter or gauge line; more is not gunicorn
_MOST_DURATION_S = 3_600.0  # gunicorn tells a negative duration as almost a day (timedelta.seconds)
_LEAST_SAMPLE_RATE = 1e-6
_BACKLOG_FRESH_S = 3.0  # the arbiter reports about once a second
_TOLERATED_BAD = 0.01  # share of unreadable gunicorn lines above which counts are not believed
_CACHE = 256


def gunicorn_flags(listen: str, prefix: str = "") -> tuple[str, ...]:
    """The command-line flags with which gunicorn reports to this sensor."""
    flags = ("--statsd-host", listen, "--enable-backlog-metric")
    return (*flags, "--statsd-prefix", prefix) if prefix else flags


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsdOptions:
    """What a `statsd` sensor may be told."""

    listen: HostPort = field(metadata={"doc": "where gunicorn's --statsd-host sends to"})
    preset: Literal["gunicorn"] = field(
        default="gunicorn", metadata={"doc": "whose metric names to expect"}
    )
    prefix: str = field(default="", metadata={"doc": "gunicorn's --statsd-prefix"})
    silence_s: Seconds = field(
        default=10.0, metadata={"doc": "silence after which the source may be dead: stale"}
    )


class Lines:
    """What gunicorn's statsd lines say, added up since the last `clear`. Never raises on any bytes.

    `worker_count` is remembered over `clear`, for gunicorn tells it only when it changes.
    """

    def __init__(self, prefix: str) -> None:
        # gunicorn's own rule for the dot between prefix and name (one letter gets none)
        stem = re.sub(r"^(.+[^.]+)\.*$", r"\g<1>.", prefix) + "gunicorn."
        self.stem = stem.encode()
        self._status = self.stem + b"request.status."
        self._takers = {
            self.stem + b"request.duration": self._duration,
            self.stem + b"requests": self._request,
            self.stem + b"workers": self._workers,
            self.stem + b"backlog": self._backlog,
        }
        self._counters = (self.stem + b"requests:", self._status)
        self._repeats: dict[bytes, tuple[float, float]] = {}  # packet: requests, errors
        self._tails: dict[bytes, tuple[bytes, float] | None] = {}
        self.worker_count: float | None = None
        self.clear()

    def clear(self) -> None:
        """Begin a new tick."""
        self.requests = 0.0
        self.errors = 0.0
        self.durations = SketchBuilder()
        self.backlog = SketchBuilder()
        self.backlog_last: float | None = None
        self.good = 0  # gunicorn's lines that were read
        self.bad = 0  # gunicorn's lines that were not
        self.foreign = 0  # lines of others, and garbage
        self.first_bad = b""
        self.first_foreign = b""

    def feed(self, payload: bytes, _wall_ns: int = 0) -> None:
        """Add one packet."""
        known = self._repeats.get(payload)  # two of a request's three packets are always the same
        if known is None:
            self._parse(payload)
        else:
            self.requests += known[0]
            self.errors += known[1]
            self.good += 1

    def _parse(self, payload: bytes) -> None:
        requests, errors, good = self.requests, self.errors, self.good
        self.requests = self.errors = 0.0
        for line in payload.split(b"\n"):
            if not line:
                continue
            name, _, rest = line.partition(b":")
            take = self._takers.get(name)
            if take is None:
                self._other(name, rest, line)
            elif take(*self._split(rest)):
                self.good += 1
            else:
                self._note_bad(line)
        if self.good > good and payload.startswith(self._counters) and b"\n" not in payload:
            if len(self._repeats) >= _CACHE:
                self._repeats.clear()
            self._repeats[payload] = (self.requests, self.errors)
        self.requests += requests
        self.errors += errors

    def _other(self, name: bytes, rest: bytes, line: bytes) -> None:
        if not name.startswith(self.stem):
            self.foreign += 1
            self.first_foreign = self.first_foreign or line[:80]
        elif not name.startswith(self._status):
            self.good += 1  # gunicorn.log.error and the like: a sign of life, nothing more
        elif self._is_status(name[len(self._status) :], *self._split(rest)):
            self.good += 1
        else:
            self._note_bad(line)

    def _note_bad(self, line: bytes) -> None:
        self.bad += 1
        self.first_bad = self.first_bad or line[:80]

    def _split(self, rest: bytes) -> tuple[float, bytes, float]:
        """Value, type and 1 / sample rate; a value of NaN when the line cannot be read."""
        text, _, tail = rest.partition(b"|")
        try:
            value = math.nan if b"_" in text else float(text)  # 1_0 is a number to Python only
        except ValueError:
            return math.nan, b"", 1.0
        try:
            known = self._tails[tail]
        except KeyError:
            if len(self._tails) >= _CACHE:
                self._tails.clear()
            known = self._tails[tail] = _tail(tail)
        return (math.nan, b"", 1.0) if known is None else (value, *known)

    def _duration(self, value: float, kind: bytes, weight: float) -> bool:
        seconds = value / 1e3
        if kind not in {b"ms", b"h", b"d"} or not 0.0 <= seconds <= _MOST_DURATION_S:
            return False
        self.durations.add(seconds, round(weight))
        return True

    def _request(self, value: float, kind: bytes, weight: float) -> bool:
        if kind != b"c" or not 0.0 <= value <= _MOST_COUNT:
            return False
        self.requests += value * weight
        return True

    def _is_status(self, code: bytes, value: float, kind: bytes, weight: float) -> bool:
        if kind != b"c" or not 0.0 <= value <= _MOST_COUNT or len(code) != 3 or not code.isdigit():
            return False
        if code[:1] == b"5":
            self.errors += value * weight
        return True

    def _workers(self, value: float, kind: bytes, _weight: float) -> bool:
        if kind != b"g" or not (0.0 <= value <= _MOST_COUNT and value.is_integer()):
            return False
        self.worker_count = value
        return True

    def _backlog(self, value: float, kind: bytes, _weight: float) -> bool:
        if kind not in {b"h", b"d", b"g"} or not 0.0 <= value <= _MOST_COUNT:
            return False
        self.backlog.add(value)
        self.backlog_last = value
        return True


def _tail(tail: bytes) -> tuple[bytes, float] | None:
    """Type and 1 / sample rate of `ms`, `c|@0.1` or `c|@1.0|#tag:x`; None when unreadable."""
    kind, *parts = tail.split(b"|")
    weight = 1.0
    for part in parts:
        if part[:1] == b"@":
            try:
                rate = float(part[1:])
            except ValueError:
                return None
            if not _LEAST_SAMPLE_RATE <= rate <= 1.0:
                return None
            weight = 1.0 / rate
        elif part[:1] not in {b"#", b"c", b"T"}:  # dogstatsd: tags, container, timestamp
            return None
    return kind, weight


class Statsd:
    """Requests, errors, service time, workers and backlog as gunicorn tells them over statsd.

    Silence after the first word is zero load until `silence_s`, then stale: a dead source and an
    idle one look alike here (with --enable-backlog-metric gunicorn speaks every second).
    """

    Options = StatsdOptions
    signals = ("throughput_rps", "errors_rps", "service_time_s", "worker_count", "queue_length")
    deadline_s: float | None = None

    def __init__(self, options: StatsdOptions, pool: str) -> None:
        self.pool = pool
        self.source = f"statsd {options.listen}"
        self._listen = options.listen
        self._lines = Lines(options.prefix)
        self._socket = Datagram(options.listen, self._lines.feed)
        self._pulse = Pulse(options.silence_s)
        self._backlog: tuple[int, float] | None = None  # when, how many

    @property
    def address(self) -> tuple[str, int]:
        """Host and port really bound. Raises PlantFault when not started."""
        return self._socket.address

    async def start(self) -> None:
        """Bind the socket. Raises PlantFault naming host:port."""
        await self._socket.start()

    async def close(self) -> None:
        """Close the socket."""
        await self._socket.close()

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal. Raises PlantFault when the socket fails."""
        self._socket.drain()
        lost = self._socket.lost()
        lines = self._lines
        elapsed_s = self._pulse.beat(now_ns, heard=lines.good > 0)
        state = self._pulse.state(now_ns)
        if lines.backlog_last is not None:
            self._backlog = (now_ns, lines.backlog_last)
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        if lost:  # the lost packet may have been the one that told a new worker count
            lines.worker_count = None
            self._backlog = None
        seen = lines.good + lines.bad
        if lost or lines.bad > _TOLERATED_BAD * seen:
            why = self._socket.lost_detail(lost) if lost else self._trouble()
            state = Status.ERROR
        else:
            why = self._why(state, now_ns)
        if state is Status.OK:
            readings: tuple[Reading, ...] = (
                *requests_told(
                    partial(tell, detail=self._trouble()),
                    lines.requests,
                    lines.errors,
                    elapsed_s,
                    lines.durations,
                ),
                self._worker_count(tell),
                self._queue_length(tell, now_ns),
            )
        else:
            readings = tuple(tell(signal=name, status=state, detail=why) for name in self.signals)
        lines.clear()
        return readings

    def _why(self, state: Status, now_ns: int) -> str:
        if state is Status.STALE:
            return (
                f"nothing heard for {self._pulse.silent_s(now_ns):.0f} s: dead or without traffic"
                " (with --enable-backlog-metric gunicorn also speaks when idle)"
            )
        if state is Status.NO_DATA and self._lines.foreign:
            return (
                f"{self._lines.foreign} lines came, none of {self._lines.stem.decode()}*: is the"
                f" prefix right? the first: {self._lines.first_foreign!r}"
            )
        return f"nothing heard yet; gunicorn needs --statsd-host {self._listen}"

    def _trouble(self) -> str:
        """Unreadable lines of the tick, for people; empty when there was none."""
        lines = self._lines
        told = []
        if lines.bad:
            told.append(f"{lines.bad} unreadable lines of gunicorn, the first: {lines.first_bad!r}")
        if lines.foreign:
            told.append(f"{lines.foreign} foreign lines, the first: {lines.first_foreign!r}")
        return "; ".join(told)

    def _worker_count(self, tell: "partial[Reading]") -> Reading:
        count = self._lines.worker_count
        if count is None:
            detail = "gunicorn tells its workers only when their number changes; not heard yet"
            return tell(signal="worker_count", status=Status.NO_DATA, detail=detail)
        return tell(signal="worker_count", value=count)

    def _queue_length(self, tell: "partial[Reading]", now_ns: int) -> Reading:
        if self._backlog is None:
            detail = "not heard yet; gunicorn needs --enable-backlog-metric"
            return tell(signal="queue_length", status=Status.NO_DATA, detail=detail)
        taken_ns, length = self._backlog
        if now_ns - taken_ns > _BACKLOG_FRESH_S * 1e9:
            detail = f"the backlog was last told {(now_ns - taken_ns) / 1e9:.0f} s ago"
            return tell(signal="queue_length", status=Status.STALE, detail=detail)
        sketch = self._lines.backlog.freeze()
        return tell(signal="queue_length", value=length, sketch=sketch if sketch.count else None)
