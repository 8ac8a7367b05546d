"""The daemon's end of `client.desk`: asks every process of an application, and believes little.

Applications never import this. What comes back is checked in type and range; an answer may be so
long and take so long and no more; only who owns the folder may answer from it.
"""

import asyncio
import os
import socket
import stat
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from poolwright.core.errors import PlantFault

MOST_BYTES = 256 * 1024  # four distributions with all the buckets that there are take 100 KB
_MOST_PROCESSES = 512
_AT_ONCE = 32
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid; see unix(7)
_BUCKETS = 1_727  # of client.tally, from a nanosecond to a million seconds

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Limit = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
_Sum = Annotated[float, msgspec.Meta(ge=0.0, le=1e30)]
_Bucket = tuple[Annotated[int, msgspec.Meta(ge=-1100, le=1100)], _Count]


class Denied(PlantFault):
    """This user may not ask."""


class Gone(Exception):
    """The process ended; its socket is what it left."""


class _HungUp(PlantFault):
    """It was there, and closed without an answer: it has ended just now, or is none of ours."""


class Shape(msgspec.Struct, frozen=True):
    """A `client.tally.Tally`."""

    bins: Annotated[list[_Bucket], msgspec.Meta(max_length=_BUCKETS)]
    zeros: _Count
    total: _Sum
    squares: _Sum


class Requests(msgspec.Struct, frozen=True):
    """What a Meter has counted since its process began."""

    in_flight: int
    open_streams: int
    ended: _Count
    errors: _Count
    carried: _Count
    odd: _Count
    refused: _Count
    service: Shape
    queue: Shape
    latency: Shape


class Tasks(msgspec.Struct, frozen=True):
    """What a pool does, and has done since its process began."""

    running: _Count
    queued: _Count
    done: _Count
    failed: _Count
    waited: Shape
    stayed: Shape  # waited and ran
    ran: Shape


class Told(msgspec.Struct, frozen=True):
    """What one process says. `limit` and `running` are None when it offers no pool."""

    pid: _Count
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    born_ns: _Count
    limit: _Limit | None
    running: _Count | None
    tasks: Tasks | None = None
    requests: Requests | None = None
    path: str = ""  # where it was asked; not on the wire

    @property
    def name(self) -> str:
        """For people."""
        return f"process {self.pid}"


class _Error(msgspec.Struct, frozen=True):
    error: str


_TOLD = msgspec.json.Decoder(Told)
_ERROR = msgspec.json.Decoder(_Error)


class Reach:
    """All processes that offer in `folder`."""

    def __init__(self, folder: str) -> None:
        """Nothing is opened yet."""
        self.folder = folder.rstrip("/") or "/"

    async def ask(self, within_s: float, *, counts: bool = False) -> tuple[Told, ...]:
        """What every process says, sorted by age. At least one, or PlantFault.

        One that does not answer within `within_s`, or not sensibly, is a PlantFault naming it:
        without it every sum would be false. Those that have ended are passed over.
        """
        owner, paths = self._sockets()
        request = {"counts": True} if counts else {}
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(path: str) -> Told | None:
            async with gate:
                try:
                    try:
                        return await self._exchange(path, owner, request)
                    except _HungUp:
                        return await self._exchange(path, owner, request)
                except Gone:
                    return None

        tasks: list[asyncio.Task[Told | None]] = []
        try:
            async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(path)) for path in paths]
        except TimeoutError:
            silent = [p for p, t in zip(paths, tasks, strict=True) if t.cancelled()]
            raise PlantFault(
                f"{', '.join(silent[:4]) or self.folder}: no answer within {within_s:g} s"
            ) from None
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        told = [found for task in tasks if (found := task.result()) is not None]
        if not told:
            raise PlantFault(
                f"{self.folder}: no process answers: does the application run, and call "
                "poolwright.client.offer with this folder?"
            )
        return tuple(sorted(told, key=lambda t: (t.born_ns, t.token)))

    async def move(self, to: Told, limit: int, plan: tuple[int, int], within_s: float) -> Told:
        """Give one process its limit; what it then says. `plan`: (total, processes), for newcomers.

        Raises PlantFault when it does not answer; it does not obey either, then or later.
        """
        owner, _ = self._sockets()
        total, processes = plan
        until_ns = time.monotonic_ns() + int(within_s * 1e9)
        request = {"limit": limit, "total": total, "processes": processes, "until_ns": until_ns}
        try:
            async with asyncio.timeout(within_s):
                return await self._exchange(to.path, owner, request)
        except TimeoutError:
            raise PlantFault(f"{to.path}: no answer within {within_s:g} s") from None
        except Gone:
            raise PlantFault(f"{to.path}: {to.name} has ended") from None

    def _sockets(self) -> tuple[int, Sequence[str]]:
        """Who may answer, and where. Raises PlantFault, Denied."""
        folder = self.folder
        try:
            found = os.stat(folder)
            with os.scandir(folder) as entries:
                paths = [entry.path for entry in entries if entry.name.endswith(".sock")]
        except PermissionError as error:
            raise Denied(f"{folder}: {error.strerror}") from error
        except OSError as error:
            raise PlantFault(f"{folder}: {error.strerror}") from error
        if found.st_mode & stat.S_IWOTH:
            raise PlantFault(
                f"{folder}: anybody may write to it, so anybody could answer: chmod o-w"
            )
        if len(paths) > _MOST_PROCESSES:
            raise PlantFault(f"{folder}: {len(paths)} sockets, more than {_MOST_PROCESSES}")
        return found.st_uid, sorted(paths)

    async def _exchange(self, path: str, owner: int, request: Mapping[str, object]) -> Told:
        """One line for one. Raises Gone, Denied, PlantFault."""
        writer = None
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=MOST_BYTES)
            _check_peer(path, owner, writer.get_extra_info("socket"))
            writer.write(msgspec.json.encode(request) + b"\n")
            line = await reader.readuntil(b"\n")
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise Gone from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise _HungUp(f"{path}: hung up without an answer") from error
        except asyncio.LimitOverrunError as error:
            raise PlantFault(f"{path}: an answer of more than {MOST_BYTES} bytes") from error
        except PermissionError as error:
            raise Denied(f"{path}: {error.strerror}") from error
        except OSError as error:
            raise PlantFault(f"{path}: {error.strerror or error}") from error
        finally:
            if writer is not None:
                writer.transport.abort()
        return _read(path, line)


def _check_peer(path: str, owner: int, link: socket.socket) -> None:
    packed = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, uid, _ = _PEER.unpack(packed)
    if uid not in (0, owner):
        raise PlantFault(f"{path}: answered by uid {uid}, and the folder is of uid {owner}")


def _read(path: str, line: bytes) -> Told:
    """Raises Denied, PlantFault."""
    try:
        told = _TOLD.decode(line)
    except msgspec.MsgspecError as error:  # not this; or the reason why not
        try:
            said = _ERROR.decode(line).error
        except msgspec.MsgspecError:
            raise PlantFault(f"{path}: not the answer of poolwright.client: {error}") from None
        kind = Denied if "may not ask" in said else PlantFault
        raise kind(f"{path}: {said[:200]!r}") from None
    return msgspec.structs.replace(told, path=path)
