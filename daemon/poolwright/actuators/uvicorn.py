"""Moves the worker count of `uvicorn --workers N`: SIGTTIN and SIGTTOU to its supervisor.

uvicorn writes no pidfile. Name one that the unit writes:

    ExecStartPost=/bin/sh -c 'echo $MAINPID > /run/web/uvicorn.pid'

or, without systemd, `sh -c 'echo $$ > web.pid; exec uvicorn ...'`. One worker alone (`--workers 1`)
has no supervisor and cannot be moved.

What a leaving worker has begun it ends, and the supervisor waits for that, without a limit unless
`--timeout-graceful-shutdown` sets one: meanwhile it replaces nobody who crashes and obeys nothing.
What a leaving worker has accepted and not yet read it hangs up on (uvicorn's issue 2757): under 16
clients on new connections 22 of 51,626 requests while 25 workers left, on kept connections none of
66,584. So shrinking is refused unless `lossy_shrink` says that what is in front tries such requests
again, as nginx's proxy_next_upstream does.

The level is how many workers accept (`uvicorn_proc`), and those that start in place of one that
crashed. A reload (SIGHUP) replaces them one after another and keeps the count.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from poolwright.actuators.gunicorn_proc import Worker, read_pidfile
from poolwright.actuators.outcome import Refusal, outcome
from poolwright.actuators.signalled import Signalled
from poolwright.actuators.uvicorn_proc import Scene, Supervisor
from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, Applied, Setting, setting
from poolwright.core.units import PathText, Seconds

_KNOB = "workers"
_SETTLE_S = 0.5
_WHOLE_S = 30.0  # a supervisor whose workers do not accept by then has lost them
_OVER_S = 2.0  # a reload goes from one worker to the next without a pause
_POLL_S = 0.02
_POLL_MOST_S = 0.2


class Uvicorn:
    """One uvicorn supervisor. Knob: workers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which supervisor, and what it may cost to shrink."""

        pidfile: PathText = field(
            metadata={"doc": "file with the supervisor's process id, written by the unit"}
        )
        lossy_shrink: bool = field(
            default=False,
            metadata={
                "doc": "shrink although uvicorn hangs up on a few new connections: a proxy retries"
            },
        )
        step_timeout: Seconds = field(
            default=30.0,
            metadata={"doc": "how long a new worker may take until it accepts", "above": 0},
        )
        drain_timeout: Seconds = field(
            default=40.0,
            metadata={"doc": "how long a leaving worker may be busy; it is not killed", "above": 0},
        )

    knobs = (_KNOB,)

    def __init__(self, options: Options, _pool: str, *, proc: str = "/proc") -> None:
        """Nothing is opened or looked at yet."""
        self._options = options
        self._proc = Supervisor(proc)
        self._more = Signalled(options.pidfile, "TTIN", proc)
        self._fewer = Signalled(options.pidfile, "TTOU", proc)
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        self._last: Scene | None = None
        self._generation = 0
        self._founders: frozenset[Worker] = frozenset()  # who served when it began
        self._surplus_s: float | None = None  # when more than expected were there, lately
        self._owed: int | None = None  # the level that a step not yet seen leads to
        self._expected: int | None = None  # the level that our own moves led to
        self._partial_since_s: float | None = None
        self._news: list[str] = []  # what no read has told yet
        self.endpoint = f"uvicorn, pidfile {options.pidfile}"

    async def read(self) -> Applied:
        """The workers that serve. Raises PlantFault naming the pidfile."""
        scene = self._look()
        moving = self._lock.locked()
        if self._expected is None and not moving:
            scene = await self._whole(scene)
        level = len(scene.accepting)
        if self._expected is not None and level < self._expected:
            level = min(self._expected, level + len(scene.starting))  # replaced after a crash
        if level < 1:
            raise PlantFault(f"{self.endpoint}: process {scene.pid} has no worker that accepts")
        news, self._news = self._news, []
        if moving or self._expected is None:
            self._expected = level
        elif level != self._expected:
            news.append(f"{level} workers, {self._expected} expected: another hand")
        return Applied(
            setting=setting(workers=level), epoch=self._epoch(scene), detail="; ".join(news)
        )

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Step to `wanted`. Applied when new workers accept and old ones have gone.

        Failed when uvicorn does not obey in time or somebody else moves meanwhile. Refused when it
        is not allowed, for less than one, and for less at all without `lossy_shrink`.
        """
        return await outcome(self.endpoint, decision_tick, self._move(wanted[_KNOB]))

    async def close(self) -> None:
        """Nothing is kept open."""

    # What is there

    def _look(self) -> Scene:
        """The supervisor now. Raises PlantFault naming the pidfile."""
        pid = read_pidfile(self._options.pidfile).pid
        try:
            scene = self._proc.look(pid)
        except PlantFault as fault:
            raise PlantFault(f"pidfile {self._options.pidfile}: {fault}") from fault
        last, self._last = self._last, scene
        if last is None or (last.pid, last.start) != (scene.pid, scene.start):
            if last is not None:
                self._news = [f"process {last.pid} was replaced by {scene.pid}"]
            self._generation = 0
            self._found(scene)
        elif self._is_reload(last, scene):
            self._generation += 1
            self._news = [f"process {scene.pid} was reloaded: all workers are replaced"]
            self._found(scene, self._expected)
        return scene

    def _found(self, scene: Scene, expected: int | None = None) -> None:
        """Begin another incarnation."""
        self._founders, self._surplus_s = scene.accepting, None
        self._expected, self._owed = expected, None

    def _is_reload(self, last: Scene, scene: Scene) -> bool:
        """Whether those who served are replaced, by a reload rather than one by one in crashes.

        A reload brings each new worker before it takes an old one away, so as long as it lasts
        there are more than expected; or all are replaced between two looks.
        """
        if self._lock.locked():
            return False
        now_s, there = time.monotonic(), len(scene.accepting) + len(scene.starting)
        gone = self._founders - scene.accepting
        if self._expected is not None and there > self._expected:
            self._surplus_s = now_s
        elif self._surplus_s is None:
            self._founders = scene.accepting | scene.starting
            return len(last.accepting) > 1 and not last.accepting & scene.accepting and there > 1
        elif now_s - self._surplus_s > _OVER_S:
            self._founders, self._surplus_s = scene.accepting, None
            return 2 * len(gone) > len(self._founders)  # the first few had been replaced unseen
        return gone == self._founders

    def _epoch(self, scene: Scene) -> str:
        return f"{scene.pid}:{scene.start}:{self._generation}"

    async def _whole(self, scene: Scene) -> Scene:
        """Look until a new incarnation has started its workers. Raises PlantFault while it does."""
        now = time.monotonic()
        until_s = now + _SETTLE_S
        if self._partial_since_s is None:
            self._partial_since_s = now
        while (scene.starting or not scene.accepting) and now - self._partial_since_s < _WHOLE_S:
            if now > until_s:
                raise PlantFault(
                    f"{self.endpoint}: process {scene.pid} is starting its workers, "
                    f"{len(scene.accepting)} accept"
                )
            await asyncio.sleep(_POLL_S)
            scene, now = self._look(), time.monotonic()
        self._partial_since_s = None
        return scene

    # Moving

    async def _move(self, goal: int) -> None:
        async with self._lock:
            if goal < 1:
                raise Refusal(f"{goal} workers: a service keeps at least one")
            scene = self._look()
            if not self._proc.is_master(scene.pid):  # the default action would stop it: signal(7)
                raise Refusal(
                    f"process {scene.pid} does not handle SIGTTIN: no supervisor of uvicorn "
                    "(it takes --workers 2 or more, without --reload)"
                )
            if self._owed is not None:
                level, self._owed = self._owed, None
                await self._until(scene, None, lambda s: len(s.accepting) == level)
            scene = await self._until(scene, None, lambda s: not (s.starting or s.leaving))
            if goal < len(scene.accepting) and not self._options.lossy_shrink:
                raise Refusal(
                    "not shrinking: uvicorn hangs up on what a leaving worker has accepted and not "
                    "yet read (its issue 2757); set lossy_shrink: true where a proxy in front "
                    "tries such requests again"
                )
            self._expected = None  # whatever comes of it is not another hand
            while (level := len(scene.accepting)) != goal:
                scene = await self._step(scene, level, 1 if goal > level else -1)
            self._expected, self._owed = goal, None
            self._founders, self._surplus_s = scene.accepting, None

    async def _step(self, scene: Scene, level: int, by: int) -> Scene:
        """One worker more or less, until it accepts or has gone."""
        goal = level + by
        with (self._more if by > 0 else self._fewer).ready() as send:
            send()
        self._owed = goal
        try:
            return await self._until(
                scene,
                (level, goal),
                lambda s: len(s.accepting) == goal and not (s.starting or s.leaving),
            )
        except PlantFault:
            self._owed = None  # unlike a move that is broken off, this one has waited for it
            raise

    async def _until(
        self, began: Scene, step: tuple[int, int] | None, done: Callable[[Scene], bool]
    ) -> Scene:
        """Look until `done`. Raises PlantFault when that takes too long or somebody else moves."""
        began_s, pause_s = time.monotonic(), _POLL_S
        epoch = self._epoch(began)
        while True:
            scene = self._look()
            if self._epoch(scene) != epoch:
                raise PlantFault(f"process {scene.pid} was started or reloaded during the move")
            if done(scene):
                return scene
            serving = len(scene.accepting)
            if step is not None and not min(step) <= serving <= max(step):
                raise PlantFault(
                    f"another hand: {serving} workers accept, we went from {step[0]} to {step[1]}"
                )
            spent_s = time.monotonic() - began_s
            if spent_s > (
                self._options.drain_timeout if scene.leaving else self._options.step_timeout
            ):
                raise PlantFault(f"after {spent_s:.1f} s: {_why(scene, step)}")
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, 1.3 * pause_s)


def _why(scene: Scene, step: tuple[int, int] | None) -> str:
    """What has not come about."""
    if scene.leaving:
        names = ", ".join(str(worker.pid) for worker in sorted(scene.leaving))
        return (
            f"leaving, and still busy: process {names}; none was killed, and the supervisor waits "
            "for it (--timeout-graceful-shutdown bounds that)"
        )
    goal = "" if step is None else f" of {step[1]}"
    starting = f", {len(scene.starting)} start" if scene.starting else ""
    return f"{len(scene.accepting)}{goal} workers accept{starting}"
