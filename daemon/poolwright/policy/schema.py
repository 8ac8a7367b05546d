"""A policy as it is written in YAML. `policy.load` makes a `core.policy.Policy` of it.

Defaults are those of the core, so they stand in one place. Names and spellings are part of the
public interface: they are added, never changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from poolwright.core import policy as core_policy
from poolwright.core.signals import RESPONSE_NAMES
from poolwright.core.units import Ratio, Seconds
from poolwright.policy.bind import Contradiction
from poolwright.policy.quantities import render

# Metadata of a field that holds a name.
NAME = {"pattern": r"[a-z0-9][a-z0-9-]{0,62}", "says": "is no name: a name is of a-z, 0-9 and -"}
KNOB_NAMES = ("workers",)


# Where the defaults come from; the empty fields are not looked at.
_KNOB = core_policy.Knob(name="", lower=1, upper=1)
_SLO = core_policy.Slo(response="", below=1.0)
_GUARD = core_policy.GuardRule()
_EXPLORE = core_policy.ExploreRule()
_POLICY = core_policy.Policy(name="", knobs=(), objective=())


def _doc(text: str, **rules: Any) -> dict[str, Any]:
    """Metadata of a field: its description, and what `policy.bind` checks."""
    return {"doc": text, **rules}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobRule:
    """How far and how fast one knob may move."""

    min: int = field(metadata=_doc("the lowest level ever commanded", min=1, max=100_000))
    max: int = field(metadata=_doc("the highest level ever commanded", min=1, max=100_000))
    step: int = field(
        default=_KNOB.step,
        metadata=_doc("distance of two levels; max - min is a multiple of it", min=1),
    )
    slew: int = field(
        default=_KNOB.slew_per_move, metadata=_doc("levels that one move may take at most", min=1)
    )
    settle: Seconds = field(
        default=_KNOB.settle_s,
        metadata=_doc("after a move, how long what is seen is not believed", max=3600),
    )
    drain: Seconds = field(
        default=_KNOB.drain_s,
        metadata=_doc("how long a worker may need to finish what it has", max=3600),
    )
    dwell: Seconds = field(
        default=_KNOB.dwell_s,
        metadata=_doc("least time at a level before the next move", max=86400),
    )
    baseline: int | None = field(
        default=_KNOB.baseline,
        metadata=_doc(
            "the level to compare with and to fall back to; left out: the one found at first start"
        ),
    )
    scale: core_policy.Scale = field(
        default=_KNOB.scale,
        metadata=_doc("log: from 2 to 4 is as far as from 8 to 16; linear: it is not"),
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
        if not self.min <= self.baseline <= self.max:
            yield Contradiction(
                ("baseline",),
                ("min", "max", "baseline"),
                f"{self.baseline} is outside {self.min}..{self.max}",
            )
        elif (self.baseline - self.min) % self.step:
            yield Contradiction(
                ("baseline",),
                ("min", "step", "baseline"),
                f"{self.baseline} is no level: levels are {self.min} plus multiples of {self.step}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What every bound of an SLO has."""

    confidence: Ratio = field(
        default=_SLO.confidence,
        metadata=_doc(
            "how sure the model must be that the bound holds before a setting is tried",
            above=0.5,
            below=1.0,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationBound(Bound):
    """A time that must stay below a bound."""

    below: Seconds = field(metadata=_doc("the bound", above=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioBound(Bound):
    """A share that must stay below a bound."""

    below: Ratio = field(metadata=_doc("the bound", above=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class SloRules:
    """What the service owes its users. Every field is named as in `core.signals`."""

    latency_p50: DurationBound | None = field(default=None, metadata=_doc("median latency"))
    latency_p95: DurationBound | None = field(default=None, metadata=_doc("95 % are faster"))
    latency_p99: DurationBound | None = field(default=None, metadata=_doc("99 % are faster"))
    jitter: DurationBound | None = field(
        default=None,
        metadata=_doc("standard deviation of latency; kept by the model, not by the guard"),
    )
    error_ratio: RatioBound | None = field(
        default=None, metadata=_doc("requests failed, of all requests")
    )

    REFUSED: ClassVar[dict[str, str]] = {
        "memory": "is a ceiling of the host, not a promise to users: write it under `guard`",
        "cpu": "is a ceiling of the host, not a promise to users: write it under `guard`",
        "throughput": "has no upper bound to keep; throughput is kept at the load by itself",
        "power": "cannot gate safety: watts are often modelled; give it a weight in `objective`",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """A share that the guard does not let pass."""

    below: Ratio = field(metadata=_doc("the share", above=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """How many ticks over an SLO are a breach."""

    ticks: int = field(default=_GUARD.breach_ticks, metadata=_doc("so many ...", min=1, max=1000))
    of: int = field(
        default=_GUARD.breach_of_ticks, metadata=_doc("... of the last so many", min=1, max=1000)
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """More bad ticks than ticks."""
        if self.ticks > self.of:
            message = f"{self.ticks} of {self.of} ticks can never be over the SLO"
            yield Contradiction(("ticks",), ("ticks", "of"), message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """When to retreat, whatever the model believes."""

    memory: Ceiling = field(
        default=Ceiling(below=_GUARD.memory_ratio),
        metadata=_doc("memory in use, of the cgroup's limit or of the host's memory"),
    )
    cpu: Ceiling = field(
        default=Ceiling(below=_GUARD.cpu_ratio),
        metadata=_doc("CPU in use on the host, by everybody"),
    )
    breach: Breach = field(default=Breach(), metadata=_doc("what counts as a breach of the SLO"))
    blind: Seconds = field(
        default=_GUARD.blind_s,
        metadata=_doc(
            "without the signals the SLO needs for so long: back to the last safe setting", above=0
        ),
    )
    cooldown: Seconds = field(
        default=_GUARD.cooldown_s, metadata=_doc("after a retreat, how long nothing is tried")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Explore:
    """How much may be tried."""

    probes_per_hour: float = field(
        default=_EXPLORE.probes_per_hour, metadata=_doc("0: never try, only watch", min=0, max=3600)
    )
    budget: Ratio = field(
        default=_EXPLORE.budget_ratio,
        metadata=_doc("share of time away from the best known setting"),
    )
    epsilon: Ratio = field(
        default=_EXPLORE.epsilon,
        metadata=_doc("a probe that is expected to gain less is not worth it"),
    )
    patience: int = field(
        default=_EXPLORE.patience,
        metadata=_doc("windows without a worthwhile probe: converged", min=1),
    )
    converged_every: int = field(
        default=_EXPLORE.converged_every,
        metadata=_doc("then one window in so many may be a probe", min=1),
    )
    window: Seconds = field(
        default=_EXPLORE.window_s,
        metadata=_doc("how long one setting is watched", min=1, max=86400),
    )
    window_jitter: Ratio = field(
        default=_EXPLORE.window_jitter,
        metadata=_doc(
            "random share by which windows differ, so that they do not lock to a cron job", max=0.5
        ),
    )
    warmup: int = field(
        default=_EXPLORE.warmup_windows,
        metadata=_doc("windows at the baseline before any move", min=1),
    )

    REFUSED: ClassVar[dict[str, str]] = {
        "quiet": "is not in version 1: `probes_per_hour: 0` stops all probes",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """What the operator wants of a pool."""

    version: Literal[1] = field(metadata=_doc("of the policy language"))
    name: str = field(metadata=_doc("what configurations call this policy", **NAME))
    knobs: dict[str, KnobRule] = field(
        metadata=_doc("what may be moved", keys=KNOB_NAMES, nonempty=True)
    )
    objective: dict[str, float] = field(
        metadata=_doc(
            "weight of each response; all are minimised, and of throughput the shortfall",
            keys=tuple(RESPONSE_NAMES),
            nonempty=True,
            min=0,
            max=1000,
        )
    )
    slo: SloRules = field(default=SloRules(), metadata=_doc("what must hold"))
    guard: Guard = field(default=Guard(), metadata=_doc("when to retreat"))
    explore: Explore = field(default=Explore(), metadata=_doc("how much may be tried"))
    mode: core_policy.Mode = field(
        default=_POLICY.mode,
        metadata=_doc("observe: only learn; recommend: say what it would do; auto: do it"),
    )
    on_other_hand: core_policy.OtherHand = field(
        default=_POLICY.on_other_hand, metadata=_doc("when somebody else moved the knob")
    )
    exit: core_policy.Exit = field(
        default=_POLICY.exit, metadata=_doc("what stopping the daemon does to the level")
    )
    cadence: Seconds = field(
        default=_POLICY.cadence_s, metadata=_doc("time from tick to tick", min=0.1, max=60)
    )
    seed: int = field(
        default=_POLICY.seed, metadata=_doc("of the choices that are left to chance", min=0)
    )

    REFUSED: ClassVar[dict[str, str]] = {
        "extends": "is not in version 1: a policy is complete in itself; copy what you need",
        "override": "is not in version 1: change the knob's bounds instead",
    }

    def contradictions(self) -> Iterator[Contradiction]:
        """What sections get wrong together."""
        if not any(self.objective.values()):
            yield Contradiction(
                ("objective",), ("objective",), "every weight is 0; nothing would be better"
            )
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
