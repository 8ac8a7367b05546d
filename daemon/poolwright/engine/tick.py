"""One tick of one pool: gather -> step -> journal -> assert -> apply -> publish.

The same function serves the live and the shadow host: the core itself commands nothing unless the
policy's mode is auto. An actuation runs beside the ticks; its outcome enters the next one.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from poolwright.core.controller import Controller
from poolwright.core.envelope import violations
from poolwright.core.errors import PlantFault
from poolwright.core.model import (
    Actuation,
    ActuationStatus,
    Command,
    Decision,
    Plan,
    Resume,
    Setting,
    Tick,
)
from poolwright.core.override import narrowed
from poolwright.core.policy import Policy
from poolwright.engine.arbiter import Arbiter
from poolwright.engine.commands import completed, expiry, hands_off, refusal
from poolwright.engine.gather import Look, look
from poolwright.engine.learner import Learner
from poolwright.engine.recovery import carried
from poolwright.engine.snapshot import PoolSnapshot, RecentLatency, Tally
from poolwright.engine.telling import Teller
from poolwright.policy.calendar import calendar_at
from poolwright.ports import Actuator, Clock, Journal, Sensor

_COMMANDS_MOST = 64
_BREAK_OFF_S = 1.0
_FAULTS_MOST = 3  # of the core, in a row: then it is not to be trusted with a service
_LOG = logging.getLogger("poolwright")


class CoreFault(Exception):
    """The core failed an assertion several times in a row; the baseline should be restored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run under another policy that is in the journal and not yet entered."""

    policy: Policy
    resume: Resume
    run_id: int


class Pool:
    """A pool under control: its controller, what it sees, what it moves, where it writes."""

    def __init__(
        self,
        *,
        name: str,
        policy: Policy,
        sensors: tuple[Sensor, ...],
        actuator: Actuator,
        journal: Journal,
        learner: Learner,
        clock: Clock,
        arbiter: Arbiter | None = None,
    ) -> None:
        """Nothing is started yet: `open_run`, then `tick`. `arbiter` None: no other pools."""
        self.name = name
        self.policy = policy
        self.sensors = sensors
        self.actuator = actuator
        self.journal_error = ""
        self._journal = journal
        self._learner = learner
        self._clock = clock
        self._arbiter = arbiter or Arbiter()
        self._commands: deque[Command] = deque(maxlen=_COMMANDS_MOST)
        self._actuating: asyncio.Task[Actuation] | None = None
        self._actuation_tick = 0
        self._refused: Actuation | None = None
        self._recent = RecentLatency()
        self._counters = Tally()
        self._last_move: Decision | None = None
        self._last_move_wall_ns: int | None = None
        self._held: Setting | None = None  # the newest setting that was no probe ...
        self._held_before: Setting | None = None  # ... and the one before it
        self._teller = Teller(name)
        self._log = logging.LoggerAdapter(_LOG, {"fields": {"pool": name}})
        self._core_faults = 0
        self._index = 0
        self.run_id = 0
        self.controller = Controller(policy)
        self.newest: Tick | None = None
        self._publish: Callable[[], PoolSnapshot] | None = None
        self._snapshot: PoolSnapshot | None = None

    def open_run(self, resume: Resume) -> None:
        """Begin a run in the journal. Raises PlantFault when the journal cannot be written."""
        self.run_id = self._journal.begin_run(self.name, self.policy, resume, self._clock.wall_ns())
        self.controller = Controller(self.policy, resume)
        self._index = 0

    async def adopt(self, policy: Policy, reason: str) -> None:
        """Go on under another policy, in a run of its own, with what was learned and still holds.

        Raises PlantFault when the journal cannot be written; nothing has changed then.
        """
        await self.enter(self.prepare(policy), reason)

    def prepare(self, policy: Policy) -> Prepared:
        """Open the run in which `policy` will be in force; `enter` or `abandon` it."""
        resume = carried(self.controller.resume(), self.policy, policy)
        run_id = self._journal.begin_run(self.name, policy, resume, self._clock.wall_ns())
        return Prepared(policy=policy, resume=resume, run_id=run_id)

    async def enter(self, prepared: Prepared, reason: str) -> None:
        """Put what was prepared in force: a move under way is broken off where it is."""
        _ = self.snapshot  # until the next tick, the last of the old policy stands
        await self.finish_actuation()
        self._refused = None
        self._learner.forget(self.name)  # it was asked under the other policy
        self._end_run(self.run_id, reason)
        self.policy, self.run_id = prepared.policy, prepared.run_id
        self.controller = Controller(self.policy, prepared.resume)
        self._index = 0

    def abandon(self, prepared: Prepared) -> None:
        """Close a run that will not be entered."""
        self._end_run(prepared.run_id, "not entered: another pool's could not be opened")

    def _end_run(self, run_id: int, reason: str) -> None:
        try:
            self._journal.end_run(run_id, reason, self._clock.wall_ns())
        except PlantFault as fault:  # the next start will find it open, and say so
            self._journal_failed(fault)

    def ask(self, command: Command) -> str:
        """Hand an operator's request to the next tick; else why it is refused, in a line."""
        if len(self._commands) == _COMMANDS_MOST:
            return f"{_COMMANDS_MOST} requests wait already"
        why = refusal(command, self.snapshot, tuple(self._commands))
        if not why:
            self._commands.append(completed(command, self.snapshot))
        return why

    def command(self, command: Command) -> None:
        """Hand a request of our own to the next tick."""
        self._commands.append(command)

    @property
    def hands_off(self) -> str:
        """Why the level is not ours to restore, in words; empty when it is."""
        _, overrides = calendar_at(self.policy, self._clock.wall_ns())
        return hands_off(self.controller.kept, overrides)

    def count(self, name: str) -> None:
        """Count something that the host noticed (a late slot)."""
        self._counters[name] += 1

    async def tick(self) -> Decision | None:
        """One tick; None when the core failed. Raises CoreFault when it keeps failing."""
        began = time.perf_counter()
        mono_ns = self._clock.mono_ns()
        seen = await look(self.sensors, self.actuator, mono_ns)
        tick = self._tick(mono_ns, seen)
        self._index += 1
        decision = self._step(tick)
        self._arbiter.took(self.name, self.policy, tick, decision)
        if decision is None:
            return None
        written = self._write(tick, decision)
        if decision.moves:
            self._obey(tick, decision, written=written)
        if decision.fit_request is not None:
            self._learner.submit(self.name, decision.fit_request)
        self._keep(tick, decision)
        spent_s = time.perf_counter() - began
        self._publish = partial(self._published, tick, decision, seen.took, spent_s)
        self.newest, self._snapshot = tick, None
        return decision

    @property
    def snapshot(self) -> PoolSnapshot | None:
        """The newest tick as people see it, made when somebody asks; None before the first."""
        if self._snapshot is None and self._publish is not None:
            self._snapshot = self._publish()
        return self._snapshot

    def _tick(self, mono_ns: int, seen: Look) -> Tick:
        """The Tick. No await from here to the step: the other pools would not know of it."""
        wall_ns = self._clock.wall_ns()
        quiet, overrides = calendar_at(self.policy, wall_ns)
        share = self._arbiter.share(self.name, self.policy, seen.readings, mono_ns)
        return Tick(
            index=self._index,
            mono_ns=mono_ns,
            wall_ns=wall_ns,
            readings=seen.readings,
            applied=seen.applied,
            actuation=self._outcome(),
            commands=self._asked(wall_ns),
            plan=self._plan(),
            fault=seen.fault,
            learner_fault=self._learner.failure(self.name),
            quiet=quiet,
            overrides=overrides,
            may_probe=share.may_probe,
            rival=share.rival,
            room_bytes=share.room_bytes,
            room_cores=share.room_cores,
        )

    def _asked(self, wall_ns: int) -> tuple[Command, ...]:
        """What was asked since the last tick, after the end of a pin whose time has passed."""
        over = expiry(self.controller.kept, wall_ns)
        commands = (*(() if over is None else (over,)), *self._commands)
        self._commands.clear()
        return commands

    def _plan(self) -> Plan | None:
        plan = self._learner.take(self.name)
        if plan is not None:
            self._counters["fits"] += 1
        return plan

    def _outcome(self) -> Actuation | None:
        """How the last actuation stands."""
        if self._refused is not None:
            refused, self._refused = self._refused, None
            return refused
        task = self._actuating
        if task is None:
            return None
        if not task.done():
            return Actuation(decision_tick=self._actuation_tick, status=ActuationStatus.PENDING)
        self._actuating = None
        outcome = self._result(task)
        if outcome.status is not ActuationStatus.APPLIED:
            self._counters["actuation_failures"] += 1
        self._close_intent(outcome)
        return outcome

    def _result(self, task: asyncio.Task[Actuation]) -> Actuation:
        error: BaseException | None
        if not task.done():
            error = PlantFault("broken off, and not yet at an end")
        else:
            error = PlantFault("broken off") if task.cancelled() else task.exception()
        if error is None:
            return task.result()
        if not isinstance(error, PlantFault):
            self._log.error("%s: actuator raised", self.name, exc_info=error)
        return Actuation(
            decision_tick=self._actuation_tick,
            status=ActuationStatus.FAILED,
            detail=str(error) or type(error).__name__,
        )

    def note(self, kind: str, text: str) -> None:
        """Keep an event in the journal."""
        try:
            self._journal.note(self.run_id, self._clock.wall_ns(), kind, text)
        except PlantFault as fault:  # it is in the log as well
            self._journal_failed(fault)

    def _close_intent(self, outcome: Actuation) -> None:
        try:
            self._journal.close_intent(self.run_id, outcome, self._clock.wall_ns())
        except PlantFault as fault:  # recovery will find the intent open, and the world as it is
            self._journal_failed(fault)

    def _step(self, tick: Tick) -> Decision | None:
        try:
            decision = self.controller.step(tick)
        except Exception as error:
            self._core_faults += 1
            self._counters["core_faults"] += 1
            self._log.exception("%s: the core failed at tick %d", self.name, tick.index)
            self.note("core_fault", f"tick {tick.index}: {error!r}")
            if self._core_faults >= _FAULTS_MOST:
                raise CoreFault(f"{self.name}: {self._core_faults} ticks in a row") from error
            return None
        self._core_faults = 0
        return decision

    def _write(self, tick: Tick, decision: Decision) -> bool:
        """Journal first; False when it could not be written."""
        try:
            self._journal.append(self.run_id, tick, decision)
        except PlantFault as fault:
            self._journal_failed(fault)
            return False
        self.journal_error = ""
        return True

    def _journal_failed(self, fault: PlantFault) -> None:
        if str(fault) != self.journal_error:
            self._log.error("%s: %s", self.name, fault)
        self.journal_error = str(fault)

    def _obey(self, tick: Tick, decision: Decision, *, written: bool) -> None:
        """Start moving. What is not journalled, or leaves the envelope, is not done.

        What is outside already (the policy has changed) may be brought in step by step.
        """
        assert decision.setting is not None
        policy = narrowed(self.policy, tick.overrides)
        there = () if tick.applied is None else violations(tick.applied.setting, policy)
        wrong = [w for w in violations(decision.setting, policy) if w not in there]
        if wrong or not written:
            self._refused = Actuation(
                decision_tick=decision.tick,
                status=ActuationStatus.REFUSED,
                detail="; ".join(wrong) or f"not journalled: {self.journal_error}",
            )
            if written:
                self._close_intent(self._refused)
            return
        if self._actuating is not None:
            self._actuating.cancel()
        self._actuation_tick = decision.tick
        self._actuating = asyncio.create_task(
            self.actuator.apply(decision.setting, decision.tick), name=f"apply {self.name}"
        )

    async def finish_actuation(self) -> None:
        """Stop a move that is under way between two steps; what was done stays."""
        task, self._actuating = self._actuating, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task], timeout=_BREAK_OFF_S)
        self._close_intent(self._result(task))

    async def restore(self, decision: Decision) -> Actuation | None:
        """Wait for the actuation of a RESTORE decision."""
        task, self._actuating = self._actuating, None
        if task is None or not decision.moves:
            return None
        await asyncio.wait([task])
        outcome = self._result(task)
        self._close_intent(outcome)
        return outcome

    def _keep(self, tick: Tick, decision: Decision) -> None:
        """Count, log and remember what this tick brought."""
        sample = self.controller.sample
        assert sample is not None
        self._recent.see(sample)
        self._counters.see(tick, decision)
        self._teller.tell(self.run_id, tick, decision)
        if decision.moves:
            self._last_move, self._last_move_wall_ns = decision, tick.wall_ns
        if not decision.probing and decision.setting != self._held:
            self._held, self._held_before = decision.setting, self._held

    def _published(
        self, tick: Tick, decision: Decision, took: tuple[tuple[str, float], ...], spent_s: float
    ) -> PoolSnapshot:
        sample = self.controller.sample
        assert sample is not None
        return PoolSnapshot(
            pool=self.name,
            run_id=self.run_id,
            policy=self.policy,
            endpoint=self.actuator.endpoint,
            baseline=self.controller.baseline,
            tick=tick,
            sample=sample,
            recent=self._recent.summary(),
            decision=decision,
            plan=self.controller.plan,
            last_move=self._last_move,
            last_move_wall_ns=self._last_move_wall_ns,
            previous=self._held if decision.probing else self._held_before,
            learner=self._learner.state,
            learner_rss_bytes=self._learner.rss_bytes,
            tick_duration_s=spent_s,
            sensor_durations_s=took,
            counters=tuple(sorted(self._counters.items())),
            benefit=self.controller.benefit,
            kept=self.controller.kept,
        )
