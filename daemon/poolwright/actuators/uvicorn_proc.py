"""What /proc tells of a uvicorn supervisor: which of its workers accept, start and leave.

A worker that leaves and one that still imports its application handle the same signals as one that
serves. What tells them apart is the listening socket, which all of them got from the supervisor:
who serves has it in its epoll set, who has not begun not yet, and who leaves has closed it. To see
that of another process takes its user, or CAP_SYS_PTRACE.
"""

from dataclasses import dataclass
from pathlib import Path

from poolwright.actuators.gunicorn_proc import Proc, Worker
from poolwright.core.errors import PlantFault

_ALLOW = "run poolwright as uvicorn's user, or with CAP_SYS_PTRACE"
_SPAWNED = b"multiprocessing.spawn"  # the other child is multiprocessing's resource tracker


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One look at a supervisor."""

    pid: int
    start: int
    accepting: frozenset[Worker]
    starting: frozenset[Worker]
    leaving: frozenset[Worker]


class Supervisor(Proc):
    """Reads of one /proc. Remembers at which descriptor each worker was seen to listen."""

    def __init__(self, root: str = "/proc") -> None:
        """`root` is where procfs is mounted."""
        super().__init__(root)
        self._doors: dict[Worker, tuple[str, str]] = {}  # its path in /proc, what it led to

    def look(self, pid: int) -> Scene:
        """The supervisor `pid` and its workers. Raises PlantFault."""
        start = self.start_of(pid)
        if start is None:
            raise PlantFault(f"process {pid} is not running")
        workers = self.workers(pid)
        self._doors = {worker: door for worker, door in self._doors.items() if worker in workers}
        try:
            fresh = [worker for worker in workers if worker not in self._doors]
            known = frozenset(self._doors)
            shared = self._sockets(pid) if fresh else set()
            for worker in fresh:
                door = self._door(worker.pid, shared)
                if door is not None:
                    self._doors[worker] = door
            accepting = frozenset(
                worker for worker, (path, goal) in self._doors.items() if _link(path) == goal
            )
        except PermissionError as error:
            raise PlantFault(f"{error.filename}: {error.strerror}; {_ALLOW}") from error
        return Scene(
            pid=pid,
            start=start,
            accepting=accepting,
            starting=frozenset(workers) - frozenset(self._doors),
            leaving=known - accepting,
        )

    def _serves(self, pid: int) -> bool:
        """Whether a child of a supervisor is a worker, of any age."""
        try:
            return _SPAWNED in Path(f"{self._root}/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
        except OSError as error:
            raise PlantFault(f"{self._root}/{pid}/cmdline: {error.strerror}") from error

    def _door(self, pid: int, shared: set[str]) -> tuple[str, str] | None:
        """Where a process waits at a socket of `shared`. Raises PermissionError."""
        folder = f"{self._root}/{pid}/fd"
        try:
            links = {entry.name: _link(str(entry)) for entry in Path(folder).iterdir()}
        except (FileNotFoundError, ProcessLookupError):
            return None
        for name, goal in links.items():
            if goal != "anon_inode:[eventpoll]":
                continue
            for fd in self._watched(pid, name):
                socket = links.get(fd, "")
                if socket.startswith("socket:[") and socket[8:-1] in shared:
                    return f"{folder}/{fd}", socket
        return None

    def _watched(self, pid: int, epoll: str) -> list[str]:
        """The descriptors in an epoll set, proc_pid_fdinfo(5)."""
        try:
            text = self._text(f"{self._root}/{pid}/fdinfo/{epoll}")
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [line.split()[1] for line in text.splitlines() if line.startswith("tfd:")]


def _link(path: str) -> str:
    """Where a descriptor leads; empty when it is closed. Raises PermissionError."""
    try:
        return str(Path(path).readlink())
    except (FileNotFoundError, ProcessLookupError):
        return ""
