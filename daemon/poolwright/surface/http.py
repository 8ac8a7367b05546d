"""The read-only surface over TCP, and the start and end of both servers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
from aiohttp import web

from poolwright import __version__
from poolwright.core.errors import PlantFault
from poolwright.core.model import Command
from poolwright.engine.snapshot import Snapshot
from poolwright.surface import control as control_socket
from poolwright.surface.metrics import Exposition
from poolwright.surface.page import page
from poolwright.surface.words import ready, seen_once

RECENT_CADENCES = 5  # a snapshot older than this many cadences means that the loop stands still

MOST_CONNECTIONS = 64
BACKLOG = 16

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}


class Surface:
    """What people and Prometheus see of the daemon. Serves only what `latest` gives."""

    def __init__(
        self,
        latest: Callable[[], Snapshot | None],
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`latest`: the newest Snapshot, None before the first; `mono_ns`: the ticks' clock."""
        self._latest = latest
        self._mono_ns = mono_ns
        self._exposition = Exposition(__version__, latest)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._control: control_socket.ControlServer | None = None
        self.address = ""  # host:port that is listened on, once started

    def published(self, snapshot: Snapshot) -> None:
        """To be called once a slot, so that every tick's duration is counted."""
        self._exposition.collector.published(snapshot)

    async def start(
        self,
        listen: str | None,
        control: str | None,
        command: Callable[[str, Command], bool],
        control_group: str | None = None,
    ) -> None:
        """Listen at `listen` (host:port) and at the UNIX socket `control`, each if given.

        `command` takes a pool's name and what an operator asks of it; False: no such pool.
        Members of `control_group` may command, beside root and the daemon's own user.
        Raises PlantFault naming the address that cannot be bound; nothing listens then.
        """
        try:
            if listen is not None:
                await self._listen(listen)
            if control is not None:
                server = control_socket.ControlServer(control, command, control_group)
                await server.start()
                self._control = server
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening. May be called twice, and without start."""
        if self._control is not None:
            await self._control.close()
            self._control = None
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _listen(self, listen: str) -> None:
        host, port = host_port(listen)
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=0.5,
            # Small, for nobody has to say much here.
            max_line_size=2048,
            max_field_size=4096,
            max_headers=64,
            keepalive_timeout=30.0,
            lingering_time=1.0,
        )
        self._runner = runner
        await runner.setup()
        try:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                _bounded(runner.server), host, port, backlog=BACKLOG
            )
        except OSError as error:
            raise PlantFault(f"cannot listen on {listen}: {error.strerror or error}") from error
        bound = self._server.sockets[0].getsockname()
        self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[_plain], client_max_size=1024)
        app.on_response_prepare.append(_no_store)
        app.router.add_get("/", self._index)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/api/v1/status", self._status)
        app.router.add_get("/api/v1/status/{pool}", self._pool_status)
        return app

    async def _index(self, _request: web.Request) -> web.Response:
        text = page(self._latest(), self._stale())
        return web.Response(text=text, content_type="text/html", charset="utf-8")

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, _request: web.Request) -> web.Response:
        why = self._stale()
        return _text(503, why) if why else _text(200, "ok")

    async def _readyz(self, _request: web.Request) -> web.Response:
        snapshot = self._latest()
        if snapshot is None:
            return _text(503, "no tick has been made yet")
        if ready(snapshot):
            return _text(200, "ready")
        unseen = [pool.pool for pool in snapshot.pools if not seen_once(pool)]
        what = f"not seen yet: {', '.join(unseen)}" if unseen else "no pool is configured"
        return _text(503, what)

    async def _status(self, _request: web.Request) -> web.Response:
        snapshot = self._latest()
        if snapshot is None:
            return _text(503, "no tick has been made yet")
        return _json(snapshot)

    async def _pool_status(self, request: web.Request) -> web.Response:
        name, snapshot = request.match_info["pool"], self._latest()
        if snapshot is None:
            return _text(503, "no tick has been made yet")
        for pool in snapshot.pools:
            if pool.pool == name:
                return _json(pool)
        return _text(404, f"no pool {name!r}; there is {', '.join(p.pool for p in snapshot.pools)}")

    def _stale(self) -> str:
        """Why the loop seems to stand still; empty when it does not. The slowest pool counts."""
        snapshot = self._latest()
        if snapshot is None or not snapshot.pools:
            return "no tick has been made yet"
        slowest = min(snapshot.pools, key=lambda pool: pool.tick.mono_ns)
        age_s = (self._mono_ns() - slowest.tick.mono_ns) / 1e9
        allowed_s = RECENT_CADENCES * snapshot.cadence_s
        if age_s < allowed_s:
            return ""
        return f"{slowest.pool}: the newest tick is {age_s:.1f} s old, {allowed_s:g} s allowed"


def host_port(listen: str) -> tuple[str, int]:
    """`127.0.0.1:9817` or `[::1]:9817` in its two parts; PlantFault when it is neither."""
    host, colon, port = listen.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    whole = colon and bare and (":" not in bare or host == f"[{bare}]")
    if not (whole and port.isascii() and port.isdigit() and int(port) < 65536):
        raise PlantFault(f"cannot listen on {listen!r}: not of the form host:port")
    return bare, int(port)


def _bounded(serve: web.Server | None) -> Callable[[], asyncio.BaseProtocol]:
    """A protocol factory under which idle clients cannot use up the daemon's file descriptors.

    The oldest connection makes room for a new one, so that a scrape still gets in.
    """
    assert serve is not None, "the runner is set up"

    def connect() -> asyncio.BaseProtocol:
        there = serve.connections
        for oldest in there[: max(0, len(there) - MOST_CONNECTIONS + 1)]:
            oldest.force_close()
        return serve()

    return connect


@web.middleware
async def _plain(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse bodies: nothing here takes one, and reading it would only cost."""
    if request.body_exists:
        return _text(413, "no body is taken here")
    return await handler(request)


async def _no_store(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    with suppress(KeyError):
        del response.headers["Server"]


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
