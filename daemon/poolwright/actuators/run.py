"""Runs a program of the operator's: no shell, its own process group, an end to its time and words.

It gets no more of the daemon than its arguments: an empty standard input, an environment of PATH,
LANG and what was configured, / as its folder, no descriptor but the first three. When the time is
over or the caller is cancelled, all of its group is killed. What it has started and left running
when it ended by itself is left alone: that may be the service.

Not the event loop's own subprocesses: uvloop's (0.23) leave copies of the pipes open in the child,
so that whatever it leaves behind would hold up the end of its output for ever.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from poolwright.core.errors import PlantFault

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_BYTES = 64 * 1024
_MOST_SAID = 200
_REAP_S = 1.0  # a process that was killed and has not ended by then is stuck in the kernel

Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended. As a string: for people."""

    name: str
    status: int  # minus the signal that ended it
    out: bytes
    err: bytes

    def __str__(self) -> str:
        """Its status, and the last of what it said."""
        said = (self.err.strip() or self.out.strip()).decode("utf-8", "replace")
        tail = "".join(c if c.isprintable() else " " for c in said[-_MOST_SAID:])
        how = f"ended with status {self.status}" if self.status >= 0 else _signalled(-self.status)
        return f"{self.name} {how}" + (f": {tail}" if tail else "")


class Program:
    """Runs programs in one environment."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """`env` is added to PATH and LANG."""
        self._env = {"PATH": _PATH, "LANG": "C.UTF-8", **env}

    async def output(self, argv: tuple[str, ...], within_s: float) -> bytes:
        """What a program prints that ends with status 0. Raises PlantFault otherwise."""
        try:
            ended = await self.run(argv, within_s)
        except PermissionError as error:
            raise PlantFault(f"{argv[0]}: {error.strerror}") from error
        if ended.status:
            raise PlantFault(str(ended))
        return ended.out

    async def run(self, argv: tuple[str, ...], within_s: float) -> Ended:
        """Run to the end. Raises PlantFault: not there, too late, too many words.

        PermissionError when it may not be run.
        """
        process = self._start(argv)
        watched = _Watched(process, argv[0])
        try:
            async with asyncio.timeout(within_s):
                await watched.ended
            out, err = watched.rest()
            return Ended(name=argv[0], status=process.wait(), out=out, err=err)
        except TimeoutError as exc:
            raise PlantFault(f"{argv[0]} has not ended within {within_s:g} s: killed") from exc
        finally:
            if process.returncode is None:
                await _kill(process)
            watched.close()

    def _start(self, argv: tuple[str, ...]) -> Process:
        try:
            return subprocess.Popen(
                argv,
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._env,
                cwd="/",
                start_new_session=True,
            )
        except PermissionError:
            raise
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise PlantFault(f"cannot run {argv[0]}: {why}") from error


class _Watched:
    """The output and the end of a process. `ended` fails when it says too much."""

    def __init__(self, process: Process, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._name = name
        assert process.stdout is not None
        assert process.stderr is not None
        self._heard: dict[IO[bytes], bytearray] = {
            process.stdout: bytearray(),
            process.stderr: bytearray(),
        }
        self._handle = os.pidfd_open(process.pid)
        self._loop.add_reader(self._handle, self._end)
        for stream in self._heard:
            os.set_blocking(stream.fileno(), False)
            self._loop.add_reader(stream.fileno(), self._hear, stream)

    def rest(self) -> tuple[bytes, ...]:
        """All that it wrote on either stream, once it has ended. Raises PlantFault."""
        for stream in self._heard:
            while self._read(stream):
                pass
        return tuple(bytes(heard) for heard in self._heard.values())

    def close(self) -> None:
        """Let go of everything."""
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        for stream in self._heard:
            self._loop.remove_reader(stream.fileno())
            stream.close()
        if not self.ended.cancel() and not self.ended.cancelled():
            self.ended.exception()  # it has been told, or something worse was

    def _hear(self, stream: IO[bytes]) -> None:
        try:
            if not self._read(stream):
                self._loop.remove_reader(stream.fileno())
        except PlantFault as fault:
            self._loop.remove_reader(stream.fileno())
            if not self.ended.done():
                self.ended.set_exception(fault)

    def _read(self, stream: IO[bytes]) -> bool:
        """Take what is there; whether there may be more. Raises PlantFault."""
        try:
            piece = os.read(stream.fileno(), _MOST_BYTES)
        except BlockingIOError:
            return not self.ended.done()
        heard = self._heard[stream]
        heard += piece
        if len(heard) > _MOST_BYTES:
            raise PlantFault(f"{self._name} prints more than {_MOST_BYTES} bytes: killed")
        return bool(piece)

    def _end(self) -> None:
        self._loop.remove_reader(self._handle)
        if not self.ended.done():
            self.ended.set_result(None)


async def _kill(process: Process) -> None:
    """SIGKILL to its group. It is not reaped yet, so the group's number is still its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    until_s = time.monotonic() + _REAP_S
    while process.poll() is None and time.monotonic() < until_s:  # noqa: ASYNC110  2 ms, once
        await asyncio.sleep(0.002)


def _signalled(number: int) -> str:
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"was ended by signal {number}"
