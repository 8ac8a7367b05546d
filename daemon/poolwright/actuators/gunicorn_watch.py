"""From one look at a gunicorn to the next: how many workers serve, and what has happened. Pure.

**The level** is the number of workers that the master keeps and that are there:

- A worker told to leave still answers what it has begun, takes nothing new, and does not count,
  though it is alive: it would be counted as capacity that is going away.
- A worker that crashed does not count until its successor is there, though the master aims at it:
  a count that is only aimed at serves nobody.

With the control socket both are known: whoever is above the master's target leaves, the oldest
first (`Arbiter.manage_workers`). Without it a leaving worker looks like any other; then we know of
those that we told to go, and, after a reload, of those that were there before it. A reload is known
by gunicorn's counter; without the control socket by the pidfile, which gunicorn writes anew
(`Arbiter.reload`), or by no old worker being left. Another hand's SIGTTOU shows when its worker has
gone.

**The epoch** names the master (pid and start time; of an upgrade by SIGUSR2 it is the master that
the pidfile names) and how often all workers were replaced at once while we looked.
"""

import math
from dataclasses import dataclass

from poolwright.actuators.gunicorn_proc import Worker

_TOUCH_S = 2.0  # a pidfile written anew without new workers within this was not a reload
_TOLD_MOST = 4  # process ids spelled out in one sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One look. `target` and `reloads` are None when the control socket did not tell."""

    pid: int
    start: int  # of the master; 0 when it is in another PID namespace
    live: tuple[Worker, ...]  # oldest first
    target: int | None = None
    reloads: int | None = None
    stamp: tuple[int, int] | None = None  # of the pidfile
    note: str = ""

    @property
    def master(self) -> tuple[int, int]:
        """Who it is, also when the kernel has used its number again."""
        return self.pid, self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a Scene means, given the ones before it."""

    scene: Scene
    level: int
    aim: int  # what the master aims at, as far as that is known
    leaving: tuple[Worker, ...]
    epoch: str
    news: str

    @property
    def serving(self) -> int:
        """Workers that are there to stay."""
        return len(self.scene.live) - len(self.leaving)


class Watch:
    """Remembers the last look. `expiry_s`: how long a reload's old workers may be said to leave."""

    def __init__(self, expiry_s: float) -> None:
        """Start without a past."""
        self.expected: int | None = None  # the level that our own moves led to
        self._expiry_s = expiry_s
        self._last: Scene | None = None
        self._stamp: tuple[int, int] | None = None
        self._stamp_since_s: float | None = None
        self._reloads: int | None = None
        self._uncounted = 0  # reloads noticed before gunicorn's counter told of them
        self._generation = 0
        self._leaving: dict[Worker, float] = {}
        self._missing: list[Worker] = []  # gone in the last look, without a successor yet

    @property
    def is_first(self) -> bool:
        """Whether nothing was seen yet."""
        return self._last is None

    def is_new(self, scene: Scene) -> bool:
        """Whether `scene` shows another incarnation than the last look, or is the first."""
        last = self._last
        return last is None or last.master != scene.master or self._reloaded(last, scene) > 0

    def is_whole(self, scene: Scene, before: Scene | None) -> bool:
        """Whether all workers of a new incarnation are there; `before` is an earlier look at it.

        gunicorn starts them up to 0.1 s apart (`Arbiter.spawn_workers`); a count in the middle of
        that is no level. Without a target two looks have to agree.
        """
        if scene.target is None:
            return before is not None and bool(scene.live) and before.live == scene.live
        last = self._last
        old = last.live if last is not None and last.master == scene.master else ()
        return len(set(scene.live) - set(old)) >= scene.target

    def leaves(self, worker: Worker) -> None:
        """We told the oldest worker to go, by a signal."""
        self._leaving[worker] = math.inf

    def see(self, scene: Scene, now_s: float, *, moving: bool) -> View:
        """Take a look into account. `moving`: we are changing the count ourselves."""
        last = self._last
        news = [scene.note] if scene.note else []
        if last is None or last.master != scene.master:
            if last is not None:
                news.append(f"the master was replaced: process {last.pid} before, now {scene.pid}")
            self._restart(scene)
        else:
            news += self._changes(last, scene, now_s, moving=moving)
        self._mark(scene, now_s)
        self._last = scene
        view = self._view(scene)
        if moving or self.expected is None:
            self.expected = view.level
        elif self.expected not in (view.level, view.aim):
            doubt = " or a crash" if scene.target is None and view.level < self.expected else ""
            news.append(f"{view.aim} workers, {self.expected} expected: another hand{doubt}")
        return View(
            scene=scene,
            level=view.level,
            aim=view.aim,
            leaving=view.leaving,
            epoch=view.epoch,
            news="; ".join([*news, *self._shortfall(view)]),
        )

    def _view(self, scene: Scene) -> View:
        leaving = tuple(w for w in scene.live if w in self._leaving)
        serving = len(scene.live) - len(leaving)
        aim = serving if scene.target is None else scene.target
        return View(
            scene=scene,
            level=min(aim, serving),
            aim=aim,
            leaving=leaving,
            epoch=f"{scene.pid}:{scene.start}:{self._generation}",
            news="",
        )

    def _restart(self, scene: Scene) -> None:
        """Another master: what was known of the old one is void."""
        self._stamp, self._stamp_since_s = scene.stamp, None
        self._reloads, self._uncounted = scene.reloads, 0
        self._leaving = {}
        self._missing = []
        self.expected = None

    def _changes(self, last: Scene, scene: Scene, now_s: float, *, moving: bool) -> list[str]:
        """The same master as before: what became of its workers."""
        reloads = self._reloaded(last, scene)
        told = self._settle(scene, reloads, now_s)
        if reloads:
            self._generation += 1
            self.expected = None
            self._leaving |= dict.fromkeys(last.live, now_s + self._expiry_s)
            count = "" if scene.target is None else f", and aims at {scene.target} workers"
            return [f"process {scene.pid} was reloaded: all workers are replaced{count}"]
        gone = [w for w in last.live if w not in scene.live and w not in self._leaving]
        come = [w for w in scene.live if w not in last.live]
        gone, self._missing = [*self._missing, *gone], [] if come or moving else gone
        if told or moving or not gone or not come:
            return []
        return [f"{_list(gone)} ended (a crash, or max_requests) and {_list(come)} took over"]

    def _reloaded(self, last: Scene, scene: Scene) -> int:
        """How many reloads there were since `last` that were not noticed yet (at least so many)."""
        if scene.reloads is not None and self._reloads is not None:
            return max(0, scene.reloads - self._reloads - self._uncounted)
        if scene.reloads is not None:
            return 0
        come = set(scene.live) - set(last.live)
        if come and scene.stamp is not None and scene.stamp != self._stamp:
            return 1
        # One worker of one that is new is a crash; several at once are not.
        return int(len(last.live) > 1 and len(come) > 1 and len(come) == len(scene.live))

    def _settle(self, scene: Scene, reloads: int, now_s: float) -> bool:
        """Take over what `_reloaded` compares; True when gunicorn's counter was caught up."""
        caught_up = False
        if scene.reloads is not None:
            caught_up = self._uncounted > 0
            self._reloads = max(scene.reloads, self._reloads or 0)  # looks may overtake each other
            self._uncounted = 0
        elif reloads:
            self._uncounted += 1
        if scene.stamp == self._stamp:
            self._stamp_since_s = None
        elif reloads or scene.reloads is not None:
            self._stamp, self._stamp_since_s = scene.stamp, None
        elif self._stamp_since_s is None:
            self._stamp_since_s = now_s
        elif now_s - self._stamp_since_s > _TOUCH_S:
            self._stamp, self._stamp_since_s = scene.stamp, None
        return caught_up

    def _mark(self, scene: Scene, now_s: float) -> None:
        """Forget who has left; above the target the oldest leave."""
        fewer = self._last is not None and len(scene.live) < len(self._last.live)
        kept = {w: s for w, s in self._leaving.items() if w in scene.live and s > now_s}
        if fewer and len(kept) == len(self._leaving):
            # Somebody left who was not the one that we took for the oldest: born in one clock tick.
            kept.pop(next((w for w, s in kept.items() if math.isinf(s)), Worker(0, 0)), None)
        self._leaving = kept
        if scene.target is not None and len(scene.live) > scene.target:
            for worker in scene.live[: len(scene.live) - scene.target]:
                self._leaving[worker] = now_s + self._expiry_s

    @staticmethod
    def _shortfall(view: View) -> list[str]:
        target = view.scene.target
        if target is None or view.serving >= target:
            return []
        return [f"the master aims at {target} workers, {view.serving} serve"]


def _list(workers: list[Worker]) -> str:
    words = ", ".join(str(w.pid) for w in workers[:_TOLD_MOST])
    more = len(workers) - _TOLD_MOST
    kind = "workers" if len(workers) > 1 else "worker"
    return f"{kind} {words}" + (f" and {more} more" if more > 0 else "")
