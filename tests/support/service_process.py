"""What tests of servers with workers need: who serves, who may move them, reading until."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

from gunicorn_service import _lives
from started import Started, free_port

from poolwright.core.errors import PlantFault

_AS_NOBODY = """
import asyncio, importlib, json, os, sys
module, name, options = sys.argv[1:]
kind = getattr(importlib.import_module(module), name)
made = kind(kind.Options(**json.loads(options)), "web")
from poolwright.core.model import setting
os.setgroups([]); os.setgid(65534); os.setuid(65534)
async def main():
    try:
        seen = (await made.read()).setting["workers"]
    except Exception as error:
        seen = str(error)
    done = await made.apply(setting(workers=3), 1)
    print(json.dumps([seen, str(done.status), done.detail]))
asyncio.run(main())
"""


class ServiceProcess(Started):
    """A master and its workers at a `port`. A kind sets `argv` and gives `answers()`."""

    def __init__(self, folder, *, env=None):
        super().__init__(["service"], folder, self._ready_now, env=env)
        self.port = free_port()
        self.told = 0  # length of the log when it was last started

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()

    def start(self):
        """Start, also again, and wait until it answers."""
        self.told = self.log.stat().st_size if self.log.exists() else 0
        return super().start()

    def children(self):
        """The process ids of its workers that live, of any age."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in listed if _lives(pid) and self.is_worker(pid)]

    def is_worker(self, _pid):
        """Whether a child is a worker."""
        return True

    def _ready_now(self):
        with contextlib.suppress(OSError, IndexError, ValueError):
            return self.answers()
        return False


def starter(kind, tmp_path):
    """For a fixture: gives a function that starts services of `kind`, and ends them all."""
    started = []

    def start(**options):
        folder = tmp_path / f"service{len(started)}"
        folder.mkdir()
        started.append(kind(folder, **options))
        return started[-1].start()

    yield start
    for service in started:
        service.kill()


async def until_read(made, wanted, within_s=20.0):
    """Read until `wanted(applied)`; a fault in between is a tick without a read-back."""
    end, seen = time.monotonic() + within_s, None
    while True:
        try:
            seen = await made.read()
            if wanted(seen):
                return seen
        except PlantFault as fault:
            seen = fault
        assert time.monotonic() < end, seen
        await asyncio.sleep(0.05)


async def moved_by_nobody(service, kind, **options):
    """(level or fault, status, detail) of a move to 3 by the user nobody."""
    for folder in (service.folder, *service.folder.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _AS_NOBODY, kind.__module__, kind.__name__, json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
