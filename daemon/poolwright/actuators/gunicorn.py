"""Moves the worker count of a gunicorn: one worker at a time, each read back, no request lost.

Through the control socket (`worker add`, `worker remove`) where there is one, else by SIGTTIN and
SIGTTOU to the master that the pidfile names. gunicorn drains: a worker told to leave accepts
nothing more and answers what it has accepted. It does so within limits: a gthread worker drops what
takes longer than gunicorn's own `graceful_timeout` (30 s), and a worker that listens by itself
(`reuse_port`) takes the connections in its accept queue with it; there, shrinking is refused.
No process is ever killed, and no signal is sent but SIGTTIN and SIGTTOU.

What a count means: `gunicorn_watch`. During a reload a master obeys nothing until its old workers
have left or `graceful_timeout` is over.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from poolwright.actuators.gunicorn_control import Control, ControlDenied, ControlSilent, Stats
from poolwright.actuators.gunicorn_proc import Proc, Worker, read_pidfile
from poolwright.actuators.gunicorn_watch import Scene, View, Watch
from poolwright.actuators.outcome import Refusal, outcome
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Actuation, Applied, Setting, setting
from poolwright.core.units import PathText, Seconds

_KNOB = "workers"
_READ_S = 0.5  # patience of a read-back with the control socket; the engine waits for 1 s
_FALLBACK_S = 0.15  # the same where the pidfile can answer as well
_MOVE_S = 0.5  # patience of a look during a move where the pidfile can answer as well
_LOOK_AGAIN_S = 0.15  # longer than gunicorn's longest pause between two workers that it starts
_SETTLE_S = 0.6
_WHOLE_S = 30.0  # a master that has not started its workers by then will not
_POLL_S = 0.02
_POLL_MOST_S = 0.2
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ALLOW = (
    "to allow it, give poolwright CAP_KILL or gunicorn's user, or name a control socket that it "
    "may write (gunicorn --control-socket PATH --control-socket-mode 0660, and its group)"
)


class Gunicorn:
    """One gunicorn master. Knob: workers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where the master is to be found: a pidfile, its control socket, or both."""

        pidfile: PathText | None = field(
            default=None, metadata={"doc": "gunicorn's --pid file; without `control` by signals"}
        )
        control: PathText | None = field(
            default=None, metadata={"doc": "gunicorn's --control-socket (25.1 and later)"}
        )
        step_timeout: Seconds = field(
            default=10.0,
            metadata={"doc": "how long gunicorn may take to obey one step", "above": 0},
        )
        drain_timeout: Seconds = field(
            default=40.0,
            metadata={"doc": "how long a leaving worker may be busy; it is not killed", "above": 0},
        )

        def __post_init__(self) -> None:
            """Refuse neither."""
            if self.pidfile is None and self.control is None:
                raise PolicyError("gunicorn needs a pidfile or a control socket, or both")

    knobs = (_KNOB,)

    def __init__(self, options: Options, _pool: str, *, proc: str = "/proc") -> None:
        """Nothing is opened or looked at yet."""
        self._options = options
        self._pidfile = options.pidfile
        path = options.control
        self._control = None if path is None else Control(path.removeprefix("unix:"))
        self._proc = Proc(proc)
        self._watch = Watch(options.drain_timeout)
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        both = self._pidfile is not None
        self._read_s = _FALLBACK_S if both else _READ_S
        self._move_s = _MOVE_S if both else options.step_timeout
        self._partial_since_s: float | None = None
        self._remote_born = 0  # of a master in another PID namespace: what tells two apart
        self._remote_age = 0
        ways = [f"pidfile {self._pidfile}"] if self._pidfile is not None else []
        ways += [f"control socket {self._control.path}"] if self._control is not None else []
        self.endpoint = f"gunicorn, {' and '.join(ways)}"

    async def read(self) -> Applied:
        """The workers that are there to stay. Raises PlantFault naming the path and the reason."""
        try:
            scene = await self._look(self._read_s)
        except PlantFault:
            if self._pidfile is None:
                raise
            await asyncio.sleep(_POLL_S)  # a reload takes the pidfile away for a moment
            scene = await self._look(self._read_s)
        if self._watch.is_new(scene):
            scene = await self._whole(scene)
        view = self._watch.see(scene, time.monotonic(), moving=self._lock.locked())
        if view.level < 1:
            raise PlantFault(f"{self.endpoint}: process {scene.pid} has no worker; {view.news}")
        return Applied(setting=setting(workers=view.level), epoch=view.epoch, detail=view.news)

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Step to `wanted`. Applied when all new workers are there and all old ones have gone.

        Failed when gunicorn does not obey within `step_timeout` a step, when a worker is still busy
        after `drain_timeout`, or when somebody else moves meanwhile. Refused when it is not allowed
        (permissions) or not safe (fewer than one worker, accept queues that would be lost).
        """

        def forget() -> None:
            self._watch.expected = None  # whatever came of it, it was not another hand

        async with self._lock:
            return await outcome(
                self.endpoint,
                decision_tick,
                self._move(wanted[_KNOB]),
                denied=ControlDenied,
                allow=_ALLOW,
                undone=forget,
            )

    async def close(self) -> None:
        """Nothing is kept open."""

    # What is there

    async def _look(self, within_s: float) -> Scene:
        """The master and its workers now. Raises PlantFault."""
        if self._pidfile is None:
            assert self._control is not None
            stats = await self._control.stats(within_s)
            start = self._proc.start_of(stats.pid) if stats.peer == stats.pid else None
            if start is None:
                return await self._remote(self._control, within_s)
            return await self._scene(stats.pid, start, stats, within_s)
        noted = read_pidfile(self._pidfile)
        start = self._proc.start_of(noted.pid)
        if start is None:
            raise PlantFault(f"pidfile {self._pidfile}: process {noted.pid} is not running")
        beside, note = await self._stats_beside(noted.pid, within_s)
        scene = await self._scene(noted.pid, start, beside, within_s)
        return replace(scene, stamp=noted.stamp, note=note)

    async def _stats_beside(self, master: int, within_s: float) -> tuple[Stats | None, str]:
        """What the control socket adds to the pidfile, or None and why nothing."""
        if self._control is None:
            return None, ""
        try:
            stats = await self._control.stats(within_s)
        except PlantFault as fault:
            return None, f"control socket {fault}; going by processes and signals"
        if stats.pid != master:
            return None, (
                f"control socket {self._control.path} is answered by process {stats.pid}, the "
                f"pidfile names {master} (an upgrade under way?): going by the pidfile"
            )
        return stats, ""

    async def _scene(self, pid: int, start: int, stats: Stats | None, within_s: float) -> Scene:
        live = self._proc.workers(pid)
        if stats is None:
            return Scene(pid=pid, start=start, live=live)
        assert self._control is not None
        if len(live) > stats.target:  # who leaves? By gunicorn's own ages, and its newest target
            ages = {worker: age for age, worker in await self._control.workers(within_s)}
            live = tuple(sorted(live, key=lambda w: (ages.get(w.pid, 0), w)))
            stats = await self._control.stats(within_s)
        return Scene(pid=pid, start=start, live=live, target=stats.target, reloads=stats.reloads)

    async def _remote(self, control: Control, within_s: float) -> Scene:
        """A master that /proc does not show (another PID namespace, hidepid): as it tells itself.

        Its process id may be the same after a restart; gunicorn's count of workers is not.
        """
        rows = await control.workers(within_s)
        stats = await control.stats(within_s)
        newest = max((age for age, _ in rows), default=self._remote_age)
        self._remote_born -= newest < self._remote_age
        self._remote_age = newest
        return Scene(
            pid=stats.pid,
            start=self._remote_born,
            live=tuple(Worker(age, pid) for age, pid in rows),
            target=stats.target,
            reloads=stats.reloads,
        )

    async def _whole(self, scene: Scene) -> Scene:
        """Look until a new incarnation has started its workers. Raises PlantFault while it does."""
        now = time.monotonic()
        until, before = now + _SETTLE_S, None
        if self._partial_since_s is None:
            self._partial_since_s = now
        while not (
            self._watch.is_whole(scene, before)
            or now - self._partial_since_s > _WHOLE_S
            or (self._watch.is_first and _age_s(scene) > _WHOLE_S)
        ):
            if now > until:
                raise PlantFault(
                    f"{self.endpoint}: process {scene.pid} is starting its workers, "
                    f"{len(scene.live)} are there"
                )
            await asyncio.sleep(_LOOK_AGAIN_S)
            before, scene = scene, await self._look(self._read_s)
            now = time.monotonic()
        self._partial_since_s = None
        return scene

    # Moving

    async def _move(self, goal: int) -> None:
        if goal < 1:
            raise Refusal(f"{goal} workers: a service keeps at least one")
        scene = await self._look(self._move_s)
        view = self._see(await self._whole(scene) if self._watch.is_first else scene)
        if goal < view.aim:
            await self._check_queues(scene)
        while view.aim != goal:
            view = await self._step(view, 1 if goal > view.aim else -1)
        await self._until(goal, lambda v: not v.leaving and v.serving == goal)

    def _see(self, scene: Scene) -> View:
        if self._watch.is_new(scene) and not self._watch.is_first:
            raise PlantFault(f"process {scene.pid} was started or reloaded during the move")
        return self._watch.see(scene, time.monotonic(), moving=True)

    async def _check_queues(self, scene: Scene) -> None:
        """Refuse to shrink where every worker listens by itself."""
        why = ""
        if scene.target is not None:
            assert self._control is not None
            if await self._control.listeners(self._options.step_timeout) == 0:
                why = "the master itself does not listen"
        if not why and scene.start > 0:
            try:
                why = self._proc.own_queues(scene.pid, scene.live)
            except PlantFault as fault:
                why = f"it cannot be told how it listens: {fault}"
        if why:
            raise Refusal(
                f"not shrinking: {why}, so with reuse_port a leaving worker would take the "
                "connections in its own accept queue with it; run gunicorn without --reuse-port"
            )

    async def _step(self, view: View, by: int) -> View:
        """One worker more or less, until it is there or gone."""
        goal = view.aim + by
        if view.scene.target is None:
            self._signal(view, by)
        else:
            await self._command(view.aim, by)

        def obeyed(now: View) -> bool:
            target = now.scene.target
            if target not in (None, goal, view.aim):
                raise PlantFault(
                    f"another hand: the master aims at {target}, we went from {view.aim} to {goal}"
                )
            if target == view.aim:
                return False
            if by < 0:
                return not now.leaving and now.serving <= goal
            # While an old worker leaves, gunicorn aims higher and does not start its successor.
            return now.serving >= goal or (target is not None and len(now.scene.live) >= goal)

        return await self._until(goal, obeyed)

    async def _command(self, aim: int, by: int) -> None:
        """One command, sent again only when gunicorn says that it did not come through."""
        assert self._control is not None
        patience_s = self._options.step_timeout
        until = time.monotonic() + patience_s
        while True:
            try:
                before = await self._control.change(by, patience_s)
            except ControlSilent:
                if (await self._control.stats(patience_s)).target != aim:
                    return
                if time.monotonic() > until:
                    raise
                continue
            if before != aim:
                raise PlantFault(
                    f"another hand: the master aimed at {aim}, then {before}, now {before + by}"
                )
            return

    def _signal(self, view: View, by: int) -> None:
        """SIGTTIN or SIGTTOU to the very process that was looked at, and to no other."""
        scene, number = view.scene, signal.SIGTTIN if by > 0 else signal.SIGTTOU
        assert self._pidfile is not None
        try:
            handle = os.pidfd_open(scene.pid)
        except OSError as error:
            raise PlantFault(f"process {scene.pid}: pidfd_open: {error.strerror}") from error
        try:
            # The handle pins the process: what is true of it now is true of whom is signalled.
            if self._proc.start_of(scene.pid) != scene.start:
                raise PlantFault(f"process {scene.pid} is another one than before: not signalled")
            if read_pidfile(self._pidfile).pid != scene.pid:
                raise PlantFault(f"pidfile {self._pidfile} names another process: not signalled")
            if not self._proc.is_master(scene.pid):  # the default action would stop it: signal(7)
                raise PlantFault(
                    f"process {scene.pid} does not handle {number.name}: not a gunicorn master"
                )
            signal.pidfd_send_signal(handle, number)
        except PermissionError as error:
            raise Refusal(
                f"{number.name} to process {scene.pid}: {error.strerror}; {_ALLOW}"
            ) from error
        finally:
            os.close(handle)
        if by < 0:
            self._watch.leaves(next(w for w in scene.live if w not in view.leaving))

    async def _until(self, goal: int, done: Callable[[View], bool]) -> View:
        """Look until `done`. Raises PlantFault when that takes too long."""
        began, pause_s = time.monotonic(), _POLL_S
        options = self._options
        while True:
            limit_s, late = options.step_timeout, ""
            try:
                scene = await self._look(self._move_s)
            except ControlDenied:
                raise
            except PlantFault as fault:  # it may be between two sockets, or two pidfiles
                late = str(fault)
            else:
                view = self._see(scene)
                if done(view):
                    return view
                late = f"{view.serving} of {goal} workers serve, the master aims at {view.aim}"
                if view.leaving:
                    limit_s = options.drain_timeout
                    names = ", ".join(str(worker.pid) for worker in view.leaving)
                    late = f"leaving, and still busy: process {names}; none was killed"
            spent_s = time.monotonic() - began
            if spent_s > limit_s:
                raise PlantFault(f"after {spent_s:.1f} s: {late}")
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, 1.3 * pause_s)


def _age_s(scene: Scene) -> float:
    """How long ago the master started; 0 when that is not known."""
    if scene.start <= 0:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - scene.start / _TICKS_PER_S
