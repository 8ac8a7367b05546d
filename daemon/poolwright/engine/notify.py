"""The service manager's protocol: sd_notify(3) and sd_watchdog_enabled(3), in plain datagrams."""

import os
import socket
from collections.abc import Mapping

from poolwright.core.errors import PlantFault


class Notifier:
    """Tells the service manager how the daemon does; tells nobody when there is no manager.

    `watchdog_s` is the time within which the manager wants to hear `watchdog()`, None when it does
    not watch this process. Every message raises PlantFault naming the socket when it is refused.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """`address` as in NOTIFY_SOCKET: `/path`, `@abstract`, or empty for nobody."""
        if address and address[0] not in "/@":
            raise PlantFault(f"NOTIFY_SOCKET={address}: neither a path nor an abstract socket")
        self.watchdog_s = watchdog_s
        self._address = address
        self._socket: socket.socket | None = None

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, pid: int | None = None
    ) -> "Notifier":
        """What the manager put into the environment. PlantFault when it cannot be understood."""
        env = os.environ if environ is None else environ
        return cls(
            env.get("NOTIFY_SOCKET", ""), watchdog_s(env, os.getpid() if pid is None else pid)
        )

    def ready(self, status: str) -> None:
        """The start, or a reload, is done."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_one_line(status)}")

    def watchdog(self, status: str | None = None) -> None:
        """Still alive; with `status`, also what `status()` says, in the same datagram."""
        tail = "" if status is None else f"\nSTATUS={_one_line(status)}"
        self._send(f"WATCHDOG=1{tail}")

    def reloading(self, mono_ns: int) -> None:
        """A reload begins at CLOCK_MONOTONIC `mono_ns`; `ready()` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={mono_ns // 1000}")

    def stopping(self, status: str) -> None:
        """The end begins."""
        self._send(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def close(self) -> None:
        """Let go of the socket. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if not self._address:
            return
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)  # a manager that does not listen must not stop a tick
        # sendto, not connect: the manager may have made its socket anew.
        where = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            self._socket.sendto(message.encode(), where)
        except OSError as error:
            raise PlantFault(f"NOTIFY_SOCKET={self._address}: {error.strerror or error}") from error


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """The watchdog's time for process `pid`, in seconds; None when it is not watched.

    PlantFault when WATCHDOG_USEC or WATCHDOG_PID is not a positive number.
    """
    if not environ.get("WATCHDOG_USEC"):
        return None
    micros = _positive(environ, "WATCHDOG_USEC")
    if environ.get("WATCHDOG_PID") and _positive(environ, "WATCHDOG_PID") != pid:
        return None
    return micros / 1e6


def _positive(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise PlantFault(f"{name}={text}: not a positive number")
    return int(text)


def _one_line(text: str) -> str:
    """A line break would start another assignment."""
    return " ".join(text.split())
