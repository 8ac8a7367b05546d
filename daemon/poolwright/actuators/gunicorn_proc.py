"""What /proc tells of a gunicorn master: who it is, its workers, and whose accept queues they are.

Not every child of a master is a worker: there may be a dirty arbiter, a master of an upgrade
(SIGUSR2), a resource tracker, a hook's subprocess. Names and command lines do not tell (a fork has
its parent's), signal dispositions do, and anybody may read them: a worker catches SIGTERM, else it
could not drain, and has given up the handler of SIGHUP that masters and dirty arbiters have
(`Worker.init_signals`).
"""

import os
import signal
from pathlib import Path
from typing import NamedTuple

from poolwright.core.errors import PlantFault

_DEAD = ("Z", "X")
_LISTEN = "0A"  # TCP_LISTEN in include/net/tcp_states.h
_PID_MOST = 1 << 22  # PID_MAX_LIMIT of proc_sys_kernel(5)


class Worker(NamedTuple):
    """Ordered by age, the oldest first. `born` is a start time or gunicorn's own number."""

    born: int
    pid: int


class Pidfile(NamedTuple):
    """A process id, and what changes whenever the file is written anew."""

    pid: int
    stamp: tuple[int, int]


def read_pidfile(path: str) -> Pidfile:
    """What the pidfile at `path` says. Raises PlantFault naming it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            seen, text = os.fstat(file), os.read(file, 64)
        finally:
            os.close(file)
    except OSError as error:
        raise PlantFault(f"pidfile {path}: {error.strerror}") from error
    word = text.strip()
    if not word.isdigit() or not 0 < int(word) <= _PID_MOST:
        raise PlantFault(f"pidfile {path}: holds no process id but {text[:20]!r}")
    return Pidfile(int(word), (seen.st_ino, seen.st_mtime_ns))


class Proc:
    """Reads of one /proc. Remembers which processes were found to be workers."""

    def __init__(self, root: str = "/proc") -> None:
        """`root` is where procfs is mounted."""
        self._root = root
        self._known: frozenset[Worker] = frozenset()

    def start_of(self, pid: int) -> int | None:
        """Start time in clock ticks since boot; None: not running, or not to be seen by us."""
        row = self._row(pid)
        return None if row is None else row[1]

    def workers(self, master: int) -> tuple[Worker, ...]:
        """The live workers of `master`, the oldest first. Raises PlantFault."""
        path = f"{self._root}/{master}/task/{master}/children"
        try:
            pids = {int(word) for word in self._text(path).split()}
        except FileNotFoundError as error:
            raise PlantFault(
                f"{path}: not there: process {master} has ended, or the kernel was built without "
                "CONFIG_PROC_CHILDREN (then use the control socket)"
            ) from error
        except (OSError, ValueError) as error:
            raise PlantFault(f"{path}: {error}") from error
        # The list may leave out a child while another one ends: proc_pid_children(5).
        pids.update(worker.pid for worker in self._known)
        found = []
        for pid in pids:
            row = self._row(pid)
            if row is None or row[0] != master:
                continue
            worker = Worker(row[1], pid)
            if worker in self._known or self._serves(pid):
                found.append(worker)
        self._known = frozenset(found)
        return tuple(sorted(found))

    def own_queues(self, master: int, workers: tuple[Worker, ...]) -> str:
        """Why workers may have accept queues of their own (SO_REUSEPORT); empty: they do not.

        Several sockets that listen at one address are possible only with SO_REUSEPORT, and a
        connection waits in one of them: it is reset when that one is closed. Whose sockets they
        are is told by the processes' descriptors or, where those may not be read, by the user.
        Raises PlantFault when the sockets of the master's network namespace cannot be read.
        """
        shared = {a: rows for a, rows in self._listening(master).items() if len(rows) > 1}
        if not shared:
            return ""
        try:
            held = set().union(*(self._sockets(pid) for pid in (master, *(w.pid for w in workers))))
            owner = None
        except PermissionError:
            held, owner = set(), self._owner(master)
        for address, rows in shared.items():
            if any(inode in held or uid == owner for inode, uid in rows.items()):
                return f"{len(rows)} sockets listen at port {int(address.rpartition(':')[2], 16)}"
        return ""

    def is_master(self, pid: int) -> bool:
        """Whether a process handles what gunicorn's masters do. Raises PlantFault."""
        return self._caught(pid).issuperset((signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU))

    def _serves(self, pid: int) -> bool:
        """Whether a child of a master is a worker that has got so far that it can drain."""
        caught = self._caught(pid)
        return signal.SIGTERM in caught and signal.SIGHUP not in caught

    def _caught(self, pid: int) -> frozenset[int]:
        """The signals that a process handles; none when it has ended."""
        path = f"{self._root}/{pid}/status"
        try:
            text = self._text(path)
        except (FileNotFoundError, ProcessLookupError):
            return frozenset()
        except OSError as error:
            raise PlantFault(f"{path}: {error.strerror}") from error
        for line in text.splitlines():
            if line.startswith("SigCgt:"):
                mask = int(line.split()[1], 16)
                return frozenset(n for n in range(1, 65) if mask >> (n - 1) & 1)
        return frozenset()

    def _row(self, pid: int) -> tuple[int, int] | None:
        """(parent, start time) of a process that is alive."""
        path = f"{self._root}/{pid}/stat"
        try:
            text = self._text(path)
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            raise PlantFault(f"{path}: {error.strerror}") from error
        # The name, in brackets, may hold anything: count from its end, proc_pid_stat(5).
        words = text[text.rfind(")") + 1 :].split()
        try:
            return None if words[0] in _DEAD else (int(words[1]), int(words[19]))
        except (IndexError, ValueError) as error:
            raise PlantFault(f"{path}: not the row of a process: {text[:40]!r}") from error

    def _listening(self, master: int) -> dict[str, dict[str, int]]:
        """Address -> inode -> user of the TCP sockets that listen where the master lives."""
        found: dict[str, dict[str, int]] = {}
        for family in ("tcp", "tcp6"):
            path = f"{self._root}/{master}/net/{family}"
            try:
                rows = [line.split() for line in self._text(path).splitlines()[1:]]
            except FileNotFoundError as error:
                if family == "tcp6":
                    continue  # a kernel without IPv6
                raise PlantFault(f"{path}: {error.strerror}") from error
            except OSError as error:
                raise PlantFault(f"{path}: {error.strerror}") from error
            for row in rows:
                if len(row) > 9 and row[3] == _LISTEN:
                    found.setdefault(f"{family}:{row[1]}", {})[row[9]] = int(row[7])
        return found

    def _sockets(self, pid: int) -> set[str]:
        """Inodes of the sockets that a process has open. Raises PermissionError."""
        folder = f"{self._root}/{pid}/fd"
        found: set[str] = set()
        try:
            entries = list(Path(folder).iterdir())
        except (FileNotFoundError, ProcessLookupError):
            return found  # it has ended
        for entry in entries:
            try:
                link = str(entry.readlink())
            except FileNotFoundError:
                continue  # closed in the meantime
            if link.startswith("socket:["):
                found.add(link[8:-1])
        return found

    def _owner(self, pid: int) -> int:
        try:
            return Path(f"{self._root}/{pid}").stat().st_uid
        except OSError as error:
            raise PlantFault(f"{self._root}/{pid}: {error.strerror}") from error

    @staticmethod
    def _text(path: str) -> str:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(file, 65536):
                chunks.append(chunk)
        finally:
            os.close(file)
        return b"".join(chunks).decode(errors="replace")
