import socket
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.model import Status
from poolwright.sensors import datagram
from poolwright.sensors.statsd import Lines, Statsd, StatsdOptions, gunicorn_flags

SECOND = 1_000_000_000


@asynccontextmanager
async def listening(**options):
    sensor = Statsd(StatsdOptions(listen="127.0.0.1:0", **options), "web")
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


def request(ms=b"12.5", status=200, prefix=b""):
    # as gunicorn/instrument/statsd.py sends them
    return (
        prefix + b"gunicorn.request.duration:" + ms + b"|ms",
        prefix + b"gunicorn.requests:1|c|@1.0",
        prefix + b"gunicorn.request.status.%d:1|c|@1.0" % status,
    )


async def test_nothing_is_claimed_before_the_first_packet():
    async with listening() as (_, read):
        for second in (1, 2, 100):
            readings = await read(second)
            assert set(readings) == set(Statsd.signals)
            assert {r.status for r in readings.values()} == {Status.NO_DATA}
            assert "--statsd-host" in readings["throughput_rps"].detail


async def test_a_tick_of_requests():
    async with listening() as (send, read):
        send(b"gunicorn.workers:4|g")
        first = await read(10)
        assert first["throughput_rps"].status is Status.NO_DATA
        assert first["worker_count"].value == 4
        for _ in range(8):
            send(*request(b"10.0"))
        send(*request(b"30.0", 503), *request(b"30.0", 500))
        send(b"gunicorn.backlog:0|h", b"gunicorn.backlog:7|h")
        seen = await read(12)
    assert seen["throughput_rps"].value == 5.0
    assert seen["errors_rps"].value == 1.0
    assert seen["service_time_s"].value == pytest.approx(0.014)
    assert seen["service_time_s"].sketch.count == 10
    assert seen["worker_count"].value == 4
    assert seen["queue_length"].value == 7
    assert seen["queue_length"].sketch.count == 2
    assert {r.taken_mono_ns for r in seen.values()} == {12 * SECOND}


async def test_silence_is_zero_load_then_stale_then_alive_again():
    async with listening(silence_s=10.0) as (send, read):
        send(b"gunicorn.workers:2|g", *request())
        await read(1)
        quiet = await read(2)
        assert quiet["throughput_rps"].value == 0.0
        assert quiet["errors_rps"].value == 0.0
        assert quiet["service_time_s"].status is Status.NO_DATA
        assert quiet["worker_count"].value == 2
        assert (await read(11))["throughput_rps"].value == 0.0
        silent = await read(11.5)
        assert {r.status for r in silent.values()} == {Status.STALE}
        assert "--enable-backlog-metric" in silent["throughput_rps"].detail
        send(*request())
        assert (await read(12.5))["throughput_rps"].value == 1.0


async def test_the_backlog_is_kept_for_three_seconds_then_stale():
    async with listening() as (send, read):
        send(b"gunicorn.backlog:3|h", *request())
        await read(1)
        send(*request())
        kept = (await read(3))["queue_length"]
        assert (kept.value, kept.sketch) == (3, None)
        send(*request())
        assert (await read(5))["queue_length"].status is Status.STALE


async def test_several_lines_a_packet_tags_and_sample_rates():
    async with listening(prefix="svc.") as (send, read):
        await read(1)
        send(
            b"svc.gunicorn.requests:2|c|@0.1|#env:x,az:b\n"
            b"svc.gunicorn.request.duration:20|ms|@0.5\n"
            b"svc.gunicorn.request.duration:40|h|#env:x\n"
            b"svc.gunicorn.request.status.502:3|c\n"
        )
        seen = await read(2)
    assert seen["throughput_rps"].value == pytest.approx(20.0)
    assert seen["errors_rps"].value == 3.0
    assert seen["service_time_s"].sketch.count == 3
    assert seen["service_time_s"].value == pytest.approx(0.08 / 3)


@pytest.mark.parametrize(
    ("prefix", "stem"),
    [
        ("", b"gunicorn."),
        ("svc", b"svc.gunicorn."),
        ("a.b..", b"a.b.gunicorn."),
        ("a", b"agunicorn."),
    ],
)
def test_the_prefix_is_gunicorns_own_rule(prefix, stem):
    assert Lines(prefix).stem == stem


async def test_a_wrong_prefix_is_no_data_and_says_so():
    async with listening(prefix="svc") as (send, read):
        await read(1)
        send(*request())
        seen = await read(2)
    assert {r.status for r in seen.values()} == {Status.NO_DATA}
    assert "is the prefix right?" in seen["throughput_rps"].detail
    assert "gunicorn.request.duration" in seen["throughput_rps"].detail


@pytest.mark.parametrize(
    "line",
    [
        b"gunicorn.request.duration:nan|ms",
        b"gunicorn.request.duration:inf|ms",
        b"gunicorn.request.duration:-1|ms",
        b"gunicorn.request.duration:86399999.5|ms",  # how gunicorn tells a negative duration
        b"gunicorn.request.duration:1_0|ms",
        b"gunicorn.request.duration:12|c",
        b"gunicorn.request.duration:12",
        b"gunicorn.request.duration",
        b"gunicorn.requests:-1|c",
        b"gunicorn.requests:1e300|c",
        b"gunicorn.requests:1|c|@0",
        b"gunicorn.requests:1|c|@nan",
        b"gunicorn.requests:1|c|@2",
        b"gunicorn.requests:1|c|?",
        b"gunicorn.request.status.5x:1|c",
        b"gunicorn.workers:+1.5|g",
        b"gunicorn.workers:-1|g",
        b"gunicorn.backlog:nan|h",
    ],
)
async def test_unreadable_lines_are_shown_and_never_counted(line):
    async with listening() as (send, read):
        await read(1)
        for _ in range(100):
            send(*request())
        send(line)
        seen = await read(2)
        assert seen["throughput_rps"].value == 100.0
        assert seen["service_time_s"].sketch.count == 100
        assert "1 unreadable lines" in seen["throughput_rps"].detail
        assert repr(line)[2:-1] in seen["throughput_rps"].detail
        send(line)  # nothing but bad lines: the counts are not believed
        broken = await read(3)
        assert {r.status for r in broken.values()} == {Status.ERROR}


async def test_a_lost_packet_makes_the_tick_an_error_and_forgets_the_workers(monkeypatch):
    monkeypatch.setattr(datagram, "ASKED_BYTES", 4096)
    async with listening() as (send, read):
        monkeypatch.setattr(datagram, "ASKED_BYTES", 4 << 20)
        send(b"gunicorn.workers:4|g")
        await read(1)
        send(*[request()[1]] * 200)
        broken = await read(2)
        assert {r.status for r in broken.values()} == {Status.ERROR}
        assert "packets lost" in broken["throughput_rps"].detail
        assert "net.core.rmem_max" in broken["throughput_rps"].detail
        send(*request())
        good = await read(3)
        assert good["throughput_rps"].value == 1.0
        assert good["worker_count"].status is Status.NO_DATA


def test_flags():
    assert gunicorn_flags("127.0.0.1:8125", "svc") == (
        *("--statsd-host", "127.0.0.1:8125", "--enable-backlog-metric"),
        *("--statsd-prefix", "svc"),
    )


LINE = st.binary(max_size=40) | st.builds(
    lambda name, value, tail: b"gunicorn." + name + b":" + value + b"|" + tail,
    st.sampled_from(
        [b"requests", b"request.duration", b"workers", b"backlog", b"request.status.500"]
    ),
    st.binary(max_size=8) | st.floats().map(lambda x: repr(x).encode()),
    st.sampled_from([b"c", b"g", b"ms", b"h"]) | st.binary(max_size=8),
)


@given(st.lists(LINE, max_size=20))
def test_a_repeated_packet_counts_like_the_first(packets):
    once, thrice = Lines(""), Lines("")
    for packet in packets:
        once.feed(packet)
        for _ in range(3):
            thrice.feed(packet)
    assert thrice.requests == pytest.approx(3 * once.requests)
    assert thrice.errors == pytest.approx(3 * once.errors)
    assert thrice.good == 3 * once.good
    assert thrice.bad == 3 * once.bad


@given(st.lists(st.lists(LINE, max_size=5).map(b"\n".join), max_size=20))
def test_no_bytes_make_it_raise_or_count_nonsense(packets):
    lines = Lines("")
    for packet in packets:
        lines.feed(packet)
    assert 0.0 <= lines.requests < float("inf")
    assert 0.0 <= lines.errors < float("inf")
    assert lines.durations.freeze().total >= 0.0
    assert lines.worker_count is None or lines.worker_count >= 0
