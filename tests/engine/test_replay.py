"""Replay: identical, or the first difference, or a gap."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import journal_life
import ticks as make

from poolwright.core.controller import Controller
from poolwright.core.errors import PlantFault
from poolwright.core.model import Action, Decision, Phase, Reason, Resume, setting
from poolwright.engine.replay import diff, replay
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal


class Counter:
    """A small stepper: one worker a thousand ticks of the policy's seed, told in its evidence."""

    def __init__(self, policy, resume):
        self.level = policy.seed if resume.baseline is None else resume.baseline["workers"]

    def step(self, tick):
        self.level += len(tick.readings)
        return Decision(
            tick=tick.index,
            phase=Phase.EXPLORE,
            action=Action.HOLD,
            setting=setting(workers=self.level),
            moves=False,
            reason=Reason.MEASURING,
            evidence=(("level", self.level / 3),),
        )


def counted(path, readings, *, resume=None, skip=(), seed=1):
    """Journal a Counter's life over ticks with so many readings each; the run."""
    policy = make.policy(seed=seed)
    stepper = Counter(policy, resume or Resume())
    journal = SqliteJournal(path, batch_ticks=2)
    run = journal.begin_run("web", policy, resume or Resume(), 1)
    found = make.readings()
    for i, count in enumerate(readings):
        tick = make.Tick(index=i, mono_ns=i, wall_ns=i, readings=found[:count])
        decision = stepper.step(tick)
        if i not in skip:
            journal.append(run, tick, decision)
    journal.close()
    return run


def test_a_life_of_the_real_core_replays_to_the_last_bit(tmp_path):
    bench = journal_life.lived()
    assert any(d.fit_request for d in bench.decisions)
    assert any(t.plan for t in bench.ticks)
    assert any(d.moves for d in bench.decisions)
    journal = SqliteJournal(tmp_path / "j.db")
    run = journal_life.write(journal, bench)
    resume = journal.last_resume("web")
    second = journal_life.lived(workers=6, resume=resume)
    again = journal_life.write(journal, second, resume=resume)
    journal.close()
    with JournalReader(tmp_path / "j.db") as reader:
        for number, lived in ((run, bench), (again, second)):
            outcome = replay(reader, number, Controller)
            assert outcome.identical, outcome.difference.changes
            assert (outcome.ticks, outcome.gap) == (len(lived.ticks), None)


def test_the_resume_is_part_of_the_replay(tmp_path):
    resume = Resume(baseline=setting(workers=40))
    run = counted(tmp_path / "j.db", [1, 0, 2], resume=resume)
    with JournalReader(tmp_path / "j.db") as reader:
        assert replay(reader, run, Counter).identical
        outcome = replay(reader, run, lambda policy, _: Counter(policy, Resume()))
        assert outcome.difference.journalled.setting == setting(workers=41)


def test_the_first_difference_is_told_field_by_field(tmp_path):
    class Changed(Counter):
        def step(self, tick):
            made = super().step(tick)
            if tick.index < 3:
                return made
            return replace(made, reason=Reason.SETTLING, setting=setting(workers=99))

    run = counted(tmp_path / "j.db", [1, 1, 1, 1, 1])
    with JournalReader(tmp_path / "j.db") as reader:
        outcome = replay(reader, run, Changed)
    found = outcome.difference
    assert not outcome.identical
    assert (outcome.ticks, found.tick.index) == (4, 3)
    assert {c.path: (c.journalled, c.replayed) for c in found.changes} == {
        "setting.levels[0][1]": (5, 99),
        "reason": (Reason.MEASURING, Reason.SETTLING),
    }


def test_another_fit_request_is_a_difference_though_only_its_digest_is_kept(tmp_path):
    bench = journal_life.lived()
    journal = SqliteJournal(tmp_path / "j.db")
    run = journal_life.write(journal, bench)
    journal.close()

    class Forgetful(Controller):
        def step(self, tick):
            made = super().step(tick)
            if made.fit_request is None:
                return made
            return replace(made, fit_request=replace(made.fit_request, trust_octaves=9.0))

    with JournalReader(tmp_path / "j.db") as reader:
        outcome = replay(reader, run, Forgetful)
    asked = next(d.tick for d in bench.decisions if d.fit_request is not None)
    assert outcome.difference.tick.index == asked
    assert [c.path for c in outcome.difference.changes] == ["fit_request"]


def test_a_gap_ends_the_replay_and_is_told(tmp_path, monkeypatch):
    path = tmp_path / "j.db"
    monkeypatch.setattr("poolwright.journal.sqlite.HELD_TICKS_MAX", 4)
    policy = make.policy(seed=1)
    stepper = Counter(policy, Resume())
    journal = SqliteJournal(path, batch_ticks=2)
    run = journal.begin_run("web", policy, Resume(), 1)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    for i in range(400):
        if i in (20, 380):
            limit = pages + 1 if i == 20 else 10**6
            journal._db.execute(f"PRAGMA max_page_count = {limit}")
        tick = make.Tick(index=i, mono_ns=i, wall_ns=i, readings=make.readings(seed=i))
        try:
            journal.append(run, tick, stepper.step(tick))
        except PlantFault:
            assert 20 <= i < 380
    journal.close()
    with JournalReader(path) as reader:
        outcome = replay(reader, run, Counter)
    assert outcome.identical
    assert outcome.gap is not None
    assert outcome.ticks == outcome.gap.first_tick
    assert outcome.gap.last_tick == 376


def test_a_run_that_is_not_there(tmp_path):
    counted(tmp_path / "j.db", [1])
    with JournalReader(tmp_path / "j.db") as reader, pytest.raises(PlantFault, match="no run 9"):
        replay(reader, 9, Counter)


def test_diff_tells_zero_from_minus_zero_and_lengths():
    assert [c.path for c in diff(0.0, -0.0, "x")] == ["x"]
    assert list(diff(float("nan"), float("nan"), "x")) == []
    assert [c.path for c in diff((1,), (1, 2), "x")] == ["x"]
