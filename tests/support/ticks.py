"""Ticks and policies for tests of the core: small builders, no mocks."""

import random
from dataclasses import replace

from poolwright.core.controller import Controller
from poolwright.core.envelope import violations
from poolwright.core.model import (
    Action,
    Actuation,
    ActuationStatus,
    Applied,
    Candidate,
    Context,
    Decision,
    Estimate,
    Plan,
    PlanBin,
    Reading,
    Reason,
    Setting,
    Status,
    Tick,
    Verdict,
    setting,
)
from poolwright.core.policy import ExploreRule, GuardRule, Knob, Mode, Policy, Slo
from poolwright.core.sketch import sketch_of


def policy(**changes):
    """A policy in mode auto with short windows."""
    base = Policy(
        name="test",
        knobs=(Knob(name="workers", lower=1, upper=16, slew_per_move=4, settle_s=2.0),),
        objective=(("latency_p99_s", 1.0), ("memory_bytes", 0.2)),
        slo=(
            Slo(response="error_ratio", below=0.05),
            Slo(response="latency_p99_s", below=0.5),
        ),
        guard=GuardRule(blind_s=10.0, cooldown_s=10.0),
        explore=ExploreRule(
            window_s=5.0, warmup_windows=2, patience=2, probes_per_hour=1000.0, budget_ratio=1.0
        ),
        mode=Mode.AUTO,
    )
    return replace(base, **changes)


def readings(
    *, rps=50.0, latency_s=0.1, queue=0.0, cpu=0.5, memory=200e6, used=1e9, limit=8e9, seed=0
):
    """What a healthy set of sensors says in one tick; `latency_s` None: no request-level data."""
    values = {
        "throughput_rps": rps,
        "errors_rps": 0.0,
        "queue_length": queue,
        "cpu_cores": cpu,
        "memory_bytes": memory,
        "host_cpu_cores": cpu + 0.1,
        "host_cpu_count": 2.0,
        "host_memory_used_bytes": used,
        "memory_limit_bytes": limit,
        "power_w": 80.0,
    }
    found = [Reading(signal=n, source="test", value=v) for n, v in values.items() if v is not None]
    if latency_s is not None and rps:
        spread = random.Random(seed)
        seen = sketch_of([latency_s * spread.uniform(0.5, 1.5) for _ in range(max(1, round(rps)))])
        for name in ("latency_s", "service_time_s"):
            found.append(Reading(signal=name, source="test", value=seen.mean, sketch=seen))
    return tuple(found)


BLIND = tuple(
    Reading(signal=n, source="test", status=Status.ERROR, detail="gone")
    for n in ("throughput_rps", "latency_s", "errors_rps", "host_memory_used_bytes")
)


def plan(version, best, *, probe=None, gain=0.05, load_rps=50.0, levels=range(1, 17)):
    """A plan that recommends `best` workers at every load and offers one probe."""
    predictions = (("latency_p99_s", Estimate(mean=0.15, std=0.02)),)
    candidates = tuple(
        Candidate(
            setting=setting(workers=n),
            objective=Estimate(mean=1.0 + abs(n - best) * 0.1, std=0.05),
            p_safe=0.99,
            gain_ratio=gain if n == probe else 0.0,
            verdict=Verdict.RECOMMENDED if n == best else Verdict.WORSE,
            predictions=predictions,
        )
        for n in levels
    )
    probes = tuple(
        replace(c, verdict=Verdict.PROBE) for c in candidates if c.setting["workers"] == probe
    )
    return Plan(
        version=version,
        fitted_tick=0,
        evidence_digest="",
        context=Context(load_rps=load_rps),
        schedule=(
            PlanBin(
                load_lower_rps=0.0,
                load_upper_rps=1e9,
                setting=setting(workers=best),
                safe_lower=setting(workers=1),
                safe_upper=setting(workers=16),
                p_safe=0.99,
                predictions=predictions,
            ),
        ),
        candidates=candidates,
        probes=probes,
        best_gain_ratio=gain if probes else 0.0,
        references=(("latency_p99_s", 0.5), ("memory_bytes", 2e8)),
    )


class Bench:
    """A controller on a bench: a plant that obeys at once, and the invariants after every tick."""

    def __init__(self, rule=None, workers=4, resume=None):
        self.policy = rule or policy()
        self.controller = Controller(self.policy, resume)
        self.workers = workers
        self.epoch = "1"
        self.index = 0
        self.mono_ns = 1_000_000_000
        self.ticks = []
        self.decisions = []
        self.obeys = True
        self.status = ActuationStatus.APPLIED
        self._actuation = None

    def tick(self, *, seen=None, dt_s=1.0, applied=True, **more) -> Decision:
        """One tick; `seen` are readings, further keywords are fields of the Tick."""
        found = readings(seed=self.index) if seen is None else seen
        tick = Tick(
            index=self.index,
            mono_ns=self.mono_ns,
            wall_ns=0,
            readings=found,
            applied=Applied(setting=setting(workers=self.workers), epoch=self.epoch)
            if applied
            else None,
            actuation=self._actuation,
            **more,
        )
        self.index += 1
        self.mono_ns += round(dt_s * 1e9)
        before = self.workers
        decision = self.controller.step(tick)
        self.ticks.append(tick)
        self.decisions.append(decision)
        self._actuation = None
        self._check(decision, before)
        if decision.moves:
            self._actuation = Actuation(decision_tick=decision.tick, status=self.status)
            if self.obeys:
                self.workers = decision.setting["workers"]
        return decision

    def run(self, ticks, **more):
        """Several ticks; the last decision."""
        for _ in range(ticks):
            decision = self.tick(**more)
        return decision

    def until(self, predicate, most=60, **more):
        """Tick until a decision satisfies `predicate`; that decision."""
        for _ in range(most):
            decision = self.tick(**more)
            if predicate(decision):
                return decision
        raise AssertionError(f"not within {most} ticks: last {decision}")

    def warm(self):
        """Run until the core asks for its first fit; that decision."""
        return self.until(lambda d: d.fit_request is not None)

    def answer(self, decision, best, **more):
        """The plan that answers `decision`'s request, given in the next tick; its decision."""
        return self.tick(plan=plan(decision.fit_request.version, best, **more))

    def _check(self, decision, before):
        knob = self.policy.knobs[0]
        assert decision.state_digest
        if decision.setting is not None and self.policy.mode is Mode.AUTO and decision.moves:
            assert not violations(decision.setting, self.policy)
            level = decision.setting["workers"]
            if str(decision.action) not in ("retreat", "restore") and (
                knob.lower <= before <= knob.upper and str(decision.reason) != "reassert"
            ):
                assert abs(level - before) <= knob.slew_per_move
        if self.policy.mode is Mode.OBSERVE:
            assert not decision.moves
        if self.policy.mode is Mode.RECOMMEND and decision.moves:
            back = decision.action is Action.RETREAT
            assert back or decision.reason in (Reason.APPROVED, Reason.PINNED, Reason.ROLLED_BACK)


def level(found: Setting) -> int:
    """The workers of a setting."""
    return found["workers"]
