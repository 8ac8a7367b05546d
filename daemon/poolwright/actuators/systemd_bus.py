"""Calls to systemd over D-Bus: many at once on one kept connection, with no task beside them.

jeepney makes and reads the messages (0.3 MB; dbus-fast would take 4.5). Its own asyncio router is
not used: a caller that is cancelled while its answer comes ends the router for all others.
systemd's side of it: org.freedesktop.systemd1(5).
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from poolwright.core.errors import PlantFault, PolicyError

_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER_PATH = "/org/freedesktop/systemd1"
_MOST_BYTES = 1 << 20  # of one message: some thousand units
_DENIED = ("AccessDenied", "InteractiveAuthorizationRequired", "AuthFailed")


class Denied(PlantFault):
    """We may not do that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of systemd: `path` an object's, `interface` without its common beginning."""

    method: str
    signature: str
    body: tuple[Any, ...]
    path: str = _MANAGER_PATH
    interface: str = f"{_SYSTEMD}.Manager"


def get(path: str, interface: str, name: str) -> Call:
    """A call that asks for one property of a unit; `interface` is Unit, Service, ..."""
    return Call(
        method="Get",
        signature="ss",
        body=(f"{_SYSTEMD}.{interface}", name),
        path=path,
        interface="org.freedesktop.DBus.Properties",
    )


class Bus:
    """The bus at a socket. One exchange at a time; whoever comes later waits for its turn."""

    def __init__(self, path: str) -> None:
        """Nothing is opened yet. Raises PolicyError when jeepney is not installed."""
        try:
            import jeepney  # noqa: F401, PLC0415 - whoever has no units need not have it
        except ImportError as error:
            raise PolicyError(
                "systemd_units needs the package jeepney: pip install 'poolwright[systemd]'"
            ) from error
        self.path = path
        self._lock = asyncio.Lock()
        self._link: _Link | None = None

    async def call(self, call: Call, within_s: float) -> tuple[Any, ...]:
        """The answer to one call. Raises PlantFault, Denied when it is not allowed."""
        (answer,) = await self.ask((call,), within_s)
        if isinstance(answer, PlantFault):
            raise answer
        return answer

    async def ask(
        self, calls: Sequence[Call], within_s: float
    ) -> list[tuple[Any, ...] | PlantFault]:
        """The answers in the order of the calls; what is refused is a PlantFault in its place.

        Raises PlantFault when the bus itself does not answer.
        """
        try:
            async with asyncio.timeout(within_s), self._lock:
                return await self._ask(calls)
        except TimeoutError:
            raise PlantFault(f"{self.path}: no answer within {within_s:g} s") from None

    async def close(self) -> None:
        """Hang up. May be called twice."""
        link, self._link = self._link, None
        if link is not None:
            link.socket.close()

    async def _ask(self, calls: Sequence[Call]) -> list[tuple[Any, ...] | PlantFault]:
        kept = self._link is not None
        try:
            return await self._exchange(calls)
        except (OSError, EOFError) as error:
            if not kept:
                raise PlantFault(f"{self.path}: {_why(error)}") from error
        try:  # the bus was started anew since the last time; these calls may be made twice
            return await self._exchange(calls)
        except (OSError, EOFError) as error:
            raise PlantFault(f"{self.path}: {_why(error)}") from error

    async def _exchange(self, calls: Sequence[Call]) -> list[tuple[Any, ...] | PlantFault]:
        """One exchange; whatever goes wrong in it, also a cancellation, ends the connection."""
        try:
            if self._link is None:
                self._link = await _connect(self.path)
            return await self._link.exchange(calls)
        except (OSError, EOFError, PlantFault, asyncio.CancelledError):
            await self.close()
            raise
        except Exception as error:  # the parser raises many kinds on garbage
            await self.close()
            said = f"{type(error).__name__}: {error}"[:120]
            raise PlantFault(f"{self.path}: it does not speak D-Bus: {said}") from error


class _Link:
    """An open connection."""

    def __init__(self, connected: socket.socket) -> None:
        from jeepney import Parser  # noqa: PLC0415

        self.socket = connected
        self._parser = Parser()
        self._serial = 0

    async def exchange(self, calls: Sequence[Call]) -> list[tuple[Any, ...] | PlantFault]:
        """Send all, then read until all are answered."""
        from jeepney import DBusAddress, new_method_call  # noqa: PLC0415

        messages = [
            new_method_call(
                DBusAddress(one.path, bus_name=_SYSTEMD, interface=one.interface),
                one.method,
                one.signature,
                one.body,
            )
            for one in calls
        ]
        return await self._send(messages)

    async def hello(self) -> None:
        """The first message on a bus."""
        from jeepney.bus_messages import message_bus  # noqa: PLC0415

        await self._send([message_bus.Hello()])

    async def _send(self, messages: Sequence[Any]) -> list[tuple[Any, ...] | PlantFault]:
        first = self._serial + 1
        self._serial += len(messages)
        out = b"".join(m.serialise(first + i) for i, m in enumerate(messages))
        await asyncio.get_running_loop().sock_sendall(self.socket, out)
        answers: dict[int, tuple[Any, ...] | PlantFault] = {}
        while len(answers) < len(messages):
            serial, answer = await self._receive()
            if first <= serial <= self._serial:
                answers[serial] = answer
        return [answers[serial] for serial in range(first, self._serial + 1)]

    async def _receive(self) -> tuple[int, tuple[Any, ...] | PlantFault]:
        """The next message: which call it answers (0: none), and how."""
        from jeepney import HeaderFields, MessageType  # noqa: PLC0415

        while (message := self._parser.get_next_message()) is None:
            if self._parser.bytes_desired() > _MOST_BYTES:
                raise ValueError(f"a message of more than {_MOST_BYTES} bytes")
            self._parser.add_data(await _some(self.socket))
        fields = message.header.fields
        serial = int(fields.get(HeaderFields.reply_serial, 0))
        if message.header.message_type is not MessageType.error:
            return serial, message.body
        name = str(fields.get(HeaderFields.error_name, ""))
        said = str(message.body[0]) if message.body else name
        kind = Denied if name.endswith(_DENIED) else PlantFault
        return serial, kind(f"{said} ({name.rpartition('.')[2]})")


async def _connect(path: str) -> _Link:
    """Connect and say who we are. Raises OSError, EOFError or PlantFault."""
    from jeepney.auth import BEGIN, AuthenticationError, Authenticator  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await loop.sock_connect(connected, path)
        talk = Authenticator()
        for line in talk:
            await loop.sock_sendall(connected, line)
            talk.feed(await _some(connected))
        await loop.sock_sendall(connected, BEGIN)
        link = _Link(connected)
        await link.hello()
    except AuthenticationError as error:
        connected.close()
        raise PlantFault(f"{path}: {error}") from error
    except BaseException:
        connected.close()
        raise
    return link


async def _some(connected: socket.socket) -> bytes:
    """What has come. Raises EOFError when the other side has hung up."""
    chunk = await asyncio.get_running_loop().sock_recv(connected, 65536)
    if not chunk:
        raise EOFError
    return chunk


def _why(error: Exception) -> str:
    """For people."""
    if isinstance(error, EOFError):
        return "the bus hung up"
    return getattr(error, "strerror", None) or type(error).__name__
