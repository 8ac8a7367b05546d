"""The UNIX socket at which operators ask for changes; the kernel says who they are."""

import errno
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from poolwright.core.errors import PlantFault
from poolwright.core.model import Command, CommandKind
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.surface.asked import BODIES, UnknownBaseline, command_of
from poolwright.surface.message import Handler, Request, Response
from poolwright.surface.server import Server

MODE = 0o660
BODY_LIMIT = 4096
_SO_PEERGROUPS = 59  # Linux 4.13, <asm-generic/socket.h>; not in Python's socket module
_GETSOCKOPT_MOST = 1024  # bytes; Python refuses more


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, as the kernel saw it when the connection was made."""

    pid: int
    uid: int
    gids: frozenset[int]

    def __str__(self) -> str:
        """For the journal: `alice (pid 4711)`."""
        try:
            user = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            user = f"uid {self.uid}"
        return f"{user} (pid {self.pid or 'unknown'})"


class ControlServer:
    """POST /v1/pools/{pool}/{command}, bodies: `surface.asked`; GET /v1/pools/{pool}/advice.

    Answers 202 when the request will be in the pool's next tick, 400 to a body that it does not
    understand, 403 to whom it does not know, 404 for an unknown pool, 409 (with the reason) to what
    cannot be done now.
    """

    def __init__(
        self,
        path: str,
        command: Callable[[str, Command], str],
        latest: Callable[[], Snapshot | None],
        group: str | None = None,
    ) -> None:
        """`command`: KeyError for an unknown pool; else why it is refused, "" when it is not.

        `latest`: the newest Snapshot; `group`: whose members may command as well. PlantFault when
        there is no such group.
        """
        self._path = path
        self._command = command
        self._latest = latest
        self._gid = None if group is None else _gid(path, group)
        self._server: Server | None = None
        self._inode: int | None = None

    async def start(self) -> None:
        """Listen. PlantFault naming the path when it cannot be bound or somebody answers on it."""
        pool = "/v1/pools/{pool}"
        routes: dict[str, dict[str, Handler]] = {
            f"{pool}/{kind.value}": {"POST": self._handler(kind)} for kind in BODIES
        }
        routes[f"{pool}/advice"] = {"GET": self._advice}
        server = Server(
            routes, most_body_bytes=BODY_LIMIT, headers=(("Cache-Control", "no-store"),)
        )
        try:
            await server.listen(self._bound())
            self._server = server
            self._inode = Path(self._path).stat().st_ino
        except OSError as error:
            await self.close()
            raise PlantFault(f"cannot listen on {self._path}: {error.strerror or error}") from error

    async def close(self) -> None:
        """Stop listening, and remove the socket's file if it is still ours. May be called twice."""
        if self._server is not None:
            await self._server.close()
            self._server = None
        path = Path(self._path)
        if self._inode is not None and path.exists() and path.stat().st_ino == self._inode:
            path.unlink()
        self._inode = None

    def _bound(self) -> socket.socket:
        """A bound socket that does not listen yet: nobody gets in before its mode is set."""
        _remove_stale(Path(self._path))
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.bind(self._path)
            Path(self._path).chmod(MODE)
            if self._gid not in (None, Path(self._path).stat().st_gid):
                os.chown(self._path, -1, self._gid)
        except OSError:
            made.close()
            raise
        return made

    def _handler(self, kind: CommandKind) -> Handler:
        def handle(request: Request) -> Response:
            peer = peer_of(request.connection)
            if not self._may_command(peer):
                return _not_allowed(peer)
            seen = self._seen(request.pool)
            try:
                baseline = None if seen is None else seen.baseline
                asked = command_of(kind, request.body, str(peer), baseline)
            except UnknownBaseline:
                return _answer(409, error=f"the baseline of pool {request.pool!r} is not known")
            except ValueError as error:  # of msgspec too
                return _answer(400, error=str(error))
            return self._pass_on(request.pool, asked, seen)

        return handle

    def _pass_on(self, pool: str, asked: Command, seen: PoolSnapshot | None) -> Response:
        try:
            refused = self._command(pool, asked)
        except KeyError:
            return _answer(404, error=f"no pool {pool!r}")
        if refused:
            return _answer(409, error=refused)
        said = {"pool": pool, "asked": asked.kind.value, "who": asked.who}
        where = asked.setting
        if where is None and asked.kind is CommandKind.ROLLBACK and seen is not None:
            where = seen.previous
        if where is not None:
            said["setting"] = str(where)
        return _answer(202, **said)

    def _advice(self, request: Request) -> Response:
        """The advice in force, null when there is none."""
        peer = peer_of(request.connection)
        if not self._may_command(peer):
            return _not_allowed(peer)
        seen = self._seen(request.pool)
        if seen is None:
            return _answer(404, error=f"no pool {request.pool!r} has been seen")
        return _answer(200, advice=seen.decision.advice)

    def _seen(self, pool: str) -> PoolSnapshot | None:
        snapshot = self._latest()
        pools = () if snapshot is None else snapshot.pools
        return next((seen for seen in pools if seen.pool == pool), None)

    def _may_command(self, peer: Peer) -> bool:
        return peer.uid in (0, os.geteuid()) or (self._gid is not None and self._gid in peer.gids)


def peer_of(connection: socket.socket) -> Peer:
    """The peer of a UNIX connection: SO_PEERCRED and SO_PEERGROUPS of unix(7) and socket(7)."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    pid, uid, gid = struct.unpack("iII", packed)
    try:
        more = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GETSOCKOPT_MOST)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        gids: Sequence[int] = _groups_by_name(
            uid, gid
        )  # more groups than Python's getsockopt can hold
    else:
        gids = struct.unpack(f"{len(more) // 4}I", more)
    return Peer(pid=pid, uid=uid, gids=frozenset((gid, *gids)))


def _groups_by_name(uid: int, gid: int) -> Sequence[int]:
    """The groups that the user database gives a user; none for a user that it does not know."""
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return ()


def _remove_stale(path: Path) -> None:
    """Remove a socket's file on which nobody answers; PlantFault when it is anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PlantFault(f"cannot listen on {path}: it exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:  # not proven dead: leave it alone
            raise PlantFault(f"cannot listen on {path}: {error.strerror or error}") from error
    raise PlantFault(f"cannot listen on {path}: another process answers there")


def _gid(path: str, group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise PlantFault(f"{path}: there is no group {group!r}") from error


def _not_allowed(peer: Peer) -> Response:
    return _answer(403, error=f"{peer} may not command poolwright")


def _answer(status: int, **said: object) -> Response:
    body = msgspec.json.encode(said)
    return Response(status=status, body=body, content_type="application/json")
