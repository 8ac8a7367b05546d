"""Numbers and states in plain words, the same on every surface."""

from collections.abc import Callable
from datetime import UTC, datetime

from poolwright.core.model import (
    Action,
    ActuationStatus,
    ClampKind,
    Estimate,
    Phase,
    Status,
    Verdict,
)
from poolwright.engine.snapshot import LearnerState, PoolSnapshot, Snapshot

ACTIONS: dict[Action, str] = {
    Action.HOLD: "held",
    Action.TRACK: "followed the plan to",
    Action.DITHER: "dithered to",
    Action.PROBE: "probed",
    Action.RETREAT: "retreated to",
    Action.RESTORE: "went back to",
    Action.COMPARE: "compared with",
}
assert set(ACTIONS) == set(Action), "every action has a text"

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
    Verdict.TABU: "breached lately, so not tried again yet",
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

_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def name(quantity: str) -> str:
    """`latency_p99_s` as people say it: `latency p99`."""
    for suffix in _WRITERS:
        if quantity.endswith(suffix) and suffix != "_ratio":
            return quantity.removesuffix(suffix).replace("_", " ")
    return quantity.replace("_", " ")


def number(quantity: str, value: float) -> str:
    """`value` with the unit that the suffix of `quantity` names, in three significant digits."""
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


def utc(wall_ns: int) -> str:
    """A moment for people, to the second."""
    return datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def seen_once(pool: PoolSnapshot) -> bool:
    """Whether the plant was read back at least once in this run."""
    return pool.decision.setting is not None or pool.tick.applied is not None


def ready(snapshot: Snapshot) -> bool:
    """Whether every pool has seen its plant once."""
    return bool(snapshot.pools) and all(seen_once(pool) for pool in snapshot.pools)


def troubles(snapshot: Snapshot) -> list[str]:
    """What is not as it should be, one line each; empty when all is well."""
    lines = [f"journal: {snapshot.journal_error}"] if snapshot.journal_error else []
    if not snapshot.pools:
        lines.append("no pool is configured")
    for pool in snapshot.pools:
        lines += [f"{pool.pool}: {line}" for line in pool_troubles(pool)]
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
