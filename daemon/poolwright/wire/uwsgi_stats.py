"""uWSGI's stats server: a JSON document to whoever connects, then the end of the file.

The master answers between its other work, and while it writes it does nothing else: so a read takes
what comes at once, and is given up soon. Requests under way are in the document with the bytes that
their clients sent (core/master_utils.c escapes quotes and backslashes, nothing more): what is not
printable ASCII is put aside before anything is parsed, or any client could blind us.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from typing import Annotated

import msgspec

from poolwright.core.errors import PlantFault, PolicyError

DOC = "uWSGI's --stats (without --stats-http): /run/web/stats.sock or 127.0.0.1:1717"
MOST_BYTES = 4 << 20  # about 1 kB a worker and, while it serves, 1 to 8 kB a thread

_Count = Annotated[int, msgspec.Meta(ge=0)]
_CHEAP = "cheap"
_PRINTABLE = bytes(c if 0x20 <= c < 0x7F else 0x20 if c < 0x20 else 0x3F for c in range(256))


class Core(msgspec.Struct, frozen=True):
    """A thread of a worker, or one of its greenlets: what serves one request."""

    in_request: _Count


class Slot(msgspec.Struct, frozen=True):
    """One of the `--processes` places; counters go on when its worker is replaced."""

    pid: _Count
    status: str  # idle, busy, sigN, pause; cheap: without a worker, or with one that leaves
    accepting: _Count
    requests: _Count
    exceptions: _Count
    harakiri_count: _Count
    respawn_count: _Count
    last_spawn: _Count  # seconds since 1970
    rss: _Count  # bytes after its last request; 0 without --memory-report
    cores: tuple[Core, ...]

    @property
    def kept(self) -> bool:
        """Whether the master wants a worker here."""
        return self.status != _CHEAP

    @property
    def serves(self) -> bool:
        """Whether a worker is here, to stay, and has got so far as to accept."""
        return self.kept and self.pid > 0 and self.accepting > 0

    @property
    def leaves(self) -> bool:
        """Whether a worker is on its way out."""
        return not self.kept and self.pid > 0


class Listener(msgspec.Struct, frozen=True):
    """One socket of the service. `max_queue` 0: uWSGI cannot tell (UNIX sockets, just started)."""

    name: str
    queue: _Count
    max_queue: _Count


class Stats(msgspec.Struct, frozen=True):
    """What is believed of the document."""

    pid: _Count
    version: str
    cwd: str
    sockets: tuple[Listener, ...]
    workers: tuple[Slot, ...]

    @property
    def kept(self) -> int:
        """Workers that the master keeps."""
        return sum(slot.kept for slot in self.workers)

    @property
    def in_flight(self) -> int:
        """Requests being served, also by workers that leave."""
        return sum(core.in_request > 0 for slot in self.workers for core in slot.cores)

    @property
    def serving(self) -> int:
        """Workers that accept requests and are there to stay."""
        return sum(slot.serves for slot in self.workers)


_DECODER = msgspec.json.Decoder(Stats)


class StatsDenied(PlantFault):
    """The socket may not be opened by this user."""


class StatsServer:
    """The stats server at `address`: a path, unix:PATH, or HOST:PORT."""

    def __init__(self, address: str) -> None:
        """Nothing is opened yet. Raises PolicyError."""
        self.address = address
        self._target, self._family = _parse(address)

    async def read(self, within_s: float, most_bytes: int = MOST_BYTES) -> Stats:
        """One look. Raises StatsDenied, PlantFault naming the address."""
        try:
            async with asyncio.timeout(within_s):
                body = await self._fetch(most_bytes)
        except TimeoutError as error:
            raise PlantFault(
                f"{self.address}: no whole answer within {within_s:g} s (with --stats-http uWSGI "
                "waits for a request: give a --stats without it)"
            ) from error
        except PermissionError as error:
            raise StatsDenied(f"{self.address}: {error.strerror}") from error
        except OSError as error:
            raise PlantFault(f"{self.address}: {error.strerror or error}") from error
        try:
            return _DECODER.decode(body.translate(_PRINTABLE))
        except msgspec.DecodeError as error:
            raise PlantFault(f"{self.address}: not uWSGI's stats: {error}") from error

    async def _fetch(self, most_bytes: int) -> bytearray:
        loop = asyncio.get_running_loop()
        body = bytearray()
        with contextlib.closing(socket.socket(self._family, socket.SOCK_STREAM)) as link:
            link.setblocking(False)
            await loop.sock_connect(link, self._target)
            while chunk := await loop.sock_recv(link, 65536):
                body += chunk
                if len(body) > most_bytes:
                    raise PlantFault(f"{self.address}: more than {most_bytes} bytes")
        return body


class Incarnation:
    """Tells a uWSGI that was started or reloaded from one that goes on.

    A reload keeps the master's process (it runs itself anew) and counts respawns from the start:
    another worker in a place whose count did not rise is another incarnation. So is a new master,
    and all of several workers replaced between two looks.
    """

    def __init__(self) -> None:
        """Start without a past."""
        self.generation = 0
        self._last: Stats | None = None

    def see(self, now: Stats) -> bool:
        """Take a look; whether it is another incarnation than the one before (not at the first)."""
        last, self._last = self._last, now
        if last is None:
            return False
        new = self.is_other(last, now)
        self.generation += new
        return new

    @staticmethod
    def is_other(last: Stats, now: Stats) -> bool:
        """Whether `now` is of another incarnation than `last`."""
        if last.pid != now.pid or len(last.workers) != len(now.workers):
            return True
        for old, new in zip(last.workers, now.workers, strict=True):
            if new.respawn_count < old.respawn_count:
                return True
            if _who(old) != _who(new) and new.respawn_count == old.respawn_count and new.pid > 0:
                return True
        before, after = _all(last.workers), _all(now.workers)
        return len(before) > 1 and len(after) > 1 and not before & after


def _who(slot: Slot) -> tuple[int, int]:
    return slot.pid, slot.last_spawn


def _all(slots: Iterable[Slot]) -> set[tuple[int, int]]:
    return {_who(slot) for slot in slots if slot.kept and slot.pid > 0}


def _parse(address: str) -> tuple[str | tuple[str, int], socket.AddressFamily]:
    """What to connect to. Names are not resolved: that may take long. Raises PolicyError."""
    path = address.removeprefix("unix:")
    if path.startswith("/"):
        return path, socket.AF_UNIX
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    family = socket.AF_INET6 if bracketed else socket.AF_INET
    host = host[1:-1] if bracketed else host
    try:
        socket.inet_pton(family, host)
    except OSError:
        host = ""
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not host or not 0 < number < 65536:
        raise PolicyError(f"stats: {address!r} is neither a path nor 127.0.0.1:1717")
    return (host, number), family
