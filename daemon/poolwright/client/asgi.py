"""ASGI middleware: `application = AsgiMeter(application, meter)`.

A request ends when the last part of its body has been sent; what the application does after that
(background tasks) is not the client's to wait for. Lifespan is passed on; a websocket is a stream.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from poolwright.client.meter import Meter, Timing

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class AsgiMeter:
    """Counts and times the requests of an ASGI application."""

    def __init__(self, app: _App, meter: Meter) -> None:
        self._app = app
        self._meter = meter

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass on; an exception of the application is an error, and passed on too."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        timing = Timing(self._meter, _start_of(scope) if kind == "http" else None)
        if kind == "http":
            send = _Sending(send, timing)
        else:
            timing.is_stream()
        try:
            await self._app(scope, receive, send)
        except Exception:
            timing.end(failed=True)
            raise
        except BaseException:  # cancelled: the client has gone, or the server stops
            timing.lose()
            raise
        timing.end(failed=True)  # unless it has ended: the application left without an answer


class _Sending:
    """`send`, watched."""

    __slots__ = ("_send", "_timing")

    def __init__(self, send: _Send, timing: Timing) -> None:
        self._send = send
        self._timing = timing

    async def __call__(self, message: _Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._timing.status = message["status"]
            for name, said in message.get("headers", ()):
                if name.lower() == b"content-type" and said.startswith(b"text/event-stream"):
                    self._timing.is_stream()
        await self._send(message)
        whole = kind == "http.response.body" and not message.get("more_body", False)
        if whole or kind == "http.response.pathsend":
            self._timing.end()


def _start_of(scope: _Message) -> bytes | None:
    for name, said in scope["headers"]:  # lower case, by the specification
        if name == b"x-request-start":
            start: bytes = said
            return start
    return None
