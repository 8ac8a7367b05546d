import asyncio
import os
import socket
import time

import pytest

from poolwright.core.errors import PlantFault
from poolwright.core.model import Status
from poolwright.sensors import datagram
from poolwright.sensors.datagram import Datagram, Pulse, pause_s, split_host_port


def sender_to(address):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(address)
    return sock


async def test_every_packet_is_taken_in_order_with_the_kernels_time():
    seen = []
    box = Datagram(
        "127.0.0.1:0", lambda payload, wall_ns: seen.append((payload, wall_ns)), stamped=True
    )
    await box.start()
    try:
        with sender_to(box.address) as out:
            before = time.time_ns()
            for i in range(500):
                out.send(b"%d" % i)
            out.send(b"x" * 60_000)
            after = time.time_ns()
        box.drain()
    finally:
        await box.close()
    assert [p for p, _ in seen] == [b"%d" % i for i in range(500)] + [b"x" * 60_000]
    assert all(before <= ns <= after for _, ns in seen)  # and not the time of the drain
    assert [ns for _, ns in seen] == sorted(ns for _, ns in seen)


async def test_the_loop_drains_without_a_read_and_wakes_few_times():
    done = asyncio.Event()
    seen = []

    def take(payload, _):
        seen.append(payload)
        if payload == b"last":
            done.set()

    box = Datagram("127.0.0.1:0", take)
    await box.start()
    wakes = 0
    wake = box._on_readable

    def counted():
        nonlocal wakes
        wakes += 1
        wake()

    box._on_readable = counted
    asyncio.get_running_loop().remove_reader(box._sock.fileno())
    box._arm()
    try:
        with sender_to(box.address) as out:
            for _ in range(100):
                for _ in range(10):
                    out.send(b"x")
                await asyncio.sleep(0)
            out.send(b"last")
            async with asyncio.timeout(5):
                await done.wait()
        assert box.lost() == 0
    finally:
        await box.close()
    assert len(seen) == 1001
    assert wakes <= 20  # a callback a packet would be a thousand


async def test_the_kernels_drops_are_counted_once_and_the_cure_named(monkeypatch):
    monkeypatch.setattr(datagram, "ASKED_BYTES", 4096)
    seen = []
    box = Datagram("127.0.0.1:0", lambda payload, _: seen.append(payload))
    await box.start()
    monkeypatch.setattr(datagram, "ASKED_BYTES", 4 * 1024 * 1024)
    try:
        with sender_to(box.address) as out:
            for _ in range(1000):
                out.send(b"x" * 100)
        box.drain()
        lost = box.lost()
        assert lost > 0
        assert lost + len(seen) == 1000
        assert box.lost() == 0
        assert "net.core.rmem_max" in box.lost_detail(lost)
        assert str(lost) in box.lost_detail(lost)
    finally:
        await box.close()


async def test_a_taken_port_is_named_with_its_holder():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        box = Datagram(f"127.0.0.1:{port}", lambda *_: None)
        with pytest.raises(PlantFault, match=rf"127\.0\.0\.1:{port}.*process {os.getpid()} \("):
            await box.start()
        await box.close()


@pytest.mark.parametrize("listen", ["8125", ":8125", "127.0.0.1:x", "127.0.0.1:70000", ""])
async def test_an_unreadable_address_is_named(listen):
    with pytest.raises(PlantFault, match="host:port"):
        await Datagram(listen, lambda *_: None).start()


async def test_an_address_of_another_host_is_refused_by_name():
    with pytest.raises(PlantFault, match=r"192\.0\.2\.1:8125"):
        await Datagram("192.0.2.1:8125", lambda *_: None).start()


async def test_closing_twice_and_without_start_and_reading_closed():
    box = Datagram("127.0.0.1:0", lambda *_: None)
    await box.close()
    with pytest.raises(PlantFault, match="not open"):
        box.drain()
    await box.start()
    await box.close()
    await box.close()
    with pytest.raises(PlantFault, match="not open"):
        box.lost()


async def test_ipv6_works():
    seen = []
    box = Datagram("[::1]:0", lambda payload, _: seen.append(payload))
    try:
        await box.start()
    except PlantFault:
        pytest.skip("no IPv6 loopback here")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
        out.sendto(b"six", box.address)
    box.drain()
    await box.close()
    assert seen == [b"six"]


def test_addresses():
    assert split_host_port("[::1]:80") == ("::1", 80)
    assert split_host_port("localhost:0") == ("localhost", 0)


def test_the_pause_keeps_the_buffer_below_a_quarter():
    big = 8 * 1024 * 1024
    assert pause_s(0.1, 0.5, big) == pytest.approx(0.025)  # 5/s of the buffer: an eighth in 25 ms
    assert pause_s(0.005, 1.0, big) == datagram.MIN_PAUSE_S
    assert pause_s(10.0, 0.0, big) == datagram.MAX_PAUSE_S
    # a buffer as small as Debian grants: 3,000 packets a second out of nothing still fit
    small = 425_984
    assert pause_s(10.0, 0.0, small) * 3_000 * 1_280 == pytest.approx(small)


def test_a_pulse_tells_never_alive_and_silent_apart():
    pulse = Pulse(silence_s=10.0)
    second = 1_000_000_000
    assert pulse.beat(5 * second, heard=False) is None
    assert pulse.state(5 * second) is Status.NO_DATA
    assert pulse.beat(6 * second, heard=True) == 1.0
    assert pulse.state(6 * second) is Status.OK
    assert pulse.beat(16 * second, heard=False) == 10.0
    assert pulse.state(16 * second) is Status.OK
    assert pulse.state(16 * second + 1) is Status.STALE
    assert pulse.beat(17 * second, heard=True) == 1.0
    assert pulse.state(17 * second) is Status.OK
