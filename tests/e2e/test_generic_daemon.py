"""The whole daemon on a service that has no adapter of its own: a PHP-FPM behind an nginx, moved
through its file, seen through nginx's log, with a pool of Prometheus' own beside it.
"""

import asyncio
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from generic_services import Nginx, PhpFpm, Prometheus
from gunicorn_service import Load, until
from started import free_port

pytestmark = pytest.mark.e2e

POLICY = """\
version: 1
name: mine
mode: {mode}
knobs:
  workers: {{min: {low}, max: 16, slew: 4, settle: 1s}}
objective: {{latency_p99: 1.0}}
slo:
  error_ratio: {{below: 1%}}
explore: {{window: 4s, warmup: 2}}
exit: keep
cadence: 500ms
"""
CONFIG = """\
version: 1
listen: 127.0.0.1:{http}
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}/policies.d
pools:
  - name: php
    policy: mine
    actuator:
      kind: file
      path: {fpm.config}
      pattern: 'pm\\.max_children = (\\d+)'
      pidfile: {fpm.pidfile}
      signal: USR2
      get: [{fpm.get}]
    sensors:
      - {{kind: access_log, file: {log}, pattern: '^(?P<status>\\d+) (?P<seconds>\\S+)$'}}
      - {{kind: process_tree, pidfile: {fpm.pidfile}}}
      - {{kind: host}}
      - kind: promql
        url: http://127.0.0.1:{prometheus.port}
        queries: {{queue_length: "max(up) - 1"}}
        newest: max(timestamp(up))
"""
WITHIN_S = 60.0


class Stand:
    """The servers, the daemon, and what it says."""

    def __init__(self, folder):
        for name in ("fpm", "nginx", "prometheus", "policies.d"):
            (folder / name).mkdir()
        self.folder = folder
        self.fpm = PhpFpm(folder / "fpm")
        self.log = folder / "nginx" / "web.log"
        self.nginx = Nginx(
            folder / "nginx",
            f"access_log {self.log} mine;\n"
            f"location / {{ fastcgi_pass unix:{self.fpm.sock}; fastcgi_read_timeout 30s;\n"
            f"fastcgi_param SCRIPT_FILENAME {self.fpm.script};\n"
            "fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD GET; }",
            http="log_format mine '$status $upstream_response_time';",
        )
        self.prometheus = Prometheus(folder / "prometheus")
        self.http = free_port()
        (folder / "policies.d" / "mine.yaml").write_text(POLICY.format(mode="auto", low=4))
        self.config = folder / "poolwright.yaml"
        self.config.write_text(CONFIG.format(**vars(self)))
        self.daemon = None

    def start(self):
        for one in (self.fpm, self.nginx, self.prometheus):
            one.server.start()
        out = (self.folder / "daemon.log").open("w")
        argv = [sys.executable, "-m", "poolwright", "run", "--config", str(self.config)]
        with out:
            self.daemon = subprocess.Popen(argv, stdout=out, stderr=out)

    def stop(self):
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
        for one in (self.fpm, self.nginx, self.prometheus):
            one.server.kill()

    def said(self):
        assert self.daemon.poll() is None, (self.folder / "daemon.log").read_text()
        return (self.folder / "daemon.log").read_text()

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=5) as answer:
            return answer.read().decode()

    def sees_all(self):
        """Whether every sensor gives good readings, and of latency what clients really wait."""
        text = self.metrics()
        good = re.findall(
            r'^poolwright_sensor_success\{.*sensor="(\w+).*\} 1\.0$', text, re.MULTILINE
        )
        median = re.search(
            r'^poolwright_latency_seconds\{.*quantile="0.5"\} (\S+)$', text, re.MULTILINE
        )
        kinds = {"access_log", "host", "process_tree", "promql"}
        return kinds == set(good) and median is not None and 0.02 < float(median[1]) < 5.0

    def rss_mb(self):
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


@pytest.fixture
def stand(tmp_path):
    made = Stand(tmp_path)
    yield made
    made.stop()


async def test_the_daemon_moves_what_it_has_no_adapter_for(stand):
    stand.start()
    until(lambda: "ready:" in stand.said(), WITHIN_S, "the daemon is ready")
    async with Load(stand.nginx.port, "/?s=0.02", clients=6) as load:
        end = asyncio.get_running_loop().time() + WITHIN_S
        while stand.fpm.processes() != 4:  # the policy's lower bound
            assert asyncio.get_running_loop().time() < end, stand.said()
            await asyncio.sleep(0.1)
        while not stand.sees_all():
            assert asyncio.get_running_loop().time() < end, stand.metrics()
            await asyncio.sleep(0.2)
        rss_mb = stand.rss_mb()
    print(f"requests {load.outcomes}; RSS of the daemon {rss_mb:.1f} MB")
    assert not load.failed, load.outcomes
    assert "pm.max_children = 4 ; as the load needs\n" in stand.fpm.config.read_text()
    assert rss_mb < 48
