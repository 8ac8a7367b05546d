"""Open-loop clients of what does not speak HTTP: transactions through PgBouncer, tasks of Celery.

    python bench/converge/clients.py sql:/tmp/folder/.s.PGSQL.6432 --rps 50 --seconds 20
    python bench/converge/clients.py redis://127.0.0.1:6379/0 --rps 40 --seconds 20

They are the demo's load generator with another way to ask: the same arrivals, the same reports,
latency from the moment at which a request was intended. With --tell PORT the latencies are also a
Prometheus histogram, as an application would have it.
"""

import argparse
import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pg8000.native
import redis.asyncio
from celery import Celery
from prometheus_client import Histogram, start_http_server

from poolwright.demo.loadgen import Generator, Load

DONE = "converge:done"  # the list in redis to which a task adds its number when it has ended
_CLIENTS = 900  # connections to PgBouncer; what is more than that waits in the application
_TIMEOUT_S = 60.0


class Client(Generator):
    """A generator whose requests are made by `ask(number)`; what it raises is a request lost."""

    def __init__(self, load, emit, tell):
        super().__init__(load, emit)
        self._felt = None
        if tell:
            steps = [0.01 * 1.15**n for n in range(55)]
            self._felt = Histogram("transaction_seconds", "as clients felt it", buckets=steps)
            start_http_server(tell, "127.0.0.1")

    async def _send(self, number, due):
        kind = ""
        self._was_sent(due)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self.ask(number)
        except Exception as error:  # noqa: BLE001  whatever it is, this request is lost
            kind = type(error).__name__
            self._failed(kind)
            print(f"{number}: {error!r}", file=sys.stderr)
        self._in_flight -= 1
        latency = max(0.0, self._elapsed() - due)
        for tally in (self._second, self._all):
            tally.completed += not kind
            tally.latency.add(latency)
        if self._felt is not None:
            self._felt.observe(latency)


class Transactions(Client):
    """Each on a connection of its own meanwhile, as an application's pool of them has it."""

    def __init__(self, load, emit, tell, socket):
        super().__init__(load, emit, tell)
        self._socket = socket
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(_CLIENTS)

    async def ask(self, number):
        await asyncio.get_running_loop().run_in_executor(self._threads, self._run, number)

    def _run(self, number):
        if not hasattr(self._own, "link"):
            self._own.link = pg8000.native.Connection(
                "postgres", unix_sock=self._socket, database="bench", ssl_context=False
            )
        self._own.link.run(f"select work({number})")


class Tasks(Client):
    """Each is put into the queue, and is done when it has said so itself."""

    def __init__(self, load, emit, tell, broker):
        super().__init__(load, emit, tell)
        self._app = Celery(broker=broker)
        self._app.conf.task_send_sent_event = True
        self._app.conf.task_ignore_result = True
        self._redis = redis.asyncio.from_url(broker)
        self._sender = ThreadPoolExecutor(1)
        self._waiting = {}

    async def run(self, alive):
        listening = asyncio.create_task(self._listen())
        try:
            return await super().run(alive)
        finally:
            listening.cancel()
            await asyncio.wait((listening,))
            await self._redis.aclose()

    async def ask(self, number):
        loop = asyncio.get_running_loop()
        self._waiting[number] = ended = loop.create_future()
        await loop.run_in_executor(self._sender, self._app.send_task, "work", (number,))
        await ended

    async def _listen(self):
        while True:
            found = await self._redis.brpop([DONE], timeout=1)
            ended = self._waiting.pop(int(found[1]), None) if found else None
            if ended is not None and not ended.done():
                ended.set_result(None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("to")
    parser.add_argument("--rps", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tell", type=int, default=0)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="end when it dies")
    args = parser.parse_args()
    load = Load(host="", port=0, rps=args.rps, seconds=args.seconds, seed=args.seed)
    encoder = msgspec.json.Encoder()

    def emit(report):
        sys.stdout.buffer.write(encoder.encode(report) + b"\n")
        sys.stdout.buffer.flush()

    kind, _, place = args.to.partition(":")
    client = (
        Transactions(load, emit, args.tell, place)
        if kind == "sql"
        else Tasks(load, emit, args.tell, args.to)
    )
    asyncio.run(client.run(lambda: os.getppid() == args.parent))


if __name__ == "__main__":
    main()
