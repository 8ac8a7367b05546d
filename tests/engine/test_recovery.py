"""What a run under another policy starts from: whether a plan is followed on, and what stays."""

from dataclasses import replace

import pytest
import ticks as make
from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.model import Evidence, Holdout, Kept, Phase, Resume, setting
from poolwright.core.policy import (
    Exit,
    ExploreRule,
    GuardRule,
    Knob,
    Mode,
    OtherHand,
    Override,
    Relation,
    Slo,
)
from poolwright.engine.recovery import carried, plan_survives, policies_before
from poolwright.journal.sqlite import SqliteJournal

OLD = make.policy()
KNOB = OLD.knobs[0]
PROOF = Holdout(
    baseline=setting(workers=4),
    tuned=setting(workers=6),
    load_rps=50.0,
    gain_ratio=-0.1,
    breached=False,
    closed_tick=9,
)
LEFT = Resume(
    baseline=setting(workers=4),
    last_safe=setting(workers=5),
    evidence=(),
    plan=make.plan(3, 6),
    kept=Kept(
        phase=Phase.STOOD_DOWN,
        pin=setting(workers=6),
        pin_why="ana: test",
        rejected=("4f21",),
        holdouts=(PROOF,),
    ),
    budget=(3.0, 20.0, 7.0),
)

ASKS_ANEW = {
    "objective": {"objective": (("latency_p99_s", 1.0),)},
    "slo": {"slo": (Slo(response="latency_p99_s", below=0.4),)},
    "confidence": {"slo": tuple(replace(s, confidence=0.8) for s in OLD.slo)},
    "bounds": {"knobs": (replace(KNOB, upper=8),)},
    "wider bounds": {"knobs": (replace(KNOB, upper=64),)},
    "step": {"knobs": (replace(KNOB, step=2),)},
    "relation": {
        "relations": (Relation(text="workers <= 9", terms=((1, ("workers",)), (-9, ()))),)
    },
    "memory": {"guard": replace(OLD.guard, memory_ratio=0.7)},
    "prices": {"prices": (("core_hour", 0.05),)},
    "override": {"overrides": (Override(reason="x", freeze=True),)},
}
ASKS_THE_SAME = {
    "name": {"name": "other", "sha256": "ff"},
    "exit": {"exit": Exit.RESTORE},
    "other hand": {"on_other_hand": OtherHand.REASSERT},
    "slew": {"knobs": (replace(KNOB, slew_per_move=1, settle_s=9.0, dwell_s=60.0),)},
    "quiet": {"explore": replace(OLD.explore, quiet=("Mon-Fri 09:00-10:00 UTC",))},
    "budget": {"explore": ExploreRule(probes_per_hour=0.0)},
    "blind": {"guard": replace(OLD.guard, blind_s=99.0, breach_ticks=2)},
    "less trust": {"mode": Mode.RECOMMEND},
}


@pytest.mark.parametrize("change", ASKS_ANEW.values(), ids=ASKS_ANEW)
def test_a_plan_that_answers_another_question_is_dropped(change):
    new = make.policy(**change)
    assert not plan_survives(OLD, new)
    assert carried(LEFT, OLD, new).plan is None


@pytest.mark.parametrize("change", ASKS_THE_SAME.values(), ids=ASKS_THE_SAME)
def test_a_plan_that_answers_the_same_question_is_followed_on(change):
    new = make.policy(**change)
    assert plan_survives(OLD, new)
    assert carried(LEFT, OLD, new).plan == LEFT.plan


@pytest.mark.parametrize("before", [Mode.OBSERVE, Mode.RECOMMEND])
def test_who_is_trusted_from_now_on_looks_first(before):
    assert not plan_survives(make.policy(mode=before), OLD)
    assert plan_survives(OLD, OLD)


def test_a_plan_of_an_unknown_policy_is_dropped():
    assert carried(LEFT, None, OLD) == replace(LEFT, plan=None)


@given(st.sampled_from([*ASKS_ANEW.values(), *ASKS_THE_SAME.values()]))
def test_what_an_operator_settled_and_what_was_spent_stays(change):
    found = carried(LEFT, OLD, make.policy(**change))
    assert (found.kept.pin, found.kept.pin_why) == (LEFT.kept.pin, LEFT.kept.pin_why)
    assert found.kept.rejected == LEFT.kept.rejected
    assert found.budget == LEFT.budget
    assert (found.baseline, found.last_safe) == (LEFT.baseline, LEFT.last_safe)
    for phase in (Phase.PAUSED, Phase.MANUAL):
        stopped = replace(LEFT, kept=Kept(phase=phase))
        assert carried(stopped, OLD, make.policy(**change)).kept.phase is phase


def test_a_proof_holds_for_what_was_wanted_then():
    same = carried(LEFT, OLD, make.policy(**ASKS_ANEW["bounds"]))
    assert (same.kept.phase, same.kept.holdouts) == (Phase.STOOD_DOWN, (PROOF,))
    other = carried(LEFT, OLD, make.policy(**ASKS_ANEW["slo"]))
    assert (other.kept.phase, other.kept.holdouts) == (Phase.WARMUP, ())


def test_other_knobs_begin_anew():
    bench = make.Bench()
    bench.warm()
    resume = replace(bench.controller.resume(), plan=make.plan(1, 4))
    assert resume.evidence
    assert all(isinstance(item, Evidence) for item in resume.evidence)
    kept = carried(resume, OLD, make.policy(**ASKS_ANEW["objective"]))
    assert kept.evidence == resume.evidence, "what was seen stays true"
    new = make.policy(knobs=(Knob(name="threads", lower=1, upper=4),))
    found = carried(resume, OLD, new)
    assert (found.evidence, found.plan, found.baseline, found.last_safe) == ((), None, None, None)
    assert carried(LEFT, OLD, new).kept.pin is None


def test_a_baseline_that_is_written_anew_is_the_baseline():
    written = make.policy(knobs=(replace(KNOB, baseline=8),))
    assert carried(LEFT, OLD, written).baseline == setting(workers=8)
    taken_out = carried(replace(LEFT, baseline=setting(workers=8)), written, OLD)
    assert taken_out.baseline == setting(workers=8), "it stays what it was"
    assert carried(Resume(), OLD, written).baseline is None


def test_the_policy_of_the_last_run_is_found_in_the_journal(tmp_path):
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    assert policies_before(path, ["web"]) == {}
    journal.begin_run("web", OLD, Resume(), 1)
    newer = make.policy(guard=GuardRule(memory_ratio=0.5))
    journal.begin_run("web", newer, Resume(), 2)
    journal.begin_run("api", OLD, Resume(), 3)
    assert policies_before(path, ["web", "gone"]) == {"web": newer}
    journal.close()
