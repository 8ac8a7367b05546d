"""Where poolwright meets the processes of an application: a folder with one socket a process.

    offer("/run/web/pool", pool=executor, meter=meter)

The application offers and the daemon connects, so that a daemon that comes back finds every process
again, and an application needs no daemon. A thread answers, one line of JSON for one; it never
raises into the application, and what keeps it from offering is logged once and tried again.

A process that comes while others of the service live asks them what the daemon has shared out and
takes its place in that. When all others have gone (a reload of an idle service) a file tells what
was shared out by the children of the same parent; a service that was started anew begins at its own
default. Coming is one at a time, under flock(2) on the folder, which also is when sockets of the
dead are removed.

Forks: a process that forks before it has used what it offers is a master (gunicorn --preload): it
offers no more until it does use it, and its children offer at once. Children of a process that is
at work are not of the service, until they use it.
"""

import atexit
import fcntl
import json
import logging
import os
import socket
import stat
import threading
import weakref
from contextlib import closing, suppress
from time import monotonic_ns
from typing import Protocol

from poolwright.client import wire

_LOG = logging.getLogger("poolwright.client")
_PATIENCE_S = 1.0  # with who has connected; the next one waits so long
_ASK_MOST_S = 2.0
_AGAIN_S = 5.0
_LOOK_S = 10.0  # whether the socket's file is still there
_UNUSED_S = 0.5
_PATH_MOST = 107  # bytes; unix(7)
_MOST = 100_000  # a limit above is a mistake
_STRANGER: dict[str, object] = {
    "error": "this user may not ask: root, the application's user, and its group may"
}


class Pool(Protocol):
    """What can be offered: ResizableThreadPoolExecutor, ConcurrencyLimiter."""

    @property
    def limit(self) -> int:
        """How many may run at once."""

    @property
    def used(self) -> bool:
        """Whether it was ever used in this process."""

    def resize(self, limit: int) -> None:
        """Change the limit; from any thread, without waiting."""

    def told(self) -> dict[str, object]:
        """What `client.reach.Tasks` reads."""


class Counts(Protocol):
    """What counts requests: Meter."""

    @property
    def used(self) -> bool:
        """Whether it was ever used in this process."""

    def told(self) -> dict[str, object]:
        """What `client.reach.Requests` reads."""


def share(total: int, processes: int, limits: list[int]) -> int:
    """What a newcomer takes of `total`, shared out to `processes`, beside others with `limits`.

    `limits` has the oldest first: in a reload the old ones go and the new ones come in any order,
    and in the end it is the newest that are there. So whoever comes makes up the sum with the
    newest of the others, within an even share rounded down or up.
    """
    newest = limits[-(processes - 1) :] if processes > 1 else []
    rest, missing = total - sum(newest), processes - len(newest)
    return max(1, total // processes, min(-(-total // processes), -(-rest // missing)))


class Offer:
    """One process's end. Made by `offer`."""

    def __init__(
        self, folder: str, pool: Pool | None, meter: Counts | None, group: str | None
    ) -> None:
        self.folder = folder
        self._pool = pool
        self._meter = meter
        self._gid = None if group is None else wire.gid(group)
        self._begin(quiet=False)

    def close(self) -> None:
        """Offer no more. May be called twice."""
        self._closed = True
        self._wake.set()
        self._hang_up()
        if self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE_S)

    @property
    def path(self) -> str:
        """The socket of this process."""
        return f"{self.folder}/{self._pid}-{self._token}.sock"

    def _begin(self, *, quiet: bool) -> None:
        self._pid = os.getpid()
        self._token = os.urandom(6).hex()
        self._born_ns = 0  # when it was first to be seen
        self._plan: tuple[int, int] | None = None  # (total, processes), as the daemon told
        self._quiet = quiet
        self._closed = False
        self._bound = False
        self._lock = -1
        self._told_trouble = False
        self._wake = threading.Event()
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="poolwright-offer", daemon=True)
        self._thread.start()

    def _used(self) -> bool:
        return any(part is not None and part.used for part in (self._pool, self._meter))

    # Forks

    def _in_parent(self) -> None:
        if not self._used() and not self._closed:
            self._quiet = True
            self._hang_up()

    def _in_child(self, *, quiet: bool) -> None:
        if self._listener is not None:
            self._listener.close()  # the parent's; or who connects to a dead parent would wait
        if self._lock >= 0:
            os.close(self._lock)  # forked while the parent's thread held it
        if not self._closed:
            self._begin(quiet=quiet)

    # The thread

    def _serve(self) -> None:
        while not self._closed:
            if self._quiet:
                self._wake.wait(_UNUSED_S)
                self._quiet = not self._used()
                continue
            try:
                self._listen()
                while not (self._quiet or self._closed):
                    self._answer()
            except Exception as error:  # noqa: BLE001 - nothing may harm the application
                if not (self._quiet or self._closed):
                    self._trouble(error)
                    self._wake.wait(_AGAIN_S)
            finally:
                self._withdraw()

    def _trouble(self, error: Exception) -> None:
        level = logging.DEBUG if self._told_trouble else logging.WARNING
        _LOG.log(level, "cannot be seen by poolwright at %s: %s", self.folder, error)
        self._told_trouble = True

    def _hang_up(self) -> None:
        """Wake the thread; it withdraws."""
        listener = self._listener
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)

    def _withdraw(self) -> None:
        """Remove the socket, if it is ours: a child that ends leaves its parent's alone."""
        listener, self._listener = self._listener, None
        if listener is None or self._pid != os.getpid():
            return
        listener.close()
        if self._bound:
            self._bound = False
            with suppress(OSError):
                os.unlink(self.path)

    def _listen(self) -> None:
        self._folder_made()
        lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._take_share()
            listener = self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(self.path)
            self._bound = True
            mode = 0o600
            if self._gid is not None:
                os.chown(self.path, -1, self._gid)
                mode = 0o660
            os.chmod(self.path, mode)  # before anybody can connect
            wire.patience(listener, _LOOK_S)
            self._born_ns = self._born_ns or monotonic_ns()
            listener.listen(16)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a child may have it open too
            self._lock = -1
            os.close(lock)

    def _folder_made(self) -> None:
        folder = self.folder
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700 if self._gid is None else 0o750)
            if self._gid is not None:
                os.chown(folder, -1, self._gid)
        if os.stat(folder).st_mode & stat.S_IWOTH:
            raise PermissionError(f"anybody may write to {folder}")

    def _take_share(self) -> None:
        """Ask the others what was shared out, and clear away the dead. With the lock held."""
        until_ns = monotonic_ns() + int(_ASK_MOST_S * 1e9)
        others: list[tuple[int, int]] = []
        for name in sorted(os.listdir(self.folder)):
            if not name.endswith(".sock"):
                continue
            path = f"{self.folder}/{name}"
            if monotonic_ns() > until_ns:
                break
            try:
                told = wire.ask(path)
            except (ConnectionRefusedError, FileNotFoundError):
                with suppress(FileNotFoundError):
                    os.unlink(path)
                continue
            except (OSError, ValueError):
                continue  # alive and stuck: what it has is about what it would be given
            if isinstance(told.get("limit"), int):
                others.append((told["born_ns"], told["limit"]))
                if told.get("total") and told.get("processes"):
                    self._plan = told["total"], told["processes"]
        if self._plan is None:
            self._plan = self._noted()
        if self._plan is not None and self._pool is not None:
            self._pool.resize(share(*self._plan, [limit for _, limit in sorted(others)]))

    def _noted(self) -> tuple[int, int] | None:
        """What was shared out to the children of our parent; None when that is not known."""
        with suppress(OSError, ValueError, TypeError):
            with open(f"{self.folder}/plan") as file:
                noted = json.load(file)
            if noted["parent"] == wire.parent():
                return _count(noted, "total"), _count(noted, "processes")
        return None

    def _note(self, total: int, processes: int) -> None:
        """Keep what the daemon has shared out, for those who come when nobody is left."""
        if self._plan == (total, processes):
            return
        self._plan = total, processes
        with suppress(OSError, ValueError):
            noted = {"total": total, "processes": processes, "parent": wire.parent()}
            fresh = f"{self.path}.plan"
            with open(fresh, "w") as file:
                json.dump(noted, file)
            os.rename(fresh, f"{self.folder}/plan")

    def _answer(self) -> None:
        """Meet one who connects. Raises OSError when the socket is gone."""
        assert self._listener is not None
        try:
            link, _ = self._listener.accept()
        except BlockingIOError:
            if not os.path.exists(self.path):
                raise FileNotFoundError(f"{self.path} was removed") from None
            return
        self._told_trouble = False
        with closing(link), suppress(OSError):
            wire.patience(link, _PATIENCE_S)
            try:
                asked = json.loads(wire.line(link))
                told = self._reply(asked) if wire.may_ask(link, self._gid) else _STRANGER
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                told = {"error": f"cannot be understood: {error}"}
            link.sendall(json.dumps(told).encode() + b"\n")

    def _reply(self, asked: dict[str, object]) -> dict[str, object]:
        pool = self._pool
        if asked.get("until_ns") is not None and monotonic_ns() > _count(asked, "until_ns"):
            return {"error": "asked too late"}  # who asked has given up
        if asked.get("limit") is not None:
            if pool is None:
                return {"error": "this process offers no pool"}
            limit = _count(asked, "limit")
            total, processes = _count(asked, "total"), _count(asked, "processes")
            pool.resize(limit)
            self._note(total, processes)
        told = {} if pool is None else pool.told()
        plan = self._plan or (None, None)
        reply: dict[str, object] = {
            "pid": self._pid,
            "token": self._token,
            "born_ns": self._born_ns,
            "limit": None if pool is None else pool.limit,
            "running": told.get("running"),
            "total": plan[0],
            "processes": plan[1],
        }
        if asked.get("counts"):
            reply["tasks"] = told or None
            reply["requests"] = None if self._meter is None else self._meter.told()
        return reply


def offer(
    folder: str, *, pool: Pool | None = None, meter: Counts | None = None, group: str | None = None
) -> Offer:
    """Let poolwright see `meter` and `pool`, and move the limit of `pool`.

    All processes of a service name the same `folder`, an absolute path in a place that is emptied
    at boot (/run). It is made when missing. Who may connect: root, the own user, and the members of
    `group`. Raises ValueError for a folder that cannot be meant, KeyError for an unknown group;
    what the system refuses later is logged, and tried again.
    """
    if pool is None and meter is None:
        raise ValueError("offer needs a pool or a meter, or both")
    if not folder.startswith("/"):
        raise ValueError(f"offer({folder!r}): a relative path leads elsewhere in another process")
    room = _PATH_MOST - len("/4194304-0123456789ab.sock")
    if len(os.fsencode(folder.rstrip("/"))) > room:
        raise ValueError(f"offer({folder!r}): longer than {room} bytes, no socket's path fits")
    made = Offer(folder.rstrip("/"), pool, meter, group)
    _OFFERS.add(made)
    return made


def _count(asked: dict[str, object], key: str) -> int:
    number = asked.get(key)
    if type(number) is not int or number < 1 or (key != "until_ns" and number > _MOST):
        raise ValueError(f"{key} is {number!r}")
    return number


def _at_exit() -> None:
    for made in list(_OFFERS):
        made._closed = True  # noqa: SLF001
        made._withdraw()  # noqa: SLF001


def _before_fork() -> None:
    global _at_work  # noqa: PLW0603
    _at_work = any(made._used() for made in _OFFERS)  # noqa: SLF001


def _after_in_parent() -> None:
    for made in list(_OFFERS):
        made._in_parent()  # noqa: SLF001


def _after_in_child() -> None:
    for made in list(_OFFERS):
        made._in_child(quiet=_at_work)  # noqa: SLF001


_OFFERS: "weakref.WeakSet[Offer]" = weakref.WeakSet()
_at_work = False
atexit.register(_at_exit)
os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_in_parent,
    after_in_child=_after_in_child,
)
