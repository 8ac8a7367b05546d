"""A real daemon over a real gunicorn under traffic, which has learned something."""

import json
import threading
from contextlib import ExitStack, contextmanager

from gunicorn_service import GunicornService, http_get, until
from initialised import free_udp_port
from test_daemon import Daemon

from poolwright.sensors.access_log import gunicorn_flags

LEARNED_S = 120.0


class ApiDaemon(Daemon):
    """The daemon, asked over HTTP as its users do."""

    @property
    def port(self):
        return self.http

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def page(self, path):
        """The JSON of a page under /api/v1."""
        status, body = http_get(self.port, f"/api/v1{path}", timeout_s=20.0)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def learned(self):
        """Whether a plan is in force and a decision is journalled."""
        return self.pools()[0]["plan"] and self.page("/pools/web/decisions?from_s=0&limit=1")


def _asking(port, over):
    while not over.wait(0.03):
        http_get(port, "/sleep?s=0.01")


@contextmanager
def api_daemon(folder, *, config="", **policy):
    """Started, under traffic, with its first plan. `config`: lines for the configuration."""
    syslog = free_udp_port()
    with ExitStack() as stack:
        (folder / "gunicorn").mkdir()
        flags = gunicorn_flags(f"127.0.0.1:{syslog}")
        service = stack.enter_context(GunicornService(folder / "gunicorn", workers=3, flags=flags))
        over = threading.Event()
        client = threading.Thread(target=_asking, args=(service.port, over), daemon=True)
        client.start()
        stack.callback(client.join)
        stack.callback(over.set)
        daemon = ApiDaemon(folder / "daemon", service, syslog=syslog, **policy)
        daemon.config.write_text(config + daemon.config.read_text())
        stack.callback(daemon.kill)
        daemon.start()
        until(daemon.learned, LEARNED_S, "a plan is in force")
        yield daemon
        daemon.stop()
