"""PromQL: what answers mean, by a server that says what it is told, and by a real Prometheus."""

import asyncio
import json
import re
import time
from contextlib import asynccontextmanager

import pytest
from generic_services import Prometheus
from gunicorn_service import until

from poolwright.core.errors import PolicyError
from poolwright.core.model import Status
from poolwright.sensors.promql import Promql

NOW = 1_800_000_000.0


@asynccontextmanager
async def answering(answer, status="200 OK", **options):
    """A sensor of a server that gives `answer` (by query, or one to all); reads as a dict."""
    asked = []

    async def serve(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head)
        body = answer(head) if callable(answer) else answer
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    options.setdefault("queries", {"throughput": "sum(rate(x[1m]))"})
    made = Promql(Promql.Options(url=url, **options), "web", wall_s=lambda: NOW + 1)

    async def read():
        return {reading.signal: reading for reading in await made.read(7)}

    try:
        yield read, asked
    finally:
        server.close()
        await server.wait_closed()


def vector(*values, **metric):
    result = [{"metric": metric, "value": [NOW, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


GOOD = {
    "vector": (vector("12.5"), 12.5),
    "scalar": ({"status": "success", "data": {"resultType": "scalar", "result": [NOW, "3"]}}, 3.0),
    "small": (vector("1.5e-7"), 1.5e-7),
    "infos": (vector("4") | {"infos": ["x is no counter"]}, 4.0),
}


@pytest.mark.parametrize("how", GOOD)
async def test_one_sample_is_a_value(how):
    answer, value = GOOD[how]
    async with answering(answer) as (read, asked):
        seen = (await read())["throughput_rps"]
    assert (seen.value, seen.status, seen.taken_mono_ns) == (value, Status.OK, 7)
    assert re.match(
        r"GET /api/v1/query\?query=sum%28rate%28x%5B1m%5D%29%29&timeout=\d+ms ", asked[0]
    )


def success(data):
    return {"status": "success", "data": data}


WRONG = {
    "two series": (vector("1", "2", job="a"), r"2 samples .*'job': 'a'.*sum\(\) them"),
    "matrix": (success({"resultType": "matrix", "result": []}), "gives a matrix"),
    "string": (success({"resultType": "string", "result": [NOW, "1"]}), "gives a string"),
    "no number": (vector("1_000"), "1_000, which is no number"),
    "beyond float": (vector("1e9999"), "no number"),
    "huge": (vector("9" * 100_000), "no number"),
    "hex": (vector("0x10"), "no number"),
    "number in place of text": (vector(5), "no sample"),
    "below zero": (vector("-3"), "below zero"),
    "native histogram": (
        success({"resultType": "vector", "result": [{"metric": {}, "histogram": [NOW, {}]}]}),
        "native histogram",
    ),
    "warnings": (vector("1") | {"warnings": ["store x is away"]}, "store x is away"),
    "null": (success(None), "gives a None"),
    "another program": ({"hello": 1}, "not as a Prometheus does"),
    "a list": ([], "not as a Prometheus does"),
    "a page": (b"<html>", "no JSON"),
    "wrong encoding": (b'{"status": "\xff"}', "no JSON"),
    "deep": (b"[" * 100_000, "no JSON"),
    "terminal": ({"status": "error", "errorType": "x", "error": "\x1b[2J"}, r"x: \?\[2J"),
}


@pytest.mark.parametrize("how", WRONG)
async def test_what_is_no_sample_is_an_error_that_names_server_and_query(how):
    answer, why = WRONG[how]
    async with answering(answer) as (read, _):
        seen = (await read())["throughput_rps"]
    assert (seen.status, seen.value) == (Status.ERROR, None)
    assert re.match(r"http://127\.0\.0\.1:\d+/api/v1/query: ", seen.detail)
    assert re.search(why, seen.detail), seen.detail
    assert len(seen.detail) < 1000


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
async def test_no_number_is_no_data(value):
    async with answering(vector(value)) as (read, _):
        assert (await read())["throughput_rps"].status is Status.NO_DATA


async def test_what_was_there_and_is_gone_is_stale():
    answers = iter([vector(), vector("3"), vector()])
    async with answering(lambda _: next(answers)) as (read, _):
        found = [(await read())["throughput_rps"] for _ in range(3)]
    assert [one.status for one in found] == [Status.NO_DATA, Status.OK, Status.STALE]
    assert "sum(rate(x[1m])) gives no sample" in found[2].detail


@pytest.mark.parametrize(
    ("newest", "status", "why"),
    [
        (vector(str(NOW - 5)), Status.OK, ""),
        (vector(str(NOW - 61)), Status.STALE, "the newest data is 61 s old"),
        (vector(), Status.STALE, "gives no sample"),
        (vector(str(NOW * 1000)), Status.ERROR, "Unix seconds"),
        (vector("1", "2"), Status.ERROR, "newest: .*2 samples"),
    ],
)
async def test_the_age_of_data_is_what_newest_tells(newest, status, why):
    def answer(head):
        return newest if "newest_thing" in head else vector("1")

    async with answering(answer, newest="newest_thing", max_age=60.0) as (read, _):
        seen = (await read())["throughput_rps"]
    assert seen.status is status
    assert re.search(why, seen.detail), seen.detail


async def test_an_answer_of_a_cache_is_stale():
    old = success({"resultType": "scalar", "result": [NOW - 100, "3"]})
    async with answering(old) as (read, _):
        seen = (await read())["throughput_rps"]
    assert seen.status is Status.STALE
    assert "101 s ago" in seen.detail


async def test_one_bad_query_spoils_no_other():
    def answer(head):
        return vector("1") if "good" in head else vector("1", "2")

    queries = {"throughput": "good", "memory": "bad", "cpu": "good2"}
    async with answering(answer, queries=queries) as (read, _):
        seen = await read()
    assert {name: one.status for name, one in seen.items()} == {
        "throughput_rps": Status.OK,
        "memory_bytes": Status.ERROR,
        "cpu_cores": Status.OK,
    }


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"url": "http://h:1/?a=b"}, "without"),
        ({"url": "ftp://h"}, "not http"),
        ({"queries": {"throughput": " "}}, "empty expression"),
        ({"newest": ""}, None),
        ({"url": "http://h", "auth_file": "/x"}, "in the clear"),
        ({"auth_header": "Authorization"}, "auth_header"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, why):
    asked = {"url": "http://127.0.0.1:9090", "queries": {"cpu": "x"}} | options
    if why is None:
        Promql.Options(**asked)
        return
    with pytest.raises(PolicyError, match=why):
        Promql.Options(**asked)


@pytest.fixture
def prometheus(tmp_path):
    """A real one that scrapes itself every 0.2 s."""
    made = Prometheus(tmp_path)
    made.server.start()
    yield made
    made.server.kill()


@pytest.mark.e2e
async def test_a_real_prometheus_its_own_errors_its_silence_and_its_end(prometheus):
    url = f"http://127.0.0.1:{prometheus.port}"
    up = 'up{job="itself"}'
    queries = {
        "throughput": "sum(rate(prometheus_http_requests_total[1m]))",
        "memory": "process_resident_memory_bytes",
        "worker_count": "go_threads{",
        "queue_length": "nothing_of_this_name",
        "cpu": "0/0",
        "connections": "prometheus_http_requests_total",
    }
    made = Promql(
        Promql.Options(
            url=url, queries=queries, newest=f"max(timestamp({up}))", max_age=3.0, timeout=5.0
        ),
        "web",
    )

    async def read():
        return {one.signal: one for one in await made.read(time.monotonic_ns())}

    until(prometheus.has_scraped, 30.0, "Prometheus has scraped itself")
    end = time.monotonic() + 20
    while (seen := await read())["throughput_rps"].status is not Status.OK:
        assert time.monotonic() < end, seen
        await asyncio.sleep(0.2)
    assert seen["throughput_rps"].value > 0
    rss = int(re.search(r"VmRSS:\s+(\d+)", prometheus.status())[1]) * 1024
    assert seen["memory_bytes"].value == pytest.approx(rss, rel=0.3)
    assert seen["worker_count"].status is Status.ERROR
    assert "bad_data: invalid parameter" in seen["worker_count"].detail
    assert seen["queue_length"].status is Status.NO_DATA
    assert seen["cpu_cores"].status is Status.NO_DATA
    assert "NaN" in seen["cpu_cores"].detail
    assert seen["connections"].status is Status.ERROR
    assert "samples where one is wanted" in seen["connections"].detail

    # It scrapes no more. `rate` has samples in its window for a minute; `newest` tells.
    prometheus.stop_scraping()
    end = time.monotonic() + 20
    while (seen := await read())["memory_bytes"].status is Status.OK:
        assert time.monotonic() < end, seen
        await asyncio.sleep(0.2)
    assert seen["memory_bytes"].status is Status.STALE
    assert seen["throughput_rps"].status is Status.STALE
    assert "newest: max(timestamp(" in seen["throughput_rps"].detail

    prometheus.server.kill()
    seen = await read()
    assert {one.status for one in seen.values()} == {Status.ERROR}
    assert all(f"{url}/api/v1/query: " in one.detail for one in seen.values())
