"""The read-only surface over TCP, and the start and end of both servers."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from poolwright import __version__
from poolwright.core.errors import PlantFault
from poolwright.core.model import Command
from poolwright.engine.snapshot import Snapshot
from poolwright.surface import control as control_socket
from poolwright.surface.metrics import Exposition, JournalFile
from poolwright.surface.page import page
from poolwright.surface.server import Handler, Request, Response, Server, bind_tcp, text
from poolwright.surface.words import ready, seen_once

RECENT_CADENCES = 5  # a snapshot older than this many cadences means that the loop stands still

_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
)


class Surface:
    """What people and Prometheus see of the daemon. Serves only what `latest` gives."""

    def __init__(
        self,
        latest: Callable[[], Snapshot | None],
        mono_ns: Callable[[], int] = time.monotonic_ns,
        journal: Path | None = None,
        journal_most_bytes: int = 0,
    ) -> None:
        """`latest`: the newest Snapshot, None before the first; `mono_ns`: the ticks' clock.

        `journal`: the file whose size the metrics tell, beside its bound.
        """
        self._latest = latest
        self._mono_ns = mono_ns
        file = None if journal is None else JournalFile(journal, journal_most_bytes)
        self._exposition = Exposition(__version__, latest, file, mono_ns)
        self._server: Server | None = None
        self._control: control_socket.ControlServer | None = None
        self.address = ""  # host:port that is listened on, once started

    def published(self, snapshot: Snapshot) -> None:
        """To be called once a slot, so that every tick's duration is counted."""
        self._exposition.collector.published(snapshot)

    async def start(
        self,
        listen: str | None,
        control: str | None,
        command: Callable[[str, Command], str],
        control_group: str | None = None,
    ) -> None:
        """Listen at `listen` (host:port) and at the UNIX socket `control`, each if given.

        `command` takes a pool's name and what an operator asks of it, and says why it is refused
        (KeyError: no such pool; "": it is accepted).
        Members of `control_group` may command, beside root and the daemon's own user.
        Raises PlantFault naming the address that cannot be bound; nothing listens then.
        """
        try:
            if listen is not None:
                await self._listen(listen)
            if control is not None:
                server = control_socket.ControlServer(control, command, self._latest, control_group)
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
            await self._server.close()
            self._server = None

    async def _listen(self, listen: str) -> None:
        host, port = host_port(listen)
        server = Server(self._routes(), most_body_bytes=0, headers=_HEADERS)
        try:
            bound = bind_tcp(host, port)
            there = bound.getsockname()
            await server.listen(bound)
        except OSError as error:
            raise PlantFault(f"cannot listen on {listen}: {error.strerror or error}") from error
        self._server = server
        self.address = f"[{there[0]}]:{there[1]}" if ":" in there[0] else f"{there[0]}:{there[1]}"

    def _routes(self) -> dict[str, dict[str, Handler]]:
        pages: dict[str, Handler] = {
            "/": self._index,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/api/v1/status": self._status,
            "/api/v1/status/{pool}": self._pool_status,
        }
        return {path: {"GET": handler} for path, handler in pages.items()}

    def _index(self, _request: Request) -> Response:
        body = page(self._latest(), self._stale()).encode()
        return Response(status=200, body=body, content_type="text/html; charset=utf-8")

    def _metrics(self, request: Request) -> Response:
        body, content_type = self._exposition.render(request.headers.get("accept", ""))
        return Response(status=200, body=body, content_type=content_type)

    def _healthz(self, _request: Request) -> Response:
        why = self._stale()
        return text(503, why) if why else text(200, "ok")

    def _readyz(self, _request: Request) -> Response:
        snapshot = self._latest()
        if snapshot is None:
            return text(503, "no tick has been made yet")
        if ready(snapshot):
            return text(200, "ready")
        unseen = [pool.pool for pool in snapshot.pools if not seen_once(pool)]
        what = f"not seen yet: {', '.join(unseen)}" if unseen else "no pool is configured"
        return text(503, what)

    def _status(self, _request: Request) -> Response:
        snapshot = self._latest()
        if snapshot is None:
            return text(503, "no tick has been made yet")
        return _json(snapshot)

    def _pool_status(self, request: Request) -> Response:
        name, snapshot = request.pool, self._latest()
        if snapshot is None:
            return text(503, "no tick has been made yet")
        for pool in snapshot.pools:
            if pool.pool == name:
                return _json(pool)
        return text(404, f"no pool {name!r}; there is {', '.join(p.pool for p in snapshot.pools)}")

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


def _json(value: object) -> Response:
    body = msgspec.json.encode(value)
    return Response(status=200, body=body, content_type="application/json")
