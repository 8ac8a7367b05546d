"""The haproxy sensor on a real HAProxy: what it counts is what the clients counted."""

import asyncio
import socket
import time

import pytest
from gunicorn_service import Load, http_get, until
from haproxy_service import HaproxyService
from started import free_port

from poolwright.core.model import Status
from poolwright.sensors.access_log import AccessLog
from poolwright.sensors.haproxy import Haproxy

pytestmark = pytest.mark.e2e


def sensor(service, way="socket", **options):
    place = {"socket": str(service.user)} if way == "socket" else {"url": service.url}
    return Haproxy(Haproxy.Options(backend="app", timeout=5.0, **place, **options), "web")


async def look(made, at_s=0):
    """The readings by signal; the sensor is told that `at_s` seconds have passed."""
    return {r.signal: r for r in await made.read(round((1000 + at_s) * 1e9))}


def get(service, path, times=1):
    """Statuses of so many requests, once HAProxy has done with them."""
    found = [http_get(service.port, path)[0] for _ in range(times)]
    counted(service)
    return found


def counted(service):
    """HAProxy counts a request a moment after the client has its answer."""
    until(lambda: service.rows()["BACKEND"]["scur"] == "0", 5.0, "HAProxy has counted")


@pytest.mark.parametrize("way", ["socket", "page"])
async def test_it_counts_what_the_clients_counted(tmp_path, way):
    with HaproxyService(tmp_path, servers=2, maxconn=4) as service:
        made = sensor(service, way)
        assert (await look(made))["throughput_rps"].status is Status.NO_DATA
        async with Load(service.port, "/sleep?s=0.02", clients=6) as load:
            await asyncio.sleep(1.0)
        broken = await asyncio.to_thread(get, service, "/err", 7)
        assert set(broken) == {500}
        found = await look(made, 2)
        assert found["throughput_rps"].value * 2 == load.outcomes["ok"] + 7
        assert found["errors_rps"].value * 2 == 7.0
        assert not load.failed


@pytest.mark.parametrize("way", ["socket", "page"])
async def test_the_queue_is_what_waits(tmp_path, way):
    with HaproxyService(tmp_path, maxconn=2) as service:
        made = sensor(service, way)
        async with Load(service.port, "/sleep?s=1", clients=9) as load:
            await asyncio.sleep(0.5)
            found = await look(made, 1)
            assert found["queue_length"].value == 7.0
            assert found["in_flight"].value == 2.0
            load._stop = True
        counted(service)
        found = await look(made, 2)
        assert found["queue_length"].value == found["in_flight"].value == 0.0
        assert not load.failed


async def test_haproxys_own_failures_count(tmp_path):
    with HaproxyService(tmp_path) as service:
        made = sensor(service)
        await look(made)
        service.app.kill()
        assert set(await asyncio.to_thread(get, service, "/", 5)) == {503}
        found = await look(made, 1)
        assert found["errors_rps"].value == found["throughput_rps"].value == 5.0


@pytest.mark.parametrize("way", ["socket", "page"])
async def test_tcp_counts_sessions_and_broken_connections(tmp_path, way):
    with HaproxyService(tmp_path, mode="tcp", servers=2) as service:
        made = sensor(service, way)
        await look(made)
        assert set(await asyncio.to_thread(get, service, "/", 20)) == {200}
        found = await look(made, 1)
        assert found["throughput_rps"].value == 20.0
        assert found["errors_rps"].value == 0.0
        service.app.kill()
        with socket.create_connection(("127.0.0.1", service.port), timeout=5.0) as link:
            assert link.recv(1) == b""
        assert (await look(made, 2))["errors_rps"].value > 0.0


@pytest.mark.parametrize("way", ["socket", "page"])
async def test_a_reload_counts_from_zero_and_never_below(tmp_path, way):
    with HaproxyService(tmp_path) as service:
        made = sensor(service, way)
        await asyncio.to_thread(get, service, "/", 50)
        await look(made)
        await asyncio.to_thread(service.reload)
        await asyncio.to_thread(get, service, "/", 5)
        found = await look(made, 1)
        assert found["throughput_rps"].estimated
        assert "reload" in found["throughput_rps"].detail
        assert 5.0 <= found["throughput_rps"].value <= 8.0  # and those of reload()
        found = await look(made, 2)
        assert found["throughput_rps"].value == 0.0
        assert not found["throughput_rps"].estimated


@pytest.mark.parametrize("way", ["socket", "page"])
async def test_a_dead_haproxy_is_an_error_that_names_it(tmp_path, way):
    with HaproxyService(tmp_path) as service:
        made = sensor(service, way)
        await look(made)
        service.kill()
        for reading in (await look(made)).values():
            assert reading.status is Status.ERROR
            assert (str(service.user) if way == "socket" else service.url) in reading.detail


async def test_averages_are_means_without_a_distribution(tmp_path):
    with HaproxyService(tmp_path, maxconn=1) as service:
        plain, made = sensor(service), sensor(service, averages=True)
        assert "latency_s" not in plain.signals
        async with Load(service.port, "/sleep?s=0.1", clients=3):
            await asyncio.sleep(2.0)
        found = await look(made)
        assert 0.08 < found["service_time_s"].value < 0.2
        assert 0.15 < found["latency_s"].value < 0.6  # two others wait at any time
        for name in ("service_time_s", "latency_s"):
            assert found[name].estimated
            assert found[name].sketch is None


async def test_the_log_gives_real_quantiles_to_an_access_log_sensor(tmp_path):
    port = free_port()
    what = "gunicorn.h.access: [%pid] poolwright %ST %Tr%[str(000)] %[var(txn.t)]"
    frontend = "\n  ".join(  # the same as in the sensor's docstring
        (
            f"log 127.0.0.1:{port} format raw local0",
            "http-request set-var(txn.t) date(0,us)",
            f'log-format "<14>{what}"',
        )
    )
    with HaproxyService(tmp_path, maxconn=1, frontend=frontend) as service:
        log = AccessLog(AccessLog.Options(listen=f"127.0.0.1:{port}"), "web")
        await log.start()
        try:
            await log.read(time.monotonic_ns())
            async with Load(service.port, "/sleep?s=0.1", clients=4) as load:
                await asyncio.sleep(1.5)
                load._stop = True
            service.app.kill()
            assert await asyncio.to_thread(get, service, "/") == [503]
            await asyncio.sleep(0.2)
            found = {r.signal: r for r in await log.read(time.monotonic_ns())}
        finally:
            await log.close()
    assert not load.failed
    latency = found["latency_s"]
    assert latency.status is Status.OK, latency.detail
    assert latency.sketch.count == load.outcomes["ok"] + 1
    assert 0.3 < latency.sketch.quantile(0.5) < 0.6  # three wait before each
    assert found["errors_rps"].value > 0.0
    served = found["service_time_s"].sketch  # without the queue, and without the 503
    assert served.count == load.outcomes["ok"]
    assert 0.09 < served.quantile(0.5) < 0.25


async def test_a_look_costs_little(tmp_path):
    with HaproxyService(tmp_path, servers=20) as service:
        for way in ("socket", "page"):
            made = sensor(service, way)
            await look(made)
            began = time.process_time()
            for at_s in range(50):
                await look(made, at_s + 1)
            assert (time.process_time() - began) / 50 < 0.02
