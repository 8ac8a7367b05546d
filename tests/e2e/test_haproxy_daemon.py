"""The whole daemon on a real HAProxy: it sees the queue, and lets more connections through."""

import asyncio
import contextlib
import functools
import json
import sys

import psutil
import pytest
from gunicorn_service import Load, http_get, until
from haproxy_service import HaproxyService
from started import Started, answers, free_port

from poolwright.journal.query import JournalReader

pytestmark = pytest.mark.e2e

POLICY = """\
version: 1
name: mine
mode: auto
knobs:
  maxconn: {min: 1, max: 32, slew: 8, settle: 1s}
objective: {latency_p99: 1.0}
slo:
  error_ratio: {below: 1%}
explore: {window: 4s, warmup: 2}
cadence: 200ms
"""
CONFIG = """\
version: 1
listen: 127.0.0.1:{http}
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}/policies.d
pools:
  - name: app
    policy: mine
    actuator: {{kind: haproxy, backend: app, servers: [s1], {way}}}
    sensors:
      - {{kind: haproxy, backend: app, {sight}}}
      - {{kind: access_log, listen: "127.0.0.1:{log}"}}
      - {{kind: process_tree, pidfile: {folder}/app.pid}}
      - {{kind: host}}
"""
LOG = (
    "log 127.0.0.1:{port} format raw local0\n"
    "  http-request set-var(txn.t) date(0,us)\n"
    '  log-format "<14>gunicorn.h.access: [%pid] poolwright %ST '
    '%Tr%[str(000)] %[var(txn.t)]"'
)


SHORT = {  # of a policy for minutes one for seconds, in which too few requests end to tell 1 %
    "error_ratio: {below: 1%}": "error_ratio: {below: 10%}",
    "max: 32": "max: 16",
    "settle: 1s": "settle: 300ms",
    "window: 4s, warmup: 2": "window: 1s, warmup: 2, patience: 2, epsilon: 5%, "
    "probes_per_hour: 3600, budget: 100%",
}


@contextlib.asynccontextmanager
async def tuned(tmp_path, way="socket", short=None, **service):
    """HAProxy and a daemon beside it, with SHORT in its policy: both, and what tells its phase."""
    http, log, agent = free_port(), free_port(), f"127.0.0.1:{free_port()}"
    with HaproxyService(
        tmp_path / "haproxy",
        agent=agent if way == "agent" else None,
        frontend=LOG.format(port=log),
        **service,
    ) as haproxy:
        (tmp_path / "policies.d").mkdir()
        policy = functools.reduce(lambda text, pair: text.replace(*pair), short or (), POLICY)
        (tmp_path / "policies.d" / "mine.yaml").write_text(policy)
        (tmp_path / "app.pid").write_text(str(haproxy.app.pid))
        page = f'url: "{haproxy.url}"'
        ways = {
            "socket": (f"socket: {haproxy.admin}", f"socket: {haproxy.user}"),
            "agent": (f'agent: "{agent}", {page}', page),
        }
        mine, sight = ways[way]
        config = tmp_path / "poolwright.yaml"
        config.write_text(CONFIG.format(http=http, folder=tmp_path, way=mine, sight=sight, log=log))
        argv = [sys.executable, "-m", "poolwright", "run", "--config", str(config)]
        daemon = Started(argv, tmp_path, lambda: answers(http))
        await asyncio.to_thread(daemon.start)

        def phase():
            status, body = http_get(http, "/api/v1/status")
            return json.loads(body)["pools"][0]["decision"]["phase"] if status == 200 else None

        try:
            yield haproxy, daemon, phase
        finally:
            await asyncio.to_thread(daemon.stop)
        assert daemon.process.returncode == 0, daemon.log.read_text()
        assert haproxy.limit() > 2  # exit: keep


@pytest.mark.parametrize("way", ["socket", "agent"])
async def test_a_queue_in_haproxy_makes_the_daemon_let_more_through(tmp_path, way):
    async with tuned(tmp_path, way) as (service, daemon, _):
        await grows(service, daemon)
    with JournalReader(tmp_path / "journal.db") as journal:
        assert journal.runs()


async def test_from_far_too_few_connections_it_converges_on_enough_of_them(tmp_path):
    async with (
        tuned(tmp_path, short=SHORT.items(), maxconn=1) as (service, daemon, phase),
        Load(service.port, "/sleep?s=0.05", clients=8) as load,
    ):
        done = (lambda: phase() == "converged", 60.0, "the daemon has converged")
        await asyncio.to_thread(until, *done)
        assert service.limit() >= 7, daemon.log.read_text()
    assert not load.failed, load.outcomes
    assert load.outcomes["ok"] > 100


async def grows(service, daemon):
    """Load for which 2 connections are too few, until more are let through."""
    async with Load(service.port, "/sleep?s=0.05", clients=24) as load:
        wide = functools.partial(until, lambda: service.limit() >= 8, 60.0, "more go through")
        await asyncio.to_thread(wide)
        memory = psutil.Process(daemon.pid).memory_info().rss
    assert not load.failed, load.outcomes
    assert load.outcomes["ok"] > 100
    assert memory < 48e6
