"""Runs a program of the operator's: no shell, its own process group, an end to its time and words.

It gets no more of the daemon than its arguments: an empty standard input, an environment of PATH,
LANG and what was configured, / as its folder. Whatever is still there of its group when the time is
over or the caller is cancelled, is killed.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass

from poolwright.core.errors import PlantFault

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_BYTES = 64 * 1024
_MOST_SAID = 200
_REAP_S = 1.0  # a process that was killed and does not end by then is stuck in the kernel


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
        process: Process | None = None
        whole = False
        try:
            async with asyncio.timeout(within_s):
                process = await self._start(argv)
                assert process.stdout is not None
                assert process.stderr is not None
                reads = (_all(stream, argv[0]) for stream in (process.stdout, process.stderr))
                out, err = await asyncio.gather(*reads)
                status = await process.wait()
                whole = True
                return Ended(name=argv[0], status=status, out=out, err=err)
        except TimeoutError as exc:
            raise PlantFault(f"{argv[0]} has not ended within {within_s:g} s: killed") from exc
        finally:
            if process is not None and not whole:
                await _kill(process)

    async def _start(self, argv: tuple[str, ...]) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                *argv,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                env=self._env,
                cwd="/",
                start_new_session=True,
            )
        except PermissionError:
            raise
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise PlantFault(f"cannot run {argv[0]}: {why}") from error


async def _all(stream: asyncio.StreamReader, name: str) -> bytes:
    """To the end. Raises PlantFault when that is too far."""
    found = bytearray()
    while piece := await stream.read(_MOST_BYTES):
        found += piece
        if len(found) > _MOST_BYTES:
            raise PlantFault(f"{name} prints more than {_MOST_BYTES} bytes: killed")
    return bytes(found)


async def _kill(process: Process) -> None:
    """SIGKILL to the group, of which the program was the first; it may have left others behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    gone = asyncio.ensure_future(process.wait())
    await asyncio.wait([gone], timeout=_REAP_S)
    if not gone.done():
        gone.cancel()
    # the only way to let go of pipes that a process of another group may hold for ever
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001


def _signalled(number: int) -> str:
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"was ended by signal {number}"
