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
    Context,
    Estimate,
    Kept,
    Phase,
    Reason,
    Verdict,
)
from poolwright.core.policy import Knob, Mode, Override, Relation
from poolwright.core.reasons import REASONS
from poolwright.surface.account import Story
from poolwright.surface.accounting import account
from poolwright.surface.explain import explain, text
from poolwright.surface.words import VERDICTS, clamp, did, name, number, seconds

GOLDEN = Path(__file__).parents[1] / "golden" / "explain"

PROBE = Story(
    pool="web",
    wall_ns=make.tick().wall_ns,
    decision=make.probe(detail="p99 142 ms ± 9 ms, P(safe) 0.97"),
    policy=make.POLICY,
    tick=make.tick(),
    plan=make.plan(),
    actuation=make.applied(),
    windows=(make.observation(4, 0.189, opened=416, closed=446),),
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


ANN = "ann (pid 7)"
P99 = tuple(
    replace(c, predictions=tuple(r for r in c.predictions if r[0] == "latency_p99_s"))
    for c in make.CANDIDATES[1:3]
)
BRIEF = replace(make.plan(), candidates=P99, schedule=())  # five workers, and four to be tried


def asked(kind, **more):
    return Command(kind=kind, who=ANN, why="launch day", **more)


def story(decision, *, mode=Mode.AUTO, at=5, **tick):
    """A decision in the presence of BRIEF; `tick` are fields of its Tick."""
    applied = replace(make.tick().applied, setting=make.at(at))
    return Story(
        pool="web",
        wall_ns=make.tick().wall_ns,
        decision=replace(decision, observation=None, evidence=make.BUDGETS),
        policy=replace(make.POLICY, mode=mode),
        tick=make.tick(applied=applied, **tick),
        plan=BRIEF,
        actuation=make.applied() if decision.moves else None,
    )


def held(reason, **more):
    return make.hold(412, reason=reason, **more)


def moved(action, reason, workers, **more):
    return make.hold(
        412, action=action, reason=reason, setting=make.at(workers), moves=True, **more
    )


UNTIL_NS = make.override().until_wall_ns
PIN = Kept(pin=make.at(12), pin_until_wall_ns=UNTIL_NS, pin_why=f"{ANN}: launch day")
STORIES = {
    "advice": (
        story(
            held(Reason.SCHEDULE, action=Action.TRACK, advice=make.advice(reason=Reason.SCHEDULE)),
            mode=Mode.RECOMMEND,
        ),
        None,
    ),
    "advice_stands": (
        story(
            held(Reason.MEASURING, advice=make.advice(gain=None, p_safe=None)), mode=Mode.RECOMMEND
        ),
        None,
    ),
    "approved": (
        story(
            moved(
                Action.TRACK,
                Reason.APPROVED,
                4,
                events=("advice 5fbb3e2a (workers=4) approved by ann (pid 7): launch day",),
            ),
            mode=Mode.RECOMMEND,
            commands=(asked(CommandKind.APPROVE, advice_id="5fbb3e2a"),),
        ),
        None,
    ),
    "pinned": (
        story(
            moved(
                Action.TRACK,
                Reason.PINNED,
                9,
                kept=PIN,
                detail=PIN.pin_why,
                clamps=(Clamp(kind=ClampKind.SLEW, knob="workers", wanted=12, allowed=9),),
                events=("pinned to workers=12 by ann (pid 7): launch day",),
            ),
            commands=(asked(CommandKind.PIN, setting=make.at(12), until_wall_ns=UNTIL_NS),),
        ),
        make.at(4),
    ),
    "policy_pins": (
        story(
            moved(Action.TRACK, Reason.PINNED, 12, detail="launch day"),
            overrides=(make.override(),),
        ),
        make.at(5),
    ),
    "frozen": (
        story(
            held(Reason.FROZEN, detail="audit"),
            overrides=(Override(reason="audit", freeze=True),),
        ),
        make.at(4),
    ),
    "rolled_back": (
        story(
            moved(
                Action.RETREAT,
                Reason.ROLLED_BACK,
                5,
                phase=Phase.PAUSED,
                events=("rolling back to workers=5 by ann (pid 7): launch day",),
            ),
            at=4,
            commands=(asked(CommandKind.ROLLBACK, setting=make.at(5)),),
        ),
        None,
    ),
    "holdout": (
        story(
            moved(
                Action.COMPARE,
                Reason.HOLDOUT,
                5,
                phase=Phase.CONVERGED,
                probing=True,
                events=("comparing with the baseline, workers=5",),
            ),
            at=4,
        ),
        None,
    ),
    "holdout_ended": (
        story(
            moved(
                Action.RETREAT,
                Reason.SLO_BREACH,
                4,
                phase=Phase.COOLDOWN,
                holdout=make.holdout(breached=True),
                guard_trips=(Reason.SLO_BREACH,),
            ),
        ),
        None,
    ),
    "relief": (story(moved(Action.TRACK, Reason.RELIEF, 4)), None),
    "quiet": (
        story(held(Reason.QUIET_TIME), quiet="Mon-Fri 09:00-10:00 Europe/Berlin"),
        make.at(4),
    ),
    "host_busy": (
        story(held(Reason.HOST_BUSY, asks_probe=True), may_probe=False, rival="mail"),
        make.at(4),
    ),
    "budget_burns": (story(held(Reason.BUDGET_BURNS)), make.at(4)),
    "slow_dependency": (
        story(held(Reason.SLOW_DEPENDENCY, guard_trips=(Reason.SLO_BREACH,))),
        None,
    ),
    "load_fell": (story(held(Reason.LOAD_FELL, detail="workers=4 waits for 1700 s")), None),
    "no_benefit": (
        story(
            moved(
                Action.RESTORE,
                Reason.NO_BENEFIT,
                5,
                phase=Phase.STOOD_DOWN,
                holdout=make.holdout(gain_ratio=-0.01),
                events=("converged -> stood_down: no gain in 6 comparisons",),
            ),
            at=4,
        ),
        None,
    ),
}


@pytest.mark.parametrize(
    ("file", "told", "why_not"),
    [
        ("probe", PROBE, make.at(3)),
        ("retreat", RETREAT, make.at(99)),
        ("hold", HOLD, make.at(6)),
        *((file, told, why_not) for file, (told, why_not) in STORIES.items()),
    ],
)
def test_golden(file, told, why_not):
    assert text(explain(told, why_not)) + "\n" == (GOLDEN / f"{file}.txt").read_text()


def test_every_golden_text_is_of_a_story():
    files = {path.stem for path in GOLDEN.glob("*.txt")}
    assert files == {"probe", "retreat", "hold", *STORIES}


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
    unknown = replace(PROBE, actuation=None, windows=())
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
    story = replace(PROBE, windows=(make.observation(4, p99_s),))
    line = next(x for x in section(story, "What came of it") if "p99" in x)
    assert f", {word} (142 ms ± 9 ms, z " in line


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
    assert lines[4].startswith("  workers=13:")
    assert lines[5] == "  ... 18 settings between: too far from what has been tried"
    assert lines[6].startswith("  workers=32:")
    taken = replace(PROBE, plan=plan, decision=make.probe(setting=make.at(20)))
    assert [x for x in section(taken, "What was considered") if x.startswith("* workers=20:")]


def test_commands_and_their_reasons_are_told():
    tick = make.tick(commands=(Command(kind=CommandKind.PAUSE, who="ann (pid 7)", why="deploy"),))
    assert section(replace(PROBE, tick=tick), "What else had a say") == [
        "ann (pid 7) asked to pause: deploy"
    ]
    assert section(PROBE, "What else had a say") is None
    assert section(replace(PROBE, tick=None), "What else had a say") is None


@pytest.mark.parametrize("kind", list(ClampKind))
def test_every_clamp_has_words(kind):
    said = clamp(Clamp(kind=kind, knob="workers", wanted=12, allowed=8), make.POLICY)
    assert said.startswith("workers=12 was wanted, workers=8 allowed: ")


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("action", list(Action))
def test_every_decision_can_be_explained(action, reason):
    decision = make.probe(action=action, reason=reason)
    said = text(explain(replace(PROBE, decision=decision)))
    assert f"because {REASONS[reason]}" in said
    assert f"web {did(decision)} workers=4" in said


@pytest.mark.parametrize(
    ("action", "reason", "moves", "said"),
    [
        (Action.TRACK, Reason.SCHEDULE, True, "followed the plan to"),
        (Action.TRACK, Reason.QUEUEING, True, "moved to"),
        (Action.TRACK, Reason.APPROVED, True, "moved to"),
        (Action.COMPARE, Reason.HOLDOUT, True, "moved for a comparison to"),
        (Action.PROBE, Reason.EXPECTED_GAIN, False, "held"),
    ],
)
def test_only_what_was_planned_and_done_is_told_as_that(action, reason, moves, said):
    advice = None if moves else make.advice()
    assert did(make.probe(action=action, reason=reason, moves=moves, advice=advice)) == said


def test_why_not_names_the_operators_word_before_the_models():
    policy = replace(
        make.POLICY,
        relations=(Relation(text="workers * 2 <= 20", terms=((2, ("workers",)), (-20, ()))),),
    )
    narrow = make.override(pin=(), bounds=(("workers", 4, 8),), reason="small host")
    told = replace(PROBE, policy=policy, tick=make.tick(overrides=(narrow,)))
    assert section(told, "Why not", make.at(60)) == [
        "the policy asks for workers * 2 <= 20",
        "the policy overrides: workers within 4..8 until 2027-01-01 00:00:00 UTC: small host",
    ]
    assert section(told, "Why not", make.at(6))[0].startswith("workers=6: safe, but")


def test_a_quantile_of_the_policys_own_is_told():
    seen = make.observation(5, 0.161)
    more = replace(seen, responses=(("latency_p99.9_s", Estimate(mean=0.3, std=0.02)),))
    told = section(replace(PROBE, decision=make.probe(observation=more)), "What was seen")
    assert "  latency p99.9 300 ms ± 20 ms" in told


@pytest.mark.parametrize("story_of", ["quiet", "host_busy", "budget_burns"])
def test_why_not_a_probe_that_was_worth_it_says_what_forbade_it(story_of):
    told, why_not = STORIES[story_of]
    assert f"not tried now: {REASONS[told.decision.reason]}" in section(told, "Why not", why_not)


@pytest.mark.parametrize(
    ("quantity", "value", "said"),
    [
        ("latency_p99_s", 0.1234, "123 ms"),
        ("settle_s", 3.0, "3 s"),
        ("probe_seconds_left", 1234.5, "20.6 min"),
        ("probes_left", 12.34, "12.3"),
        ("burn_short", 0.4, "0.4"),
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


def test_every_input_is_told_with_its_age():
    old = replace(make.tick().readings[0], taken_mono_ns=make.tick().mono_ns - 2_500_000_000)
    told = replace(PROBE, tick=make.tick(readings=(old, make.broken_reading())))
    lines = section(told, "What was seen")
    assert f"{old.source}, 2.5 s old: throughput 48/s" in lines
    first, broken = account(told).inputs
    assert (first.signal, first.value, first.unit, first.age_s) == (
        "throughput_rps", 48.0, "rps", 2.5,
    )  # fmt: skip
    assert (broken.value, broken.status) == (None, "error")
    assert account(replace(PROBE, tick=None)).inputs is None


def test_a_prediction_of_another_load_is_not_compared():
    busy = replace(make.observation(4, 0.4), context=Context(load_rps=96.0))
    lines = section(replace(PROBE, windows=(busy,)), "What came of it")
    assert "a load of which the plan said nothing" in lines[1]
    assert not any("as expected" in line or "above" in line for line in lines)
    assert account(replace(PROBE, windows=(busy,))).outcome.compared == 0


def test_windows_after_the_decision_are_counted_against_the_intervals():
    near, far = make.observation(4, 0.150), make.observation(4, 0.189, opened=447, closed=477)
    came = account(replace(PROBE, windows=(near, far))).outcome
    p99 = [next(c for c in w.checks if c.response == "latency_p99_s") for w in came.windows]
    assert [check.inside for check in p99] == [True, False]
    assert p99[1].z == pytest.approx((0.189 - 0.142) / (0.009**2 + 0.004**2) ** 0.5, rel=0.1)
    assert (came.compared, came.inside) == (18, 14)
    lines = section(replace(PROBE, windows=(near, far)), "What came of it")
    assert "inside the 90 % intervals that the plan had given: 14 of 18 (78%)" in lines


def test_what_the_schedule_holds_at_the_load_is_told():
    lines = section(PROBE, "What the model expected")
    entry = account(PROBE).schedule
    assert entry is not None
    assert entry.load_lower_rps <= 48.0 < entry.load_upper_rps
    assert lines[1].startswith("from 40/s to ")
    assert f"holds workers={entry.setting['workers']}" in lines[1]


def test_a_clamp_names_its_rule_and_number():
    slow = Clamp(kind=ClampKind.SLEW, knob="workers", wanted=12, allowed=9)
    assert clamp(slow, make.POLICY).endswith("no more than this in one move (slew 4)")
    relation = Relation(text="workers * 2 <= 20", terms=((2, ("workers",)), (-20, ())))
    said = clamp(
        replace(slow, kind=ClampKind.RELATION), replace(make.POLICY, relations=(relation,))
    )
    assert said.endswith("the policy's relation between knobs (workers * 2 <= 20)")
    (rule,) = account(replace(PROBE, decision=make.probe(clamps=(slow,)))).rules
    assert (rule.kind, rule.rule, rule.knob, rule.wanted, rule.allowed) == (
        "clamp", "slew", "workers", 12, 9,
    )  # fmt: skip


def test_a_vetoed_probe_is_a_rule():
    told, _ = STORIES["quiet"]
    (rule,) = [rule for rule in account(told).rules if rule.kind == "veto"]
    assert rule.rule == "quiet_time"
    assert rule.text.startswith("a probe of workers=4 (P(safe) 0.97, expected gain 6.2 %) was veto")
