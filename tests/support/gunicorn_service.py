"""A real gunicorn on 127.0.0.1 for tests, and clients that count what failed.

    with GunicornService(tmp_path, workers=3, flags=("-k", "gthread", "--threads", "4")) as service:
        http_get(service.port, "/sleep?s=0.1")

Synchronous, so that it serves both kinds of test; starting takes about 0.3 s. Everything that was
started is ended, by its process id: on leaving, and by the kernel should the test run be killed.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

_APP = '''
import os, time
from urllib.parse import parse_qs

def app(environ, start_response):
    """/sleep?s=SECONDS answers after so long, all else at once. The body is the worker's pid."""
    time.sleep(float(parse_qs(environ["QUERY_STRING"]).get("s", ["0"])[0]))
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
'''
_LISTENING = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")
_START_S = 10.0
_STOP_S = 4.0
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent():
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _lives(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def until(done, within_s, what):
    """Poll `done` until it gives something true; that. AssertionError naming `what` when late."""
    end = time.monotonic() + within_s
    while not (found := done()):
        assert time.monotonic() < end, f"{what}: not within {within_s} s"
        time.sleep(0.01)
    return found


def http_get(port, path, timeout_s=5.0):
    """(status, body) of one request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as link:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        link.sendall(head.encode())
        chunks = []
        while chunk := link.recv(65536):
            chunks.append(chunk)
    head, _, body = b"".join(chunks).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


class GunicornService:
    """gunicorn in `folder`: pidfile, control socket, log and port are attributes.

    `app` is "module:name" (found in `folder` or installed); None: an app with /sleep?s=SECONDS.
    `pidfile` and `control` switch those off; `port` 0 lets the kernel choose, and `start` after
    `kill` listens at the same port again.
    """

    def __init__(
        self, folder, *, workers=2, app=None, flags=(), pidfile=True, control=True, port=0, env=None
    ):
        self.folder = Path(folder)
        self.workers = workers
        self.flags = tuple(flags)
        self.port = port
        self.pidfile = self.folder / "gunicorn.pid" if pidfile else None
        self.control = self.folder / "gunicorn.ctl" if control else None
        self.log = self.folder / "gunicorn.log"
        self.process = None
        self._env = env or {}
        self._app = app or "sleeping_app:app"
        if app is None:
            (self.folder / "sleeping_app.py").write_text(_APP)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    @property
    def pid(self):
        """The process id of the master that we started."""
        return self.process.pid

    def children(self):
        """The process ids of the master's children; who has ended and is not reaped yet is none."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in listed if _lives(pid)]

    def start(self):
        """Start a master and wait until it answers, and its control socket with it."""
        assert self.process is None or self.process.poll() is not None, "already running"
        self._told = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | self._env,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  one prctl(2)
            )
        try:
            until(self._answers, _START_S, "gunicorn answers")
            if self.control is not None:
                until(self._controllable, _START_S, "gunicorn's control socket answers")
        except BaseException:
            self.stop()
            print(self.log.read_text())
            raise
        return self

    def signal(self, number):
        """Send a signal to the master."""
        self.process.send_signal(number)

    def kill(self):
        """SIGKILL the master and its workers: the port is free at once, the pidfile stays."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # orphans too: the session is ours
        self.process.wait()

    def stop(self):
        """SIGTERM, and whatever is left after a grace is killed. May be called twice."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_S)
        self.kill()

    def _command(self):
        command = [sys.executable, "-m", "gunicorn", "--workers", str(self.workers)]
        command += ["--bind", f"127.0.0.1:{self.port}", "--worker-tmp-dir", "/dev/shm"]
        if self.pidfile is not None:
            command += ["--pid", str(self.pidfile)]
        if self.control is not None:
            command += ["--control-socket", str(self.control)]
        else:
            command += ["--no-control-socket"]
        return [*command, *self.flags, self._app]

    def _answers(self):
        assert self.process.poll() is None, f"gunicorn ended: {self.log.read_text()}"
        if not self.port:
            told = _LISTENING.search(self.log.read_text()[self._told :])
            if told is None:
                return False
            self.port = int(told[1])
        try:
            return http_get(self.port, "/")[0] > 0
        except (OSError, IndexError):
            return False

    def _controllable(self):
        with socket.socket(socket.AF_UNIX) as link:
            return link.connect_ex(str(self.control)) == 0


class Load:
    """Clients of an async test: each request on a connection of its own, counted by its outcome.

    async with Load(port, "/sleep?s=0.01", clients=16) as load: ...
    load.outcomes["ok"], load.failed
    """

    def __init__(self, port, path, *, clients, timeout_s=15.0):
        self.outcomes = Counter()
        self._port = port
        self._path = path
        self._clients = clients
        self._timeout_s = timeout_s
        self._stop = False
        self._tasks = []

    @property
    def failed(self):
        """What failed, by its kind."""
        return {kind: count for kind, count in self.outcomes.items() if kind != "ok"}

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_):
        """No new requests; those in flight are waited for."""
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _client(self):
        while not self._stop:
            try:
                async with asyncio.timeout(self._timeout_s):
                    outcome = await self._request()
            except (OSError, TimeoutError) as error:
                outcome = type(error).__name__
            self.outcomes[outcome] += 1

    async def _request(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(
                f"GET {self._path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode()
            )
            answer = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not answer:
            return "empty"
        if not head.startswith(b"HTTP/1.1 200"):
            return head.split(b"\r\n")[0].decode()
        return "ok" if body.isdigit() else "truncated"
