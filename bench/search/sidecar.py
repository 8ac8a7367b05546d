"""poolwright as it really is: `core.controller.Controller` and `learn.plan.make_plan` in a loop.

A slot of 30 s is six ticks of 5 s, so that the guard, the reflexes and the breach flag of a window
work as they do in the daemon; the policy's window is 30 s without jitter and its settle time is 0,
so that six ticks at a setting are one observation. A closed window's FitRequest is answered in the
next tick, as in the daemon; that tick has no length (`mono_ns` stands still), so answering takes
no simulated time and a probe costs exactly one window. It repeats the gauges of the tick before it
and carries one request. The core and the learner are unchanged.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from poolwright.core.controller import Controller
from poolwright.core.model import Applied, FitRequest, Observation, Plan, Reading, Setting, Tick
from poolwright.core.policy import ExploreRule, GuardRule, Knob, Mode, Policy, Slo
from poolwright.core.sketch import Sketch, bucket_index
from search.ablations import ablated
from search.plants import WEIGHTS, WINDOW_S, Plant, Truth
from search.world import TICK_S, TICKS, World

_MONO_NS = 1_000_000_000
_Z90 = 1.6448536269514722
_NEAR = 0.03  # a plan speaks of its own load
_PROPORTIONAL = ("throughput_rps", "cpu_cores")  # to the load, when it is as near as that


def policy_of(plant: Plant, seed: int, *, warmup: int = 1, confidence: float = 0.9) -> Policy:
    """What an operator who wants J would write. No budget, slew or settle time binds."""
    knobs = tuple(
        Knob(name=name, lower=low, upper=high, slew_per_move=high, settle_s=0.0)
        for name, low, high in plant.spans
    )
    saturated = plant.kind == "saturated"
    slo = Slo(response="latency_p95_s", below=plant.slo_s, confidence=confidence)
    return Policy(
        name="bench",
        knobs=knobs,
        objective=(("throughput_rps", 1.0),) if saturated else WEIGHTS,
        slo=() if saturated else (slo,),
        guard=GuardRule(memory_ratio=1.0),
        explore=ExploreRule(
            probes_per_hour=1e6,
            budget_ratio=1.0,
            slo_budget_ratio=1e3,
            burn_rate=1e3,
            window_s=WINDOW_S,
            window_jitter=0.0,
            warmup_windows=warmup,
            holdout_every_s=0.0,
        ),
        mode=Mode.AUTO,
        cadence_s=TICK_S,
        seed=seed,
    )


def sketch_counts(values: np.ndarray, counts: np.ndarray) -> Sketch:
    """The Sketch of `values`, each seen so many times."""
    bins: dict[int, int] = {}
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if count:
            index = bucket_index(value)
            bins[index] = bins.get(index, 0) + count
    return Sketch(
        bins=tuple(sorted(bins.items())),
        total=float(values @ counts),
        total_squares=float((values * values) @ counts),
    )


@dataclass
class Calibration:
    """How often a fresh window fell into the 90 % interval of the plan made before it."""

    inside: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def see(self, plan: Plan | None, fresh: Observation) -> None:
        """Compare one window with what was believed of its setting, near the plan's load."""
        if plan is None or plan.context.load_rps is None or fresh.context.load_rps is None:
            return
        ratio = fresh.context.load_rps / plan.context.load_rps
        if abs(ratio - 1.0) > _NEAR:
            return
        expected = next((c for c in plan.candidates if c.setting == fresh.setting), None)
        if expected is None:
            return
        for name, guess in expected.predictions:
            seen = fresh.response(name)
            if seen is None or guess.mean <= 0.0 or seen.mean <= 0.0:
                continue
            spread = np.hypot(np.log1p(guess.std / guess.mean), seen.std / seen.mean)
            scale = ratio if name in _PROPORTIONAL else 1.0
            hit = abs(np.log(seen.mean / (scale * guess.mean))) <= _Z90 * spread
            self.asked[name] = self.asked.get(name, 0) + 1
            self.inside[name] = self.inside.get(name, 0) + int(hit)


@dataclass
class Sidecar:
    """The loop. `slot(k)` lives through one slot and tells which setting each tick had."""

    world: World
    warmup: int = 1
    confidence: float = 0.9
    ablate: str = ""
    plans: int = 0
    fit_ms: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    calibration: Calibration = field(default_factory=Calibration)
    phase: str = ""

    def __post_init__(self) -> None:
        """Adopt the operator's default."""
        self.plant = self.world.plant
        self.names = tuple(sorted(self.plant.names))
        self.policy = policy_of(
            self.plant, self.world.seed, warmup=self.warmup, confidence=self.confidence
        )
        self.controller = Controller(self.policy)
        self.applied = self.plant.start
        self._mono_ns, self._index = _MONO_NS, 0
        self._plan: Plan | None = None
        self._asked: FitRequest | None = None
        self._fault = ""
        self._factor: tuple[float, float] | None = None
        self._factor_ticks = 0
        self._backlog = 0.0
        self._last: tuple[Reading, ...] = ()
        self.reasons: dict[str, int] = {}
        self.ticks: dict[str, int] = {}
        self._make_plan = ablated(self.ablate)

    def to_setting(self, levels: tuple[int, ...]) -> Setting:
        """The core's Setting."""
        return Setting(levels=tuple(sorted(zip(self.plant.names, levels, strict=True))))

    def to_levels(self, setting: Setting) -> tuple[int, ...]:
        """The plant's levels."""
        return tuple(setting[name] for name in self.plant.names)

    def slot(self, slot: int) -> list[tuple[int, ...]]:
        """Six ticks, with the answers to fits between them."""
        held = []
        if not self._index:  # the first tick has nothing before it to measure a time from
            self._step(self._readings(self.world.truth(self.applied, slot), slot, 0.0), slot)
        for _ in range(TICKS):
            held.append(self.applied)
            truth = self.world.truth(self.applied, slot)
            self._mono_ns += round(TICK_S * 1e9)
            self._step(self._readings(truth, slot, TICK_S), slot)
            if self._asked is not None:
                self._answer(slot)
        return held

    def _answer(self, slot: int) -> None:
        """Fit, and give the plan in a tick of no length."""
        request, self._asked = self._asked, None
        assert request is not None
        began = time.process_time()
        try:
            self._plan = self._make_plan(request)
        except ValueError as error:
            self._fault = str(error)
            self.faults.append(str(error))
        self.fit_ms.append(1e3 * (time.process_time() - began))
        self.plans += 1
        truth = self.world.truth(self.applied, slot)
        self._step(self._readings(truth, slot, 0.0), slot)

    def _step(self, readings: tuple[Reading, ...], slot: int) -> None:
        tick = Tick(
            index=self._index,
            mono_ns=self._mono_ns,
            wall_ns=0,
            readings=readings,
            applied=Applied(setting=self.to_setting(self.applied), epoch="1"),
            plan=self._plan,
            learner_fault=self._fault,
        )
        before = self.controller.plan
        self._index, self._plan, self._fault = self._index + 1, None, ""
        began = time.process_time()
        decision = self.controller.step(tick)
        self.step_ms.append(1e3 * (time.process_time() - began))
        self._asked = decision.fit_request
        self.phase = str(decision.phase)
        if decision.observation is not None:
            self.calibration.see(before, decision.observation)
        what = "moves" if decision.moves else str(decision.reason)
        self.ticks[what] = self.ticks.get(what, 0) + 1
        if decision.moves:
            assert decision.setting is not None
            key = f"{decision.action}:{decision.reason}"
            self.reasons[key] = self.reasons.get(key, 0) + 1
            self._move(self.to_levels(decision.setting), slot)

    def _move(self, levels: tuple[int, ...], slot: int) -> None:
        """The actuator obeys at once; what an overload left in the queue is not simulated on."""
        self.applied = levels
        self._factor = None
        if self._backlog and self.plant.kind != "saturated":
            self._backlog = 0.0
            truth = self.world.truth(levels, slot)
            self._step(self._readings(truth, slot, 0.0), slot)

    def _readings(self, truth: Truth, slot: int, seconds: float) -> tuple[Reading, ...]:
        world = self.world
        if self._factor is None or self._factor_ticks == TICKS:
            self._factor, self._factor_ticks = world.factor(), 0
        self._factor_ticks += seconds > 0.0
        values, counts = world.requests(truth, *self._factor, seconds)
        done = counts.sum() / seconds if seconds else float(truth.throughput[0])
        cpu, memory, power = world.gauges(truth)
        short = max(0.0, float(world.loads[slot] - truth.capacity[0]))
        if short and seconds and self.plant.kind == "saturated":
            short = float(world.loads[slot]) - done
        self._backlog += short * seconds
        queue = self._backlog + float(truth.throughput[0] * truth.wait[0]) * (not short)
        foreign = float(world.foreign[slot]) * self.plant.cores
        gauges = {
            "throughput_rps": done,
            "errors_rps": 0.0,
            "queue_length": queue,
            "cpu_cores": cpu,
            "memory_bytes": memory,
            "host_cpu_cores": min(cpu + foreign, float(self.plant.cores)),
            "host_cpu_count": float(self.plant.cores),
            "host_memory_used_bytes": memory,
            "memory_limit_bytes": self.plant.memory_limit,
            "power_w": power,
        }
        found = [Reading(signal=n, source="bench", value=float(v)) for n, v in gauges.items()]
        latency = sketch_counts(values, counts)
        service = sketch_counts(truth.services[0] * self._factor[0], counts)
        for name, sketch in (("latency_s", latency), ("service_time_s", service)):
            found.append(Reading(signal=name, source="bench", value=sketch.mean, sketch=sketch))
        return tuple(found)

    @property
    def spent_ms(self) -> float:
        """What deciding took so far: all fits and all steps of the core."""
        return sum(self.fit_ms) + sum(self.step_ms)

    def told(self) -> dict:
        """What only poolwright can tell of a run."""
        return {
            "plans": self.plans,
            "fit_ms": round(float(np.median(self.fit_ms)), 1) if self.fit_ms else None,
            "step_ms": round(float(np.mean(self.step_ms)), 3),
            "phase": self.phase,
            "moved": self.reasons,
            "ticks": self.ticks,
            "faults": sorted(set(self.faults)),
            "inside": self.calibration.inside,
            "asked": self.calibration.asked,
        }

    def recommend(self) -> tuple[int, ...]:
        """What its plan says to hold at the present load; without one, what is held."""
        plan = self.controller.plan
        if plan is None or plan.context.load_rps is None or not plan.schedule:
            return self.applied
        load = self.controller._state.schedule.load_rps  # noqa: SLF001  what it plans for
        bins = plan.schedule
        entry = next((b for b in bins if load is not None and load < b.load_upper_rps), bins[-1])
        return self.to_levels(entry.setting)
