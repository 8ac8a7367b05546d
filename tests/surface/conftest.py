"""The builders in tests/support, and a running Surface."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import snapshots
from asking import Client

from poolwright.surface.http import Surface


class World:
    """What the Surface is given, and what it was asked."""

    def __init__(self):
        self.snapshot = snapshots.snapshot()
        self.mono_ns = self.snapshot.pools[0].tick.mono_ns
        self.commands = []

        self.refusal = ""

    def command(self, pool, command):
        if pool != "web":
            raise KeyError(pool)
        self.commands.append((pool, command))
        return self.refusal

    def latest(self):
        return self.snapshot


@pytest.fixture
def world():
    """One pool that is well."""
    return World()


@pytest.fixture
async def surface(world, tmp_path):
    """A Surface on a free port and on a UNIX socket."""
    made = Surface(lambda: world.snapshot, mono_ns=lambda: world.mono_ns)
    await made.start("127.0.0.1:0", str(tmp_path / "control.sock"), world.command)
    yield made
    await made.close()


@pytest.fixture
async def client(surface):
    """An HTTP client of the TCP side."""
    return Client(surface.address)
