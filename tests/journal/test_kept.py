"""What an operator or a proof has settled, and what is left of budgets, survive every ending."""

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
from poolwright.core.model import Holdout, Kept, Phase, Resume, setting
from poolwright.journal.query import JournalReader
from poolwright.journal.resume import BUDGET
from poolwright.journal.sqlite import HELD_TICKS_MAX, SqliteJournal
from poolwright.journal.verify import verify

WALL = journal_life.WALL_NS
PAUSED = Kept(phase=Phase.PAUSED, rejected=("a1",))
SETTLED = Kept(
    phase=Phase.STOOD_DOWN,
    pin=setting(workers=7),
    pin_until_wall_ns=WALL,
    pin_why="launch",
    rejected=("a1", "b2"),
    holdouts=(
        Holdout(
            baseline=setting(workers=4), tuned=setting(workers=7), load_rps=81.5,
            gain_ratio=-0.01, breached=True, closed_tick=9,
        ),
    ),
)  # fmt: skip


def calm(bench):
    """A tick and its decision, of which nothing need be durable."""
    tick, decision = next(journal_life.steps(bench))
    return tick, replace(decision, moves=False, observation=None, fit_request=None, kept=None)


def begun(journal, bench, **resume):
    known = Resume(baseline=setting(workers=4), **resume)
    return journal.begin_run("web", bench.policy, known, WALL)


def step(journal, run, bench, index, **changes):
    tick, decision = calm(bench)
    journal.append(run, replace(tick, index=index), replace(decision, tick=index, **changes))


def left(*numbers):
    return tuple(zip(BUDGET, numbers, strict=True))


def reopened(journal, path):
    """As after a crash: what is in memory is lost."""
    journal._db.close()
    journal._lock.release()
    return SqliteJournal(path)


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:4]
import journal_life
from test_kept import SETTLED, begun, step
from poolwright.journal.sqlite import SqliteJournal
bench = journal_life.make.Bench()
bench.run(1)
journal = SqliteJournal(Path(sys.argv[1]))
run = begun(journal, bench)
step(journal, run, bench, 0)
with journal._transaction(durable=False):
    pass
assert journal._db.execute("PRAGMA synchronous").fetchone() == (1,)
step(journal, run, bench, 1, kept=SETTLED)
assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
step(journal, run, bench, 2)
print("kept", flush=True)
sys.stdin.read()
"""


def test_what_was_kept_survives_kill_9_at_once(path):
    here = Path(__file__).parent
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, path, here.parent / "support", here],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "kept\n"
        os.kill(child.pid, signal.SIGKILL)
    journal = SqliteJournal(path)
    assert journal.last_resume("web").kept == SETTLED
    journal.close()
    with JournalReader(path) as reader:
        assert [s.tick.index for s in reader.steps(1)] == [0, 1], "and tick 2 was in memory"
        assert verify(reader).damage == ()


def test_the_newest_wins_whether_a_decision_or_a_new_run_brought_it(path, journal, bench):
    run = begun(journal, bench)
    assert journal.last_resume("web").kept == Kept()
    step(journal, run, bench, 0, kept=PAUSED)
    step(journal, run, bench, 1)
    assert journal.last_resume("web").kept == PAUSED
    run = begun(journal, bench, kept=SETTLED)
    assert journal.last_resume("web").kept == SETTLED
    step(journal, run, bench, 0, kept=Kept())
    assert journal.last_resume("web").kept == Kept(), "unpaused, unpinned"
    other = journal.begin_run("api", bench.policy, Resume(kept=PAUSED), WALL)
    step(journal, other, bench, 0)
    assert journal.last_resume("web").kept == Kept()
    assert journal.last_resume("api").kept == PAUSED


def test_what_could_not_be_written_is_told_and_written_later_even_when_its_tick_is_given_up(
    path, bench, monkeypatch
):
    journal = SqliteJournal(path, batch_ticks=2)
    run = begun(journal, bench)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    for index in range(40):  # the last free pages
        noise = os.urandom(2000).hex()
        try:
            step(journal, run, bench, index, detail=noise)
        except PlantFault:
            break
    with pytest.raises(PlantFault, match="cannot write"):
        step(journal, run, bench, 100, kept=PAUSED, detail=noise)
    assert journal.last_resume("web").kept == Kept()
    for later in range(HELD_TICKS_MAX + 5):
        with pytest.raises(PlantFault):
            step(journal, run, bench, 101 + later, detail=noise)
    journal._db.execute("PRAGMA max_page_count = 1000000")
    step(journal, run, bench, 5000)
    journal = reopened(journal, path)
    assert journal.last_resume("web").kept == PAUSED
    journal.close()
    with JournalReader(path) as reader:
        (gap,) = reader.gaps(run)
        assert gap.first_tick <= 100 <= gap.last_tick


def test_what_an_earlier_run_could_not_write_does_not_undo_a_later_one(path, bench):
    journal = SqliteJournal(path)
    first = begun(journal, bench)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(PlantFault):
        step(journal, first, bench, 0, kept=PAUSED, detail=os.urandom(9000).hex())
    journal._db.execute("PRAGMA max_page_count = 1000000")
    begun(journal, bench, kept=SETTLED)
    journal.flush()
    assert journal.last_resume("web").kept == SETTLED
    journal.close()


def test_what_was_settled_and_cannot_be_read_is_a_pause(path, bench):
    journal = SqliteJournal(path)
    begun(journal, bench, kept=SETTLED)
    journal.close()
    db = sqlite3.connect(path)
    db.execute("UPDATE pools SET kept = replace(kept, 'stood_down', 'mooncycle')")
    db.commit()
    db.close()
    journal = SqliteJournal(path)
    found = journal.last_resume("web")
    journal.close()
    assert found.kept == Kept(phase=Phase.PAUSED)
    assert "mooncycle" in " / ".join(found.notes)


def test_budgets_go_on_from_the_newest_decision_of_the_newest_run(path, bench):
    journal = SqliteJournal(path, batch_ticks=1)
    run = begun(journal, bench)
    step(journal, run, bench, 0, evidence=left(5.0, 60.0, 9.0))
    step(journal, run, bench, 1, evidence=(("load_rps", 1.0), *left(4.5, 0.0, -3.25)))
    assert journal.last_resume("web").budget == (4.5, 0.0, -3.25)
    step(journal, run, bench, 2, evidence=left(4.0, 1.0, 2.0)[:2])
    assert journal.last_resume("web").budget is None, "one of them is not known"
    step(journal, run, bench, 3, evidence=left(3.0, 1.0, 2.0))
    other = journal.begin_run("api", bench.policy, Resume(), WALL)
    step(journal, other, bench, 0, evidence=left(9.0, 9.0, 9.0))
    assert journal.last_resume("web").budget == (3.0, 1.0, 2.0)
    journal.close()


def test_dying_again_and_again_buys_no_budget(path, bench):
    journal = SqliteJournal(path)
    resume = Resume(budget=(2.0, 30.0, 5.0))
    for _ in range(5):  # each dies with all its ticks in memory
        run = begun(journal, bench, budget=resume.budget)
        step(journal, run, bench, 0, evidence=left(20.0, 180.0, 36.0))
        journal = reopened(journal, path)
        resume = journal.last_resume("web")
        assert resume.budget == (2.0, 30.0, 5.0)
    run = begun(journal, bench, budget=resume.budget)
    step(journal, run, bench, 0, evidence=left(1.0, 30.0, 5.0), moves=True)  # a probe
    journal = reopened(journal, path)
    assert journal.last_resume("web").budget == (1.0, 30.0, 5.0)
    journal.close()


@pytest.mark.parametrize("what", ["batches SET blob = x'00'", "runs SET dictionary = x'00'"])
def test_budgets_that_cannot_be_read_begin_empty(path, bench, what):
    journal = SqliteJournal(path, batch_ticks=1)
    run = begun(journal, bench)
    for index in range(3):
        step(journal, run, bench, index, evidence=left(5.0, 60.0, 9.0))
    journal.close()
    db = sqlite3.connect(path)
    assert db.execute(f"UPDATE {what}").rowcount
    db.commit()
    db.close()
    journal = SqliteJournal(path)
    found = journal.last_resume("web")
    journal.close()
    assert found.budget == (0.0, 0.0, 0.0)
    assert "budgets begin empty" in " / ".join(found.notes)


def test_a_run_that_was_opened_and_never_entered_leaves_nothing(path, bench):
    journal = SqliteJournal(path, batch_ticks=1)
    first = begun(journal, bench)
    step(journal, first, bench, 0, evidence=left(5.0, 60.0, 9.0))
    opened = begun(journal, bench, budget=(5.0, 60.0, 9.0))
    journal.end_run(opened, "not entered", WALL)
    step(journal, first, bench, 1, evidence=left(1.0, 2.0, 3.0))
    found = journal.last_resume("web")
    assert found.budget == (1.0, 2.0, 3.0)
    assert f"run {first} did not end in order" in found.notes[0]
    entered = begun(journal, bench)
    journal.end_run(first, "policy changed", WALL)
    journal.end_run(entered, "stopped", WALL)
    with JournalReader(path) as reader:
        assert [(run.id, run.end_reason) for run in reader.runs()] == [
            (first, "policy changed"), (entered, "stopped")
        ]  # fmt: skip
        assert verify(reader).damage == ()
    journal.close()
