"""The sensors php_fpm and nginx on real servers, compared with what the clients did."""

import asyncio
import json
import signal
import struct
import time

import pytest
from gunicorn_service import Load
from php_fpm_service import PhpFpmService

from poolwright.core.errors import PolicyError
from poolwright.core.model import Status
from poolwright.core.signals import SIGNALS
from poolwright.sensors.nginx import Nginx
from poolwright.sensors.php_fpm import PhpFpmSensor

pytestmark = pytest.mark.e2e


@pytest.fixture
def php():
    started = []

    def start(**options):
        started.append(PhpFpmService(**options))
        return started[-1].start()

    yield start
    for service in started:
        service.stop()


def fpm(**options):
    return PhpFpmSensor(PhpFpmSensor.Options(**options), "web")


def nginx(service, path="/stub_status", **options):
    url = f"http://127.0.0.1:{service.http_port}{path}"
    return Nginx(Nginx.Options(url=url, **options), "web")


async def read(made):
    """Signal -> Reading."""
    readings = await made.read(time.monotonic_ns())
    assert tuple(r.signal for r in readings) == made.signals
    assert set(made.signals) <= set(SIGNALS)
    return {r.signal: r for r in readings}


def statuses(found):
    return {r.status for r in found.values()}


@pytest.mark.parametrize("way", ["status_listen", "listen", "url"])
async def test_it_sees_what_the_clients_do(php, way):
    service = php(workers=6)
    made = {
        "status_listen": lambda: fpm(listen=f"unix:{service.status}"),
        "listen": lambda: fpm(listen=service.listen),
        "url": lambda: fpm(url=f"http://127.0.0.1:{service.http_port}/status"),
    }[way]()
    assert (await read(made))["throughput_rps"].status is Status.NO_DATA
    await read(made)
    idle = await read(made)
    assert (idle["throughput_rps"].value, idle["in_flight"].value) == (0.0, 0.0)
    assert idle["worker_count"].value == 6.0
    front = nginx(service)
    await read(front)
    began, rates, busy, fronts, writing = time.monotonic(), [], [], [], []
    async with (
        Load(service.http_port, "/sleep?s=0.05", clients=2) as short,
        Load(service.http_port, "/sleep?s=0.2", clients=1) as long,
    ):
        for _ in range(16):
            await asyncio.sleep(0.25)
            found, seen = await read(made), await read(front)
            assert found["throughput_rps"].status is Status.OK, found
            rates.append(found["throughput_rps"].value)
            busy.append(found["in_flight"].value)
            fronts.append(seen["throughput_rps"].value)
            writing.append(seen["in_flight"].value)
        elapsed_s = time.monotonic() - began
    done = short.outcomes["ok"] + long.outcomes["ok"]
    expected = pytest.approx(done / elapsed_s, rel=0.2)
    assert sum(rates) / len(rates) == expected
    assert sum(fronts) / len(fronts) == pytest.approx(
        done / elapsed_s + (0 if way != "url" else 4), rel=0.25
    )
    assert sum(busy) / len(busy) == pytest.approx(3.0, abs=0.8)
    assert sum(writing) / len(writing) == pytest.approx(3.0, abs=0.8)


async def test_the_queue_over_tcp_and_none_over_a_unix_socket(php):
    service = php(workers=1)
    made = fpm(listen=f"unix:{service.status}")
    async with Load(service.http_port, "/sleep?s=0.5", clients=5):
        await asyncio.sleep(2.2)  # php-fpm looks once a second
        found = await read(made)
    assert found["queue_length"].value == pytest.approx(4, abs=1)
    assert found["in_flight"].value == 1.0
    service = php(workers=1, unix=True)
    made = fpm(listen=f"unix:{service.status}")
    async with Load(service.http_port, "/sleep?s=0.3", clients=5):
        await asyncio.sleep(2.2)
        found = await read(made)
    assert found["queue_length"].status is Status.NO_DATA
    assert "listen_queue" in found["queue_length"].detail


async def test_a_reload_and_a_crash_are_no_negative_rates(php):
    service = php(workers=2)
    made, front = fpm(listen=f"unix:{service.status}"), nginx(service)
    async with Load(service.http_port, "/sleep", clients=1):
        await asyncio.sleep(0.5)
    await read(made), await read(front)
    service.fpm.kill()
    dead = await read(made)
    assert statuses(dead) == {Status.ERROR}
    assert str(service.status) in dead["queue_length"].detail
    service.fpm.start()
    again = (await read(made))["throughput_rps"]
    assert again.value >= 0.0
    assert again.estimated
    service.nginx.kill()
    dead = await read(front)
    assert statuses(dead) == {Status.ERROR}
    assert f"127.0.0.1:{service.http_port}/stub_status" in dead["in_flight"].detail
    service.nginx.start()
    assert (await read(front))["throughput_rps"].value >= 0.0
    service.nginx.signal(signal.SIGHUP)  # keeps its counts
    await asyncio.sleep(0.3)
    assert (await read(front))["throughput_rps"].value < 20.0


async def test_other_pages_are_errors(php):
    service = php(workers=1)
    for made, said in (
        (nginx(service, "/ping"), "not the page of stub_status"),
        (nginx(service, "/status"), "not the page of stub_status"),
        (fpm(url=f"http://127.0.0.1:{service.http_port}/ping"), "neither application/json"),
        (fpm(listen=service.listen, path="/nowhere.php"), "answered 404"),
        (fpm(listen=f"127.0.0.1:{service.http_port}"), "FastCGI|hung up|no whole answer"),
        (fpm(listen="unix:/nowhere/x.sock"), "No such file"),
    ):
        found = await read(made)
        assert statuses(found) == {Status.ERROR}
        detail = found["in_flight"].detail
        assert any(word in detail for word in said.split("|")), detail
        assert made.source.split()[1] in detail


def record(kind, content):
    return struct.pack("!BBHHBx", 1, kind, 1, len(content), 0) + content


def page(**changes):
    told = {
        "pool": "www", "start time": 1, "accepted conn": 5, "listen queue": 0,
        "listen queue len": 64, "active processes": 1, "total processes": 2,
        "max children reached": 0, "processes": [],
    }  # fmt: skip
    return record(6, b"Status: 200 OK\r\n\r\n" + json.dumps(told | changes).encode())


_END = record(3, bytes(8))
HOSTILE = {
    "an answer without an end": (record(6, b"x" * 60_000) * 100, "longer than"),
    "nothing without an end": (record(6, b"") * 600_000, "longer than"),
    "cut": (page()[:-3], "no whole answer"),
    "another kind": (record(9, b"x"), "does not speak FastCGI"),
    "no headers": (record(6, b"{}") + _END, "no end of its headers"),
    "no page": (record(6, b"\r\n\r\n[1]") + _END, "not the status of a php-fpm pool"),
    "a count below zero": (page(**{"accepted conn": -1}) + _END, "below zero"),
    "no number": (page(**{"active processes": "many"}) + _END, "not the status"),
    "an error": (record(6, b"Status: 500 \x1b[31mred\r\n\r\n") + _END, "answered 500 ?[31mred"),
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_who_is_no_php_fpm_gives_errors(how):
    sent, said = HOSTILE[how]
    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        await reader.read(1000)
        writer.write(sent)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        made = fpm(listen=f"127.0.0.1:{port}", timeout=2.0)
        found = await asyncio.wait_for(read(made), made.deadline_s)
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # in which the loop closes what was aborted
    assert statuses(found) == {Status.ERROR}
    detail = found["in_flight"].detail
    assert f"127.0.0.1:{port}: " in detail
    assert said in detail
    assert len(detail) < 400


def test_where_the_page_is_must_be_said_once():
    for wrong in ({}, {"listen": "127.0.0.1:9000", "url": "http://127.0.0.1/status"}):
        with pytest.raises(PolicyError, match="either listen or a url"):
            PhpFpmSensor.Options(**wrong)
    with pytest.raises(PolicyError, match="slash"):
        PhpFpmSensor.Options(listen="127.0.0.1:9000", path="status")
    with pytest.raises(PolicyError, match="https is not spoken"):
        Nginx.Options(url="https://127.0.0.1/")
