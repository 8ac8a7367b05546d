"""kill -9, a full disk, and hands that edit: nothing promised is lost, nothing false is read."""

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import journal_life
import pytest

from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, ActuationStatus, Resume, setting
from poolwright.engine.replay import replay
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal
from poolwright.journal.verify import verify

WALL = journal_life.WALL_NS

CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import journal_life
from poolwright.core.model import Resume, setting
from poolwright.journal.sqlite import SqliteJournal
bench = journal_life.lived()
journal = SqliteJournal(Path(sys.argv[1]))
run = journal.begin_run("web", bench.policy, Resume(), journal_life.WALL_NS)
pairs = list(journal_life.steps(bench))
last = max(t.index for t, d in pairs if d.moves)
for tick, decision in pairs:
    journal.append(run, tick, decision)
    if tick.index == last + 3:
        break
print(last, flush=True)
sys.stdin.read()
"""


def test_after_kill_9_the_intent_is_there_and_the_resume_is_right(path, bench):
    support = Path(__file__).parents[1] / "support"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, path, support],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            last = int(child.stdout.readline())
            with pytest.raises(PlantFault, match=f"process {child.pid}"):
                SqliteJournal(path)
        finally:
            os.kill(child.pid, signal.SIGKILL)
    moves = [d for d in bench.decisions if d.moves]
    journal = SqliteJournal(path)
    assert journal.open_intents("web") == [(1, d.tick, d.setting) for d in moves]
    found = journal.last_resume("web")
    seen = [d.observation for d in bench.decisions if d.observation and d.tick <= last]
    assert [e.observation for e in found.evidence] == seen
    assert found.baseline == setting(workers=4)
    assert "did not end in order" in found.notes[0]
    assert f"tick {last}" in found.notes[0]
    run = journal_life.write(journal, bench, resume=found)
    journal.close()
    with JournalReader(path) as reader:
        assert verify(reader).damage == ()
        assert [s.tick.index for s in reader.steps(1)] == list(range(last + 1))
        assert run == 2


_FLIP = "CAST(substr(blob, 1, 40) || x'ff' || substr(blob, 42) AS BLOB)"
_LAST = "(SELECT blob FROM plans ORDER BY id DESC LIMIT 1)"
EDITS = {
    "a changed byte": (f"UPDATE batches SET blob = {_FLIP} WHERE seq = 1", "batch 1"),
    "a torn blob": ("UPDATE batches SET blob = substr(blob, 1, length(blob) / 2) WHERE seq = 1",
                    "damaged batch"),
    "a missing middle": ("DELETE FROM batches WHERE seq = 1", "batches 1 to 1 are missing"),
    "a missing end": ("DELETE FROM batches WHERE id = (SELECT max(id) FROM batches)",
                      "are missing"),
    "a missing beginning": ("DELETE FROM batches WHERE seq = 0", "batches 0 to 0 are missing"),
    "another time": ("UPDATE batches SET last_wall_ns = last_wall_ns + 1 WHERE seq = 1", "batch 1"),
    "another policy": ("UPDATE runs SET policy = resume", "its beginning"),
    "another decision": ("UPDATE decisions SET reason = 'schedule' WHERE moves", "not the one"),
    "a lost decision": ("DELETE FROM decisions WHERE moves", "missing from the list"),
    "a lost intent": ("DELETE FROM intents", "its intent is missing"),
    "an invented decision": ("UPDATE decisions SET tick = 999999 WHERE id = 1", "999999"),
    "a lost plan": ("DELETE FROM plans", "its plan is missing"),
    "another plan": (f"UPDATE plans SET blob = {_LAST} WHERE id = 1", "its plan is changed"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_verify_finds(name, path, bench):
    statement, told = EDITS[name]
    journal = SqliteJournal(path)
    journal_life.write(journal, bench)
    journal.close()
    with JournalReader(path) as reader:
        assert verify(reader).damage == ()
    db = sqlite3.connect(path)
    assert db.execute(statement).rowcount > 0
    db.commit()
    db.close()
    with JournalReader(path) as reader:
        damage = verify(reader).damage
    assert damage
    assert told in " / ".join(damage)


def test_a_file_torn_by_the_disk_is_a_fault_or_a_finding_never_a_crash(path, bench):
    journal = SqliteJournal(path)
    journal_life.write(journal, bench)
    journal.close()
    whole = path.read_bytes()
    for at in range(4096, len(whole), 4096 * 3):
        path.write_bytes(whole[:at] + bytes(4096) + whole[at + 4096 :])
        try:
            with JournalReader(path) as reader:
                told = " / ".join(verify(reader).damage)
        except PlantFault as fault:
            told = str(fault) if "journal.db" in str(fault) else ""
        assert told, f"zeros at {at} were not noticed"


def fill(journal, run, bench, indices):
    """Calm ticks with big texts; the faults raised."""
    tick, decision = next(journal_life.steps(bench))
    faults = []
    for i in indices:
        noise = os.urandom(2000).hex()
        try:
            journal.append(
                run,
                replace(tick, index=i, wall_ns=WALL + i * 10**9, fault=noise),
                replace(decision, tick=i, moves=False),
            )
        except PlantFault as fault:
            faults.append((i, fault))
    return faults


def whole_again(path, run, ticks):
    """The journal has exactly these ticks and is not damaged."""
    with JournalReader(path) as reader:
        report = verify(reader)
        assert report.damage == ()
        assert [s.tick.index for s in reader.steps(run)] == list(ticks)
        return report


def full(journal, run, bench, start=0):
    """Fill until the first fault; the tick that met it."""
    for i in range(start, start + 5000):
        faults = fill(journal, run, bench, [i])
        if faults:
            assert "journal.db: cannot write the journal" in str(faults[0][1])
            return i
    raise AssertionError("it never became full")


def limit_pages(journal, count):
    """What stands in for a full disk where no file system can be made: SQLITE_FULL."""
    journal._db.execute(f"PRAGMA max_page_count = {count}")


def test_full_then_space_again(path, bench):
    journal = SqliteJournal(path)
    run = journal.begin_run("web", bench.policy, Resume(baseline=setting(workers=4)), WALL)
    limit_pages(journal, 60)
    at = full(journal, run, bench)
    assert len(fill(journal, run, bench, range(at + 1, at + 6))) == 5  # tried at every tick
    limit_pages(journal, 100000)
    assert fill(journal, run, bench, range(at + 6, at + 20)) == []
    journal.close()
    assert whole_again(path, run, range(at + 20)).gaps == ()


def test_full_for_long_gives_up_the_oldest_and_says_so(path, bench, monkeypatch):
    held = 100
    monkeypatch.setattr("poolwright.journal.sqlite.HELD_TICKS_MAX", held)
    journal = SqliteJournal(path)
    run = journal.begin_run("web", bench.policy, Resume(baseline=setting(workers=4)), WALL)
    limit_pages(journal, 60)
    at = full(journal, run, bench)
    fill(journal, run, bench, range(at + 1, at + held + 5))
    limit_pages(journal, 100000)
    assert fill(journal, run, bench, [at + held + 5]) == []
    journal.close()
    kept_from = at + 6
    with JournalReader(path) as reader:
        gap = reader.gaps(run)[0]
        assert gap.last_tick == kept_from - 1
        assert gap.ticks == gap.last_tick - gap.first_tick + 1
        lost = set(range(gap.first_tick, gap.last_tick + 1))
    kept = [i for i in range(at + held + 6) if i not in lost]
    assert len(whole_again(path, run, kept).gaps) == 1


def test_a_move_that_could_not_be_journalled_is_a_refused_intent_later(path, bench):
    journal = SqliteJournal(path)
    run = journal.begin_run("web", bench.policy, Resume(baseline=setting(workers=4)), WALL)
    limit_pages(journal, 60)
    at = full(journal, run, bench) + 1
    tick, decision = next(journal_life.steps(bench))
    with pytest.raises(PlantFault):
        journal.append(
            run,
            replace(tick, index=at),
            replace(decision, tick=at, moves=True, setting=setting(workers=9)),
        )
    refused = Actuation(decision_tick=at, status=ActuationStatus.REFUSED)
    journal.close_intent(run, refused, WALL)  # the engine says what it did not do
    limit_pages(journal, 100000)
    assert fill(journal, run, bench, [at + 1]) == []
    assert journal.open_intents("web") == []
    with JournalReader(path) as reader:
        assert [(i.tick, i.status) for i in reader.intents(run)] == [(at, "refused")]
    journal.close()
    whole_again(path, run, range(at + 2))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_really_full_disk(tmp_path, bench):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        path = disk / "journal.db"
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(600_000))
        journal = SqliteJournal(path)
        run = journal.begin_run("web", bench.policy, Resume(baseline=setting(workers=4)), WALL)
        at = full(journal, run, bench)
        with pytest.raises(PlantFault, match="cannot write"):
            journal.note(run, WALL, "x", os.urandom(50_000).hex())
        ballast.unlink()
        assert fill(journal, run, bench, range(at + 1, at + 10)) == []
        journal.close()
        assert whole_again(path, run, range(at + 10)).gaps == ()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_replay_stops_at_a_gap_and_at_a_missing_batch(path, bench):
    journal = SqliteJournal(path)
    run = journal_life.write(journal, bench)
    journal.close()
    db = sqlite3.connect(path)
    db.execute("DELETE FROM batches WHERE seq = 1")
    db.commit()
    db.close()
    from poolwright.core.controller import Controller

    with JournalReader(path) as reader, pytest.raises(PlantFault, match="1 to 1 are missing"):
        replay(reader, run, Controller)
