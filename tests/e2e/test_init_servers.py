"""`poolwright init` before real servers: `check --probe` finds right what it writes, and the
server is as it was.
"""

import re

import pytest
from celery_service import CeleryService
from haproxy_service import HaproxyService
from initialised import free_udp, init, poolwright
from pgbouncer_service import PgBouncerService
from php_fpm_service import PhpFpmService
from uvicorn_service import UvicornService
from uwsgi_service import UwsgiService

from poolwright.sensors.uwsgi import access_log_flags

pytestmark = pytest.mark.e2e


def accepted(pid, out, *words):
    """The output of an init that wrote what `check --probe` takes; a second one refuses."""
    done = init(pid, out, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    probed = poolwright("check", "--probe", out / "poolwright.yaml")
    assert probed.returncode == 0, probed.stdout + probed.stderr
    assert probed.stderr == ""
    again = init(pid, out, *words)
    assert (again.returncode, again.stdout.count("wrote")) == (2, 0)
    assert "nothing was written" in again.stderr
    policies = [path.read_text() for path in (out / "policies.d").iterdir()]
    assert all("mode: recommend" in policy for policy in policies)
    return done.stdout, "\n".join(policies)


def bounds(policy):
    return tuple(map(int, re.search(r"\{min: (\d+), max: (\d+)", policy).groups()))


def test_uwsgi(tmp_path):
    with UwsgiService(tmp_path, workers=2, most=4, flags=("--threads", "2")) as service:
        said, policy = accepted(service.pid, tmp_path / "etc")
        assert bounds(policy) == (2, 4)
        assert "uWSGI's --processes = 4" in policy
        assert "latency_p99" not in policy
        assert "--req-logger socket:127.0.0.1:" in said
        assert "only growing is done" in said
        assert service.kept() == 2


def test_uwsgi_that_reports_its_requests(tmp_path):
    listen = free_udp()
    with UwsgiService(
        tmp_path, flags=("--plugin", "logsocket", *access_log_flags(listen))
    ) as service:
        _, policy = accepted(service.pid, tmp_path / "etc")
        assert "latency_p99: {below: 250ms" in policy
        assert f'requests: "{listen}"' in (tmp_path / "etc/poolwright.yaml").read_text()


def test_php_fpm_behind_nginx(tmp_path):
    with PhpFpmService(workers=2, unix=True) as service:
        before = service.config.read_bytes(), service.workers()
        log = ("--access-log", service.access_log)
        said, policy = accepted(service.fpm.pid, tmp_path / "etc", *log)
        assert bounds(policy)[0] == 2
        assert "latency_p99: {below: 250ms" in policy
        assert "cannot be moved" not in said
        assert service.config.read_bytes() == before[0]
        assert set(before[1]) <= set(service.workers())  # the status page has one of its own


def test_php_fpm_whose_reload_would_cut_requests_off(tmp_path):
    with PhpFpmService(grace=None, nginx=False) as service:
        said, _ = accepted(service.fpm.pid, tmp_path / "etc")
        assert "process_control_timeout = 10s" in said
        assert "--access-log FILE" in said
        effective = poolwright("check", "--effective", tmp_path / "etc/poolwright.yaml").stdout
        assert "throughput: 1.0 " in effective
        assert "latency_p99" not in effective


def test_haproxy(tmp_path):
    with HaproxyService(tmp_path / "h", servers=2, maxconn=6) as service:
        _, policy = accepted(service.haproxy.pid, tmp_path / "etc")
        assert "  maxconn: {min: 2, max: 24," in policy
        config = (tmp_path / "etc/poolwright.yaml").read_text()
        assert f"socket: {service.admin}, backend: app, servers: [" in config.replace(
            "\n     ", ","
        )


def test_haproxy_without_a_limit(tmp_path):
    with HaproxyService(tmp_path / "h", maxconn=None) as service:
        done = init(service.haproxy.pid, tmp_path / "etc")
        assert done.returncode == 3
        assert "default-server maxconn 20" in done.stdout
        assert not (tmp_path / "etc").exists()


def test_pgbouncer(tmp_path):
    with PgBouncerService(default_pool_size=3) as service:
        _, policy = accepted(service.process.pid, tmp_path / "etc", "--pool", "db")
        assert "  pool_size: {min: 2, max: 12," in policy
        config = (tmp_path / "etc/poolwright.yaml").read_text()
        assert f'address: "{service.address}", user: boss' in config
        assert service.size == 3


def test_pgbouncer_that_asks_for_a_password(tmp_path):
    with PgBouncerService(auth_type="md5") as service:
        done = init(service.process.pid, tmp_path / "etc")
        assert done.returncode == 3
        assert "PgBouncer asks boss for a password: poolwright init --password-file" in done.stdout
        secret = tmp_path / "secret"
        secret.write_text("boss-secret\n")
        secret.chmod(0o600)
        accepted(service.process.pid, tmp_path / "etc", "--password-file", secret)
        secret.write_text("wrong\n")
        done = init(service.process.pid, tmp_path / "e2", "--password-file", secret)
        assert done.returncode == 3
        assert not (tmp_path / "e2").exists()


def test_uvicorn(tmp_path):
    log = tmp_path / "nginx.log"
    log.touch()
    with UvicornService(tmp_path, workers=2) as service:
        done = init(service.pid, tmp_path / "etc")
        assert done.returncode == 3
        assert "ExecStartPost=" in done.stdout
        words = ("--pidfile", service.pidfile, "--access-log", log)
        _, policy = accepted(service.pid, tmp_path / "etc", *words)
        assert bounds(policy)[0] == 2


def test_celery(tmp_path):
    with CeleryService(tmp_path, concurrency=2, flags=("-E",)) as service:
        done = init(service.pid, tmp_path / "etc")
        assert done.returncode == 3
        assert "--broker redis://HOST:6379/0" in done.stdout
        _, policy = accepted(service.pid, tmp_path / "etc", "--broker", service.url)
        assert "latency_p99: {below: 250ms" in policy
        assert len(service.children()) == 2
