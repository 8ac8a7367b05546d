"""What people and policies ask of each pool, and what it is worth, as Prometheus families."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from poolwright.core.model import Benefit
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.surface.family import Number, Rows, family
from poolwright.surface.standing import budget_left, burn_rates


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """All of them; one without a sample says nothing."""
    pools = snapshot.pools
    yield from _policies(snapshot)
    yield from _advice(pools)
    yield from _orders(pools)
    yield from _budgets(pools)
    yield from _benefit(pools)


def _policies(snapshot: Snapshot) -> Iterator[Metric]:
    text = "Whether what is on disk is what is in force: 0 when the last reload was refused."
    yield family("gauge", "policy_valid", text, [({}, not snapshot.policy_error)])
    reloads: Rows = [({"result": result}, count) for result, count in snapshot.reloads]
    yield family("counter", "policy_reloads", "Reloads, by what became of them.", reloads, "_total")
    policies = [
        (
            {
                "pool": p.pool,
                "policy": p.policy.name,
                "sha256": p.policy.sha256,
                "mode": p.policy.mode.value,
                "actuator": p.endpoint,
            },
            1,
        )
        for p in snapshot.pools
    ]
    yield family("gauge", "policy_info", "The policy in force.", policies)


def _advice(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    given = [(p.pool, p.decision.advice) for p in pools if p.decision.advice is not None]
    levels: Rows = [
        ({"pool": pool, "knob": knob}, level)
        for pool, advice in given
        for knob, level in advice.setting.levels
    ]
    yield family("gauge", "advice_level", "Level that waits for `approve` or `reject`.", levels)
    gains = [({"pool": pool}, advice.gain) for pool, advice in given]
    text = "Fall of the objective that the advice is expected to bring, as a share of it."
    means: Rows = [(labels, None if gain is None else gain.mean) for labels, gain in gains]
    yield family("gauge", "advice_gain_ratio", text, means)
    errors: Rows = [(labels, None if gain is None else gain.std) for labels, gain in gains]
    text = "Standard error of the gain that the advice is expected to bring."
    yield family("gauge", "advice_gain_error_ratio", text, errors)
    safe: Rows = [({"pool": pool}, advice.p_safe) for pool, advice in given]
    text = "Probability that the advised level keeps every objective."
    yield family("gauge", "advice_safe_probability", text, safe)


def _orders(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    pinned: Rows = [
        ({"pool": p.pool}, p.kept.pin is not None or any(o.pin for o in p.tick.overrides))
        for p in pools
    ]
    text = "Whether an operator or an override of the policy holds the level."
    yield family("gauge", "pinned", text, pinned)
    active: Rows = [
        ({"pool": p.pool, "kind": kind}, sum(bool(getattr(o, kind)) for o in p.tick.overrides))
        for p in pools
        for kind in ("pin", "freeze", "bounds")
    ]
    yield family("gauge", "overrides_active", "Overrides of the policy in force.", active)
    quiet: Rows = [({"pool": p.pool}, bool(p.tick.quiet)) for p in pools]
    yield family("gauge", "quiet", "Whether a quiet window is open: nothing is tried.", quiet)


def _budgets(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    for name, key, text in (
        ("probes_remaining", "probes", "Probes that may still be made."),
        ("probe_remaining_seconds", "seconds", "Time that probes may still take; below 0: owed."),
        (
            "error_budget_remaining_seconds",
            "slo_seconds",
            "Error budget of the SLO that probes may still use; below 0: owed.",
        ),
    ):
        left: Rows = [({"pool": p.pool}, budget_left(p).get(key)) for p in pools]
        yield family("gauge", name, text, left)
    rates: Rows = [
        ({"pool": p.pool, "window": window}, rate)
        for p in pools
        for window, rate in burn_rates(p).items()
    ]
    text = "Share of bad requests over the share that the SLO allows, of the worst SLO."
    yield family("gauge", "slo_burn_rate", text, rates)
    text = "Burn rate above which, in both windows, nothing is tried."
    most: Rows = [({"pool": p.pool}, p.policy.explore.burn_rate) for p in pools]
    yield family("gauge", "slo_burn_rate_limit", text, most)


def _benefit(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    parts: tuple[tuple[str, str, Callable[[Benefit], Number]], ...] = (
        ("benefit_ratio", "Mean fall of the objective against the baseline.", lambda b: b.mean),
        ("benefit_lower_ratio", "Lower end of its 95 % interval.", lambda b: b.lower),
        ("benefit_upper_ratio", "Upper end of its 95 % interval.", lambda b: b.upper),
        ("benefit_comparisons", "Comparisons with the baseline behind it.", lambda b: b.count),
    )
    for name, text, find in parts:
        rows: Rows = [({"pool": p.pool}, find(p.benefit)) for p in pools if p.benefit is not None]
        yield family("gauge", name, text, rows)
