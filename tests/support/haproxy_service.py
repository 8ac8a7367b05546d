"""A real HAProxy on 127.0.0.1 for tests, with a service behind it that takes its time.

    with HaproxyService(tmp_path, servers=2, maxconn=2) as service:
        http_get(service.port, "/sleep?s=0.1")

Everything that was started is ended, by its process id: on leaving, and by the kernel should the
test run be killed.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from gunicorn_service import _die_with_parent, http_get, until

_APP = '''
import asyncio, sys
from urllib.parse import parse_qs

async def serve(reader, writer):
    """/sleep?s=SECONDS answers after so long, /err with a 500, all else at once."""
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            path, _, query = head.split()[1].decode().partition("?")
            await asyncio.sleep(float(parse_qs(query).get("s", ["0"])[0]))
            status = b"500 Broken" if path == "/err" else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\\r\\nContent-Length: 1\\r\\n\\r\\n1")
            await writer.drain()
            if b"Connection: close" in head:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()

asyncio.run(main())
'''
_CONFIG = """\
global
  stats socket {folder}/admin.sock mode 600 level admin
  stats socket {folder}/user.sock mode 600 level user
  {extra_global}
defaults
  mode {mode}
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout queue 20s
  retries 0
frontend fe
  bind 127.0.0.1:{port}
  {extra_frontend}
  default_backend app
frontend pages
  mode http
  bind 127.0.0.1:{pages}
  stats enable
  stats uri /stats
backend app
  balance {balance}
"""
_START_S = 15.0


def free_port():
    """A TCP port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def binary():
    """haproxy's path; the test fails naming what is missing."""
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    assert found, "haproxy is missing: apt-get install haproxy"
    return found


class HaproxyService:
    """HAProxy in `folder`: port, pages (statistics), admin and user (sockets) are attributes."""

    def __init__(
        self,
        folder,
        *,
        servers=1,
        maxconn=2,
        weight=100,
        mode="http",
        balance="roundrobin",
        agent=None,
        frontend="",
        extra="",
    ):
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.port, self.pages, self.behind = free_port(), free_port(), free_port()
        self.admin, self.user = self.folder / "admin.sock", self.folder / "user.sock"
        self.config = self.folder / "haproxy.cfg"
        self.log = self.folder / "haproxy.log"
        self.url = f"http://127.0.0.1:{self.pages}/stats;csv"
        self._shape = {
            "servers": servers,
            "maxconn": maxconn,
            "weight": weight,
            "mode": mode,
            "balance": balance,
            "agent": agent,
            "frontend": frontend,
            "extra": extra,
        }
        self.process = self.app = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start the service behind, once, and HAProxy; wait until both answer."""
        try:
            if self.app is None:
                self.app = self._run([sys.executable, "-c", _APP, str(self.behind)])
                until(self._served, _START_S, "the service behind HAProxy answers")
            self.write()
            self.process = self._run([binary(), "-W", "-f", str(self.config)])
            until(self._ready, _START_S, f"HAProxy answers, in {self.folder}")
        except BaseException:
            self.stop()
            raise
        return self

    def _ready(self):
        return self._answers() and self.info().get("Stopping") == "0"

    def write(self, **shape):
        """The configuration file, with some of its shape changed."""
        self._shape |= shape
        s = self._shape
        agent = ""
        if s["agent"] is not None:
            host, _, port = s["agent"].rpartition(":")
            agent = f" agent-check agent-inter 200ms agent-addr {host} agent-port {port}"
        limit = "" if s["maxconn"] is None else f" maxconn {s['maxconn']}"
        lines = [
            f"  server s{n + 1} 127.0.0.1:{self.behind}{limit} weight {s['weight']}{agent}"
            for n in range(s["servers"])
        ]
        text = _CONFIG.format(
            folder=self.folder,
            port=self.port,
            pages=self.pages,
            mode=s["mode"],
            balance=s["balance"],
            extra_global=s["extra"],
            extra_frontend=s["frontend"],
        )
        self.config.write_text(text + "\n".join(lines) + "\n")

    def reload(self, **shape):
        """As systemd does it: SIGUSR2 to the master; wait until another worker answers."""
        before = self.info()["Pid"]
        self.write(**shape)
        told = len(self.log.read_text())

        def heard():
            os.kill(self.process.pid, signal.SIGUSR2)  # a master just started may miss it
            with contextlib.suppress(AssertionError):
                return until(lambda: "Reloading" in self.log.read_text()[told:], 1.0, "heard")

        until(heard, _START_S, "HAProxy reloads")
        until(lambda: self.info().get("Pid") not in (None, before), _START_S, "another worker")
        until(self._answers, _START_S, "HAProxy answers after a reload")

    def ask(self, text):
        """What HAProxy answers at its admin socket."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5.0)
            link.connect(str(self.admin))
            link.sendall(f"{text}\n".encode())
            chunks = []
            while chunk := link.recv(65536):
                chunks.append(chunk)
        return b"".join(chunks).decode()

    def info(self):
        """`show info`; nothing while HAProxy starts."""
        try:
            pairs = (line.partition(": ") for line in self.ask("show info").splitlines())
            return {key: text for key, _, text in pairs}
        except OSError:
            return {}

    def rows(self):
        """Statistics of the backend by server, seen past poolwright."""
        head, *lines = self.ask("show stat app 6 -1").strip().splitlines()
        rows = [dict(zip(head.split(","), line.split(","), strict=False)) for line in lines]
        return {row["svname"]: row for row in rows}

    def limit(self, server="s1"):
        """The maxconn of a server as HAProxy tells it."""
        return int(self.rows()[server]["slim"])

    def kill(self):
        """SIGKILL HAProxy, master and worker."""
        worker = self.info().get("Pid")
        self.process.kill()
        self.process.wait()
        if worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(worker), signal.SIGKILL)
            until(lambda: not self.info(), 5.0, "the worker has gone")

    def stop(self):
        """End all. May be called twice."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if self.app is not None:
            self.app.kill()
            self.app.wait()

    def _run(self, command):
        with self.log.open("ab") as out:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  one prctl(2)
            )

    def _served(self):
        with contextlib.suppress(OSError, IndexError):
            return http_get(self.behind, "/")[0] == 200

    def _answers(self):
        assert self.process.poll() is None, f"haproxy ended: {self.log.read_text()}"
        try:
            if self._shape["mode"] == "http":
                return http_get(self.port, "/")[0] == 200
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return bool(self.info())
        except (OSError, IndexError):
            return False
