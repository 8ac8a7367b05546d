"""A daemon whose pools each have one trouble, with real causes: for alerts that really fire."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

from gunicorn_service import GunicornService, Load, http_get
from started import Started, free_port

from poolwright.core.model import Holdout, Kept, Phase, Resume, setting
from poolwright.journal.sqlite import SqliteJournal
from poolwright.policy.load import load_policy

_POLICY = """\
version: 1
name: {name}
mode: {mode}
knobs:
  workers: {{min: {low}, max: {high}, slew: 8, settle: 0s}}
objective: {{latency_p99: 1.0}}
slo:
  latency_p99: {{below: {p99}}}
  error_ratio: {{below: 5%}}
explore: {{window: 2s, warmup: 2}}
guard: {{cooldown: 1s, breach: {{ticks: 1, of: 2}}}}
cadence: 300ms
"""
_CONFIG = """\
version: 1
listen: 127.0.0.1:{http}
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}/policies.d
log_format: json
pools:
"""
_FIELDS = {"mode": "auto", "low": 1, "high": 8, "p99": "2s"}


class Traffic:
    """Clients of a service in a thread of their own, until `stop`."""

    def __init__(self, port, path, clients=6):
        self._end = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(port, path, clients),))
        self._thread.start()

    async def _run(self, port, path, clients):
        async with Load(port, path, clients=clients):
            await asyncio.to_thread(self._end.wait)

    def stop(self):
        self._end.set()
        self._thread.join()


def told_service(folder, name, workers):
    """A gunicorn that is not started yet and will tell its requests to port `syslog`."""
    (folder / name).mkdir()
    syslog = free_port()
    flags = ("--log-syslog", "--log-syslog-to", f"udp://127.0.0.1:{syslog}",
             "--access-logformat", "poolwright %(s)s %(D)s %({x-request-start}i)s")  # fmt: skip
    service = GunicornService(folder / name, workers=workers, flags=flags)
    service.syslog = syslog
    return service


class AlarmingDaemon:
    """`poolwright run` with pools that `add` has made; `start` when all are there."""

    def __init__(self, folder):
        self.folder = folder
        self.http = free_port()
        self.config = folder / "poolwright.yaml"
        self.config.write_text(_CONFIG.format(http=self.http, folder=folder))
        (folder / "policies.d").mkdir()
        argv = [sys.executable, "-m", "poolwright", "run", "--config", str(self.config)]
        self.service = Started(argv, folder, self._ready)
        self._stop = threading.Event()
        self._threads = []

    def add(self, name, actuator, *sensors, **policy):
        """A pool with a policy of its own; `sensors` beside `host`."""
        fields = {**_FIELDS, **policy, "name": name}
        (self.folder / "policies.d" / f"{name}.yaml").write_text(_POLICY.format(**fields))
        with self.config.open("a") as out:
            out.write(f"  - name: {name}\n    policy: {name}\n    actuator: {actuator}\n")
            out.write("    sensors:\n")
            out.writelines(f"      - {sensor}\n" for sensor in ("{kind: host}", *sensors))

    def add_gunicorn(self, name, service, *sensors, **policy):
        """A pool of a real service that `told_service` has made."""
        self.add(
            name,
            f"{{kind: gunicorn, pidfile: {service.pidfile}}}",
            f'{{kind: access_log, listen: "127.0.0.1:{service.syslog}"}}',
            f"{{kind: process_tree, pidfile: {service.pidfile}}}",
            f"{{kind: listen_queue, pidfile: {service.pidfile}}}",
            *sensors,
            **policy,
        )

    def add_log(self, name, actuator, pidfile, **policy):
        """A pool whose level is the number in NAME.level, seen through a log of the test.

        `actuator` has `{level}` for that file; CPU and memory are those of `pidfile`.
        """
        level, log = self.folder / f"{name}.level", self.folder / f"{name}.log"
        level.write_text("2\n")
        log.touch()
        told = f"{{kind: access_log, file: {log}, format: nginx, time: latency}}"
        tree = f"{{kind: process_tree, pidfile: {pidfile}}}"
        self.add(name, actuator.replace("{level}", str(level), 1), told, tree, **policy)

    def settle_before(self, name):
        """Four comparisons, all lost, in the journal of an earlier run: the pool stood down."""
        lost = tuple(
            Holdout(
                baseline=setting(workers=2),
                tuned=setting(workers=4),
                load_rps=10.0,
                gain_ratio=-0.2 - i / 100.0,
                breached=False,
                closed_tick=i,
            )
            for i in range(4)
        )
        kept = Kept(phase=Phase.STOOD_DOWN, phase_why="no gain in 4 comparisons", holdouts=lost)
        journal = SqliteJournal(self.folder / "journal.db")
        policy = load_policy(self.folder / "policies.d" / f"{name}.yaml")
        run = journal.begin_run(name, policy, Resume(baseline=setting(workers=2), kept=kept), 1)
        journal.end_run(run, "stopped", 2)
        journal.close()

    def start(self):
        self.service.start()
        return self

    def _ready(self):
        try:
            return http_get(self.http, "/readyz")[0] == 200
        except (OSError, IndexError):
            return False

    def status(self, pool):
        url = f"http://127.0.0.1:{self.http}/api/v1/status/{pool}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)

    def command(self, *words):
        """What an operator types; retried while the daemon has too much to do to answer."""
        done = subprocess.run(
            [sys.executable, "-m", "poolwright", *words, "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, command, pool, **body):
        """The same at the control socket, without starting a program for it."""
        body = json.dumps({"why": "a test", **body}).encode()
        head = f"POST /v1/pools/{pool}/{command} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.folder / "control.sock"))
            link.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = link.recv(65536)
        assert answer.startswith(b"HTTP/1.1 202"), answer

    def turn(self, pool):
        """Pin the other of 2 and 4 once the one that was asked for is there."""
        seen = self.status(pool)
        there = seen["tick"]["applied"]["setting"]
        if there == seen["decision"]["setting"]:
            other = 4 if dict(there["levels"])["workers"] == 2 else 2
            self.ask("pin", pool, setting={"workers": other})

    def learners(self):
        """The process ids of its learner."""
        pid = self.service.pid
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(p) for p in listed if b"poolwright.learn" in _command_line(p)]

    def repeat(self, every_s, action):
        """Do `action(i)` in a thread until `stop_threads`; what fails meanwhile is tried again."""

        def run():
            i = 0
            while not self._stop.wait(every_s):
                with contextlib.suppress(OSError):
                    action(i)
                i += 1

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def kill_learners(self):
        """Whenever one is there, it is killed."""

        def kill(_):
            for pid in self.learners():
                os.kill(pid, signal.SIGKILL)

        self.repeat(0.05, kill)

    def stumble(self, _):
        """Get no CPU for a part of a second."""
        self.service.signal(signal.SIGSTOP)
        threading.Event().wait(0.3)
        self.service.signal(signal.SIGCONT)

    def cut_disk(self):
        """No file of its may grow any more, as on a full disk."""
        resource.prlimit(self.service.pid, resource.RLIMIT_FSIZE, (1, 1))

    def stop_threads(self):
        """End what `repeat` has begun."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._stop.clear()

    def close(self):
        self.stop_threads()
        if self.service.process is not None:
            self.service.signal(signal.SIGCONT)
            self.service.stop()


def _command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def requests_told(log, count, seconds):
    """Write `count` requests that took so long, as nginx tells them."""
    with log.open("a") as out:
        out.write(f"poolwright 200 {seconds:.3f}\n" * count)
