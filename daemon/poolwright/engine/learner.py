"""The learner process as the control process sees it: asked, waited for, ended, restarted.

One process serves all pools, one fit at a time. It is started when there is something to fit,
ended when it was idle for `idle_s`, killed when a fit is later than `deadline_s` (start included),
and started again, after a pause that doubles, when it died. Nothing here blocks or raises into
the tick: a fit ends in a Plan (`take`) or in a text (`failure`).
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from poolwright.core.model import FitRequest, Plan
from poolwright.engine.snapshot import LearnerState
from poolwright.learn.wire import decode_reply, encode

_LINE_LIMIT = 4 << 20  # bytes; a plan takes a tenth of a megabyte
_STDERR_KEPT = 4096
_END_S = 2.0  # grace between end of input and the kill
_PAUSE_MOST_S = 60.0
_RSS_EVERY_S = 1.0
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class _Died(Exception):
    """The process ended, or said what cannot be understood."""


class Learner:
    """Client of `python -m poolwright.learn`. Use from one event loop; close() at the end."""

    def __init__(
        self,
        *,
        command: Sequence[str] = (sys.executable, "-P", "-m", "poolwright.learn"),
        idle_s: float = 60.0,
        deadline_s: float = 20.0,
        pause_s: float = 0.5,
    ) -> None:
        """`command` gets this process's id as its last argument. Nothing is started yet.

        `pause_s` is waited after the first death in a row, twice as long after each further one,
        up to a minute.
        """
        self._command = (*command, str(os.getpid()))
        self._idle_s = idle_s
        self._deadline_s = deadline_s
        self._pause_s = pause_s
        self._pending: dict[str, FitRequest] = {}
        self._plans: dict[str, Plan] = {}
        self._failures: dict[str, str] = {}
        self._fitting: str | None = None  # the pool whose answer is still wanted
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stderr = b""
        self._stderr_task: asyncio.Task[None] | None = None
        self._state = LearnerState.ASLEEP
        self._deaths = 0  # in a row
        self._resume_at = 0.0
        self._rss: tuple[float, int | None] = (0.0, None)
        self._closed = False

    def submit(self, pool: str, request: FitRequest) -> None:
        """Ask for a plan; returns at once. A request of `pool` that still waits is replaced."""
        assert not self._closed, "the learner is closed"
        if self._task is not None and self._task.done():
            self._task.result()  # it never returns while it is ours: this raises what ended it
        self._pending[pool] = request
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve(), name="learner")

    def take(self, pool: str) -> Plan | None:
        """A finished plan, once."""
        return self._plans.pop(pool, None)

    def failure(self, pool: str) -> str:
        """Why the last request of `pool` came to nothing, once; empty when it did not fail."""
        return self._failures.pop(pool, "")

    def forget(self, pool: str) -> None:
        """Drop what `pool` asked for: an answer that still comes is thrown away."""
        for kept in (self._pending, self._plans, self._failures):
            kept.pop(pool, None)
        if self._fitting == pool:
            self._fitting = None

    @property
    def state(self) -> LearnerState:
        """What the process is doing."""
        idle = self._state is LearnerState.IDLE
        if idle and self._process is not None and self._process.returncode is not None:
            return LearnerState.ASLEEP
        return self._state

    @property
    def pid(self) -> int | None:
        """The process, None when there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def rss_bytes(self) -> int | None:
        """Resident memory of the process, at most a second old; None when there is none."""
        if self.pid is None:
            return None
        now = time.monotonic()
        if now - self._rss[0] >= _RSS_EVERY_S or self._rss[1] is None:
            self._rss = (now, _resident_bytes(self.pid))
        return self._rss[1]

    async def close(self) -> None:
        """End the process and forget what waits. May be called twice."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._end(kill=True)
        self._state = LearnerState.ASLEEP

    async def _serve(self) -> None:
        """Fit what is pending; end the process when there was nothing for `idle_s`."""
        while True:
            self._wake.clear()
            if not self._pending:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._idle_s):
                        await self._wake.wait()
            if not self._pending:
                await self._end(kill=False)
                if self._state is not LearnerState.FAILED:
                    self._state = LearnerState.ASLEEP
                if not self._pending:  # nothing came while it ended, and nothing awaits from here
                    self._task = None
                    return
            await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
            pool = next(iter(self._pending), None)
            if pool is not None:  # None: forgotten during the pause
                await self._fit(pool, self._pending.pop(pool))

    async def _fit(self, pool: str, request: FitRequest) -> None:
        """One request, to a plan or to a failure."""
        self._failures.pop(pool, None)
        self._fitting = pool
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await self._ask(request)
        except TimeoutError:
            answer = await self._lose(
                f"the learner was killed: no plan within {self._deadline_s:g} s"
            )
        except (_Died, OSError, ValueError) as error:
            answer = await self._lose(str(error))
        else:
            self._deaths, self._state = 0, LearnerState.IDLE
        wanted, self._fitting = self._fitting, None
        if wanted is None:
            return  # forgotten meanwhile
        if isinstance(answer, Plan):
            self._plans[pool] = answer
        else:
            self._failures[pool] = answer

    async def _lose(self, failure: str) -> str:
        """The process is dead or not to be trusted: kill it, and pause before the next."""
        await self._end(kill=True)
        said = self._stderr.decode(errors="replace").strip().splitlines()
        self._resume_at = time.monotonic() + min(_PAUSE_MOST_S, self._pause_s * 2.0**self._deaths)
        self._deaths = min(self._deaths + 1, 32)
        self._state = LearnerState.FAILED
        return f"{failure} ({said[-1].strip()})" if said else failure

    async def _ask(self, request: FitRequest) -> Plan | str:
        """The plan, or the learner's reason for giving none."""
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(encode(request))
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError, RuntimeError):
            line = b""  # it died (RuntimeError is uvloop's); what it leaves is told below
        else:
            line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            if line:
                raise _Died("the learner's answer is cut short")
            raise _Died(f"the learner ended with {_ending(await process.wait())}")
        try:
            reply = decode_reply(line)
        except ValueError as error:
            raise _Died(f"the learner's answer cannot be read: {error}") from error
        if reply.plan is None:
            return reply.error
        if reply.plan.version != request.version:
            raise _Died(f"the learner answered {reply.plan.version}, not {request.version}")
        return reply.plan

    async def _running(self) -> asyncio.subprocess.Process:
        """The process, started when there is none."""
        if self._process is not None and self._process.returncode is not None:
            await self._end(kill=False)
        if self._process is None:
            self._state = LearnerState.STARTING
            self._stderr = b""
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,  # Ctrl-C is ours to handle
            )
            assert self._process.stderr is not None
            self._stderr_task = asyncio.create_task(self._listen(self._process.stderr))
        else:
            self._state = LearnerState.FITTING
        return self._process

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        """Keep the last of what it says on standard error."""
        while said := await stream.read(_STDERR_KEPT):
            self._stderr = (self._stderr + said)[-_STDERR_KEPT:]

    async def _end(self, *, kill: bool) -> None:
        """End the process, reap it, and read the last of its standard error.

        Cancelled halfway, it may be called again: nothing is forgotten before it is done.
        """
        process, listener = self._process, self._stderr_task
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if kill:
            _kill(process)
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            _kill(process)
            await process.wait()
        if listener is not None:
            await asyncio.wait([listener], timeout=_END_S)
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
        self._process = self._stderr_task = None


def _kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL, which also ends a stopped process; one that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _ending(status: int) -> str:
    """`signal 9` or `exit status 1`."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _resident_bytes(pid: int) -> int | None:
    """From /proc/PID/statm; None when the process has gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
