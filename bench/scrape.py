"""What a scrape costs the daemon: bytes, and CPU of the control process, of 10 pools (`--pools`).

The daemon of `overhead.py` is asked for /metrics `--scrapes` times in each format, as Prometheus
does (gzip is not offered); its CPU time over them, less what it uses without, is divided by them.
"""

import argparse
import json
import tempfile
import time
import urllib.request

import psutil

import overhead

FORMATS = {
    "text": "text/plain;version=0.0.4",
    "openmetrics": "application/openmetrics-text;version=1.0.0",
}


def scrape(http, accept):
    """(bytes, samples) of one answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{http}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        body = answer.read()
    return len(body), sum(not line.startswith(b"#") for line in body.splitlines())


def cpu_s(process):
    times = process.cpu_times()
    return times.user + times.system


def cost(process, http, accept, scrapes):
    """CPU of a scrape in ms: with scrapes, less as long without."""
    began, before = time.monotonic(), cpu_s(process)
    for _ in range(scrapes):
        size, samples = scrape(http, accept)
    span, busy = time.monotonic() - began, cpu_s(process) - before
    before = cpu_s(process)
    time.sleep(max(10.0, span))
    idle = (cpu_s(process) - before) / max(10.0, span) * span
    return {
        "bytes": size,
        "samples": samples,
        "cpu_ms": round(1000.0 * (busy - idle) / scrapes, 2),
        "wall_ms": round(1000.0 * span / scrapes, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--scrapes", type=int, default=200)
    parser.add_argument("--rps", type=float, default=50.0, help="requests a second to each pool")
    parser.add_argument("--wait", type=float, default=180.0, help="most seconds until all is quiet")
    args = parser.parse_args()
    for pools in args.pools:
        with (
            tempfile.TemporaryDirectory(prefix="poolwright-bench-") as folder,
            overhead.running(folder, pools, args.rps) as (daemon, http),
        ):
            quiet = overhead.asleep(http, args.wait)
            process = psutil.Process(daemon.pid)
            row = {"pools": pools, "learner_asleep": quiet}
            for name, accept in FORMATS.items():
                row[name] = cost(process, http, accept, args.scrapes)
            row["rss_mb"] = round(process.memory_info().rss / 2**20, 1)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
