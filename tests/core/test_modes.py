"""Modes of trust: advice and its approval, pins, freezes, quiet times, comparisons."""

from dataclasses import replace

import pytest
from ticks import BLIND, Bench, plan, policy, readings

from poolwright.core.model import (
    Action,
    Command,
    CommandKind,
    Holdout,
    Kept,
    Phase,
    Reading,
    Reason,
    Resume,
    Status,
    setting,
)
from poolwright.core.policy import Mode, OtherHand, Override, Relation


def ask(kind, **more):
    """A command of one operator."""
    return Command(kind=CommandKind(kind), who="ada", why="asked", **more)


def advised(**more):
    """A bench in mode recommend on which going from 4 to 9 workers is advised."""
    bench = Bench(policy(mode=Mode.RECOMMEND), **more)
    decision = bench.answer(bench.warm(), 9)
    assert decision.advice is not None
    return bench, decision.advice


def test_advice_has_a_stable_id_and_the_expected_gain_with_its_error():
    bench, advice = advised()
    assert (advice.replaces, advice.setting) == (setting(workers=4), setting(workers=9))
    assert advice.gain.mean == pytest.approx(1 - 1.0 / 1.5)
    assert 0.0 < advice.gain.std < 0.1
    assert advice.p_safe == 0.99
    assert {bench.tick().advice.id for _ in range(30)} == {advice.id}
    _, same = advised()
    assert same.id == advice.id


def test_approved_advice_is_done_in_steps_that_the_envelope_allows():
    bench, advice = advised()
    decision = bench.tick(commands=(ask("approve", advice_id=advice.id),))
    assert decision.reason is Reason.APPROVED
    assert decision.setting == setting(workers=8), "slew allows four a move"
    assert "approved by ada: asked" in " ".join(decision.events)
    bench.run(8)
    assert bench.workers == 9
    assert sum(d.moves for d in bench.decisions) == 2


def test_an_approved_setting_that_breaches_is_left_at_once():
    bench, advice = advised()
    bench.tick(commands=(ask("approve", advice_id=advice.id),))
    bench.run(3)
    decision = bench.until(lambda d: d.moves, seen=readings(latency_s=0.9), most=12)
    assert (decision.action, decision.reason) == (Action.RETREAT, Reason.SLO_BREACH)
    assert bench.workers == 4


def test_what_was_seen_while_it_settled_does_not_speak_against_a_new_setting():
    """Once, a probe was undone in the very tick in which it had settled."""
    bench = Bench(policy(knobs=(replace(policy().knobs[0], settle_s=6.0),)))
    bench.answer(bench.warm(), 4, probe=6)
    bench.run(6, seen=readings(latency_s=0.9))
    assert "slo_breach" in bench.decisions[-1].guard_trips
    assert not any(bench.tick().moves for _ in range(4))
    assert bench.workers == 6


def test_an_approved_setting_does_not_retreat_to_one_that_breached_itself():
    bench = Bench(policy(mode=Mode.RECOMMEND))
    asked = bench.until(lambda d: d.fit_request is not None, seen=readings(latency_s=0.9))
    assert asked.observation.breached
    offered = plan(asked.fit_request.version, 9)
    advice = bench.tick(plan=offered, seen=readings(latency_s=0.9)).advice
    bench.tick(commands=(ask("approve", advice_id=advice.id),), seen=readings(latency_s=0.9))
    bench.run(20, seen=readings(latency_s=0.9))
    assert bench.workers == 9


def test_advice_of_another_id_is_not_approved():
    bench, _ = advised()
    decision = bench.tick(commands=(ask("approve", advice_id="00000000"),))
    assert not decision.moves
    assert "approve refused: advice '00000000' is not given now" in decision.events


def test_rejected_advice_is_not_given_again_not_even_after_a_restart():
    bench, advice = advised()
    decision = bench.tick(commands=(ask("reject", advice_id=advice.id),))
    assert decision.advice is None
    assert decision.kept.rejected == (advice.id,)
    assert not any(bench.tick().advice for _ in range(30))
    resumed = Bench(bench.policy, resume=bench.controller.resume())
    assert not any(resumed.tick().advice for _ in range(30))


def test_observe_refuses_to_be_told_to_move():
    bench = Bench(policy(mode=Mode.OBSERVE))
    bench.run(3)
    for kind in ("pin", "rollback"):
        decision = bench.tick(commands=(ask(kind, setting=setting(workers=6)),))
        assert not decision.moves
        assert f"{kind} refused: the mode is observe" in decision.events[0]


@pytest.mark.parametrize("mode", [Mode.RECOMMEND, Mode.AUTO])
def test_a_pin_is_held_against_plan_and_guard_until_unpinned(mode):
    bench = Bench(policy(mode=mode))
    asked = bench.warm()
    bench.tick(commands=(ask("pin", setting=setting(workers=7)),))
    assert bench.workers == 7
    bench.answer(asked, 12, probe=14)
    for seen in (readings(latency_s=0.9), readings(queue=60.0), BLIND):
        assert not any(bench.tick(seen=seen).moves for _ in range(15))
    bench.run(15)
    assert bench.decisions[-1].reason is Reason.PINNED
    decision = bench.tick(commands=(ask("unpin"),))
    assert decision.kept.pin is None
    assert decision.reason is not Reason.PINNED


def test_a_pin_outlives_a_restart():
    bench = Bench()
    bench.warm()
    bench.tick(commands=(ask("pin", setting=setting(workers=7)),))
    bench.run(3)
    resumed = Bench(bench.policy, workers=7, resume=bench.controller.resume())
    assert resumed.run(20).reason is Reason.PINNED


def test_a_pin_outside_the_bounds_or_of_other_knobs_is_refused():
    bench = Bench()
    bench.run(3)
    for wanted in (setting(workers=17), setting(threads=2)):
        decision = bench.tick(commands=(ask("pin", setting=wanted),))
        assert not decision.moves
        assert "pin refused" in decision.events[0]


def test_a_pin_gives_way_to_another_hand_until_resume():
    bench = Bench()
    bench.warm()
    bench.tick(commands=(ask("pin", setting=setting(workers=7)),))
    bench.run(4)
    bench.workers = 3
    assert bench.run(5).phase is Phase.MANUAL
    assert bench.run(10).setting == setting(workers=3)
    bench.tick(commands=(ask("resume"),))
    bench.run(4)
    assert bench.workers == 7


def test_rolling_back_returns_to_what_was_held_before_and_pauses():
    bench = Bench()
    bench.answer(bench.warm(), 6)
    assert bench.workers == 6
    bench.run(5)
    decision = bench.tick(commands=(ask("rollback"),))
    assert (decision.phase, decision.reason) == (Phase.PAUSED, Reason.ROLLED_BACK)
    bench.run(10)
    assert bench.workers == 4
    assert bench.decisions[-1].reason is Reason.PAUSED_BY_OPERATOR


def test_an_approval_that_memory_forbids_is_given_up_and_said():
    bench, advice = advised()
    full = readings(used=6.75e9, memory=400e6)
    decision = bench.tick(commands=(ask("approve", advice_id=advice.id),), seen=full)
    assert not decision.moves
    assert "workers=9 cannot be reached: memory" in decision.events
    assert not any(bench.tick().moves for _ in range(10))


def test_pause_and_manual_outlive_a_restart():
    for phase, reason in (
        (Phase.PAUSED, Reason.PAUSED_BY_OPERATOR),
        (Phase.MANUAL, Reason.OTHER_HAND),
    ):
        bench = Bench(resume=Resume(kept=Kept(phase=phase)))
        decision = bench.run(20, seen=readings(queue=60.0))
        assert (decision.phase, decision.reason) == (phase, reason)
        assert bench.workers == 4


def test_budgets_outlive_a_restart():
    bench = Bench(resume=Resume(budget=(0.0, 0.0, 0.0)))
    decision = bench.answer(bench.warm(), 4, probe=6)
    assert decision.reason is Reason.BUDGET_SPENT


FREEZE = Override(reason="change freeze", freeze=True)


def test_frozen_nothing_moves_whatever_happens_and_it_learns_on():
    bench = Bench()
    asked = bench.warm()
    decision = bench.tick(overrides=(FREEZE,))
    assert (decision.reason, decision.detail) == (Reason.FROZEN, "change freeze")
    for seen in (readings(latency_s=0.9), readings(queue=60.0), BLIND, None):
        for _ in range(15):
            assert not bench.tick(seen=seen, overrides=(FREEZE,)).moves
    assert any(d.observation for d in bench.decisions[-15:])
    assert asked.phase is Phase.EXPLORE


def test_frozen_not_even_a_command_moves():
    bench = Bench()
    bench.run(3)
    pin = ask("pin", setting=setting(workers=7))
    assert not bench.tick(commands=(pin,), overrides=(FREEZE,)).moves
    assert bench.tick().moves, "it is done when the freeze is over"


def test_a_pin_of_the_policy_is_advice_in_mode_recommend_and_done_in_auto():
    pin = (Override(reason="launch day", pin=(("workers", 7),)),)
    bench = Bench(policy(mode=Mode.RECOMMEND))
    decision = bench.run(5, overrides=pin)
    assert not any(d.moves for d in bench.decisions)
    assert decision.advice.setting == setting(workers=7)
    bench = Bench()
    bench.run(5, overrides=pin)
    assert bench.workers == 7
    assert bench.decisions[-1].detail == "launch day"


def test_narrowed_bounds_move_what_is_outside_and_end_with_their_time():
    narrow = (Override(reason="half the memory is lent", bounds=(("workers", 1, 3),)),)
    bench = Bench(workers=6)
    bench.run(6, overrides=narrow)
    assert bench.workers == 3
    bench.answer(bench.until(lambda d: d.fit_request is not None, overrides=narrow), 6)
    assert bench.workers == 6, "they were not in force in the last tick"


def test_nothing_is_tried_in_a_quiet_window_but_the_schedule_is_followed():
    bench = Bench()
    asked = bench.warm()
    quiet = "Mon-Fri 09:00-10:00 Europe/Berlin"
    decision = bench.tick(plan=plan(asked.fit_request.version, 4, probe=6), quiet=quiet)
    assert (decision.reason, decision.moves) == (Reason.QUIET_TIME, False)


def test_one_experiment_at_a_time_on_a_host():
    bench = Bench()
    asked = bench.warm()
    decision = bench.tick(
        plan=plan(asked.fit_request.version, 4, probe=6), may_probe=False, rival="api"
    )
    assert (decision.reason, decision.moves) == (Reason.HOST_BUSY, False)
    assert decision.asks_probe
    assert bench.tick(may_probe=False).asks_probe
    decision = bench.tick()
    assert (decision.action, decision.probing) == (Action.PROBE, True)


def test_a_setting_that_breaks_a_relation_is_never_commanded():
    relation = Relation(text="workers <= 6", terms=((1, ("workers",)), (-6, ())))
    bench = Bench(policy(relations=(relation,)))
    decision = bench.answer(bench.warm(), 8)
    assert decision.setting == setting(workers=6)
    assert [str(c.kind) for c in decision.clamps] == ["relation"]


def test_a_burning_error_budget_stops_probing_but_not_a_remedy():
    bench = Bench()
    bench.warm()
    bad = {"seen": readings(latency_s=0.9)}
    bench.run(60, **bad)
    asked = next(d for d in reversed(bench.decisions) if d.fit_request is not None)
    offered = plan(asked.fit_request.version, bench.workers, probe=bench.workers + 2)
    decision = bench.tick(plan=offered, **bad)
    assert dict(decision.evidence)["burn_short"] > 1.0
    assert decision.action not in (Action.PROBE, Action.DITHER)
    asked = bench.until(lambda d: d.fit_request is not None, most=60, **bad)
    relief = plan(asked.fit_request.version, bench.workers, probe=bench.workers + 2)
    unsafe = tuple(
        replace(c, p_safe=0.1) if c.setting == setting(workers=bench.workers) else c
        for c in relief.candidates
    )
    decision = bench.tick(plan=replace(relief, candidates=unsafe), **bad)
    assert (decision.action, decision.reason) == (Action.TRACK, Reason.RELIEF)
    assert not decision.probing


def test_where_the_policy_allows_no_probe_the_learner_is_let_sleep():
    bench = Bench(policy(explore=replace(policy().explore, probes_per_hour=0.0)))
    for _ in range(2):
        bench.answer(bench.until(lambda d: d.fit_request is not None), 4, probe=6)
    assert bench.decisions[-1].phase is Phase.CONVERGED
    assert not any(bench.tick().fit_request for _ in range(60))


def test_no_shrink_after_a_sudden_fall_in_load():
    bench = Bench(workers=8)
    bench.warm()
    bench.run(200)
    bench.run(40, seen=readings(rps=15.0))
    assert dict(bench.decisions[-1].evidence)["no_shrink_s"] > 1500
    asked = bench.until(lambda d: d.fit_request is not None, seen=readings(rps=15.0))
    offered = plan(asked.fit_request.version, 4, load_rps=15.0)
    decision = bench.tick(seen=readings(rps=15.0), plan=offered)
    assert (decision.reason, decision.moves) == (Reason.LOAD_FELL, False)


def test_under_pressure_not_even_the_schedule_grows():
    rule = policy(guard=replace(policy().guard, psi_cpu_ratio=0.2))
    calm = (*readings(), Reading(signal="psi_cpu_ratio", source="test", value=0.01))
    stalled = (*readings(), Reading(signal="psi_cpu_ratio", source="test", value=0.5))
    bench = Bench(rule)
    asked = bench.until(lambda d: d.fit_request is not None, seen=stalled)
    decision = bench.tick(seen=stalled, plan=plan(asked.fit_request.version, 8))
    assert (decision.reason, decision.moves) == (Reason.PRESSURE_BREACH, False)
    bench.run(6, seen=calm)
    assert bench.workers == 8


def converged(**changes):
    """A bench that has gone from 4 to 6 workers and found nothing more to try."""
    bench = Bench(policy(**changes))
    bench.answer(bench.warm(), 6)
    for _ in range(3):
        bench.answer(bench.until(lambda d: d.fit_request is not None), 6)
        if bench.decisions[-1].phase is Phase.CONVERGED:
            return bench
    raise AssertionError("not converged")


def test_the_benefit_is_measured_against_the_baseline_and_told():
    bench = converged(explore=replace(policy().explore, holdout_every_s=60.0))
    decision = bench.until(lambda d: d.action is Action.COMPARE, most=200)
    assert (decision.reason, decision.setting) == (Reason.HOLDOUT, setting(workers=4))
    assert decision.probing
    decision = bench.until(lambda d: d.holdout is not None, most=200)
    assert bench.workers == 6
    assert decision.holdout.baseline == setting(workers=4)
    assert decision.kept.holdouts == (decision.holdout,)
    assert bench.controller.benefit.count == 1


def test_from_a_comparison_that_does_not_match_it_goes_back_though_the_load_has_fallen():
    rule = replace(policy().explore, holdout_every_s=2400.0)
    knob = replace(policy().knobs[0], slew_per_move=1, dwell_s=50.0)
    bench = Bench(policy(explore=rule, knobs=(knob,)), workers=6)
    bench.answer(bench.warm(), 4)
    while bench.decisions[-1].phase is not Phase.CONVERGED:
        bench.answer(bench.until(lambda d: d.fit_request is not None), 4)
    bench.until(lambda d: d.action is Action.COMPARE and bench.workers == 6, most=600)
    began = bench.index
    for i in range(200):
        bench.tick(seen=readings(rps=20.0, seed=i))
    moves = [d for d in bench.decisions[began:] if d.moves]
    assert [(d.action, d.reason) for d in moves] == [(Action.TRACK, Reason.HOLDOUT)] * 2
    assert dict(moves[1].evidence)["no_shrink_s"] > 1000.0
    assert bench.workers == 4


def test_a_baseline_that_breaches_is_left_at_once_and_counts():
    bench = converged(explore=replace(policy().explore, holdout_every_s=60.0))
    bench.until(lambda d: d.action is Action.COMPARE, most=200)
    bench.run(3)
    decision = bench.until(lambda d: d.moves, seen=readings(latency_s=0.9), most=12)
    assert decision.action is Action.RETREAT
    assert bench.workers == 6
    assert any(d.holdout is not None and d.holdout.breached for d in bench.decisions)


def useless_holdouts():
    one = Holdout(
        baseline=setting(workers=4),
        tuned=setting(workers=6),
        load_rps=50.0,
        gain_ratio=-0.10,
        breached=False,
        closed_tick=1,
    )
    return tuple(replace(one, gain_ratio=-0.10 - 0.001 * i, closed_tick=i) for i in range(8))


def test_it_stands_down_to_the_baseline_when_it_does_not_help():
    bench = Bench(
        policy(explore=replace(policy().explore, holdout_every_s=60.0)),
        resume=Resume(kept=Kept(holdouts=useless_holdouts())),
    )
    bench.answer(bench.warm(), 6)
    for _ in range(3):
        bench.answer(bench.until(lambda d: d.fit_request is not None), 6)
        if bench.decisions[-1].phase is Phase.CONVERGED:
            break
    decision = bench.until(lambda d: d.phase is Phase.STOOD_DOWN, most=3000)
    assert decision.kept.phase is Phase.STOOD_DOWN
    decision = bench.run(20, seen=readings(queue=0.0))
    assert (decision.phase, bench.workers) == (Phase.STOOD_DOWN, 4)
    bench.tick(commands=(ask("resume"),))
    assert bench.decisions[-1].phase is not Phase.STOOD_DOWN


def test_reassert_does_not_break_a_freeze():
    bench = Bench(policy(on_other_hand=OtherHand.REASSERT))
    bench.warm()
    bench.workers = 9
    assert not any(bench.tick(overrides=(FREEZE,)).moves for _ in range(10))


def test_a_rollback_goes_on_from_where_another_hand_left_the_level():
    """Once, the level was put back first to where it had been, while paused."""
    bench = Bench(policy(on_other_hand=OtherHand.REASSERT))
    bench.answer(bench.warm(), 8)
    bench.run(5)
    bench.workers = 12
    bench.tick()
    bench.tick()
    first = bench.tick(commands=(ask("rollback"),))
    assert (first.phase, first.reason) == (Phase.PAUSED, Reason.ROLLED_BACK)
    bench.run(20)
    assert bench.workers == 4
    moved = [d.reason for d in bench.decisions[first.tick :] if d.moves]
    assert set(moved) == {Reason.ROLLED_BACK}


def unseen(name, **seen):
    """A tick in which one sensor is broken."""
    return tuple(
        replace(r, value=None, sketch=None, status=Status.ERROR) if r.signal == name else r
        for r in readings(**seen)
    )


def test_a_probe_that_breaches_is_left_also_when_something_else_is_not_seen():
    """Once, a probe was held in full breach for as long as the host's memory was unknown."""
    bench = Bench()
    bench.answer(bench.warm(), 4, probe=3)
    bench.run(4)
    assert bench.workers == 3
    slow = unseen("host_memory_used_bytes", latency_s=0.9)
    decision = bench.until(lambda d: d.guard_trips, seen=slow)
    assert (decision.action, decision.reason) == (Action.RETREAT, Reason.SLO_BREACH)
    assert decision.setting == setting(workers=4)
    assert bench.tick(seen=slow).reason in (Reason.NO_DATA, Reason.SETTLING)


def test_a_comparison_that_cannot_go_back_for_want_of_memory_is_broken_off():
    bench = converged(explore=replace(policy().explore, holdout_every_s=60.0))
    bench.until(lambda d: d.action is Action.COMPARE, most=400)
    bench.run(3)
    full = readings(used=6.79e9)
    ended = bench.until(lambda d: any("broken off" in e for e in d.events), most=60, seen=full)
    assert not ended.probing
