"""Between what is written (`policy.schema`) and what the core obeys (`core.policy`), both ways."""

import hashlib
import json
from dataclasses import replace
from typing import Any

from poolwright.core import policy as core
from poolwright.core.signals import RESPONSE_NAMES, RESPONSES, response_of
from poolwright.policy.calendar import parse_quiet
from poolwright.policy.overrides import OverrideRule
from poolwright.policy.quantities import render
from poolwright.policy.relations import parse_relation, render_relation
from poolwright.policy.rules import Ceiling, Guard
from poolwright.policy.schema import Explore, KnobRule, PolicyFile

Written = dict[str, Any]  # keys as in YAML; leaves are text, numbers and booleans as in YAML

_NAMES = {response: name for name, response in RESPONSE_NAMES.items()}


def to_core(written: PolicyFile, sources: tuple[str, ...] = ()) -> core.Policy:
    """What the core obeys, with its sha256."""
    levels = {name: knob.levels() for name, knob in written.knobs.items()}
    made = core.Policy(
        name=written.name,
        knobs=tuple(_knob(name, rule) for name, rule in sorted(written.knobs.items())),
        objective=tuple(sorted((_response(n), w) for n, w in written.objective.items())),
        slo=tuple(
            sorted(
                (
                    core.Slo(response=_response(name), below=rule.below, confidence=rule.confidence)
                    for name, rule in written.slo.bounds().items()
                ),
                key=lambda slo: slo.response,
            )
        ),
        relations=tuple(parse_relation(text) for text in written.relations),
        overrides=tuple(_override(rule, levels) for rule in written.override),
        prices=tuple(sorted(written.prices.items())),
        guard=_guard(written.guard),
        explore=_explore(written.explore),
        mode=written.mode,
        on_other_hand=written.on_other_hand,
        exit=written.exit,
        cadence_s=written.cadence,
        seed=written.seed,
        sources=sources,
    )
    return replace(made, sha256=digest(made))


def digest(policy: core.Policy) -> str:
    """SHA-256 (hexadecimal) of what a policy says, however and in however many files it says it."""
    text = json.dumps(canonical(policy), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(policy: core.Policy) -> Written:
    """As `as_written`, with one text for what can be written in several ways or orders."""
    written = as_written(policy)
    written["relations"] = sorted({render_relation(relation) for relation in policy.relations})
    written["explore"]["quiet"] = sorted({str(parse_quiet(q)) for q in policy.explore.quiet})
    overrides = {json.dumps(override): override for override in written["override"]}
    written["override"] = [overrides[text] for text in sorted(overrides)]
    return written


def as_written(policy: core.Policy) -> Written:
    """The policy file, defaults included, that gives `policy`."""
    return {
        "version": 1,
        "name": policy.name,
        "knobs": {knob.name: _written_knob(knob) for knob in policy.knobs},
        "objective": {name_of(response): weight for response, weight in policy.objective},
        "prices": dict(policy.prices),
        "relations": [relation.text for relation in policy.relations],
        "slo": {name_of(slo.response): _written_slo(slo) for slo in policy.slo},
        "guard": _written_guard(policy.guard),
        "explore": _written_explore(policy.explore),
        "override": [_written_override(override) for override in policy.overrides],
        "mode": str(policy.mode),
        "on_other_hand": str(policy.on_other_hand),
        "exit": str(policy.exit),
        "cadence": render("duration", policy.cadence_s),
        "seed": policy.seed,
    }


def name_of(response: str) -> str:
    """What a policy calls a response."""
    return _NAMES.get(response) or response.removesuffix("_s")


def _response(name: str) -> str:
    response = response_of(name)
    assert response is not None, "the schema knows only names of responses"
    return response


def _knob(name: str, rule: KnobRule) -> core.Knob:
    return core.Knob(
        name=name,
        lower=rule.min,
        upper=rule.max,
        step=rule.step,
        slew_per_move=rule.slew,
        settle_s=rule.settle,
        drain_s=rule.drain,
        dwell_s=rule.dwell,
        baseline=rule.baseline,
        scale=rule.scale,
    )


def _written_knob(knob: core.Knob) -> Written:
    return {
        "min": knob.lower,
        "max": knob.upper,
        "step": knob.step,
        "slew": knob.slew_per_move,
        "settle": render("duration", knob.settle_s),
        "drain": render("duration", knob.drain_s),
        "dwell": render("duration", knob.dwell_s),
        **({} if knob.baseline is None else {"baseline": knob.baseline}),
        "scale": str(knob.scale),
    }


def _written_slo(slo: core.Slo) -> Written:
    unit = RESPONSES.get(slo.response, "s")  # what is not in the table is a latency quantile
    below = render("duration", slo.below) if unit == "s" else _ratio(slo.below)
    return {"below": below, "confidence": _ratio(slo.confidence)}


def _guard(guard: Guard) -> core.GuardRule:
    return core.GuardRule(
        memory_ratio=guard.memory.below,
        cpu_ratio=guard.cpu.below,
        psi_cpu_ratio=_below(guard.pressure.cpu),
        psi_memory_ratio=_below(guard.pressure.memory),
        psi_io_ratio=_below(guard.pressure.io),
        connections_ratio=guard.connections.below,
        fall_ratio=guard.load_fall.more_than,
        fall_hold_s=guard.load_fall.hold,
        dependency_ratio=guard.dependency.slower_than,
        breach_ticks=guard.breach.ticks,
        breach_of_ticks=guard.breach.of,
        blind_s=guard.blind,
        cooldown_s=guard.cooldown,
    )


def _below(ceiling: Ceiling | None) -> float | None:
    return None if ceiling is None else ceiling.below


def _written_guard(guard: core.GuardRule) -> Written:
    pressure = {
        "cpu": guard.psi_cpu_ratio,
        "memory": guard.psi_memory_ratio,
        "io": guard.psi_io_ratio,
    }
    return {
        "memory": {"below": _ratio(guard.memory_ratio)},
        "cpu": {"below": _ratio(guard.cpu_ratio)},
        "pressure": {n: {"below": _ratio(r)} for n, r in pressure.items() if r is not None},
        "connections": {"below": _ratio(guard.connections_ratio)},
        "load_fall": {
            "more_than": _ratio(guard.fall_ratio),
            "hold": render("duration", guard.fall_hold_s),
        },
        "dependency": {"slower_than": guard.dependency_ratio},
        "breach": {"ticks": guard.breach_ticks, "of": guard.breach_of_ticks},
        "blind": render("duration", guard.blind_s),
        "cooldown": render("duration", guard.cooldown_s),
    }


def _explore(explore: Explore) -> core.ExploreRule:
    return core.ExploreRule(
        probes_per_hour=explore.probes_per_hour,
        budget_ratio=explore.budget,
        epsilon=explore.epsilon,
        patience=explore.patience,
        converged_every=explore.converged_every,
        window_s=explore.window,
        window_jitter=explore.window_jitter,
        warmup_windows=explore.warmup,
        slo_budget_ratio=explore.slo_budget,
        burn_rate=explore.burn_rate,
        quiet=explore.quiet,
        holdout_every_s=explore.holdout_every,
    )


def _written_explore(explore: core.ExploreRule) -> Written:
    return {
        "probes_per_hour": explore.probes_per_hour,
        "budget": _ratio(explore.budget_ratio),
        "epsilon": _ratio(explore.epsilon),
        "patience": explore.patience,
        "converged_every": explore.converged_every,
        "window": render("duration", explore.window_s),
        "window_jitter": _ratio(explore.window_jitter),
        "warmup": explore.warmup_windows,
        "slo_budget": _ratio(explore.slo_budget_ratio),
        "burn_rate": explore.burn_rate,
        "quiet": list(explore.quiet),
        "holdout_every": render("duration", explore.holdout_every_s),
    }


def _override(rule: OverrideRule, levels: dict[str, range]) -> core.Override:
    left = rule.narrowed(levels)
    return core.Override(
        reason=rule.reason,
        pin=tuple(sorted((rule.pin or {}).items())),
        freeze=rule.freeze,
        bounds=tuple((name, left[name][0], left[name][-1]) for name in sorted(rule.bounds or {})),
        since_wall_ns=rule.since,
        until_wall_ns=rule.until,
    )


def _written_override(override: core.Override) -> Written:
    what: Written = {"freeze": True} if override.freeze else {}
    if override.pin:
        what = {"pin": dict(override.pin)}
    elif override.bounds:
        what = {"bounds": {n: {"min": lower, "max": upper} for n, lower, upper in override.bounds}}
    times = {"since": override.since_wall_ns, "until": override.until_wall_ns}
    shown = {name: render("instant", at) for name, at in times.items() if at is not None}
    return {**what, **shown, "reason": override.reason}


def _ratio(share: float) -> str | float:
    """A percentage where that is exact, else the number itself."""
    text = render("ratio", share)
    return text if text.endswith("%") else share
