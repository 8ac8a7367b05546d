"""Server-sent events: one `tick` for every snapshot, to a few clients at most."""

import asyncio
from collections.abc import Callable

import msgspec

from poolwright.surface.message import Request, Response, Stream
from poolwright.surface.point import Point, UnixSeconds
from poolwright.surface.problem import problem

MOST_CLIENTS = 8
RETRY_MS = 2000  # after which a browser that lost the connection comes back
BEAT_S = 10.0  # between two signs of life, whatever the cadence is


class TickEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What an event `tick` carries."""

    time_s: UnixSeconds
    cadence_s: float  # between two ticks; much longer without one, and the daemon stands still
    pools: tuple[Point, ...]


class Events:
    """Who listens. A client that does not keep up is hung up on by its connection."""

    def __init__(self) -> None:
        """Nobody listens yet."""
        self._listeners: dict[Callable[[bytes], None], None] = {}
        self._beat: asyncio.TimerHandle | None = None
        self._last = b""

    def answer(self, _request: Request) -> Stream | Response:
        """A stream, unless there are too many."""
        if len(self._listeners) >= MOST_CLIENTS:
            why = f"{MOST_CLIENTS} clients listen already; {RETRY_MS / 1000:g} s later may do"
            return problem(503, why, ("Retry-After", "2"))
        return Stream(content_type="text/event-stream", subscribe=self._subscribe)

    def published(self, time_s: float, cadence_s: float, points: tuple[Point, ...]) -> None:
        """Tell everybody of a snapshot."""
        tick = max((point.tick for point in points), default=0)
        data = msgspec.json.encode(TickEvent(time_s=time_s, cadence_s=cadence_s, pools=points))
        self._last = b"id: %d\nevent: tick\ndata: %b\n\n" % (tick, data)
        self._send(self._last)

    def _subscribe(self, send: Callable[[bytes], None]) -> Callable[[], None]:
        self._listeners[send] = None
        send(b"retry: %d\n\n%b" % (RETRY_MS, self._last))
        if self._beat is None:
            self._schedule()

        def leave() -> None:
            self._listeners.pop(send, None)

        return leave

    def _send(self, data: bytes) -> None:
        for send in tuple(self._listeners):
            send(data)

    def _schedule(self) -> None:
        self._beat = asyncio.get_running_loop().call_later(BEAT_S, self._alive)

    def _alive(self) -> None:
        """A comment, which keeps proxies from hanging up and finds clients that are gone."""
        self._beat = None
        if self._listeners:
            self._send(b": alive\n\n")
            self._schedule()
