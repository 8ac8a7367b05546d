"""What `preset: {kind: ...}` of a pool stands for: one table. `policy.expand` goes by it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from poolwright.core.units import HostPort, PathText
from poolwright.policy.bind import Contradiction

REQUESTS = "127.0.0.1:8126"  # where a server's own access log is received
_PIDFILE = "file with the master's process id"
_CGROUP = "in place of a pidfile: /system.slice/web.service"
_LISTEN = "where clients connect, to see the accept queue: 127.0.0.1:8000, unix:/run/web.sock"


def _doc(text: str) -> dict[str, str]:
    return {"doc": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Behind:
    """Of those that stand behind a proxy."""

    access_log: PathText | None = field(
        default=None,
        metadata=_doc("log of nginx in front, as docs/init.md says: requests, errors and latency"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server(_Behind):
    """Of those whose processes clients connect to."""

    pidfile: PathText | None = field(default=None, metadata=_doc(_PIDFILE))
    cgroup: PathText | None = field(default=None, metadata=_doc(_CGROUP))
    listen: tuple[str, ...] = field(default=(), metadata=_doc(_LISTEN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gunicorn(_Server):
    """A gunicorn, by its pidfile or its control socket."""

    control: PathText | None = field(
        default=None, metadata=_doc("gunicorn's --control-socket (25.1 and later)")
    )
    requests: HostPort | None = field(
        default=REQUESTS, metadata=_doc("UDP address that its access log is sent to")
    )
    statsd: HostPort | None = field(
        default=None, metadata=_doc("in place of `requests`: its --statsd-host")
    )
    statsd_prefix: str | None = field(default=None, metadata=_doc("its --statsd-prefix"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Uvicorn(_Server):
    """A uvicorn with --workers 2 or more."""

    pidfile: PathText = field(metadata=_doc("file with the supervisor's process id"))
    lossy_shrink: bool | None = field(
        default=None, metadata=_doc("shrink although a few new connections are hung up on")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Uwsgi(_Server):
    """A uWSGI, by its master FIFO and its stats server."""

    fifo: PathText = field(metadata=_doc("its --master-fifo"))
    stats: str = field(metadata=_doc("its --stats: a path, or HOST:PORT"))
    requests: HostPort | None = field(
        default=None, metadata=_doc("UDP address that its --req-logger sends to")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Celery:
    """A Celery worker, through its broker."""

    broker: str = field(metadata=_doc("its broker_url, without a password"))
    node: str = field(metadata=_doc("its name (celery worker -n): web@host"))
    password_file: PathText | None = field(
        default=None, metadata=_doc("a file that holds the broker's password")
    )
    events: bool | None = field(
        default=None, metadata=_doc("the worker sends events (celery worker -E)")
    )
    pidfile: PathText | None = field(default=None, metadata=_doc(_PIDFILE))
    cgroup: PathText | None = field(default=None, metadata=_doc(_CGROUP))


@dataclass(frozen=True, slots=True, kw_only=True)
class PhpFpm(_Server):
    """A pool of a php-fpm; with `version` where Debian has everything."""

    version: str | None = field(
        default=None,
        metadata=_doc('of Debian\'s php-fpm, such as "8.2": the paths that are left out'),
    )
    pool: str = field(default="www", metadata=_doc("its section in the file"))
    config: PathText | None = field(
        default=None, metadata=_doc("the pool's file, which is written")
    )
    main_config: PathText | None = field(default=None, metadata=_doc("the file that includes it"))
    binary: PathText | None = field(
        default=None, metadata=_doc("php-fpm itself: it checks the files before a reload")
    )
    status: str | None = field(
        default=None, metadata=_doc("pm.status_listen, or listen; null: it has no status page")
    )
    path: str | None = field(default=None, metadata=_doc("pm.status_path (default: /status)"))

    def derived(self) -> dict[str, str]:
        """Debian's paths."""
        if self.version is None:
            return {}
        etc, run = f"/etc/php/{self.version}/fpm", f"/run/php/php{self.version}-fpm"
        return {
            "config": f"{etc}/pool.d/{self.pool}.conf",
            "main_config": f"{etc}/php-fpm.conf",
            "pidfile": f"{run}.pid",
            "binary": f"/usr/sbin/php-fpm{self.version}",
            "status": f"unix:{run}.sock",
        }

    def contradictions(self) -> Iterator[Contradiction]:
        """Neither Debian's paths nor all of the others."""
        names = ("config", "main_config", "pidfile", "binary")
        missing = [name for name in names if getattr(self, name) is None]
        if missing and self.version is None:
            message = f"{', '.join(missing)}: missing; of Debian's php-fpm `version` is enough"
            yield Contradiction((), ("version", *names), message)


@dataclass(frozen=True, slots=True, kw_only=True)
class PgBouncer:
    """A PgBouncer, over its admin console."""

    address: str = field(
        default="unix:/run/postgresql/.s.PGSQL.6432",
        metadata=_doc("127.0.0.1:6432, or a UNIX socket (preferred)"),
    )
    user: str | None = field(default=None, metadata=_doc("one of admin_users (default: pgbouncer)"))
    password_file: PathText | None = field(
        default=None, metadata=_doc("a file that holds the user's password")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Haproxy(_Behind):
    """The servers of a backend of a HAProxy: how many connections each may have."""

    backend: str = field(metadata=_doc("the backend, or listen section"))
    servers: tuple[str, ...] = field(
        metadata={"doc": "the servers of it that are moved, all to one level", "nonempty": True}
    )
    socket: PathText = field(
        default="/run/haproxy/admin.sock", metadata=_doc("stats socket of level admin")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemdUnits(_Behind):
    """The instances of a systemd template."""

    template: str = field(metadata=_doc("without an instance: worker@.service"))
    last: int | None = field(
        default=None, metadata=_doc("the highest instance number that may be started")
    )
    bus: PathText | None = field(
        default=None, metadata=_doc("socket of the D-Bus; a user's systemd: /run/user/UID/bus")
    )
    cgroup: PathText | None = field(
        default=None, metadata=_doc("the instances' slice (default: systemd's own for them)")
    )

    def derived(self) -> dict[str, str]:
        """The slice that systemd puts instances in: unit_name_escape(3) of the prefix."""
        name = self.template.removesuffix("@.service").replace("\\", r"\x5c").replace("-", r"\x2d")
        return {"cgroup": f"/system.slice/system-{name}.slice"}


@dataclass(frozen=True, slots=True)
class Part:
    """An adapter with its options: `needs` and `takes` map them to the preset's.

    It is there when all that it `needs` is given; what it `takes` may be left out.
    """

    kind: str
    needs: Mapping[str, str] = field(default_factory=dict)
    takes: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Preset:
    """A kind of server. Of each group of `sensors` the first that can be there is."""

    options: type
    actuator: Part
    sensors: tuple[tuple[Part, ...], ...]
    knob: str = "workers"


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _part(kind: str, needs: Mapping[str, str], why: str, *takes: str, **fixed: str) -> Part:
    return Part(kind, needs, _same(*takes), fixed, why)


_NGINX = _part(
    "access_log",
    {"file": "access_log"},
    "each request, as nginx in front of it writes it down",
    format="nginx",
)
_HEARD = _part(
    "access_log", {"listen": "requests"}, "each request: time, status, and the wait before it"
)
_STATSD = Part(
    "statsd",
    needs={"listen": "statsd"},
    takes={"prefix": "statsd_prefix"},
    fixed={"preset": "gunicorn"},
    why="requests, as gunicorn's --statsd-host tells",
)
_TREE = tuple(
    _part("process_tree", _same(by), "CPU and memory of the pool") for by in ("pidfile", "cgroup")
)
_QUEUE = _part("listen_queue", _same("listen"), "connections that no worker has accepted yet")
_HOST = (
    (_part("host", {}, "CPU and memory of the host, and their limits"),),
    (_part("power", {}, "watts of the host: measured where it can be, else a model"),),
)
_TASKS = _part(
    "celery",
    _same("broker", "node"),
    "tasks and their queue, as the worker tells them",
    *("password_file", "events"),
)
_TRANSACTIONS = _part(
    "pgbouncer",
    _same("address"),
    "transactions and who waits, as PgBouncer counts them",
    *("user", "password_file"),
)
_BACKEND = _part(
    "haproxy",
    _same("socket", "backend"),
    "requests, failures and queues, as HAProxy counts them",
)
_STATUS = _part(
    "php_fpm", {"listen": "status"}, "requests and busy workers, as php-fpm counts", "path"
)
_STATS = _part("uwsgi", _same("stats"), "requests and their queue, as uWSGI counts them")
_SLICE = _part("cgroup", {"path": "cgroup"}, "CPU and memory of the instances")

PRESETS: dict[str, Preset] = {
    "celery": Preset(
        Celery,
        Part("celery", _same("broker", "node"), _same("password_file")),
        ((_TASKS,), _TREE, *_HOST),
    ),
    "gunicorn": Preset(
        Gunicorn,
        Part("gunicorn", takes=_same("pidfile", "control")),
        ((_NGINX, _STATSD, _HEARD), _TREE, (_QUEUE,), *_HOST),
    ),
    "haproxy": Preset(
        Haproxy,
        Part("haproxy", _same("socket", "backend", "servers")),
        ((_NGINX,), (_BACKEND,), *_HOST),
        knob="maxconn",
    ),
    "pgbouncer": Preset(
        PgBouncer,
        Part("pgbouncer", _same("address"), _same("user", "password_file")),
        ((_TRANSACTIONS,), *_HOST),
        knob="pool_size",
    ),
    "php_fpm": Preset(
        PhpFpm,
        Part("php_fpm", _same("config", "main_config", "pidfile", "binary"), _same("pool")),
        ((_NGINX,), (_STATUS,), _TREE, (_QUEUE,), *_HOST),
    ),
    "systemd_units": Preset(
        SystemdUnits,
        Part("systemd_units", _same("template"), _same("last", "bus")),
        ((_NGINX,), (_SLICE,), *_HOST),
    ),
    "uvicorn": Preset(
        Uvicorn,
        Part("uvicorn", _same("pidfile"), _same("lossy_shrink")),
        ((_NGINX,), _TREE, (_QUEUE,), *_HOST),
    ),
    "uwsgi": Preset(
        Uwsgi,
        Part("uwsgi", _same("fifo", "stats")),
        ((_NGINX, _HEARD), (_STATS,), _TREE, (_QUEUE,), *_HOST),
    ),
}
