import asyncio
import http.client
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.model import Status
from poolwright.core.sketch import merged
from poolwright.sensors import access_log, datagram, statsd
from poolwright.sensors.access_log import (
    ACCESS_LOG_FORMAT,
    AccessLog,
    AccessLogOptions,
    Lines,
    gunicorn_flags,
    start_ns,
)

SECOND = 1_000_000_000


class Clocks:
    """Wall and monotonic time that go on together unless told otherwise."""

    def __init__(self):
        self.wall_ns, self.mono_ns = time.time_ns(), 0

    def __call__(self):
        return self.wall_ns, self.mono_ns

    def go(self, seconds, step=0.0):
        self.mono_ns += int(seconds * SECOND)
        self.wall_ns += int((seconds + step) * SECOND)


@asynccontextmanager
async def listening(clocks=None, **options):
    clocks = clocks or Clocks()
    sensor = AccessLog(AccessLogOptions(listen="127.0.0.1:0", **options), "web", clocks)
    await sensor.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(sensor.address)

        def send(*packets):
            for packet in packets:
                out.send(packet)

        async def read(second):
            return {r.signal: r for r in await sensor.read(int(second * SECOND))}

        try:
            yield send, read
        finally:
            await sensor.close()


def line(status=200, microseconds=12_500, header=None, tag=b"web"):
    header = b"-" if header is None else header
    text = b"%d %d %s" % (status, microseconds, header)
    return b"<14>gunicorn." + tag + b".access: [123] poolwright " + text + b"\0"


def ago(seconds):
    return b"t=%.6f" % (time.time() - seconds)


async def test_nothing_is_claimed_before_the_first_line():
    async with listening() as (send, read):
        send(b"<14>gunicorn.web.error: [1] Booting worker with pid: 7\0")
        for second in (1, 100):
            seen = await read(second)
            assert {r.status for r in seen.values()} == {Status.NO_DATA}
            assert "--log-syslog" in seen["latency_s"].detail


async def test_a_tick_of_requests():
    async with listening() as (send, read):
        await read(1)
        send(*[line(header=ago(0.5)) for _ in range(8)], line(500), line(503, 62_500))
        send(b"<11>gunicorn.web.error: [1] Error handling request /\nTraceback: ...\0")
        seen = await read(3)
    assert seen["throughput_rps"].value == 5.0
    assert seen["throughput_rps"].detail == ""
    assert seen["errors_rps"].value == 1.0
    assert seen["service_time_s"].value == pytest.approx(0.0175)
    assert seen["service_time_s"].sketch.count == 10
    assert seen["latency_s"].value == pytest.approx(0.5, abs=0.1)
    assert seen["latency_s"].sketch.count == 8


async def test_silence_is_zero_load_then_stale():
    async with listening() as (send, read):
        send(line())
        await read(1)
        quiet = await read(2)
        assert quiet["throughput_rps"].value == 0.0
        assert quiet["service_time_s"].status is Status.NO_DATA
        assert quiet["latency_s"].status is Status.NO_DATA
        assert {r.status for r in (await read(11.1)).values()} == {Status.STALE}


async def test_latency_needs_the_header_on_half_of_the_requests():
    async with listening() as (send, read):
        await read(1)
        send(line(header=ago(0.1)), line())
        assert (await read(2))["latency_s"].status is Status.OK
        send(line(header=ago(0.1)), line(), line(header=b"yesterday"))
        seen = (await read(3))["latency_s"]
    assert seen.status is Status.NO_DATA
    assert "1 of 3 requests carried X-Request-Start; 1 could not be read" in seen.detail


@pytest.mark.parametrize("seconds", [-5.0, 3_700.0])
async def test_a_latency_out_of_reason_is_an_error_naming_the_clocks(seconds):
    async with listening() as (send, read):
        await read(1)
        send(*[line(header=ago(0.1)) for _ in range(9)], line(header=ago(seconds)))
        seen = await read(2)
        assert seen["latency_s"].status is Status.ERROR
        assert "1 of 10 X-Request-Start" in seen["latency_s"].detail
        assert "clocks" in seen["latency_s"].detail
        assert seen["throughput_rps"].value == 10.0
        send(line(header=ago(0.1)))
        assert (await read(3))["latency_s"].status is Status.OK


@pytest.mark.parametrize("step", [0.06, -0.06, 3600.0])
async def test_a_clock_step_makes_latency_an_error_for_the_tick(step):
    clocks = Clocks()
    async with listening(clocks) as (send, read):
        clocks.go(1.0, step=0.04)  # slewing, not a step
        send(line(header=ago(0.1)))
        assert (await read(1))["latency_s"].status is Status.OK
        clocks.go(1.0, step=step)
        send(line(header=ago(0.1)))
        seen = await read(2)
        assert seen["latency_s"].status is Status.ERROR
        assert f"{step:+.3f}" in seen["latency_s"].detail
        assert seen["service_time_s"].status is Status.OK


async def test_a_request_begun_before_a_clock_step_is_refused_afterwards():
    clocks = Clocks()
    async with listening(clocks) as (send, read):
        await read(1)
        clocks.go(0.0, step=0.2)
        await read(2)
        send(line(header=b"%d" % (clocks.wall_ns - 1000)))
        assert (await read(3))["latency_s"].status is Status.ERROR


@pytest.mark.parametrize(
    "packet",
    [
        b'<14>gunicorn.web.access: [123] 127.0.0.1 - - [x] "GET / HTTP/1.1" 200 5 "-" "curl"\0',
        line(microseconds=86_399_000_000),
        b"<14>gunicorn.web.access: [123] poolwright 200 x -\0",
    ],
)
async def test_an_access_line_of_another_format_is_an_error_that_tells_the_format(packet):
    async with listening() as (send, read):
        send(line())
        await read(1)
        send(packet)
        seen = await read(2)
    assert {r.status for r in seen.values()} == {Status.ERROR}
    assert ACCESS_LOG_FORMAT in seen["throughput_rps"].detail


async def test_an_error_log_line_cannot_pass_for_an_access_line():
    async with listening() as (send, read):
        await read(1)
        send(b"<11>gunicorn.web.error: [1] " + line(), b"junk", line())
        seen = await read(2)
    assert seen["throughput_rps"].value == 1.0
    assert "1 foreign packets" in seen["throughput_rps"].detail


async def test_lost_packets_make_the_tick_an_error(monkeypatch):
    monkeypatch.setattr(datagram, "ASKED_BYTES", 4096)
    async with listening() as (send, read):
        await read(1)
        send(*[line()] * 200)
        seen = await read(2)
    assert {r.status for r in seen.values()} == {Status.ERROR}
    assert "packets lost" in seen["latency_s"].detail


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"t=1732123456.789", 1_732_123_456_789_000_000),
        (b"1732123456.789", 1_732_123_456_789_000_000),
        (b"1732123456", 1_732_123_456_000_000_000),
        (b"1732123456789", 1_732_123_456_789_000_000),
        (b"t=1732123456789.25", 1_732_123_456_789_250_000),
        (b"1732123456789123", 1_732_123_456_789_123_000),
        (b"1732123456789123456", 1_732_123_456_789_123_456),
        (b"-", None),
        (b"", None),
        (b"t=", None),
        (b"nan", None),
        (b"12", None),
        (b"-1732123456", None),
        (b"1732123456, 1732123457", None),
    ],
)
def test_units_of_x_request_start(header, expected):
    assert start_ns(header) == expected


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda h: line(header=h)))
def test_no_bytes_make_it_raise(packet):
    lines = Lines()
    lines.feed(packet, time.time_ns())
    assert lines.requests + lines.bad + lines.foreign <= 1
    assert lines.latencies.freeze().count <= lines.carried


@given(st.binary(max_size=24) | st.integers(0, 10**20).map(lambda n: b"t=%d" % n))
def test_a_start_is_none_or_a_time(header):
    found = start_ns(header)
    assert found is None or found > 0


@contextmanager
def gunicorn(tmp_path, flags, workers=2):
    (tmp_path / "app.py").write_text(
        "import time\n"
        "def app(environ, start_response):\n"
        "    time.sleep(0.004)\n"
        "    bad = environ['PATH_INFO'] == '/bad'\n"
        "    start_response('503 No' if bad else '200 OK', [('Content-Length', '2')])\n"
        "    return [b'ok']\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "app:app", "-b", f"127.0.0.1:{port}"]
    log = (tmp_path / "gunicorn.log").open("wb")
    process = subprocess.Popen(
        [*command, "-w", str(workers), "--no-control-socket", *flags],
        cwd=tmp_path,
        stderr=log,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "gunicorn.log").read_text()
                assert process.poll() is None, (tmp_path / "gunicorn.log").read_text()
                time.sleep(0.05)
        yield port
    finally:
        log.close()
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            raise


def ask(port, count, felt, offset):
    for i in range(count):
        began = time.time_ns()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        path = "/bad" if (i + offset) % 10 == 0 else "/"
        connection.request("GET", path, headers={"X-Request-Start": f"t={began / 1e9:.6f}"})
        connection.getresponse().read()
        felt.append((time.time_ns() - began) / 1e9)
        connection.close()


class Totals:
    """What a sensor told over several reads."""

    def __init__(self, sensor):
        self.sensor = sensor
        self.last_ns = None
        self.counts = {"throughput_rps": 0.0, "errors_rps": 0.0}
        self.sketches = {"latency_s": [], "service_time_s": [], "queue_length": []}
        self.worker_count = None

    async def read(self):
        now_ns = time.monotonic_ns()
        for one in await self.sensor.read(now_ns):
            assert one.status is not Status.ERROR, one
            if one.signal in self.counts and one.status is Status.OK:
                self.counts[one.signal] += one.value * (now_ns - self.last_ns) / SECOND
            elif one.sketch is not None:
                self.sketches[one.signal].append(one.sketch)
            elif one.signal == "worker_count":
                self.worker_count = one.value
        self.last_ns = now_ns

    def sketch(self, signal):
        return merged(self.sketches[signal])


async def run_clients(port, felt, readers):
    """Eight clients on two workers: most of the latency is queue. Then wait for the rest."""
    clients = [threading.Thread(target=ask, args=(port, 50, felt, 0)) for _ in range(8)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 30
    still = 0
    while still < 5:  # gunicorn tells its backlog about every second
        assert time.monotonic() < deadline
        await asyncio.sleep(0.25)
        for reader in readers:
            await reader.read()
        still += not any(client.is_alive() for client in clients)


@pytest.mark.e2e
async def test_a_real_gunicorn_is_counted_exactly_and_latency_is_what_the_client_felt(tmp_path):
    lines = AccessLog(AccessLogOptions(listen="127.0.0.1:0"), "web")
    metrics = statsd.Statsd(statsd.StatsdOptions(listen="127.0.0.1:0", prefix="svc"), "web")
    await lines.start()
    await metrics.start()
    readers = by_line, by_metric = Totals(lines), Totals(metrics)
    flags = [
        *gunicorn_flags("{}:{}".format(*lines.address)),
        *statsd.gunicorn_flags("{}:{}".format(*metrics.address), "svc"),
    ]
    felt = []
    try:
        with gunicorn(tmp_path, flags) as port:
            for reader in readers:
                await reader.read()
            await run_clients(port, felt, readers)
    finally:
        await lines.close()
        await metrics.close()
    felt.sort()
    seen = by_line.sketch("latency_s")
    for name, is_felt, is_seen in (
        ("mean", statistics.mean(felt), seen.mean),
        ("p50", felt[200], seen.quantile(0.5)),
        ("p99", felt[396], seen.quantile(0.99)),
    ):
        print(f"latency {name}: felt {is_felt:.5f} s, seen {is_seen:.5f} s")
        assert is_seen == pytest.approx(is_felt, rel=0.15)
    assert (len(felt), seen.count) == (400, 400)
    for reader in readers:
        assert reader.counts["throughput_rps"] == pytest.approx(400, abs=1e-6)
        assert reader.counts["errors_rps"] == pytest.approx(40, abs=1e-6)
        assert reader.sketch("service_time_s").count == 400
    service = by_line.sketch("service_time_s")
    assert service.mean == pytest.approx(by_metric.sketch("service_time_s").mean, rel=0.01)
    assert service.mean < 0.6 * seen.mean  # the queue, which gunicorn's own duration does not see
    assert by_metric.worker_count == 2
    assert by_metric.sketch("queue_length").count > 0


def test_the_flags_are_gunicorns():
    assert gunicorn_flags("127.0.0.1:5514") == (
        *("--log-syslog", "--log-syslog-to", "udp://127.0.0.1:5514"),
        *("--access-logformat", access_log.ACCESS_LOG_FORMAT),
    )
