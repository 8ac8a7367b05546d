"""A booted systemd with templates of real workers, and a broker that counts what became of tasks.

One machine serves all tests of a run: `machine(request)` boots it at the first call, and gives it
with two instances of worker@.service and nothing else. A worker takes tasks from the broker of the
test over loopback; told to leave, it ends the task that it has and takes no other.
"""

import asyncio
import contextlib
import os
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
import systemd_machine

_WORKER = """
import os, signal, socket, sys, time

stop = False

def leave(*_):
    global stop
    stop = True

def work(link):
    lines = link.makefile("rw")
    while not stop:
        lines.write("next\\n")
        lines.flush()
        task = lines.readline().split()
        if not task:
            return
        time.sleep(float(task[1]))
        lines.write(f"done {task[0]}\\n")
        lines.flush()

if sys.argv[2:] != ["stubborn"]:
    signal.signal(signal.SIGTERM, leave)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.path.exists(f"/run/bad.{sys.argv[1]}"):
    sys.exit(3)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while not stop:
    try:
        with socket.create_connection(("127.0.0.1", int(open("/run/broker").read())), 1) as link:
            link.settimeout(None)
            work(link)
    except (OSError, ValueError):
        pass
    time.sleep(0.02)
"""

_UNIT = """[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
ExecStart=/usr/bin/python3 /opt/worker.py %i {word}
{more}
"""
_TEMPLATES = {
    "worker": ("", "Restart=on-failure\nRestartSec=400ms\nCPUQuota=50%\nMemoryMax=100M"),
    "plain": ("", ""),
    r"we\x2db": ("", ""),
    "stubborn": ("stubborn", "TimeoutStopSec=500ms"),
}
_SYSUSERS = "u poolwright - - -\n"
_BUS = "/run/dbus/system_bus_socket"
_BOOTED = pytest.StashKey()
ROOT = Path(__file__).parents[2]
REPO = "/opt/poolwright/repo"
SITE = "/opt/poolwright/site"
PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
ENV = {"LD_LIBRARY_PATH": "/opt/python/lib", "PYTHONPATH": f"{REPO}/daemon:{SITE}"}


def machine(request):
    """The machine of this test run, with worker@1 and worker@2."""
    booted = request.config.stash.get(_BOOTED, None)
    if booted is None:
        booted = _boot(request.config)
        request.config.stash[_BOOTED] = booted
    names = " ".join(f"'{name}@*'" for name in _TEMPLATES)
    booted.run("sh", "-c", f"rm -f /run/bad.* /run/broker; systemctl kill -s KILL {names}; true")
    booted.run("sh", "-c", f"systemctl stop {names}; systemctl reset-failed")
    booted.run("systemctl", "start", "worker@1", "worker@2")
    return booted


def _boot(config):
    assert os.geteuid() == 0, "only root can boot a machine"
    missing = systemd_machine.missing()
    assert not missing, f"{', '.join(missing)} missing: {systemd_machine.PACKAGES}"
    files = {
        "/opt/worker.py": (0o644, _WORKER),
        "/usr/lib/sysusers.d/poolwright.conf": (0o644, _SYSUSERS),
    }
    for name, (word, more) in _TEMPLATES.items():
        path = f"/etc/systemd/system/{name}@.service"
        files[path] = 0o644, _UNIT.format(word=word, more=more)
    binds = {
        Path(sys.base_prefix): "/opt/python",
        ROOT: REPO,
        Path(sysconfig.get_path("purelib")): SITE,
    }
    folder = tempfile.TemporaryDirectory(prefix="units")
    config.add_cleanup(folder.cleanup)
    booted = systemd_machine.Machine(Path(folder.name), binds, files)
    config.add_cleanup(booted.close)
    booted.__enter__()
    booted.run("systemd-sysusers", "poolwright.conf")
    return booted


def bus(booted):
    """The machine's D-Bus, as the host may open it."""
    return str(booted.path(_BUS))


def active(booted, template="worker"):
    """The numbers of the active instances, as systemctl tells."""
    listed = booted.run(
        "systemctl", "list-units", "--plain", "--no-legend", "--state=active", f"{template}@*"
    )
    return sorted(int(line.split("@")[1].split(".")[0]) for line in listed.splitlines())


class Broker:
    """Hands tasks of `seconds` to whoever asks, in an async test; the workers find it by a file."""

    def __init__(self, booted, seconds):
        self.given = self.done = self.lost = 0
        self._seconds = seconds
        self._open = True
        self._file = booted.path("/run/broker")
        self._links = set()
        self._asked = asyncio.Event()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._file.write_text(str(self._server.sockets[0].getsockname()[1]))
        return self

    async def __aexit__(self, *_):
        """No new tasks; those that were given are waited for."""
        await self.finish()
        self._file.unlink(missing_ok=True)
        self._server.close()
        await self._server.wait_closed()

    async def busy(self, workers):
        """Until so many tasks were given."""
        async with asyncio.timeout(10):
            while self.given < workers:
                self._asked.clear()
                await self._asked.wait()

    async def finish(self):
        """Give nothing more, and wait for what was given."""
        self._open = False
        await asyncio.gather(*self._links)

    async def _serve(self, reader, writer):
        self._links.add(task := asyncio.current_task())
        pending = None
        try:
            while line := (await reader.readline()).decode().split():
                if line[0] == "done":
                    assert line[1] == pending
                    self.done, pending = self.done + 1, None
                elif self._open:
                    self.given += 1
                    self._asked.set()
                    pending = str(self.given)
                    writer.write(f"{pending} {self._seconds}\n".encode())
                    await writer.drain()
                else:
                    return
        except ConnectionError:
            pass  # a worker was killed
        finally:
            self.lost += pending is not None
            self._links.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
