"""A pool that serves less the larger it is, from its first tick: the way down is found."""

from random import Random

import pytest

from poolwright.core.controller import Controller
from poolwright.core.model import Applied, Reading, Setting, Tick
from poolwright.core.policy import ExploreRule, Knob, Mode, Policy, Slo
from poolwright.core.sketch import SketchBuilder
from poolwright.learn.plan import make_plan

LOWER, UPPER, LOAD_RPS = 2, 24, 45.0
CALM_S, SLOW_S, HELD_S = 0.06, 0.0015, 0.002  # a request, more for each worker, under the lock


def capacity(workers: int) -> float:
    """Requests a second: a lock is held the longer the more workers there are. Most at 7."""
    held = HELD_S + SLOW_S * workers
    return min(workers / (CALM_S + 2.0 * held), 1.0 / held)


def policy() -> Policy:
    return Policy(
        name="lock",
        knobs=(Knob(name="workers", lower=LOWER, upper=UPPER, slew_per_move=4, settle_s=1.0),),
        objective=(("latency_p99_s", 1.0), ("memory_bytes", 0.2)),
        slo=(Slo(response="latency_p99_s", below=0.3, confidence=0.9),),
        explore=ExploreRule(
            probes_per_hour=1000, budget_ratio=1.0, window_s=6.0, warmup_windows=2, patience=2,
            epsilon=0.02,
        ),
        mode=Mode.AUTO,
    )  # fmt: skip


def played(start: int, seconds: int) -> list[tuple[int, float]]:
    """Level and queue of every second, of a queue that flows instead of single requests."""
    draw, controller = Random(1), Controller(policy())
    level, queue, plan, seen = start, 0.0, None, []
    for index in range(seconds):
        now_ns = (index + 1) * 1_000_000_000
        most = capacity(level)
        done = min(LOAD_RPS + queue, most)
        queue = max(0.0, queue + LOAD_RPS - done)
        took, latency = CALM_S + SLOW_S * (level if queue else 0.08 * LOAD_RPS), SketchBuilder()
        for _ in range(round(done)):
            latency.add(queue / most + took * draw.uniform(0.5, 1.9))
        felt = latency.freeze()

        def tell(signal, value, at_ns=now_ns, **more):
            return Reading(signal=signal, source="toy", value=value, taken_mono_ns=at_ns, **more)

        readings = (
            tell("throughput_rps", done),
            tell("queue_length", queue),
            tell("latency_s", felt.mean, sketch=felt),
            tell("memory_bytes", 20e6 + 2e6 * level),
            tell("cpu_cores", 0.05),
            tell("host_cpu_cores", 0.3),
            tell("host_cpu_count", 2.0),
            tell("host_memory_used_bytes", 1e9),
            tell("memory_limit_bytes", 24e9),
        )
        applied = Applied(setting=Setting(levels=(("workers", level),)), epoch="1")
        decision = controller.step(
            Tick(
                index=index, mono_ns=now_ns, wall_ns=0, readings=readings, applied=applied,
                plan=plan,
            )
        )  # fmt: skip
        plan = make_plan(decision.fit_request) if decision.fit_request is not None else None
        if decision.moves:
            level = decision.setting["workers"]
        seen.append((level, queue))
    return seen


@pytest.mark.parametrize("start", [24, 23, 20, 12, 3])
def test_wherever_it_starts_it_ends_where_the_load_is_served(start):
    seen = played(start, 150)
    assert {queue for _, queue in seen[-30:]} == {0.0}
    assert all(capacity(level) > LOAD_RPS for level, _ in seen[-30:])
