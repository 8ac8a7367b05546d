"""The pgbouncer sensor on a real PgBouncer under pgbench, compared with what pgbench counts."""

import asyncio
import signal
import struct
import time

import pytest
from pgbouncer_service import PgBouncerService, finished

from poolwright.core.model import Status
from poolwright.core.signals import SIGNALS
from poolwright.sensors.pgbouncer import PgBouncerSensor

pytestmark = pytest.mark.e2e


@pytest.fixture
def pg():
    started = []

    def start(**options):
        started.append(PgBouncerService(**options))
        return started[-1].start()

    yield start
    for service in started:
        service.stop()


@pytest.fixture
async def sensor():
    made = []

    async def make(address, **options):
        given = {"address": address, "user": "watcher"} | options
        made.append(PgBouncerSensor(PgBouncerSensor.Options(**given), "db"))
        await made[-1].start()
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def read(made):
    """Signal -> Reading."""
    readings = await made.read(time.monotonic_ns())
    assert tuple(r.signal for r in readings) == made.signals
    assert set(made.signals) <= set(SIGNALS)
    return {r.signal: r for r in readings}


def statuses(found):
    return {r.status for r in found.values()}


async def test_it_sees_what_pgbench_counts(pg, sensor):
    service = pg(default_pool_size=4)
    made = await sensor(service.address)
    first = await read(made)
    assert first["throughput_rps"].status is Status.NO_DATA
    assert first["queue_length"].value == first["in_flight"].value == 0.0
    bench = service.pgbench(clients=10, seconds=5)
    seen = []
    while bench.poll() is None:
        await asyncio.sleep(0.5)
        seen.append(await read(made))
        assert statuses(seen[-1]) == {Status.OK}
    rates = [found["throughput_rps"].value for found in seen]
    found = seen[len(seen) // 2]  # at the end there may be nobody any more
    done, failed = finished(bench)
    assert failed == 0
    assert sorted(rates)[len(rates) // 2] == pytest.approx(done / 5, rel=0.2)
    assert found["queue_length"].value == pytest.approx(6, abs=2)
    assert "the first has waited for 0.0" in found["queue_length"].detail
    assert found["in_flight"].value == found["worker_count"].value == 4.0
    felt_ms, waited_ms = (
        float(part.split(" ms")[0].split()[-1])
        for part in found["throughput_rps"].detail.split(", ")
    )
    assert felt_ms == pytest.approx(10 * 5e3 / done, rel=0.4)  # Little's law
    assert waited_ms == pytest.approx(0.6 * felt_ms, rel=0.3)  # six of ten wait
    await asyncio.sleep(0.2)
    await read(made)
    idle = await read(made)
    assert (idle["throughput_rps"].value, idle["queue_length"].value) == (0.0, 0.0)
    assert all(r.sketch is None for r in idle.values())


async def test_what_waits_or_runs_is_not_served_yet(pg, sensor):
    service = pg(default_pool_size=2)
    made = await sensor(service.address)
    finished(service.pgbench(clients=2, seconds=1))
    await read(made)
    # A transaction each, far longer than the looks: PgBouncer counts the twelve of them at once.
    bench = service.pgbench(clients=12, seconds=1, sql="select pg_sleep(2)")
    while (found := await read(made))["queue_length"].value < 10.0:
        assert found["throughput_rps"].value == 0.0, found
        assert bench.poll() is None
        await asyncio.sleep(0.05)
    assert (await read(made))["throughput_rps"].value == 0.0
    began, served = time.monotonic(), 0.0
    while bench.poll() is None:
        await asyncio.sleep(0.2)
        now = time.monotonic()
        served += (await read(made))["throughput_rps"].value * (now - began)
        began = now
    assert served == pytest.approx(finished(bench)[0], rel=0.25)


async def test_a_restart_is_no_negative_rate(pg, sensor):
    service = pg()
    made = await sensor(service.address)
    finished(service.pgbench(clients=2, seconds=1))
    await read(made)
    await read(made)
    service.kill()
    dead = await read(made)
    assert statuses(dead) == {Status.ERROR}
    assert str(service.socket) in dead["queue_length"].detail
    service.start()
    again = await read(made)
    assert again["throughput_rps"].status is Status.NO_DATA
    assert again["queue_length"].value == 0.0
    # about as many as before the restart, of which the last process knows nothing
    finished(service.pgbench(clients=2, seconds=1))
    assert (await read(made))["throughput_rps"].value > 10.0


async def test_a_shared_port_is_refused(pg, sensor):
    service = pg(so_reuseport=1)
    found = await read(await sensor(service.tcp))
    assert statuses(found) == {Status.ERROR}
    assert "name the UNIX socket" in found["queue_length"].detail
    assert (await read(await sensor(service.address)))["queue_length"].status is Status.OK


async def test_only_the_databases_that_are_meant(pg, sensor):
    service = pg()
    made = await sensor(service.address, databases=("bench",))
    assert statuses(await read(made)) == {Status.ERROR}, "it has no statistics yet"
    bench = service.pgbench(clients=2, seconds=2)
    other = service.pgbench(clients=6, seconds=2, database="my-db")
    await asyncio.sleep(0.8)
    await read(made)
    await asyncio.sleep(0.5)
    found = await read(made)
    done, _ = await asyncio.to_thread(finished, bench)
    await asyncio.to_thread(finished, other)
    assert found["throughput_rps"].value == pytest.approx(done / 2, rel=0.3)
    assert found["worker_count"].value == 2.0
    gone = await read(await sensor(service.address, databases=("bench", "bensh")))
    assert statuses(gone) == {Status.ERROR}
    assert "no statistics of database bensh" in gone["queue_length"].detail


async def test_in_session_pooling_busy_is_not_known(pg, sensor):
    service = pg(pool_mode="session", default_pool_size=3)
    bench = service.pgbench(clients=3, seconds=1)
    made = await sensor(service.address)
    await asyncio.sleep(0.5)
    found = await read(made)
    assert found["in_flight"].status is Status.NO_DATA
    assert found["worker_count"].value == 3.0
    assert finished(bench)[1] == 0


async def test_one_that_hangs_is_an_error_in_time(pg, sensor):
    service = pg()
    made = await sensor(service.address, timeout=0.2)
    await read(made)
    service.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        hung = await asyncio.wait_for(read(made), made.deadline_s + 0.5)
        assert time.monotonic() - began < 0.7
        assert statuses(hung) == {Status.ERROR}
        assert "no answer within 0.2 s" in hung["queue_length"].detail
    finally:
        service.signal(signal.SIGCONT)
    assert (await read(made))["queue_length"].status is Status.OK


def message(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body


_READY = message(b"R", struct.pack("!i", 0)) + message(b"Z", b"I")
_COLUMN = message(
    b"T", struct.pack("!h", 1) + b"database\0" + struct.pack("!ihihih", 0, 0, 25, 0, 0, 0)
)
_ROW = message(b"D", struct.pack("!hi", 1, 60_000) + b"x" * 60_000)
_DONE = message(b"C", b"SHOW\0") + message(b"Z", b"I")
HOSTILE = {
    "garbage": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no answer within 1 s"),
    "another protocol": (b"-ERR unknown command\r\n" * 100, "not the answer of a PgBouncer"),
    "rows without an end": (_READY + _COLUMN + _ROW * 400, "an answer of more than"),
    "a message without an end": (
        _READY + b"D" + struct.pack("!i", 2**31 - 1) + b"x" * 10_000_000,
        "an answer of more than",
    ),
    "other rows": (
        _READY + (_COLUMN + _ROW + _DONE) * 3,
        "not the answer of a PgBouncer: no whole",
    ),
    "silence": (b"", "no answer within 1 s"),
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_who_is_no_pgbouncer_gives_errors_and_takes_no_memory(sensor, how):
    sent, said = HOSTILE[how]

    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        await reader.read(1000)
        writer.write(sent)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        found = await read(await sensor(f"127.0.0.1:{port}", timeout=1.0))
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # in which the loop closes what was aborted
    assert statuses(found) == {Status.ERROR}
    detail = found["queue_length"].detail
    assert f"127.0.0.1:{port}: " in detail
    assert said in detail
    assert len(detail) < 400
