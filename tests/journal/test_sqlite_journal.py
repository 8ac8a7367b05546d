"""The writing side: batches, intents, baselines, refusals, migration, readers beside it."""

import os
import sqlite3
import threading
from dataclasses import replace

import journal_life
import pytest

from poolwright.core.errors import PlantFault
from poolwright.core.model import (
    Actuation,
    ActuationStatus,
    Advice,
    Applied,
    Command,
    CommandKind,
    Holdout,
    Kept,
    Phase,
    Resume,
    setting,
)
from poolwright.core.policy import Override
from poolwright.journal import record, schema
from poolwright.journal.query import KINDS, JournalReader
from poolwright.journal.sqlite import SqliteJournal
from poolwright.journal.verify import verify

WALL = journal_life.WALL_NS


def test_a_life_is_read_back_as_it_was(path, journal, bench):
    run = journal_life.write(journal, bench)
    with JournalReader(path) as reader:
        found = list(reader.steps(run))
        assert [s.tick for s in found] == [t for t, _ in journal_life.steps(bench)]
        assert [s.decision for s in found] == [record.without_fit(d) for d in bench.decisions]
        assert verify(reader).damage == ()
        rows = {row.tick: row for row in reader.decisions("web")}
        for decision in bench.decisions:
            if decision.moves or decision.observation is not None:
                assert reader.full_decision(rows[decision.tick].id) == record.without_fit(decision)
        assert len(rows) < len(bench.decisions)
        assert [i.status for i in reader.intents(run)] == ["applied"] * len(reader.intents(run))
        assert reader.intents(run)


def test_ticks_are_written_in_batches_and_a_move_at_once(path, bench):
    journal = SqliteJournal(path, batch_ticks=10)
    run = journal.begin_run("web", bench.policy, Resume(baseline=setting(workers=4)), WALL)
    calm = [(t, replace(d, moves=False)) for t, d in journal_life.steps(bench)]
    with JournalReader(path) as reader:
        for tick, decision in calm[:9]:
            journal.append(run, tick, decision)
        assert list(reader.steps(run)) == []
        journal.append(run, *calm[9])
        assert len(list(reader.steps(run))) == 10
        tick, decision = calm[10]
        journal.append(run, tick, replace(decision, moves=True, setting=setting(workers=6)))
        assert len(list(reader.steps(run))) == 11
        assert journal.open_intents("web") == [(run, tick.index, setting(workers=6))]
    journal.close()


def test_pools_that_began_together_do_not_write_together(path, journal, bench):
    resume = Resume(baseline=setting(workers=4))
    runs = [journal.begin_run(f"web{n}", bench.policy, resume, WALL) for n in range(20)]
    tick, decision = next(journal_life.steps(bench))
    written = []
    with JournalReader(path) as reader:
        for i in range(30):
            for run in runs:
                journal.append(run, replace(tick, index=i), replace(decision, tick=i, moves=False))
            written.append(sum(len(reader.headers(run)) for run in runs) - sum(written))
    assert written == [2] * 30


def test_a_pending_actuation_leaves_the_intent_open_and_another_run_may_close_it(path, bench):
    journal = SqliteJournal(path)
    run = journal.begin_run("web", bench.policy, Resume(), WALL)
    tick, decision = next(journal_life.steps(bench))
    journal.append(run, tick, replace(decision, moves=True, setting=setting(workers=6)))
    pending = Actuation(decision_tick=tick.index, status=ActuationStatus.PENDING)
    journal.close_intent(run, pending, WALL)
    assert len(journal.open_intents("web")) == 1
    journal.close()
    journal = SqliteJournal(path)
    assert journal.open_intents("other") == []
    failed = replace(pending, status=ActuationStatus.FAILED, detail="died in the middle")
    journal.close_intent(run, failed, WALL)
    assert journal.open_intents("web") == []
    with pytest.raises(PlantFault, match="no intent of tick 77"):
        journal.close_intent(run, replace(failed, decision_tick=77), WALL)
    journal.close()


def test_a_second_writer_is_refused_and_told_who_holds_it(path, journal):
    with pytest.raises(PlantFault, match=rf"journal\.db: in use by .*process {os.getpid()}"):
        SqliteJournal(path)
    journal.close()
    SqliteJournal(path).close()


def test_what_is_not_a_journal_is_refused_untouched(path):
    for content in (b"precious", b"SQLite format 3\x00" + b"x" * 4080):
        path.write_bytes(content)
        with pytest.raises(PlantFault, match="not a poolwright journal"):
            SqliteJournal(path)
        assert path.read_bytes() == content
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(PlantFault, match="not a poolwright journal"):
        SqliteJournal(path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["journal.db"]


def test_a_path_that_cannot_be_is_a_fault_that_names_it(path):
    path.write_text("")  # an empty file is a journal to be
    SqliteJournal(path).close()
    for wrong in (path.parent, path.parent / "nowhere" / "j.db", path / "j.db"):
        with pytest.raises(PlantFault, match=str(wrong)):
            SqliteJournal(wrong)


def test_a_journal_of_a_later_release_is_refused(path):
    SqliteJournal(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    for opened in (SqliteJournal, JournalReader):
        with pytest.raises(PlantFault, match=r"later release .*schema 99"):
            opened(path)


def test_an_older_schema_is_migrated_with_what_it_holds(path, bench, monkeypatch):
    journal = SqliteJournal(path)
    run = journal_life.write(journal, bench)
    journal.close()
    step = "ALTER TABLE runs ADD COLUMN host TEXT NOT NULL DEFAULT 'here'; CREATE TABLE t (x)"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
    SqliteJournal(path).close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    assert db.execute("SELECT host FROM runs").fetchall() == [("here",)]
    db.close()
    with JournalReader(path) as reader:
        assert verify(reader).damage == ()
        assert len(list(reader.steps(run))) == len(bench.ticks)


def test_a_migration_that_fails_leaves_the_older_version_whole(path, bench, monkeypatch):
    journal = SqliteJournal(path)
    journal_life.write(journal, bench)
    journal.close()
    broken = "ALTER TABLE runs ADD COLUMN host TEXT; ALTER TABLE nowhere ADD COLUMN x"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        with pytest.raises(PlantFault, match="nowhere"):
            SqliteJournal(path)
    SqliteJournal(path).close()
    with JournalReader(path) as reader:
        assert verify(reader).damage == ()


def test_the_baseline_is_the_first_level_read_back_and_stays(path, bench):
    journal = SqliteJournal(path)
    run = journal.begin_run("web", bench.policy, Resume(), WALL)
    pairs = list(journal_life.steps(bench))
    journal.append(run, replace(pairs[0][0], applied=None, fault="gone"), pairs[0][1])
    assert journal.last_resume("web").baseline is None
    journal.append(run, *pairs[1])
    assert journal.last_resume("web").baseline == setting(workers=4)  # durable already
    later = replace(pairs[2][0], applied=Applied(setting=setting(workers=9)))
    journal.append(run, later, pairs[2][1])
    journal.end_run(run, "stopped", WALL)
    journal.begin_run("web", bench.policy, journal.last_resume("web"), WALL)
    assert journal.last_resume("web").baseline == setting(workers=4)
    journal.begin_run("web", bench.policy, Resume(baseline=setting(workers=7)), WALL)
    assert journal.last_resume("web").baseline == setting(workers=7)
    journal.close()


def test_a_resume_has_what_was_learned(path, journal, bench):
    assert journal.last_resume("web") is None
    journal_life.write(journal, bench)
    found = journal.last_resume("web")
    seen = [d.observation for d in bench.decisions if d.observation is not None]
    plans = [t.plan for t in bench.ticks if t.plan is not None]
    assert [e.observation for e in found.evidence] == seen
    assert found.plan == plans[-1]
    assert found.last_safe == [o.setting for o in seen if not o.breached][-1]
    assert found.notes == ("run 1 ended: stopped",)
    assert journal.last_resume("other") is None


def test_a_resume_keeps_the_newest_and_one_of_each_setting(path, journal, bench):
    run = journal.begin_run("web", bench.policy, Resume(), WALL)
    first = next(d.observation for d in bench.decisions if d.observation is not None)
    tick, decision = next(journal_life.steps(bench))
    for i in range(150):
        workers = 2 if i == 3 else 5 + i % 3
        seen = replace(first, setting=setting(workers=workers), closed_tick=i, breached=i == 149)
        journal.append(
            run, replace(tick, index=i), replace(decision, tick=i, observation=seen, moves=False)
        )
    journal.flush()
    found = journal.last_resume("web")
    ticks = [e.observation.closed_tick for e in found.evidence]
    assert ticks == [3, *range(55, 150)]
    assert found.last_safe == setting(workers=5 + 148 % 3)


def test_the_weights_of_the_last_fit_come_back(path, journal, bench):
    run = journal.begin_run("web", bench.policy, Resume(), WALL)
    for tick, decision in journal_life.steps(bench):
        asked = decision.fit_request
        if asked is not None:
            faded = tuple(replace(e, weight=0.25) for e in asked.evidence[:1])
            asked = replace(asked, evidence=(*faded, *asked.evidence[1:]))
        journal.append(run, tick, replace(decision, fit_request=asked, moves=False))
    journal.flush()
    assert [e.weight for e in journal.last_resume("web").evidence][:2] == [0.25, 1.0]


def test_what_cannot_be_read_is_left_out_of_a_resume_and_told(path, bench):
    journal = SqliteJournal(path)
    journal_life.write(journal, bench, end=False)
    journal.close()
    db = sqlite3.connect(path)
    row = db.execute("SELECT max(id) FROM decisions WHERE observed IS NOT NULL").fetchone()
    db.execute("UPDATE decisions SET body = x'00' WHERE id = ?", row)
    db.execute("UPDATE plans SET blob = x'00'")
    db.execute("DELETE FROM batches WHERE id = (SELECT max(id) FROM batches)")
    db.commit()
    db.close()
    journal = SqliteJournal(path)
    found = journal.last_resume("web")
    journal.close()
    assert found.plan is None
    assert len(found.evidence) == sum(d.observation is not None for d in bench.decisions) - 1
    told = " / ".join(found.notes)
    for part in ("did not end in order", "damaged at its end", f"decision {row[0]}", "last plan"):
        assert part in told


def test_notes_and_ends_are_kept(path, journal, bench):
    run = journal.begin_run("web", bench.policy, Resume(), WALL)
    journal.note(run, WALL + 1, "recovery", "one intent was open")
    journal.end_run(run, "SIGTERM", WALL + 2)
    with JournalReader(path) as reader:
        assert [(n.kind, n.text) for n in reader.notes(run)] == [
            ("recovery", "one intent was open")
        ]
        assert (reader.run(run).ended_wall_ns, reader.run(run).end_reason) == (WALL + 2, "SIGTERM")


def test_a_closed_journal_says_so_and_closes_twice(path, bench):
    journal = SqliteJournal(path)
    journal.close()
    journal.close()
    with pytest.raises(PlantFault, match="closed"):
        journal.begin_run("web", bench.policy, Resume(), WALL)


def test_phase_changes_and_new_trips_get_a_row_and_lasting_ones_do_not(path, journal, bench):
    run = journal.begin_run("web", bench.policy, Resume(baseline=setting(workers=4)), WALL)
    tick, decision = next(journal_life.steps(bench))
    plain = replace(decision, moves=False, events=(), observation=None, phase=Phase.EXPLORE)
    tripped = replace(plain, guard_trips=(decision.reason,))
    for i, kind in enumerate([plain, plain, tripped, tripped, plain]):
        journal.append(run, replace(tick, index=i), replace(kind, tick=i))
    journal.flush()
    with JournalReader(path) as reader:
        assert [(row.tick, *row.kinds) for row in reader.decisions("web")] == [
            (0, "phase"), (2, "guard"), (4, "guard")
        ]  # fmt: skip


def test_a_row_says_what_it_is_notable_for(path, journal, bench):
    run = journal.begin_run("web", bench.policy, Resume(baseline=setting(workers=4)), WALL)
    tick, decision = next(journal_life.steps(bench))
    plain = replace(decision, moves=False, events=(), observation=None, phase=Phase.EXPLORE)
    one = Advice(
        id="a1", setting=setting(workers=5), replaces=setting(workers=4), gain=None, p_safe=None,
        reason=decision.reason,
    )  # fmt: skip
    held = Holdout(
        baseline=setting(workers=4), tuned=setting(workers=5), load_rps=9.0, gain_ratio=0.1,
        breached=False, closed_tick=5,
    )  # fmt: skip
    pin = Command(kind=CommandKind.PIN, who="ana", why="launch", setting=setting(workers=9))
    launch = Override(reason="launch", freeze=True)
    life = [
        (tick, plain),
        (tick, replace(plain, advice=one)),
        (tick, replace(plain, advice=one)),  # the same advice is no news
        (tick, plain),
        (tick, replace(plain, advice=one)),
        (tick, replace(plain, advice=replace(one, id="b2"))),
        (replace(tick, commands=(pin,)), replace(plain, moves=True)),
        (tick, replace(plain, holdout=held)),
        (replace(tick, overrides=(launch,)), plain),
        (replace(tick, overrides=(launch,)), plain),
        (replace(tick, quiet="daily 09:00-10:00 UTC"), plain),
        (replace(tick, quiet="daily 09:00-10:00 UTC"), replace(plain, kept=Kept())),
    ]
    for i, (seen, decided) in enumerate(life):
        journal.append(run, replace(seen, index=i), replace(decided, tick=i))
    journal.flush()
    with JournalReader(path) as reader:
        rows = reader.decisions("web")
        assert {row.tick: row.kinds for row in rows} == {
            0: ("phase",), 1: ("advice",), 5: ("advice",), 6: ("move", "command"),
            7: ("holdout",), 8: ("policy",), 10: ("policy",), 11: (),
        }  # fmt: skip
        for kind in KINDS:
            wanted = [row for row in rows if kind in row.kinds]
            assert reader.decisions(kind=kind) == wanted
        (asked,) = reader.decisions(kind="command")[0].commands
        assert (asked["kind"], asked["who"], asked["why"]) == ("pin", "ana", "launch")
        assert verify(reader).damage == ()


def test_batches_after_the_first_are_told_in_the_words_of_the_first(path, bench):
    journal = SqliteJournal(path, batch_ticks=5)
    run = journal_life.write(journal, bench)
    journal.close()
    db = sqlite3.connect(path)
    blobs = [row[0] for row in db.execute("SELECT blob FROM batches WHERE run = ?", (run,))]
    alone = [record.pack(record.unpack(blobs[0]))]
    with JournalReader(path) as reader:
        words = reader.dictionary(run)
        alone += [record.pack(record.unpack(blob, words)) for blob in blobs[1:]]
        assert verify(reader).damage == ()
    assert sum(map(len, blobs)) < 0.85 * sum(map(len, alone))
    db.execute("UPDATE runs SET dictionary = x'00'")
    db.commit()
    db.close()
    with JournalReader(path) as reader:
        assert "damaged batch" in " / ".join(verify(reader).damage)


def test_readers_see_whole_moments_while_a_writer_writes(path, bench):
    journal = SqliteJournal(path, batch_ticks=2)
    failures, checks = [], []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            with JournalReader(path) as reader:
                report = verify(reader)
                checks.append(report.ticks)
                failures.extend(report.damage)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(4):
            journal_life.write(journal, bench, pool=f"web{number}")
    finally:
        stop.set()
        thread.join()
        journal.close()
    assert failures == []
    assert checks == sorted(checks)
    assert len(set(checks)) > 1


def test_a_reader_never_writes(path, journal):
    with JournalReader(path) as reader, pytest.raises(PlantFault, match="readonly"):
        reader._rows("DELETE FROM runs")
    with pytest.raises(PlantFault, match=r"nowhere\.db"):
        JournalReader(path.with_name("nowhere.db"))
