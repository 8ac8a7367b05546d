"""The whole daemon over a Python application: it keeps to its bounds, survives, and stays small."""

import asyncio

import pytest
from client_service import WsgiService
from gunicorn_service import Load, until
from running_daemon import Daemon

pytestmark = pytest.mark.e2e

_POLICY = """\
version: 1
name: mine
mode: auto
knobs:
  workers: {min: 6, max: 24, slew: 4, settle: 1s}
objective: {latency_p99: 1.0, memory: 0.2}
slo:
  error_ratio: {below: 1%}
explore: {window: 4s, warmup: 2}
cadence: 500ms
"""
_POOL = """\
  - name: web
    policy: mine
    actuator: {{kind: python, folder: {offer}}}
    sensors:
      - {{kind: python, folder: {offer}, count: requests}}
      - {{kind: process_tree, pidfile: {pidfile}}}
      - {{kind: host}}
"""
_MOST_MB = 48.0


async def poll(*what):
    """`until`, while clients go on."""
    await asyncio.to_thread(until, *what)


@pytest.fixture
def service():
    with WsgiService(workers=2, limit=2) as made:
        yield made


@pytest.fixture
def daemon(tmp_path, service):
    pool = _POOL.format(offer=service.offer, pidfile=service.pidfile)
    made = Daemon(tmp_path / "daemon", pool, _POLICY)
    yield made
    made.kill()


async def test_a_daemon_and_its_application_die_and_come_back(daemon, service):
    assert service.total() == 4
    async with Load(service.port, "/sleep?s=0.02", clients=6) as load:
        await asyncio.to_thread(daemon.start)
        await poll(lambda: service.total() >= 6, 30.0, "it moves into its bounds")
        rss_mb = daemon.rss_mb()
        assert rss_mb < _MOST_MB, rss_mb
        daemon.kill()
        held = service.total()
        await asyncio.to_thread(daemon.start)
        await poll(lambda: daemon.status()["decision"]["tick"] > 4, 30.0, "the new one decides")
        assert service.total() >= 6
        assert held >= 6
    assert set(load.outcomes) == {"ok"}, load.outcomes
    assert "another hand" not in daemon.log.read_text()
    service.kill()
    await poll(
        lambda: daemon.status()["decision"]["reason"] == "read_back_failed",
        20.0,
        "it tells that nobody is there",
    )
    await asyncio.to_thread(service.start)  # at its own default, 2 each
    await poll(lambda: service.total() >= 6, 60.0, "and is moved into the bounds again")
    print(f"control process {rss_mb:.1f} MB")
    daemon.stop()
