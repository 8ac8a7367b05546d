import asyncio
import gzip
import math
import socket
from contextlib import asynccontextmanager

import prometheus_client as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_page

from poolwright.core.errors import PolicyError
from poolwright.core.model import Status
from poolwright.core.sketch import RELATIVE_ERROR
from poolwright.sensors.prometheus import Prometheus
from poolwright.sensors.prometheus_mapping import PrometheusOptions, Signals, Source
from poolwright.sensors.prometheus_page import (
    MOST_LINES,
    Counters,
    PageError,
    Series,
    Sieve,
    spread,
)

SECOND = 1_000_000_000
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
EVERYTHING = Signals(
    throughput=Source(counter="http_requests_total"),
    errors=Source(counter="http_requests_total", labels={"code": "5*"}),
    latency=Source(histogram="latency_seconds", labels={"job": "web"}),
    service_time=Source(summary="service_milliseconds", scale=0.001),
    memory=Source(gauge="resident_bytes"),
)


class Site:
    """A real HTTP server on loopback that answers every request with the bytes it is given."""

    def __init__(self):
        self.raw = b""
        self.requests = []
        self.hang = False

    def answer(self, page, kind=TEXT, status="200 OK", length=None, extra=""):
        body = page.encode() if isinstance(page, str) else page
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{extra}"
        length = len(body) if length is None else length
        self.raw = f"{head}Content-Length: {length}\r\n\r\n".encode() + body

    async def serve(self, reader, writer):
        try:
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(self.raw)
            await writer.drain()
            if self.hang:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the sensor hung up: what some tests are about
        finally:
            writer.close()


@asynccontextmanager
async def scraping(signals=EVERYTHING, **options):
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"
    sensor = Prometheus(PrometheusOptions(url=url, signals=signals, **options), "web")
    await sensor.start()

    async def read(second):
        return {r.signal: r for r in await sensor.read(int(second * SECOND))}

    try:
        yield site, read
    finally:
        await sensor.close()
        server.close()
        await server.wait_closed()


def exporter():
    registry = pc.CollectorRegistry()
    requests = pc.Counter("http_requests_total", "Requests", ["code"], registry=registry)
    latency = pc.Histogram(
        "latency_seconds", "L", ["job"], buckets=(0.1, 0.2, 0.5, 1.0), registry=registry
    )
    service = pc.Summary("service_milliseconds", "S", registry=registry)
    memory = pc.Gauge("resident_bytes", "M", ["pid"], registry=registry)
    pc.Counter("http_requests_queued_total", "another that begins alike", registry=registry).inc(9)
    return registry, requests, latency, service, memory


@pytest.mark.parametrize(
    ("render", "kind"), [(pc.generate_latest, TEXT), (openmetrics_page, OPENMETRICS)]
)
async def test_two_scrapes_of_a_real_exporter(render, kind):
    registry, requests, latency, service, memory = exporter()
    requests.labels("200").inc(1000)
    latency.labels("web").observe(0.05)
    latency.labels("other").observe(0.05)
    service.observe(1)
    memory.labels("1").set(1000)
    memory.labels("2").set(500)
    async with scraping() as (site, read):
        site.answer(render(registry), kind)
        first = await read(1)
        assert first["memory_bytes"].value == 1500
        assert {r.status for n, r in first.items() if n != "memory_bytes"} == {Status.NO_DATA}
        site.answer(render(registry), kind)
        quiet = await read(2)
        assert quiet["throughput_rps"].value == 0.0
        assert quiet["errors_rps"].value == 0.0
        assert quiet["latency_s"].status is Status.NO_DATA
        assert quiet["service_time_s"].status is Status.NO_DATA
        requests.labels("200").inc(90)
        requests.labels("500").inc(8)  # series that were not there before
        requests.labels("503").inc(2)
        for value in [0.15] * 50 + [0.3] * 50:
            latency.labels("web").observe(value)
            latency.labels("other").observe(0.9)
        service.observe(20)
        service.observe(40)
        site.answer(render(registry), kind)
        seen = await read(4)
        assert "application/openmetrics-text" in site.requests[-1]
    assert seen["throughput_rps"].value == 50.0
    assert seen["errors_rps"].value == 5.0
    assert seen["latency_s"].value == pytest.approx(0.225)
    assert seen["latency_s"].sketch.count == 100
    assert seen["latency_s"].sketch.mean == pytest.approx(0.225)
    assert 0.1 <= seen["latency_s"].sketch.quantile(0.25) <= 0.2
    assert 0.2 <= seen["latency_s"].sketch.quantile(0.75) <= 0.5
    assert not seen["latency_s"].estimated
    assert seen["service_time_s"].value == pytest.approx(0.030)
    assert seen["service_time_s"].sketch is None
    assert "mean only" in seen["service_time_s"].detail


ONE = Signals(throughput=Source(counter="n_total"))


async def test_a_counter_that_falls_counts_from_zero_and_says_so():
    async with scraping(ONE) as (site, read):
        for second, page in enumerate(("n_total 100\n", "n_total 7\n", "n_total 8\n")):
            site.answer(page)
            seen = (await read(second))["throughput_rps"]
            if second == 1:
                assert (seen.value, seen.estimated) == (7.0, True)
                assert "lower bound" in seen.detail
    assert (seen.value, seen.estimated) == (1.0, False)


async def test_created_tells_a_restart_that_the_value_hides():
    page = "# TYPE n counter\nn_total {}\nn_created {}\n# EOF\n"
    async with scraping(ONE) as (site, read):
        site.answer(page.format(100, 1000.5), OPENMETRICS)
        await read(1)
        site.answer(page.format(160, 2000.5), OPENMETRICS)
        seen = (await read(2))["throughput_rps"]
    assert (seen.value, seen.estimated) == (160.0, True)


async def test_several_processes_behind_one_endpoint_are_an_error():
    async with scraping(ONE) as (site, read):
        for second in range(8):
            site.answer(f"n_total {1000 if second % 2 else 10}\n")
            seen = (await read(second))["throughput_rps"]
    assert seen.status is Status.ERROR
    assert "multiprocess" in seen.detail


async def test_a_gap_of_a_failed_scrape_is_bridged_but_not_one_of_minutes():
    async with scraping(ONE) as (site, read):
        site.answer("n_total 10\n")
        await read(1)
        site.answer("n_total 1e", status="500 Oops")
        assert (await read(2))["throughput_rps"].status is Status.ERROR
        site.answer("n_total 30\n")
        assert (await read(3))["throughput_rps"].value == 10.0
        site.answer("n_total 90000\n")
        assert (await read(200))["throughput_rps"].status is Status.NO_DATA


def flat(buckets, total=None):
    rows = [f'latency_seconds_bucket{{job="web",le="{le}"}} {n}\n' for le, n in buckets]
    end = [] if total is None else [f'latency_seconds_sum{{job="web"}} {total}\n']
    return "".join(["# TYPE latency_seconds histogram\n", *rows, *end])


LATENCY = Signals(latency=Source(histogram="latency_seconds"))


async def test_values_above_the_highest_bucket_make_it_estimated():
    async with scraping(LATENCY) as (site, read):
        site.answer(flat([("0.1", 0), ("1", 0), ("+Inf", 0)], 0))
        await read(1)
        site.answer(flat([("0.1", 50), ("1", 90), ("+Inf", 100)], 60))
        seen = (await read(2))["latency_s"]
    assert seen.value == pytest.approx(0.6)
    assert seen.estimated
    assert "10 of 100 values lie above the highest bucket" in seen.detail
    assert seen.sketch.quantile(1.0) == pytest.approx(1.0, rel=RELATIVE_ERROR)


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (flat([("0.1", 5), ("1", 4), ("+Inf", 6)]), "not cumulative"),
        (flat([("0.1", 5), ("1", 6)]), "+Inf"),
        (flat([("0.1", 5), ("0.1", 5), ("+Inf", 6)]), "twice"),
        (flat([("x", 5), ("+Inf", 6)]), "readable le"),
        (flat([("NaN", 5), ("+Inf", 6)]), "NaN"),
        (flat([("0.1", "NaN"), ("+Inf", 6)]), "nan"),
        (flat([("0.1", -1), ("+Inf", 6)]), "-1"),
        ("# TYPE latency_seconds gauge\nlatency_seconds_bucket 1\n", "not a histogram"),
        ("other 1\n", "not on the page"),
    ],
)
async def test_a_false_histogram_is_an_error(page, why):
    async with scraping(LATENCY) as (site, read):
        site.answer(page)
        seen = (await read(1))["latency_s"]
    assert seen.status is Status.ERROR
    assert why in seen.detail
    assert "http://127.0.0.1" in seen.detail


async def test_a_native_histogram_is_refused_by_name():
    native = (
        "# TYPE latency_seconds histogram\nlatency_seconds {count:24,sum:100,schema:0,"
        "zero_threshold:0.001,zero_count:4,positive_spans:[0:2],positive_deltas:[2,1]}\n# EOF\n"
    )
    async with scraping(LATENCY) as (site, read):
        site.answer(native, OPENMETRICS)
        seen = (await read(1))["latency_s"]
    assert seen.status is Status.ERROR
    assert "native" in seen.detail


GAUGE = Signals(memory=Source(gauge="m"))


async def test_connections_of_a_database_and_how_many_it_accepts_are_two_gauges():
    database = Signals(
        connections=Source(gauge="pg_stat_activity_count"),
        connections_limit=Source(gauge="pg_settings_max_connections"),
    )
    page = 'pg_stat_activity_count{state="%s"} %d\n'
    async with scraping(database) as (site, read):
        site.answer(page % ("active", 7) + page % ("idle", 13) + "pg_settings_max_connections 100")
        cut = await read(1)
        site.answer(
            page % ("active", 7) + page % ("idle", 13) + "pg_settings_max_connections 100\n"
        )
        seen = await read(2)
    assert {r.status for r in cut.values()} == {Status.ERROR}
    assert {n: r.value for n, r in seen.items()} == {"connections": 20, "connections_limit": 100}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-5", "9" * 400, '1e308\nm{a="1"} 1e308'])
async def test_a_gauge_that_is_no_amount_is_an_error(value):
    async with scraping(GAUGE) as (site, read):
        site.answer(f"m {value}\n")
        assert (await read(1))["memory_bytes"].status is Status.ERROR


async def test_a_label_that_no_series_has_is_an_error_and_not_zero():
    wrong = Signals(errors=Source(counter="n_total", labels={"stauts": "5*"}))
    async with scraping(wrong) as (site, read):
        site.answer('n_total{status="500"} 1\n')
        seen = (await read(1))["errors_rps"]
    assert seen.status is Status.ERROR
    assert "stauts" in seen.detail


async def test_a_metric_declared_without_series_yet_is_no_data_then_counts_from_zero():
    async with scraping(ONE) as (site, read):
        site.answer("# TYPE n_total counter\n")
        for second in (1, 2):
            seen = (await read(second))["throughput_rps"]
            assert seen.status is Status.NO_DATA
            assert "without a series" in seen.detail
        site.answer("# TYPE n_total counter\nn_total 5\n")
        assert (await read(3))["throughput_rps"].value == 5.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"page": "m 1"}, "cut"),
        ({"page": ""}, "cut"),
        ({"page": "m 1\nm2 3", "kind": OPENMETRICS}, "# EOF"),
        ({"page": "m 1\n", "kind": OPENMETRICS}, "# EOF"),
        ({"page": "# EOF\nm 1\n", "kind": OPENMETRICS}, "# EOF"),
        ({"page": "m one\n"}, "cannot be parsed"),
        ({"page": 'm{a="1} 1\n'}, "cannot be parsed"),
        ({"page": b"m \xff\n"}, "cannot be parsed"),
        ({"page": "m 1\n", "length": 400}, "http://"),
        ({"page": "m 1\n", "kind": "text/html"}, "text/html"),
        ({"page": "", "status": "503 Busy"}, "503"),
        ({"page": "", "status": "302 Found", "extra": "Location: /x\r\n"}, "302"),
        ({"page": "m 1\n", "extra": "Content-Encoding: br\r\n"}, "br"),
        ({"page": "m 1\n", "extra": "Content-Encoding: gzip\r\n"}, "http://"),
        ({"page": gzip.compress(b"m 1\n")[:-9], "extra": "Content-Encoding: gzip\r\n"}, "cut"),
        ({"page": gzip.compress(b"m 1\n") + b"x", "extra": "Content-Encoding: gzip\r\n"}, "follow"),
        ({"page": "m 1\n" * 40_000}, "longer than"),
        ({"page": gzip.compress(b"m 1\n" * 9**6), "extra": "Content-Encoding: gzip\r\n"}, "longer"),
    ],
)
async def test_a_page_that_cannot_be_believed_is_an_error_with_url_and_reason(change, why):
    async with scraping(GAUGE, max_bytes=100_000) as (site, read):
        site.answer(**change)
        seen = (await read(1))["memory_bytes"]
        assert len(site.requests) == 1  # no redirect followed, nothing asked twice
    assert seen.status is Status.ERROR
    assert seen.value is None
    assert "http://127.0.0.1" in seen.detail
    assert why in seen.detail


async def test_gzip_is_read():
    async with scraping(GAUGE) as (site, read):
        site.answer(gzip.compress(b"m 12\n"), extra="Content-Encoding: gzip\r\n")
        assert (await read(1))["memory_bytes"].value == 12


async def test_a_slow_endpoint_is_an_error_within_the_timeout():
    async with scraping(GAUGE, timeout=0.1) as (site, read):
        site.answer("m 1\n", length=100)
        site.hang = True
        async with asyncio.timeout(2):
            seen = (await read(1))["memory_bytes"]
    assert seen.status is Status.ERROR
    assert "0.1 s" in seen.detail


async def test_a_dead_endpoint_is_named():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: refused
        url = f"http://127.0.0.1:{held.getsockname()[1]}/metrics"
        sensor = Prometheus(PrometheusOptions(url=url, signals=GAUGE), "web")
        assert "not started" in (await sensor.read(1))[0].detail
        await sensor.start()
        (seen,) = await sensor.read(1)
        await sensor.close()
        await sensor.close()
    assert seen.status is Status.ERROR
    assert url in seen.detail


@pytest.mark.parametrize(
    ("signals", "url"),
    [
        (Signals(), "http://h/"),
        (Signals(latency=Source()), "http://h/"),
        (Signals(latency=Source(gauge="g")), "http://h/"),
        (Signals(latency=Source(histogram="h", summary="s")), "http://h/"),
        (Signals(memory=Source(gauge="g{}")), "http://h/"),
        (Signals(memory=Source(gauge="g", scale=0)), "http://h/"),
        (Signals(memory=Source(gauge="g", scale=math.nan)), "http://h/"),
        (GAUGE, "https://h/"),
        (GAUGE, "http://user:secret@h/"),
        (GAUGE, "file:///etc/passwd"),
        (GAUGE, "http://[::1/metrics"),
        (GAUGE, "http://h:99999/metrics"),
    ],
)
def test_a_wrong_mapping_is_refused(signals, url):
    with pytest.raises(PolicyError):
        Prometheus(PrometheusOptions(url=url, signals=signals), "web")


def test_the_sieve_keeps_the_wanted_lines_for_every_cut_of_the_page():
    page = (
        b'# HELP a help\n# TYPE a counter\na_total{x="a"} 1\nab_total 2\n# TYPE ab counter\n'
        b'a_total{x="b"} 3\nb 4\n# a_total 9\na_totals 5\n# EOF\n'
    )
    for size in range(1, len(page) + 1):
        sieve = Sieve({"a", "a_total"})
        for at in range(0, len(page), size):
            sieve.feed(page[at : at + size])
        (family,) = sieve.families(openmetrics=True)
        assert [(s.labels["x"], s.value) for s in family.samples] == [("a", 1), ("b", 3)]


def test_the_sieve_has_a_limit():
    sieve = Sieve({"a"})
    with pytest.raises(PageError, match="fewer series"):
        sieve.feed(b"a 1\n" * (MOST_LINES + 1))
    with pytest.raises(PageError, match="longer than"):
        Sieve({"a"}).feed(b"a" * (2 << 20))


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([b"a{", b"a 1\n", b"# TYPE a "])),
    st.booleans(),
)
def test_no_bytes_raise_anything_but_page_error(chunks, openmetrics):
    sieve = Sieve({"a", "a_total"})
    try:
        for chunk in chunks:
            sieve.feed(chunk)
        sieve.families(openmetrics=openmetrics)
    except PageError:
        pass


@given(
    st.lists(st.text(alphabet='a_total{}="1eN+#\\ \t.', max_size=12).map("a".__add__), max_size=5)
)
def test_lookalikes_give_finite_readings_or_page_errors(lines):
    sensor = Prometheus(
        PrometheusOptions(url="http://h/", signals=Signals(throughput=Source(counter="a"))), "web"
    )
    (wanted,) = sensor._wanted
    sieve = Sieve(wanted.lines)
    try:
        sieve.feed("".join(line + "\n" for line in lines).encode())
        found = wanted.look(sieve.families(openmetrics=False))
    except PageError:
        return
    if not isinstance(found, str):
        assert all(0 <= s.counts[0] < math.inf for s in found.values())


SCRAPES = st.lists(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.tuples(st.floats(0, 1e15), st.none() | st.sampled_from([1.0, 2.0])),
        max_size=3,
    ),
    max_size=12,
)


@given(SCRAPES)
def test_no_sequence_of_resets_gives_a_negative_rate(scrapes):
    counters = Counters()
    for i, scrape in enumerate(scrapes):
        current = {
            (("x", key),): Series(counts=(value,), created=created)
            for key, (value, created) in scrape.items()
        }
        growth = counters.advance(current, (i + 1) * SECOND)
        assert (growth is None) == (i == 0)
        if growth is not None:
            assert all(s.counts[0] >= 0 for s in growth.series)
            assert growth.elapsed_s == 1.0


def test_a_series_that_comes_back_goes_on_from_where_it_was():
    counters, key = Counters(), (("x", "1"),)
    counters.advance({key: Series(counts=(1000.0,))}, 1 * SECOND)
    assert counters.advance({}, 2 * SECOND).series == ()
    assert counters.advance({key: Series(counts=(1003.0,))}, 3 * SECOND).series[0].counts == (3.0,)


@given(
    st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=12, unique=True),
    st.lists(st.integers(0, 1000), min_size=13, max_size=13),
    st.floats(0, 1),
)
def test_quantiles_stay_within_their_bucket(bounds, sizes, q):
    bounds = [*sorted(bounds), math.inf]
    sizes = sizes[: len(bounds)]
    cumulative = [float(sum(sizes[: i + 1])) for i in range(len(bounds))]
    found = spread([Series(counts=tuple(cumulative), bounds=tuple(bounds))], 1.0)
    count = sum(sizes)
    assert (found.count, found.beyond) == (count, sizes[-1])
    if count == 0:
        assert found.sketch is None
        return
    rank = q * (count - 1)
    at = next(i for i, n in enumerate(cumulative) if rank < n)
    upper = bounds[at] if at < len(bounds) - 1 else bounds[-2]
    lower = bounds[at - 1] if at else 0.0
    value = found.sketch.quantile(q)
    slack = 1 + 1.001 * RELATIVE_ERROR
    assert lower / slack <= value <= upper * slack


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3), st.floats(0, 1e6))
def test_the_exact_sum_is_kept_and_the_deviation_is_real(sizes, total):
    counts = tuple(float(sum(sizes[: i + 1])) for i in range(3))
    found = spread([Series(counts=counts, bounds=(0.1, 1.0, math.inf), total=total)], 0.001)
    if found.count:
        assert found.mean == pytest.approx(total * 0.001 / found.count)
        assert found.sketch.mean == pytest.approx(found.mean)
        assert 0.0 <= found.sketch.std <= 0.001 + 1e-6 * found.mean


def test_a_histogram_of_only_inf_has_a_mean_and_no_distribution():
    found = spread([Series(counts=(4.0,), bounds=(math.inf,), total=2.0)], 1.0)
    assert (found.mean, found.sketch) == (0.5, None)
    assert spread([Series(counts=(4.0,), bounds=(math.inf,))], 1.0).mean is None
