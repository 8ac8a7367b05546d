"""A host for make_plan: the closed loop without the rest of poolwright."""

from dataclasses import dataclass, field

import numpy as np
from plants import MIB, Plant, window

from poolwright.core.model import Context, Evidence, FitRequest, Plan, Setting, setting
from poolwright.core.policy import ExploreRule, Knob, Policy, Slo
from poolwright.learn.plan import make_plan

SLO_S = 0.25
WEIGHTS = {"latency_p99_s": 1.0, "power_w": 0.3, "memory_bytes": 0.3}


def policy(upper: int = 24, weights: dict | None = None) -> Policy:
    return Policy(
        name="test",
        knobs=(Knob(name="workers", lower=1, upper=upper),),
        objective=tuple((weights or WEIGHTS).items()),
        slo=(Slo(response="latency_p99_s", below=SLO_S, confidence=0.9),),
        explore=ExploreRule(),
    )


def request(evidence, incumbent: Setting, load: float | None = 80.0, **changes) -> FitRequest:
    given = {
        "version": 1,
        "tick": len(evidence),
        "policy": policy(),
        "trust_octaves": 0.7,
        **changes,
    }
    return FitRequest(
        evidence=tuple(evidence),
        incumbent=incumbent,
        context=Context(load_rps=load, foreign_cpu_ratio=0.0),
        **given,
    )


def held(plan: Plan, load: float) -> Setting:
    """What the schedule says at `load`."""
    for entry in plan.schedule:
        if load < entry.load_upper_rps:
            return entry.setting
    return plan.schedule[-1].setting


@dataclass
class Run:
    evidence: list[Evidence] = field(default_factory=list)
    probed: list[int] = field(default_factory=list)
    final: int = 0
    windows: int = 0
    plans: list[Plan] = field(default_factory=list)


def closed_loop(
    plant: Plant, seed: int, load: float, start: int, limit_mib: float, windows: int = 25
) -> Run:
    """Warm up for three windows, then every other window probes; stops when nothing is worth it."""
    rng = np.random.default_rng(seed)
    run, now, trust, dull = Run(), start, 0.5, 0
    for tick in range(3):
        run.evidence.append(window(plant, rng, 10 * tick, start, load))
    for tick in range(3, windows):
        plan = make_plan(
            request(
                run.evidence,
                setting(workers=now),
                load,
                trust_octaves=trust,
                memory_limit_bytes=limit_mib * MIB,
                leverage=tick % 5 == 0,
            )
        )
        run.plans.append(plan)
        dull = dull + 1 if plan.best_gain_ratio < 0.01 else 0
        now = held(plan, load)["workers"]
        if dull >= 4:
            break
        chosen = now
        if plan.probes and (tick % 2 == 1 or plan.best_gain_ratio > 0.05):
            chosen = plan.probes[0].setting["workers"]
            run.probed.append(chosen)
        run.evidence.append(window(plant, rng, 10 * tick, chosen, load))
        p99 = run.evidence[-1].observation.response("latency_p99_s")
        over = p99 is not None and p99.mean > SLO_S
        trust = max(0.2, trust * 0.6) if over else min(1.5, trust * 1.25)
    run.final, run.windows = now, len(run.evidence)
    return run
