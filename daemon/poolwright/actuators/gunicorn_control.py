"""gunicorn's control socket (gunicorn >= 25.1): one command, one connection.

Wire: a message is its length as four big-endian bytes and then JSON, `{"id", "command", "args"}`
out and `{"id", "status", "data" | "error"}` back. gunicorn stops its control server before every
fork and starts it again after it, so a connection may meet no socket (ENOENT), nobody
(ECONNREFUSED), or be cut off (EPIPE, ECONNRESET, end of file). Until a command has been sent all of
these may be tried again; afterwards only a command that changes nothing may.
"""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from poolwright.core.errors import PlantFault

_REPLY_MOST = 4 << 20  # `show workers` is about 100 bytes a worker
_PAUSE_S = 0.01
_PAUSE_MOST_S = 0.1
_ATTEMPT_S = 1.0  # a connection made while the server stops may be left without an end or an answer
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid; see unix(7)
# A non-blocking connect to a full backlog shows as EAGAIN or, at the first write, as ENOTCONN.
_PASSING = (FileNotFoundError, ConnectionError, BlockingIOError, EOFError)


class ControlDenied(PlantFault):
    """The socket may not be opened by this user."""


class ControlSilent(PlantFault):
    """The command was sent and no answer came: it may have been obeyed or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The part of `show stats` that is true. `peer` is the process as our PID namespace sees it."""

    pid: int
    peer: int
    target: int  # workers the master aims at
    reloads: int
    dirty_pid: int | None


class Control:
    """The control socket at `path`."""

    def __init__(self, path: str) -> None:
        """Nothing is opened yet."""
        self.path = path

    async def stats(self, within_s: float) -> Stats:
        """What the master aims at. Raises ControlDenied, PlantFault."""
        found, peer = await self._ask("show stats", (), within_s, harmless=True)
        dirty = found.get("dirty_arbiter_pid")
        return Stats(
            pid=self._count(found, "pid"),
            peer=peer,
            target=self._count(found, "workers_target"),
            reloads=self._count(found, "reloads"),
            dirty_pid=dirty if isinstance(dirty, int) else None,
        )

    async def workers(self, within_s: float) -> tuple[tuple[int, int], ...]:
        """(age, pid) of all workers that have not been reaped, the oldest first."""
        found, _ = await self._ask("show workers", (), within_s, harmless=True)
        rows = found.get("workers")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise PlantFault(f"{self.path}: 'show workers' gave no list of workers: {found!r:.100}")
        return tuple(sorted((self._count(r, "age"), self._count(r, "pid")) for r in rows))

    async def listeners(self, within_s: float) -> int:
        """How many listening sockets the master holds; none when its workers have their own."""
        found, _ = await self._ask("show listeners", (), within_s, harmless=True)
        return self._count(found, "count")

    async def change(self, by: int, within_s: float) -> int:
        """Ask for one worker more (`by` = 1) or less (-1); how many were aimed at before.

        Raises ControlSilent when the command was sent and not answered.
        """
        assert by in (1, -1)
        command = "worker add" if by > 0 else "worker remove"
        found, _ = await self._ask(command, (1,), within_s, harmless=False)
        return self._count(found, "previous")

    def _count(self, found: dict[str, Any], key: str) -> int:
        number = found.get(key)
        if type(number) is not int or number < 0:
            raise PlantFault(f"{self.path}: {key} is {number!r}: not the answer of a gunicorn")
        return number

    async def _ask(
        self, command: str, args: Sequence[int], within_s: float, *, harmless: bool
    ) -> tuple[dict[str, Any], int]:
        """The answer's data and the peer's process id. Tries again until `within_s` have passed."""
        until = time.monotonic() + within_s
        attempt_s = min(_ATTEMPT_S, within_s / 2)
        pause_s = _PAUSE_S
        while True:
            sent = [False]
            try:
                async with asyncio.timeout(min(attempt_s, max(0.0, until - time.monotonic()))):
                    return await self._exchange(command, args, sent)
            except TimeoutError:
                why = "no answer"
            except PermissionError as error:
                raise ControlDenied(f"{self.path}: {error.strerror}") from error
            except _PASSING as error:
                why = getattr(error, "strerror", None) or "the connection was cut off"
            except OSError as error:
                raise PlantFault(f"{self.path}: {error.strerror or error}") from error
            if sent[0] and not harmless:
                raise ControlSilent(f"{self.path}: {command!r} was sent and not answered: {why}")
            if time.monotonic() + pause_s >= until:
                raise PlantFault(f"{self.path}: {why} to {command!r} within {within_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s = min(_PAUSE_MOST_S, 2.0 * pause_s)

    async def _exchange(
        self, command: str, args: Sequence[int], sent: list[bool]
    ) -> tuple[dict[str, Any], int]:
        loop = asyncio.get_running_loop()
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as link:
            link.setblocking(False)
            await loop.sock_connect(link, self.path)
            peer, _, _ = _PEER.unpack(
                link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            )
            body = json.dumps({"id": 1, "command": command, "args": list(args)}).encode()
            sent[0] = True
            await loop.sock_sendall(link, struct.pack(">I", len(body)) + body)
            (size,) = struct.unpack(">I", await _exactly(link, 4))
            if size > _REPLY_MOST:
                raise PlantFault(f"{self.path}: an answer of {size} bytes: not a gunicorn")
            return self._data(command, await _exactly(link, size)), peer

    def _data(self, command: str, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise PlantFault(f"{self.path}: not JSON: {body[:60]!r}") from error
        if isinstance(answer, dict) and answer.get("status") == "error":
            raise PlantFault(f"{self.path}: {command!r}: {answer.get('error')}")
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
            raise PlantFault(f"{self.path}: {command!r}: no data in {body[:60]!r}")
        data: dict[str, Any] = answer["data"]
        return data


async def _exactly(link: socket.socket, size: int) -> bytes:
    """`size` bytes. Raises EOFError when the other side closes before."""
    loop = asyncio.get_running_loop()
    found = bytearray()
    while len(found) < size:
        chunk = await loop.sock_recv(link, min(size - len(found), 65536))
        if not chunk:
            raise EOFError
        found += chunk
    return bytes(found)
