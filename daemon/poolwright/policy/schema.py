"""A policy as it is written in YAML. `policy.load` makes a `core.policy.Policy` of it.

Defaults are those of the core, so they stand in one place. Names and spellings are part of the
public interface: they are added, never changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from poolwright.core import policy as core_policy
from poolwright.core.signals import RESPONSE_NAMES
from poolwright.core.units import Ratio, Seconds
from poolwright.policy.bind import Contradiction, suggestion
from poolwright.policy.overrides import OverrideRule, clashes, no_level
from poolwright.policy.quantities import QuietText, RelationText, render
from poolwright.policy.relations import knobs_of, parse_relation, satisfiable
from poolwright.policy.rules import KNOB_NAMES, LATENCY, POOLS, Guard, SloRules, doc

# Metadata of a field that holds a name.
NAME = {"pattern": r"[a-z0-9][a-z0-9-]{0,62}", "says": "is no name: a name is of a-z, 0-9 and -"}
PRICES = ("core_hour", "gib_hour", "kwh")

# Where the defaults come from; the empty fields are not looked at.
_KNOB = core_policy.Knob(name="", lower=1, upper=1)
_EXPLORE = core_policy.ExploreRule()
_POLICY = core_policy.Policy(name="", knobs=(), objective=())


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobRule:
    """How far and how fast one knob may move."""

    min: int = field(metadata=doc("the lowest level ever commanded", min=1, max=100_000))
    max: int = field(metadata=doc("the highest level ever commanded", min=1, max=100_000))
    step: int = field(
        default=_KNOB.step,
        metadata=doc("distance of two levels; max - min is a multiple of it", min=1),
    )
    slew: int = field(
        default=_KNOB.slew_per_move, metadata=doc("levels that one move may take at most", min=1)
    )
    settle: Seconds = field(
        default=_KNOB.settle_s,
        metadata=doc("after a move, how long what is seen is not believed", max=3600),
    )
    drain: Seconds = field(
        default=_KNOB.drain_s,
        metadata=doc("how long a worker may need to finish what it has", max=3600),
    )
    dwell: Seconds = field(
        default=_KNOB.dwell_s,
        metadata=doc("least time at a level before the next move", max=86400),
    )
    baseline: int | None = field(
        default=_KNOB.baseline,
        metadata=doc(
            "the level to compare with and to fall back to; left out: the one found at first start"
        ),
    )
    scale: core_policy.Scale = field(
        default=_KNOB.scale,
        metadata=doc("log: from 2 to 4 is as far as from 8 to 16; linear: it is not"),
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Bounds, lattice, baseline and slew against each other."""
        if self.min > self.max:
            message = f"{self.min} is more than max, {self.max}"
            yield Contradiction(("min",), ("min", "max"), message)
            return
        if (self.max - self.min) % self.step:
            reached = self.max - (self.max - self.min) % self.step
            yield Contradiction(
                ("max",),
                ("min", "max", "step"),
                f"{self.max} is no level: from {self.min} by {self.step} the last is {reached}",
            )
        if self.slew < self.step:
            yield Contradiction(
                ("slew",),
                ("slew", "step"),
                f"{self.slew} is less than one step of {self.step}: nothing could ever move",
            )
        if self.baseline is None:
            return
        levels = self.levels()
        if self.baseline not in levels:
            message = no_level(self.baseline, levels)
            yield Contradiction(("baseline",), ("min", "max", "step", "baseline"), message)

    def levels(self) -> range:
        """What it may be set to."""
        return range(self.min, self.max + 1, self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explore:
    """How much may be tried."""

    probes_per_hour: float = field(
        default=_EXPLORE.probes_per_hour, metadata=doc("0: never try, only watch", min=0, max=3600)
    )
    budget: Ratio = field(
        default=_EXPLORE.budget_ratio,
        metadata=doc("share of time away from the best known setting"),
    )
    epsilon: Ratio = field(
        default=_EXPLORE.epsilon,
        metadata=doc("a probe that is expected to gain less is not worth it"),
    )
    patience: int = field(
        default=_EXPLORE.patience,
        metadata=doc("windows without a worthwhile probe: converged", min=1),
    )
    converged_every: int = field(
        default=_EXPLORE.converged_every,
        metadata=doc(
            "then one window in so many may be a probe; fewer, if nothing comes of it", min=1
        ),
    )
    window: Seconds = field(
        default=_EXPLORE.window_s,
        metadata=doc("how long one setting is watched", min=1, max=86400),
    )
    window_jitter: Ratio = field(
        default=_EXPLORE.window_jitter,
        metadata=doc(
            "random share by which windows differ, so that they do not lock to a cron job", max=0.5
        ),
    )
    warmup: int = field(
        default=_EXPLORE.warmup_windows,
        metadata=doc("windows at the baseline before any move", min=1),
    )

    slo_budget: Ratio = field(
        default=_EXPLORE.slo_budget_ratio,
        metadata=doc("share of the SLO's error budget that probes may use"),
    )
    burn_rate: float = field(
        default=_EXPLORE.burn_rate,
        metadata=doc("no probe while the error budget burns so many times too fast", above=0),
    )
    quiet: tuple[QuietText, ...] = field(
        default=_EXPLORE.quiet, metadata=doc("windows in which nothing is tried")
    )
    holdout_every: Seconds = field(
        default=_EXPLORE.holdout_every_s,
        metadata=doc("how often tuned is compared with the baseline; 0s: never"),
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """Comparisons without a pause between them."""
        if 0 < self.holdout_every < 3 * self.window:
            message = (
                f"{render('duration', self.holdout_every)} is less than the three windows of "
                f"{render('duration', self.window)} that one comparison takes; 0s: never"
            )
            yield Contradiction(("holdout_every",), ("holdout_every", "window"), message)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """What the operator wants of a pool: a policy, or, with `pools`, a layer over policies."""

    version: Literal[1] = field(metadata=doc("of the policy language"))
    name: str = field(metadata=doc("what configurations call this policy", **NAME))
    extends: str | None = field(
        default=None, metadata=doc("a policy that this one only changes", **NAME)
    )
    pools: tuple[str, ...] = field(
        default=(),
        metadata=doc(
            "globs of the pools whose policies this layer changes", nonempty=True, **POOLS
        ),
    )
    knobs: dict[str, KnobRule] = field(
        metadata=doc("what may be moved", keys=KNOB_NAMES, nonempty=True)
    )
    objective: dict[str, float] = field(
        metadata=doc(
            "weight of each response; all are minimised, and of throughput the shortfall",
            keys=tuple(RESPONSE_NAMES),
            keys_like=LATENCY,
            nonempty=True,
            min=0,
            max=1000,
        )
    )
    prices: dict[str, float] = field(
        default_factory=dict,
        metadata=doc("what `cost` is made of, in one currency", keys=PRICES, above=0),
    )
    relations: tuple[RelationText, ...] = field(
        default=(), metadata=doc("knobs against each other, such as workers * threads <= 200")
    )
    slo: SloRules = field(default=SloRules(), metadata=doc("what must hold"))
    guard: Guard = field(default=Guard(), metadata=doc("when to retreat"))
    explore: Explore = field(default=Explore(), metadata=doc("how much may be tried"))
    override: tuple[OverrideRule, ...] = field(
        default=(), metadata=doc("what goes above all else, for a time")
    )
    mode: core_policy.Mode = field(
        default=_POLICY.mode,
        metadata=doc("observe: only learn; recommend: say what it would do; auto: do it"),
    )
    on_other_hand: core_policy.OtherHand = field(
        default=_POLICY.on_other_hand, metadata=doc("when somebody else moved the knob")
    )
    exit: core_policy.Exit = field(
        default=_POLICY.exit, metadata=doc("what stopping the daemon does to the level")
    )
    cadence: Seconds = field(
        default=_POLICY.cadence_s, metadata=doc("time from tick to tick", min=0.1, max=60)
    )
    seed: int = field(
        default=_POLICY.seed, metadata=doc("of the choices that are left to chance", min=0)
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """What sections get wrong together."""
        yield from self._of_objective()
        yield from self._of_times()
        yield from self._of_relations()

    def _of_objective(self) -> Iterator[Contradiction]:
        if not any(self.objective.values()):
            yield Contradiction(
                ("objective",), ("objective",), "every weight is 0; nothing would be better"
            )
        if self.objective.get("cost") and not self.prices:
            message = f"has a weight, and there are no `prices`: {', '.join(PRICES)}"
            yield Contradiction(("objective", "cost"), ("objective", "prices"), message)

    def _of_times(self) -> Iterator[Contradiction]:
        shortest = self.explore.window * (1 - self.explore.window_jitter)
        for name, knob in self.knobs.items():
            if knob.settle > self.explore.window:
                message = (
                    f"{render('duration', knob.settle)} is longer than explore.window, "
                    f"{render('duration', self.explore.window)}: nothing could be seen"
                )
                at = ("knobs", name, "settle")
                yield Contradiction(at, ("knobs", "explore"), message)
        if shortest < 2 * self.cadence:
            message = (
                f"{render('duration', self.explore.window)} less its jitter is under two ticks of "
                f"cadence, {render('duration', self.cadence)}"
            )
            yield Contradiction(("explore", "window"), ("explore", "cadence"), message)
        if self.guard.blind < self.cadence:
            message = (
                f"{render('duration', self.guard.blind)} is shorter than one tick of cadence, "
                f"{render('duration', self.cadence)}"
            )
            yield Contradiction(("guard", "blind"), ("guard", "cadence"), message)

    def _of_relations(self) -> Iterator[Contradiction]:
        levels = {name: knob.levels() for name, knob in self.knobs.items()}
        baseline = {n: k.baseline for n, k in self.knobs.items() if k.baseline is not None}
        uses = ("relations", "knobs")
        sound = []
        for index, text in enumerate(self.relations):
            at = ("relations", index)
            relation = parse_relation(text)
            named = knobs_of(relation)
            unknown = [name for name in named if name not in levels]
            if unknown:
                message = f"{text!r} names the unknown knob {unknown[0]!r}"
                hint = suggestion(unknown[0], levels)
                yield Contradiction(at, uses, message + hint)
            elif not satisfiable([relation], levels):
                yield Contradiction(at, uses, f"{text!r} holds at no level of the knobs")
            elif baseline.keys() >= set(named) and not relation.holds(baseline):
                shown = ", ".join(f"{name} {baseline[name]}" for name in named)
                yield Contradiction(at, uses, f"{text!r} does not hold at the baseline, {shown}")
            else:
                sound.append(relation)
        if not satisfiable(sound, levels):
            yield Contradiction(("relations",), uses, "no setting satisfies all of them")
            sound = []
        yield from clashes(self.override, levels, sound)
