"""Plays scenarios for tests: the real engine, core and journal, on virtual time.

The learner is a script where a test is about what surrounds it, so that a better learner does not
change what is tested; `makers()` gives the real one.
"""

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import ticks

from poolwright.cli.simulate import makers
from poolwright.core.model import setting
from poolwright.engine.stage import Made, bind_scenario, stage
from poolwright.policy.tree import parse_document

# Windows short enough that a few minutes are a life, on a service that six workers serve easily.
POLICY = """
policy:
  version: 1
  name: quick
  mode: auto
  knobs: {workers: {min: 2, max: 16, slew: 4, settle: 2s, baseline: 6}}
  objective: {latency_p99: 1.0, memory: 0.2}
  slo:
    latency_p99: {below: 400ms}
    error_ratio: {below: 5%}
  guard: {blind: 10s, cooldown: 10s}
  explore:
    {window: 10s, warmup: 2, patience: 2, probes_per_hour: 120, budget: 50%, holdout_every: 0s}
"""
PLANT = """
workers: 6
plant:
  cores: 4
  service: [{cpu: 6ms, io: 50ms, io_cv: 0.5}]
load: {kind: constant, rps: 40/s}
"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One decision with what lies round it."""

    tick: object
    decision: object
    moment: object

    @property
    def at_s(self):
        """When, in the simulation."""
        return self.moment.truth.at_s


@dataclass(frozen=True, kw_only=True)
class Played:
    """A run that is over."""

    seen: list
    report: object
    journal: Path
    stage: object

    def between(self, first_s, last_s, pool="web"):
        """What was decided in [first_s, last_s]."""
        return [s for s in self.seen if first_s <= s.at_s <= last_s and s.moment.truth.pool == pool]

    def moves(self, first_s=0.0, last_s=1e9):
        """The decisions that moved something."""
        return [s for s in self.between(first_s, last_s) if s.decision.moves]

    def reasons(self, first_s, last_s):
        """Why, each reason once, in order."""
        return list(dict.fromkeys(str(s.decision.reason) for s in self.between(first_s, last_s)))

    def phases(self, first_s, last_s):
        """The phases gone through, in order."""
        return list(dict.fromkeys(str(s.decision.phase) for s in self.between(first_s, last_s)))


makers = functools.cache(makers)


def _script(decide):
    """The real plant, and a learner whose plans `decide(request, knob)` writes: the level that is
    best, and the one to try or None.
    """

    def learn(request):
        knob = request.policy.knobs[0]
        best, probe = decide(request, knob)
        found = ticks.plan(
            request.version, best, probe=probe, levels=range(knob.lower, knob.upper + 1),
            load_rps=request.context.load_rps,
        )  # fmt: skip
        return replace(
            found,
            fitted_tick=request.tick,
            evidence_digest=request.evidence_digest,
            references=(("latency_p99_s", 0.4), ("memory_bytes", 1e9)),
        )

    return Made(plant=makers().plant, plan=learn)


def scripted(wish):
    """The real plant, and a learner that wants `wish` workers: it tries them, and once it has seen
    them without a breach they are best; until then, and after a breach, the baseline is.
    """

    def decide(request, knob):
        seen = [e.observation for e in request.evidence if e.observation.setting[knob.name] == wish]
        breached = any(o.breached for o in seen)
        return wish if seen and not breached else knob.baseline, None if seen else wish

    return _script(decide)


def stubborn(level):
    """A learner that is sure, whatever it is shown, that `level` workers are best and safe."""
    return _script(lambda request, knob: (level, None))


def curious(*levels):
    """A learner that finds the baseline best and always wants to try one of `levels`, in turn."""
    return _script(lambda request, knob: (knob.baseline, levels[request.version % len(levels)]))


def knowing(rps):
    """A learner that knows, and is right or wrong, that a worker serves `rps` requests a second."""

    def learn(request):
        knob = request.policy.knobs[0]
        plan = known.plan(request)
        (whole,) = plan.schedule
        bins = [
            replace(
                whole, setting=setting(workers=n),
                load_lower_rps=0.0 if n == knob.lower else (n - 1) * rps,
                load_upper_rps=1e9 if n == knob.upper else n * rps,
            )
            for n in range(knob.lower, knob.upper + 1)
        ]  # fmt: skip
        return replace(plan, schedule=tuple(bins))

    def decide(request, knob):
        needed = math.ceil((request.context.load_rps or 0.0) / rps)
        return min(knob.upper, max(knob.lower, needed)), None

    known = _script(decide)
    return replace(known, plan=learn)


def scenario(text):
    """The scenario in a YAML text."""
    return bind_scenario(parse_document(text.encode(), "s.yaml"), Path("/nowhere"))


def play(folder, *, duration="5m", policy=POLICY, plant=PLANT, seed=0, more="", made=None):
    """Play a scenario made of parts; everything that was decided. The learner wants 4 workers."""
    text = f"version: 1\nname: test\nduration: {duration}\n{policy}{plant}{more}"
    seen = []

    def watch(tick, decision, moment):
        seen.append(Seen(tick=tick, decision=decision, moment=moment))

    journal = folder / f"journal-{seed}.db"
    staged = stage(scenario(text), seed, made or scripted(4), journal, (watch,))
    staged.simulation.run()
    return Played(seen=seen, report=staged.report(), journal=journal, stage=staged)


def faults(*lines):
    """The `faults` part of a scenario."""
    return "faults:\n" + "".join(f"  - {{{line}}}\n" for line in lines)
