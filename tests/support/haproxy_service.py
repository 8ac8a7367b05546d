"""A real HAProxy on 127.0.0.1 for tests, with a service behind it that takes its time.

    with HaproxyService(tmp_path, servers=2, maxconn=2) as service:
        http_get(service.port, "/sleep?s=0.1")

Everything that was started is ended, by its process id: on leaving, and by the kernel should the
test run be killed.
"""

import contextlib
import signal
import socket
import sys
from pathlib import Path

from gunicorn_service import http_get, until
from started import Started, answers, free_port, program

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
        self.haproxy = self.app = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start the service behind, once, and HAProxy; wait until both answer."""
        try:
            if self.app is None:
                argv = [sys.executable, "-c", _APP, str(self.behind)]
                self.app = Started(argv, self.folder, lambda: answers(self.behind)).start()
            self.write()
            argv = [program("haproxy"), "-W", "-f", str(self.config)]
            self.haproxy = Started(argv, self.folder, self._ready).start()
        except BaseException:
            self.stop()
            raise
        return self

    def _ready(self):
        done = self._answers() and self.info().get("Stopping") == "0"
        return done and self.rows()["BACKEND"]["scur"] == "0"  # that answer has been counted

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
        log = self.haproxy.log
        told = len(log.read_text())

        def heard():
            self.haproxy.signal(signal.SIGUSR2)  # a master just started may miss it
            with contextlib.suppress(AssertionError):
                return until(lambda: "Reloading" in log.read_text()[told:], 1.0, "heard")

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
        self.haproxy.kill()
        until(lambda: not self.info(), 5.0, "HAProxy has gone")

    def stop(self):
        """End all. May be called twice."""
        for started in (self.haproxy, self.app):
            if started is not None:
                started.kill()

    def _answers(self):
        with contextlib.suppress(OSError, IndexError):
            return http_get(self.port, "/")[0] == 200
