"""What is seen of a host before anything is asked of anybody: its processes and their files."""

import glob
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from poolwright.core.errors import PlantFault
from poolwright.presets.units import Unit, running
from poolwright.sensors.host import Host

_FILE_MOST = 1 << 20  # bytes; a longer file is no configuration
# Of a process's environment only this is kept: the rest may hold what is nobody's business.
_VARIABLES = ("GUNICORN_CMD_ARGS",)
_CAP_KILL = 5  # include/uapi/linux/capability.h
_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost):(\d{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process. What may not be seen of it is empty."""

    pid: int
    ppid: int
    words: tuple[str, ...]  # its command line
    user: str = ""
    exe: str = ""
    cwd: str = ""
    rss_bytes: int = 0
    cgroup: str = ""  # of version 2: /system.slice/web.service
    listening: tuple[str, ...] = ()  # TCP: 127.0.0.1:8000, [::]:80
    unix: tuple[str, ...] = ()  # paths that its UNIX sockets are bound to
    environ: Mapping[str, str] = field(default_factory=dict)

    def resolved(self, path: str) -> str:
        """A path as this process means it."""
        return str(Path(self.cwd or "/") / path) if path else ""


class Files:
    """Files of the host, read only."""

    def read(self, path: str) -> str | None:
        """The text of a file; None when it is not there, may not be read, or is far too long."""
        try:
            with Path(path).open("rb") as file:
                text = file.read(_FILE_MOST + 1)
        except OSError:
            return None
        return None if len(text) > _FILE_MOST else text.decode(errors="replace")

    def matching(self, pattern: str) -> list[str]:
        """The paths that a pattern with wildcards stands for, in order."""
        return sorted(glob.glob(pattern))  # noqa: PTH207  the pattern is absolute, and not ours

    def writable(self, path: str) -> bool:
        """Whether this user may write it."""
        return os.access(path, os.W_OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One look at a host."""

    processes: Mapping[int, Process]
    files: Files = field(default_factory=Files)
    user: str = "root"  # who is looking
    may_signal: bool = True  # whether processes of other users too
    hostname: str = "localhost"
    cores: float = 1.0
    memory_bytes: int = 0  # that may be used; 0: not known
    used_bytes: int = 0
    udp_ports: frozenset[int] = frozenset()
    units: tuple[Unit, ...] = ()  # instances of systemd templates
    no_units: str = ""  # why systemd could not be asked for them
    _promised: set[int] = field(default_factory=set)  # by free_udp

    def children(self, pid: int) -> list[Process]:
        """The direct children of a process."""
        return [process for process in self.processes.values() if process.ppid == pid]

    def masters(self, matches: Callable[[Process], bool]) -> list[Process]:
        """The processes that match and whose parent does not, in the order of their ids."""
        found = {pid: p for pid, p in self.processes.items() if matches(p)}
        return [p for _, p in sorted(found.items()) if p.ppid not in found]

    def names(self, path: str, pid: int) -> bool:
        """Whether `path` is a pidfile that names this very process."""
        words = (self.files.read(path) or "").split() if path else []
        return bool(words) and words[0] == str(pid)

    def free_udp(self, first: int = 8126) -> str:
        """An address of loopback where nobody receives datagrams now, no command line sends to, and
        which was not given out before.
        """
        words = (word for process in self.processes.values() for word in process.words)
        told = {int(port) for word in words for port in _LOOPBACK.findall(word)}
        taken = self.udp_ports | told | self._promised
        port = next(p for p in range(first, 65536) if p not in taken)
        self._promised.add(port)
        return f"127.0.0.1:{port}"


async def gather(now_ns: int, closely: Callable[[Process], bool]) -> Facts:
    """Look at this host; at the sockets and environment only of processes that `closely` is of.

    Raises PlantFault when /proc cannot be read at all.
    """
    try:
        seen = {process.pid: process for process in _processes(closely)}
        udp = frozenset(link.laddr.port for link in psutil.net_connections("udp") if link.laddr)
    except OSError as error:
        raise PlantFault(f"/proc: {error.strerror}") from error
    try:
        units, no_units = await running(), ""
    except PlantFault as fault:
        units, no_units = (), str(fault)
    host = {r.signal: r.value for r in await Host(Host.Options(), "init").read(now_ns)}
    return Facts(
        processes=seen,
        user=psutil.Process().username(),
        may_signal=_may_signal(),
        hostname=socket.gethostname(),
        cores=host.get("host_cpu_count") or float(os.cpu_count() or 1),
        memory_bytes=int(host.get("memory_limit_bytes") or 0),
        used_bytes=int(host.get("host_memory_used_bytes") or 0),
        udp_ports=udp,
        units=units,
        no_units=no_units,
    )


def _processes(closely: Callable[[Process], bool]) -> Iterator[Process]:
    for found in psutil.process_iter():
        try:
            with found.oneshot():
                words = tuple(word for word in found.cmdline() if word)
                process = Process(
                    pid=found.pid,
                    ppid=found.ppid(),
                    words=words,
                    user=found.username(),
                    rss_bytes=found.memory_info().rss,
                )
                yield _closer(found, process) if words and closely(process) else process
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue


def _closer(found: psutil.Process, process: Process) -> Process:
    """The same process with what only its own user and root may see."""

    def seen(what: Callable[[], object]) -> object:
        try:
            return what()
        except (psutil.AccessDenied, OSError):
            return ""

    environ = seen(found.environ)
    links = seen(lambda: found.net_connections("inet")) or []
    bound = seen(lambda: found.net_connections("unix")) or []
    assert isinstance(links, list)
    assert isinstance(bound, list)
    return Process(
        pid=process.pid,
        ppid=process.ppid,
        words=process.words,
        user=process.user,
        rss_bytes=process.rss_bytes,
        exe=str(seen(found.exe)),
        cwd=str(seen(found.cwd)),
        cgroup=_cgroup(process.pid),
        listening=tuple(
            dict.fromkeys(_address(*k.laddr) for k in links if k.status == psutil.CONN_LISTEN)
        ),
        unix=tuple(dict.fromkeys(link.laddr for link in bound if link.laddr.startswith("/"))),
        environ={k: v for k, v in environ.items() if k in _VARIABLES}
        if isinstance(environ, dict)
        else {},
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cgroup(pid: int) -> str:
    """The unit's control group of version 2; empty when there is none that is the service's own."""
    rows = (Files().read(f"/proc/{pid}/cgroup") or "").splitlines()
    path = next((row[3:] for row in rows if row.startswith("0::")), "")
    return path if path.endswith(".service") else ""


def _may_signal() -> bool:
    rows = (Files().read("/proc/self/status") or "").splitlines()
    held = next((int(row.split()[1], 16) for row in rows if row.startswith("CapEff:")), 0)
    return bool(held >> _CAP_KILL & 1)
