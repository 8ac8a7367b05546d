"""The uWSGI sensor on a real uWSGI, and on what only claims to be one."""

import asyncio
import itertools
import json
import socket
import time
import tracemalloc

import pytest
from gunicorn_service import Load, http_get, until
from service_process import starter
from started import free_port
from uwsgi_service import UwsgiService

from poolwright.core.errors import PolicyError
from poolwright.core.model import Status
from poolwright.sensors.access_log import AccessLog, AccessLogOptions
from poolwright.sensors.uwsgi import Uwsgi, UwsgiOptions, access_log_flags
from poolwright.wire.uwsgi_stats import Core, Incarnation, Slot, Stats, StatsServer

SECOND = 1_000_000_000


@pytest.fixture
def uwsgi_service(tmp_path):
    """Starts real ones: `service = uwsgi_service(workers=3)`; ended with the test."""
    yield from starter(UwsgiService, tmp_path)


def sensor(stats, **options):
    return Uwsgi(UwsgiOptions(stats=str(stats), **options), "web")


async def look(made, now_s):
    """Signal -> Reading."""
    return {r.signal: r for r in await made.read(round(now_s * SECOND))}


@pytest.mark.e2e
async def test_what_it_tells_is_what_clients_saw(uwsgi_service):
    service = uwsgi_service(workers=2)
    made = sensor(service.stats)
    first = await look(made, 1.0)
    assert first["throughput_rps"].status is Status.NO_DATA
    async with Load(service.port, "/sleep?s=0.05", clients=2) as load:
        await asyncio.sleep(1.0)
    then = await look(made, 3.0)
    assert then["throughput_rps"].value == load.outcomes["ok"] / 2.0
    assert then["worker_count"].value == 2
    assert (then["queue_length"].value, then["queue_limit"].value) == (0.0, 100.0)
    idle = await look(made, 4.0)
    assert idle["throughput_rps"].value == 0.0
    assert set(idle) == set(made.signals)


@pytest.mark.e2e
async def test_the_queue_shows_in_the_masters_next_cycle(uwsgi_service):
    service = uwsgi_service(workers=1)
    made = sensor(service.stats)
    async with Load(service.port, "/sleep?s=0.6", clients=6) as load:
        seen, end = 0.0, time.monotonic() + 5.0
        while seen < 4.0:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
            told = (await look(made, time.monotonic()))["queue_length"]
            seen = told.value or 0.0  # not told before the master's first cycle
        load._stop = True
    assert seen <= 5.0


@pytest.mark.e2e
async def test_requests_in_flight_are_counted_in_every_thread(uwsgi_service):
    service = uwsgi_service(workers=2, flags=("--threads", "2"))
    made = sensor(service.stats)
    assert (await look(made, 1.0))["in_flight"].value == 0.0
    async with Load(service.port, "/sleep?s=1.5", clients=3) as load:
        seen, end = 0.0, time.monotonic() + 1.4
        while seen < 3.0:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
            seen = (await look(made, time.monotonic()))["in_flight"].value
        load._stop = True
    assert seen == 3.0
    assert (await look(made, time.monotonic()))["in_flight"].value == 0.0


@pytest.mark.e2e
async def test_exceptions_and_harakiris_are_errors_when_asked_for(uwsgi_service):
    service = uwsgi_service(workers=1, flags=("--harakiri", "1"))
    made = sensor(service.stats, count_exceptions=True)
    await look(made, 1.0)
    for _ in range(3):
        with pytest.raises(IndexError):  # uWSGI logs a 500 and answers nothing
            http_get(service.port, "/boom")
    with pytest.raises((OSError, IndexError)):
        http_get(service.port, "/sleep?s=8", timeout_s=7.0)
    until(lambda: service.stats_told()["workers"][0]["harakiri_count"], 3.0, "a harakiri")
    seen = await look(made, 3.0)
    assert seen["errors_rps"].value == 4 / 2.0
    assert "errors_rps" not in sensor(service.stats).signals


@pytest.mark.e2e
async def test_memory_is_told_by_all_workers_or_not_at_all(uwsgi_service):
    service = uwsgi_service(workers=1, flags=("--memory-report",))
    made = sensor(service.stats, memory=True)
    seen = await look(made, 1.0)
    assert seen["memory_bytes"].value > 1 << 20
    service.order("+")
    until(lambda: service.kept() == 2, 5.0, "a second worker")
    seen = await look(made, 2.0)
    assert seen["memory_bytes"].status is Status.NO_DATA
    assert "1 of 2 workers" in seen["memory_bytes"].detail


@pytest.mark.e2e
async def test_a_reload_is_a_lower_bound_and_never_negative(uwsgi_service):
    service = uwsgi_service(workers=2)
    made = sensor(service.stats)
    for _ in range(20):
        http_get(service.port, "/")
    await look(made, 1.0)
    old = service.children()
    service.order("r")
    until(lambda: not set(old) & set(service.children()), 10.0, "the reload")
    until(service.answers, 5.0, "it serves again")
    before = service.stats_told()
    seen = await look(made, 2.0)
    counted = sum(worker["requests"] for worker in before["workers"])
    assert counted <= seen["throughput_rps"].value <= counted + 1
    assert seen["throughput_rps"].estimated
    assert "lower bound" in seen["throughput_rps"].detail


@pytest.mark.e2e
async def test_a_unix_socket_has_no_queue_to_tell_rather_than_none(uwsgi_service):
    service = uwsgi_service(flags=("--http-socket", "more.sock"))
    seen = await look(sensor(service.stats), 1.0)
    assert seen["queue_length"].status is Status.NO_DATA
    assert "more.sock" in seen["queue_length"].detail


@pytest.mark.e2e
async def test_a_client_cannot_blind_it_with_the_bytes_of_its_request(uwsgi_service):
    """uWSGI puts requests under way into its JSON as they came: no JSON parser takes that."""
    service = uwsgi_service(workers=1)
    with socket.create_connection(("127.0.0.1", service.port)) as link:
        link.sendall(b'GET /\xff\xc3("x"\\\x01?s=2 HTTP/1.1\r\nHost: \xfe"\\\x02\r\n\r\n')
        until(lambda: b"\xff" in raw(service.stats), 3.0, "the request is under way")
        with pytest.raises(ValueError):
            json.loads(raw(service.stats))
        seen = await look(sensor(service.stats), 1.0)
    assert seen["worker_count"].value == 1.0


@pytest.mark.e2e
async def test_an_access_log_sensor_gets_quantiles_and_errors_from_uwsgi(uwsgi_service):
    made = AccessLog(AccessLogOptions(listen="127.0.0.1:0"), "web")
    await made.start()
    try:
        flags = access_log_flags("{}:{}".format(*made.address))
        service = uwsgi_service(workers=2, flags=("--plugin", "logsocket", *flags))
        ticks = itertools.count(1)
        end = time.monotonic() + 5.0  # for the line of the request that found it ready
        while not (await look(made, next(ticks)))["throughput_rps"].value:
            assert time.monotonic() < end
            http_get(service.port, "/")
            await asyncio.sleep(0.1)
        await look(made, next(ticks))
        async with Load(service.port, "/sleep?s=0.03", clients=2) as load:
            await asyncio.sleep(0.5)
        with pytest.raises(IndexError):
            http_get(service.port, "/boom")
        await asyncio.sleep(0.2)
        seen = await look(made, next(ticks))
    finally:
        await made.close()
    assert seen["throughput_rps"].value == load.outcomes["ok"] + 1
    assert seen["errors_rps"].value == 1.0
    assert seen["service_time_s"].sketch.count == load.outcomes["ok"] + 1
    assert 0.03 <= seen["service_time_s"].sketch.quantile(0.5) < 0.05


@pytest.mark.e2e
async def test_over_tcp_and_gone(uwsgi_service):
    port = free_port()
    service = uwsgi_service(stats_port=port)
    made = sensor(f"127.0.0.1:{port}")
    assert (await look(made, 1.0))["worker_count"].value == 2.0
    service.kill()
    for reading in (await look(made, 2.0)).values():
        assert reading.status is Status.ERROR
        assert f"127.0.0.1:{port}" in reading.detail


def raw(path):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        chunks = []
        while chunk := link.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks)


# What is no uWSGI


@pytest.fixture
async def stranger(tmp_path):
    """Starts servers that answer whoever connects by what `answer(writer)` does."""
    started = []

    async def start(answer):
        path = str(tmp_path / f"stranger{len(started)}.sock")

        async def serve(_, writer):
            try:
                await answer(writer)
            except ConnectionError:
                pass  # the sensor hung up
            finally:
                writer.close()

        started.append(await asyncio.start_unix_server(serve, path))
        return path

    yield start
    for server in started:
        server.close()


async def errors_of(made):
    began = time.monotonic()
    seen = await look(made, 1.0)
    assert {r.status for r in seen.values()} == {Status.ERROR}
    assert time.monotonic() - began < made.deadline_s + 0.5
    return next(iter(seen.values())).detail


async def test_an_endless_answer_is_cut_at_its_limit(stranger):
    async def endless(writer):
        while True:
            writer.write(b"[" * 65536)
            await writer.drain()

    path = await stranger(endless)
    tracemalloc.start()
    detail = await errors_of(sensor(path, max_bytes=200_000, timeout=5.0))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{path}: more than 200000 bytes" in detail
    assert most < 2 << 20


async def test_silence_and_dripping_end_at_the_deadline(stranger):
    async def drip(writer):
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    for answer in (drip, lambda _: asyncio.sleep(30)):
        path = await stranger(answer)
        assert "no whole answer within 0.2 s" in await errors_of(sensor(path, timeout=0.2))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"{}",
        b"[[[[[[[",
        b"[" * 100_000,
        b'{"pid":-1,"version":"2","cwd":"/","sockets":[],"workers":[]}',
        b'{"pid":1e999,"version":"2","cwd":"/","sockets":[],"workers":[]}',
        b'{"pid":1,"version":"2","cwd":"/","sockets":[],"workers":[{"pid":"7"}]}',
    ],
)
async def test_what_is_not_uwsgis_is_an_error_that_names_the_place(stranger, body):
    async def answer(writer):
        writer.write(body)
        await writer.drain()

    path = await stranger(answer)
    assert f"{path}: not uWSGI's stats" in await errors_of(sensor(path))


@pytest.mark.parametrize(
    "address", ["stats.sock", "localhost:1717", "127.0.0.1", "127.0.0.1:0", "http://127.0.0.1:1717"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(PolicyError, match="neither a path nor"):
        UwsgiOptions(stats=address)


def test_addresses():
    for address in ("/run/web.sock", "unix:/run/web.sock", "127.0.0.1:1717", "[::1]:1717"):
        StatsServer(address)


# Which incarnation is it?


def slot(pid, respawns, *, status="idle", spawned=100):
    return Slot(
        pid=pid,
        status=status,
        accepting=1,
        requests=5,
        exceptions=0,
        harakiri_count=0,
        respawn_count=respawns,
        last_spawn=spawned,
        rss=0,
        cores=(Core(in_request=0),),
    )


def stats(*slots, pid=1):
    return Stats(pid=pid, version="2", cwd="/", sockets=(), workers=slots)


CHEAP = slot(0, 0, status="cheap", spawned=0)


@pytest.mark.parametrize(
    ("then", "new"),
    [
        (stats(slot(10, 1), slot(11, 1), CHEAP), False),
        (stats(slot(10, 1), slot(12, 2), CHEAP), False),  # a crash
        (stats(slot(10, 1), slot(11, 1), slot(12, 1)), False),  # grown
        (stats(slot(0, 1, status="cheap"), slot(11, 1), CHEAP), False),  # shrunk
        (stats(slot(12, 1), slot(13, 1), CHEAP), True),  # reloaded: counts of respawns begin anew
        (stats(slot(12, 1), CHEAP, CHEAP), True),
        (stats(slot(10, 1, spawned=200), slot(11, 1, spawned=200), CHEAP), True),  # in a container
        (stats(slot(12, 2), slot(13, 2), CHEAP), True),  # every worker replaced
        (stats(slot(10, 1), slot(11, 1), CHEAP, pid=2), True),
        (stats(slot(10, 1), slot(11, 1)), True),  # other --processes
    ],
)
def test_incarnations(then, new):
    watch = Incarnation()
    assert not watch.see(stats(slot(10, 1), slot(11, 1), CHEAP))
    assert watch.see(then) is new
    assert watch.generation == int(new)
