"""The HTTP server against clients of every kind, on both loops."""

import asyncio
import logging
import socket
import struct
from contextlib import asynccontextmanager

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from poolwright.surface import connection
from poolwright.surface import server as tested
from poolwright.surface.connection import MOST_HEAD_BYTES
from poolwright.surface.message import Response
from poolwright.surface.server import MOST_CONNECTIONS, Server, bind_tcp

pytestmark = pytest.mark.e2e

BIG = b"x" * (8 << 20)  # more than the buffers of a loopback connection take


def on_both_loops(scenario):
    """A test that runs `scenario` on either loop, and fails when the loop was told of an error."""

    @pytest.mark.parametrize(
        "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    def test(new_loop):
        wrong = []
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _loop, context: wrong.append(context))
            runner.run(asyncio.wait_for(scenario(), 20))
        assert wrong == []

    test.__name__ = scenario.__name__
    return test


class Site:
    """A server with a few pages, and what it was asked."""

    def __init__(self):
        self.seen = []
        routes = {
            "/": {"GET": self.page, "POST": self.page},
            "/big": {"GET": lambda request: self.page(request, BIG)},
            "/bad": {"GET": self.fail},
            "/of/{pool}/x": {"GET": self.page},
        }
        self.server = Server(routes, most_body_bytes=100, headers=(("Cache-Control", "no-store"),))

    def page(self, request, body=b""):
        self.seen.append(request)
        return Response(status=200, body=body or request.body or b"hello", content_type="text/x")

    def fail(self, request):
        raise RuntimeError("a bug of ours")

    async def connect(self):
        return await asyncio.open_connection(*self.address)

    async def say(self, *pieces, eof=False):
        """Send `pieces` on a new connection; everything that comes until the server hangs up."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
        if eof:
            writer.write_eof()
        try:
            return await reader.read()
        finally:
            writer.close()

    async def well(self):
        """Whether it still serves."""
        return (await self.say(get("/", "Connection: close"))).endswith(b"\r\n\r\nhello")


def get(path, *headers, method="GET", body=b""):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    return "".join(line + "\r\n" for line in [*lines, ""]).encode() + body


@asynccontextmanager
async def serving(**constants):
    site = Site()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in constants.items():
            patch.setattr(connection, name, value)
        bound = bind_tcp("127.0.0.1", 0)
        site.address = bound.getsockname()
        await site.server.listen(bound)
        try:
            yield site
        finally:
            await site.server.close()
    assert not site.server._open


def status(answer):
    return int(answer.split(b" ", 2)[1])


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what a server does is not told
        await asyncio.sleep(0.01)


@on_both_loops
async def test_requests_on_one_connection_one_after_the_other():
    async with serving() as site:
        reader, writer = await site.connect()
        for i in range(3):
            writer.write(get(f"/?{i}"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"cache-control: no-store\r\n" in head.lower()
            assert await reader.readexactly(5) == b"hello"
        writer.close()
        await until(lambda: not site.server._open)


@on_both_loops
async def test_pipelined_requests_are_answered_in_order():
    async with serving() as site:
        asked = b"".join(
            get("/", f"Content-Length: {len(str(i))}", method="POST", body=str(i).encode())
            for i in range(200)
        )
        answer = await site.say(asked, eof=True)
        assert answer.count(b"HTTP/1.1 200 OK") == 200
        assert [r.body for r in site.seen] == [str(i).encode() for i in range(200)]
        bodies = [one.partition(b"\r\n\r\n")[2] for one in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [r.body for r in site.seen]


@on_both_loops
async def test_a_request_in_single_bytes_is_one_request():
    async with serving() as site:
        reader, writer = await site.connect()
        for byte in get("/of/a%2Fb/x?q#f", "Connection: close", "X-A:  b "):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert status(await reader.read()) == 200
        writer.close()
        (request,) = site.seen
        assert (request.pool, request.path) == ("a/b", "/of/a/b/x")
        assert request.headers["x-a"] == "b"


@on_both_loops
async def test_what_is_served_and_what_is_not():
    async with serving() as site:
        for asked, wanted in [
            (get("/"), 200),
            (get("http://x.example/of/a/x"), 200),
            (get("/of//x"), 404),
            (get("/of/a"), 404),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),  # HTTP/2 without asking
            (get("*", method="OPTIONS"), 404),
            (get("/", method="DELETE"), 405),
            (get("/", "Upgrade: websocket", "Connection: Upgrade"), 200),
            (get("x.example:443", method="CONNECT"), 404),
            (b"GET / HTTP/1.0\r\n\r\n", 200),
            (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
            (get("/", "Transfer-Encoding: gzip"), 501),
            (get("/", "Content-Length: 1", "Content-Length: 2"), 400),
        ]:
            answer = await site.say(asked, eof=True)
            assert (asked, status(answer)) == (asked, wanted)
            if wanted == 405:
                assert b"allow: get, post, head\r\n" in answer.lower()


@on_both_loops
async def test_head_has_the_length_and_no_body():
    async with serving() as site:
        answer = await site.say(get("/big", method="HEAD") + get("/"), eof=True)
        first, second = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
        assert first.endswith(b"\r\n\r\n")
        assert f"Content-Length: {len(BIG)}\r\n".encode().lower() in first.lower()
        assert second.endswith(b"\r\n\r\nhello")


@on_both_loops
async def test_garbage_is_answered_or_not_and_never_hurts():
    async with serving() as site:
        for garbage in (
            b"\x16\x03\x01\x00\xa5\x01\x00",  # TLS
            b"\x00" * 9000 + b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n bad\x00: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
            b"\r\n\r\n\r\n",
            get("/", "Transfer-Encoding: chunked", method="POST", body=b"zz\r\n"),
        ):
            answer = await site.say(garbage)
            assert (garbage, status(answer)) == (garbage, 400)
        assert await site.say(b"GET / HT", eof=True) != b"x"
        assert site.seen == []
        assert await site.well()


@given(st.lists(st.binary(max_size=40) | st.sampled_from([get("/"), b"\r\n", b"GET / "])))
def test_no_bytes_raise_out_of_the_protocol(pieces):
    async def main():
        wrong = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, told: wrong.append(told))
        async with serving() as site:
            await site.say(*pieces, eof=True)
        assert wrong == []

    asyncio.run(asyncio.wait_for(main(), 20))


@on_both_loops
async def test_a_head_that_is_too_long_is_refused_whole_or_in_pieces():
    async with serving() as site:
        whole = get("/", "X-Big: " + "x" * MOST_HEAD_BYTES)
        assert status(await site.say(whole)) == 431
        reader, writer = await site.connect()
        for at in range(0, len(whole), 1000):
            writer.write(whole[at : at + 1000])
            await writer.drain()
        assert status(await reader.read()) == 431
        writer.close()
        many = get("/", *(f"X-{i}: y" for i in range(2000)))
        assert status(await site.say(many)) == 431
        assert site.seen == []


@on_both_loops
async def test_a_body_that_is_too_long_is_refused_and_the_answer_arrives():
    async with serving() as site:
        long = get("/", f"Content-Length: {len(BIG)}", method="POST")
        assert status(await site.say(long, BIG)) == 413  # though the client is still sending
        chunks = b"".join(b"40\r\n" + b"x" * 64 + b"\r\n" for _ in range(3))
        chunked = get("/", "Transfer-Encoding: chunked", method="POST", body=chunks)
        assert status(await site.say(chunked)) == 413
        assert site.seen == []
        fits = get("/", "Content-Length: 100", method="POST", body=b"x" * 100)
        assert status(await site.say(fits, eof=True)) == 200


@on_both_loops
async def test_a_client_that_asks_before_it_sends_is_told_to_go_on():
    async with serving() as site:
        reader, writer = await site.connect()
        headers = ("Content-Length: 3", "Expect: 100-continue", "Connection: close")
        writer.write(get("/", *headers, method="POST"))
        assert status(await reader.readuntil(b"\r\n\r\n")) == 100
        writer.write(b"abc")
        assert (await reader.read()).endswith(b"\r\n\r\nabc")
        writer.close()


@on_both_loops
async def test_a_handler_that_fails_is_logged_and_answered():
    told = []
    handler = logging.Handler()
    handler.emit = told.append
    logging.getLogger("poolwright").addHandler(handler)
    try:
        async with serving() as site:
            answer = await site.say(get("/bad") + get("/"), eof=True)
    finally:
        logging.getLogger("poolwright").removeHandler(handler)
    assert status(answer) == 500
    assert b"a bug of ours" not in answer
    assert answer.endswith(b"\r\n\r\nhello")  # the connection goes on
    (record,) = told
    assert record.getMessage() == "GET /bad failed"
    assert "a bug of ours" in str(record.exc_info[1])


@on_both_loops
async def test_a_slow_loris_is_told_and_cut_off():
    async with serving(HEAD_S=0.3, LINGER_S=0.2) as site:
        reader, writer = await site.connect()
        began = asyncio.get_running_loop().time()

        async def drip():
            while True:  # each byte comes in time, the whole does not
                writer.write(b"X")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            answer = await reader.read()
            assert status(answer) == 408
            await until(lambda: not site.server._open)
        finally:
            dripping.cancel()
            writer.close()
        assert 0.25 < asyncio.get_running_loop().time() - began < 3


@on_both_loops
async def test_a_body_that_does_not_come_is_cut_off():
    async with serving(HEAD_S=0.2) as site:
        answer = await site.say(get("/", "Content-Length: 9", method="POST", body=b"x"))
        assert status(answer) == 408
        assert site.seen == []


@on_both_loops
async def test_the_silent_and_the_idle_are_hung_up_on():
    async with serving(HEAD_S=0.2, IDLE_S=0.3) as site:
        assert await site.say() == b""  # never said anything
        answer = await site.say(get("/"))  # and nothing after that
        assert answer.count(b"HTTP/1.1") == 1


@on_both_loops
async def test_an_idle_connection_has_longer_than_a_head():
    async with serving(HEAD_S=0.1, IDLE_S=10) as site:
        reader, writer = await site.connect()
        writer.write(get("/"))
        await reader.readuntil(b"hello")
        await asyncio.sleep(0.3)
        writer.write(get("/"))
        await reader.readuntil(b"hello")
        writer.close()


@on_both_loops
async def test_a_reader_that_takes_nothing_is_cut_off_and_held_back_until_then():
    async with serving(WRITE_S=0.5) as site:
        with socket.create_connection(site.address) as asks:
            await asyncio.to_thread(asks.sendall, get("/big") * 50)
            await until(lambda: site.seen)
            await asyncio.sleep(0.1)
            assert len(site.seen) == 1  # not fifty answers in memory
            assert await site.well()
            await until(lambda: not site.server._open)


@on_both_loops
async def test_a_slow_reader_gets_everything():
    async with serving() as site:
        reader, writer = await site.connect()
        writer.write(get("/big") * 3)
        writer.write(get("/", "Connection: close"))
        await asyncio.sleep(0.2)  # the server is held back by now
        answer = await reader.read()
        assert answer.count(b"HTTP/1.1 200 OK") == 4
        assert len(answer) > 3 * len(BIG)
        assert answer.endswith(b"hello")
        writer.close()


@on_both_loops
async def test_a_slow_reader_of_the_last_answer_gets_it_whole():
    async with serving(LINGER_S=0.1) as site:
        reader, writer = await site.connect()
        writer.write(get("/big", "Connection: close"))
        await until(lambda: site.seen)
        await asyncio.sleep(0.4)
        assert (await reader.read()).endswith(BIG)
        writer.close()


@on_both_loops
async def test_a_client_that_vanishes_in_mid_answer():
    async with serving() as site:
        for asked in (get("/big") * 3, get("/big", "Connection: close"), get("/big")[:20]):
            with socket.create_connection(site.address) as asks:
                # a reset, not an orderly end
                asks.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await asyncio.to_thread(asks.sendall, asked)
                if len(asked) > 20:
                    assert await asyncio.to_thread(asks.recv, 1000)
            await until(lambda: not site.server._open)
        assert await site.well()


@on_both_loops
async def test_many_connections_cost_the_oldest_theirs():
    async with serving() as site:
        idle = [await site.connect() for _ in range(3 * MOST_CONNECTIONS)]
        assert await site.well()
        for reader, _ in idle[: 2 * MOST_CONNECTIONS + 1]:
            assert await reader.read() == b""
        assert len(site.server._open) <= MOST_CONNECTIONS
        reader, writer = idle[-1]
        writer.write(get("/", "Connection: close"))
        assert status(await reader.read()) == 200
        for _, writer in idle:
            writer.close()


@on_both_loops
async def test_closing_lets_an_answer_arrive_and_waits_for_nobody():
    async with serving() as site:
        reader, writer = await site.connect()
        stuck_reader, stuck = await site.connect()
        stuck_reader._transport.pause_reading()
        stuck.write(get("/big") * 2)
        writer.write(get("/"))
        await until(lambda: len(site.seen) == 2)
        began = asyncio.get_running_loop().time()
        await site.server.close()
        assert asyncio.get_running_loop().time() - began < 2 * tested.CLOSE_S
        assert (await reader.read()).endswith(b"hello")
        with pytest.raises(ConnectionRefusedError):
            await site.connect()
        await site.server.close()
        writer.close()
        stuck.close()
