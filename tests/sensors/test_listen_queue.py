"""The accept queue, with real listening sockets and connections that nobody accepts."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Status
from poolwright.sensors import sock_diag
from poolwright.sensors.listen_queue import ListenQueue, address_text, parse_address
from poolwright.sensors.sock_diag import SockDiag

SECOND = 1_000_000_000


@pytest.fixture
def opened():
    with contextlib.ExitStack() as stack:
        yield stack.enter_context


def listen_tcp(opened, backlog=16, address=("127.0.0.1", 0), family=socket.AF_INET):
    server = opened(socket.socket(family))
    server.bind(address)
    server.listen(backlog)
    return server, server.getsockname()[1]


def listen_unix(opened, path, backlog=9):
    server = opened(socket.socket(socket.AF_UNIX))
    server.bind(path)
    server.listen(backlog)
    return server


def connect(opened, count, address, family=socket.AF_INET):
    for _ in range(count):
        client = opened(socket.socket(family))
        client.settimeout(5)
        client.connect(address)


async def values(sensor, now_s=1.0):
    return {r.signal: r for r in await sensor.read(round(now_s * SECOND))}


async def length_becomes(sensor, wanted):
    """The last step of a handshake may run on another CPU just after connect returned."""
    deadline = time.monotonic() + 2
    while True:
        found = await values(sensor)
        if found["queue_length"].value == wanted or time.monotonic() > deadline:
            assert found["queue_length"].value == wanted
            return found
        await asyncio.sleep(0)


def sensor_of(*addresses, **options):
    return ListenQueue(ListenQueue.Options(listen=addresses, **options), "web")


@pytest.fixture
async def close_later():
    sensors = []
    yield lambda sensor: sensors.append(sensor) or sensor
    for sensor in sensors:
        await sensor.close()
        await sensor.close()


async def test_tcp_queue_and_limit_are_exact(opened, close_later):
    server, port = listen_tcp(opened, backlog=16)
    sensor = close_later(sensor_of(f"127.0.0.1:{port}"))
    empty = await values(sensor)
    assert (empty["queue_length"].value, empty["queue_limit"].value) == (0.0, 16.0)
    assert empty["queue_length"].sketch.zeros == 1
    connect(opened, 5, ("127.0.0.1", port))
    await length_becomes(sensor, 5.0)
    opened(server.accept()[0])
    assert (await values(sensor))["queue_length"].value == 4.0


async def test_other_listeners_do_not_count(opened, close_later):
    _, port = listen_tcp(opened)
    _, other = listen_tcp(opened)
    connect(opened, 3, ("127.0.0.1", other))
    assert (await values(close_later(sensor_of(f"127.0.0.1:{port}"))))["queue_length"].value == 0.0


async def test_ipv6_and_ipv4_on_one_port_are_told_apart(opened, close_later):
    _, port = listen_tcp(opened)
    try:
        listen_tcp(opened, 7, ("::1", port), socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    connect(opened, 2, ("::1", port), socket.AF_INET6)
    six = close_later(sensor_of(f"[::1]:{port}"))
    assert (await length_becomes(six, 2.0))["queue_limit"].value == 7.0
    both = close_later(sensor_of(f"127.0.0.1:{port}", f"[::1]:{port}"))
    assert (await length_becomes(both, 2.0))["queue_limit"].value == 23.0


async def test_a_wildcard_listener_has_its_own_address_and_is_hinted_at(opened, close_later):
    _, port = listen_tcp(opened, address=("0.0.0.0", 0))
    connect(opened, 1, ("127.0.0.1", port))
    await length_becomes(close_later(sensor_of(f"0.0.0.0:{port}")), 1.0)
    wrong = (await values(close_later(sensor_of(f"127.0.0.1:{port}"))))["queue_length"]
    assert wrong.status is Status.ERROR
    assert f"127.0.0.1:{port}" in wrong.detail
    assert f"0.0.0.0:{port}" in wrong.detail


async def test_sockets_that_share_an_address_are_summed_and_noted(opened, close_later):
    port = 0
    for _ in range(2):
        server = opened(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", port))
        server.listen(8)
        port = server.getsockname()[1]
    connect(opened, 6, ("127.0.0.1", port))
    found = await length_becomes(close_later(sensor_of(f"127.0.0.1:{port}")), 6.0)
    assert found["queue_limit"].value == 16.0
    assert "2 sockets share" in found["queue_length"].detail


async def test_unix_queue_and_limit_are_exact(opened, close_later, tmp_path):
    path = str(tmp_path / "web.sock")
    server = listen_unix(opened, path, 9)
    sensor = close_later(sensor_of(f"unix:{path}"))
    assert (await values(sensor))["queue_length"].value == 0.0
    connect(opened, 3, path, socket.AF_UNIX)
    found = await values(sensor)
    assert (found["queue_length"].value, found["queue_limit"].value) == (3.0, 9.0)
    opened(server.accept()[0])
    assert (await values(sensor))["queue_length"].value == 2.0


async def test_unix_relative_and_abstract_names(opened, close_later, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listen_unix(opened, "web.sock")
    connect(opened, 2, "web.sock", socket.AF_UNIX)
    sensor = close_later(sensor_of(f"unix:{tmp_path}/web.sock"))
    assert (await values(sensor))["queue_length"].value == 2.0
    name = f"poolwright-test-{os.getpid()}"
    listen_unix(opened, f"\0{name}", 4)
    connect(opened, 1, f"\0{name}", socket.AF_UNIX)
    abstract = await values(close_later(sensor_of(f"unix:@{name}")))
    assert (abstract["queue_length"].value, abstract["queue_limit"].value) == (1.0, 4.0)


async def test_a_rebound_path_is_the_new_socket_and_not_the_old(opened, close_later, tmp_path):
    path = str(tmp_path / "web.sock")
    listen_unix(opened, path)
    connect(opened, 3, path, socket.AF_UNIX)
    sensor = close_later(sensor_of(f"unix:{path}"))
    assert (await values(sensor, 1))["queue_length"].value == 3.0
    Path(path).unlink()
    listen_unix(opened, path)  # the old one still listens, without a file
    connect(opened, 1, path, socket.AF_UNIX)
    assert (await values(sensor, 12))["queue_length"].value == 1.0


async def test_a_lost_socket_is_an_error_and_is_found_again(opened, close_later, tmp_path):
    server, port = listen_tcp(opened)
    path = str(tmp_path / "web.sock")
    unix = listen_unix(opened, path)
    tcp_sensor = close_later(sensor_of(f"127.0.0.1:{port}"))
    unix_sensor = close_later(sensor_of(f"unix:{path}"))
    for sensor, lost, name in (
        (tcp_sensor, server, f"127.0.0.1:{port}"),
        (unix_sensor, unix, path),
    ):
        assert (await values(sensor))["queue_length"].status is Status.OK
        lost.close()
        for _ in range(2):
            readings = await sensor.read(SECOND)
            assert {r.signal for r in readings} == set(sensor.signals)
            assert all(r.status is Status.ERROR and name in r.detail for r in readings)
    Path(path).unlink()
    again = opened(socket.socket())
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.bind(("127.0.0.1", port))
    again.listen(3)
    listen_unix(opened, path, 5)
    assert (await values(tcp_sensor))["queue_limit"].value == 3.0
    assert (await values(unix_sensor))["queue_limit"].value == 5.0


async def test_one_lost_address_of_two_is_not_half_a_queue(opened, close_later):
    _, port = listen_tcp(opened)
    gone, other = listen_tcp(opened)
    sensor = close_later(sensor_of(f"127.0.0.1:{port}", f"127.0.0.1:{other}"))
    assert (await values(sensor))["queue_limit"].value == 32.0
    gone.close()
    assert (await values(sensor))["queue_length"].status is Status.ERROR


async def test_samples_between_reads_are_in_the_sketch(opened, close_later):
    _, port = listen_tcp(opened)
    sensor = close_later(sensor_of(f"127.0.0.1:{port}", sample_every=0.005))
    await sensor.start()
    await values(sensor)
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, done.set)
    await done.wait()
    connect(opened, 4, ("127.0.0.1", port))
    reading = (await length_becomes(sensor, 4.0))["queue_length"]
    assert 4 <= reading.sketch.count <= 40
    assert reading.sketch.zeros == reading.sketch.count - 1  # only the read itself saw the four
    assert (await values(sensor))["queue_length"].sketch.count == 1
    await sensor.close()
    assert sensor._timer is None


SERVER = """
import os, socket, sys
port = int(sys.argv[1])
if sys.argv[2] == "child" and os.fork():
    sys.stdin.read(); os.wait(); sys.exit()
s = socket.create_server(("127.0.0.1", port), backlog=12)
u = socket.socket(socket.AF_UNIX); u.bind(sys.argv[3]); u.listen(3)
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server_process():
    started = []

    def start(where, path):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, "0", where, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@pytest.mark.parametrize("where", ["master", "child"])
async def test_sockets_of_a_process_are_found_and_its_successors(
    where, opened, close_later, server_process, tmp_path
):
    process, port = server_process(where, str(tmp_path / "a"))
    pidfile = tmp_path / "pid"
    pidfile.write_text(str(process.pid))
    sensor = close_later(ListenQueue(ListenQueue.Options(pidfile=str(pidfile)), "web"))
    connect(opened, 2, ("127.0.0.1", port))
    connect(opened, 1, str(tmp_path / "a"), socket.AF_UNIX)
    assert (await length_becomes(sensor, 3.0))["queue_limit"].value == 15.0
    other, _ = server_process(where, str(tmp_path / "b"))
    pidfile.write_text(str(other.pid))
    assert (await values(sensor))["queue_length"].value == 0.0
    pidfile.write_text("nobody")
    broken = (await values(sensor))["queue_length"]
    assert (broken.status, str(pidfile) in broken.detail) == (Status.ERROR, True)


async def test_a_process_without_listeners_is_an_error(close_later, tmp_path):
    pidfile = tmp_path / "pid"
    process = await asyncio.create_subprocess_exec("sleep", "30")
    try:
        pidfile.write_text(str(process.pid))
        sensor = close_later(ListenQueue(ListenQueue.Options(pidfile=str(pidfile)), "web"))
        reading = (await values(sensor))["queue_length"]
        assert (reading.status, "listen on no socket" in reading.detail) == (Status.ERROR, True)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    "text",
    [
        *("", "80", ":80", "localhost:80", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536"),
        *("::1:80", "[::1]", "[127.0.0.1]:80", "127.0.0.1:\u0663", "1.2.3:80"),
        *("unix:", "unix:@", "unix:web.sock"),
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(PolicyError):
        ListenQueue.Options(listen=(text,))


def test_addresses_round_trip_and_exactly_one_source():
    for text in ("127.0.0.1:8000", "[::]:80", "[::1]:65535"):
        assert address_text(parse_address(text)) == text
    assert parse_address("unix:/run/web.sock") == "/run/web.sock"
    for options in ({}, {"listen": ("127.0.0.1:1",), "pidfile": "/a"}):
        with pytest.raises(PolicyError):
            ListenQueue.Options(**options)
    with pytest.raises(PolicyError):
        ListenQueue.Options(pidfile="/a", sample_every=0.0)


def test_the_kernel_filters_by_port(opened):
    _, port = listen_tcp(opened)
    diag = SockDiag()
    try:
        assert [x.port for x in diag.tcp(socket.AF_INET, port, port)] == [port]
        assert all(x.port > port for x in diag.tcp(socket.AF_INET, port + 1, 65535))
        assert port in {x.port for x in diag.tcp(socket.AF_INET, 0, 65535)}
        assert diag.unix(inode=0xFFFFFFF0) == []
        diag.close()
        assert [x.port for x in diag.tcp(socket.AF_INET, port, port)] == [port]  # opens again
    finally:
        diag.close()
        diag.close()


def test_hundreds_of_listeners_come_in_several_packets(opened, tmp_path):
    mine = {listen_tcp(opened)[1] for _ in range(150)}
    diag = SockDiag()
    try:
        assert mine <= {x.port for x in diag.tcp(socket.AF_INET, 0, 65535)}
        paths = [str(tmp_path / f"s{i}") for i in range(150)]
        for path in paths:
            listen_unix(opened, path)
        assert {os.fsencode(p) for p in paths} <= {x.name for x in diag.unix()}
    finally:
        diag.close()


@pytest.mark.parametrize("packet", [b"\x05\0\0\0" + bytes(12), b"\xff" * 16, bytes(16)])
def test_a_broken_message_is_a_fault(packet):
    with pytest.raises(PlantFault):
        sock_diag._messages(packet)


def test_short_bodies_are_a_fault():
    for parse in (sock_diag._tcp_listener, sock_diag._unix_listener):
        for size in (0, 5, 15):
            with pytest.raises(PlantFault):
                parse(bytes(size))
    with pytest.raises(PlantFault, match="no queue"):
        sock_diag._unix_listener(bytes(16))
