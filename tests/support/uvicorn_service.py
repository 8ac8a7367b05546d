"""A real `uvicorn --workers N` on 127.0.0.1 for tests, and clients that a proxy stands in front of.

with UvicornService(tmp_path, workers=3) as service:
    http_get(service.port, "/sleep?s=0.1")
"""

import contextlib
import sys
from pathlib import Path

from gunicorn_service import Load, http_get
from service_process import ServiceProcess

_APP = '''
import asyncio, os, time
from urllib.parse import parse_qs

time.sleep(float(os.environ.get("LOADS_S", "0")))

async def app(scope, receive, send):
    """/sleep?s=SECONDS answers after so long, all else at once. The body is the worker's pid."""
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    await asyncio.sleep(float(parse_qs(scope["query_string"].decode()).get("s", ["0"])[0]))
    body = str(os.getpid()).encode()
    head = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
'''


class UvicornService(ServiceProcess):
    """uvicorn with `pidfile`, which we write as a unit would."""

    def __init__(self, folder, *, workers=2, flags=(), env=None):
        super().__init__(folder, env=env)
        self.workers = workers
        self.pidfile = self.folder / "uvicorn.pid"
        (self.folder / "sleeping_asgi.py").write_text(_APP)
        argv = [sys.executable, "-m", "uvicorn", "sleeping_asgi:app", "--lifespan", "off"]
        argv += ["--host", "127.0.0.1", "--port", str(self.port), "--no-access-log"]
        self.argv = [*argv, "--workers", str(workers), *flags]

    def answers(self):
        """Whether all of its workers have said that they serve."""
        self.pidfile.write_text(f"{self.pid}\n")
        served = self.log.read_text()[self.told :].count("Started server process")
        return served >= self.workers and http_get(self.port, "/")[0] > 0

    def is_worker(self, pid):
        """The other child is multiprocessing's resource tracker."""
        with contextlib.suppress(OSError):
            return b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False


class Retrying(Load):
    """Clients behind a proxy that tries again what was hung up on without a byte of an answer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hung_up = 0

    async def _request(self):
        for _ in range(2):
            try:
                outcome = await super()._request()
            except ConnectionResetError:
                outcome = "empty"
            if outcome != "empty":
                return outcome
            self.hung_up += 1
        return "empty"
