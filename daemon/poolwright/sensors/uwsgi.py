"""uWSGI's own counters, from its stats server (`--stats`).

What is told, and what is not:

- No service time. There is `avg_rt`, which is half the last request and half all before, and what
  `running_time` grew by, a mean. Decisions need the distribution, and a mean would stand before
  it where an access_log tells it: uWSGI can write the lines that one reads (`access_log_flags`).
- `queue_length` is what the master saw in its last cycle, up to a second ago. Of a UNIX socket
  uWSGI cannot tell it: add a listen_queue for that.
- `errors_rps` only when asked for (`count_exceptions`): uncaught exceptions and harakiris. A
  framework that answers 500 by itself shows neither, and zero would be a lie.
- `memory_bytes` only when asked for (`memory`), and only once every worker has told: each measures
  itself after a request, under `--memory-report`. Shared pages count in each: process_tree is
  better.
"""

import math
from dataclasses import dataclass, field
from functools import partial

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.units import Bytes, Seconds
from poolwright.sensors.prometheus_page import Counters, Labels, Series
from poolwright.wire.uwsgi_stats import DOC, MOST_BYTES, Incarnation, Stats, StatsServer

ACCESS_LOG_FORMAT = (
    "<14>gunicorn.uwsgi.access: [%(pid)] poolwright %(status) %(micros) %(var.HTTP_X_REQUEST_START)"
)
_ALWAYS = ("throughput_rps", "in_flight", "queue_length", "queue_limit", "worker_count")


def access_log_flags(listen: str) -> tuple[str, ...]:
    """The flags with which uWSGI reports to an `access_log` sensor at `listen`, each request.

    Debian's uWSGI needs `--plugin logsocket` before them.
    """
    return ("--req-logger", f"socket:{listen}", "--log-format", ACCESS_LOG_FORMAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class UwsgiOptions:
    """What a `uwsgi` sensor may be told."""

    stats: str = field(metadata={"doc": DOC})
    count_exceptions: bool = field(
        default=False,
        metadata={"doc": "errors: uncaught exceptions and harakiris (a framework hides its 5xx)"},
    )
    memory: bool = field(
        default=False, metadata={"doc": "memory: the workers' RSS, under uWSGI's --memory-report"}
    )
    timeout: Seconds = field(default=0.5, metadata={"doc": "for the whole look"})
    max_bytes: Bytes = field(default=MOST_BYTES, metadata={"doc": "longest answer"})

    def __post_init__(self) -> None:
        """Refuse what is no address, and limits of nothing."""
        StatsServer(self.stats)
        if not 0.0 < self.timeout < math.inf or self.max_bytes <= 0:
            raise PolicyError("timeout and max_bytes must be above 0")


class Uwsgi:
    """Signals of one uWSGI, a connection a tick."""

    Options = UwsgiOptions
    signals: tuple[str, ...]

    def __init__(self, options: UwsgiOptions, _pool: str) -> None:
        """Nothing is opened yet."""
        self._options = options
        self._server = StatsServer(options.stats)
        self._incarnation = Incarnation()
        self._counters = Counters()
        self.source = f"uwsgi {options.stats}"
        self.deadline_s = options.timeout + 0.1
        self.signals = (
            *_ALWAYS,
            *(("errors_rps",) if options.count_exceptions else ()),
            *(("memory_bytes",) if options.memory else ()),
        )

    async def start(self) -> None:
        """Open nothing: a dead endpoint shows at the first read."""

    async def close(self) -> None:
        """Nothing is kept between reads."""

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal, every one an error when uWSGI cannot be asked."""
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        try:
            stats = await self._server.read(self._options.timeout, self._options.max_bytes)
        except PlantFault as fault:
            failed = partial(tell, status=Status.ERROR, detail=str(fault))
            return tuple(failed(signal=name) for name in self.signals)
        self._incarnation.see(stats)
        told = (*self._requests(stats, now_ns, tell), *_queue(stats, tell))
        count = tell(signal="worker_count", value=float(stats.serving))
        busy = tell(signal="in_flight", value=float(stats.in_flight))
        found = {reading.signal: reading for reading in (*told, count, busy, _memory(stats, tell))}
        return tuple(found[name] for name in self.signals)

    def _requests(
        self, stats: Stats, now_ns: int, tell: "partial[Reading]"
    ) -> tuple[Reading, Reading]:
        """Requests and errors since the last look."""
        slots: dict[Labels, Series] = {
            (("slot", str(place)),): Series(
                counts=(float(slot.requests), float(slot.exceptions + slot.harakiri_count)),
                created=float(self._incarnation.generation),
            )
            for place, slot in enumerate(stats.workers)
        }
        growth = self._counters.advance(slots, now_ns)
        requests, errors = (
            partial(tell, signal="throughput_rps"),
            partial(tell, signal="errors_rps"),
        )
        if growth is None:
            none = {"status": Status.NO_DATA, "detail": "a difference needs two looks"}
            return requests(**none), errors(**none)
        note = "uWSGI counts from zero again: a lower bound" if growth.restarted else ""
        ended = sum(slot.counts[0] for slot in growth.series) / growth.elapsed_s
        failed = sum(slot.counts[1] for slot in growth.series) / growth.elapsed_s
        return (
            requests(value=ended, estimated=growth.restarted, detail=note),
            errors(value=failed, estimated=growth.restarted, detail=note),
        )


def _queue(stats: Stats, tell: "partial[Reading]") -> tuple[Reading, Reading]:
    """The accept queues of all sockets together; half of them is not a short queue."""
    length, limit = partial(tell, signal="queue_length"), partial(tell, signal="queue_limit")
    silent = [listener.name for listener in stats.sockets if not listener.max_queue]
    if silent or not stats.sockets:
        why = f"uWSGI does not tell the queue of {', '.join(silent) or 'any socket'}"
        none = {"status": Status.NO_DATA, "detail": f"{why}; add a listen_queue sensor"}
        return length(**none), limit(**none)
    return (
        length(value=float(sum(listener.queue for listener in stats.sockets))),
        limit(value=float(sum(listener.max_queue for listener in stats.sockets))),
    )


def _memory(stats: Stats, tell: "partial[Reading]") -> Reading:
    """The workers' resident memory, of all or of none."""
    memory = partial(tell, signal="memory_bytes")
    kept = [slot for slot in stats.workers if slot.kept]
    silent = sum(not slot.rss for slot in kept)
    if silent or not kept:
        why = f"{silent} of {len(kept)} workers have not told theirs yet (--memory-report?)"
        return memory(status=Status.NO_DATA, detail=why)
    return memory(value=float(sum(slot.rss for slot in kept)))
