"""The five servers: how each is started at a level, loaded, seen and moved."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_ROOT / "tests" / "support"))

from celery_service import CeleryService  # noqa: E402
from gunicorn_service import GunicornService, until  # noqa: E402
from haproxy_service import HaproxyService  # noqa: E402
from pgbouncer_service import PgBouncerService, _program  # noqa: E402
from started import free_port, program  # noqa: E402
from uwsgi_service import UwsgiService  # noqa: E402

from poolwright.sensors.access_log import gunicorn_flags  # noqa: E402
from poolwright.sensors.uwsgi import access_log_flags  # noqa: E402

_CLIENT = (sys.executable, str(_ROOT / "bench" / "converge" / "clients.py"))
_HTTP = (sys.executable, "-m", "poolwright.demo.loadgen", "--timeout", "40", "--url")
_DEMO = "poolwright.demo.service:application()"
# Requests wait longer than the demo's, and there are fewer: as large a pool, for half the CPU.
_DEMO_ENV = {
    "POOLWRIGHT_DEMO_IO_S": "0.13",
    "POOLWRIGHT_DEMO_MISS_CPU_S": "0.03",
    "PYTHONPATH": str(_ROOT / "daemon"),
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """A server that runs: what poolwright is told of it, and how clients reach it."""

    actuator: dict[str, Any]
    sensors: list[dict[str, Any]]
    client: tuple[str, ...]
    stop: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Server:
    """One kind of server and the load that is put on it."""

    name: str
    title: str
    knob: str
    levels: tuple[int, ...]  # of the sweep; the outer two are the policy's bounds
    bad: tuple[int, int]  # far too small, far too large
    rps: float
    p99_ms: int
    slew: int = 4
    settle_s: float = 1.0
    start: Callable[[Path, int, int, int], Site]
    version: Callable[[], str] = field(default=lambda: "")


def _told(*command: str) -> str:
    """What a program says of its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).splitlines()[0]


def _gunicorn(folder: Path, level: int, _most: int, log: int) -> Site:
    flags = ("--graceful-timeout", "2", *gunicorn_flags(f"127.0.0.1:{log}"))
    service = GunicornService(folder, workers=level, app=_DEMO, flags=flags, env=_DEMO_ENV)
    service.start()
    pid = {"pidfile": str(service.pidfile)}
    return Site(
        actuator={"kind": "gunicorn", **pid, "control": str(service.control)},
        sensors=[
            {"kind": "access_log", "listen": f"127.0.0.1:{log}"},
            {"kind": "listen_queue", **pid},
            {"kind": "process_tree", **pid},
        ],
        client=(*_HTTP, f"http://127.0.0.1:{service.port}/"),
        stop=service.stop,
    )


def _uwsgi(folder: Path, level: int, most: int, log: int) -> Site:
    pid = folder / "uwsgi.pid"
    flags = ("--plugin", "logsocket", *access_log_flags(f"127.0.0.1:{log}"), "--listen", "1000")
    service = UwsgiService(
        folder,
        workers=level,
        most=most,
        flags=(*flags, "--pidfile", str(pid)),
        env=_DEMO_ENV,
    )
    (folder / "sleeping.py").write_text(
        "from poolwright.demo.service import application\n\napp = application()\n"
    )
    service.start()
    return Site(
        actuator={"kind": "uwsgi", "fifo": str(service.fifo), "stats": service.stats},
        sensors=[
            {"kind": "access_log", "listen": f"127.0.0.1:{log}"},
            {"kind": "uwsgi", "stats": service.stats},
            {"kind": "process_tree", "pidfile": str(pid)},
        ],
        client=(*_HTTP, f"http://127.0.0.1:{service.port}/"),
        stop=service.kill,
    )


_TASKS = '''
import os
import redis
from celery import Celery
from poolwright.demo.service import application

app = Celery("counted", broker=os.environ["BROKER"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1, task_send_sent_event=True,
                broker_connection_retry_on_startup=True)
work = application()
done = redis.from_url(os.environ["BROKER"])

@app.task(name="work")
def task(number):
    """What the demo's service does for a request; then the client is told."""
    work({"PATH_INFO": "/", "QUERY_STRING": f"n={number}"}, lambda *_: None)
    done.lpush("converge:done", number)
'''


def _celery(folder: Path, level: int, _most: int, _log: int) -> Site:
    paths = _DEMO_ENV | {"PYTHONPATH": f"{folder}:{_ROOT / 'daemon'}"}
    service = CeleryService(folder, concurrency=level, flags=("-E",), env=paths)
    (folder / "counted.py").write_text(_TASKS)
    pid = folder / "celery.pid"
    service.start()
    pid.write_text(str(service.pid))
    worker = {"broker": service.url, "node": service.node}
    return Site(
        actuator={"kind": "celery", **worker},
        sensors=[
            {"kind": "celery", **worker, "events": True},
            {"kind": "process_tree", "pidfile": str(pid)},
        ],
        client=(*_CLIENT, service.url),
        stop=service.stop,
    )


# What a transaction waits for goes on beside the others'. Then each changes the same row, and holds
# it the longer the more transactions there are: past some number more of them get less done.
_WORK = """
create table if not exists hot (n int) with (fillfactor = 10);
insert into hot select 0 where not exists (select from hot);
create or replace function work(number int) returns void language plpgsql as $$
declare
  others int;
begin
  perform pg_sleep(0.06 * (0.5 + number * 48271 % 997 / 997.0));
  perform sum(sqrt(i)) from generate_series(1, 5000) i;
  update hot set n = n + 1;
  select count(*) - 1 into others from pg_stat_activity
    where state = 'active' and datname = current_database();
  perform pg_sleep(0.002 + 0.0015 * others);
end $$;
"""


def _pgbouncer(_folder: Path, level: int, _most: int, _log: int) -> Site:
    service = PgBouncerService(default_pool_size=level, max_client_conn=1000).start()
    service.psql(_WORK, user="postgres", database="bench")
    tell = free_port()
    console = {"address": service.address, "user": "boss"}
    data = service.postgres.folder / "data"
    return Site(
        actuator={"kind": "pgbouncer", **console},
        sensors=[
            {"kind": "pgbouncer", **console},
            {
                "kind": "prometheus",
                "url": f"http://127.0.0.1:{tell}/metrics",
                "signals": {"latency": {"histogram": "transaction_seconds"}},
            },
            {"kind": "process_tree", "pidfile": str(data / "postmaster.pid")},
        ],
        client=(*_CLIENT, f"sql:{service.socket}", "--tell", str(tell)),
        stop=service.stop,
    )


_LOG = (
    "log 127.0.0.1:{port} format raw local0\n"
    "  http-request set-var(txn.t) date(0,us)\n"
    '  log-format "<14>gunicorn.h.access: [%pid] poolwright %ST '
    '%Tr%[str(000)] %[var(txn.t)]"'
)


def _haproxy(folder: Path, level: int, most: int, log: int) -> Site:
    service = HaproxyService(folder, maxconn=level, frontend=_LOG.format(port=log))
    behind = GunicornService(
        folder,
        workers=1,
        app="contended:app",
        port=service.behind,
        flags=("-k", "gthread", "--threads", str(most), "--keep-alive", "30"),
        env={"PYTHONPATH": f"{Path(__file__).parent}:{_ROOT / 'daemon'}"},
    )
    service.app = behind.start()
    service.start()
    return Site(
        actuator={
            "kind": "haproxy",
            "backend": "app",
            "servers": ["s1"],
            "socket": str(service.admin),
        },
        sensors=[
            {"kind": "haproxy", "backend": "app", "socket": str(service.user)},
            {"kind": "access_log", "listen": f"127.0.0.1:{log}"},
            {"kind": "process_tree", "pidfile": str(behind.pidfile)},
        ],
        client=(*_HTTP, f"http://127.0.0.1:{service.port}/"),
        stop=service.stop,
    )


SERVERS = (
    Server(
        name="gunicorn",
        title="gunicorn",
        knob="workers",
        levels=(3, 4, 5, 6, 8, 12, 16, 24),
        bad=(3, 24),
        rps=30.0,
        p99_ms=400,
        start=_gunicorn,
        version=lambda: importlib.metadata.version("gunicorn"),
    ),
    Server(
        name="celery",
        title="Celery",
        knob="workers",
        levels=(3, 4, 5, 6, 8, 12, 16),
        bad=(3, 16),
        rps=30.0,
        p99_ms=400,
        settle_s=2.0,
        start=_celery,
        version=lambda: importlib.metadata.version("celery"),
    ),
    Server(
        name="pgbouncer",
        title="PgBouncer",
        knob="pool_size",
        levels=(2, 3, 4, 6, 8, 12, 16, 24),
        bad=(2, 24),
        rps=45.0,
        p99_ms=300,
        settle_s=3.0,  # a shrink makes all its connections anew
        start=_pgbouncer,
        version=lambda: (
            f"{_told(_program('pgbouncer'), '--version').split()[-1]} before PostgreSQL "
            f"{_told(_program('postgres'), '--version').split()[2]}"
        ),
    ),
    Server(
        name="uwsgi",
        title="uWSGI",
        knob="workers",
        levels=(3, 4, 5, 6, 8, 12, 16, 24),
        bad=(3, 24),
        rps=30.0,
        p99_ms=400,
        start=_uwsgi,
        version=lambda: _told(program("uwsgi_python3"), "--version"),
    ),
    Server(
        name="haproxy",
        title="HAProxy",
        knob="maxconn",
        levels=(2, 3, 4, 6, 8, 12, 16, 24),
        bad=(2, 24),
        rps=45.0,
        p99_ms=300,
        start=_haproxy,
        version=lambda: _told(program("haproxy"), "-v").split()[2],
    ),
)
__all__ = ["SERVERS", "Server", "Site", "until"]
