"""A small HTTP/1.1 server for both sockets: what is served at which path.

Most of what handlers serve is in memory: such an answer is written in the same turn of the loop in
which its request was whole. What is not (the journal) is answered by an awaitable.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote

import h11

from poolwright.surface.connection import Connection
from poolwright.surface.message import Handler, Headers, Request, Response, Stream, text

MOST_CONNECTIONS = 64
BACKLOG = 16
CLOSE_S = 0.5  # in which `Server.close` lets answers reach their clients

_LOG = logging.getLogger("poolwright")


class Server:
    """Serves `routes`: path -> method -> handler, where a part of a path may be `{name}`.

    HEAD is served wherever GET is. A handler's exception is logged and answered with status 500.
    """

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Handler]],
        *,
        most_body_bytes: int,
        headers: Headers = (),
        gate: Callable[[Request], Response | None] | None = None,
    ) -> None:
        """`headers` go with every answer; a longer body is refused with status 413.

        `gate` may answer a request in place of its page.
        """
        self.most_body_bytes = most_body_bytes
        self.headers = headers
        self._gate = gate
        self._routes = {tuple(path.split("/")): methods for path, methods in routes.items()}
        self._listener: asyncio.Server | None = None
        self._open: dict[Connection, None] = {}  # in the order in which they came
        self._empty = asyncio.Event()
        self._empty.set()

    async def listen(self, bound: socket.socket) -> None:
        """Serve at a bound socket, which is the server's from here on. Raises OSError."""
        loop = asyncio.get_running_loop()
        bound.setblocking(False)  # asyncio would do so, uvloop would block in accept(2)
        # the two calls are one in asyncio, but not in uvloop
        create = loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
        try:
            self._listener = await create(lambda: Connection(self), sock=bound, backlog=BACKLOG)
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

    def admit(self, new: Connection) -> None:
        """Count a connection; the oldest makes room for it, so that a scrape still gets in."""
        while len(self._open) >= MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()
        self._open[new] = None
        self._empty.clear()

    def forget(self, gone: Connection) -> None:
        """A connection has ended."""
        self._open.pop(gone, None)
        if not self._open:
            self._empty.set()

    def answer(
        self, head: h11.Request, body: bytes, connection: socket.socket
    ) -> Response | Awaitable[Response] | Stream:
        """The answer to a whole request; never raises."""
        method, target = head.method.decode(), head.target.decode("latin-1")
        path, query = _split(target)
        parts = tuple(unquote(part) for part in path.split("/"))
        methods, named = self._route(parts)
        request = Request(
            method=method,
            path="/".join(parts),
            named=named,
            query=query,
            headers={name.decode(): value.decode("latin-1") for name, value in head.headers},
            body=body,
            connection=connection,
        )
        refused = None if self._gate is None else self._gate(request)
        if refused is not None:
            return refused
        if not methods:
            return text(404, "there is no such page")
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = [*methods, "HEAD"] if "GET" in methods else [*methods]
            return text(405, f"{method} is not for this page", ("Allow", ", ".join(allowed)))
        try:
            answer = handler(request)
        except Exception:  # noqa: BLE001 - logged; one page must not end the daemon
            return _failed(request)
        return answer if isinstance(answer, (Response, Stream)) else _awaited(request, answer)

    def _route(self, parts: tuple[str, ...]) -> tuple[Mapping[str, Handler], Mapping[str, str]]:
        for route, methods in self._routes.items():
            if len(route) == len(parts) and all(map(_fits, route, parts)):
                pairs = zip(route, parts, strict=True)
                return methods, {name[1:-1]: part for name, part in pairs if name[:1] == "{"}
        return {}, {}


def _fits(wanted: str, part: str) -> bool:
    return wanted == part or (wanted[:1] == "{" and part != "")


async def _awaited(request: Request, answer: Awaitable[Response]) -> Response:
    try:
        return await answer
    except Exception:  # noqa: BLE001 - as above
        return _failed(request)


def _failed(request: Request) -> Response:
    _LOG.exception("%s %s failed", request.method, request.path)
    return text(500, "poolwright failed to answer; its log says why")


def _split(target: str) -> tuple[str, str]:
    """The path and the query of a request's target, which may be a URL (RFC 9112, 3.2.2)."""
    scheme, colon, rest = target.partition("://")
    if colon and scheme.isalpha():
        target = "/" + rest.partition("/")[2]
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


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
