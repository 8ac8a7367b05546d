"""What poolwright.client costs the application that imports it.

CPU time a request with and without the middleware, side by side in turns, so that what else runs on
the machine meets both; CPU time of the executor against the stdlib's and of the limiter against
asyncio.Semaphore; import time and memory against the stdlib modules that an application has anyway;
and how long an application with busy threads takes to answer the daemon.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from poolwright.client import (
    AsgiMeter,
    ConcurrencyLimiter,
    Meter,
    ResizableThreadPoolExecutor,
    WsgiMeter,
    offer,
)

_ROUNDS = 30
_CALLS = 2_000
_PROXY = "HTTP_X_REQUEST_START"


def in_turns(ways):
    """name -> median CPU microseconds a call, of functions that make `_CALLS` calls each."""
    spent = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            began = time.process_time()
            way()
            spent[name].append((time.process_time() - began) / _CALLS * 1e6)
    return {name: statistics.median(each) for name, each in spent.items()}


def wsgi_ways():
    def listed(_environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    def streamed(_environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"o"
        yield b"k"

    def serving(app, start, calls=_CALLS):
        def serve():
            for _ in range(calls):
                environ = {"PATH_INFO": "/"}
                if start:
                    environ[_PROXY] = f"t={time.time():.6f}"
                body = app(environ, lambda *_: None)
                for _part in body:
                    pass
                if hasattr(body, "close"):
                    body.close()

        return serve

    def at_once(app):
        """The same number of calls, from 8 threads."""
        few = serving(app, True, _CALLS // 8)

        def serve():
            threads = [threading.Thread(target=few) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return serve

    meter = Meter()
    return {
        "WSGI, a list": (serving(listed, False), serving(WsgiMeter(listed, meter), False)),
        "WSGI, a list, with X-Request-Start": (
            serving(listed, True),
            serving(WsgiMeter(listed, meter), True),
        ),
        "WSGI, a list, with X-Request-Start, 8 threads": (
            at_once(listed),
            at_once(WsgiMeter(listed, meter)),
        ),
        "WSGI, a generator, with X-Request-Start": (
            serving(streamed, True),
            serving(WsgiMeter(streamed, meter), True),
        ),
    }


def asgi_ways():
    async def plain(_scope, _receive, send):
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    async def send(_message):
        pass

    loop = asyncio.new_event_loop()

    def serving(app):
        async def serve():
            for _ in range(_CALLS):
                headers = [(b"host", b"t"), (b"user-agent", b"x"), (b"accept", b"*/*")]
                headers.append((b"x-request-start", b"t=%f" % time.time()))
                await app({"type": "http", "headers": headers}, None, send)

        return lambda: loop.run_until_complete(serve())

    return {"ASGI, with X-Request-Start": (serving(plain), serving(AsgiMeter(plain, Meter())))}


def pool_ways():
    def using(pool):
        def use():
            for future in [pool.submit(abs, -1) for _ in range(_CALLS)]:
                future.result()

        return use

    loop = asyncio.new_event_loop()

    def entering(gate):
        async def enter():
            for _ in range(_CALLS):
                async with gate:
                    pass

        return lambda: loop.run_until_complete(enter())

    return {
        "a task of the executor, stdlib's before": (
            using(ThreadPoolExecutor(4)),
            using(ResizableThreadPoolExecutor(4)),
        ),
        "a turn of the limiter, asyncio.Semaphore's before": (
            entering(asyncio.Semaphore(4)),
            entering(ConcurrencyLimiter(4)),
        ),
    }


_FRESH = """
import json, os, sys, time
import {before}
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
was, began = rss(), time.perf_counter()
{after}
print(json.dumps([(time.perf_counter() - began) * 1e3, (rss() - was) / 1e6]))
"""


def imported(before, after):
    """(milliseconds, MB) of `after` in a fresh interpreter that has imported `before`; medians."""
    seen = []
    for _ in range(9):
        run = subprocess.run(
            [sys.executable, "-c", _FRESH.format(before=before, after=after)],
            capture_output=True,
            text=True,
            check=True,
        )
        seen.append(json.loads(run.stdout))
    return tuple(statistics.median(column) for column in zip(*seen, strict=True))


def answers(busy):
    """Milliseconds of 40 exchanges with this process while `busy` threads compute: median, most.

    Also the CPU time that an exchange costs this process (both ends of it) when nothing else runs.
    """
    with tempfile.TemporaryDirectory(prefix="pw", dir="/tmp") as home:
        folder = f"{home}/o"
        pool, meter, stop = ResizableThreadPoolExecutor(4), Meter(), threading.Event()
        app = WsgiMeter(lambda _, start: start("200 OK", []) or [b"x"], meter)
        for i in range(2000):  # so that there are distributions to tell
            app({_PROXY: f"t={time.time() - 0.001 * (i % 700):.6f}"}, lambda *_: None)
        made = offer(folder, pool=pool, meter=meter)
        while not list(Path(home).glob("o/*.sock")):
            time.sleep(0.01)
        code = (
            "import asyncio, sys, time, json\n"
            "from poolwright.client.reach import Reach\n"
            "async def main():\n"
            "    reach, took, cpu = Reach(sys.argv[1]), [], time.process_time()\n"
            "    for _ in range(40):\n"
            "        began = time.perf_counter()\n"
            "        await reach.ask(10, counts=True)\n"
            "        took.append((time.perf_counter() - began) * 1e3)\n"
            "    print(json.dumps([took, (time.process_time() - cpu) / 40 * 1e3]))\n"
            "asyncio.run(main())\n"
        )

        def compute():
            while not stop.is_set():
                sum(i * i for i in range(1000))

        threads = [threading.Thread(target=compute, daemon=True) for _ in range(busy)]
        for thread in threads:
            thread.start()
        began = time.process_time()
        # The daemon's end is another process, and finds a core of its own.
        run = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
        )
        own = (time.process_time() - began) / 40 * 1e3
        stop.set()
        made.close()
        pool.shutdown()
        took, theirs = json.loads(run.stdout)
        return statistics.median(took), max(took), own, theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 8, 32])
    asked = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("\nCPU microseconds a call           without   with   more")
    for group in (wsgi_ways, asgi_ways, pool_ways):
        for name, (without, with_) in group().items():
            found = in_turns({"without": without, "with": with_})
            more = found["with"] - found["without"]
            print(f"{name:50} {found['without']:6.2f} {found['with']:6.2f} {more:6.2f}")
    print("\nimported                                             ms     MB")
    whole = "from poolwright.client import *"
    for before, after in (
        ("sys", "import concurrent.futures.thread, json, socket"),
        ("sys", whole.replace("*", "Meter, ResizableThreadPoolExecutor, WsgiMeter, offer")),
        ("concurrent.futures, json, socket", "from poolwright.client import Meter, WsgiMeter"),
        ("asyncio, concurrent.futures.thread, json", whole),
    ):
        took, size = imported(before, after)
        print(f"after {before}: {after}\n{'':50} {took:6.1f} {size:6.2f}")
    print("\nthe daemon asks: ms, median and most; CPU ms in the application and the daemon")
    for busy in asked.busy:
        mid, most, own, theirs = answers(busy)
        cost = f"{own:.2f} {theirs:.2f}" if not busy else "-"
        print(f"{busy:3} busy threads  {mid:8.2f} {most:8.2f}   {cost}")
    rss = psutil.Process().memory_info().rss / 1e6
    with contextlib.suppress(BrokenPipeError):
        print(f"\nthis bench itself: {rss:.0f} MB")


if __name__ == "__main__":
    main()
