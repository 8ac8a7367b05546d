"""The scrape client against servers that answer as they should not, on both loops."""

import asyncio
import gzip
import socket

import pytest
import uvloop

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.sensors.scrape import MOST_HEAD_BYTES, Terms, Url, scrape

PAGE = b"m 1\n" * 500
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
TERMS = Terms(accept={"text/plain": ""}, timeout_s=5.0, most_bytes=100_000)


async def scraped(*pieces, terms=TERMS, host="127.0.0.1"):
    """The page and its kind, and what was asked, of a server that sends `pieces` and hangs up."""
    asked, got = [], []

    async def serve(reader, writer):
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass  # the scrape hung up first: what some tests are about
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0)
    port = server.sockets[0].getsockname()[1]
    netloc = f"[{host}]" if ":" in host else host
    try:
        url = Url.parse(f"http://{netloc}:{port}/metrics?a=b#c")
        kind = await scrape(url, terms, got.append)
    finally:
        server.close()
        await server.wait_closed()
    (request,) = asked
    return b"".join(got), kind, request.decode()


def length(n):
    return b"Content-Length: %d\r\n\r\n" % n


def chunked(page, size):
    parts = (page[at : at + size] for at in range(0, len(page), size))
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


ZIPPED = gzip.compress(PAGE)
WHOLE = {
    "length": (HEAD + length(len(PAGE)) + PAGE,),
    "until the end": (HEAD + b"\r\n" + PAGE,),
    "chunked": (chunked(PAGE, 7),),
    "byte by byte": [bytes([b]) for b in chunked(PAGE, 100)],
    "gzip": (HEAD + b"Content-Encoding: gzip\r\n" + length(len(ZIPPED)), ZIPPED[:9], ZIPPED[9:]),
    "after 103": (b"HTTP/1.1 103 Early Hints\r\n\r\n", HEAD + length(len(PAGE)) + PAGE),
    "odd case": (HEAD.replace(b"text/plain", b"Text/Plain;x=y") + length(len(PAGE)) + PAGE,),
}


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("how", WHOLE)
def test_a_whole_page_comes_whole(new_loop, how):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        page, kind, request = runner.run(scraped(*WHOLE[how]))
    assert (page, kind) == (PAGE, "text/plain")
    assert request.startswith("GET /metrics?a=b HTTP/1.1\r\n")
    assert "Connection: close\r\n" in request


BROKEN = {
    "": "hung up without a whole answer",
    "HTTP/1.1 200 OK\r\n": "hung up without a whole answer",
    "SSH-2.0-x\r\n\r\n": "illegal",
    "HTTP/1.1 200 OK\r\n\r\nm 1\n": "is of no named type, neither text/plain",
    "HTTP/1.1 307 Moved\r\nLocation: http://h/x\r\n\r\n": "answered 307 Moved: .* http://h/x,",
    "HTTP/1.1 304 Not Modified\r\n\r\n": "answered 304 Not Modified$",
    "HTTP/1.1 503 \x1b[2J\r\n\r\n": r"answered 503 \?\[2J$",
    "HTTP/1.1 200 OK\r\nX: " + "x" * MOST_HEAD_BYTES: "too long|too large|closed",
}


@pytest.mark.parametrize("said", BROKEN)
async def test_what_is_no_page_is_said_with_the_url(said):
    with pytest.raises(PlantFault, match=r"^http://127\.0\.0\.1:\d+/metrics\?a=b#c: ") as told:
        await scraped(said.encode())
    assert told.match(BROKEN[said])


CUT = {
    "less than its length": (HEAD + length(400) + PAGE[:300], "400"),
    "more than its length": (HEAD + length(4) + PAGE, "its length is false"),
    "no last chunk": (chunked(PAGE, 50)[:-5], "incomplete|closed"),
    "within a chunk": (chunked(PAGE, 50)[:-9], "incomplete|closed"),
    "no chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "illegal"),
    "endless chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000, ""),
    "declared too long": (HEAD + length(100_001), r"longer than 100000 bytes"),
    "too long": (HEAD + b"\r\n" + b"x" * 100_001, r"longer than 100000 bytes"),
    "no gzip": (HEAD + b"Content-Encoding: gzip\r\n\r\n" + PAGE, "header"),
    "cut gzip": (HEAD + b"Content-Encoding: gzip\r\n\r\n" + ZIPPED[:-3], "gzip stream is cut"),
    "gzip, then more": (HEAD + b"Content-Encoding: gzip\r\n\r\n" + ZIPPED + b"x", "follow the end"),
    "gzip bomb": (
        HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(50_000_000)),
        r"longer than 100000 bytes",
    ),
}


@pytest.mark.parametrize("how", CUT)
async def test_a_page_that_is_not_whole_is_said_with_the_url(how):
    sent, why = CUT[how]
    with pytest.raises(PlantFault, match=r"^http://127\.0\.0\.1:\d+/metrics\?a=b#c: .") as told:
        await scraped(sent)
    assert told.match(why)


@pytest.mark.parametrize("size", [99_999, 100_000])
async def test_a_page_of_just_the_limit_is_taken_also_when_zipped(size):
    zipped = gzip.compress(bytes(size))
    page, _, _ = await scraped(HEAD + b"Content-Encoding: gzip\r\n" + length(len(zipped)) + zipped)
    assert page == bytes(size)


async def test_a_zipped_page_longer_than_a_step_is_whole():
    terms = Terms(accept=TERMS.accept, timeout_s=5.0, most_bytes=8 << 20)
    zipped = gzip.compress(b"0123456789" * 500_000)
    page, _, _ = await scraped(
        HEAD + b"Content-Encoding: gzip\r\n" + length(len(zipped)) + zipped, terms=terms
    )
    assert page == b"0123456789" * 500_000


async def test_a_page_that_drips_is_late_as_a_whole():
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        url = Url.parse(f"http://127.0.0.1:{server.getsockname()[1]}/")
        terms = Terms(accept=TERMS.accept, timeout_s=0.1, most_bytes=10)
        with pytest.raises(PlantFault, match=r"/: no whole page within 0\.1 s"):
            await scrape(url, terms, lambda _: None)


async def test_a_ipv6_literal_is_asked_with_its_brackets():
    _, _, request = await scraped(HEAD + b"\r\n" + PAGE, host="::1")
    assert "\r\nHost: [::1]:" in request


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://h/", "https is not spoken"),
        ("http://user:secret@h/", "a user or password is not taken"),
        ("http://@h/", "a user or password is not taken"),
        ("http://h/a b", "percent-encode"),
        ("http://h/\x01", "percent-encode"),
        ("http://h\u00fc/", "percent-encode"),
        ("http://h:x/", "Port"),
        ("http://:80/", "not http://host:port/path"),
    ],
)
def test_a_url_that_cannot_be_asked_is_refused(url, why):
    with pytest.raises(PolicyError, match=why) as told:
        Url.parse(url)
    assert "secret" not in str(told.value)


def test_the_path_and_the_port_may_be_left_out():
    url = Url.parse("http://h")
    assert (url.host, url.port, url.target) == ("h", 80, "/")
