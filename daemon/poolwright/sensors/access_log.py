r"""Access logs: gunicorn's over UDP syslog, or a file of nginx, Apache, Caddy or anything.

gunicorn's tells what each client felt, with nothing but flags. A line (gunicorn/glogging.py,
logging.handlers.SysLogHandler) is one packet, without date or host:

    <14>gunicorn.PROC.access: [PID] poolwright 200 1234 t=1732000000.123\0

status, microseconds in the worker, and the X-Request-Start header that a proxy or client set ("-"
when it did not). A header must come last in the format: it is the only part that others write. Let
the proxy overwrite it (nginx: `proxy_set_header X-Request-Start "t=${msec}";`), or any client may
tell a false start. gunicorn's error log comes to the same socket and is passed over.

Latency of a request is the kernel's time of reception of its line minus X-Request-Start: queue,
service and the sending of the answer. nginx's clock has steps of 1 ms.

Of a file, in place of `listen`:

    - {kind: access_log, file: /var/log/nginx/poolwright.log, format: nginx}

What lines look like: `log_lines`; how rotations are followed: `tail`. The log must not be buffered
by its writer: what comes late counts late.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from poolwright.core.errors import PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.request_start import start_ns
from poolwright.core.sketch import SketchBuilder
from poolwright.core.units import HostPort, PathText, Seconds
from poolwright.sensors.access_file import AccessFile, Form
from poolwright.sensors.datagram import Datagram, Pulse, requests_told
from poolwright.sensors.log_lines import parser

ACCESS_LOG_FORMAT = "poolwright %(s)s %(D)s %({x-request-start}i)s"

_MOST_S = 3_600.0  # a longer latency is a clock that was set, or a header of another meaning
_STEP_NS = 50_000_000
_TOLERATED_BAD = 0.01
_ACCESS = re.compile(rb"<\d{1,3}>gunicorn\.[^:]*\.access: ")
_LINE = re.compile(
    rb"<\d{1,3}>gunicorn\.[^:]*\.access: \[\d+\] poolwright (\d{3}) (-?\d{1,15}) ([^\x00\n]*)\x00?$"
)
_ERROR_LOG = re.compile(rb"<\d{1,3}>gunicorn\.[^:]*\.error: ")


def gunicorn_flags(listen: str) -> tuple[str, ...]:
    """The command-line flags with which gunicorn reports to this sensor."""
    to = f"udp://{listen}"
    return ("--log-syslog", "--log-syslog-to", to, "--access-logformat", ACCESS_LOG_FORMAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogOptions:
    """What an `access_log` sensor may be told."""

    listen: HostPort | None = field(
        default=None, metadata={"doc": "where gunicorn's --log-syslog-to udp:// sends to"}
    )
    file: PathText | None = field(
        default=None, metadata={"doc": "or a log file that grows, followed through rotations"}
    )
    format: Literal["nginx", "apache", "caddy"] | None = field(
        default=None, metadata={"doc": "how a line of `file` is written"}
    )
    pattern: str | None = field(
        default=None,
        metadata={
            "doc": "or an RE2 expression with the groups status and seconds (or milli-, micro-)"
        },
    )
    time: Literal["latency", "service_time"] = field(
        default="latency",
        metadata={"doc": "what the time in `file` is: what clients waited, or time in a worker"},
    )
    silence_s: Seconds = field(
        default=10.0, metadata={"doc": "silence after which the source may be dead: stale"}
    )

    def __post_init__(self) -> None:
        """Refuse both, neither, and what is not told how to be read."""
        if (self.listen is None) == (self.file is None):
            raise PolicyError("access_log needs listen or file, and not both")
        if self.file is not None:
            parser(self.format, self.pattern)
        elif self.format is not None or self.pattern is not None:
            raise PolicyError("format and pattern are for a file")


class Lines:
    """What access-log lines say, added up since the last `clear`. Never raises on any bytes."""

    def __init__(self) -> None:
        self.suspect_before_ns = 0  # starts told by a clock that has since been stepped
        self.clear()

    def clear(self) -> None:
        """Begin a new tick."""
        self.requests = 0
        self.errors = 0
        self.carried = 0  # requests with a readable X-Request-Start
        self.odd_headers = 0  # and with an unreadable one
        self.refused = 0  # latencies below 0 or above one hour, or across a clock step
        self.durations = SketchBuilder()
        self.latencies = SketchBuilder()
        self.bad = 0  # access lines that could not be read
        self.foreign = 0  # neither access nor error log of gunicorn
        self.first_bad = b""
        self.first_foreign = b""

    def feed(self, payload: bytes, wall_ns: int) -> None:
        """Add one packet that the kernel received at `wall_ns`."""
        found = _LINE.match(payload)
        if found is None:
            self._other(payload)
            return
        status, microseconds, header = found.groups()
        service_s = int(microseconds) / 1e6
        if service_s > _MOST_S:  # gunicorn tells a negative duration as almost a day
            self._note_bad(payload)
            return
        self.requests += 1
        self.errors += status[:1] == b"5"
        if service_s >= 0.0:  # below zero: no server had it (HAProxy)
            self.durations.add(service_s)
        if header == b"-":
            return
        began_ns = start_ns(header)
        if began_ns is None:
            self.odd_headers += 1
            return
        self.carried += 1
        latency_s = (wall_ns - began_ns) / 1e9
        if 0.0 <= latency_s <= _MOST_S and began_ns > self.suspect_before_ns:
            self.latencies.add(latency_s)
        else:
            self.refused += 1

    def _other(self, payload: bytes) -> None:
        if _ACCESS.match(payload):
            self._note_bad(payload)
        elif not _ERROR_LOG.match(payload):
            self.foreign += 1
            self.first_foreign = self.first_foreign or payload[:80]

    def _note_bad(self, payload: bytes) -> None:
        self.bad += 1
        self.first_bad = self.first_bad or payload[:80]


def _clocks() -> tuple[int, int]:
    return time.time_ns(), time.monotonic_ns()


class GunicornLog:
    """Requests, errors, service time and client-felt latency from gunicorn's access log.

    Silence after the first line is zero load until `silence_s`, then stale: a dead source and an
    idle one look alike here. `clocks` gives (wall, monotonic) nanoseconds.
    """

    signals: tuple[str, ...] = ("throughput_rps", "errors_rps", "service_time_s", "latency_s")
    deadline_s: float | None = None

    def __init__(
        self, listen: str, silence_s: float, clocks: Callable[[], tuple[int, int]] = _clocks
    ) -> None:
        self.source = f"access_log {listen}"
        self._listen = listen
        self._lines = Lines()
        self._socket = Datagram(listen, self._lines.feed, stamped=True)
        self._pulse = Pulse(silence_s)
        self._clocks = clocks
        self._offset_ns: int | None = None  # wall minus monotonic, at the last read

    @property
    def address(self) -> tuple[str, int]:
        """Host and port really bound. Raises PlantFault when not started."""
        return self._socket.address

    async def start(self) -> None:
        """Bind the socket. Raises PlantFault naming host:port."""
        await self._socket.start()
        self._stepped_s()

    async def close(self) -> None:
        """Close the socket."""
        await self._socket.close()

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal. Raises PlantFault when the socket fails."""
        self._socket.drain()
        lost = self._socket.lost()
        stepped_s = self._stepped_s()
        lines = self._lines
        elapsed_s = self._pulse.beat(now_ns, heard=lines.requests > 0)
        state = self._pulse.state(now_ns)
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        if lost or lines.bad > _TOLERATED_BAD * (lines.requests + lines.bad):
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
                self._latency(tell, stepped_s),
            )
        else:
            readings = tuple(tell(signal=name, status=state, detail=why) for name in self.signals)
        lines.clear()
        return readings

    def _stepped_s(self) -> float:
        """By how much the wall clock was stepped since the last read; 0 for less than 50 ms."""
        wall_ns, mono_ns = self._clocks()
        offset_ns = wall_ns - mono_ns
        last_ns, self._offset_ns = self._offset_ns, offset_ns
        if last_ns is None or abs(offset_ns - last_ns) <= _STEP_NS:
            return 0.0
        self._lines.suspect_before_ns = wall_ns
        return (offset_ns - last_ns) / 1e9

    def _why(self, state: Status, now_ns: int) -> str:
        if state is Status.STALE:
            silent_s = self._pulse.silent_s(now_ns)
            return f"no line for {silent_s:.0f} s: dead or without traffic"
        if state is Status.NO_DATA and self._lines.foreign:
            return f"no access line yet, but {self._trouble()}"
        return f"no line yet; gunicorn needs {' '.join(gunicorn_flags(self._listen)[:3])}"

    def _trouble(self) -> str:
        """Unreadable packets of the tick, for people; empty when there was none."""
        lines = self._lines
        told = []
        if lines.bad:
            told.append(
                f"{lines.bad} unreadable access lines, the first: {lines.first_bad!r};"
                f" gunicorn needs --access-logformat '{ACCESS_LOG_FORMAT}'"
            )
        if lines.foreign:
            told.append(f"{lines.foreign} foreign packets, the first: {lines.first_foreign!r}")
        return "; ".join(told)

    def _latency(self, tell: "partial[Reading]", stepped_s: float) -> Reading:
        lines = self._lines
        tell = partial(tell, signal="latency_s")
        if stepped_s:
            detail = f"the wall clock was stepped by {stepped_s:+.3f} s"
            return tell(status=Status.ERROR, detail=detail)
        if lines.refused:
            detail = (
                f"{lines.refused} of {lines.carried} X-Request-Start lie in the future, over an"
                " hour back or before a clock step: do the clocks of proxy and host agree?"
            )
            return tell(status=Status.ERROR, detail=detail)
        if lines.requests == 0:
            return tell(status=Status.NO_DATA, detail="no request in this tick")
        if 2 * lines.carried < lines.requests:
            detail = (
                f"only {lines.carried} of {lines.requests} requests carried X-Request-Start"
                + (f"; {lines.odd_headers} could not be read" if lines.odd_headers else "")
            )
            return tell(status=Status.NO_DATA, detail=detail)
        sketch = lines.latencies.freeze()
        return tell(value=sketch.mean, sketch=sketch)


class AccessLog:
    """An access log, by datagrams or from a file."""

    Options = AccessLogOptions

    def __init__(
        self, options: AccessLogOptions, pool: str, clocks: Callable[[], tuple[int, int]] = _clocks
    ) -> None:
        """`clocks` gives (wall, monotonic) nanoseconds."""
        self.pool = pool
        self._log: GunicornLog | AccessFile
        if options.file is None:
            assert options.listen is not None
            self._log = GunicornLog(options.listen, options.silence_s, clocks)
        else:
            parse, has_status = parser(options.format, options.pattern)
            form = Form(parse=parse, has_status=has_status, time_signal=f"{options.time}_s")
            self._log = AccessFile(options.file, form, options.silence_s)
        self.source = self._log.source
        self.signals = self._log.signals
        self.deadline_s = self._log.deadline_s

    @property
    def address(self) -> tuple[str, int]:
        """Host and port really bound. Raises PlantFault when not started."""
        assert isinstance(self._log, GunicornLog), "a file has no address"
        return self._log.address

    async def start(self) -> None:
        """Open it. Raises PlantFault naming host:port or path."""
        await self._log.start()

    async def close(self) -> None:
        """Let go of it."""
        await self._log.close()

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal. Raises PlantFault when the socket or the file fails."""
        return await self._log.read(now_ns)
