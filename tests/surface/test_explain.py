"""The account of a decision: golden texts, and what must never be claimed."""

from dataclasses import replace
from pathlib import Path

import pytest
import snapshots as make

from poolwright.core.model import (
    Action,
    ActuationStatus,
    Candidate,
    Clamp,
    ClampKind,
    Command,
    CommandKind,
    Phase,
    Reason,
    Verdict,
)
from poolwright.core.policy import Knob, Mode
from poolwright.core.reasons import REASONS
from poolwright.surface.explain import Story, clamp_text, explain, text
from poolwright.surface.words import ACTIONS, VERDICTS, name, number, seconds

GOLDEN = Path(__file__).parents[1] / "golden" / "explain"

PROBE = Story(
    pool="web",
    wall_ns=make.tick().wall_ns,
    decision=make.probe(detail="p99 142 ms ± 9 ms, P(safe) 0.97"),
    policy=make.POLICY,
    tick=make.tick(),
    plan=make.plan(),
    actuation=make.applied(),
    after=make.observation(4, 0.189, opened=416, closed=446),
)
RETREAT = Story(
    pool="web",
    wall_ns=make.tick(431).wall_ns,
    decision=make.retreat(),
    policy=make.POLICY,
    tick=make.tick(431, readings=(make.broken_reading(),)),
    plan=make.plan(),
    actuation=make.applied(431, status=ActuationStatus.FAILED, detail="no such process 4711"),
    left_by=make.hold(
        440, action=Action.TRACK, setting=make.at(5), moves=True, reason=Reason.SCHEDULE
    ),
)
HOLD = Story(
    pool="web",
    wall_ns=make.tick(3).wall_ns,
    decision=make.hold(
        3, setting=None, phase=Phase.BLIND, reason=Reason.READ_BACK_FAILED, detail="no process 4711"
    ),
    policy=replace(make.POLICY, mode=Mode.OBSERVE),
    tick=make.tick(3, applied=None, readings=(), fault="no process 4711"),
)
ADVICE = replace(
    PROBE,
    decision=make.probe(
        action=Action.HOLD, setting=make.at(5), moves=False, advice=make.at(4), observation=None
    ),
    policy=replace(make.POLICY, mode=Mode.RECOMMEND),
    actuation=None,
    after=None,
)


@pytest.mark.parametrize(
    ("file", "story", "why_not"),
    [
        ("probe", PROBE, make.at(3)),
        ("retreat", RETREAT, make.at(99)),
        ("hold", HOLD, make.at(6)),
        ("advice", ADVICE, None),
    ],
)
def test_golden(file, story, why_not):
    assert text(explain(story, why_not)) + "\n" == (GOLDEN / f"{file}.txt").read_text()


def section(story, title, why_not=None):
    found = [s.lines for s in explain(story, why_not) if s.title.startswith(title)]
    return list(found[0]) if found else None


def test_a_lost_tick_is_said_not_filled_in():
    lost = replace(PROBE, tick=None)
    assert "the readings of this tick are no longer in the journal" in section(
        lost, "What was seen"
    )
    assert explain(lost)[0].title.endswith("web probed workers=4")


def test_an_unknown_outcome_is_not_a_good_one():
    unknown = replace(PROBE, actuation=None, after=None)
    assert section(unknown, "What came of it") == [
        "whether the move was made is not in the journal",
        "no window has closed at this setting yet",
    ]


def test_without_a_plan_nothing_was_expected():
    bare = replace(PROBE, plan=None)
    assert section(bare, "What the model expected") == [
        "there was no plan yet: nothing was expected"
    ]
    assert section(bare, "What was considered") is None
    assert section(bare, "Why not", make.at(6)) == [
        "there was no plan yet: no setting had been judged"
    ]
    assert not any("expected" in line for line in section(bare, "What came of it"))


@pytest.mark.parametrize(
    ("p99_s", "word"), [(0.142, "as expected"), (0.142 + 0.0163, "above"), (0.1257, "below")]
)
def test_the_next_window_is_compared_with_ninety_percent(p99_s, word):
    story = replace(PROBE, after=make.observation(4, p99_s))
    line = next(x for x in section(story, "What came of it") if "p99" in x)
    assert f", {word} (142 ms ± 9 ms)" in line


@pytest.mark.parametrize("candidate", make.CANDIDATES)
def test_every_candidate_is_told_with_its_verdict(candidate):
    lines = section(PROBE, "What was considered")
    assert [VERDICTS[candidate.verdict] in x for x in lines if f"{candidate.setting}:" in x] == [
        True
    ]


@pytest.mark.parametrize("candidate", make.CANDIDATES)
def test_why_not_names_the_verdict_and_the_numbers(candidate):
    lines = section(PROBE, "Why not", candidate.setting)
    if candidate.setting == PROBE.decision.setting:
        assert lines == ["it is the setting that was taken"]
    else:
        assert VERDICTS[candidate.verdict] in lines[0]
        assert f"safe with probability {candidate.p_safe:.2f}" in lines


def test_why_not_off_the_lattice_or_never_judged():
    even = Knob(name="workers", lower=2, upper=64, step=2)
    steps = replace(PROBE, policy=replace(make.POLICY, knobs=(even,)))
    assert section(steps, "Why not", make.at(5)) == [
        "the policy moves workers in steps of 2 from 2"
    ]
    assert section(PROBE, "Why not", make.at(40)) == ["plan 7 did not judge it"]


def test_a_long_row_of_one_verdict_is_folded_but_never_the_taken_one():
    far: tuple[Candidate, ...] = tuple(
        make.candidate(workers, 0.2, Verdict.OUTSIDE_TRUST_REGION) for workers in range(13, 33)
    )
    plan = replace(make.plan(), candidates=(*make.CANDIDATES[:3], *far))
    lines = section(replace(PROBE, plan=plan), "What was considered")
    assert lines[3].startswith("  workers=13:")
    assert lines[4] == "  ... 18 settings between: too far from what has been tried"
    assert lines[5].startswith("  workers=32:")
    taken = replace(PROBE, plan=plan, decision=make.probe(setting=make.at(20)))
    assert [x for x in section(taken, "What was considered") if x.startswith("* workers=20:")]


def test_commands_and_their_reasons_are_told():
    tick = make.tick(commands=(Command(kind=CommandKind.PAUSE, who="ann (pid 7)", why="deploy"),))
    assert "ann (pid 7) asked to pause: deploy" in section(
        replace(PROBE, tick=tick), "What was seen"
    )


@pytest.mark.parametrize("kind", list(ClampKind))
def test_every_clamp_has_words(kind):
    said = clamp_text(Clamp(kind=kind, knob="workers", wanted=12, allowed=8))
    assert said.startswith("workers=12 was wanted, workers=8 allowed: ")


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("action", list(Action))
def test_every_decision_can_be_explained(action, reason):
    said = text(explain(replace(PROBE, decision=make.probe(action=action, reason=reason))))
    assert f"because {REASONS[reason]}" in said
    assert f"web {ACTIONS[action]} workers=4" in said


@pytest.mark.parametrize(
    ("quantity", "value", "said"),
    [
        ("latency_p99_s", 0.1234, "123 ms"),
        ("settle_s", 3.0, "3 s"),
        ("probe_seconds_left", 1234.5, "1234.5"),
        ("age_s", 600.0, "10 min"),
        ("load_rps", 48.25, "48.2/s"),
        ("error_ratio", 0.0123, "1.23 %"),
        ("memory_bytes", 412e6, "412 MB"),
        ("memory_bytes", 12.0, "12 B"),
        ("cpu_cores", 1.119, "1.12 cores"),
        ("power_w", 31.04, "31 W"),
        ("queue_length", 3.0, "3"),
    ],
)
def test_numbers_carry_their_unit(quantity, value, said):
    assert number(quantity, value) == said


def test_names_lose_the_unit_but_not_the_meaning():
    assert [name(x) for x in ("latency_p99_s", "error_ratio", "load_rps", "in_flight")] == [
        "latency p99",
        "error ratio",
        "load",
        "in flight",
    ]
    assert seconds(0.0) == "0 ms"
