"""A bound UDP socket drained in batches: cheap at thousands of packets a second, losses counted.

Unix datagram sockets are not offered on purpose: when their short queue is full the *sender* blocks
(unix(7), net.unix.max_dgram_qlen), so a slow reader would stop the workers that it watches. A UDP
sender on loopback never waits; what does not fit is dropped and counted by the kernel.
"""

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.core.model import Reading, Status
from poolwright.core.sketch import SketchBuilder

ASKED_BYTES = 4 * 1024 * 1024
MIN_PAUSE_S = 0.005
MAX_PAUSE_S = 0.25
_GOAL = 0.125  # share of the buffer filled between drains: below 1/4 even when the rate doubles
_PACKET_COST_BYTES = 1280  # above what Linux charges a small packet with (skb truesize: 768..1280)
_SUDDEN_PPS = 3_000  # packets a second that may come without warning and still find room
_CALLBACK_MOST = 4_096  # packets a callback, so that the event loop is not held for long
_READ_MOST = 65_536  # packets a read

# asm-generic/socket.h and linux/sock_diag.h: not all of them are named by the socket module
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_SO_MEMINFO = 55
_WHOLE = 65_536  # more than UDP can carry, so nothing is ever cut
_NOTES_BYTES = 64
_MEMINFO = struct.Struct("9I")
_TIMESPEC = struct.Struct("qq")

Take = Callable[[bytes, int], None]


class Datagram:
    """Gives each packet to `take(payload, wall_ns)`, in batches and at the latest at `drain`.

    `wall_ns` is the kernel's time of reception (CLOCK_REALTIME) when `stamped`, else 0. `take` must
    not raise. Lives on one event loop.
    """

    def __init__(self, listen: str, take: Take, *, stamped: bool = False) -> None:
        self._listen = listen
        self._take = take
        self._stamped = stamped
        self._sock: socket.socket | None = None
        self._buffer_bytes = 0  # as the kernel counts it, overhead included
        self._drops = 0
        self._pause_s = MIN_PAUSE_S
        self._drained_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._fault: PlantFault | None = None

    async def start(self) -> None:
        """Bind and listen. Raises PlantFault naming host:port, and who holds it if that is seen."""
        host, port = split_host_port(self._listen)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as exc:
            raise PlantFault(f"cannot listen on udp {self._listen}: {exc}") from exc
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            self._tune(sock)
            if self._stamped:
                sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
                await _stamping()
            sock.bind(address)
        except OSError as exc:
            sock.close()
            held = _holder(sock.family, port) if exc.errno == errno.EADDRINUSE else ""
            raise PlantFault(f"cannot listen on udp {self._listen}: {exc.strerror}{held}") from exc
        except BaseException:  # also when cancelled
            sock.close()
            raise
        self._sock = sock
        self._drained_at_s = loop.time()
        self._arm()

    def _tune(self, sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, ASKED_BYTES)
        except PermissionError:  # without CAP_NET_ADMIN the kernel grants up to net.core.rmem_max
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ASKED_BYTES)
        self._buffer_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port really bound. Raises PlantFault when not started."""
        host, port = self._open_socket().getsockname()[:2]
        return str(host), int(port)

    def _open_socket(self) -> socket.socket:
        if self._sock is None:
            raise PlantFault(f"udp {self._listen} is not open")
        return self._sock

    def drain(self) -> None:
        """Take what has arrived. Raises PlantFault when the socket fails."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
        self._receive(_READ_MOST)
        self._drained_at_s = asyncio.get_running_loop().time()

    def lost(self) -> int:
        """Packets that the kernel dropped since the last call. Raises PlantFault when not open."""
        drops = self._meminfo()[8]
        lost = (drops - self._drops) % (1 << 32)  # an unsigned counter of 32 bits
        self._drops = drops
        return lost

    def lost_detail(self, lost: int) -> str:
        """What to tell a person about `lost` packets."""
        granted = self._buffer_bytes // 2  # the kernel doubles what is asked, for its overhead
        if granted < ASKED_BYTES:
            cure = f"raise net.core.rmem_max to {ASKED_BYTES}"
        else:
            cure = "the daemon was kept from the CPU for too long, or the rate is beyond it"
        return f"{lost} packets lost in a receive buffer of {granted} bytes: {cure}"

    async def close(self) -> None:
        """Close the socket; may be called twice and without start."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _meminfo(self) -> tuple[int, ...]:
        raw = self._open_socket().getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return _MEMINFO.unpack(raw)

    def _arm(self) -> None:
        self._timer = None
        asyncio.get_running_loop().add_reader(self._open_socket().fileno(), self._on_readable)

    def _on_readable(self) -> None:
        """Drain, then look away for a while: the kernel collects, and one wake-up serves all."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._open_socket().fileno())
        waited_s = loop.time() - self._drained_at_s
        used_ratio = self._meminfo()[0] / self._buffer_bytes
        try:
            left = self._receive(_CALLBACK_MOST) == _CALLBACK_MOST
        except PlantFault as exc:
            self._fault = exc  # told by the next read
            left = False
        self._drained_at_s = loop.time()
        self._pause_s = pause_s(waited_s, used_ratio, self._buffer_bytes)
        self._timer = loop.call_later(0.0 if left else self._pause_s, self._arm)

    def _receive(self, most: int) -> int:
        sock, take = self._open_socket(), self._take
        count = 0
        try:
            if self._stamped:
                while count < most:
                    payload, notes, _, _ = sock.recvmsg(_WHOLE, _NOTES_BYTES)
                    take(payload, _stamp_ns(notes))
                    count += 1
            else:
                while count < most:
                    take(sock.recv(_WHOLE), 0)
                    count += 1
        except BlockingIOError:  # nothing left
            return count
        except OSError as exc:
            raise PlantFault(f"udp {self._listen}: {exc.strerror}") from exc
        return count


class Pulse:
    """Whether a source that only speaks when it has something to say is alive, by when it spoke."""

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._read_ns: int | None = None
        self._heard_ns: int | None = None

    def beat(self, now_ns: int, *, heard: bool) -> float | None:
        """Note a read at monotonic `now_ns`; the seconds since the last one, None at the first."""
        last_ns, self._read_ns = self._read_ns, now_ns
        if heard:
            self._heard_ns = now_ns
        return None if last_ns is None else (now_ns - last_ns) / 1e9

    def state(self, now_ns: int) -> Status:
        """NO_DATA before the first word ever, STALE after a silence of `silence_s`, else OK."""
        if self._heard_ns is None:
            return Status.NO_DATA
        return Status.STALE if self.silent_s(now_ns) > self._silence_s else Status.OK

    def silent_s(self, now_ns: int) -> float:
        """Seconds since the source was last heard; 0 when it never was."""
        return 0.0 if self._heard_ns is None else (now_ns - self._heard_ns) / 1e9


def requests_told(
    tell: "partial[Reading]",
    requests: float,
    errors: float,
    elapsed_s: float | None,
    durations: SketchBuilder,
) -> tuple[Reading, Reading, Reading]:
    """The readings of throughput, errors and service time; no request is a rate of zero."""
    if elapsed_s is None or elapsed_s <= 0:
        none = partial(tell, status=Status.NO_DATA, detail="a rate needs two reads")
        rates = none(signal="throughput_rps"), none(signal="errors_rps")
    else:
        rates = (
            tell(signal="throughput_rps", value=requests / elapsed_s),
            tell(signal="errors_rps", value=errors / elapsed_s),
        )
    sketch = durations.freeze()
    if sketch.count == 0:
        service = tell(
            signal="service_time_s", status=Status.NO_DATA, detail="no request in this tick"
        )
    else:
        service = tell(signal="service_time_s", value=sketch.mean, sketch=sketch)
    return (*rates, service)


def split_host_port(listen: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8125` or `[::1]:8125`. Raises PlantFault when it is neither."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise PlantFault(f"{listen!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def pause_s(waited_s: float, used_ratio: float, buffer_bytes: int) -> float:
    """How long to look away after a drain that found `used_ratio` of the buffer in use.

    `waited_s` is how long that took to fill. Scaled so that an eighth is filled next time, and
    never so long that `_SUDDEN_PPS`, come without warning, would overflow the buffer.
    """
    most_s = buffer_bytes / (_PACKET_COST_BYTES * _SUDDEN_PPS)
    if used_ratio > 0:
        most_s = min(most_s, waited_s * _GOAL / used_ratio)
    return min(MAX_PAUSE_S, max(MIN_PAUSE_S, most_s))


async def _stamping() -> None:
    """Wait until packets are stamped as they arrive. Raises PlantFault after a second without.

    Linux begins a moment after the first socket asked (net_enable_timestamp defers it), and until
    then tells the time of the read, which would pass for latency.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        probe.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        probe.bind(("127.0.0.1", 0))
        probe.connect(probe.getsockname())
        for _ in range(200):
            probe.send(b"")
            sent_ns = time.time_ns()
            with suppress(BlockingIOError):
                if _stamp_ns(probe.recvmsg(1, _NOTES_BYTES)[1]) <= sent_ns:
                    return
            await asyncio.sleep(0.005)
    raise PlantFault("the kernel does not stamp packets with their time of arrival")


def _stamp_ns(notes: list[tuple[int, int, bytes]]) -> int:
    for level, kind, raw in notes:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(raw)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    raise AssertionError("the kernel stamps every packet once SO_TIMESTAMPNS is set")


def _holder(family: int, port: int) -> str:
    """Who holds a UDP port, for people; empty when /proc does not tell this user."""
    table = Path("/proc/net/udp6" if family == socket.AF_INET6 else "/proc/net/udp")
    inodes = set()
    with suppress(OSError):
        for row in table.read_text().splitlines()[1:]:
            cells = row.split()  # proc(5): sl local_address rem_address ... uid timeout inode
            if int(cells[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{cells[9]}]")
    if not inodes:
        return ""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):  # a process of another user, or one that has just ended
            if any(str(fd.readlink()) in inodes for fd in folder.iterdir()):
                name = folder.with_name("comm").read_text().strip()
                return f": held by process {folder.parent.name} ({name})"
    return ": held by a process of another user"
