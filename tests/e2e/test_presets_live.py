"""Every preset before its real server: five lines that `check --probe` takes, and that run."""

import contextlib

import pytest
from celery_service import CeleryService
from gunicorn_service import GunicornService
from haproxy_service import HaproxyService
from initialised import free_udp
from pgbouncer_service import PgBouncerService
from php_fpm_service import PhpFpmService
from running_daemon import Daemon, command_line
from uvicorn_service import UvicornService
from uwsgi_service import UwsgiService

from poolwright.policy.render import flow
from poolwright.sensors.access_log import gunicorn_flags

pytestmark = pytest.mark.e2e

MOST_MB = 48.0


@contextlib.contextmanager
def gunicorn(folder):
    requests = free_udp()
    with GunicornService(folder, workers=3, flags=gunicorn_flags(requests)) as made:
        yield {"pidfile": str(made.pidfile), "requests": requests}


@contextlib.contextmanager
def uvicorn(folder):
    log = folder / "nginx.log"
    log.touch()
    with UvicornService(folder, workers=3) as made:
        yield {"pidfile": str(made.pidfile), "access_log": str(log)}


@contextlib.contextmanager
def uwsgi(folder):
    with UwsgiService(folder, workers=3) as made:
        yield {"fifo": str(made.fifo), "stats": str(made.stats)}


@contextlib.contextmanager
def celery(folder):
    with CeleryService(folder, concurrency=3, flags=("-E",)) as made:
        yield {"broker": made.url, "node": made.node, "events": True}


@contextlib.contextmanager
def php_fpm(folder):
    with PhpFpmService(workers=3, unix=True) as made:
        yield {
            "config": str(made.config),
            "main_config": str(made.main_config),
            "pidfile": str(made.pidfile),
            "binary": made.binary,
            "status": f"unix:{made.status}",
            "access_log": str(made.access_log),
        }


@contextlib.contextmanager
def pgbouncer(folder):
    with PgBouncerService(default_pool_size=3) as made:
        yield {"address": made.address, "user": "boss"}


@contextlib.contextmanager
def haproxy(folder):
    with HaproxyService(folder / "h", servers=2, maxconn=3) as made:
        yield {"socket": str(made.admin), "backend": "app", "servers": ["s1", "s2"]}


SERVERS = (celery, gunicorn, haproxy, pgbouncer, php_fpm, uvicorn, uwsgi)


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.__name__)
def test_five_lines_run(tmp_path, server):
    with server(tmp_path) as options:
        kind = server.__name__
        pool = f"  - name: web\n    preset: {flow({'kind': kind, **options})}\n"
        short = tmp_path / "short.yaml"
        short.write_text(f"version: 1\npools:\n{pool}")
        assert len(short.read_text().splitlines()) <= 5
        probed = command_line("check", "--probe", short)
        assert probed.returncode == 0, probed.stdout + probed.stderr
        assert f"actuator {kind}: " in probed.stdout

        daemon = Daemon(tmp_path / "daemon", pool, "version: 1\nname: mine\nextends: balanced\n")
        try:
            daemon.start()
            seen = daemon.until(lambda s: s["tick"]["applied"], "its level is read")
            daemon.until(lambda s: s["decision"]["tick"] >= 20, "it goes on")
            assert daemon.status()["decision"]["phase"] != "manual"
            print(f"{kind}: control process {daemon.rss_mb():.1f} MB")
            assert daemon.rss_mb() < MOST_MB
            assert seen
            daemon.stop()
        finally:
            daemon.kill()
