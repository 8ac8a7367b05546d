"""The read-only surface over TCP, and the start and end of both servers."""

import asyncio
import base64
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from poolwright import __version__
from poolwright.core.errors import PlantFault
from poolwright.core.model import Command
from poolwright.engine.snapshot import Snapshot
from poolwright.surface import control as control_socket
from poolwright.surface.api import Api
from poolwright.surface.book import Book
from poolwright.surface.events import Events
from poolwright.surface.gate import gate
from poolwright.surface.message import Handler, Request, Response, text
from poolwright.surface.metrics import Exposition
from poolwright.surface.page import STYLE, page
from poolwright.surface.past import refill
from poolwright.surface.records import Records
from poolwright.surface.route import Sources
from poolwright.surface.server import Server, bind_tcp
from poolwright.surface.static_files import StaticFiles
from poolwright.surface.words import ready, seen_once

RECENT_CADENCES = 5  # a snapshot older than this many cadences means that the loop stands still

_NOWHERE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_OWN = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:"
)
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", f"{_OWN}; {_NOWHERE}"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_PLAIN_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; {_NOWHERE}"
_LOG = logging.getLogger("poolwright")


class Surface:
    """What people and Prometheus see of the daemon. Serves only what `latest` gives."""

    def __init__(
        self,
        latest: Callable[[], Snapshot | None],
        mono_ns: Callable[[], int] = time.monotonic_ns,
        journal: Path | None = None,
        pools: Sequence[str] = (),
    ) -> None:
        """`latest`: the newest Snapshot, None before the first; `mono_ns`: the ticks' clock.

        `journal`: what is asked about the past of `pools`; it is only read.
        """
        self._latest = latest
        self._mono_ns = mono_ns
        self._exposition = Exposition(__version__, latest)
        self._events = Events()
        self._book = Book(self._events.published)
        self._records = None if journal is None else Records(journal)
        self._pools = list(pools)
        self._static = StaticFiles()
        self._server: Server | None = None
        self._control: control_socket.ControlServer | None = None
        self._refilling: asyncio.Task[None] | None = None
        self.address = ""  # host:port that is listened on, once started

    def published(self, snapshot: Snapshot) -> None:
        """To be called once a slot, so that every tick is counted, kept and told."""
        self._exposition.collector.published(snapshot)
        self._book.published(snapshot)

    async def start(
        self,
        listen: str | None,
        control: str | None,
        command: Callable[[str, Command], str],
        control_group: str | None = None,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        """Listen at `listen` (host:port) and at the UNIX socket `control`, each if given.

        `allowed_hosts`: names in a Host header that are ours, beside `listen`'s own.

        `command` takes a pool's name and what an operator asks of it, and says why it is refused
        (KeyError: no such pool; "": it is accepted).
        Members of `control_group` may command, beside root and the daemon's own user.
        Raises PlantFault naming the address that cannot be bound; nothing listens then.
        """
        try:
            if listen is not None:
                await self._listen(listen, allowed_hosts)
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
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.wait([self._refilling])
            self._refilling = None
        if self._records is not None:
            self._records.close()

    async def _listen(self, listen: str, allowed_hosts: Sequence[str]) -> None:
        host, port = host_port(listen)
        try:
            bound = bind_tcp(host, port)
            there = bound.getsockname()
            admits = gate(host, there[0], allowed_hosts)
            server = Server(self._routes(), most_body_bytes=0, headers=_HEADERS, gate=admits)
            await server.listen(bound)
        except OSError as error:
            raise PlantFault(f"cannot listen on {listen}: {error.strerror or error}") from error
        self._server = server
        if self._records is not None:
            self._refilling = asyncio.create_task(self._refill(self._records.path), name="past")
        self.address = f"[{there[0]}]:{there[1]}" if ":" in there[0] else f"{there[0]}:{there[1]}"

    async def _refill(self, journal: Path) -> None:
        """The picture of the last day survives a restart."""
        try:
            await refill(self._book, journal, self._pools)
        except OSError as error:
            _LOG.warning("the charts begin now: %s", error)

    def _routes(self) -> dict[str, dict[str, Handler]]:
        api = Api(Sources(self._latest, self._book, self._records), self._events)
        pages: dict[str, Handler] = {
            "/": self._static.index,
            "/assets/{file}": self._static.asset,
            "/plain": self._plain,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            **api.handlers(),
        }
        return {path: {"GET": handler} for path, handler in pages.items()}

    def _plain(self, _request: Request) -> Response:
        return Response(
            status=200,
            body=page(self._latest(), self._stale()).encode(),
            content_type="text/html; charset=utf-8",
            headers=(("Content-Security-Policy", _PLAIN_POLICY),),
        )

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
