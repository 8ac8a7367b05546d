"""Moves the worker count of a uWSGI through its master FIFO, one worker at a time, each read back.

`+` and `-` are written to the FIFO that `--master-fifo` names; the stats server (`--stats`) tells
what came of it. The master obeys once a second, and drains: it lets go of a worker only while that
one is idle, and waits for one to be. It does not look at a floor: a `-` too many takes the last
worker, so none is sent that could be, and one that is not obeyed is taken back by a `+`. That puts
things right in either case: what waits in the master is a sum, and a worker that has left in the
very moment is started again.

With `--threads` (or `--async`) uWSGI itself loses requests there (its issue 1983, open): a worker
told to leave takes one more and hangs up on it, under load about one for every two workers that
leave; without load it does not leave and is killed after `worker-reload-mercy`. So there only
growing is done, and shrinking is refused.

The level is how many workers accept requests and are there to stay (status not `cheap`). A reload
(`r`) starts with `--cheaper-initial`: another epoch (`wire.uwsgi_stats.Incarnation`).
"""

import asyncio
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from poolwright.actuators.outcome import Refusal, outcome
from poolwright.actuators.uwsgi_config import HOW, refusal
from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, Applied, Setting, setting
from poolwright.core.units import PathText, Seconds
from poolwright.wire.uwsgi_stats import DOC, Incarnation, Stats, StatsDenied, StatsServer

_KNOB = "workers"
_READ_S = 0.4  # the engine waits for 1 s
_SETTLE_S = 0.4  # a crashed worker is back within 0.03 s
_WHOLE_S = 30.0  # a master whose workers are not there by then has lost them
_POLL_S = 0.05
_POLL_MOST_S = 0.2
_FIFO_S = 1.0  # the master makes its FIFO anew after every writer
_PAST_S = 2.5  # a command that shows nothing in two of the master's cycles will show nothing
_ALLOW_FIFO = "run poolwright as uWSGI's user (the FIFO has mode 0600) or with CAP_DAC_OVERRIDE"
_ALLOW_STATS = "run poolwright as uWSGI's user, or set uWSGI's --chmod-socket"


class Uwsgi:
    """One uWSGI master. Knob: workers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where the master listens for commands, and where it tells of itself."""

        fifo: PathText = field(metadata={"doc": "uWSGI's --master-fifo"})
        stats: str = field(metadata={"doc": DOC})
        step_timeout: Seconds = field(
            default=15.0,
            metadata={"doc": "how long a new worker may take until it accepts", "above": 0},
        )
        drain_timeout: Seconds = field(
            default=40.0,
            metadata={"doc": "how long all workers may be busy before a shrink ends", "above": 0},
        )

        def __post_init__(self) -> None:
            """Refuse what is no address."""
            StatsServer(self.stats)

    knobs = (_KNOB,)

    def __init__(self, options: Options, _pool: str, *, proc: str = "/proc") -> None:
        """Nothing is opened or looked at yet."""
        self._options = options
        self._proc = proc
        self._stats = StatsServer(options.stats)
        self._incarnation = Incarnation()
        self._news: list[str] = []  # what no read has told yet
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        self._epoch = ""
        self._owed: tuple[int, int] | None = None  # level, and the step from it not yet seen
        self._expected: int | None = None  # the level that our own moves led to
        self._partial_since_s: float | None = None
        self._checked = ""  # the epoch whose algorithm was looked at
        self.endpoint = f"uwsgi, fifo {options.fifo} and stats {options.stats}"

    async def read(self) -> Applied:
        """The workers that serve and are there to stay. Raises PlantFault naming the endpoint."""
        stats = await self._look()
        if not self._lock.locked():
            stats = await self._whole(stats)
        level = stats.serving
        if level < 1:
            raise PlantFault(f"{self.endpoint}: process {stats.pid} has no worker")
        news, self._news = self._news, []
        if self._lock.locked() or self._expected is None:
            self._expected = level
        elif level != self._expected:
            news.append(f"{level} workers, {self._expected} expected: another hand")
        return Applied(setting=setting(workers=level), epoch=self._epoch, detail="; ".join(news))

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Step to `wanted`. Applied when new workers accept and old ones have gone.

        Failed when uWSGI does not obey in time or somebody else moves meanwhile. Refused when it is
        not allowed (permissions), cannot be (`--processes`, fewer than one) or would be undone
        (uWSGI's own algorithm).
        """
        return await outcome(self.endpoint, decision_tick, self._move(wanted[_KNOB]))

    async def close(self) -> None:
        """Nothing is kept open."""

    # What is there

    async def _look(self) -> Stats:
        """The master now. Raises PlantFault naming the endpoint."""
        try:
            stats = await self._stats.read(_READ_S)
        except StatsDenied as denied:
            raise PlantFault(f"stats {denied}; {_ALLOW_STATS}") from denied
        except PlantFault as fault:
            raise PlantFault(f"stats {fault}") from fault
        if self._incarnation.see(stats):
            self._expected = self._owed = None
            told = f"process {stats.pid} was started or reloaded: it keeps {stats.kept} workers"
            self._news = [told]
        self._epoch = f"{stats.pid}:{self._incarnation.generation}"
        return stats

    async def _whole(self, stats: Stats) -> Stats:
        """Look until every place that the master keeps has its worker; a reload takes them all
        away, one by one. Raises PlantFault while it does.
        """
        now = time.monotonic()
        until_s = now + _SETTLE_S
        if self._partial_since_s is None:
            self._partial_since_s = now
        while stats.serving < stats.kept:
            if now - self._partial_since_s > _WHOLE_S:
                self._news.append(f"{stats.serving} of {stats.kept} workers serve")
                return stats
            if now > until_s:
                raise PlantFault(
                    f"{self.endpoint}: {stats.serving} of {stats.kept} workers serve: process "
                    f"{stats.pid} is starting or stopping them"
                )
            await asyncio.sleep(_POLL_S)
            stats, now = await self._look(), time.monotonic()
        self._partial_since_s = None
        return stats

    # Moving

    async def _move(self, goal: int) -> None:
        async with self._lock:
            self._expected = None  # whatever comes of it is not another hand
            if goal < 1:
                raise Refusal(f"{goal} workers: a service keeps at least one")
            stats = await self._look()
            epoch = self._epoch
            self._check(stats, goal)
            await self._settle_owed()
            level = (await self._until(epoch, None, lambda s: s.serving == s.kept)).kept
            while level != goal:
                level = await self._step(epoch, level, 1 if goal > level else -1)
            self._expected = goal

    def _check(self, stats: Stats, goal: int) -> None:
        """Raises Refusal when uWSGI cannot have so many, or would not leave it at that."""
        if goal > len(stats.workers):
            raise Refusal(
                f"{goal} workers: uWSGI was started with --processes {len(stats.workers)} and "
                "cannot have more; raise that and reload, or lower the policy's max"
            )
        cores = len(stats.workers[0].cores)
        if goal < stats.kept and cores > 1:
            raise Refusal(
                f"not shrinking: with {cores} threads a worker uWSGI hangs up on requests when one "
                "leaves (its issue 1983); with more processes of one thread each it does not"
            )
        if self._checked != self._epoch:
            if why := refusal(stats.pid, stats.cwd, self._proc):
                raise Refusal(why)
            self._checked = self._epoch

    async def _step(self, epoch: str, level: int, by: int) -> int:
        """One worker more or less, until it accepts or has gone; the new level."""
        goal = level + by
        await self._send("+" if by > 0 else "-")
        self._owed = (level, by)

        def obeyed(stats: Stats) -> bool:
            # A place is free for the next `+` only when its worker has gone.
            gone = by > 0 or not any(slot.leaves for slot in stats.workers)
            return stats.kept == stats.serving == goal and gone

        try:
            await self._until(epoch, (level, by), obeyed)
        except PlantFault:
            if by < 0 and self._owed is not None:
                await self._take_back()
            self._owed = None
            raise
        self._owed = None
        return goal

    async def _settle_owed(self) -> None:
        """See to the step of a move that was broken off, before the next."""
        if self._owed is None:
            return
        level, by = self._owed
        if (await self._look()).kept != level + by:
            if by < 0:
                await self._take_back()
            else:
                await self._past(lambda s: s.kept != level)
        self._owed = None

    async def _take_back(self) -> None:
        """Undo a `-` that was not obeyed, or was just now."""
        before = (await self._look()).kept
        await self._send("+")
        self._owed = None
        await self._past(lambda s: s.kept > before)

    async def _past(self, done: Callable[[Stats], bool]) -> None:
        """Look until `done`, or until the master has had time for all that was sent."""
        until_s = time.monotonic() + _PAST_S
        while not done(await self._look()):
            if time.monotonic() > until_s:
                return
            await asyncio.sleep(_POLL_S)

    async def _until(
        self, epoch: str, step: tuple[int, int] | None, done: Callable[[Stats], bool]
    ) -> Stats:
        """Look until `done`. Raises PlantFault when that takes too long or somebody else moves."""
        began, pause_s = time.monotonic(), _POLL_S
        limit_s = self._options.step_timeout
        if step is not None and step[1] < 0:
            limit_s = self._options.drain_timeout
        while True:
            stats = await self._look()
            if self._epoch != epoch:
                raise PlantFault(f"process {stats.pid} was started or reloaded during the move")
            if stats.kept < 1:
                self._owed = None
                await self._send("+")
                raise PlantFault("another hand took the last worker: one was started again")
            if step is not None and stats.kept not in (step[0], sum(step)):
                raise PlantFault(
                    f"another hand: {stats.kept} workers, we went from {step[0]} to {sum(step)}"
                )
            if done(stats):
                return stats
            spent_s = time.monotonic() - began
            if spent_s > limit_s:
                raise PlantFault(f"after {spent_s:.1f} s: {_why(stats, step)}")
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, 1.3 * pause_s)

    async def _send(self, command: str) -> None:
        """Write one command, and nothing to what is no FIFO that a master reads."""
        path = self._options.fifo
        until_s = time.monotonic() + _FIFO_S
        while True:
            try:
                return _write(path, command)
            except PermissionError as error:
                raise Refusal(f"{path}: {error.strerror}; {_ALLOW_FIFO}") from error
            except OSError as error:  # made anew just now (ENOENT, ENXIO), or nobody reads it
                if time.monotonic() > until_s:
                    raise PlantFault(f"{path}: {error.strerror}: does the master run?") from error
            await asyncio.sleep(_POLL_S)


def _write(path: str, command: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISFIFO(os.fstat(file).st_mode):
            raise Refusal(f"{path}: is no FIFO; name what uWSGI's --master-fifo names")
        os.write(file, command.encode())
    finally:
        os.close(file)


def _why(stats: Stats, step: tuple[int, int] | None) -> str:
    """What has not come about."""
    if step is None or (step[1] > 0 and stats.kept == sum(step)):
        return f"{stats.serving} of {stats.kept} workers serve"
    if step[1] > 0:
        return f"`+` had no effect. Is the cheaper subsystem on? {HOW}"
    if stats.kept == sum(step):
        return "a leaving worker is still busy; it was not killed"
    busy = sum(slot.status == "busy" for slot in stats.workers)
    return (
        f"`-` had no effect, and was taken back: {busy} of {stats.kept} workers are busy, and "
        f"uWSGI lets go of idle ones only. Without the cheaper subsystem it never does: {HOW}"
    )
