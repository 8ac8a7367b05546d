"""Forgetting: the oldest first, little by little, and never what a restart needs."""

from dataclasses import replace

import journal_life
import pytest

from poolwright.core.errors import PlantFault
from poolwright.core.model import Resume, setting
from poolwright.engine.replay import replay
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal
from poolwright.journal.verify import verify

WALL = journal_life.WALL_NS


def long_life(journal, bench, count, *, step_s=1.0, run=None, start=0):
    """`count` ticks of a run, a window closed at every 20th."""
    run = run or journal.begin_run("web", bench.policy, Resume(), WALL)
    seen = next(d.observation for d in bench.decisions if d.observation is not None)
    pairs = list(journal_life.steps(bench))
    for i in range(start, start + count):
        tick, decision = pairs[i % len(pairs)]
        window = None
        if i % 20 == 0:
            level = setting(workers=2 if i == 0 else 5)
            window = replace(seen, setting=level, closed_tick=i)
        journal.append(
            run,
            replace(tick, index=i, wall_ns=WALL + round(i * step_s * 1e9)),
            replace(decision, tick=i, moves=False, observation=window, fit_request=None),
        )
    return run


def test_a_size_is_kept_and_the_newest_stays(path, bench):
    bound = 350_000
    journal = SqliteJournal(path, max_bytes=bound)
    run = long_life(journal, bench, 6_000)
    journal.note(run, WALL, "x", "kept")
    before = journal.last_resume("web")
    assert len(before.evidence) == 96
    assert before.evidence[0].observation.setting == setting(workers=2)
    assert before.baseline is not None
    journal.close()
    assert path.stat().st_size < bound * 1.25
    with JournalReader(path) as reader:
        report = verify(reader)
        assert report.damage == ()
        assert report.dropped_batches > 50
        ticks = [s.tick.index for s in reader.steps(run)]
        assert ticks == list(range(ticks[0], 6_000))
        assert [n.text for n in reader.notes()] == ["kept"]
        with pytest.raises(PlantFault, match="dropped by retention"):
            replay(reader, run, lambda *_: None)


def plans_of(path):
    """The plan that is kept for each notable decision that had one, and the ticks of all plans."""
    with JournalReader(path) as reader:
        rows = [row for row in reader.decisions("web") if row.plan_version is not None]
        found = [(row, reader.plan_before(row.run, row.tick)) for row in rows]
        return found, [tick for (tick,) in reader.db.execute("SELECT tick FROM plans ORDER BY id")]


def test_a_decision_whose_tick_is_gone_has_its_plan(path, bench):
    journal = SqliteJournal(path, max_bytes=600_000)
    run = long_life(journal, bench, 2_000)
    journal.close()
    with JournalReader(path) as reader:
        first = next(reader.steps(run)).tick.index
        assert verify(reader).damage == ()
    found, _ = plans_of(path)
    assert sum(row.tick < first for row, _ in found) > 20
    assert all(plan is not None and plan.version == row.plan_version for row, plan in found)


def test_plans_go_with_their_decisions(path, bench):
    journal = SqliteJournal(path, max_age_s=1_800.0)
    long_life(journal, bench, 2_500, step_s=10.0)
    journal.close()
    found, plans = plans_of(path)
    recent = [(row, plan) for row, plan in found if row.tick > 2_500 - 180]
    assert recent
    assert all(plan is not None and plan.version == row.plan_version for row, plan in recent)
    assert sum(tick < 2_500 - 180 - 700 for tick in plans) <= 1


def test_a_tick_is_found_wherever_it_lies(path, bench):
    journal = SqliteJournal(path, max_bytes=500_000)
    run = long_life(journal, bench, 2_000)
    journal.close()
    with JournalReader(path) as reader:
        first = next(reader.steps(run)).tick.index
        assert 100 < first < 1_900
        for wanted in (0, first - 1, first, first + 1, 1_900, 1_989, 1_990, 1_999, 2_000):
            step = reader.step(run, wanted)
            there = first <= wanted < 2_000
            assert (None if step is None else step.tick.index) == (wanted if there else None)
            if step is not None:
                since = next(reader.steps_since(run, step.tick.wall_ns)).tick.index
                assert wanted - 10 < since <= wanted


def test_an_age_is_kept(path, bench):
    journal = SqliteJournal(path, max_age_s=3600.0)
    run = long_life(journal, bench, 2_500, step_s=10.0)
    journal.close()
    with JournalReader(path) as reader:
        assert verify(reader).damage == ()
        first = next(reader.steps(run)).tick.index
        assert 2_500 - 360 - 200 <= first <= 2_500 - 360
        oldest = reader.decisions("web")
        needed = [row for row in oldest if row.tick < first]
        assert len(needed) <= 96
        assert all(row.observed for row in needed)


def test_old_runs_go_and_open_intents_stay(path, bench):
    journal = SqliteJournal(path, max_age_s=600.0)
    first = journal.begin_run("web", bench.policy, Resume(), WALL)
    tick, decision = next(journal_life.steps(bench))
    moved = replace(decision, moves=True, setting=setting(workers=6))
    journal.append(first, tick, moved)
    journal.end_run(first, "stopped", WALL)
    for _ in range(5):
        journal.end_run(journal.begin_run("web", bench.policy, Resume(), WALL), "x", WALL)
    last = long_life(journal, bench, 1_000, step_s=5.0)
    assert journal.open_intents("web") == [(first, tick.index, setting(workers=6))]
    journal.close()
    with JournalReader(path) as reader:
        assert verify(reader).damage == ()
        assert [row.id for row in reader.runs()] == [first, last]


def test_a_resume_of_the_newest_run_is_the_same_before_and_after_forgetting(path, bench):
    kept = SqliteJournal(path.with_name("all.db"), max_bytes=None, max_age_s=None)
    cut = SqliteJournal(path, max_age_s=600.0)
    for journal in (kept, cut):
        long_life(journal, bench, 3_000)
        journal.flush()
    assert cut.last_resume("web") == kept.last_resume("web")
    kept.close()
    cut.close()
