"""The kernel's own list of listening sockets, with the length of each accept queue.

NETLINK_SOCK_DIAG (sock_diag(7)), what ss(8) reads, in the few messages that are needed here. The
library pyroute2 speaks it too, but loads some hundred modules and megabytes into a process that has
to stay small; reading /proc/net/tcp would mean to parse every connection of the host, 20 times a
second, and /proc/net/unix does not tell queues at all.

A dump asks for sockets in state LISTEN alone, so the kernel does not walk connections, and of TCP
only for a range of ports. For a listening socket `rqueue` is the number of connections waiting for
accept(2), and `wqueue` the backlog of listen(2) as the kernel bounded it (net.core.somaxconn).

Only sockets of this process's own network namespace are seen.
"""

import errno
import os
import socket
import struct
from functools import lru_cache
from typing import NamedTuple

from poolwright.core.errors import PlantFault

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST = 0x1  # NLM_F_REQUEST
_DUMP = 0x300  # NLM_F_ROOT | NLM_F_MATCH
_ERROR, _DONE = 2, 3
_LISTEN = 1 << 10  # 1 << TCP_LISTEN, for UNIX sockets too
_BYTECODE = 1  # INET_DIAG_REQ_BYTECODE
_PORT_FROM, _PORT_TO = 2, 3  # INET_DIAG_BC_S_GE, _S_LE
_UNIX_NAME, _UNIX_VFS, _UNIX_QUEUE = 0, 1, 4
_SHOW_QUEUE = 0x10  # UDIAG_SHOW_RQLEN
_SHOW = 0x1 | 0x2 | _SHOW_QUEUE  # UDIAG_SHOW_NAME | UDIAG_SHOW_VFS
_NO_COOKIE = 0xFFFFFFFF
_BUFFER = 8192  # the kernel fills at most what is asked for, and allocates as much for each dump

_HEADER = struct.Struct("=IHHII")
_INET_REQUEST = struct.Struct("=BBBxI48x")
_INET_ANSWER = struct.Struct("=BBBB HH16s16sIII IIIII".replace(" ", ""))
_UNIX_REQUEST = struct.Struct("=BBHIIIII")
_UNIX_ANSWER = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")
_JUMP = struct.Struct("=BBH")


class TcpListener(NamedTuple):
    """A listening TCP socket: address in network order (4 or 16 bytes), port in host order."""

    address: bytes
    port: int
    queue: int
    limit: int
    inode: int


class UnixListener(NamedTuple):
    """A listening UNIX socket. `name` as bound (an abstract one starts with NUL); `file` is
    (device, inode) of its file as the kernel numbers them, None for an abstract name.
    """

    name: bytes
    file: tuple[int, int] | None
    queue: int
    limit: int
    inode: int


class SockDiag:
    """One netlink socket, opened when first needed and again after a failure.

    Answers are made by the kernel while it takes the request, so nothing here waits.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Close the socket, if any."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def tcp(self, family: int, low: int, high: int) -> list[TcpListener]:
        """Listeners of AF_INET or AF_INET6 with a port in low..high. Raises PlantFault."""
        request = _tcp_request(family, low, high)
        return [_tcp_listener(body) for body in self._ask(request, dump=True)]

    def unix(self, inode: int | None = None) -> list[UnixListener]:
        """All listening UNIX sockets, or the one with this inode (none when it is gone).

        Raises PlantFault.
        """
        bodies = self._ask(_unix_request(inode), dump=inode is None)
        return [_unix_listener(body) for body in bodies]

    def _ask(self, request: bytes, *, dump: bool) -> list[bytes]:
        """The bodies of all answers. Raises PlantFault."""
        try:
            return self._exchange(request, dump=dump)
        except PlantFault:
            self.close()
            raise
        except OSError as error:
            self.close()  # a half-read dump would answer the next question
            if error.errno == errno.ENOENT:
                return []  # the kernel knows no such socket
            raise PlantFault(f"sock_diag: {error.strerror or error}") from error

    def _exchange(self, request: bytes, *, dump: bool) -> list[bytes]:
        if self._socket is None:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _SOCK_DIAG
            )
        self._socket.send(request)
        bodies: list[bytes] = []
        while True:
            for kind, body in _messages(self._socket.recv(_BUFFER)):
                if kind in (_DONE, _ERROR):
                    code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code < 0:
                        raise OSError(-code, os.strerror(-code))
                    return bodies
                bodies.append(body)
            if not dump and bodies:
                return bodies


# A queue is mostly the same as 50 ms ago, and so is the answer, byte by byte: a small cache saves
# the parsing, which in a process that has just been woken costs more than the question.
@lru_cache(maxsize=4)
def _messages(packet: bytes) -> tuple[tuple[int, bytes], ...]:
    """Type and body of the netlink messages of a packet. Raises PlantFault."""
    found = []
    at = 0
    while at + _HEADER.size <= len(packet):
        size, kind, _, _, _ = _HEADER.unpack_from(packet, at)
        if not _HEADER.size <= size <= len(packet) - at:
            raise PlantFault("sock_diag: the kernel sent a broken message")
        found.append((kind, packet[at + _HEADER.size : at + size]))
        at += (size + 3) & ~3
    return tuple(found)


@lru_cache(maxsize=64)
def _tcp_listener(body: bytes) -> TcpListener:
    if len(body) < _INET_ANSWER.size:
        raise PlantFault("sock_diag: the kernel sent a short answer")
    fields = _INET_ANSWER.unpack_from(body)
    size = 4 if fields[0] == socket.AF_INET else 16
    queue, limit, _, inode = fields[12:]
    return TcpListener(fields[6][:size], socket.ntohs(fields[4]), queue, limit, inode)


def _message(request: bytes, flags: int) -> bytes:
    """With its header. The sequence number is always 1: a socket that was not read to the end of
    an answer is closed, so no answer can be taken for another.
    """
    size = _HEADER.size + len(request)
    return _HEADER.pack(size, _BY_FAMILY, _REQUEST | flags, 1, 0) + request


@lru_cache(maxsize=64)
def _tcp_request(family: int, low: int, high: int) -> bytes:
    request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, _LISTEN)
    return _message(request + _port_filter(low, high), _DUMP)


@lru_cache(maxsize=64)
def _unix_request(inode: int | None) -> bytes:
    """A dump with names, or one socket without."""
    show = _SHOW if inode is None else _SHOW_QUEUE
    cookie = _NO_COOKIE, _NO_COOKIE
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, _LISTEN, inode or 0, show, *cookie)
    return _message(request, _DUMP if inode is None else 0)


def _port_filter(low: int, high: int) -> bytes:
    """Bytecode `sport >= low and sport <= high`; a failed test jumps past the end: refused."""
    code = _JUMP.pack(_PORT_FROM, 8, 20) + _JUMP.pack(0, 0, low)
    code += _JUMP.pack(_PORT_TO, 8, 12) + _JUMP.pack(0, 0, high)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(code), _BYTECODE) + code


@lru_cache(maxsize=64)
def _unix_listener(body: bytes) -> UnixListener:
    if len(body) < _UNIX_ANSWER.size:
        raise PlantFault("sock_diag: the kernel sent a short answer")
    inode = _UNIX_ANSWER.unpack_from(body)[4]
    name, file, lengths = b"", None, None
    at = _UNIX_ANSWER.size
    while at + _ATTRIBUTE.size <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, at)
        value = body[at + _ATTRIBUTE.size : at + size]
        if kind == _UNIX_NAME:
            name = value if value[:1] == b"\0" else value.rstrip(b"\0")
        elif kind == _UNIX_VFS and len(value) >= 8:
            ino, device = struct.unpack_from("=II", value)
            file = device, ino
        elif kind == _UNIX_QUEUE and len(value) >= 8:
            lengths = struct.unpack_from("=II", value)
        at += max(_ATTRIBUTE.size, (size + 3) & ~3)
    if lengths is None:
        raise PlantFault("sock_diag: this kernel tells no queue of UNIX sockets")
    return UnixListener(name, file, lengths[0], lengths[1], inode)
