"""Real applications that use poolwright.client: one under gunicorn, one under uvicorn.

Both answer /sleep?s=SECONDS from their pool, with the process id, and write the limit that their
pool has to OFFER/../PID.limit: what really is, past the wire.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from gunicorn_service import GunicornService, http_get, until

import poolwright

WSGI_APP = """
import os, time
from pathlib import Path
from urllib.parse import parse_qs
from poolwright.client import Meter, ResizableThreadPoolExecutor, WsgiMeter, offer

OFFER = os.environ["OFFER"]


class Told(ResizableThreadPoolExecutor):
    def resize(self, limit):
        super().resize(limit)
        tell(self)


def tell(pool):
    Path(OFFER).with_name(f"{os.getpid()}.limit").write_text(str(pool.limit))


pool, meter = Told(int(os.environ["LIMIT"])), Meter()


def work(seconds):
    time.sleep(seconds)
    return str(os.getpid()).encode()


def plain(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("as asked")
    asked = parse_qs(environ["QUERY_STRING"])
    body = pool.submit(work, float(asked.get("s", ["0"])[0])).result()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


tell(pool)
os.register_at_fork(after_in_child=lambda: tell(pool))
offer(OFFER, pool=pool, meter=meter)
app = WsgiMeter(plain, meter)
"""

ASGI_APP = """
import asyncio, os
from pathlib import Path
from urllib.parse import parse_qs
from poolwright.client import AsgiMeter, ConcurrencyLimiter, Meter, offer

limiter, meter = ConcurrencyLimiter(int(os.environ["LIMIT"])), Meter()


async def plain(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    asked = parse_qs(scope["query_string"].decode())
    if scope["path"] == "/events":
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(20):
            body = b"data: x\\n\\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b""})
        return
    if scope["path"] == "/fail":
        raise RuntimeError("as asked")
    async with limiter:
        await asyncio.sleep(float(asked.get("s", ["0"])[0]))
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


offer(os.environ["OFFER"], pool=limiter, meter=meter)
app = AsgiMeter(plain, meter)
"""
_OURS = str(Path(poolwright.__file__).parents[1])
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with_parent():
    """For preexec_fn: the process is killed with the test run."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_parent():
    """The same, for one that ends its own children when it is told to."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class WsgiService(GunicornService):
    """gunicorn with `workers` processes, each with a pool of `limit` threads."""

    def __init__(self, *, workers=2, limit=1, flags=()):
        self.home = Path(tempfile.mkdtemp(prefix="pw", dir="/tmp"))  # a socket's path is short
        self.offer = self.home / "o"
        (self.home / "wsgi_app.py").write_text(WSGI_APP)
        super().__init__(
            self.home,
            workers=workers,
            app="wsgi_app:app",
            flags=("-k", "gthread", "--threads", "32", *flags),
            control=False,
            env={"OFFER": str(self.offer), "LIMIT": str(limit), "PYTHONPATH": _OURS},
        )

    def start(self):
        """Start, and wait until every worker is to be seen."""
        super().start()
        try:
            until(lambda: len(self.seen()) == self.workers, 15.0, "every process offers")
        except BaseException:
            print(self.log.read_text())
            self.stop()
            raise
        return self

    def seen(self):
        """The processes that offer and live."""
        found = {int(path.name.split("-")[0]) for path in self.offer.glob("*.sock")}
        return found & set(self.children())

    def total(self):
        """The limits of all pools, past the wire."""
        told = (self.home / f"{pid}.limit" for pid in self.children())
        return sum(int(path.read_text() or 0) for path in told if path.exists())

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)


class AsgiService:
    """uvicorn, each of its `workers` processes with a limiter of `limit` places."""

    def __init__(self, *, limit=2, workers=1):
        self.home = Path(tempfile.mkdtemp(prefix="pw", dir="/tmp"))
        self.offer = self.home / "o"
        self._limit = limit
        self._workers = workers
        self.port = 0
        self.log = self.home / "log"
        (self.home / "asgi_app.py").write_text(ASGI_APP)

    def __enter__(self):
        more = ("--workers", str(self._workers)) if self._workers > 1 else ()
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "--port", "0", *more, "asgi_app:app"],
                cwd=self.home,
                env=os.environ
                | {"OFFER": str(self.offer), "LIMIT": str(self._limit), "PYTHONPATH": _OURS},
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509  one prctl(2)
            )
        try:
            until(self._answers, 15.0, "uvicorn answers")
            until(lambda: len(self.seen()) == self._workers, 15.0, "every process offers")
        except BaseException:
            print(self.log.read_text())
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def kill(self):
        """SIGKILL, to its children too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def seen(self):
        """The processes that offer and live."""
        found = {int(path.name.split("-")[0]) for path in self.offer.glob("*.sock")}
        return {pid for pid in found if Path(f"/proc/{pid}").exists()}

    def _answers(self):
        assert self.process.poll() is None, self.log.read_text()
        if not self.port:
            text = self.log.read_text()
            if "Uvicorn running on" not in text:
                return False
            self.port = int(text.split("http://127.0.0.1:")[1].split()[0])
        with contextlib.suppress(OSError, IndexError):
            return http_get(self.port, "/")[0] == 200
        return False
