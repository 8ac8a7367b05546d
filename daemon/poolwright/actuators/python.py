"""Moves the concurrency of a Python application that offers its pool: `poolwright.client.offer`.

The level is the sum of the limits of all processes of the application (gunicorn's workers, each
with a pool of its own), shared out evenly; a process keeps at least one. A limit counts from the
moment it is told; a move has succeeded when no process runs more than its limit, and nothing that
runs is interrupted.

**Processes come and go** (a crash, max_requests, a reload) without being another hand. Who comes
takes the place of who went (`client.desk.share`), so the sum is soon what it was: until then, and
for at most `successor`, the level is not known. The epoch is another one when all processes were
replaced, or when the sum is not what it was.
"""

import asyncio
import time
from dataclasses import dataclass, field
from hashlib import blake2s

from poolwright.actuators.outcome import Refusal, outcome
from poolwright.client.reach import Denied, Reach, Told
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Actuation, Applied, Setting
from poolwright.core.units import PathText, Seconds

_READ_S = 0.8  # the engine waits for 1 s
_POLL_S = 0.01
_POLL_MOST_S = 0.2
_ALLOW = (
    "to allow it, run poolwright as the application's user, or let the application name a group "
    "of poolwright's: offer(..., group=...)"
)


class Python:
    """One application. Its knob is called as the policy calls it."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where the application offers."""

        folder: PathText = field(
            metadata={"doc": "the folder that the application names in poolwright.client.offer"}
        )
        knob: str = field(default="workers", metadata={"doc": "what the policy calls the knob"})
        step_timeout: Seconds = field(
            default=5.0, metadata={"doc": "how long a process may take to obey", "above": 0}
        )
        drain_timeout: Seconds = field(
            default=40.0,
            metadata={
                "doc": "how long more may run than the new limit; nothing is interrupted",
                "above": 0,
            },
        )
        successor: Seconds = field(
            default=5.0,
            metadata={
                "doc": "how long a process that ended may take to be replaced before the "
                "service counts as changed",
                "above": 0,
            },
        )

        def __post_init__(self) -> None:
            """Refuse a name that no policy can have."""
            if not self.knob.isidentifier():
                raise PolicyError(f"knob {self.knob!r} is no name")

    def __init__(self, options: Options, _pool: str) -> None:
        """Nothing is opened yet."""
        self._options = options
        self._reach = Reach(options.folder)
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        self._known: frozenset[str] = frozenset()  # processes, by their tokens
        self._level = 0  # at the last read; 0: there was none
        self._epoch = ""
        self._changed_s: float | None = None  # since when other processes are there
        self._expected: int | None = None  # the level that our own moves led to
        self.knobs = (options.knob,)
        self.endpoint = f"python, folder {self._reach.folder}"

    async def read(self) -> Applied:
        """The sum of the limits in force. Raises PlantFault naming the folder or the socket."""
        told = await self._ask(_READ_S)
        news = self._see(told, time.monotonic())
        levels = ((self.knobs[0], _sum(told)),)
        return Applied(setting=Setting(levels=levels), epoch=self._epoch, detail=news)

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Share `wanted` out to the processes, one after the other, each confirmed by itself.

        Failed when a process does not answer or ends meanwhile, or when more still run than may
        after `drain_timeout`. Refused when it is not allowed, or leaves a process without a thread.
        """

        def forget() -> None:
            self._expected = None  # whatever came of it, it was not another hand

        async with self._lock:
            return await outcome(
                self.endpoint,
                decision_tick,
                self._move(wanted[self.knobs[0]]),
                denied=Denied,
                allow=_ALLOW,
                undone=forget,
            )

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _ask(self, within_s: float) -> tuple[Told, ...]:
        told = await self._reach.ask(within_s)
        for process in told:
            if process.limit is None or process.running is None:
                raise PlantFault(f"{process.path}: {process.name} offers no pool")
        return told

    def _see(self, told: tuple[Told, ...], now_s: float) -> str:
        """What is to be said of a look. Raises PlantFault while processes are being replaced."""
        here, level = frozenset(t.token for t in told), _sum(told)
        news = ""
        if not self._known:
            self._adopt(here, renewed=True)
        elif here != self._known:
            stayed = len(here & self._known)
            news = (
                f"{len(self._known) - stayed} of {len(self._known)} processes ended, "
                f"{len(here) - stayed} came"
            )
            moved = level != self._level and not self._lock.locked()
            if moved and self._waits(now_s):
                raise PlantFault(
                    f"{self.endpoint}: {news}; {level} {self.knobs[0]} now, {self._level} before: "
                    "waiting for their successors"
                )
            self._adopt(here, renewed=moved or not stayed)
            if moved:
                self._expected = None
        self._changed_s = None
        self._level = level
        if self._lock.locked() or self._expected is None:
            self._expected = level
        elif self._expected != level:
            other = f"{level} {self.knobs[0]}, {self._expected} expected: another hand"
            news = f"{news}; {other}" if news else other
        return news

    def _waits(self, now_s: float) -> bool:
        if self._changed_s is None:
            self._changed_s = now_s
        return now_s - self._changed_s < self._options.successor

    def _adopt(self, here: frozenset[str], *, renewed: bool) -> None:
        self._known = here
        if renewed:
            self._epoch = blake2s(" ".join(sorted(here)).encode(), digest_size=6).hexdigest()

    async def _move(self, goal: int) -> None:
        patience_s = self._options.step_timeout
        if goal < 1:
            raise Refusal(f"{goal} {self.knobs[0]}: a service keeps at least one")
        told = await self._ask(patience_s)
        self._see(told, time.monotonic())
        if goal < len(told):
            raise Refusal(f"{goal} for {len(told)} processes: each keeps at least one")
        least, more = divmod(goal, len(told))
        # Who has most keeps most, and what shrinks does so first: never more than before and after.
        ranked = sorted(told, key=lambda t: -(t.limit or 0))
        shares = [(t, least + (i < more)) for i, t in enumerate(ranked)]
        for process, share in sorted(shares, key=lambda s: s[1] - (s[0].limit or 0)):
            found = await self._reach.move(process, share, (goal, len(told)), patience_s)
            if found.limit != share:
                raise PlantFault(f"{process.path}: told {share}, and has {found.limit}")
        await self._drained(goal, frozenset(t.token for t in told))
        self._level = self._expected = goal

    async def _drained(self, goal: int, processes: frozenset[str]) -> None:
        """Look until nobody runs more than its limit. Raises PlantFault when that is late."""
        until, pause_s = time.monotonic() + self._options.drain_timeout, _POLL_S
        while True:
            told = await self._ask(self._options.step_timeout)
            if frozenset(t.token for t in told) != processes:
                raise PlantFault("processes ended or came during the move")
            if _sum(told) != goal:
                raise PlantFault(f"another hand: told {goal}, and found {_sum(told)}")
            busy = [t for t in told if (t.running or 0) > (t.limit or 0)]
            if not busy:
                return
            if time.monotonic() > until:
                names = ", ".join(f"{t.name} runs {t.running} of {t.limit}" for t in busy[:4])
                raise PlantFault(f"still busy: {names}; nothing was interrupted")
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, 1.5 * pause_s)


def _sum(told: tuple[Told, ...]) -> int:
    return sum(t.limit or 0 for t in told)
