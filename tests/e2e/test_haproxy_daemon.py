"""The whole daemon on a real HAProxy: it sees the queue, and lets more connections through."""

import asyncio
import contextlib
import functools

import pytest
from gunicorn_service import Load, until
from haproxy_service import HaproxyService
from running_daemon import Daemon
from started import free_port

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
POOL = """\
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
    """HAProxy and a daemon beside it, with SHORT in its policy."""
    log, agent = free_port(), f"127.0.0.1:{free_port()}"
    with HaproxyService(
        tmp_path / "haproxy",
        agent=agent if way == "agent" else None,
        frontend=LOG.format(port=log),
        **service,
    ) as haproxy:
        (tmp_path / "app.pid").write_text(str(haproxy.app.pid))
        page = f'url: "{haproxy.url}"'
        ways = {
            "socket": (f"socket: {haproxy.admin}", f"socket: {haproxy.user}"),
            "agent": (f'agent: "{agent}", {page}', page),
        }
        mine, sight = ways[way]
        pool = POOL.format(folder=tmp_path, way=mine, sight=sight, log=log)
        policy = functools.reduce(lambda text, pair: text.replace(*pair), short or (), POLICY)
        daemon = Daemon(tmp_path / "daemon", pool, policy)
        await asyncio.to_thread(daemon.start)
        try:
            yield haproxy, daemon
            await asyncio.to_thread(daemon.stop)
        finally:
            await asyncio.to_thread(daemon.kill)
        assert haproxy.limit() > 2  # exit: keep


@pytest.mark.parametrize("way", ["socket", "agent"])
async def test_a_queue_in_haproxy_makes_the_daemon_let_more_through(tmp_path, way):
    async with tuned(tmp_path, way) as (service, daemon):
        await grows(service, daemon)
    with JournalReader(daemon.journal) as journal:
        assert journal.runs()


async def test_from_far_too_few_connections_it_converges_on_enough_of_them(tmp_path):
    async with (
        tuned(tmp_path, short=SHORT.items(), maxconn=1) as (service, daemon),
        Load(service.port, "/sleep?s=0.05", clients=8) as load,
    ):
        converged = (lambda now: now["decision"]["phase"] == "converged", "it has converged")
        await asyncio.to_thread(daemon.until, *converged)
        assert service.limit() >= 7, daemon.log.read_text()
    assert not load.failed, load.outcomes
    assert load.outcomes["ok"] > 100


async def grows(service, daemon):
    """Load for which 2 connections are too few, until more are let through."""
    async with Load(service.port, "/sleep?s=0.05", clients=24) as load:
        wide = functools.partial(until, lambda: service.limit() >= 8, 60.0, "more go through")
        await asyncio.to_thread(wide)
        rss_mb = daemon.rss_mb()
    assert not load.failed, load.outcomes
    assert load.outcomes["ok"] > 100
    assert rss_mb < 48
