"""What another policy would have decided on recorded days, and what may have come of it.

Two cores go through the journalled ticks side by side: one under the recorded policy, which says
what was known at each moment, and one under the other policy, in the world as it may have been
(`engine.other_world`). The other policy's plans are fitted to what was really measured until then,
never to estimates; what it would have tried and learned by itself is not known, so it is never
said. Where both hold the same setting, what came of it is recorded. Where they do not, every
consequence is an estimate of the surrogate, with its error, and is told as one.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from poolwright.core.errors import PolicyError
from poolwright.core.model import (
    Decision,
    Evidence,
    FitRequest,
    Plan,
    Responses,
    Resume,
    Setting,
    Tick,
)
from poolwright.core.policy import Policy
from poolwright.core.sample import Sample
from poolwright.engine.other_world import OtherWorld, Pair
from poolwright.engine.otherwise import Choice, Minutes, Open, Typical, WhatIf, choice
from poolwright.engine.recovery import carried
from poolwright.engine.replay import first_gap, run_start, steps_before
from poolwright.journal.query import Gap, JournalReader
from poolwright.journal.record import Step, without_fit
from poolwright.policy.calendar import calendar_at

_SMOOTH = 0.2  # of the newest tick in the load that forecasts are made for
_REFIT_WINDOWS = 4  # measured since the last fit of the forecasts
_EVIDENCE_MOST = 48  # windows before the first kept tick


class Decider(Protocol):
    """What is needed of a controller."""

    @property
    def sample(self) -> Sample | None:
        """What the last tick said."""

    def step(self, tick: Tick) -> Decision:
        """The decision of a tick."""

    def resume(self) -> Resume:
        """What it knows."""


class Versus(Pair, Protocol):
    """Two settings at one load."""

    @property
    def differences(self) -> Responses:
        """Of the other from the recorded one, with standard errors."""


class Forecaster(Protocol):
    """A fitted surrogate."""

    def at(self, one: Setting, other: Setting, load_rps: float) -> Versus:
        """Both settings at a load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """The learner's two functions; both raise ValueError when nothing can be learned."""

    plan: Callable[[FitRequest], Plan]
    forecast: Callable[[FitRequest], Forecaster]


def what_if(
    reader: JournalReader,
    run: int,
    make: Callable[[Policy, Resume], Decider],
    policy: Policy,
    learner: Learner,
) -> WhatIf:
    """What `policy` would have done on the ticks of a run that are kept.

    Where retention has dropped the first ones, both cores begin with what had been measured before
    the first that is left. PolicyError when the policy is about other knobs; PlantFault when the
    run is not there, or a record cannot be read.
    """
    ran, resume, cut = _begin(reader, run)
    if {knob.name for knob in policy.knobs} != {knob.name for knob in ran.knobs}:
        raise PolicyError(
            f"policy {policy.name} moves {_knobs(policy)}, and run {run} moved {_knobs(ran)}"
        )
    beside = _Beside(
        recorded=make(ran, resume),
        otherwise=make(policy, carried(resume, ran, policy)),
        policy=policy,
        learner=learner,
    )
    gap = first_gap(reader, run)
    for step in steps_before(reader, run, gap):
        beside.step(step)
    return beside.result(reader.run(run).pool, run, ran, gap, cut=cut)


class _Beside:
    """The two cores, and what is counted of them."""

    def __init__(
        self, *, recorded: Decider, otherwise: Decider, policy: Policy, learner: Learner
    ) -> None:
        self._recorded, self._otherwise = recorded, otherwise
        self._policy, self._learner = policy, learner
        self._world = OtherWorld()
        self._answer: tuple[int, Plan | None, str] | None = None  # when asked, plan or why not
        self._with_recorded = False  # the recorded core asked in the same tick
        self._late = 1  # ticks from the last recorded request to its plan
        self._request: FitRequest | None = None  # the newest of the other policy
        self._forecast: Forecaster | None = None
        self._windows = self._fitted_at = self._plans = 0
        self._plan_fault = ""
        self._load: float | None = None
        self._tried: set[Setting] = set()
        self._calibration: dict[str, float] = {}
        self._ticks = self._differing = 0
        self._span_s = 0.0
        self._moves: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._first: tuple[int, Choice, Choice] | None = None
        self._unlike: int | None = None
        self._open: Open | None = None
        self._closed: list[Open] = []
        self._typical = Typical()
        self._minutes = Minutes(policy.slo), Minutes(policy.slo)  # recorded, otherwise

    def step(self, step: Step) -> None:
        """One tick of both."""
        journalled = step.decision
        now = self._recorded.step(step.tick)
        if self._unlike is None and without_fit(now) != journalled:
            self._unlike = step.tick.index
        sample = self._recorded.sample
        self._learn(journalled, step.tick.plan, sample)
        self._world.follow(step, journalled)
        versus = self._versus(journalled, step.tick)
        quiet, overrides = calendar_at(self._policy, step.tick.wall_ns)
        plan, fault = self._answered(step.tick)
        tick = replace(
            self._world.tick(step.tick, journalled, versus),
            quiet=quiet,
            overrides=overrides,
            plan=plan,
            learner_fault=fault,
        )
        decision = self._otherwise.step(tick)
        self._world.move(journalled, decision)
        if decision.fit_request is not None:
            self._fit(decision.fit_request, now.fit_request)
        self._count(step, without_fit(decision), sample, versus)

    def _learn(self, journalled: Decision, plan: Plan | None, sample: Sample | None) -> None:
        """What the recorded tick adds to what is known of the service."""
        if journalled.observation is not None:
            self._windows += 1
            self._tried.add(journalled.observation.setting)
        if plan is not None:
            self._calibration = dict(plan.calibration)
        load = None if sample is None else sample.load_rps
        if load is not None:
            known = load if self._load is None else self._load
            self._load = known + _SMOOTH * (load - known)

    def _evidence(self) -> tuple[Evidence, ...]:
        """What was really measured until now."""
        return self._recorded.resume().evidence

    def _fit(self, asked: FitRequest, recorded: FitRequest | None) -> None:
        """Answer the other core as the learner would have, from what was measured."""
        self._with_recorded = recorded is not None
        self._request = replace(asked, evidence=self._evidence())
        try:
            plan, fault = self._learner.plan(self._request), ""
            self._plans += 1
        except ValueError as error:
            plan, fault = None, str(error)
            self._plan_fault = fault
        self._answer = asked.tick, plan, fault

    def _answered(self, tick: Tick) -> tuple[Plan | None, str]:
        """The answer, when it is due: with the recorded one, or as late as the last of those."""
        if tick.plan is not None:
            self._late = max(1, tick.index - tick.plan.fitted_tick)
        if self._answer is None:
            return None, ""
        asked, plan, fault = self._answer
        came = tick.plan is not None and tick.plan.fitted_tick == asked
        if self._with_recorded and not came and not tick.learner_fault:
            return None, ""
        if not self._with_recorded and tick.index < asked + self._late:
            return None, ""
        self._answer = None
        return plan, fault

    def _versus(self, recorded: Decision, tick: Tick) -> Versus | None:
        """Both settings at the present load; None where they are one, or nothing is known."""
        here, there = recorded.setting, self._world.level
        if not self._world.apart(recorded, tick) or here is None or there is None:
            return None
        if self._request is not None and (
            self._forecast is None or self._windows >= self._fitted_at + _REFIT_WINDOWS
        ):
            self._fitted_at = self._windows
            try:
                request = replace(self._request, evidence=self._evidence())
                self._forecast = self._learner.forecast(request)
            except ValueError as error:
                self._plan_fault = str(error)
        if self._forecast is None or self._load is None or self._load <= 0.0:
            return None
        return self._forecast.at(here, there, self._load)

    def _count(
        self, step: Step, decision: Decision, sample: Sample | None, versus: Versus | None
    ) -> None:
        journalled, dt_s = step.decision, 0.0 if sample is None else sample.dt_s
        self._ticks += 1
        self._span_s += dt_s
        for minutes, seen in zip(self._minutes, (sample, self._otherwise.sample), strict=True):
            minutes.see(seen)
        for moves, made in zip(self._moves, (journalled, decision), strict=True):
            moves[made.action] += made.moves
        pair = choice(journalled), choice(decision)
        if pair[0] != pair[1]:
            self._differing += 1
            if self._first is None:
                self._first = (step.tick.index, *pair)
        last = self._open
        if last is not None and (last.recorded.setting, last.otherwise.setting) != (
            journalled.setting,
            decision.setting,
        ):
            self._closed.append(last)
            self._open = None
        if journalled.setting == decision.setting or sample is None:
            return
        if self._open is None:
            self._open = Open(tick=step.tick, recorded=journalled, otherwise=decision)
        self._open.see(sample)
        if versus is not None:
            self._open.estimates.add(versus.differences, dt_s)
            self._typical.add(versus.differences, dt_s)

    def result(
        self, pool: str, run: int, ran: Policy, gap: Gap | None, *, cut: int | None
    ) -> WhatIf:
        """All that was counted."""
        apart = [*self._closed, *([] if self._open is None else [self._open])]
        stretches = tuple(found.close(self._tried) for found in apart)
        actions = sorted(set(self._moves[0]) | set(self._moves[1]))
        counts = {name: (self._moves[0][name], self._moves[1][name]) for name in actions}
        return WhatIf(
            run=run,
            pool=pool,
            policy=self._policy.name,
            recorded_policy=ran.name,
            ticks=self._ticks,
            span_s=self._span_s,
            differing=self._differing,
            first=self._first,
            moves=self._moves[0].total(),
            moves_otherwise=self._moves[1].total(),
            actions={str(name): pair for name, pair in counts.items() if any(pair)},
            apart_s=sum(found.span_s for found in apart),
            untried_s=sum(s.span_s for s in stretches if s.untried),
            estimated_s=self._typical.span_s,
            estimates=self._typical.made(),
            outside_minutes=(self._minutes[0].outside, self._minutes[1].outside),
            calibration=self._calibration,
            plans=self._plans,
            plan_fault=self._plan_fault,
            unlike_from=self._unlike if cut is None else None,
            cut_before=cut,
            stretches=stretches,
            gap=gap,
        )


def _begin(reader: JournalReader, run: int) -> tuple[Policy, Resume, int | None]:
    """The policy of a run, what to begin with, and the first kept tick where some were dropped."""
    if not reader.run(run).kept_seq:
        return *run_start(reader, run), None
    policy, _ = reader.start_of(run)
    first = next((batch.first_tick for batch in reader.batches(run)), 0)
    rows = [r for r in reader.decisions_of_run(run) if r.observed is not None and r.tick < first]
    seen = [reader.full_decision(row.id).observation for row in rows[-_EVIDENCE_MOST:]]
    evidence = tuple(Evidence(observation=o) for o in seen if o is not None)
    return policy, Resume(evidence=evidence, plan=reader.plan_before(run, first)), first


def _knobs(policy: Policy) -> str:
    return ", ".join(sorted(knob.name for knob in policy.knobs))
