"""The whole daemon over a Python application: it keeps to its bounds, survives, and stays small."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.request

import psutil
import pytest
from client_service import WsgiService, die_with_parent
from gunicorn_service import Load, until

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
_CONFIG = """\
version: 1
listen: 127.0.0.1:{http}
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}/policies.d
pools:
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


class Daemon:
    def __init__(self, folder, service):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.http = probe.getsockname()[1]
        (folder / "policies.d").mkdir(parents=True)
        (folder / "policies.d" / "mine.yaml").write_text(_POLICY)
        self.config = folder / "poolwright.yaml"
        self.config.write_text(
            _CONFIG.format(
                http=self.http, folder=folder, offer=service.offer, pidfile=service.pidfile
            )
        )
        self.log = folder / "log"
        self.process = None

    def start(self):
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "poolwright", "run", "--config", str(self.config)],
                stderr=out,
                stdout=out,
                preexec_fn=die_with_parent,  # noqa: PLW1509  one prctl(2)
            )
        until(lambda: self.status() is not None, 30.0, "the daemon tells its status")

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def status(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            url = f"http://127.0.0.1:{self.http}/api/v1/status"
            with urllib.request.urlopen(url, timeout=5) as answer:
                pools = json.load(answer)["pools"]
        except OSError:
            return None
        return pools[0] if pools else None


@pytest.fixture
def service():
    with WsgiService(workers=2, limit=2) as made:
        yield made


@pytest.fixture
def daemon(tmp_path, service):
    made = Daemon(tmp_path / "daemon", service)
    yield made
    made.kill()


async def test_a_daemon_and_its_application_die_and_come_back(daemon, service):
    assert service.total() == 4
    async with Load(service.port, "/sleep?s=0.02", clients=6) as load:
        await asyncio.to_thread(daemon.start)
        await poll(lambda: service.total() >= 6, 30.0, "it moves into its bounds")
        rss_mb = psutil.Process(daemon.process.pid).memory_info().rss / 2**20
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
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(15) == 0
