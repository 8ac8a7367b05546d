"""PgBouncer's admin console: a kept connection, simple queries, rows by the names of their columns.

pg8000 speaks the protocol (psycopg would add 10 MB to the control process, pg8000 adds 2). It waits
where it reads, so it does that in a thread of its own, one for each Console, whose socket is cut
when an answer is late: no tick waits, and no second thread is ever begun. What may be received in
answer to one batch of commands is bounded.

Every command that is sent here may be sent twice: a kept connection that turns out to be dead, for
PgBouncer was restarted, is made anew once.
"""

import asyncio
import contextlib
import errno
import importlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from poolwright.core.errors import PlantFault
from poolwright.core.units import PathText
from poolwright.wire.address import Address, parse_address
from poolwright.wire.secret import read_secret

ADMIN_DATABASE = "pgbouncer"
_ANSWER_MOST = 8 << 20  # bytes; SHOW POOLS is about 150 a pool
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid; see unix(7)
_INSTALL = (
    "pg8000 is not installed, which speaks with PgBouncer: pip install 'poolwright[pgbouncer]'"
)
_LET_IN = (
    "name a user of admin_users (or stats_users, which may only look) in pgbouncer.ini, with a "
    "password_file where it has a password; over its UNIX socket PgBouncer lets its own Unix user "
    "in as user pgbouncer without any"
)
_DENIED = (
    "admin access needed",
    "not allowed",
    "authentication failed",
    "password",
    "no such user",
)

_IMPORTING = threading.Lock()  # nobody is to use a stand-in while it stands for the module

Row = dict[str, Any]


class ConsoleDenied(PlantFault):
    """The console does not let us in, or not do this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the console is, and as whom."""

    address: str = field(
        metadata={"doc": "127.0.0.1:6432, or unix:/run/postgresql/.s.PGSQL.6432 (preferred)"}
    )
    user: str = field(
        default="pgbouncer",
        metadata={"doc": "one of admin_users; for the sensor one of stats_users will do"},
    )
    password_file: PathText | None = field(
        default=None, metadata={"doc": "file that holds the user's password and nothing else"}
    )

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        parse_address(self.address)


class Console:
    """The console that `access` leads to; each `ask` takes at most `within_s`."""

    def __init__(self, access: Access, within_s: float) -> None:
        """Nothing is opened yet."""
        self.incarnation = ""  # of the process that answered last: changes when it is restarted
        self._access = access
        self._address = parse_address(access.address)
        self._within_s = within_s
        self._lock = asyncio.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._socket: _Socket | None = None
        self._link: Any = None  # pg8000.native.Connection

    async def ask(self, *commands: str) -> list[list[Row]]:
        """The rows that each command gives. Raises ConsoleDenied, PlantFault naming the address."""
        async with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "pgbouncer-console")
            cut = threading.Event()
            loop = asyncio.get_running_loop()
            job = loop.run_in_executor(self._thread, self._talk, commands, cut)
            try:
                async with asyncio.timeout(self._within_s):
                    return await asyncio.shield(job)
            except TimeoutError as error:
                raise self._late() from error
            finally:
                if not job.done():
                    cut.set()
                    job.cancel()
                    self._cut()

    def close(self) -> None:
        """Hang up. May be called twice."""
        self._cut()
        if self._thread is not None:
            self._thread.submit(self._drop)
            self._thread.shutdown(wait=True)
            self._thread = None

    def __del__(self) -> None:
        """Of one that was never closed."""
        if self._socket is not None:
            self._socket.close()

    def _fault(self, why: str) -> PlantFault:
        return PlantFault(f"{self._access.address}: {why}")

    def _late(self) -> PlantFault:
        return self._fault(f"no answer within {self._within_s:g} s")

    def _cut(self) -> None:
        """End whatever the thread is waiting for."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    # In the thread

    def _talk(self, commands: Sequence[str], cut: threading.Event) -> list[list[Row]]:
        """`cut`: nobody waits for it any more, and nothing more must be sent."""
        kept = self._link is not None
        try:
            return self._run(commands, cut)
        except _Lost:
            if not kept or cut.is_set():
                raise
            return self._run(commands, cut)

    def _run(self, commands: Sequence[str], cut: threading.Event) -> list[list[Row]]:
        """Raises ConsoleDenied, _Lost when the connection is, PlantFault."""
        try:
            if self._link is None:
                self._open()
            assert self._socket is not None
            self._socket.left = _ANSWER_MOST
            return [self._rows(command, cut) for command in commands]
        except PlantFault:
            raise
        except Exception as error:  # pg8000 raises many kinds on garbage
            raise self._explain(error) from error

    def _rows(self, command: str, cut: threading.Event) -> list[Row]:
        if cut.is_set():
            raise self._fault(f"{command}: not sent")
        rows = self._link.run(command) or []
        names = [column["name"] for column in self._link.columns or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _explain(self, error: Exception) -> PlantFault:
        """What has happened. Hangs up, unless PgBouncer only refused a command.

        What pg8000 raises while it closes a broken connection hides what was said before.
        """
        chain: list[BaseException] = [error]
        while chain[-1].__context__ is not None:
            chain.append(chain[-1].__context__)
        where = self._access.address
        fields = next((e.args[0] for e in chain if e.args and isinstance(e.args[0], dict)), None)
        if fields is None or fields.get("S") != "ERROR":
            self._drop()
        if fields is None and "password" not in str(chain[-1]):
            lost = next((e for e in chain if isinstance(e, OSError)), None)
            if isinstance(lost, TimeoutError):
                return self._late()
            if isinstance(lost, PermissionError):
                return ConsoleDenied(f"{where}: {lost.strerror}; {_LET_IN}")
            if lost is not None or str(chain[-1]) == "network error":
                return _Lost(f"{where}: {getattr(lost, 'strerror', None) or lost or 'hung up'}")
            why = f"{type(error).__name__}: {error}"[:200]
            return PlantFault(f"{where}: not the answer of a PgBouncer: {why}")
        said = str(chain[-1] if fields is None else fields.get("M"))[:200]
        if any(word in said for word in _DENIED):
            return ConsoleDenied(f"{where}: {said}; {_LET_IN}")
        return PlantFault(f"{where}: {said}")

    def _open(self) -> None:
        try:
            with _IMPORTING, _put_off("scramp"):  # 2 MB that only the passwords of SCRAM need
                import pg8000.native  # noqa: PLC0415 - 2 MB that only PgBouncer's users need
        except ImportError as error:
            raise PlantFault(_INSTALL) from error
        path = self._access.password_file
        password = "" if path is None else read_secret(path)  # sent only where it is asked for
        self._socket = _connect(self._address, self._within_s)
        self._link = pg8000.native.Connection(
            self._access.user,
            database=ADMIN_DATABASE,
            password=password,
            sock=self._socket,
            ssl_context=False,
        )
        self.incarnation = self._socket.peer()

    def _drop(self) -> None:
        link, self._link = self._link, None
        open_socket, self._socket = self._socket, None
        if link is not None:
            with contextlib.suppress(Exception):  # a farewell to who may be gone
                link.close()
        if open_socket is not None:
            open_socket.close()


class _PutOff(ModuleType):
    """Stands for a module until something of it is wanted."""

    def __getattr__(self, name: str) -> Any:
        """Import it. Raises AttributeError, ImportError."""
        if name.startswith("__"):  # what the import machinery asks of every module
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _put_off(name: str) -> Iterator[None]:
    """What is imported within has a stand-in of the module `name`."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = _PutOff(name)
    try:
        yield
    finally:
        del sys.modules[name]


class _Lost(PlantFault):
    """The connection was lost or refused; a kept one may be made anew."""


class _Socket(socket.socket):
    """A socket that gives no more than `left` bytes."""

    left = _ANSWER_MOST

    def recv_into(self, *args: Any, **options: Any) -> int:
        """As a socket's. Raises OSError when the answers are too long."""
        count = super().recv_into(*args, **options)
        self.left -= count
        if self.left < 0:
            raise OSError(errno.EMSGSIZE, f"an answer of more than {_ANSWER_MOST} bytes")
        return count

    def peer(self) -> str:
        """Who is at the other end: process and start time where the kernel tells, else since when
        it has been there.
        """
        if self.family == socket.AF_UNIX:
            option = self.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            pid, _, _ = _PEER.unpack(option)
            with contextlib.suppress(OSError, IndexError):
                text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
                return f"{pid}:{text[text.rindex(')') + 2 :].split()[19]}"
        return f"connected:{time.time_ns()}"


def _connect(address: Address, within_s: float) -> _Socket:
    """Raises OSError."""
    if isinstance(address, str):
        made = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        goal: Any = address
    else:
        host, port = address
        (family, kind, proto, _, goal), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        made = _Socket(family, kind, proto)
    try:
        made.settimeout(within_s)
        made.connect(goal)
    except BaseException:
        made.close()
        raise
    return made


class Malformed(ValueError):
    """An answer that is none of PgBouncer's."""


@contextlib.contextmanager
def naming(address: str) -> Iterator[None]:
    """Turns Malformed into a PlantFault that names the address."""
    try:
        yield
    except Malformed as error:
        raise PlantFault(f"{address}: not the answer of a PgBouncer: {error}") from error


def whole(row: Row, name: str) -> int:
    """A count in a row. Raises Malformed when it is missing or none."""
    try:
        number = int(row[name])
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"no whole {name} in {row!r:.150}") from error
    if number < 0:
        raise Malformed(f"{name} is {number}")
    return number


def server_connections(pool: Row) -> int:
    """All connections to the server that a row of SHOW POOLS tells of, whatever they do."""
    return sum(whole(pool, name) for name in pool if name.startswith("sv_"))


def is_real(row: Row) -> bool:
    """Whether a row is of a database, and not of the console itself."""
    return row.get("name", row.get("database")) != ADMIN_DATABASE
