"""A real daemon over a real gunicorn under traffic, which has learned something."""

import json
import socket
import sys
import threading
from contextlib import ExitStack, contextmanager

from gunicorn_service import GunicornService, http_get, until
from started import Started, answers
from test_daemon import Daemon, free_port

from poolwright.sensors.access_log import gunicorn_flags

LEARNED_S = 120.0


class ApiDaemon:
    """The daemon's address, its files, and its process."""

    def __init__(self, made, started):
        self.port, self.folder, self.journal = made.http, made.folder, made.journal
        self.log, self.started, self.pools = started.log, started, made.pools
        self.pid = started.pid

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def get(self, path):
        """The JSON of a page under /api/v1."""
        status, body = http_get(self.port, f"/api/v1{path}", timeout_s=20.0)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def learned(self):
        """Whether a plan is in force and a decision is journalled."""
        return self.pools()[0]["plan"] and self.get("/pools/web/decisions?from_s=0&limit=1")


def _asking(port, over):
    while not over.wait(0.03):
        http_get(port, "/sleep?s=0.01")


@contextmanager
def api_daemon(folder, *, config="", **policy):
    """Started, under traffic, with its first plan. `config`: lines for the configuration."""
    syslog = free_port(socket.SOCK_DGRAM)
    with ExitStack() as stack:
        (folder / "gunicorn").mkdir()
        flags = gunicorn_flags(f"127.0.0.1:{syslog}")
        service = stack.enter_context(GunicornService(folder / "gunicorn", workers=3, flags=flags))
        over = threading.Event()
        client = threading.Thread(target=_asking, args=(service.port, over), daemon=True)
        client.start()
        stack.callback(client.join)
        stack.callback(over.set)
        made = Daemon(folder / "daemon", service, syslog=syslog, **policy)
        made.config.write_text(config + made.config.read_text())
        command = [sys.executable, "-m", "poolwright", "run", "--config", str(made.config)]

        def ready():
            return answers(made.http) and http_get(made.http, "/readyz", timeout_s=20.0)[0] == 200

        started = Started(command, made.folder, ready)
        started.start()
        stack.callback(started.stop)
        daemon = ApiDaemon(made, started)
        until(daemon.learned, LEARNED_S, "a plan is in force")
        yield daemon
