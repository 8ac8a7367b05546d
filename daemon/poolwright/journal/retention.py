"""Forgetting, a little at a time, so that no tick waits for it.

By age, ticks and decisions go alike. By size, ticks go first (they are most of the file): what is
lost then is replay, while every decision can still be explained. Then go the oldest decisions, and
with them the plans that were in force. Never: a pool's baseline, last safe setting and what was
settled of it, notes, open intents, the newest run of each pool, its newest plan, and the
observations that `last_resume` gives.
"""

import sqlite3
from dataclasses import dataclass

from poolwright.journal.resume import observed_ids

EVERY_FLUSHES = 16
MAX_AGE_S = 30 * 86400.0
MAX_BYTES = 360 * 2**20
_STEP_BATCHES = 64  # four times what is written between two steps
_STEP_DECISIONS = 640
_STEP_PAGES = 512  # pages given back to the file system a step
_FOREVER = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much to keep. None: no bound."""

    max_age_s: float | None = MAX_AGE_S
    max_bytes: int | None = MAX_BYTES  # of the main file; its write-ahead log adds some MB


def used_bytes(db: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    pages, free, size = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def prune(db: sqlite3.Connection, rule: Retention, now_wall_ns: int) -> None:
    """One small step of forgetting, within the caller's transaction."""
    if rule.max_age_s is not None:
        horizon = now_wall_ns - int(rule.max_age_s * 1e9)
        _drop_batches(db, horizon)
        _drop_decisions(db, horizon)
    over = rule.max_bytes is not None and used_bytes(db) > rule.max_bytes
    if over and _drop_batches(db, None) < _STEP_BATCHES:  # ticks alone are not enough
        _drop_decisions(db, None)


def shrink(db: sqlite3.Connection) -> None:
    """Give some free pages back to the file system. Not inside a transaction."""
    db.execute(f"PRAGMA incremental_vacuum({_STEP_PAGES})").fetchall()


def _drop_batches(db: sqlite3.Connection, horizon: int | None) -> int:
    """Drop the oldest batches, but never a run's newest; how many went."""
    rows = db.execute(
        "SELECT b.id, b.run, b.seq, b.hash, b.last_tick FROM batches b JOIN runs r ON r.id = b.run"
        " WHERE b.seq < r.head_seq - 1 OR r.id NOT IN (SELECT max(id) FROM runs GROUP BY pool)"
        " ORDER BY b.id LIMIT ?",
        (_STEP_BATCHES,),
    ).fetchall()
    if horizon is not None:
        rows = [row for row in rows if _wall(db, row[0]) < horizon]
    newest: dict[int, tuple[int, str, int]] = {}
    for batch, run, seq, head, last_tick in rows:
        db.execute("DELETE FROM batches WHERE id = ?", (batch,))
        newest[run] = (seq + 1, head, last_tick)
    for run, (kept_seq, kept_hash, last_tick) in newest.items():
        # The chain goes on from the hash of the last batch that went. What the run resumed from
        # is of no more use: a run without its beginning cannot be replayed.
        db.execute(
            "UPDATE runs SET kept_seq = ?, kept_hash = ?, resume = CASE WHEN id IN"
            " (SELECT max(id) FROM runs GROUP BY pool) THEN resume END WHERE id = ?",
            (kept_seq, kept_hash, run),
        )
        db.execute("DELETE FROM gaps WHERE run = ? AND last_tick <= ?", (run, last_tick))
    return len(rows)


def _wall(db: sqlite3.Connection, batch: int) -> int:
    row = db.execute("SELECT last_wall_ns FROM batches WHERE id = ?", (batch,)).fetchone()
    return int(row[0])


def _drop_decisions(db: sqlite3.Connection, horizon: int | None) -> None:
    """Drop the oldest decisions that no kept batch and no resume needs, and their closed intents.

    Then the runs that have nothing left.
    """
    oldest = db.execute("SELECT wall_ns FROM decisions ORDER BY id LIMIT 1").fetchone()
    if horizon is not None and oldest is not None and oldest[0] >= horizon:
        return
    needed = _needed(db)
    rows = db.execute(
        "SELECT id, run, tick FROM (SELECT * FROM decisions ORDER BY id LIMIT ?) d"
        " WHERE d.wall_ns < ? AND d.tick < coalesce((SELECT b.first_tick FROM batches b"
        " WHERE b.run = d.run ORDER BY b.seq LIMIT 1), ?)",
        (_STEP_DECISIONS + len(needed), _FOREVER if horizon is None else horizon, _FOREVER),
    ).fetchall()
    newest: dict[int, int] = {}
    for decision, run, tick in rows:
        if decision in needed:
            continue
        newest[run] = tick
        db.execute("DELETE FROM decisions WHERE id = ?", (decision,))
        db.execute(
            "DELETE FROM intents WHERE run = ? AND tick = ? AND closed_wall_ns IS NOT NULL",
            (run, tick),
        )
    for run, tick in newest.items():  # the plan in force at the last of them may be in force yet
        db.execute(
            "DELETE FROM plans WHERE run = ?1"
            " AND tick < (SELECT max(tick) FROM plans WHERE run = ?1 AND tick <= ?2)"
            " AND id NOT IN (SELECT max(id) FROM plans GROUP BY pool)",
            (run, tick),
        )
    db.execute(
        "DELETE FROM runs WHERE id NOT IN (SELECT max(id) FROM runs GROUP BY pool)"
        " AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.run = runs.id)"
        " AND NOT EXISTS (SELECT 1 FROM decisions d WHERE d.run = runs.id)"
        " AND NOT EXISTS (SELECT 1 FROM intents i WHERE i.run = runs.id)"
        " AND NOT EXISTS (SELECT 1 FROM notes n WHERE n.run = runs.id)"
    )
    db.execute(
        "DELETE FROM plans WHERE run NOT IN (SELECT id FROM runs)"
        " AND id NOT IN (SELECT max(id) FROM plans GROUP BY pool)"
    )


def _needed(db: sqlite3.Connection) -> set[int]:
    """The decisions whose observations `last_resume` gives, of every pool."""
    pools = db.execute("SELECT pool FROM pools").fetchall()
    return {found for (pool,) in pools for found in observed_ids(db, pool)}
