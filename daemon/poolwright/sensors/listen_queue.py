"""The accept queue of the service's listening sockets: connections that no worker has taken yet.

Too few workers show here first: the service's own timing starts only when a worker has the request.
A queue lives for milliseconds, so its length is sampled every `sample_every` in the event loop, and
a read gives the length now with the distribution of all samples since the last read.

Sockets are known by address, so that those of workers that come and go with SO_REUSEPORT are all
counted. The sum is told only while every address is there: half a queue is not a short queue.
`queue_limit` is the backlog as the kernel bounded it; the kernel lets one more in than that.

A service in another network namespace cannot be seen from here: run poolwright in the same one
(systemd: JoinsNamespaceOf=; Kubernetes: the same pod).
"""

import asyncio
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.sketch import SketchBuilder
from poolwright.core.units import PathText, Seconds
from poolwright.sensors.cgroup import why
from poolwright.sensors.process_tree import read_pidfile, read_tree
from poolwright.sensors.sock_diag import SockDiag, UnixListener

_FIND_EVERY_NS = 10_000_000_000  # a server may listen on more, or bind its path anew
_ANY_PORT = (0, 65535)

TcpKey = tuple[bytes, int]  # address in network order, port


def parse_address(text: str) -> TcpKey | str:
    """`127.0.0.1:80` or `[::]:80` as a key; `unix:/path` or `unix:@abstract` as the path or @name.

    Raises PolicyError: names are not resolved, since a socket is bound to a number.
    """
    if text.startswith("unix:"):
        path = text[5:]
        if not (path.startswith("/") or (path.startswith("@") and len(path) > 1)):
            raise PolicyError(f"{text}: a UNIX socket is unix:/path or unix:@name")
        return path
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    family = socket.AF_INET6 if bracketed else socket.AF_INET
    try:
        address = socket.inet_pton(family, host[1:-1] if bracketed else host)
    except (OSError, ValueError):
        address = b""
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not address or not 0 < number < 65536:
        raise PolicyError(f"{text}: an address is 127.0.0.1:8000, [::]:80 or unix:/run/web.sock")
    return address, number


def address_text(key: TcpKey) -> str:
    """For people, and as parse_address takes it."""
    address, port = key
    if len(address) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, address)}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The summed accept queue at one moment."""

    length: int
    limit: int
    detail: str


class ListenQueue:
    """Signals: queue_length (sketch: the samples since the last read), queue_limit."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which sockets; exactly one of listen and pidfile (else PolicyError)."""

        listen: tuple[str, ...] = field(
            default=(),
            metadata={"doc": "addresses: 127.0.0.1:8000, [::]:80, unix:/run/web.sock"},
        )
        pidfile: PathText | None = field(
            default=None,
            metadata={
                "doc": "file with the master's process id, whose listening sockets are meant"
            },
        )
        sample_every: Seconds = field(
            default=0.2, metadata={"doc": "time between two samples of the queue"}
        )

        def __post_init__(self) -> None:
            """Refuse both, neither, and what is no address."""
            if bool(self.listen) == (self.pidfile is not None):
                raise PolicyError("listen_queue needs either listen or a pidfile")
            if not self.sample_every > 0.0:
                raise PolicyError("listen_queue: sample_every is more than zero")
            for text in self.listen:
                parse_address(text)

    signals = ("queue_length", "queue_limit")
    deadline_s: float | None = None

    def __init__(self, options: Options, _pool: str, *, root: Path = Path("/")) -> None:
        self._pidfile = options.pidfile
        self._proc = str(root / "proc")
        self._every_s = options.sample_every
        self.source = f"listen_queue {options.pidfile or ' '.join(options.listen)}"
        wanted = [parse_address(text) for text in options.listen]
        self._paths = tuple(x for x in wanted if isinstance(x, str))
        self._tcp = frozenset(x for x in wanted if not isinstance(x, str))
        self._ranges: list[tuple[int, int, int]] = []  # family, lowest and highest port
        self._unix: dict[int, str] = {}  # inode -> path, of the sockets found
        self._found_ns: int | None = None  # when the sockets were last looked for; None: look now
        self._master = 0
        self._diag = SockDiag()
        self._samples = SketchBuilder()
        self._lost_sight = False
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Begin to sample. The service may start after us."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._sample)

    async def close(self) -> None:
        """Stop sampling and close the netlink socket."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._diag.close()
        self._found_ns = None

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """The queue now, and its samples since the last read."""
        try:
            self._find(now_ns)
            queue = self._measure()
        except PlantFault as fault:
            self._found_ns = None
            self._samples, self._lost_sight = SketchBuilder(), False
            return tuple(
                Reading(
                    signal=signal,
                    source=self.source,
                    status=Status.ERROR,
                    taken_mono_ns=now_ns,
                    detail=str(fault),
                )
                for signal in self.signals
            )
        self._samples.add(queue.length)
        sketch, lost_sight = self._samples.freeze(), self._lost_sight
        self._samples, self._lost_sight = SketchBuilder(), False
        detail = queue.detail
        if lost_sight:
            detail = f"{detail}; out of sight for a part of the time".removeprefix("; ")
        length = Reading(
            signal="queue_length",
            source=self.source,
            value=float(queue.length),
            taken_mono_ns=now_ns,
            sketch=sketch,
            detail=detail,
        )
        limit = Reading(
            signal="queue_limit",
            source=self.source,
            value=float(queue.limit),
            taken_mono_ns=now_ns,
            detail=queue.detail,
        )
        return length, limit

    def _sample(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._sample)
        if self._found_ns is None:
            return  # `read` looks for the sockets, once a tick
        try:
            self._samples.add(self._measure().length)
        except PlantFault:
            self._lost_sight = True  # `read` meets the fault too, or says that it is over

    def _measure(self) -> Queue:
        """Raises PlantFault when a socket is gone."""
        length, limit, notes = 0, 0, ""
        counts = dict.fromkeys(self._tcp, 0)
        for family, low, high in self._ranges:
            for address, port, queue, backlog, _ in self._diag.tcp(family, low, high):
                if (address, port) in counts:
                    counts[address, port] += 1
                    length += queue
                    limit += backlog
        for key, count in counts.items():
            if count == 0:
                self._found_ns = None
                raise PlantFault(self._nobody(key))
            if count > 1:
                notes += f"; {count} sockets share {address_text(key)} (SO_REUSEPORT)"
        for inode, path in self._unix.items():
            rows = self._diag.unix(inode)
            if not rows:
                self._found_ns = None
                raise PlantFault(f"unix:{path}: the listening socket is gone")
            length += rows[0].queue
            limit += rows[0].limit
        return Queue(length=length, limit=limit, detail=notes.removeprefix("; "))

    def _nobody(self, key: TcpKey) -> str:
        """Why an address was not found, with the addresses of the same port that were."""
        port = key[1]
        others = {
            address_text((row.address, row.port))
            for family in (socket.AF_INET, socket.AF_INET6)
            for row in self._diag.tcp(family, port, port)
        }
        text = f"{address_text(key)}: nothing listens on it"
        return f"{text}; on this port: {', '.join(sorted(others))}" if others else text

    def _find(self, now_ns: int) -> None:
        """Look for the sockets when it is time. Raises PlantFault."""
        master = 0 if self._pidfile is None else read_pidfile(self._pidfile)
        due = self._found_ns is None or now_ns - self._found_ns >= _FIND_EVERY_NS
        if not due and master == self._master:
            return
        self._found_ns = None
        if self._pidfile is None:
            self._unix = self._find_paths()
        else:
            self._tcp, self._unix = self._find_process(self._pidfile, master)
        self._ranges = _port_ranges(self._tcp)
        self._master = master
        self._found_ns = now_ns

    def _find_paths(self) -> dict[int, str]:
        if not self._paths:
            return {}
        listeners = self._diag.unix()
        found: dict[int, str] = {}
        for path in self._paths:
            rows = _bound_to(path, listeners)
            if not rows:
                raise PlantFault(f"unix:{path}: nothing listens on it")
            found.update((row.inode, path) for row in rows)
        return found

    def _find_process(self, pidfile: str, master: int) -> tuple[frozenset[TcpKey], dict[int, str]]:
        """The listeners that the master has open; if it has none, those of its descendants."""
        listening = [
            (row.inode, (row.address, row.port))
            for family in (socket.AF_INET, socket.AF_INET6)
            for row in self._diag.tcp(family, *_ANY_PORT)
        ]
        rows = self._diag.unix()
        try:
            tree = read_tree(self._proc, master)
            for pids in ((master,), tuple(tree)):
                open_here = self._open_sockets(pids)
                tcp = frozenset(key for inode, key in listening if inode in open_here)
                unix = {r.inode: _name_text(r.name) for r in rows if r.inode in open_here}
                if tcp or unix:
                    return tcp, unix
        except PlantFault as fault:
            raise PlantFault(f"{pidfile}: {fault}") from fault
        text = f"{pidfile}: process {master} and its children listen on no socket"
        if self._elsewhere(master):
            text += " of this network namespace: theirs is another one"
        raise PlantFault(text)

    def _open_sockets(self, pids: Iterable[int]) -> set[int]:
        """Inodes of the sockets that the processes have open. Raises PlantFault."""
        inodes: set[int] = set()
        for pid in pids:
            path = f"{self._proc}/{pid}/fd"
            try:
                for entry in os.scandir(path):
                    link = str(Path(entry.path).readlink())
                    if link.startswith("socket:["):
                        inodes.add(int(link[8:-1]))
            except FileNotFoundError:
                continue  # the process, or one file of it, was closed while we looked
            except PermissionError as error:
                raise PlantFault(
                    f"{path}: {why(error)} (needs the same user or CAP_SYS_PTRACE; or name the "
                    "addresses in `listen`)"
                ) from error
            except (OSError, ValueError) as error:
                raise PlantFault(f"{path}: {error}") from error
        return inodes

    def _elsewhere(self, pid: int) -> bool:
        """Whether the process is known to be in another network namespace."""
        try:
            mine = Path(self._proc, "self/ns/net").readlink()
            return Path(self._proc, str(pid), "ns/net").readlink() != mine
        except OSError:
            return False  # not known; the caller reports the fault all the same


def _port_ranges(keys: Iterable[TcpKey]) -> list[tuple[int, int, int]]:
    """Of each family in use, the range of ports that the kernel shall search."""
    ranges = []
    for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        ports = [port for address, port in keys if len(address) == size]
        if ports:
            ranges.append((int(family), min(ports), max(ports)))
    return ranges


def _bound_to(path: str, listeners: list[UnixListener]) -> list[UnixListener]:
    """The sockets of a path. By the file first: a server may have bound a relative path, and an
    older one may still listen under the same name though its file is gone.
    """
    if path.startswith("@"):
        name = b"\0" + os.fsencode(path[1:])
        return [row for row in listeners if row.name == name]
    try:
        status = Path(path).stat()
        device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
        file = device, status.st_ino & 0xFFFFFFFF
        rows = [row for row in listeners if row.file == file]
    except OSError:
        rows = []  # not to be seen from here; the name may still be known
    return rows or [row for row in listeners if row.name == os.fsencode(path)]


def _name_text(name: bytes) -> str:
    text = os.fsdecode(name)
    return f"@{text[1:]}" if text.startswith("\0") else text
