"""A real Celery worker on a real redis, both on 127.0.0.1, and tasks that are counted.

    with CeleryService(tmp_path, concurrency=2) as service:
        service.send(100, seconds=0.02)
        service.begun(), service.ended()

Every task writes a line when it begins and one when it ends, so a task that was lost, cut or run
twice shows. Everything that was started is ended by its process id: on leaving, and by the kernel
should the test run be killed.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

from gunicorn_service import _LIBC, _PR_SET_PDEATHSIG, _lives, until

_APP = '''
import os, time
from celery import Celery

app = Celery("counted", broker=os.environ["BROKER"])
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=int(os.environ.get("PREFETCH", "4")),
    task_acks_late=os.environ.get("ACKS_LATE") == "1",
    task_send_sent_event=True,
    broker_connection_retry_on_startup=True,
)
OUT = os.open(os.environ["COUNTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.task(name="count")
def count(number, seconds, fail=False):
    """Runs for so long."""
    os.write(OUT, f"begun {number}\\n".encode())
    time.sleep(seconds)
    os.write(OUT, f"ended {number}\\n".encode())
    if fail:
        raise RuntimeError("as told")
'''
_START_S = 30.0
_STOP_S = 6.0


def _die_with_parent():
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _spawn(command, log, **options):
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  one prctl(2)
            **options,
        )


class RedisServer:
    """redis-server in `folder` at a free port; `start` after `kill` listens at the same one."""

    def __init__(self, folder, *, password=""):
        self.folder = Path(folder)
        self.password = password
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process = None

    def start(self):
        """Start it, and wait until it listens."""
        assert shutil.which("redis-server"), "redis-server is missing: apt-get install redis-server"
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        command += ["--requirepass", self.password] if self.password else []
        self.process = _spawn(command, self.folder / "redis.log")
        until(self._listens, _START_S, "redis-server listens")
        return self

    def _listens(self):
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        with socket.socket() as link:
            return link.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        """SIGKILL. May be called twice."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ask(self, *words):
        """One command, as text: `ask("LLEN", "celery")`."""
        run = subprocess.run(
            ["redis-cli", "-p", str(self.port), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env=os.environ | ({"REDISCLI_AUTH": self.password} if self.password else {}),
        )
        return run.stdout.strip()


class CeleryService:
    """One worker in `folder`, with a broker of its own unless it is given one."""

    def __init__(
        self, folder, *, pool="prefork", concurrency=2, flags=(), env=None, broker=None, node=None
    ):
        self.folder = Path(folder)
        self.node = node or "tested@here"
        self.broker = broker or RedisServer(self.folder)
        self.url = self.broker.url
        self.concurrency = concurrency
        self.counts = self.folder / "counts"
        self.log = self.folder / "celery.log"
        self.process = None
        # By the script, not by -m: what SIGHUP executes anew has to be what was started.
        script = str(Path(sys.executable).with_name("celery"))
        self._command = [sys.executable, script, "-A", "counted", "worker", "-P", pool]
        self._command += ["-c", str(concurrency), "-n", self.node, "--loglevel", "INFO", *flags]
        secret = f":{self.broker.password}@" if self.broker.password else ""
        self._env = os.environ | {
            "BROKER": self.url.replace("//", f"//{secret}"),
            "COUNTS": str(self.counts),
            "PYTHONPATH": str(self.folder),
            **(env or {}),
        }
        self._sent = 0
        (self.folder / "counted.py").write_text(_APP)
        self.counts.touch()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    @property
    def pid(self):
        """The worker's main process."""
        return self.process.pid

    def start(self):
        """Start broker and worker, and wait until the worker takes tasks."""
        assert self.process is None or self.process.poll() is not None, "already running"
        try:
            if self.broker.process is None:
                self.broker.start()
            told = self.log.stat().st_size if self.log.exists() else 0
            self.process = _spawn(self._command, self.log, cwd=self.folder, env=self._env)
            until(lambda: self._ready(told), _START_S, "the worker is ready")
        except BaseException:
            self.stop()
            print(self.log.read_text() if self.log.exists() else "")
            raise
        return self

    def _ready(self, told):
        assert self.process.poll() is None, f"the worker ended: {self.log.read_text()}"
        return " ready." in self.log.read_text()[told:]

    def children(self):
        """The process ids of the pool's processes."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in listed if _lives(pid)]

    def signal(self, number):
        """Send a signal to the worker's main process."""
        self.process.send_signal(number)

    def kill(self):
        """SIGKILL the worker and its processes. May be called twice."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self):
        """End worker and broker. May be called twice."""
        self.kill()
        self.broker.kill()

    def send(self, count, seconds, *, fail=False, spread_s=0.0):
        """Put so many tasks into the queue, with numbers that were never used before.

        `spread_s`: they have ETAs, spread evenly over that time from now on.
        """
        script = (
            "import sys, counted\n"
            "first, count, seconds, fail, spread = map(float, sys.argv[1:])\n"
            "with counted.app.connection_for_write() as link:\n"
            "    for n in range(int(first), int(first + count)):\n"
            "        wait = spread * (n - first + 1) / count if spread else None\n"
            "        counted.count.apply_async(\n"
            "            (n, seconds, bool(fail)), connection=link, countdown=wait)\n"
        )
        numbers = [self._sent, count, seconds, int(fail), spread_s]
        self._sent += count
        subprocess.run(
            [sys.executable, "-c", script, *map(str, numbers)],
            cwd=self.folder,
            env=self._env,
            timeout=120,
            check=True,
        )

    def _told(self, what):
        lines = (line.split() for line in self.counts.read_text().splitlines())
        return Counter(int(number) for kind, number in lines if kind == what)

    def begun(self):
        """How often each task has begun."""
        return self._told("begun")

    def ended(self):
        """How often each task has run to its end."""
        return self._told("ended")

    def wrong(self, within_s=60.0):
        """Wait until all that was sent has ended; the tasks that did not, or not once."""
        with contextlib.suppress(AssertionError):
            until(lambda: len(self.ended()) >= self._sent, within_s, "every task ends")
        begun, ended = self.begun(), self.ended()
        told = {n: (begun[n], ended[n]) for n in range(self._sent)}
        return {n: counts for n, counts in told.items() if counts != (1, 1)}


@contextlib.contextmanager
def services(folder):
    """Starts workers: `start(concurrency=3)`; all are ended on leaving."""
    started = []

    def start(**options):
        own = folder / f"celery{len(started)}"
        own.mkdir()
        started.append(CeleryService(own, **options))
        return started[-1].start()

    try:
        yield start
    finally:
        for service in started:
            service.stop()
