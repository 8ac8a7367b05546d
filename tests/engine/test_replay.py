"""Replay: identical, or the first difference, or a gap; and what another policy would have done."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import journal_life
import ticks as make

from poolwright.core.controller import Controller
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Action, Decision, Phase, Reason, Resume, setting
from poolwright.core.policy import Mode, Override
from poolwright.engine.replay import diff, replay, what_if
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
        other = what_if(reader, run, Counter, policy)
    assert outcome.identical
    assert outcome.gap is not None
    assert outcome.ticks == outcome.gap.first_tick
    assert outcome.gap.last_tick == 376
    assert (other.ticks, other.gap) == (outcome.ticks, outcome.gap)


def test_another_policy_is_compared_open_loop(tmp_path):
    run = counted(tmp_path / "j.db", [1] * 15)
    with JournalReader(tmp_path / "j.db") as reader:
        same = what_if(reader, run, Counter, make.policy(seed=1))
        other = what_if(reader, run, Counter, make.policy(seed=5), show=3)
    assert (same.differing, same.first) == (0, ())
    assert (other.ticks, other.differing, len(other.first)) == (15, 15, 3)
    assert other.first[0].replayed.setting == setting(workers=6)


MONDAY_0930_NS = int(datetime(2026, 3, 2, 9, 30, tzinfo=UTC).timestamp()) * 10**9


def test_the_calendar_is_the_journals_in_a_replay_and_the_other_policys_in_a_what_if(tmp_path):
    """One tick before, three in and one after what each policy says of that morning."""
    journalled = Override(reason="as it was", freeze=True)
    other = make.policy(
        overrides=(
            Override(
                reason="launch",
                pin=(("workers", 9),),
                since_wall_ns=MONDAY_0930_NS,
                until_wall_ns=MONDAY_0930_NS + 3 * 60 * 10**9,
            ),
        ),
        explore=replace(make.policy().explore, quiet=("Mon 09:30-09:33 UTC",)),
    )
    journal = SqliteJournal(tmp_path / "j.db")
    run = journal.begin_run("web", make.policy(seed=1), Resume(), 1)
    stepper = Counter(make.policy(seed=1), Resume())
    for i in range(5):
        tick = make.Tick(
            index=i, mono_ns=i, wall_ns=MONDAY_0930_NS + (i - 1) * 60 * 10**9,
            quiet="as it was", overrides=(journalled,),
        )  # fmt: skip
        journal.append(run, tick, stepper.step(tick))
    journal.close()
    told = []

    class Telling(Counter):
        def step(self, tick):
            told.append((tick.quiet, [o.reason for o in tick.overrides]))
            return super().step(tick)

    with JournalReader(tmp_path / "j.db") as reader:
        assert replay(reader, run, Telling).identical
        assert told == [("as it was", ["as it was"])] * 5
        told.clear()
        what_if(reader, run, Telling, other)
    launch = ("Mon 09:30-09:33 UTC", ["launch"])
    assert told == [("", []), launch, launch, launch, ("", [])]


def test_a_pin_of_another_policy_would_have_been_obeyed(tmp_path):
    bench = journal_life.lived()
    journal = SqliteJournal(tmp_path / "j.db")
    run = journal_life.write(journal, bench)
    journal.close()
    pinned = replace(bench.policy, overrides=(Override(reason="launch", pin=(("workers", 7),)),))
    with JournalReader(tmp_path / "j.db") as reader:
        found = what_if(reader, run, Controller, pinned, show=1000)
    moved = [d.replayed for d in found.first if d.replayed.moves]
    assert (moved[0].setting, moved[0].reason) == (setting(workers=7), Reason.PINNED)
    assert all(d.tick.overrides == pinned.overrides for d in found.first)


def test_a_policy_about_other_knobs_is_refused(tmp_path):
    run = counted(tmp_path / "j.db", [1])
    threads = replace(make.policy().knobs[0], name="threads")
    with (
        JournalReader(tmp_path / "j.db") as reader,
        pytest.raises(PolicyError, match=f"moves threads, and run {run} moved workers"),
    ):
        what_if(reader, run, Counter, make.policy(knobs=(threads,)))


def test_a_real_policy_in_observe_mode_would_have_moved_nothing(tmp_path):
    bench = journal_life.lived()
    journal = SqliteJournal(tmp_path / "j.db")
    run = journal_life.write(journal, bench)
    journal.close()
    with JournalReader(tmp_path / "j.db") as reader:
        other = what_if(reader, run, Controller, replace(bench.policy, mode=Mode.OBSERVE))
    assert other.moves == sum(d.moves for d in bench.decisions) > 0
    assert other.moves_otherwise == 0
    assert other.differing >= other.moves


def test_a_run_that_is_not_there(tmp_path):
    counted(tmp_path / "j.db", [1])
    with JournalReader(tmp_path / "j.db") as reader, pytest.raises(PlantFault, match="no run 9"):
        replay(reader, 9, Counter)


def test_diff_tells_zero_from_minus_zero_and_lengths():
    assert [c.path for c in diff(0.0, -0.0, "x")] == ["x"]
    assert list(diff(float("nan"), float("nan"), "x")) == []
    assert [c.path for c in diff((1,), (1, 2), "x")] == ["x"]
