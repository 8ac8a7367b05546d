"""What is counted of requests: how many, how many failed, and how long they waited and took.

A request that carries X-Request-Start (seconds, milliseconds, microseconds or nanoseconds, with or
without `t=`) is timed from there, so that the queues before the application are seen too. What
never ends as a request does (websockets, server-sent events) is a stream: it is counted while it is
open, and has no latency.
"""

import os
import threading
from time import perf_counter_ns, time_ns
from weakref import WeakSet

from poolwright.client.tally import Tally
from poolwright.core.request_start import start_ns

_MOST_NS = 3_600_000_000_000  # a longer wait is a clock that was set, or a header of another kind


class Meter:
    """Counts of one process, since its start. Middlewares write to it, `offer` makes it seen."""

    def __init__(self) -> None:
        """Start at zero."""
        self.reborn()
        _METERS.add(self)

    def reborn(self) -> None:
        """Begin at zero: in a forked child the counts are the parent's."""
        # Reentrant, for a request may end in a finalizer, which may run anywhere. It is free
        # almost always: what is done with it takes two microseconds.
        self.lock = threading.RLock()
        self.begun = 0
        self.ended = 0  # as requests
        self.lost = 0  # the client or the server gave up: neither served nor failed
        self.errors = 0
        self.streams = 0  # begun, and then known to be a stream
        self.streams_ended = 0
        self.carried = 0  # with a readable X-Request-Start
        self.odd = 0  # with an unreadable one
        self.refused = 0  # with one in the future or over an hour back
        self.service = Tally()
        self.queue = Tally()
        self.latency = Tally()

    @property
    def used(self) -> bool:
        """Whether there ever was a request in this process."""
        return self.begun > 0

    def told(self) -> dict[str, object]:
        """All counts; consistent with each other."""
        with self.lock:
            return {
                "in_flight": self.begun - self.ended - self.lost - self.streams,
                "open_streams": self.streams - self.streams_ended,
                "ended": self.ended,
                "errors": self.errors,
                "carried": self.carried,
                "odd": self.odd,
                "refused": self.refused,
                "service": self.service.told(),
                "queue": self.queue.told(),
                "latency": self.latency.told(),
            }


class Timing:
    """One request, from its coming to its end."""

    __slots__ = ("_began_ns", "_ended", "_meter", "_start", "_wall_ns", "status", "stream")

    def __init__(self, meter: Meter, start: bytes | None) -> None:
        """`start` is the X-Request-Start header."""
        self._meter = meter
        self._start = start
        self._ended = False
        self.status = 0  # none was sent
        self.stream = False
        with meter.lock:
            meter.begun += 1
        self._wall_ns = 0 if start is None else time_ns()
        self._began_ns = perf_counter_ns()

    def is_stream(self) -> None:
        """It is no request that ends."""
        if not self.stream:
            self.stream = True
            with self._meter.lock:
                self._meter.streams += 1

    def end(self, *, failed: bool = False) -> None:
        """It was answered, or failed with an exception. Only the first end counts."""
        ended_ns = perf_counter_ns()
        if self._ended:
            return
        self._ended = True
        meter = self._meter
        if self.stream:
            with meter.lock:
                meter.streams_ended += 1
            return
        took_ns = ended_ns - self._began_ns
        came_ns = None if self._start is None else start_ns(self._start)
        with meter.lock:
            meter.ended += 1
            if failed or self.status >= 500 or self.status == 0:
                meter.errors += 1
            meter.service.add(took_ns * 1e-9)
            if came_ns is not None:
                meter.carried += 1
                waited_ns = self._wall_ns - came_ns
                if 0 <= waited_ns <= _MOST_NS:
                    meter.queue.add(waited_ns * 1e-9)
                    meter.latency.add((waited_ns + took_ns) * 1e-9)
                else:
                    meter.refused += 1
            elif self._start is not None:
                meter.odd += 1

    def lose(self) -> None:
        """The client, or the server that shuts down, gave it up."""
        if self._ended:
            return
        if self.stream:
            self.end()
            return
        self._ended = True
        with self._meter.lock:
            self._meter.lost += 1


def _in_child() -> None:
    for meter in list(_METERS):
        meter.reborn()


_METERS: "WeakSet[Meter]" = WeakSet()
os.register_at_fork(after_in_child=_in_child)
