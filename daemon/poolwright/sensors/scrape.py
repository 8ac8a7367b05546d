"""One page over HTTP, believed only when it came whole: h11 over a connection of its own."""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from poolwright.core.errors import PlantFault, PolicyError

MOST_HEAD_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024
_UNZIP_BYTES = 1 << 20  # decompressed at a time: what one chunk makes may be much
_MOST_SAID = 200  # characters of a server's own words that are passed on


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """An http:// URL in the parts that a request needs."""

    text: str
    host: str
    port: int
    authority: str  # for the Host header
    target: str

    @classmethod
    def parse(cls, url: str) -> "Url":
        """Raises PolicyError saying what is wrong with `url`."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise PolicyError(f"url: {url!r}: {exc}") from exc
        if parts.scheme == "https":
            raise PolicyError(f"url: {url!r}: https is not spoken here, give a local http endpoint")
        if parts.scheme != "http" or not parts.hostname:
            raise PolicyError(f"url: {url!r} is not http://host:port/path")
        if parts.username is not None:
            raise PolicyError("url: a user or password is not taken, for a url is shown to people")
        if not all("!" <= letter <= "~" for letter in url):
            raise PolicyError(f"url: {url!r}: percent-encode what is not printable ASCII")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(
            text=url,
            host=parts.hostname,
            port=80 if port is None else port,
            authority=parts.netloc,
            target=target,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a page must keep to."""

    accept: Mapping[str, str]  # content type -> what is said of it in Accept
    timeout_s: float  # for everything, from looking up the host to the last byte
    most_bytes: int  # of the page, after decompression


async def scrape(url: Url, terms: Terms, feed: Callable[[bytes], None]) -> str:
    """GET `url` on a new connection and hand the page to `feed` as it comes; its content type.

    What `feed` has got may only be believed once this returns. Raises PlantFault naming the url
    when the page is late, too long, cut, of another type or not there, and what `feed` raises.
    """
    try:
        async with asyncio.timeout(terms.timeout_s):
            reader, writer = await asyncio.open_connection(url.host, url.port)
            try:
                return await _exchange(reader, writer, url, terms, feed)
            finally:
                # nothing of ours can be left unsent, and a server that goes on is not waited for
                writer.transport.abort()
    except TimeoutError as exc:
        raise PlantFault(f"{url.text}: no whole page within {terms.timeout_s:g} s") from exc
    except (h11.RemoteProtocolError, OSError, zlib.error) as exc:
        raise PlantFault(f"{url.text}: {exc or type(exc).__name__}") from exc


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    url: Url,
    terms: Terms,
    feed: Callable[[bytes], None],
) -> str:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)
    request = h11.Request(
        method="GET",
        target=url.target,
        headers=[
            ("Host", url.authority),
            ("Accept", ",".join(kind + more for kind, more in terms.accept.items())),
            ("Accept-Encoding", "gzip"),
            ("User-Agent", "poolwright"),
            ("Connection", "close"),
        ],
    )
    writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    kind, body = "", _Body(url, terms.most_bytes, feed)
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(_READ_BYTES)
            if not data and http.their_state is h11.SEND_RESPONSE:
                raise PlantFault(f"{url.text}: hung up without a whole answer")
            http.receive_data(data)
        elif isinstance(event, h11.Response):
            kind, zipped = _check_head(url, event, terms)
            if zipped:
                body.unzip = zlib.decompressobj(wbits=31)
        elif isinstance(event, h11.Data):
            body.add(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            body.end()
            if http.trailing_data[0]:
                raise PlantFault(f"{url.text}: bytes follow the page: its length is false")
            return kind
        else:
            assert isinstance(event, h11.InformationalResponse), f"{event} before the page's end"


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


def _check_head(url: Url, head: h11.Response, terms: Terms) -> tuple[str, bool]:
    """The content type, and whether the page is gzipped. Raises PlantFault for what is no page."""
    if head.status_code != 200:
        said = f"answered {head.status_code} {_words(head.reason)}".rstrip()
        goal = _header(head, b"location")
        if 300 <= head.status_code < 400 and goal:
            said += f": points to {goal}, give that url if it is meant"
        raise PlantFault(f"{url.text}: {said}")
    kind = _header(head, b"content-type").partition(";")[0].strip().lower()
    if kind not in terms.accept:
        wanted = " nor ".join(terms.accept)
        raise PlantFault(f"{url.text}: is {kind or 'of no named type'}, neither {wanted}")
    coding = _header(head, b"content-encoding").lower() or "identity"
    if coding not in {"identity", "gzip"}:
        raise PlantFault(f"{url.text}: is encoded as {coding}, not gzip")
    length = _header(head, b"content-length")  # h11 has checked that it is one number
    if length and int(length) > terms.most_bytes:
        raise _too_long(url, terms.most_bytes)
    return kind, coding == "gzip"


def _too_long(url: Url, most: int) -> PlantFault:
    return PlantFault(f"{url.text}: the page is longer than {most} bytes (max_bytes)")


def _header(head: h11.Response, wanted: bytes) -> str:
    return ", ".join(_words(value) for name, value in head.headers if name == wanted)


def _words(said: bytes) -> str:
    """What a server said, fit for a terminal."""
    return "".join(c if " " <= c <= "~" else "?" for c in said[:_MOST_SAID].decode("latin-1"))
