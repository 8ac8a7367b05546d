"""A journal that holds a day until now: what a daemon would have written, from the simulator.

    day(path, ("web", "other"))

One pool is simulated, at a tick of ten seconds; the others get a copy of its rows.
"""

import contextlib
import sqlite3
import time

from poolwright.cli.simulate import makers
from poolwright.engine.stage import bind_scenario, stage
from poolwright.policy.tree import read_document

DAY_S = 86400
_SCENARIO = """\
version: 1
name: day
duration: 1d
cadence: 10s
policy:
  version: 1
  name: day
  extends: autoscale
  mode: auto
  cadence: 10s
  slo: {latency_p99: {below: 4s}}
workers: 6
plant:
  cores: 4
  service: [{cpu: 100ms, io: 900ms, io_cv: 0.3}]
load:
  kind: noise
  cv: 0.1
  every: 60s
  of: {kind: diurnal, low: 0.5/s, high: 3/s, peak_at: 13h}
"""
# Tables of the journal whose rows belong to a run; those with a pool's name have it changed.
_OF_A_RUN = ("batches", "decisions", "plans")


def day(journal, names):
    """Simulate a day until now of a pool `web` into a new journal; the others get copies."""
    written = journal.with_suffix(".yaml")
    written.write_text(_SCENARIO)
    played = stage(bind_scenario(read_document(written), journal.parent), 0, makers(), journal)
    clock = played.simulation.world.clock
    clock.step_wall(time.time() - DAY_S - clock.wall_ns() / 1e9)
    played.simulation.run()
    with contextlib.closing(sqlite3.connect(journal)) as db, db:
        (first,) = db.execute("SELECT pool FROM runs").fetchone()
        assert first in names, first
        for other in names:
            if other != first:
                _copy(db, other)


def _columns(db, table):
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _copy(db, pool):
    """All rows of the first run once more, as of another pool."""
    run = _insert(db, "runs", {"id": "NULL", "pool": "?"}, (pool,), "id = 1")
    for table in _OF_A_RUN:
        changed = {"id": "NULL", "run": "?"}
        given = (run,)
        if "pool" in _columns(db, table):
            changed, given = changed | {"pool": "?"}, (run, pool)
        _insert(db, table, changed, given, "run = 1")


def _insert(db, table, changed, given, where):
    columns = _columns(db, table)
    values = ", ".join(changed.get(column, column) for column in columns)
    done = db.execute(f"INSERT INTO {table} SELECT {values} FROM {table} WHERE {where}", given)
    return done.lastrowid
