"""What taking in metrics costs: a Prometheus page of 10,000 series, and a stream of statsd packets.

Prometheus: CPU milliseconds to take what is wanted (a counter by status, a gauge and a histogram)
out of a page of `--series` series that comes in pieces of 64 KiB, and to reduce it to counts;
beside it prometheus_client's own parser over the same page, and the same reduced. Both text forms.

statsd: `--pps` packets a second, gunicorn's three a request, from a process of its own for
`--seconds` over UDP on loopback into a sensor that is read once a second: lost packets, as the
kernel counts them, and the share of one CPU that the receiving process used.
"""

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import time

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from poolwright.core.model import Status
from poolwright.sensors.prometheus_page import Sieve
from poolwright.sensors.statsd import Statsd

WANTED = {
    "http_requests": "counter",
    "http_request_duration_seconds": "histogram",
    "process_resident_memory_bytes": "gauge",
}
NAMES = (
    "http_requests",
    "http_requests_total",
    "http_request_duration_seconds",
    "http_request_duration_seconds_bucket",
    "http_request_duration_seconds_sum",
    "http_request_duration_seconds_count",
    "process_resident_memory_bytes",
)
PIECE = 64 * 1024


def page_of(series, *, openmetrics):
    """A page of so many series in all, of which the wanted are under a hundred."""
    counter = "http_requests" if openmetrics else "http_requests_total"
    lines = [f"# TYPE {counter} counter"]
    codes = (200, 201, 204, 301, 400, 404, 429, 500, 502, 503)
    lines += [f'http_requests_total{{code="{code}",job="web"}} {code * 17}' for code in codes]
    lines.append("# TYPE http_request_duration_seconds histogram")
    seen = 0
    for bound in (*(round(0.001 * 1.5**k, 6) for k in range(24)), "+Inf"):
        seen += 37
        lines.append(f'http_request_duration_seconds_bucket{{le="{bound}"}} {seen}')
    lines += [
        "http_request_duration_seconds_sum 123.5",
        f"http_request_duration_seconds_count {seen}",
        "# TYPE process_resident_memory_bytes gauge",
        "process_resident_memory_bytes 1.5e+08",
    ]
    left, family = series - 38, 0
    while left > 0:
        lines.append(f"# TYPE go_thing_{family} gauge")
        for k in range(min(50, left)):
            lines.append(f'go_thing_{family}{{instance="host-{k}",zone="eu-{k % 3}"}} {k}.25')
        family, left = family + 1, left - 50
    return ("\n".join([*lines, *(["# EOF"] if openmetrics else [])]) + "\n").encode()


def sift(page, *, openmetrics):
    """As the sensor does it."""
    sieve = Sieve(NAMES)
    for at in range(0, len(page), PIECE):
        sieve.feed(page[at : at + PIECE])
    return reduce(sieve.families(openmetrics=openmetrics))


def parse(page, *, openmetrics):
    """The whole page through prometheus_client's parser."""
    found = (parse_openmetrics if openmetrics else parse_text)(page.decode())
    return reduce(list(found))


def reduce(families):
    """Counts by sample name: the same of both."""
    counts = {}
    for family in families:
        if family.name.removesuffix("_total") in WANTED:
            for sample in family.samples:
                counts[sample.name] = counts.get(sample.name, 0.0) + sample.value
    return counts


def cpu_ms(job, repeats):
    """Median CPU milliseconds of a call, after one that does not count."""
    spent = []
    for _ in range(repeats + 1):
        began = time.process_time()
        job()
        spent.append(1e3 * (time.process_time() - began))
    return statistics.median(spent[1:])


def prometheus(series, repeats):
    """Rows of (form, ours, theirs) in CPU milliseconds."""
    rows = []
    for openmetrics in (False, True):
        page = page_of(series, openmetrics=openmetrics)
        assert sift(page, openmetrics=openmetrics) == parse(page, openmetrics=openmetrics)
        ours = cpu_ms(lambda p=page, o=openmetrics: sift(p, openmetrics=o), repeats)
        theirs = cpu_ms(lambda p=page, o=openmetrics: parse(p, openmetrics=o), repeats)
        rows.append(("OpenMetrics" if openmetrics else "text", len(page), ours, theirs))
    return rows


def send(address, pps, seconds):
    """gunicorn's packets, evenly in hundredths of a second; as many as were asked for."""
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.connect(address)
    packets = [
        b"gunicorn.request.duration:%.3f|ms",
        b"gunicorn.requests:1|c|@1.0",
        b"gunicorn.request.status.200:1|c|@1.0",
    ]
    began, sent = time.monotonic(), 0
    for slot in range(round(100 * seconds)):
        while sent < (slot + 1) * pps / 100:
            packet = packets[sent % 3]
            link.send(packet % (5 + sent % 90) if sent % 3 == 0 else packet)
            sent += 1
        pause = began + (slot + 1) / 100 - time.monotonic()
        if pause > 0:
            time.sleep(pause)


async def statsd(pps, seconds):
    """(packets sent, requests counted, packets lost, share of a CPU, worst read in ms)."""
    sensor = Statsd(Statsd.Options(listen="127.0.0.1:0"), "bench")
    await sensor.start()
    context = multiprocessing.get_context("spawn")
    sender = context.Process(target=send, args=(sensor.address, pps, seconds), daemon=True)
    sender.start()
    counted, lost, worst = 0.0, 0, 0.0
    began, cpu = None, 0.0
    silent = 0
    while silent < 3:
        await asyncio.sleep(1.0)
        at, used = time.monotonic(), time.process_time()
        readings = {r.signal: r for r in await sensor.read(time.monotonic_ns())}
        worst = max(worst, 1e3 * (time.process_time() - used))
        rate, timed = readings["throughput_rps"], readings["service_time_s"]
        if rate.status is Status.ERROR:
            lost += int(rate.detail.split()[0])
        if timed.sketch is not None and timed.sketch.count:
            counted += timed.sketch.count
            if began is None:
                began, cpu = at, time.process_time()
            ended, spent, silent = at, time.process_time() - cpu, 0
        elif began is not None:
            silent += 1
    sender.join()
    await sensor.close()
    return round(pps * seconds), counted, lost, spent / (ended - began), worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--pps", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    pages = prometheus(args.series, args.repeats)
    sent, counted, lost, share, worst = asyncio.run(statsd(args.pps, args.seconds))
    if args.json:
        found = {
            "prometheus": [
                dict(zip(("form", "bytes", "ours_ms", "client_ms"), row, strict=True))
                for row in pages
            ],
            "statsd": {"sent": sent, "counted": 3 * counted, "lost": lost, "cpu": share},
        }
        print(json.dumps(found, indent=1))
        return
    print(f"{args.series:,} series | page | poolwright | prometheus_client")
    for form, size, ours, theirs in pages:
        print(f"{form:12} | {size / 1e6:.2f} MB | {ours:5.1f} ms CPU | {theirs:6.1f} ms CPU")
    print(
        f"statsd: {sent:,} packets in {args.seconds:g} s, {3 * counted:,.0f} taken, {lost} lost, "
        f"{share:.1%} of one CPU, the longest read {worst:.1f} ms CPU"
    )


if __name__ == "__main__":
    main()
