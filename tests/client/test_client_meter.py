"""The middlewares: what they count, and that they change nothing."""

import asyncio
import io
import os
import threading
import time
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.client import AsgiMeter, Meter, WsgiMeter
from poolwright.client.tally import Tally
from poolwright.core.sketch import sketch_of


def environ(**more):
    return {
        "REQUEST_METHOD": "GET",
        "SERVER_NAME": "t",
        "SERVER_PORT": "80",
        "PATH_INFO": "/",
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    } | more


def serve(meter, app, **more):
    """As a server does; (status, body)."""
    seen = []

    def start_response(status, headers, exc_info=None):
        seen.append(status)
        return seen.append

    body = WsgiMeter(app, meter)(environ(**more), start_response)
    try:
        parts = list(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return seen[-1] if seen else None, b"".join(parts)


def answering(status="200 OK", body=(b"ab", b"c"), kind="text/plain"):
    def app(env, start_response):
        start_response(status, [("Content-Type", kind)])
        return body

    return app


def counts(meter, *names):
    told = meter.told()
    return tuple(told[name] for name in names)


# Tallies


@given(st.lists(st.floats(0, 1e5), max_size=50))
def test_a_tally_has_the_buckets_of_the_core(seconds):
    tally = Tally()
    for each in seconds:
        tally.add(each)
    told, sketch = tally.told(), sketch_of(seconds)
    assert (sorted(told["bins"]), told["zeros"]) == (list(sketch.bins), sketch.zeros)
    assert told["total"] == pytest.approx(sketch.total)
    assert told["squares"] == pytest.approx(sketch.total_squares)


@given(st.lists(st.one_of(st.floats(allow_nan=False), st.floats(-1, 1e9)), max_size=30))
def test_a_tally_takes_any_number_and_stays_small(seconds):
    tally = Tally()
    for each in seconds:
        tally.add(each)
    assert all(-1100 <= index <= 700 for index, _ in tally.told()["bins"])


# WSGI


def test_a_request_is_counted_and_passed_on():
    meter = Meter()
    assert serve(meter, answering()) == ("200 OK", b"abc")
    assert serve(meter, answering("503 Busy", iter([b"x"]))) == ("503 Busy", b"x")
    assert counts(meter, "ended", "errors", "in_flight", "carried") == (2, 1, 0, 0)


def test_lists_tuples_and_files_are_handed_on_as_they_are():
    """So that a server may tell a length or use sendfile."""
    meter = Meter()
    for body in ([b"x"], (b"x",), FileWrapper(io.BytesIO(b"x"))):
        found = WsgiMeter(answering(body=body), meter)(
            environ(**{"wsgi.file_wrapper": FileWrapper}), lambda *_: None
        )
        assert found is body
    assert counts(meter, "ended", "in_flight") == (3, 0)


def test_a_generator_is_timed_to_its_end_and_may_start_late():
    meter, seen = Meter(), []

    def app(env, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            yield b"a"
            seen.append(meter.told()["in_flight"])
            time.sleep(0.05)
            yield b"b"
        finally:
            seen.append("closed")

    assert serve(meter, app) == ("200 OK", b"ab")
    assert seen == [1, "closed"]
    assert meter.told()["service"]["total"] >= 0.05


def test_close_is_passed_on_when_the_client_leaves_in_the_middle():
    meter, closed = Meter(), []

    class Body:
        def __iter__(self):
            return iter([b"a", b"b"])

        def close(self):
            closed.append(True)

    body = WsgiMeter(answering(body=Body()), meter)(environ(), lambda *_: None)
    assert next(iter(body)) == b"a"
    assert counts(meter, "in_flight", "ended") == (1, 0)
    body.close()
    body.close()
    assert closed == [True, True]  # as often as the server does it
    assert counts(meter, "in_flight", "ended", "errors") == (0, 1, 0)


@pytest.mark.parametrize("where", ["call", "first", "second", "close"])
def test_an_exception_is_an_error_and_is_the_servers(where):
    meter = Meter()

    class Body:
        def __iter__(self):
            if where == "first":
                raise KeyError(where)
            yield b"a"
            if where == "second":
                raise KeyError(where)

        def close(self):
            if where == "close":
                raise KeyError(where)

    def app(env, start_response):
        if where == "call":
            raise KeyError(where)
        start_response("200 OK", [])
        return Body()

    with pytest.raises(KeyError):
        serve(meter, app)
    ended, errors, in_flight = counts(meter, "ended", "errors", "in_flight")
    assert (ended, in_flight) == (1, 0)
    assert errors == (0 if where == "close" else 1)  # by then it has been answered


def test_a_server_that_gives_up_is_no_error():
    meter = Meter()

    def app(env, start_response):
        raise SystemExit  # gunicorn's worker times out

    with pytest.raises(SystemExit):
        serve(meter, app)
    assert counts(meter, "ended", "errors", "in_flight") == (0, 0, 0)


def test_server_sent_events_are_a_stream():
    meter = Meter()
    body = WsgiMeter(answering(body=iter([b"x"]), kind="text/event-stream"), meter)(
        environ(), lambda *_: None
    )
    assert counts(meter, "open_streams", "in_flight", "ended") == (1, 0, 0)
    body.close()
    assert counts(meter, "open_streams", "in_flight", "ended") == (0, 0, 0)
    assert meter.told()["service"]["total"] == 0.0


def test_the_specification_is_kept():
    meter = Meter()
    for body in ([b"x"], iter([b"x"])):
        app = validator(WsgiMeter(validator(answering(body=body)), meter))
        found = app(environ(), lambda *_: lambda data: None)
        assert list(found) == [b"x"]
        found.close()
    assert counts(meter, "ended", "errors") == (2, 0)


@pytest.mark.parametrize(
    "spell",
    [
        lambda s: f"t={s:.6f}",
        lambda s: f"{s:.3f}",
        lambda s: f"{s * 1e3:.0f}",
        lambda s: f"t={s * 1e6:.0f}",
        lambda s: f"{s * 1e9:.0f}",
    ],
)
def test_request_start_in_every_spelling(spell):
    meter = Meter()
    serve(meter, answering(), HTTP_X_REQUEST_START=spell(time.time() - 2.0))
    told = meter.told()
    assert counts(meter, "carried", "odd", "refused") == (1, 0, 0)
    assert told["queue"]["total"] == pytest.approx(2.0, abs=0.1)
    assert told["latency"]["total"] >= told["queue"]["total"]


@pytest.mark.parametrize("header", ["soon", "t=", "12", "\N{SNOWMAN}", "t=1e9", "9" * 400])
def test_a_request_start_that_is_none(header):
    meter = Meter()
    assert serve(meter, answering(), HTTP_X_REQUEST_START=header)[0] == "200 OK"
    assert counts(meter, "ended", "carried", "odd") == (1, 0, 1)


@pytest.mark.parametrize("ago_s", [-60.0, 7200.0])
def test_a_request_start_that_cannot_be(ago_s):
    meter = Meter()
    serve(meter, answering(), HTTP_X_REQUEST_START=f"t={time.time() - ago_s:.3f}")
    assert counts(meter, "carried", "refused") == (1, 1)
    assert meter.told()["latency"]["total"] == 0.0


def test_many_threads_lose_no_count():
    meter = Meter()
    app = answering(body=[b"x"])

    def client():
        for _ in range(2000):
            serve(meter, app)

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = meter.told()
    assert (told["ended"], told["in_flight"]) == (12_000, 0)
    assert told["service"]["zeros"] + sum(n for _, n in told["service"]["bins"]) == 12_000


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_counts_from_zero():
    meter = Meter()
    serve(meter, answering())
    child = os.fork()
    if child == 0:
        os._exit(meter.told()["ended"] + meter.used)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert meter.used


# ASGI


async def call(meter, app, kind="http", headers=()):
    """As a server does; the messages that were sent."""
    sent = []

    async def send(message):
        await asyncio.sleep(0)
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": kind, "headers": list(headers)}
    await AsgiMeter(app, meter)(scope, receive, send)
    return sent


def asgi(*parts, status=200, kind=b"text/plain", after=None):
    async def app(scope, receive, send):
        headers = [(b"Content-Type", kind)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for i, part in enumerate(parts):
            more = i + 1 < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})
        if after is not None:
            await after()

    return app


async def test_asgi_requests_are_counted_and_passed_on():
    meter = Meter()
    sent = await call(meter, asgi(b"a", b"b"))
    assert [m["type"].rpartition(".")[2] for m in sent] == ["start", "body", "body"]
    await call(meter, asgi(b"x", status=500))
    assert counts(meter, "ended", "errors", "in_flight") == (2, 1, 0)


async def test_what_runs_after_the_answer_is_not_its_latency():
    meter = Meter()
    ended = []

    async def after():
        ended.append(meter.told()["ended"])
        await asyncio.sleep(0.1)

    await call(meter, asgi(b"x", after=after), headers=[(b"x-request-start", b"t=x")])
    assert ended == [1]
    assert meter.told()["service"]["total"] < 0.1
    assert counts(meter, "odd") == (1,)


async def test_asgi_request_start():
    meter = Meter()
    start = f"t={time.time() - 3:.3f}".encode()
    await call(meter, asgi(b"x"), headers=[(b"host", b"t"), (b"x-request-start", start)])
    assert meter.told()["latency"]["total"] == pytest.approx(3.0, abs=0.1)


async def test_asgi_failures():
    meter = Meter()

    async def fails(scope, receive, send):
        raise KeyError

    async def silent(scope, receive, send):
        return

    async def torn(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        raise KeyError

    for app in (fails, torn):
        with pytest.raises(KeyError):
            await call(meter, app)
    await call(meter, silent)
    assert counts(meter, "ended", "errors", "in_flight") == (3, 3, 0)


async def test_a_cancelled_request_is_neither_served_nor_failed():
    meter = Meter()

    async def hangs(scope, receive, send):
        await asyncio.sleep(60)

    task = asyncio.create_task(call(meter, hangs))
    await asyncio.sleep(0)
    assert counts(meter, "in_flight") == (1,)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counts(meter, "ended", "errors", "in_flight") == (0, 0, 0)


async def test_lifespan_is_nothing_and_a_websocket_a_stream():
    meter, seen = Meter(), []

    async def app(scope, receive, send):
        seen.append((scope["type"], *counts(meter, "open_streams", "in_flight")))

    for kind in ("lifespan", "websocket"):
        await call(meter, app, kind)
    assert seen == [("lifespan", 0, 0), ("websocket", 1, 0)]
    assert counts(meter, "ended", "open_streams", "in_flight") == (0, 0, 0)


async def test_asgi_server_sent_events_are_a_stream():
    meter = Meter()
    await call(meter, asgi(b"data: x", b"", kind=b"text/event-stream; charset=utf-8"))
    assert counts(meter, "ended", "errors", "in_flight", "open_streams") == (0, 0, 0, 0)
