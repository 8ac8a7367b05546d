"""The tables of a journal, and how an older file becomes a newer one.

`PRAGMA user_version` is the number of migrations that a file has had. Each migration is one
transaction: a crash in the middle leaves the older version, whole. A released migration is never
edited; a change of the tables is a new entry at the end of `MIGRATIONS`. A file of a later release
is refused, because an older one cannot know what it must keep true in it.
"""

import os
import sqlite3
from pathlib import Path

from poolwright.core.errors import PlantFault

APPLICATION_ID = 0x50574A31  # "PWJ1": tells a journal from any other SQLite file
_HEADER = b"SQLite format 3\x00"
_ID_OFFSET = 68  # sqlite.org/fileformat2.html, section 1.3: the application id, big-endian

_TABLES = """
CREATE TABLE pools (
    pool TEXT PRIMARY KEY, baseline TEXT, last_safe TEXT, weights TEXT NOT NULL DEFAULT '{}'
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pool TEXT NOT NULL, policy_name TEXT NOT NULL,
    began_wall_ns INTEGER NOT NULL, ended_wall_ns INTEGER, end_reason TEXT NOT NULL DEFAULT '',
    policy BLOB NOT NULL, resume BLOB, head_seq INTEGER NOT NULL DEFAULT 0,
    head_hash TEXT NOT NULL, kept_seq INTEGER NOT NULL DEFAULT 0, kept_hash TEXT NOT NULL
) STRICT;
CREATE INDEX runs_of_pool ON runs (pool, id);
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, seq INTEGER NOT NULL,
    ticks INTEGER NOT NULL, first_tick INTEGER NOT NULL, last_tick INTEGER NOT NULL,
    first_wall_ns INTEGER NOT NULL, last_wall_ns INTEGER NOT NULL,
    hash TEXT NOT NULL, blob BLOB NOT NULL, UNIQUE (run, seq)
) STRICT;
CREATE TABLE gaps (
    run INTEGER NOT NULL, first_tick INTEGER NOT NULL, last_tick INTEGER NOT NULL,
    ticks INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, pool TEXT NOT NULL,
    tick INTEGER NOT NULL, wall_ns INTEGER NOT NULL, phase TEXT NOT NULL, action TEXT NOT NULL,
    reason TEXT NOT NULL, setting TEXT, moves INTEGER NOT NULL, observed TEXT,
    breached INTEGER NOT NULL, plan_version INTEGER, body BLOB NOT NULL, UNIQUE (run, tick)
) STRICT;
CREATE INDEX decisions_of_pool ON decisions (pool, id);
CREATE INDEX decisions_observed ON decisions (pool, observed, id) WHERE observed IS NOT NULL;
CREATE TABLE plans (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, pool TEXT NOT NULL,
    tick INTEGER NOT NULL, version INTEGER NOT NULL, blob BLOB NOT NULL, UNIQUE (run, tick)
) STRICT;
CREATE INDEX plans_of_pool ON plans (pool, id);
CREATE TABLE intents (
    run INTEGER NOT NULL, tick INTEGER NOT NULL, pool TEXT NOT NULL, wall_ns INTEGER NOT NULL,
    setting TEXT NOT NULL, status TEXT NOT NULL, closed_wall_ns INTEGER, took_s REAL,
    detail TEXT NOT NULL DEFAULT '', PRIMARY KEY (run, tick)
) STRICT;
CREATE INDEX intents_open ON intents (pool) WHERE closed_wall_ns IS NULL;
CREATE TABLE notes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, wall_ns INTEGER NOT NULL,
    kind TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
"""

# What version 1 can still tell of `kinds`; in it only an operator led into or out of PAUSED.
_KINDS_1 = """
    iif(before IS NOT phase AND 'paused' IN (before, phase), ' command ', '')
    || iif(reason IN ('slo_breach', 'memory_breach', 'error_breach', 'cpu_breach'), ' guard ', '')
    || iif(moves, ' move ', '') || iif(before IS NOT phase, ' phase ', '')
    || iif(observed IS NOT NULL, ' window ', '')"""
_DECISIONS_1 = (
    "(SELECT *, lag(phase) OVER (PARTITION BY run ORDER BY id) AS before FROM main.decisions)"
)

# `kept`: what an operator or a proof has settled (core.model.Kept), as JSON. `kinds`: words, each
# between spaces. `commands`: who asked for what in the tick, and why, as JSON. `dictionary`: the
# line of the run's first batch that all later ones are compressed with.
_KEPT_AND_KINDS = f"""
ALTER TABLE pools ADD COLUMN kept TEXT;
UPDATE pools SET kept = '{{"phase":"' || last.phase || '"}}'
    FROM (SELECT pool, phase, max(id) FROM decisions GROUP BY pool) last
    WHERE last.pool = pools.pool AND last.phase IN ('paused', 'manual');
ALTER TABLE runs ADD COLUMN dictionary BLOB;
ALTER TABLE decisions ADD COLUMN kinds TEXT NOT NULL DEFAULT '';
ALTER TABLE decisions ADD COLUMN commands TEXT;
UPDATE decisions SET kinds = found.words
    FROM (SELECT id, {_KINDS_1} AS words FROM {_DECISIONS_1}) found
    WHERE found.id = decisions.id
"""  # noqa: S608 - constants only

# For "what was at that time". From here on plans are JSON (`record.encode_plan`).
_BY_TIME = "CREATE INDEX decisions_by_time ON decisions (pool, wall_ns, moves)"

MIGRATIONS: tuple[str, ...] = (_TABLES, _KEPT_AND_KINDS, _BY_TIME)

# What makes a file of an older version, read and not migrated, look like the newest.
_VIEWS = {
    1: (
        "CREATE TEMP VIEW runs AS SELECT *, NULL AS dictionary FROM main.runs",
        f"""CREATE TEMP VIEW decisions AS SELECT *, {_KINDS_1} AS kinds, NULL AS commands
            FROM {_DECISIONS_1}""",  # noqa: S608 - constants only
    )
}


def looks_like_journal(path: Path) -> bool:
    """Whether the file carries SQLite's header and our id. Opens it for reading only."""
    with path.open("rb") as file:
        head = file.read(_ID_OFFSET + 4)
    return head.startswith(_HEADER) and head[_ID_OFFSET:] == APPLICATION_ID.to_bytes(4, "big")


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A read-only connection to a journal, live or not. PlantFault when it is not one, or is newer.

    It sees one consistent moment per statement and never makes the writer wait (WAL).
    """
    try:
        if not looks_like_journal(path):
            raise PlantFault(f"{path}: not a poolwright journal")
        db = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5.0
        )
        try:
            for view in _VIEWS.get(check_version(db, path), ()):
                db.execute(view)
        except BaseException:
            db.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise PlantFault(f"{path}: cannot read the journal: {error}") from error
    return db


def check_version(db: sqlite3.Connection, path: Path) -> int:
    """The file's schema version; PlantFault when it was made by a later release."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise PlantFault(
            f"{path}: written by a later release of poolwright (schema {version}; this release "
            f"knows up to {len(MIGRATIONS)}). Use that release, or give another journal file"
        )
    return version


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the open file up to the newest schema, one transaction a step."""
    for version in range(check_version(db, path), len(MIGRATIONS)):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[version].split(";"):
                if statement.strip():
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {version + 1}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def create(path: Path) -> None:
    """Make an empty journal: built beside, then renamed, so that there is never half of one."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    db = sqlite3.connect(fresh, isolation_level=None)
    try:
        # A batch is about 3 KB: small pages waste less of the file (29.7 MB a day a pool against
        # 37.7 with 4 KB pages) and of every commit.
        db.execute("PRAGMA page_size = 1024")
        db.execute("PRAGMA journal_mode = MEMORY")  # until it has its name, a crash loses nothing
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only possible before the first table
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(db, fresh)
        db.execute("PRAGMA journal_mode = WAL")
    finally:
        db.close()
    # The history is the operator's, not everybody's.
    fresh.chmod(0o640)
    _sync(fresh)
    fresh.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
