"""What stands for a pool now, beside its numbers: a heading and a line each.

`notices` is what a person has to know or decide, `figures` what they may want to look up.
"""

from poolwright.core.model import Phase
from poolwright.core.policy import Mode
from poolwright.core.reasons import REASONS
from poolwright.engine.snapshot import PoolSnapshot
from poolwright.surface import words

Lines = list[tuple[str, str]]

_TAKEN = (Phase.PAUSED, Phase.MANUAL, Phase.STOOD_DOWN)
_TRIES = (Phase.EXPLORE, Phase.CONVERGED)
_BUDGETS = {"probes": "probes", "seconds": "time", "slo_seconds": "error budget"}


def notices(pool: PoolSnapshot) -> Lines:
    """Advice that waits for an answer, and whatever keeps poolwright from acting."""
    return [*_advice(pool), *_taken(pool), *_pins(pool), *_untried(pool)]


def figures(pool: PoolSnapshot) -> Lines:
    """Budgets, what tuning has been worth, and the policy in force."""
    lines = [("benefit", words.benefit(pool.benefit)), *_budgets(pool)]
    room = _room(pool)
    if room:
        lines.append(("room", room))
    policy = pool.policy
    said = f"{policy.name}, mode {policy.mode}, sha256 {policy.sha256[:12] or 'not known'}"
    if policy.sources:
        said += f", from {', '.join(policy.sources)}"
    return [*lines, ("policy", said)]


def _advice(pool: PoolSnapshot) -> Lines:
    given = pool.decision.advice
    if given is None:
        return []
    which = f"{pool.pool} {given.id}"
    return [
        ("advice", f"{given.id}: {words.advice(given)}: {REASONS[given.reason]}"),
        ("to answer", f"`poolwright approve {which}` or `poolwright reject {which} --why TEXT`"),
    ]


def _taken(pool: PoolSnapshot) -> Lines:
    decision = pool.decision
    if decision.phase not in _TAKEN:
        return []
    detail = f": {decision.detail}" if decision.detail else ""
    said = f"{REASONS[decision.reason]}{detail} (`poolwright resume {pool.pool}`)"
    return [(decision.phase.replace("_", " "), said)]


def _pins(pool: PoolSnapshot) -> Lines:
    lines: Lines = []
    kept = pool.kept
    if kept.pin is not None:
        why = f" by {kept.pin_why}" if kept.pin_why else ""
        said = f"{kept.pin}{words.until(kept.pin_until_wall_ns)}{why}"
        lines.append(("pinned", f"{said} (`poolwright unpin {pool.pool}`)"))
    return lines + [("override", words.override(written)) for written in pool.tick.overrides]


def _untried(pool: PoolSnapshot) -> Lines:
    """Why nothing would be tried now, whatever it promised. All reasons, not only the first."""
    tick, decision = pool.tick, pool.decision
    whys = []
    if pool.policy.mode is not Mode.AUTO:
        whys.append(f"the mode is {pool.policy.mode}")
    if decision.phase not in (*_TRIES, *_TAKEN):
        whys.append(f"the phase is {decision.phase}")
    if tick.quiet:
        whys.append(f"quiet: {tick.quiet}")
    if not tick.may_probe:
        whys.append(f"{tick.rival or 'another pool'} holds this host's experiment")
    spent = _spent(pool)
    if spent:
        whys.append(f"not enough {', '.join(spent)} left for a probe")
    rates, most = burn_rates(pool), pool.policy.explore.burn_rate
    if len(rates) == 2 and min(rates.values()) > most:
        whys.append(f"the error budget burns faster than {most:g}")
    if decision.guard_trips:
        whys.append("; ".join(REASONS[trip] for trip in decision.guard_trips))
    lines = [("not trying", ", ".join(whys))] if whys else []
    if decision.probing:
        lines.append(("trying", f"{decision.setting}: this pool holds the host's experiment"))
    return lines


def budget_left(pool: PoolSnapshot) -> dict[str, float]:
    """What is left of the budgets for probes: probes, seconds, slo_seconds; where it is known."""
    names = {
        "probes_left": "probes",
        "probe_seconds_left": "seconds",
        "slo_seconds_left": "slo_seconds",
    }
    return {names[name]: left for name, left in pool.decision.evidence if name in names}


def burn_rates(pool: PoolSnapshot) -> dict[str, float]:
    """How fast the SLO's error budget burns, over the short and the long window; where known."""
    names = {"burn_short": "short", "burn_long": "long"}
    return {names[name]: rate for name, rate in pool.decision.evidence if name in names}


def _budgets(pool: PoolSnapshot) -> Lines:
    lines: Lines = []
    left, rule = budget_left(pool), pool.policy.explore
    incomes = {
        "probes": f"{rule.probes_per_hour:g}",
        "seconds": words.seconds(rule.budget_ratio * 3600.0),
        "slo_seconds": words.seconds(rule.slo_budget_ratio * 3600.0),
    }
    parts = [f"{_amount(what, amount)} ({incomes[what]} an hour)" for what, amount in left.items()]
    if parts:
        lines.append(("budgets", ", ".join(parts)))
    rates = burn_rates(pool)
    if rates:
        told = " and ".join(f"{rate:.3g} ({window} window)" for window, rate in rates.items())
        lines.append(("burn rate", f"{told}; above {rule.burn_rate:g} in both nothing is tried"))
    return lines


def _spent(pool: PoolSnapshot) -> list[str]:
    """The budgets that do not hold what one probe needs (`core.budget`)."""
    window_s = pool.policy.explore.window_s
    needs = {"probes": 1.0, "seconds": window_s, "slo_seconds": window_s}
    return [_BUDGETS[what] for what, left in budget_left(pool).items() if left < needs[what]]


def _amount(what: str, left: float) -> str:
    probes = what == "probes"
    said = words.number("probes_left", abs(left)) if probes else words.seconds(abs(left))
    return f"{_BUDGETS[what]} {said}{' owed' if left < 0.0 else ''}"


def _room(pool: PoolSnapshot) -> str:
    """What is left of what all pools of this host share."""
    tick = pool.tick
    parts = []
    if tick.room_bytes is not None:
        parts.append(words.number("room_bytes", tick.room_bytes))
    if tick.room_cores is not None:
        parts.append(words.number("room_cores", tick.room_cores))
    return f"{' and '.join(parts)} left of what all pools share" if parts else ""
