"""Sockets in a folder that answer what a test says, as a client that is broken or hostile would."""

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
from pathlib import Path

SHAPE = {"bins": [], "zeros": 0, "total": 0.0, "squares": 0.0}


def tasks(**more):
    """A pool that has done nothing."""
    names = ("running", "queued", "done", "failed")
    return dict.fromkeys(names, 0) | {"waited": SHAPE, "stayed": SHAPE, "ran": SHAPE} | more


def requests(**more):
    """A meter that has seen nothing."""
    names = ("in_flight", "open_streams", "ended", "errors", "carried", "odd", "refused")
    return dict.fromkeys(names, 0) | dict.fromkeys(("service", "queue", "latency"), SHAPE) | more


def answer(token="a", **more):
    """What a good client says."""
    said = {"pid": 1, "token": token, "born_ns": 1, "limit": 2, "running": 0}
    return said | {"tasks": tasks(), "requests": requests()} | more


class Crafted:
    """async with Crafted() as made: await made.says("1-a", answer())"""

    async def __aenter__(self):
        self.home = Path(tempfile.mkdtemp(prefix="pw", dir="/tmp"))
        self.folder = self.home / "o"
        self.folder.mkdir(mode=0o700)
        self.asked = []  # what was said to any of them
        self._said = {}
        self._servers = {}
        self._meeting = set()
        return self

    async def __aexit__(self, *_):
        for name in list(self._servers):
            await self.ends(name)
        for task in self._meeting:
            task.cancel()
        await asyncio.gather(*self._meeting, return_exceptions=True)
        shutil.rmtree(self.home)

    async def says(self, name, what):
        """From now on `name` answers so: an object for JSON, bytes, or an async function."""
        self._said[name] = what
        if name not in self._servers:
            path = str(self.folder / f"{name}.sock")

            async def meet(reader, writer):
                self._meeting.add(asyncio.current_task())
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await self._meet(name, reader, writer)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

            self._servers[name] = await asyncio.start_unix_server(meet, path)

    async def ends(self, name):
        """It ends, and leaves its socket."""
        server = self._servers.pop(name)
        server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await server.wait_closed()

    async def _meet(self, name, reader, writer):
        said = self._said[name]
        if callable(said):
            await said(reader, writer)
            return
        self.asked.append((name, json.loads(await reader.readline())))
        writer.write(said if isinstance(said, bytes) else json.dumps(said).encode() + b"\n")
        await writer.drain()

    def dead(self, name):
        """A socket's file whose process has gone."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(self.folder / f"{name}.sock"))
