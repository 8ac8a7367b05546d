"""`poolwright init` and others as a person calls them, in a process of its own."""

import contextlib
import os
import pty
import socket
import subprocess
import sys


def poolwright(*words):
    """One command; stdin is no terminal."""
    return subprocess.run(
        [sys.executable, "-m", "poolwright", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def at_a_terminal(typed, *words):
    """The output and the exit status of a command at a terminal where that is typed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "poolwright", *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        said = b""
        with contextlib.suppress(OSError):  # EIO: the other end was closed
            while part := os.read(ours, 65536):
                said += part
        os.close(ours)
        return said.decode().replace("\r\n", "\n"), process.wait(60)


def init(pid, out, *words):
    """`poolwright init --yes` for the master `pid`."""
    return poolwright("init", "--pid", pid, "--out", out, "--yes", *words)


def free_udp():
    """An address of loopback where nobody receives datagrams just now."""
    return f"127.0.0.1:{free_udp_port()}"


def free_udp_port():
    """Its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
