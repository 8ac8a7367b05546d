"""The whole daemon on a service that has no adapter of its own: a PHP-FPM behind an nginx, moved
through its file, seen through nginx's log, with a pool of Prometheus' own beside it.
"""

import asyncio
import re

import pytest
from generic_services import Nginx, PhpFpm, Prometheus
from gunicorn_service import Load
from running_daemon import WITHIN_S, Daemon

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
POOL = """\
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


class Stand:
    """The servers, the daemon, and what it says."""

    def __init__(self, folder):
        for name in ("fpm", "nginx", "prometheus"):
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
        policy = POLICY.format(mode="auto", low=4)
        self.daemon = Daemon(folder / "daemon", POOL.format(**vars(self)), policy)

    def start(self):
        for one in (self.fpm, self.nginx, self.prometheus):
            one.server.start()
        self.daemon.start()

    def stop(self):
        self.daemon.kill()
        for one in (self.fpm, self.nginx, self.prometheus):
            one.server.kill()

    def sees_all(self):
        """Whether every sensor gives good readings, and of latency what clients really wait."""
        text = self.daemon.get("/metrics")
        good = re.findall(
            r'^poolwright_sensor_success\{.*sensor="(\w+).*\} 1\.0$', text, re.MULTILINE
        )
        median = re.search(
            r'^poolwright_latency_seconds\{.*quantile="0.5"\} (\S+)$', text, re.MULTILINE
        )
        kinds = {"access_log", "host", "process_tree", "promql"}
        return kinds == set(good) and median is not None and 0.02 < float(median[1]) < 5.0


@pytest.fixture
def stand(tmp_path):
    made = Stand(tmp_path)
    yield made
    made.stop()


async def test_the_daemon_moves_what_it_has_no_adapter_for(stand):
    await asyncio.to_thread(stand.start)
    async with Load(stand.nginx.port, "/?s=0.02", clients=6) as load:
        end = asyncio.get_running_loop().time() + WITHIN_S
        while stand.fpm.processes() != 4:  # the policy's lower bound
            assert asyncio.get_running_loop().time() < end, stand.daemon.log.read_text()
            await asyncio.sleep(0.1)
        while not stand.sees_all():
            assert asyncio.get_running_loop().time() < end, stand.daemon.get("/metrics")
            await asyncio.sleep(0.2)
        rss_mb = stand.daemon.rss_mb()
    print(f"requests {load.outcomes}; RSS of the daemon {rss_mb:.1f} MB")
    assert not load.failed, load.outcomes
    assert "pm.max_children = 4 ; as the load needs\n" in stand.fpm.config.read_text()
    assert rss_mb < 48
