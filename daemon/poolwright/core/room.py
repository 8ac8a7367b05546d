"""What a growth will take, and whether there is room for it: memory, shared CPU, connections.

Said before anything is added, from the pool's mean per worker. Several knobs multiply (threads of
each worker), so the mean is per product of levels: too much rather than too little for knobs that
only add up. What a shrink gives back is not counted on: it may still drain.
"""

import math
from dataclasses import dataclass

from poolwright.core.model import Clamp, ClampKind, Setting
from poolwright.core.policy import Knob, Policy
from poolwright.core.sample import Sample

# A worker's memory grows after its start: its caches fill, and pages that it shared with its master
# are copied when written to. Those that started lately pull the mean down, and have yet to grow.
# The caution costs at most half a worker at the ceiling: every growth is forecast anew from what is
# really used by then.
_WARM = 1.5
_SAME = 0.95  # times what is in use: no less, but for noise
_LEAST_CONNECTIONS = 1.0  # of a worker that has work: what is not open in a lull will be


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stock:
    """Something that growing uses up: `own` is what the pool has of it, `room` what is left."""

    kind: ClampKind
    own: float | None  # None: not known
    room: float | None
    least: float = 0.0  # of one step of a knob by 1


def room_allows(
    sample: Sample,
    policy: Policy,
    applied: Setting,
    wanted: Setting,
    *,
    held_before: bool = False,
    held_bytes: float | None = None,
    room_bytes: float | None = None,
    room_cores: float | None = None,
) -> tuple[Setting, tuple[Clamp, ...]]:
    """The part of a growth that there is room for, never below `applied`, and what limited it.

    `room_bytes` and `room_cores` are what is left of what all pools share; None: no such budget.
    Where a number that a limit needs is unknown nothing grows, but to a setting `held_before`.
    `held_bytes` is what the pool was measured, or is predicted, to take at `wanted`: with several
    knobs that says more than a mean per product of levels. Where one knob's growth is cut and
    another shrinks, nothing shrinks: half of a trade is neither what was held nor what was asked
    for.
    """
    clamps: list[Clamp] = []
    allowed = wanted
    several = len(applied.levels) > 1
    trade = any(wanted[name] < level for name, level in applied.levels)
    known = all(level > 0 for _, level in applied.levels)  # else there is no mean per worker
    for stock in _stocks(sample, policy, room_bytes, room_cores):
        believed = trade or (several and not _outgrown(sample, held_bytes))
        if stock.kind is ClampKind.MEMORY and believed and _fits(sample, held_bytes, stock.room):
            continue
        if known and stock.own is not None and stock.room is not None:
            allowed = _share_out(stock, policy, applied, allowed, clamps)
        elif not held_before:
            allowed = _no_growth(stock.kind, applied, allowed, clamps)
    if trade and clamps:
        for name, level in applied.levels:
            allowed = allowed.replace(name, max(level, allowed[name]))
    return allowed, tuple(clamps)


def _outgrown(sample: Sample, held_bytes: float | None) -> bool:
    """Whether more than what a larger setting took is in use already: it has grown since, or leaks,
    and what was measured then says nothing of now.
    """
    if held_bytes is None or not sample.memory_bytes:
        return True
    return held_bytes < _SAME * sample.memory_bytes


def _fits(sample: Sample, held_bytes: float | None, room: float | None) -> bool:
    """Whether there is room for what is known to be taken."""
    if held_bytes is None or room is None or not sample.memory_bytes:
        return False
    return _WARM * (held_bytes - sample.memory_bytes) <= max(room, 0.0)


def needs(sample: Sample, applied: Setting, wanted: Setting) -> tuple[float, float]:
    """The bytes and cores that a growth is forecast to take; 0.0 for a shrink and what is unknown.

    For what other pools must leave alone until it is seen in use.
    """
    if any(level <= 0 for _, level in applied.levels):
        return 0.0, 0.0
    more = math.prod(max(wanted[n], level) / level for n, level in applied.levels) - 1.0
    return _WARM * more * (sample.memory_bytes or 0.0), more * (sample.cpu_cores or 0.0)


def _stocks(
    sample: Sample, policy: Policy, room_bytes: float | None, room_cores: float | None
) -> list[_Stock]:
    """The limits that hold here."""
    rule = policy.guard
    memory = _room(sample.host_memory_used_bytes, sample.memory_limit_bytes, rule.memory_ratio)
    if room_bytes is not None and memory is not None:
        memory = min(memory, room_bytes)
    own = None if not sample.memory_bytes else _WARM * sample.memory_bytes  # 0 is no pool's memory
    stocks = [_Stock(kind=ClampKind.MEMORY, own=own, room=memory)]
    if room_cores is not None:
        stocks.append(_Stock(kind=ClampKind.CPU, own=sample.cpu_cores, room=room_cores))
    used, limit = sample.connections, sample.connections_limit
    watched = {"connections", "connections_limit"}.intersection(sample.missing)
    if used is not None or limit is not None or watched:
        left = _room(used, limit, rule.connections_ratio)
        stocks.append(
            _Stock(kind=ClampKind.CONNECTIONS, own=used, room=left, least=_LEAST_CONNECTIONS)
        )
    return stocks


def _room(used: float | None, limit: float | None, ratio: float) -> float | None:
    return None if used is None or limit is None else ratio * limit - used


def _share_out(
    stock: _Stock, policy: Policy, applied: Setting, wanted: Setting, clamps: list[Clamp]
) -> Setting:
    """Let the knobs grow one after the other, as far as the stock lasts."""
    assert stock.own is not None
    assert stock.room is not None
    left, grown = stock.room, 1.0  # by what factor the pool has grown so far
    allowed = wanted
    for name, level in applied.levels:
        more = wanted[name] - level
        if more <= 0:
            continue
        fits, each = 0, max(stock.own / level, stock.least) * grown
        if left > 0.0:
            fits = more if each * more <= left else min(more, math.floor(left / each))
        if fits < more:
            fits = _on_lattice(level + fits, policy.knob(name), level) - level
            clamps.append(
                Clamp(kind=stock.kind, knob=name, wanted=wanted[name], allowed=level + fits)
            )
            allowed = allowed.replace(name, level + fits)
        left -= each * fits
        grown *= 1.0 + fits / level
    return allowed


def _on_lattice(level: int, knob: Knob, at_least: int) -> int:
    """The highest level of the knob's lattice up to `level`; not below `at_least`."""
    return max(at_least, level - (level - knob.lower) % knob.step)


def _no_growth(kind: ClampKind, applied: Setting, wanted: Setting, clamps: list[Clamp]) -> Setting:
    """Nothing above what is applied."""
    allowed = wanted
    for name, level in applied.levels:
        if wanted[name] > level:
            clamps.append(Clamp(kind=kind, knob=name, wanted=wanted[name], allowed=level))
            allowed = allowed.replace(name, level)
    return allowed
