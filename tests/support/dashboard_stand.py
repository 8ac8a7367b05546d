"""What the dashboard is looked at with: a gunicorn under load, the daemon that tunes it, a browser.

    with Stand(folder) as stand, chromium() as browser:
        page = browser.new_page(); page.goto(stand.url)

The daemon is restarted at the same address by `restart`. Everything is ended by its process id, and
by the kernel should the test run be killed.
"""

import asyncio
import contextlib
import json
import shutil
import socket
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from gunicorn_service import GunicornService, Load, until
from playwright.sync_api import sync_playwright
from started import Started, free_port

_POLICY = """\
version: 1
name: quick
mode: auto
knobs:
  workers: {min: 2, max: 8, slew: 2, settle: 1s}
objective: {latency_p99: 1.0, memory: 0.2, power: 0.1}
slo:
  latency_p99: {below: 250ms}
  error_ratio: {below: 1%}
explore: {window: 3s, warmup: 2, probes_per_hour: 600, budget: 100%}
cadence: 500ms
"""
_CONFIG = """\
version: 1
listen: 127.0.0.1:{http}
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}/policies.d
pools:
"""
_POOL = """\
  - name: {name}
    policy: quick
    actuator: {{kind: gunicorn, pidfile: {pidfile}}}
    sensors:
      - {{kind: access_log, listen: "127.0.0.1:{syslog}"}}
      - {{kind: process_tree, pidfile: {pidfile}}}
      - {{kind: listen_queue, pidfile: {pidfile}}}
      - {{kind: host}}
      - {{kind: power}}
"""
WITHIN_S = 60.0
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def _free_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stand:
    """`names`: of the pools, each with a gunicorn of its own; the first one is under load.

    `journal`: one to begin with; what the daemon remembers is shown.
    """

    def __init__(self, folder, names=("web",), *, journal=None):
        self.folder = Path(folder)
        self.names = names
        self.journal = journal
        self.port = free_port()
        self.services = {}
        self.daemon = None
        self._done = threading.Event()
        self._load = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_):
        self._end()

    def _start(self):
        (self.folder / "policies.d").mkdir(parents=True)
        (self.folder / "policies.d" / "quick.yaml").write_text(_POLICY)
        if self.journal is not None:
            shutil.copy(self.journal, self.folder / "journal.db")
        config = self.folder / "poolwright.yaml"
        pools = "".join(map(self._pool, self.names))
        config.write_text(_CONFIG.format(http=self.port, folder=self.folder) + pools)
        argv = (sys.executable, "-m", "poolwright", "run", "--config", str(config))
        self.daemon = Started(argv, self.folder, lambda: True)
        self.restart()
        self._load = threading.Thread(target=lambda: asyncio.run(self._ask()))
        self._load.start()

    def _pool(self, name):
        folder, syslog = self.folder / name, _free_udp()
        folder.mkdir()
        flags = ("--log-syslog", "--log-syslog-to", f"udp://127.0.0.1:{syslog}")
        flags += ("--access-logformat", "poolwright %(s)s %(D)s %({x-request-start}i)s")
        self.services[name] = GunicornService(folder, workers=2, flags=flags).start()
        pidfile = self.services[name].pidfile
        return _POOL.format(name=name, pidfile=pidfile, syslog=syslog)

    def _ready(self):
        try:
            return bool(self.get("/api/v1/status")["pools"])
        except OSError:
            return False

    async def _ask(self):
        port = self.services[self.names[0]].port
        async with Load(port, "/sleep?s=0.03", clients=4):
            await asyncio.to_thread(self._done.wait)

    def get(self, path):
        """The JSON of a path of the daemon."""
        with urllib.request.urlopen(f"{self.url.rstrip('/')}{path}", timeout=10) as answer:
            return json.load(answer)

    def until(self, what, words):
        """Wait until `what(status of the first pool)` holds."""
        return until(lambda: what(self.get("/api/v1/status")["pools"][0]), WITHIN_S, words)

    def stop(self):
        """End the daemon, and nothing else."""
        self.daemon.stop()

    def restart(self):
        """Start it, again at the same address; ten pools of a busy host take their time."""
        self.daemon.start()
        until(self._ready, WITHIN_S, "the daemon answers")

    def _end(self):
        self._done.set()
        if self._load is not None:
            self._load.join()
        if self.daemon is not None:
            self.daemon.kill()
        for service in self.services.values():
            service.kill()


class Wire:
    """What a page took over the wire: of each path its first answer, for the page asks again."""

    def __init__(self, page):
        self._paths = {}
        self._sizes = {}
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.on("Network.requestWillBeSent", self._asked)
        network.on("Network.loadingFinished", self._loaded)

    @property
    def total_bytes(self):
        return sum(self._sizes.values())

    def _asked(self, event):
        self._paths[event["requestId"]] = urlsplit(event["request"]["url"]).path

    def _loaded(self, event):
        path = self._paths.get(event["requestId"], "")
        self._sizes.setdefault(path, event["encodedDataLength"])


@contextlib.contextmanager
def chromium():
    """The system's Chromium without a window, by Playwright; it asks nobody but the daemon."""
    path = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    assert path, "chromium is missing: apt-get install chromium (make servers)"
    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as made:
        browser = made.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()
