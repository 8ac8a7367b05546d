"""HAProxy's statistics of one backend, over its socket or over its statistics page.

    stats socket /run/haproxy/admin.sock mode 660 level admin     (`user` is enough to read)
    stats enable / stats uri /stats                               (http://127.0.0.1:8404/stats;csv)

Both give the same CSV. Only the socket tells which process answers. A success there is an empty
line, a failure is a sentence, and nothing else tells them apart.
"""

import asyncio
import csv
from collections.abc import Mapping
from dataclasses import dataclass, field

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.wire.http import Ask, Head, Url, exchange

BACKEND = "BACKEND"  # the row of the whole
MOST_BYTES = 4 << 20  # of one answer
_MOST_LINE = 64 << 10
_MOST_SERVERS = 4096
_READ_BYTES = 64 << 10
_HEAD = b"# pxname,"
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")

Row = Mapping[str, str]  # column -> what stands there


class SocketDenied(PlantFault):
    """The socket may not be opened, or not used for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What HAProxy says of a backend. `info` is empty when it came from the page."""

    rows: Mapping[str, Row]  # by the server's name, and BACKEND
    info: Mapping[str, str] = field(default_factory=dict)


def checked_name(name: str, what: str) -> str:
    """`name`, when HAProxy can have it: it goes into commands. Raises PolicyError."""
    if not name or not _NAME.issuperset(name):
        raise PolicyError(f"{what}: {name!r} is no name in HAProxy (letters, digits, - _ . :)")
    return name


class Source:
    """Where the statistics of `backend` come from: a socket's path or a page, one of them."""

    def __init__(self, backend: str, socket: str | None, url: str | None) -> None:
        """Check the places. Raises PolicyError."""
        if (socket is None) == (url is None):
            raise PolicyError("haproxy needs `socket` or `url`, one of them")
        self.backend = checked_name(backend, "backend")
        self.path = None if socket is None else socket.removeprefix("unix:")
        self._url = None if url is None else Url.parse(url)
        if self._url is not None and not self._url.target.partition("?")[0].endswith(";csv"):
            raise PolicyError(f"url: {url!r} is not the CSV of a statistics page: it ends in ;csv")
        self.name = str(self.path if self._url is None else self._url.text)

    async def stats(self, within_s: float) -> Stats:
        """The backend now. Raises PlantFault naming the socket or url."""
        if self._url is not None:
            return await self._page(self._url, within_s)
        answer = await self.ask(f"show info;show stat {self.backend} 6 -1", within_s)
        told, _, table = answer.partition("\n# pxname,")
        if not table:
            why = self._words(answer.strip().rpartition("\n")[2])
            raise PlantFault(f"{self.name}: no backend {self.backend}: {why}")
        sieve = _Sieve(self.name, self.backend)
        sieve.feed(_HEAD + table.encode("latin-1"))
        pairs = (line.partition(":") for line in told[:_MOST_LINE].splitlines())
        info = {key: value.strip() for key, colon, value in pairs if colon}
        if "Pid" not in info:
            raise PlantFault(f"{self.name}: 'show info' told no Pid: not a HAProxy")
        if info.get("Stopping", "0") != "0":
            raise PlantFault(f"{self.name}: process {info['Pid']} is stopping (a reload?)")
        return Stats(rows=sieve.rows(), info=info)

    async def _page(self, url: Url, within_s: float) -> Stats:
        def judge(head: Head) -> None:
            head.unmoved(url)
            if head.status != 200:
                raise PlantFault(f"{url.text}: answered {head.status} {head.reason}".rstrip())

        sieve = _Sieve(self.name, self.backend)
        ask = Ask(headers=(("Accept", "text/plain"),))
        await exchange(url, ask, judge, sieve.feed, timeout_s=within_s, most_bytes=MOST_BYTES)
        return Stats(rows=sieve.rows())

    async def command(self, text: str, within_s: float) -> None:
        """Say something that HAProxy obeys. Raises SocketDenied, PlantFault with its own words."""
        answer = await self.ask(text, within_s)
        if "Permission denied" in answer:
            raise SocketDenied(f"{self.name}: {text!r}: Permission denied")
        if answer.strip():
            raise PlantFault(f"{self.name}: {text!r}: {self._words(answer)}")

    async def ask(self, text: str, within_s: float) -> str:
        """HAProxy's whole answer. Raises SocketDenied, PlantFault."""
        assert self.path is not None
        try:
            async with asyncio.timeout(within_s):
                reader, writer = await asyncio.open_unix_connection(self.path)
                try:
                    writer.write(f"{text}\n".encode())
                    return (await self._all(reader)).decode("latin-1")
                finally:
                    writer.transport.abort()
        except TimeoutError as exc:
            raise PlantFault(f"{self.path}: no answer within {within_s:g} s") from exc
        except PermissionError as exc:
            raise SocketDenied(f"{self.path}: {exc.strerror}") from exc
        except OSError as exc:
            raise PlantFault(f"{self.path}: {exc.strerror or exc}") from exc

    async def _all(self, reader: asyncio.StreamReader) -> bytes:
        found = bytearray()
        while chunk := await reader.read(_READ_BYTES):
            found += chunk
            if len(found) > MOST_BYTES:
                raise PlantFault(f"{self.path}: an answer of over {MOST_BYTES} bytes")
        return bytes(found)

    def _words(self, answer: str) -> str:
        """The first line of what HAProxy said, fit for a terminal."""
        line = answer.strip().partition("\n")[0][:160]
        return "".join(c if " " <= c <= "~" else "?" for c in line) or "no answer"


class _Sieve:
    """Keeps the head and the wanted backend's lines of a CSV that comes in pieces."""

    def __init__(self, name: str, backend: str) -> None:
        self._name = name
        self._start = f"{backend},".encode()
        self._rest = b""
        self._head = b""
        self._kept: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Take what came. Raises PlantFault for more than any HAProxy has."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MOST_LINE:
            raise PlantFault(f"{self._name}: a line of over {_MOST_LINE} bytes")
        for line in lines:
            if line.startswith(_HEAD):
                self._head = line[2:]
            elif line.startswith(self._start):
                self._kept.append(line)
                if len(self._kept) > _MOST_SERVERS:
                    raise PlantFault(f"{self._name}: a backend of over {_MOST_SERVERS} servers")

    def rows(self) -> dict[str, Row]:
        """The rows by server, once all has come. Raises PlantFault."""
        if not self._head:
            raise PlantFault(f"{self._name}: not the CSV of HAProxy's statistics")
        if self._rest.strip():
            raise PlantFault(f"{self._name}: the statistics are cut: the last line does not end")
        lines = [line.decode("latin-1") for line in (self._head, *self._kept)]
        try:
            head, *rows = list(csv.reader(lines, strict=True))
        except csv.Error as exc:
            raise PlantFault(f"{self._name}: the statistics cannot be read: {exc}") from exc
        if any(len(row) != len(head) for row in rows):
            raise PlantFault(f"{self._name}: a row of the statistics is shorter than its head")
        found: dict[str, Row] = {row[1]: dict(zip(head, row, strict=True)) for row in rows}
        found.pop("FRONTEND", None)  # of a `listen` section
        if BACKEND not in found:
            backend = self._start[:-1].decode()
            raise PlantFault(f"{self._name}: no backend {backend} in the statistics")
        return found


def whole(row: Row, column: str, name: str) -> int:
    """A column as a whole number of at least 0. Raises PlantFault when it is none."""
    text = row.get(column, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise PlantFault(f"{name}: {column} of {row.get('svname')} is {text!r}, not a number")
    return int(text)
