"""One line of JSON for one, over a UNIX socket between processes of one host; who the peer is."""

import json
import os
import socket
import struct

_LINE_MOST = 4096
_ASK_S = 0.2  # another process of the service may be stuck
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid; see unix(7)
_SO_PEERGROUPS = 59  # Linux 4.13; not in Python's socket module


def ask(path: str) -> dict[str, int]:
    """What another process of the service says. Raises OSError, ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        patience(link, _ASK_S)
        link.connect(path)
        link.sendall(b"{}\n")
        told = json.loads(line(link))
    if not isinstance(told, dict):
        raise ValueError(f"{path}: not an answer")  # noqa: TRY004 - what it says, not what we do
    return told


def patience(link: socket.socket, seconds: float) -> None:
    """Let the kernel give up, with BlockingIOError. A timeout of Python's own polls before every
    call, and must get the interpreter's lock back each time, which busy threads make slow.
    """
    whole, part = divmod(seconds, 1.0)
    packed = struct.pack("ll", int(whole), int(part * 1e6))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)


def line(link: socket.socket) -> bytes:
    """One short line. Raises ValueError for a longer one, OSError when none comes."""
    found = b""
    while not found.endswith(b"\n"):
        part = link.recv(_LINE_MOST)
        found += part
        if not part or len(found) > _LINE_MOST:
            raise ValueError("no line")
    return found


def may_ask(link: socket.socket, gid: int | None) -> bool:
    """Whether the kernel says that it is root, ourselves, or of the group."""
    peer = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, uid, own = _PEER.unpack(peer)
    if uid in (0, os.geteuid()):
        return True
    if gid is None:
        return False
    more = link.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    return gid in (own, *struct.unpack(f"{len(more) // 4}I", more))


def parent() -> str:
    """Which process started this one. Raises ValueError when it is no part of the service: init
    starts a service anew. The first process of a container is one: it shares our cgroup.
    """
    pid = os.getppid()
    if pid < 1 or (pid == 1 and _read("/proc/1/cgroup") != _read("/proc/self/cgroup")):
        raise ValueError("started by init")
    text = _read(f"/proc/{pid}/stat")
    return f"{pid}:{text[text.rindex(')') + 2 :].split()[19]}"  # starttime; proc(5)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def gid(group: str) -> int:
    """Its number. Raises KeyError when there is no such group."""
    import grp  # noqa: PLC0415 - few need it

    return grp.getgrnam(group).gr_gid
