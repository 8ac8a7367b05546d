"""A small HTTP/1.1 server for both sockets: h11 knows the protocol, this when it is enough.

Handlers are plain functions: what they serve is in memory. So an answer is written in the same
turn of the loop in which its request was whole, and there is never a handler to cancel.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote

import h11

MOST_CONNECTIONS = 64
BACKLOG = 16
MOST_HEAD_BYTES = 8192  # request line and headers together
HEAD_S = 5.0  # from a request's first byte, or the connection, until its last byte
IDLE_S = 30.0  # between two requests
WRITE_S = 10.0  # in which a client must have taken what waits for it
LINGER_S = 1.0  # after the last answer, so that a client that still sends can read it
CLOSE_S = 0.5  # in which `Server.close` lets answers reach their clients

_REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
_LOG = logging.getLogger("poolwright")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A whole request. Names of headers are in lower case; of one sent twice the last counts."""

    method: str
    path: str  # decoded, without the query
    pool: str  # what stands for {pool} in the route, "" where nothing does
    headers: Mapping[str, str]
    body: bytes
    connection: socket.socket


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer. Its length and the date are added."""

    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Response]


def text(status: int, said: str, *headers: tuple[str, str]) -> Response:
    """One line of plain text."""
    body = f"{said}\n".encode()
    kind = "text/plain; charset=utf-8"
    return Response(status=status, body=body, content_type=kind, headers=headers)


class Server:
    """Serves `routes`: path -> method -> handler, where a part of a path may be `{pool}`.

    HEAD is served wherever GET is. A handler's exception is logged and answered with status 500.
    """

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Handler]],
        *,
        most_body_bytes: int,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """`headers` go with every answer; a longer body is refused with status 413."""
        self.most_body_bytes = most_body_bytes
        self.headers = headers
        self._routes = {tuple(path.split("/")): methods for path, methods in routes.items()}
        self._listener: asyncio.Server | None = None
        self._open: dict[_Connection, None] = {}  # in the order in which they came
        self._empty = asyncio.Event()
        self._empty.set()

    async def listen(self, bound: socket.socket) -> None:
        """Serve at a bound socket, which is the server's from here on. Raises OSError."""
        loop = asyncio.get_running_loop()
        bound.setblocking(False)  # asyncio would do so, uvloop would block in accept(2)
        # the two calls are one in asyncio, but not in uvloop
        create = loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
        try:
            self._listener = await create(lambda: _Connection(self), sock=bound, backlog=BACKLOG)
        except BaseException:
            bound.close()
            raise

    async def close(self) -> None:
        """Stop listening; answers under way have CLOSE_S to arrive. May be called twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        for connection in tuple(self._open):
            connection.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._empty.wait()
        except TimeoutError:
            for connection in tuple(self._open):
                connection.abort()
            await self._empty.wait()

    def admit(self, new: "_Connection") -> None:
        """Count a connection; the oldest makes room for it, so that a scrape still gets in."""
        while len(self._open) >= MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()
        self._open[new] = None
        self._empty.clear()

    def forget(self, gone: "_Connection") -> None:
        """A connection has ended."""
        self._open.pop(gone, None)
        if not self._open:
            self._empty.set()

    def answer(self, head: h11.Request, body: bytes, connection: socket.socket) -> Response:
        """The answer to a whole request; never raises."""
        method, target = head.method.decode(), head.target.decode("latin-1")
        parts = tuple(unquote(part) for part in _path(target).split("/"))
        methods, pool = self._route(parts)
        handler = methods.get("GET" if method == "HEAD" else method)
        if not methods:
            return text(404, "there is no such page")
        if handler is None:
            allowed = [*methods, "HEAD"] if "GET" in methods else [*methods]
            return text(405, f"{method} is not for this page", ("Allow", ", ".join(allowed)))
        request = Request(
            method=method,
            path="/".join(parts),
            pool=pool,
            headers={name.decode(): value.decode("latin-1") for name, value in head.headers},
            body=body,
            connection=connection,
        )
        try:
            return handler(request)
        except Exception:  # noqa: BLE001 - logged; one page must not end the daemon
            _LOG.exception("%s %s failed", method, target)
            return text(500, "poolwright failed to answer; its log says why")

    def _route(self, parts: Sequence[str]) -> tuple[Mapping[str, Handler], str]:
        for route, methods in self._routes.items():
            pairs = list(zip(route, parts, strict=False))
            if len(route) == len(parts) and all(
                wanted == part or (wanted == "{pool}" and part) for wanted, part in pairs
            ):
                return methods, next((part for wanted, part in pairs if wanted == "{pool}"), "")
        return {}, ""


class _Connection(asyncio.Protocol):
    """One client. A single timer runs all its life: see `_within`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._head: h11.Request | None = None  # of the request that is coming in
        self._body = bytearray()
        self._begun: bool | None = True  # part of a request is here; None: to be found out
        self._blocked = False  # the client does not take what it asked for
        self._ending = False  # the last answer is written

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods
        self._within(HEAD_S, self._late)
        self._server.admit(self)

    def data_received(self, data: bytes) -> None:
        if not self._ending:
            self._http.receive_data(data)
            self._advance()

    def eof_received(self) -> None:
        """The client will send no more: write what is left, then hang up."""
        if not self._ending:
            self._http.receive_data(b"")
            self._advance()
        self.close()

    def pause_writing(self) -> None:
        """Take no further request until the client has read the answers to the last ones."""
        self._blocked = True
        self._transport.pause_reading()
        if not self._transport.is_closing():
            self._within(WRITE_S, self.abort)

    def resume_writing(self) -> None:
        self._blocked = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
            if self._ending:
                self._within(LINGER_S, self._lingered)
            else:
                self._begun = None
                self._advance()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._ending = True
        self._server.forget(self)

    def close(self) -> None:
        """Hang up once everything written is taken, or after WRITE_S."""
        self._ending = True
        self._transport.close()
        self._within(WRITE_S, self.abort)

    def abort(self) -> None:
        """Hang up now."""
        self._ending = True
        self._transport.abort()

    def _within(self, seconds: float, then: Callable[[], None]) -> None:
        """Do `then` after `seconds` unless something is set after this."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _late(self) -> None:
        if self._head is None and not self._http.trailing_data[0]:
            self.abort()
        else:
            self._refuse(408, f"the request was not whole after {HEAD_S:g} s")

    def _advance(self) -> None:
        """Answer every request that is whole."""
        try:
            while not (self._blocked or self._ending):
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._take_head(event)
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > self._server.most_body_bytes:
                        self._refuse(413, self._too_long())
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
                else:  # NEED_DATA, or the client hung up between two requests
                    self._wait()
                    return
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, str(error))

    def _wait(self) -> None:
        """For the rest of a request, or for the next one."""
        begun = self._head is not None or bool(self._http.trailing_data[0])
        if begun != self._begun:
            self._begun = begun
            self._within(*((HEAD_S, self._late) if begun else (IDLE_S, self.abort)))

    def _take_head(self, head: h11.Request) -> None:
        # h11 looks at the length of a head only while it is incomplete
        size = len(head.target) + sum(len(n) + len(v) + 4 for n, v in head.headers)
        if size > MOST_HEAD_BYTES:
            self._refuse(431, f"the head is longer than {MOST_HEAD_BYTES} bytes")
            return
        self._head = head
        length = next((int(v) for n, v in head.headers if n == b"content-length"), 0)
        if length > self._server.most_body_bytes:
            self._refuse(413, self._too_long())
        elif self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._transport.write(self._http.send(go_on) or b"")

    def _answer(self) -> None:
        head, body = self._head, bytes(self._body)
        assert head is not None, "h11 ends no message that it did not begin"
        self._head = None
        self._body.clear()
        connection = self._transport.get_extra_info("socket")
        self._write(self._server.answer(head, body, connection), head.method != b"HEAD")
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._begun = None
        else:
            self._end()

    def _refuse(self, status: int, why: str) -> None:
        """Answer what is no request, and hang up."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with_body = self._head is None or self._head.method != b"HEAD"
            self._write(text(status, why, ("Connection", "close")), with_body)
        self._end()

    def _write(self, response: Response, with_body: bool) -> None:
        headers = [
            ("Date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            *self._server.headers,
            *response.headers,
        ]
        reason = _REASONS.get(response.status, "").encode()
        start = h11.Response(status_code=response.status, headers=headers, reason=reason)
        pieces = [self._http.send(start)]
        if with_body:
            pieces.append(self._http.send(h11.Data(data=response.body)))
        pieces.append(self._http.send(h11.EndOfMessage()))
        self._transport.write(b"".join(piece for piece in pieces if piece))

    def _end(self) -> None:
        """Say that nothing more comes, and let the client hang up.

        Hanging up at once, with something of the client's unread, would make its kernel throw away
        an answer that it has not read yet (RFC 9112, 9.6).
        """
        self._ending = True
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._within(LINGER_S, self._lingered)

    def _lingered(self) -> None:
        if self._transport.get_write_buffer_size():
            self._within(WRITE_S, self.abort)
        else:
            self.abort()

    def _too_long(self) -> str:
        most = self._server.most_body_bytes
        return f"a body of at most {most} bytes is taken here" if most else "no body is taken here"


def _path(target: str) -> str:
    """The path of a request's target, which may be a whole URL (RFC 9112, 3.2.2)."""
    scheme, colon, rest = target.partition("://")
    if colon and scheme.isalpha():
        target = "/" + rest.partition("/")[2]
    return target.partition("?")[0].partition("#")[0]


def bind_tcp(host: str, port: int) -> socket.socket:
    """A socket bound to an address or, of a host's name, to the first of its addresses.

    Not left to the loop: uvloop starts four threads to look up even a literal address.
    Raises OSError.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made
