"""Numbers and states in plain words, the same on every surface."""

from collections.abc import Callable
from datetime import UTC, datetime

from poolwright.core.model import (
    Action,
    ActuationStatus,
    Advice,
    Benefit,
    Clamp,
    ClampKind,
    Command,
    CommandKind,
    Decision,
    Estimate,
    Holdout,
    Phase,
    Reason,
    Status,
    Verdict,
)
from poolwright.core.policy import Knob, Override, Policy
from poolwright.engine.snapshot import LearnerState, PoolSnapshot, Snapshot

ACTIONS: dict[Action, str] = {
    Action.HOLD: "held",
    Action.TRACK: "followed the plan to",
    Action.DITHER: "dithered to",
    Action.PROBE: "probed",
    Action.RETREAT: "retreated to",
    Action.RESTORE: "went back to",
    Action.COMPARE: "moved for a comparison to",
}
assert set(ACTIONS) == set(Action), "every action has a text"
_PLANNED = (Reason.SCHEDULE, Reason.BEST_KNOWN)

OUTCOMES: dict[ActuationStatus, str] = {
    ActuationStatus.APPLIED: "the move was made",
    ActuationStatus.PENDING: "the move was still being made",
    ActuationStatus.FAILED: "the move failed",
    ActuationStatus.REFUSED: "the move was refused",
}
assert set(OUTCOMES) == set(ActuationStatus), "every outcome has a text"

VERDICTS: dict[Verdict, str] = {
    Verdict.RECOMMENDED: "the best expected among the safe settings",
    Verdict.PROBE: "safe, and the most to be gained or learned by trying it",
    Verdict.WORSE: "safe, but expected to cost more",
    Verdict.UNSAFE_SLO: "too likely to breach an objective",
    Verdict.UNSAFE_MEMORY: "too likely to need more memory than there is",
    Verdict.OUTSIDE_TRUST_REGION: "too far from what has been tried",
    Verdict.TABU: "breached lately or found no room, so not tried again yet",
}
assert set(VERDICTS) == set(Verdict), "every verdict has a text"

CLAMPS: dict[ClampKind, str] = {
    ClampKind.BOUND: "the policy's bounds",
    ClampKind.SLEW: "no more than this in one move",
    ClampKind.DWELL: "too soon after the last move",
    ClampKind.SETTLE: "the last move is still settling",
    ClampKind.LATTICE: "the policy's steps",
    ClampKind.MEMORY: "more would not fit into memory",
    ClampKind.CPU: "more would not fit into the CPU that all pools share",
    ClampKind.CONNECTIONS: "more would pass the cap on connections",
    ClampKind.RELATION: "the policy's relation between knobs",
}
assert set(CLAMPS) == set(ClampKind), "every clamp has a text"
# The same with the numbers of the knob, where they are the policy's.
_CLAMPED: dict[ClampKind, Callable[[Knob], str]] = {
    ClampKind.BOUND: lambda knob: f"{knob.lower} to {knob.upper}",
    ClampKind.SLEW: lambda knob: f"slew {knob.slew_per_move}",
    ClampKind.DWELL: lambda knob: f"dwell {seconds(knob.dwell_s)}",
    ClampKind.SETTLE: lambda knob: f"settle {seconds(knob.settle_s)}",
    ClampKind.LATTICE: lambda knob: f"steps of {knob.step} from {knob.lower}",
}

Z_90 = 1.645  # 90 % of a normal distribution lies within so many standard deviations
Z_95 = 1.960  # 95 % of a normal distribution lies within so many standard deviations

_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def did(decision: Decision) -> str:
    """What a decision does, before the setting it does it to."""
    if decision.advice is not None and not decision.moves:
        return ACTIONS[Action.HOLD]
    if decision.action is Action.TRACK and decision.reason not in _PLANNED:
        return "moved to"
    return ACTIONS[decision.action]


def name(quantity: str) -> str:
    """`latency_p99_s` as people say it: `latency p99`."""
    if quantity in _NUMBERS:
        return _NUMBERS[quantity][0]
    for suffix in _WRITERS:
        if quantity.endswith(suffix) and suffix != "_ratio":
            return quantity.removesuffix(suffix).replace("_", " ")
    return quantity.replace("_", " ")


def number(quantity: str, value: float) -> str:
    """`value` with the unit that the suffix of `quantity` names, in three significant digits."""
    if quantity in _NUMBERS:
        return _NUMBERS[quantity][1](value)
    for suffix, write in _WRITERS.items():
        if quantity.endswith(suffix):
            return write(value)
    return f"{value:g}" if abs(value) >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    """A span in ms below a second, in s below two minutes, else in min."""
    if abs(value) < 1.0:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if abs(value) < 120.0 else f"{value / 60:.3g} min"


def estimate(quantity: str, seen: Estimate) -> str:
    """A mean with its standard error."""
    return f"{number(quantity, seen.mean)} ± {number(quantity, seen.std)}"


def interval(quantity: str, seen: Estimate) -> str:
    """A mean with where 90 % of the belief lies: `153 ms (147 ms to 159 ms)`."""
    low, high = max(0.0, seen.mean - Z_90 * seen.std), seen.mean + Z_90 * seen.std
    within = f"{number(quantity, low)} to {number(quantity, high)}"
    return f"{number(quantity, seen.mean)} ({within})"


def clamp(made: Clamp, policy: Policy) -> str:
    """One change that the envelope made, and the rule that made it."""
    rule = CLAMPS[made.kind]
    if made.kind in _CLAMPED:
        rule += f" ({_CLAMPED[made.kind](policy.knob(made.knob))})"
    elif made.kind is ClampKind.RELATION:
        rule += f" ({'; '.join(relation.text for relation in policy.relations)})"
    wanted, allowed = f"{made.knob}={made.wanted}", f"{made.knob}={made.allowed}"
    return f"{wanted} was wanted, {allowed} allowed: {rule}"


def utc(wall_ns: int) -> str:
    """A moment for people, to the second."""
    return datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def until(wall_ns: int | None) -> str:
    """` until 2027-01-01 00:00:00 UTC`; nothing where no end is set."""
    return "" if wall_ns is None else f" until {utc(wall_ns)}"


def gain(seen: Estimate | None) -> str:
    """An expected gain with its 95 % interval: `12 % ± 4 % (95 %)`."""
    if seen is None:
        return "not known"
    share = number("gain_ratio", seen.mean)
    half = Z_95 * seen.std * 100.0
    return f"{share} ± {f'{half:.2g}' if half < 99.5 else f'{half:.0f}'} % (95 %)"


def advice(given: Advice) -> str:
    """From where to where, what it is expected to bring, and how safe it is held to be."""
    safe = "not known" if given.p_safe is None else f"{given.p_safe:.2f}"
    return f"{given.replaces} -> {given.setting}, expected gain {gain(given.gain)}, P(safe) {safe}"


def benefit(seen: Benefit | None) -> str:
    """What tuning is worth over the baseline, with its 95 % interval."""
    if seen is None:
        return "not measured: tuning was never compared with the baseline"
    mean = number("gain_ratio", seen.mean)
    count = f"{seen.count} comparison{'' if seen.count == 1 else 's'} with the baseline"
    if seen.lower is None or seen.upper is None:
        return f"{mean} in {count}; too few for an interval"
    low, high = number("gain_ratio", seen.lower), number("gain_ratio", seen.upper)
    return f"{mean} (95 %: {low} to {high}), from {count}"


def holdout(seen: Holdout) -> str:
    """One finished comparison."""
    share = number("gain_ratio", abs(seen.gain_ratio))
    side = "higher" if seen.gain_ratio < 0.0 else "lower"
    least = "at least " if seen.breached else ""
    cut = "; the baseline breached and was left early" if seen.breached else ""
    return (
        f"compared at {number('load_rps', seen.load_rps)}: the objective was {least}{share} {side} "
        f"at {seen.tuned} than at the baseline, {seen.baseline}{cut}"
    )


def override(written: Override) -> str:
    """What a policy's override says: `pin workers=12 until ...: launch day`."""
    says = [f"pin {' '.join(f'{knob}={level}' for knob, level in written.pin)}"] * bool(written.pin)
    says += ["freeze"] * written.freeze
    says += [f"{knob} within {low}..{high}" for knob, low, high in written.bounds]
    return f"{', '.join(says)}{until(written.until_wall_ns)}: {written.reason}"


def command(asked: Command) -> str:
    """What an operator asked: `ann (pid 7) asked to pin workers=12 until ...: launch day`."""
    kind = "roll back" if asked.kind is CommandKind.ROLLBACK else str(asked.kind)
    to = " to" if asked.kind is CommandKind.ROLLBACK else ""
    what = f"{to} {asked.setting}" if asked.setting is not None else ""
    what += f" advice {asked.advice_id}" if asked.advice_id else ""
    why = f": {asked.why}" if asked.why else ""
    return f"{asked.who} asked to {kind}{what}{until(asked.until_wall_ns)}{why}"


def seen_once(pool: PoolSnapshot) -> bool:
    """Whether the plant was read back at least once in this run."""
    return pool.decision.setting is not None or pool.tick.applied is not None


def ready(snapshot: Snapshot) -> bool:
    """Whether every pool has seen its plant once."""
    return bool(snapshot.pools) and all(seen_once(pool) for pool in snapshot.pools)


def troubles(snapshot: Snapshot) -> list[str]:
    """What is not as it should be, one line each; empty when all is well."""
    lines = daemon_troubles(snapshot)
    if not snapshot.pools:
        lines.append("no pool is configured")
    for pool in snapshot.pools:
        lines += [f"{pool.pool}: {line}" for line in pool_troubles(pool)]
    return lines


def daemon_troubles(snapshot: Snapshot) -> list[str]:
    """What is wrong with the daemon itself, whatever the pool."""
    lines = []
    if snapshot.policy_error:
        first, *more = snapshot.policy_error.splitlines()
        lines.append(f"the policy on disk is refused and the one before stays in force: {first}")
        lines += more
    if snapshot.journal_error:
        lines.append(f"journal: {snapshot.journal_error}")
    return lines


def pool_troubles(pool: PoolSnapshot) -> list[str]:
    """What is not as it should be with one pool."""
    lines = []
    if not seen_once(pool):
        lines.append("its plant has not been seen yet")
    if pool.tick.applied is None:
        lines.append(f"the level cannot be read back: {pool.tick.fault or 'no reason given'}")
    if pool.decision.phase is Phase.BLIND:
        missing = ", ".join(pool.sample.missing)
        why = f"{missing} not seen" if missing else pool.decision.detail
        lines.append(f"blind: {why or 'what the guard needs cannot be seen'}")
    broken = {r.source: r.detail for r in pool.tick.readings if r.status is Status.ERROR}
    lines += [f"sensor {source}: {detail or 'failed'}" for source, detail in broken.items()]
    if pool.learner is LearnerState.FAILED:
        lines.append(f"the learner failed: {pool.tick.learner_fault or 'it will be asked again'}")
    return lines


def _plain(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100.0 else f"{value:.3g}"


def _bytes(value: float) -> str:
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}B"
    return f"{value:.0f} B"


_WRITERS: dict[str, Callable[[float], str]] = {
    "_rps": lambda value: f"{value:.3g}/s",
    "_ratio": lambda value: f"{value * 100:.3g} %",
    "_bytes": _bytes,
    "_cores": lambda value: f"{value:.3g} cores",
    "_w": lambda value: f"{value:.3g} W",
    "_s": seconds,
}
# What a Decision's evidence calls otherwise than a quantity with its unit last: (name, writer).
_NUMBERS: dict[str, tuple[str, Callable[[float], str]]] = {
    "probes_left": ("probes left", _plain),
    "probe_seconds_left": ("time left for probes", seconds),
    "slo_seconds_left": ("error budget left for probes", seconds),
    "no_shrink_s": ("nothing smaller for", seconds),
    "settled": ("settled", lambda value: "yes" if value else "no"),
    "burn_short": ("burn rate (short)", _plain),
    "burn_long": ("burn rate (long)", _plain),
}
