"""The whole daemon, in mode auto, on pools that are too small: of a PgBouncer, of a php-fpm."""

import asyncio
import json
import threading
import time
from collections import Counter

import pg8000.native
import pytest
from gunicorn_service import Load, until
from pgbouncer_service import PgBouncerService
from php_fpm_service import PhpFpmService
from prometheus_client import CollectorRegistry, Histogram, start_http_server
from running_daemon import Daemon
from started import free_port

pytestmark = pytest.mark.e2e

_POLICY = """\
version: 1
name: mine
mode: auto
knobs:
  {knob}: {{min: 2, max: 12, slew: 4, settle: 1s}}
objective: {{latency_p99: 1.0}}
explore: {{window: 4s, warmup: 2}}
cadence: 200ms
"""
_POOL = """\
  - name: mine
    policy: mine
    actuator: {actuator}
    sensors:
"""
_WITHIN_S = 60.0


@pytest.fixture
def daemon(tmp_path):
    """Starts `poolwright run`; gives what the API says of its pool."""
    started = []

    def start(knob, actuator, sensors):
        listed = "".join(f"      - {json.dumps(one)}\n" for one in [*sensors, {"kind": "host"}])
        pool = _POOL.format(actuator=json.dumps(actuator)) + listed
        made = Daemon(tmp_path / "daemon", pool, _POLICY.format(knob=knob))
        started.append(made)
        return made.start().status

    yield start
    for daemon in started:
        print(daemon.log.read_text())
        daemon.stop()


class Application:
    """Threads that run transactions, and tell Prometheus how long each took."""

    def __init__(self, service, clients):
        registry = CollectorRegistry()
        self.outcomes = Counter()
        self._took = Histogram(
            "transaction_seconds", "of an application", registry=registry,
            buckets=[0.01 * 1.3**n for n in range(20)],
        )  # fmt: skip
        self.port = free_port()
        self._server, self._serving = start_http_server(self.port, "127.0.0.1", registry)
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._server.shutdown()
        self._server.server_close()
        self._serving.join()

    def _client(self):
        link = pg8000.native.Connection(
            "postgres", unix_sock=str(self._service.socket), database="bench", ssl_context=False
        )
        while not self._stop.is_set():
            began = time.perf_counter()
            try:
                link.run("select pg_sleep(0.03)")
                self.outcomes["ok"] += 1
            except (pg8000.native.Error, OSError) as error:
                self.outcomes[repr(error)] += 1
            self._took.observe(time.perf_counter() - began)
        link.close()


def test_a_pool_of_pgbouncer_that_clients_wait_for_grows_and_no_transaction_fails(daemon):
    with PgBouncerService(default_pool_size=2) as service, Application(service, 10) as clients:
        console = {"address": service.address, "user": "boss"}
        status = daemon(
            "pool_size",
            {"kind": "pgbouncer", **console},
            [
                {"kind": "pgbouncer", **console},
                {
                    "kind": "prometheus",
                    "url": f"http://127.0.0.1:{clients.port}/metrics",
                    "signals": {"latency": {"histogram": "transaction_seconds"}},
                },
                {
                    "kind": "process_tree",
                    "pidfile": str(service.postgres.folder / "data" / "postmaster.pid"),
                },
            ],
        )
        until(lambda: service.size >= 6, _WITHIN_S, "the pool has grown")
        assert status()["decision"]["phase"] != "manual"
        before = clients.outcomes["ok"]
        until(lambda: clients.outcomes["ok"] > before + 200, 20.0, "more are served")
    assert set(clients.outcomes) == {"ok"}


async def test_a_pool_of_php_fpm_that_clients_wait_for_grows_and_no_request_fails(daemon):
    with PhpFpmService(workers=2) as service:
        files = {"config": service.config, "main_config": service.main_config}
        status = daemon(
            "workers",
            {
                "kind": "php_fpm",
                "binary": service.binary,
                "pidfile": str(service.pidfile),
                **{key: str(path) for key, path in files.items()},
            },
            [
                {"kind": "access_log", "file": str(service.access_log), "format": "nginx"},
                {"kind": "php_fpm", "listen": f"unix:{service.status}"},
                {"kind": "listen_queue", "listen": [service.listen]},
                {"kind": "process_tree", "pidfile": str(service.pidfile)},
            ],
        )
        async with Load(service.http_port, "/sleep?s=0.05", clients=10) as load:
            grown = (lambda: len(service.workers()) >= 5, _WITHIN_S, "the pool has grown")
            await asyncio.to_thread(until, *grown)
            assert (await asyncio.to_thread(status))["decision"]["phase"] != "manual"
        assert not load.failed, load.outcomes
        assert load.outcomes["ok"] > 100
