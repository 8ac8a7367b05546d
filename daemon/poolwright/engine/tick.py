"""One tick of one pool: gather -> step -> journal -> assert -> apply -> publish.

The same function serves the live and the shadow host: the core itself commands nothing unless the
policy's mode is auto. An actuation runs beside the ticks; its outcome enters the next one.
"""

import asyncio
import logging
import time
from collections import Counter, deque

from poolwright.core.controller import Controller
from poolwright.core.envelope import violations
from poolwright.core.errors import PlantFault
from poolwright.core.model import (
    Action,
    Actuation,
    ActuationStatus,
    Command,
    Decision,
    Plan,
    Resume,
    Setting,
    Status,
    Tick,
)
from poolwright.core.policy import Policy
from poolwright.core.reasons import REASONS
from poolwright.core.sample import Sample
from poolwright.core.sketch import Sketch, merged
from poolwright.engine.gather import read_back, read_sensors
from poolwright.engine.learner import Learner
from poolwright.engine.snapshot import PoolSnapshot, Recent
from poolwright.ports import Actuator, Clock, Journal, Sensor

_RECENT_S = 10.0
_FAULTS_MOST = 3  # of the core, in a row: then it is not to be trusted with a service
_LOG = logging.getLogger("poolwright")


class CoreFault(Exception):
    """The core failed an assertion several times in a row; the baseline should be restored."""


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
    ) -> None:
        """Nothing is started yet: `open_run`, then `tick`."""
        self.name = name
        self.policy = policy
        self.sensors = sensors
        self.actuator = actuator
        self.journal_error = ""
        self._journal = journal
        self._learner = learner
        self._clock = clock
        self._commands: deque[Command] = deque(maxlen=64)
        self._actuating: asyncio.Task[Actuation] | None = None
        self._actuation_tick = 0
        self._refused: Actuation | None = None
        self._recent: deque[tuple[float, Sketch, bool]] = deque()
        self._counters: Counter[str] = Counter()
        self._last_move: Decision | None = None
        self._last_move_wall_ns: int | None = None
        self._last_phase = ""
        self._core_faults = 0
        self._index = 0
        self.run_id = 0
        self.controller = Controller(policy)
        self.snapshot: PoolSnapshot | None = None

    def open_run(self, resume: Resume) -> None:
        """Begin a run in the journal. Raises PlantFault when the journal cannot be written."""
        self.run_id = self._journal.begin_run(self.name, self.policy, resume, self._clock.wall_ns())
        self.controller = Controller(self.policy, resume)
        self._index = 0

    async def adopt(self, policy: Policy, reason: str) -> None:
        """Go on under another policy, in a run of its own, with all that was learned."""
        await self.finish_actuation()
        resume = self.controller.resume()
        self._journal.end_run(self.run_id, reason, self._clock.wall_ns())
        self.policy = policy
        self.open_run(resume)

    def command(self, command: Command) -> None:
        """Hand an operator's request to the next tick."""
        self._commands.append(command)

    def count(self, name: str) -> None:
        """Count something that the host noticed (a late slot)."""
        self._counters[name] += 1

    async def tick(self) -> Decision | None:
        """One tick; None when the core failed. Raises CoreFault when it keeps failing."""
        began = time.perf_counter()
        mono_ns = self._clock.mono_ns()
        (readings, took), (applied, fault) = await asyncio.gather(
            read_sensors(self.sensors, mono_ns), read_back(self.actuator)
        )
        commands = tuple(self._commands)
        self._commands.clear()
        tick = Tick(
            index=self._index,
            mono_ns=mono_ns,
            wall_ns=self._clock.wall_ns(),
            readings=readings,
            applied=applied,
            actuation=self._outcome(),
            commands=commands,
            plan=self._plan(),
            fault=fault,
            learner_fault=self._learner.failure(self.name),
        )
        self._index += 1
        decision = self._step(tick)
        if decision is None:
            return None
        written = self._write(tick, decision)
        if decision.moves:
            self._obey(decision, written=written)
        if decision.fit_request is not None:
            self._learner.submit(self.name, decision.fit_request)
        self._publish(tick, decision, took, time.perf_counter() - began)
        return decision

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
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return task.result()
        if not isinstance(error, PlantFault):
            _LOG.error("%s: actuator raised", self.name, exc_info=error)
        return Actuation(
            decision_tick=self._actuation_tick,
            status=ActuationStatus.FAILED,
            detail=str(error) or type(error).__name__,
        )

    def _note(self, kind: str, text: str) -> None:
        try:
            self._journal.note(self.run_id, self._clock.wall_ns(), kind, text)
        except PlantFault as fault:  # it is in the log as well
            self.journal_error = str(fault)
            _LOG.error("%s: %s", self.name, fault)

    def _close_intent(self, outcome: Actuation) -> None:
        try:
            self._journal.close_intent(self.run_id, outcome, self._clock.wall_ns())
        except PlantFault as fault:  # recovery will find the intent open, and the world as it is
            self.journal_error = str(fault)
            _LOG.error("%s: %s", self.name, fault)

    def _step(self, tick: Tick) -> Decision | None:
        try:
            decision = self.controller.step(tick)
        except Exception as error:
            self._core_faults += 1
            self._counters["core_faults"] += 1
            _LOG.exception("%s: the core failed at tick %d", self.name, tick.index)
            self._note("core_fault", f"tick {tick.index}: {error!r}")
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
            if not self.journal_error:
                _LOG.error("%s: %s", self.name, fault)
            self.journal_error = str(fault)
            return False
        self.journal_error = ""
        return True

    def _obey(self, decision: Decision, *, written: bool) -> None:
        """Start moving. What is not journalled, or not in the envelope, is not done."""
        assert decision.setting is not None
        wrong = violations(decision.setting, self.policy)
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
        await asyncio.wait([task], timeout=1.0)
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

    def _publish(
        self, tick: Tick, decision: Decision, took: tuple[tuple[str, float], ...], spent_s: float
    ) -> None:
        sample = self.controller.sample
        assert sample is not None
        self._tally(tick, decision)
        if decision.moves or decision.events or str(decision.phase) != self._last_phase:
            _LOG.info("%s", describe(self.name, decision))
        self._last_phase = str(decision.phase)
        if decision.moves:
            self._last_move, self._last_move_wall_ns = decision, tick.wall_ns
        self.snapshot = PoolSnapshot(
            pool=self.name,
            run_id=self.run_id,
            policy=self.policy,
            endpoint=self.actuator.endpoint,
            baseline=self.controller.baseline,
            tick=tick,
            sample=sample,
            recent=self._latency(sample),
            decision=decision,
            plan=self.controller.plan,
            last_move=self._last_move,
            last_move_wall_ns=self._last_move_wall_ns,
            learner=self._learner.state,
            learner_rss_bytes=self._learner.rss_bytes,
            tick_duration_s=spent_s,
            sensor_durations_s=took,
            counters=tuple(sorted(self._counters.items())),
        )

    def _tally(self, tick: Tick, decision: Decision) -> None:
        counters = self._counters
        counters["ticks"] += 1
        counters[f"decisions:{decision.action}:{decision.reason}"] += 1
        if decision.moves:
            counters["moves"] += 1
            if decision.action in (Action.PROBE, Action.DITHER):
                counters["probes"] += 1
            if decision.action is Action.RETREAT:
                counters["retreats"] += 1
        if decision.observation is not None:
            counters["windows"] += 1
        if tick.learner_fault:
            counters["fit_failures"] += 1
        before = self.snapshot.decision.guard_trips if self.snapshot is not None else ()
        for reason in decision.guard_trips:
            if reason not in before:  # a trip is counted when it begins
                counters["guard_trips"] += 1
                counters[f"guard_trips:{reason}"] += 1
        if any(r.status in (Status.ERROR, Status.STALE) for r in tick.readings):
            counters["sensor_failures"] += 1

    def _latency(self, sample: Sample) -> Recent:
        """Latency over the last ten seconds."""
        if sample.latency is not None:
            self._recent.append((sample.dt_s, sample.latency, sample.latency_estimated))
        else:
            self._recent.append((sample.dt_s, Sketch(), False))
        while sum(dt for dt, _, _ in self._recent) > _RECENT_S and len(self._recent) > 1:
            self._recent.popleft()
        span = sum(dt for dt, _, _ in self._recent)
        sketch = merged(s for _, s, _ in self._recent)
        if not sketch.count:
            return Recent(span_s=span)
        return Recent(
            span_s=span,
            count=sketch.count,
            p50_s=sketch.quantile(0.50),
            p95_s=sketch.quantile(0.95),
            p99_s=sketch.quantile(0.99),
            jitter_s=sketch.std,
            estimated=any(e for _, _, e in self._recent),
        )


def describe(pool: str, decision: Decision) -> str:
    """One line of log for a decision: what, where to, and why."""
    setting: Setting | None = decision.wanted
    words = f"{pool}: {decision.phase} {decision.action} {setting}: {REASONS[decision.reason]}"
    if decision.detail:
        words += f" ({decision.detail})"
    if decision.clamps:
        words += "; clamped by " + ", ".join(str(c.kind) for c in decision.clamps)
    if decision.events:
        words += "; " + "; ".join(decision.events)
    return words
