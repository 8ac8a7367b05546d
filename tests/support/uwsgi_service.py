"""A real uWSGI on 127.0.0.1 for tests.

    with UwsgiService(tmp_path, workers=2, most=8) as service:
        http_get(service.port, "/sleep?s=0.1")

Debian's packages uwsgi-core and uwsgi-plugin-python3.
"""

import contextlib
import json
import os
import socket

from gunicorn_service import http_get, until
from service_process import ServiceProcess
from started import program

_APP = '''
import os, time
from urllib.parse import parse_qs

def app(environ, start_response):
    """/sleep?s=SECONDS answers after so long, /boom raises. The body is the worker's pid."""
    if environ["PATH_INFO"] == "/boom":
        raise ValueError("boom")
    time.sleep(float(parse_qs(environ["QUERY_STRING"]).get("s", ["0"])[0]))
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

if os.environ.get("LOADS_SLOWLY"):
    time.sleep(1.5)
'''


class UwsgiService(ServiceProcess):
    """uWSGI with `fifo` and `stats` (a path, or HOST:PORT when `stats_port`).

    `cheaper` None leaves the cheaper subsystem off, "" leaves its algorithm to uWSGI. The port is
    given as a number: a reload keeps only such a socket.
    """

    def __init__(
        self, folder, *, workers=2, most=8, cheaper="manual", flags=(), stats_port=0, env=None
    ):
        super().__init__(folder, env=env)
        self.fifo = self.folder / "master.fifo"
        self.stats = f"127.0.0.1:{stats_port}" if stats_port else str(self.folder / "stats.sock")
        (self.folder / "sleeping.py").write_text(_APP)
        argv = [program("uwsgi_python3"), "--http-socket", f"127.0.0.1:{self.port}"]
        argv += ["--wsgi-file", "sleeping.py", "--callable", "app"]
        argv += ["--master", "--processes", str(most)]
        if cheaper is not None:
            argv += ["--cheaper", "1", "--cheaper-initial", str(workers)]
            argv += ["--cheaper-algo", cheaper] if cheaper else []
        argv += ["--master-fifo", str(self.fifo), "--stats", self.stats, "--die-on-term"]
        self.argv = [*argv, *flags]

    def answers(self):
        """Whether it serves with all its workers, and tells so."""
        try:
            told = self.stats_told()["workers"]
        except (ConnectionError, FileNotFoundError, ValueError):
            return False  # the stats server is being made anew
        slots = [slot for slot in told if slot["status"] != "cheap"]
        ready = slots and all(slot["pid"] and slot["accepting"] for slot in slots)
        return ready and http_get(self.port, "/")[0] > 0

    def order(self, letter):
        """Write to the master FIFO, as a person would."""

        def write():
            try:
                file = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                return False  # being made anew
            with contextlib.closing(os.fdopen(file, "wb", buffering=0)) as fifo:
                return fifo.write(letter.encode())

        until(write, 2.0, "the master FIFO is read")

    def stats_told(self):
        """What the stats server says, as it is."""
        body = b""
        host, _, port = self.stats.rpartition(":")
        family = socket.AF_INET if port.isdigit() else socket.AF_UNIX
        with socket.socket(family) as link:
            link.connect((host, int(port)) if port.isdigit() else self.stats)
            while chunk := link.recv(65536):
                body += chunk
        return json.loads(body.decode(errors="replace"), strict=False)

    def kept(self):
        """How many workers uWSGI keeps."""
        return sum(worker["status"] != "cheap" for worker in self.stats_told()["workers"])
