"""Journals frozen with a release are read, migrated and replayed by every later one."""

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from poolwright.cli.main import main
from poolwright.core.controller import Controller
from poolwright.core.model import Kept, setting
from poolwright.engine.replay import replay
from poolwright.journal import schema
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal
from poolwright.journal.verify import verify

FOLDER = Path(__file__).parents[1] / "golden" / "journals"
GOLDEN = {path.stem: path for path in sorted(FOLDER.glob("v*.db"))}
NEWEST = f"v{len(schema.MIGRATIONS)}"
REPLAYED = [name for name in GOLDEN if name.partition("-")[0] != "v1"]  # it was never released


@pytest.fixture
def copy(tmp_path):
    """A golden journal that may be written to: `copy("v1")`."""

    def made(name):
        path = tmp_path / f"{name}.db"
        path.write_bytes(GOLDEN[name].read_bytes())
        return path

    return made


def version(path):
    db = sqlite3.connect(path)
    found = db.execute("PRAGMA user_version").fetchone()[0]
    db.close()
    return found


def migrate(path):
    SqliteJournal(path).close()
    assert version(path) == len(schema.MIGRATIONS)


def contents(path):
    """Everything that the readers tell of a journal."""
    with JournalReader(path) as reader:
        assert verify(reader).damage == ()
        runs = reader.runs()
        return (
            runs,
            [list(reader.steps(run.id)) for run in runs],
            [reader.start_of(run.id) for run in runs],
            [reader.intents(run.id) for run in runs],
            reader.decisions(),
            reader.notes(),
        )


def test_the_present_schema_has_a_golden_journal():
    assert NEWEST in GOLDEN, "run `python tests/golden/journals/freeze.py`, and keep what it writes"
    for name, path in GOLDEN.items():
        assert f"v{version(path)}" == name.partition("-")[0]


@pytest.mark.parametrize("name", GOLDEN)
def test_reads_the_same_before_and_after_it_is_migrated(name, copy):
    path = copy(name)
    before = contents(path)
    assert sum(len(steps) for steps in before[1]) > 100
    migrate(path)
    assert contents(path) == before


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("migrated", [False, True])
def test_is_listed_shown_and_verified(name, migrated, copy, capsys):
    path = copy(name)
    if migrated:
        migrate(path)
    for kind, least in (("move", 3), ("command", 2), ("window", 2), ("phase", 4)):
        args = ["journal", "list", "--journal", str(path), "--kind", kind, "--json"]
        assert main(args) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(rows) >= least, kind
        assert main(["journal", "show", str(rows[0]["id"]), "--journal", str(path)]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["decision"]["tick"] == rows[0]["tick"]
        assert kind != "command" or shown["tick"]["commands"]
    assert main(["journal", "list", "--journal", str(path)]) == 0
    assert "load test" in capsys.readouterr().out, "why an operator asked"
    assert main(["journal", "verify", "--journal", str(path)]) == 0


@pytest.mark.parametrize("name", REPLAYED)
def test_replays_to_the_last_bit(name, copy):
    path = copy(name)
    with JournalReader(path) as reader:
        for run in reader.runs():
            outcome = replay(reader, run.id, Controller)
            assert outcome.identical, outcome.difference.changes
            assert outcome.gap is None


def test_a_life_goes_on_from_version_1_as_it_was_left(copy):
    path = copy("v1")
    journal = SqliteJournal(path)
    found = journal.last_resume("web")
    assert [e.observation.setting for e in found.evidence][:1] == [setting(workers=3)]
    assert found.plan is not None
    assert (found.kept, found.budget) == (Kept(), None)
    assert journal.open_intents("web") == [(2, 12, setting(workers=5))]
    with JournalReader(path) as reader:
        policy, _ = reader.start_of(1)
        assert journal.begin_run("web", policy, found, 1) == 3
        assert verify(reader).damage == ()
    journal.close()


@pytest.mark.parametrize("phase", ["paused", "manual"])
def test_a_pool_that_version_1_left_alone_stays_so(phase, copy):
    path = copy("v1")
    db = sqlite3.connect(path)
    db.execute("UPDATE decisions SET phase = ? WHERE run = 2", (phase,))
    db.commit()
    db.close()
    journal = SqliteJournal(path)
    assert journal.last_resume("web").kept == Kept(phase=phase)
    journal.close()


DIE = """
import os, signal, sqlite3, sys
from pathlib import Path
from poolwright.journal import schema
from poolwright.journal.sqlite import SqliteJournal
steps = schema.MIGRATIONS[1].split(";")
steps.insert(int(sys.argv[2]), "SELECT die()")
schema.MIGRATIONS = (schema.MIGRATIONS[0], ";".join(steps))
connect = sqlite3.connect
def deadly(*args, **more):
    db = connect(*args, **more)
    db.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return db
sqlite3.connect = deadly
SqliteJournal(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("after", range(1, len(schema.MIGRATIONS[1].split(";")) + 1))
def test_kill_9_within_the_migration_leaves_version_1_whole(after, copy):
    path = copy("v1")
    before = contents(path)
    died = subprocess.run(
        [sys.executable, "-c", DIE, path, str(after)], check=False, capture_output=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert version(path) == 1
    assert contents(path) == before
    migrate(path)
    assert contents(path) == before
