"""The rows that a tick adds beside its batch, each written within the caller's transaction."""

import sqlite3

from poolwright.core.model import (
    Actuation,
    ActuationStatus,
    Decision,
    Kept,
    Observation,
    Setting,
)
from poolwright.journal import record
from poolwright.journal.pending import NOT_MOVED, Entry, Pending


def write_entry(db: sqlite3.Connection, run: Pending, entry: Entry) -> None:
    """What a tick adds beside its batch: a plan, an intent, weights, a row of its own."""
    if entry.plan is not None:
        db.execute(
            "INSERT INTO plans (run, pool, tick, version, blob) VALUES (?, ?, ?, ?, ?)",
            (run.id, run.pool, entry.tick, *entry.plan),
        )
    if entry.moves is not None:
        refused = entry.tick in run.refused
        db.execute(
            "INSERT INTO intents (run, tick, pool, wall_ns, setting, status, closed_wall_ns,"
            " detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run.id, entry.tick, run.pool, entry.wall_ns, record.encode(entry.moves).decode(),
                ActuationStatus.REFUSED if refused else "open",
                entry.wall_ns if refused else None, NOT_MOVED if refused else "",
            ),
        )  # fmt: skip
    if entry.weights is not None:
        db.execute(
            "UPDATE pools SET weights = ? WHERE pool = ?", (entry.weights.decode(), run.pool)
        )
    if entry.decision is not None:
        _write_decision(db, run, entry, entry.decision)


def _write_decision(db: sqlite3.Connection, run: Pending, entry: Entry, decision: Decision) -> None:
    seen: Observation | None = decision.observation
    db.execute(
        "INSERT INTO decisions (run, pool, tick, wall_ns, phase, action, reason, setting, moves,"
        " observed, breached, plan_version, body, kinds, commands)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run.id, run.pool, entry.tick, entry.wall_ns, decision.phase, decision.action,
            decision.reason, None if decision.setting is None else str(decision.setting),
            decision.moves, None if seen is None else str(seen.setting),
            seen is not None and seen.breached, entry.plan_version, record.squeeze(decision),
            entry.kinds, None if entry.commands is None else entry.commands.decode(),
        ),
    )  # fmt: skip
    if seen is not None and not seen.breached:
        set_pool(db, run.pool, "last_safe", seen.setting)


def set_pool(db: sqlite3.Connection, pool: str, column: str, value: Setting | Kept) -> None:
    """Keep a pool's `baseline`, `last_safe` or `kept`."""
    assert column in {"baseline", "last_safe", "kept"}
    db.execute(
        f"UPDATE pools SET {column} = ? WHERE pool = ?",  # noqa: S608 - one of three words
        (record.encode(value).decode(), pool),
    )


def close_intent(db: sqlite3.Connection, run: int, actuation: Actuation, wall_ns: int) -> None:
    """What became of an intent; a pending actuation leaves it open."""
    closed = None if actuation.status is ActuationStatus.PENDING else wall_ns
    db.execute(
        "UPDATE intents SET status = ?, closed_wall_ns = ?, took_s = ?, detail = ?"
        " WHERE run = ? AND tick = ?",
        (actuation.status, closed, actuation.took_s, actuation.detail, run,
         actuation.decision_tick),
    )  # fmt: skip
