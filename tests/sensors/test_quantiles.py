"""Quantiles from what services expose: of all series and all ticks together, and never averaged."""

import math
from bisect import bisect_left
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_prometheus import OPENMETRICS, flat, scraping

from poolwright.core.model import Status
from poolwright.core.sketch import RELATIVE_ERROR, merged
from poolwright.sensors.prometheus_mapping import Signals, Source
from poolwright.sensors.statsd import Lines

LATENCY = Signals(latency=Source(histogram="latency_seconds"))
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # as clients come with
QUANTILES = (0.5, 0.9, 0.99, 0.999)


def requests(count, seed, mean=0.08):
    rng = Random(seed)
    return [rng.lognormvariate(math.log(mean), 0.6) for _ in range(count)]


def exactly(values, q):
    return sorted(values)[round(q * (len(values) - 1))]


def classic(values, label='job="web"'):
    """The lines of a classic histogram."""
    rows = [(str(bound), sum(v <= bound for v in values)) for bound in BOUNDS]
    text = flat([*rows, ("+Inf", len(values))], sum(values))
    return text.replace('job="web"', label)


async def test_a_classic_histograms_quantiles_lie_in_the_bucket_of_the_true_ones():
    values = requests(5_000, seed=1)
    async with scraping(LATENCY) as (site, read):
        site.answer(classic([]))
        await read(0)
        site.answer(classic(values))
        sketch = (await read(1))["latency_s"].sketch
    for q in QUANTILES:
        at = bisect_left(BOUNDS, exactly(values, q))
        low, high = (0.0, *BOUNDS)[at], BOUNDS[at]
        assert low * 0.99 <= sketch.quantile(q) <= high * 1.01, q
    assert sketch.mean == pytest.approx(sum(values) / len(values))


async def test_series_are_pooled_by_their_requests_and_not_averaged():
    """Nine tenths fast and one tenth slow: the p99 is the slow ones', the p50 the fast ones'."""
    fast, slow = requests(9_000, 6, mean=0.02), requests(1_000, 7, mean=2.0)
    paths = Signals(latency=Source(histogram="latency_seconds", labels={"path": "/[ab]"}))
    head = "# TYPE latency_seconds histogram\n"
    async with scraping(paths) as (site, read):
        for second, series in enumerate((([], []), (fast, slow))):
            lines = (classic(v, f'path="/{p}"') for v, p in zip(series, "ab", strict=True))
            site.answer(head + "".join(one.removeprefix(head) for one in lines))
            seen = (await read(second))["latency_s"]
    assert seen.sketch.count == 10_000, seen.detail
    assert seen.sketch.quantile(0.5) < 0.05
    assert seen.sketch.quantile(0.99) > 1.0


async def test_a_native_histogram_beside_classic_buckets_does_not_disturb_them():
    """Servers that are asked for text give the classic ones."""
    told = (
        'latency_seconds{job="web"} {count:3,sum:1,schema:0,zero_threshold:0.001,zero_count:3}\n'
        'latency_seconds_bucket{job="web",le="0.1"} %d\n'
        'latency_seconds_bucket{job="web",le="+Inf"} %d\n'
        'latency_seconds_count{job="web"} %d\nlatency_seconds_sum{job="web"} %f\n# EOF\n'
    )
    async with scraping(LATENCY) as (site, read):
        site.answer("# TYPE latency_seconds histogram\n" + told % (0, 0, 0, 0.0), OPENMETRICS)
        await read(0)
        site.answer("# TYPE latency_seconds histogram\n" + told % (8, 8, 8, 0.4), OPENMETRICS)
        seen = (await read(1))["latency_s"]
    assert seen.status is Status.OK, seen.detail
    assert (seen.value, seen.sketch.count) == (pytest.approx(0.05), 8)


async def test_a_summarys_quantiles_are_not_taken():
    """They cover the exporter's own window, and those of two processes cannot be put together."""
    text = (
        "# TYPE s summary\n"
        's{{quantile="0.5"}} 0.1\ns{{quantile="0.99"}} {p99}\ns_sum {total}\ns_count {count}\n'
    )
    summary = Signals(latency=Source(summary="s"))
    async with scraping(summary) as (site, read):
        site.answer(text.format(p99=5.0, total=10, count=100))
        await read(0)
        site.answer(text.format(p99=9.0, total=30, count=200))
        seen = (await read(1))["latency_s"]
    assert (seen.value, seen.sketch) == (pytest.approx(0.2), None)
    assert "mean only" in seen.detail


@given(st.lists(st.floats(0.001, 60.0), min_size=1, max_size=200), st.sampled_from(QUANTILES))
def test_a_statsd_timers_quantiles_are_those_of_its_requests(values, q):
    """Also over several ticks: the sketches are merged, not their quantiles."""
    lines, ticks = Lines(""), []
    for at in range(0, len(values), 20):
        lines.clear()
        for value in values[at : at + 20]:
            lines.feed(b"gunicorn.request.duration:%.6f|ms" % (value * 1e3))
        ticks.append(lines.durations.freeze())
    found = merged(ticks)
    assert found.count == len(values)
    rank = sorted(values)[math.floor(q * (len(values) - 1))]
    assert found.quantile(q) == pytest.approx(rank, rel=1.01 * RELATIVE_ERROR)


def test_the_worst_tenth_of_ticks_is_not_hidden_by_nine_quiet_ones():
    """What averaging p99s would hide: nine ticks at 10 ms, one with all the traffic at 1 s."""
    lines, ticks = Lines(""), []
    for duration_ms, count in ((10, 10),) * 9 + ((1000, 910),):
        lines.clear()
        for _ in range(count):
            lines.feed(b"gunicorn.request.duration:%d|ms" % duration_ms)
        ticks.append(lines.durations.freeze())
    averaged = sum(tick.quantile(0.5) for tick in ticks) / len(ticks)
    assert averaged == pytest.approx(0.109, rel=0.02)
    assert merged(ticks).quantile(0.5) == pytest.approx(1.0, rel=RELATIVE_ERROR)
