"""What a person looks back at: the decisions that matter, and the windows that were measured."""

import sqlite3
from dataclasses import dataclass

from poolwright.core.model import Decision, Observation
from poolwright.journal import record
from poolwright.journal.resume import observed_ids

# A row is kept for a window or a plan as well; by these alone nothing was decided.
_NOTABLE = """
SELECT id, tick, wall_ns, phase, action, reason, setting,
    (SELECT p.setting FROM decisions p WHERE p.pool = d.pool AND p.id < d.id
        ORDER BY p.id DESC LIMIT 1),
    kinds, body
FROM decisions d
WHERE pool = ? AND wall_ns BETWEEN ? AND ?
    AND replace(replace(kinds, ' window ', ''), ' plan ', '') <> ''
ORDER BY wall_ns DESC, id DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notable:
    """A decision that matters: a move, a phase, a trip of the guard, advice, an operator's word."""

    id: int
    tick: int
    wall_ns: int
    phase: str
    action: str
    reason: str
    setting: str | None  # what was commanded from then on
    before: str | None  # ... and until then; None: nothing earlier is kept
    advised: str | None
    detail: str
    kinds: tuple[str, ...]


def notable(
    db: sqlite3.Connection, pool: str, from_wall_ns: int, to_wall_ns: int, limit: int
) -> list[Notable]:
    """The newest so many of a span of time, newest first. Raises sqlite3.Error, UnknownRecord."""
    rows = db.execute(_NOTABLE, (pool, from_wall_ns, to_wall_ns, limit))
    return [_notable(*row) for row in rows]


def windows(db: sqlite3.Connection, pool: str) -> list[tuple[int, Observation]]:
    """When the windows closed that a restart would learn from, and what they showed."""
    found = []
    for decision in observed_ids(db, pool):
        wall_ns, body = db.execute(
            "SELECT wall_ns, body FROM decisions WHERE id = ?", (decision,)
        ).fetchone()
        try:
            seen = record.unsqueeze(body, Decision).observation
        except record.UnknownRecord:
            continue  # of a later release
        if seen is not None:
            found.append((int(wall_ns), seen))
    return found


def _notable(*row: object) -> Notable:
    *columns, kinds, body = row
    names = ("id", "tick", "wall_ns", "phase", "action", "reason", "setting", "before")
    values = dict(zip(names, columns, strict=True))
    assert isinstance(kinds, str)
    assert isinstance(body, bytes)
    try:
        decision = record.unsqueeze(body, Decision)
    except record.UnknownRecord:
        detail, advised = "", None
    else:
        detail = decision.detail
        advised = None if decision.advice is None else str(decision.advice.setting)
    return Notable(
        **values,  # type: ignore[arg-type]
        detail=detail,
        advised=advised,
        kinds=tuple(kinds.split()),
    )
