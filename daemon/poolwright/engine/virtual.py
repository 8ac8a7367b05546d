"""What a simulated daemon is given in place of a real one's: a loop on virtual time, a learner
that thinks at once and answers later, a journal on a disk that can be full.

Everything else of the daemon is the real thing.
"""

import asyncio
import math
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, Decision, FitRequest, Plan, Resume, Setting, Tick
from poolwright.core.policy import Policy
from poolwright.engine.learner import Learner
from poolwright.engine.snapshot import LearnerState
from poolwright.journal.sqlite import SqliteJournal
from poolwright.learn.wire import Reply, decode_reply, decode_request, encode
from poolwright.sim.faults import DaemonKilled, DiskFull, Faults, LearnerFault
from poolwright.sim.world import SimClock

PlanMaker = Callable[[FitRequest], Plan]


class Killed(BaseException):
    """The simulated daemon died here, as by SIGKILL: nothing may catch it and go on."""

    def __init__(self, fault: DaemonKilled) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _NoWaiting(selectors.SelectSelector):
    """Where a loop would wait, its clock goes on."""

    def __init__(self, clock: SimClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        """Nothing is ever ready; the time waited has passed."""
        if timeout is None:
            raise RuntimeError("the simulation waits for something that will never happen")
        self._clock.pass_ns(max(0, round(timeout * 1e9)))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a SimClock: what is slept passes at once, in order."""

    def __init__(self, clock: SimClock) -> None:
        self._sim_clock = clock
        super().__init__(_NoWaiting(clock))

    def time(self) -> float:
        """Seconds on the virtual clock."""
        return self._sim_clock.mono_ns() / 1e9


class VirtualLearner(Learner):
    """engine.learner.Learner without a process: a plan is made at once and given out later.

    The rules are those of the process: one fit at a time for all pools, a waiting request is
    replaced, killed when late, a pause that doubles after each death. Requests and plans pass
    through the wire's encoding.
    """

    def __init__(
        self,
        make_plan: PlanMaker,
        clock: SimClock,
        faults: Faults,
        *,
        start_s: float = 1.0,
        fit_s: float = 0.2,
        idle_s: float = 60.0,
        deadline_s: float = 20.0,
        pause_s: float = 0.5,
    ) -> None:
        super().__init__(idle_s=idle_s, deadline_s=deadline_s, pause_s=pause_s)
        self._make_plan = make_plan
        self._clock = clock
        self._faults = faults
        self._start_s = start_s
        self._fit_s = fit_s
        self._busy: tuple[str, float, Plan | str, bool] | None = None  # (.., until, answer, died)
        self._alive_until_s = -math.inf  # idle longer, and the process is gone
        self.kill: Callable[[str, str], None] = lambda _point, _pool: None

    def submit(self, pool: str, request: FitRequest) -> None:
        """Ask for a plan."""
        self._pending[pool] = request
        self._go_on()

    def take(self, pool: str) -> Plan | None:
        """A finished plan, once."""
        self._go_on()
        return super().take(pool)

    def failure(self, pool: str) -> str:
        """Why the last request of `pool` came to nothing, once."""
        self._go_on()
        self.kill("step", pool)  # the last thing before the core is asked
        return super().failure(pool)

    def forget(self, pool: str) -> None:
        """Drop what `pool` asked for, also what is being fitted."""
        super().forget(pool)
        if self._busy is not None and self._busy[0] == pool:
            self._busy = ("", *self._busy[1:])

    @property
    def state(self) -> LearnerState:
        """What the process would be doing."""
        if self._busy is not None:
            return LearnerState.FITTING
        if self._state is LearnerState.FAILED:
            return LearnerState.FAILED
        return LearnerState.IDLE if self._now_s() < self._alive_until_s else LearnerState.ASLEEP

    async def close(self) -> None:
        """Forget what waits."""
        self._closed = True
        self._busy = None
        self._pending.clear()

    def _now_s(self) -> float:
        return self._clock.mono_ns() / 1e9

    def _go_on(self) -> None:
        """End the fit that is due, and begin the next."""
        now = self._now_s()
        while True:
            if self._busy is not None:
                pool, until, answer, died = self._busy
                if now < until:
                    return
                self._end_fit(pool, until, answer, died=died)
            if not self._pending or now < self._resume_at:
                return
            pool = next(iter(self._pending))
            self._begin_fit(pool, self._pending.pop(pool), now)

    def _end_fit(self, pool: str, at_s: float, answer: Plan | str, *, died: bool) -> None:
        self._busy = None
        if died:
            assert isinstance(answer, str)
            self._resume_at = at_s + min(60.0, self._pause_s * 2.0**self._deaths)
            self._deaths = min(self._deaths + 1, 32)
            self._state, self._alive_until_s = LearnerState.FAILED, -math.inf
        else:
            self._deaths, self._state = 0, LearnerState.IDLE
            self._alive_until_s = at_s + self._idle_s
        if not pool:
            return  # forgotten meanwhile
        if isinstance(answer, Plan):
            self._plans[pool] = answer
        else:
            self._failures[pool] = answer

    def _begin_fit(self, pool: str, request: FitRequest, now: float) -> None:
        self._failures.pop(pool, None)
        takes = self._fit_s + (0.0 if now < self._alive_until_s else self._start_s)
        for fault in self._faults.active(LearnerFault, pool):
            if fault.does == "crashes":  # also one that hangs: a hanging one is killed in time
                until = now + min(takes, self._deadline_s)
                self._busy = (pool, until, "the learner ended with signal 9", True)
                return
            takes = math.inf if fault.does == "hangs" else takes
            takes = fault.takes if fault.does == "slow" else takes
        if takes > self._deadline_s:
            late = f"the learner was killed: no plan within {self._deadline_s:g} s"
            self._busy = (pool, now + self._deadline_s, late, True)
            return
        self._busy = (pool, now + takes, self._fitted(pool, request), False)

    def _fitted(self, pool: str, request: FitRequest) -> Plan | str:
        """What `python -m poolwright.learn` would answer."""
        try:
            plan = self._make_plan(decode_request(encode(request)))
        except ValueError as error:
            return str(error) or type(error).__name__
        reply = decode_reply(encode(Reply(plan=plan)))
        assert reply.plan is not None
        if any(f.does == "absurd" for f in self._faults.active(LearnerFault, pool)):
            return self._absurd(reply.plan, request)
        return reply.plan

    def _absurd(self, plan: Plan, request: FitRequest) -> Plan:
        """The plan with every setting of its schedule and its probes drawn by lot."""
        random = self._faults.random("absurd")

        def drawn() -> Setting:
            return Setting(
                levels=tuple(
                    sorted(
                        (k.name, random.randrange(k.lower, k.upper + 1, k.step))
                        for k in request.policy.knobs
                    )
                )
            )

        return replace(
            plan,
            schedule=tuple(replace(b, setting=drawn()) for b in plan.schedule),
            probes=tuple(
                replace(c, setting=drawn(), p_safe=1.0, gain_ratio=0.5) for c in plan.candidates[:3]
            ),
            best_gain_ratio=0.5,
        )


class VirtualJournal(SqliteJournal):
    """The real journal, on a disk that can be full, under a daemon that can die at any step."""

    def __init__(self, path: Path, faults: Faults, kill: Callable[[str, str], None]) -> None:
        self._faults = faults
        self._kill = kill
        self._pools: dict[int, str] = {}
        self.last_note = ""
        super().__init__(path)

    def begin_run(self, pool: str, policy: Policy, resume: Resume, wall_ns: int) -> int:
        """Open a run."""
        run_id = super().begin_run(pool, policy, resume, wall_ns)
        self._pools[run_id] = pool
        return run_id

    def append(self, run_id: int, tick: Tick, decision: Decision) -> None:
        """Keep a tick; the daemon may die before or after."""
        pool = self._pools[run_id]
        self._kill("journal", pool)
        super().append(run_id, tick, decision)
        if decision.moves:
            self._kill("apply", pool)

    def note(self, run_id: int, wall_ns: int, kind: str, text: str) -> None:
        """Keep an event of the daemon itself."""
        self.last_note = f"{kind}: {text}"
        super().note(run_id, wall_ns, kind, text)

    def close_intent(self, run_id: int, actuation: Actuation, wall_ns: int) -> None:
        """Close an intent; the daemon may die before."""
        if run_id in self._pools:  # a move of this life, not one that recovery tidies up
            self._kill("close", self._pools[run_id])
        super().close_intent(run_id, actuation, wall_ns)

    def abandon(self) -> None:
        """The process died: what is in memory is lost, what was committed stays."""
        if self._db is not None:
            self._db.close()
            self._db = None
            self._lock.release()

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[Connection]:
        if self._faults.rages(DiskFull):
            raise PlantFault("the journal cannot be written: database or disk is full")
        with super()._transaction(durable=durable) as db:
            yield db
