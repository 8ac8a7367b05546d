"""A real PgBouncer in front of a real PostgreSQL on loopback, and pgbench as its clients.

    with PgBouncerService(default_pool_size=2) as service:
        service.address, service.psql("SHOW POOLS"), service.pgbench(clients=20, seconds=5)

PostgreSQL is started once for the whole test run (0.7 s), PgBouncer for each test (0.1 s). Neither
runs as root: then both run as user postgres. Everything that was started is ended, by its process
id: on leaving, and by the kernel should the test run be killed.
"""

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from gunicorn_service import _LIBC, _PR_SET_PDEATHSIG, until
from started import free_port, program

_START_S = 20.0


def _program(name):
    """The path of a server's program; PostgreSQL's are not in the PATH of Debian."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(places[0]) if places else program(name)


def identity():
    """Popen's options for the user that PostgreSQL may run as."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _die_with_parent(number):
    return lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def _folder():
    """A short path (a UNIX socket's has 108 bytes) that the servers' user owns."""
    folder = Path(tempfile.mkdtemp(prefix="pw-pg-", dir="/tmp"))
    if "user" in identity():
        os.chown(folder, identity()["user"], identity()["group"])
    folder.chmod(0o755)
    return folder


class Postgres:
    """One PostgreSQL with trust authentication, listening at a UNIX socket only."""

    def __init__(self):
        self.folder = _folder()
        self.port = 5432
        self.log = self.folder / "log"
        data = self.folder / "data"
        initdb = (_program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N")
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **identity())
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    *(_program("postgres"), "-D", data, "-k", self.folder),
                    *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=80"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                start_new_session=True,
                preexec_fn=_die_with_parent(signal.SIGQUIT),  # noqa: PLW1509  one prctl(2)
                **identity(),
            )
        atexit.register(self.stop)
        until(self._answers, _START_S, "postgres answers")

    def _answers(self):
        assert self.process.poll() is None, self.log.read_text()
        ready = (_program("pg_isready"), "-q", "-h", self.folder, "-p", str(self.port))
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self):
        """An immediate shutdown: nothing is worth keeping."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5.0)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def postgres():
    """The PostgreSQL of this test run."""
    return Postgres()


class PgBouncerService:
    """PgBouncer with databases `bench` and `my-db` (the default size) and `own` (3 of its own).

    Users: boss (admin_users), watcher (stats_users), postgres; passwords are boss-secret and so on
    where `auth_type` asks for any. `lines` are put into pgbouncer.ini, over those given here.
    """

    def __init__(self, *, auth_type="trust", databases=None, **lines):
        self.postgres = postgres()
        self.folder = _folder()
        self.port = free_port()
        self.auth_type = auth_type
        self.databases = {"bench": "", "my-db": "", "own": "pool_size=3"}
        self.databases = self.databases if databases is None else databases
        self.lines = {"default_pool_size": 2, "pool_mode": "transaction"} | lines
        self.config = self.folder / "pgbouncer.ini"
        self.log = self.folder / "pgbouncer.log"
        self.socket = self.folder / f".s.PGSQL.{self.port}"
        self.process = None
        users = {"boss": "boss-secret", "watcher": "watcher-secret", "postgres": ""}
        listed = "".join(f'"{user}" "{password}"\n' for user, password in users.items())
        (self.folder / "users").write_text(listed)

    @property
    def address(self):
        """As the adapters take it."""
        return f"unix:{self.socket}"

    @property
    def tcp(self):
        """The same over TCP."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def write_config(self, **lines):
        """Write pgbouncer.ini; what runs takes it over with RELOAD."""
        self.lines |= lines
        server = f"host={self.postgres.folder} port={self.postgres.port} dbname=postgres"
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": self.folder,
            "auth_type": self.auth_type,
            "auth_file": self.folder / "users",
            "admin_users": "boss",
            "stats_users": "watcher",
            "max_client_conn": 300,
            "server_login_retry": 1,
        }
        self.config.write_text(
            "[databases]\n"
            + "".join(f"{n} = {server} user=postgres {m}\n" for n, m in self.databases.items())
            + "[pgbouncer]\n"
            + "".join(f"{key} = {what}\n" for key, what in (settings | self.lines).items())
        )

    def start(self):
        """Start it, and wait until the console answers."""
        self.write_config()
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [_program("pgbouncer"), self.config],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                start_new_session=True,
                preexec_fn=_die_with_parent(signal.SIGKILL),  # noqa: PLW1509  one prctl(2)
                **identity(),
            )
        try:
            until(self._answers, _START_S, "pgbouncer's console answers")
        except BaseException:
            self.stop()
            print(self.log.read_text())
            raise
        return self

    def _answers(self):
        assert self.process.poll() is None, self.log.read_text()
        return bool(self.psql("SHOW VERSION", check=False))

    def psql(self, *commands, user="boss", database="pgbouncer", check=True):
        """Rows of unaligned text, past what is tested."""
        run = subprocess.run(
            ["psql", "-XAtq", "-h", self.folder, "-p", str(self.port), "-U", user, database]
            + [word for command in commands for word in ("-c", command)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PGPASSWORD": f"{user}-secret"},
        )
        assert not check or run.returncode == 0, run.stderr
        return [line.split("|") for line in run.stdout.splitlines()]

    @property
    def size(self):
        """The default_pool_size in force."""
        return next(
            int(row[1]) for row in self.psql("SHOW CONFIG") if row[0] == "default_pool_size"
        )

    def backends(self, database="bench"):
        """How many connections of a database to the server there really are."""
        return next(int(r[-3]) for r in self.psql("SHOW DATABASES") if r[0] == database)

    def pgbench(self, *, clients, seconds, sql="select pg_sleep(0.02)", database="bench", flags=()):
        """A running pgbench; `finished(it)` waits for it."""
        script = self.folder / f"load-{clients}.sql"
        script.write_text(sql + "\n")
        return subprocess.Popen(
            [
                *("pgbench", "-n", "-h", self.folder, "-p", str(self.port), "-U", "postgres"),
                *("-f", script, "-c", str(clients), "-T", str(seconds), *flags, database),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_die_with_parent(signal.SIGTERM),  # noqa: PLW1509  one prctl(2)
        )

    def signal(self, number):
        """Send a signal to PgBouncer."""
        self.process.send_signal(number)

    def kill(self):
        """SIGKILL, as a crash is."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """End it and take its files away. May be called twice."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def finished(bench):
    """(transactions, failures) as pgbench counted. AssertionError when a client broke off."""
    out, _ = bench.communicate(timeout=60)
    assert bench.returncode == 0, out
    lines = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert "aborted" not in out, out
    done = int(lines["number of transactions actually processed"].split("/")[0])
    return done, int(lines["number of failed transactions"].split()[0])
