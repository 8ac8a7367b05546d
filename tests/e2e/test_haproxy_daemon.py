"""The whole daemon on a real HAProxy: it sees the queue, and lets more connections through."""

import asyncio
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
    '%[date(0,us),sub(txn.t)] %[var(txn.t)]"'
)


@pytest.mark.parametrize("way", ["socket", "agent"])
async def test_a_queue_in_haproxy_makes_the_daemon_let_more_through(tmp_path, way):
    log, agent = free_port(), f"127.0.0.1:{free_port()}"
    with HaproxyService(
        tmp_path / "haproxy",
        agent=agent if way == "agent" else None,
        frontend=LOG.format(port=log),
    ) as service:
        (tmp_path / "app.pid").write_text(str(service.app.pid))
        page = f'url: "{service.url}"'
        ways = {
            "socket": (f"socket: {service.admin}", f"socket: {service.user}"),
            "agent": (f'agent: "{agent}", {page}', page),
        }
        mine, sight = ways[way]
        pool = POOL.format(folder=tmp_path, way=mine, sight=sight, log=log)
        daemon = Daemon(tmp_path / "daemon", pool, POLICY)
        await asyncio.to_thread(daemon.start)
        try:
            await grows(service, daemon)
            await asyncio.to_thread(daemon.stop)
        finally:
            await asyncio.to_thread(daemon.kill)
        assert service.limit() > 2  # exit: keep
        with JournalReader(daemon.journal) as journal:
            assert journal.runs()


async def grows(service, daemon):
    """Load for which 2 connections are too few, until more are let through."""
    async with Load(service.port, "/sleep?s=0.05", clients=24) as load:
        wide = functools.partial(until, lambda: service.limit() >= 8, 60.0, "more go through")
        await asyncio.to_thread(wide)
        rss_mb = daemon.rss_mb()
    assert not load.failed, load.outcomes
    assert load.outcomes["ok"] > 100
    assert rss_mb < 48
