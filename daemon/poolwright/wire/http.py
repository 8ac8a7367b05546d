"""One exchange over HTTP/1.1 on a connection of its own, within limits of time and size: h11.

Whoever answers is not trusted: the time is for everything from looking up the host to the last
byte, heads are bounded, bodies are bounded as they come and as they are unpacked, no redirect is
followed, and an answer that comes in a million pieces lets the event loop breathe between them.
"""

import asyncio
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from poolwright.core.errors import PlantFault, PolicyError

MOST_HEAD_BYTES = 16 * 1024
_READ_BYTES = 16 * 1024  # at most some thousand of the smallest chunks: 30 ms of parsing
_SPARE_BYTES = 64 * 1024  # of an answer that are not its page: heads and the sizes of chunks
_UNZIP_BYTES = 1 << 20  # decompressed at a time: what one chunk makes may be much
_MOST_SAID = 200  # characters of a server's own words that are passed on
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """An http:// or https:// URL in the parts that a request needs."""

    text: str
    secure: bool
    host: str
    port: int
    authority: str  # for the Host header
    target: str

    @classmethod
    def parse(cls, url: str, *, secure: bool = False) -> "Url":
        """Raises PolicyError saying what is wrong with `url`; https only when `secure`."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise PolicyError(f"url: {url!r}: {exc}") from exc
        if parts.scheme == "https" and not secure:
            raise PolicyError(f"url: {url!r}: https is not spoken here, give a local http endpoint")
        if parts.scheme not in _PORTS or not parts.hostname:
            raise PolicyError(f"url: {url!r} is not http://host:port/path")
        if parts.username is not None:
            raise PolicyError("url: a user or password is not taken, for a url is shown to people")
        if not all("!" <= letter <= "~" for letter in url):
            raise PolicyError(f"url: {url!r}: percent-encode what is not printable ASCII")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(
            text=url,
            secure=parts.scheme == "https",
            host=parts.hostname,
            port=_PORTS[parts.scheme] if port is None else port,
            authority=parts.netloc,
            target=target,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is sent."""

    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    tls: ssl.SSLContext | None = None  # of an https:// URL; None: what the system trusts
    hidden: bytes = b""  # a secret in `headers`, never to be shown if the server repeats it

    def words(self, said: bytes) -> str:
        """What a server said, fit for a terminal and without the secret."""
        return words(said.replace(self.hidden, b"***") if self.hidden else said)


class Head:
    """What an answer says of itself, in words fit for a terminal."""

    def __init__(self, response: h11.Response, ask: Ask) -> None:
        """Of an answer's first lines."""
        self.status = response.status_code
        self.reason = ask.words(response.reason)
        self._headers = response.headers
        self._words = ask.words

    def header(self, wanted: bytes) -> str:
        """A header by its name in lower case; empty when there is none."""
        return ", ".join(self._words(value) for name, value in self._headers if name == wanted)

    def unmoved(self, url: Url) -> None:
        """Raises PlantFault for a redirect: what was asked is not to be answered by another."""
        if 300 <= self.status < 400:
            said = f"{url.text}: answered {self.status} {self.reason}".rstrip()
            goal = self.header(b"location")
            raise PlantFault(
                said + (f": points to {goal}, give that url if it is meant" * bool(goal))
            )


async def exchange(
    url: Url,
    ask: Ask,
    judge: Callable[[Head], None],
    feed: Callable[[bytes], None],
    *,
    timeout_s: float,
    most_bytes: int,
) -> Head:
    """Ask on a new connection and hand the page to `feed` as it comes, unzipped; its head.

    What `feed` has got may only be believed once this returns. `judge` may refuse a head. Raises
    PlantFault naming the url when the page is late, longer than `most_bytes`, cut or not there,
    and what `judge` and `feed` raise.
    """
    try:
        async with asyncio.timeout(timeout_s):
            secure = (ask.tls or ssl.create_default_context()) if url.secure else None
            reader, writer = await asyncio.open_connection(url.host, url.port, ssl=secure)
            try:
                talk = _Talk(url, ask, judge, feed, most_bytes)
                writer.write(talk.request())
                return await talk.answer(reader)
            finally:
                # nothing of ours can be left unsent, and a server that goes on is not waited for
                writer.transport.abort()
    except TimeoutError as exc:
        raise PlantFault(f"{url.text}: no whole page within {timeout_s:.3g} s") from exc
    except (h11.RemoteProtocolError, OSError, zlib.error) as exc:
        raise PlantFault(f"{url.text}: {ask.words(_cause(exc).encode())}") from exc


class _Talk:
    """One request and what comes back."""

    def __init__(
        self,
        url: Url,
        ask: Ask,
        judge: Callable[[Head], None],
        feed: Callable[[bytes], None],
        most_bytes: int,
    ) -> None:
        self._url = url
        self._ask = ask
        self._judge = judge
        self._most = most_bytes
        self._left = 2 * most_bytes + _SPARE_BYTES  # bytes that may still come, whatever they are
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)
        self._body = _Body(url, most_bytes, feed)
        self._head: Head | None = None

    def request(self) -> bytes:
        """What to send."""
        ask = self._ask
        headers = [
            ("Host", self._url.authority),
            ("Accept-Encoding", "gzip"),
            ("User-Agent", "poolwright"),
            ("Connection", "close"),
            *ask.headers,
        ]
        if ask.method != "GET":
            headers.append(("Content-Length", str(len(ask.body))))
        start = h11.Request(method=ask.method, target=self._url.target, headers=headers)
        body = h11.Data(data=ask.body)
        said = (self._http.send(event) for event in (start, body, h11.EndOfMessage()))
        return b"".join(part for part in said if part)

    async def answer(self, reader: asyncio.StreamReader) -> Head:
        """Read to the end of the answer."""
        while True:
            try:
                event = self._http.next_event()
            except ValueError as exc:  # h11 leaves a length of thousands of digits to int()
                raise PlantFault(f"{self._url.text}: its length is beyond reason") from exc
            if event is h11.NEED_DATA:
                await self._more(reader)
            elif isinstance(event, h11.Response):
                self._begin(Head(event, self._ask))
            elif isinstance(event, h11.Data):
                self._body.add(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return self._end()
            else:
                assert isinstance(event, h11.InformationalResponse), f"{event} before the end"

    async def _more(self, reader: asyncio.StreamReader) -> None:
        await asyncio.sleep(0)  # the rest of the tick goes on, and a deadline is noticed
        data = await reader.read(_READ_BYTES)
        if not data and self._http.their_state is h11.SEND_RESPONSE:
            raise PlantFault(f"{self._url.text}: hung up without a whole answer")
        self._left -= len(data)
        if self._left < 0:
            raise _too_long(self._url, self._most)
        self._http.receive_data(data)

    def _begin(self, head: Head) -> None:
        self._judge(head)
        coding = head.header(b"content-encoding").lower() or "identity"
        if coding not in {"identity", "gzip"}:
            raise PlantFault(f"{self._url.text}: is encoded as {coding}, not gzip")
        length = head.header(b"content-length")  # h11 has checked that it is one number
        if length and int(length) > self._most:
            raise _too_long(self._url, self._most)
        if coding == "gzip":
            self._body.unzip = zlib.decompressobj(wbits=31)
        self._head = head

    def _end(self) -> Head:
        self._body.end()
        if self._http.trailing_data[0]:
            raise PlantFault(f"{self._url.text}: bytes follow the page: its length is false")
        assert self._head is not None
        return self._head


class _Body:
    """What has come of a page."""

    def __init__(self, url: Url, most_bytes: int, feed: Callable[[bytes], None]) -> None:
        self._url = url
        self._most = most_bytes
        self._feed = feed
        self._length = 0
        self.unzip: zlib._Decompress | None = None

    def add(self, data: bytes) -> None:
        """Take what came. Raises PlantFault when it is too much, zlib.error when it is no gzip."""
        if self.unzip is None:
            self._pass_on(data)
            return
        while True:
            most = min(_UNZIP_BYTES, self._most - self._length + 1)  # one too many tells enough
            piece = self.unzip.decompress(data, most)
            self._pass_on(piece)
            data = self.unzip.unconsumed_tail
            if not data and len(piece) < most:
                break
        if self.unzip.unused_data:
            raise PlantFault(f"{self._url.text}: bytes follow the end of the gzip stream")

    def end(self) -> None:
        """The last byte has come. Raises PlantFault when the gzip stream wants more."""
        if self.unzip is not None and not self.unzip.eof:
            raise PlantFault(f"{self._url.text}: the gzip stream is cut")

    def _pass_on(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length > self._most:
            raise _too_long(self._url, self._most)
        if piece:
            self._feed(piece)


def words(said: bytes) -> str:
    """What a server said, fit for a terminal."""
    return "".join(c if " " <= c <= "~" else "?" for c in said[:_MOST_SAID].decode("latin-1"))


def _too_long(url: Url, most: int) -> PlantFault:
    return PlantFault(f"{url.text}: the page is longer than {most} bytes (max_bytes)")


def _cause(exc: Exception) -> str:
    """Why, without the line of C that OpenSSL adds."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {exc.verify_message}"
    return str(exc) or type(exc).__name__
