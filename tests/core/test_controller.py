"""The controller: ticks in, decisions out. `Bench` checks the envelope after every tick."""

from dataclasses import replace

import pytest
from ticks import BLIND, Bench, plan, policy, readings

from poolwright.core.model import (
    Action,
    ActuationStatus,
    ClampKind,
    Command,
    CommandKind,
    Phase,
    Reading,
    Reason,
    Resume,
    Status,
    setting,
)
from poolwright.core.policy import ExploreRule, Mode, OtherHand

SLOW = {"latency_s": 0.9, "queue": 0.0}


def test_coming_changes_nothing():
    bench = Bench(workers=4)
    decision = bench.tick()
    assert not decision.moves
    assert decision.setting == setting(workers=4)
    assert "the baseline is workers=4" in decision.events[0]
    assert bench.controller.baseline == setting(workers=4)


def test_warms_up_then_asks_for_a_fit():
    bench = Bench()
    decision = bench.warm()
    assert decision.phase is Phase.EXPLORE
    request = decision.fit_request
    assert len(request.evidence) == 2
    assert request.incumbent == setting(workers=4)
    assert request.context.load_rps == pytest.approx(50.0)
    assert decision.observation.response("latency_p99_s").mean == pytest.approx(0.15, rel=0.1)
    assert bench.tick().reason is Reason.WAITING_FOR_PLAN


def test_probes_what_the_plan_offers_and_comes_back():
    bench = Bench()
    decision = bench.answer(bench.warm(), 4, probe=6)
    assert (decision.action, decision.setting) == (Action.PROBE, setting(workers=6))
    asked = bench.until(lambda d: d.fit_request is not None)
    assert asked.observation.setting == setting(workers=6)
    assert asked.fit_request.incumbent == setting(workers=4), "a probe is not the incumbent yet"
    decision = bench.answer(asked, 4)
    assert (decision.action, decision.setting) == (Action.TRACK, setting(workers=4))


def test_converges_when_nothing_is_worth_trying_and_lets_the_learner_sleep():
    bench = Bench()
    asked = bench.warm()
    bench.answer(asked, 4, gain=0.0)
    asked = bench.until(lambda d: d.fit_request is not None)
    decision = bench.answer(asked, 4, gain=0.0)
    assert decision.phase is Phase.CONVERGED
    rest = [bench.tick() for _ in range(60)]
    assert not any(d.fit_request for d in rest)
    assert not any(d.moves for d in rest)


def test_a_dither_while_converged_is_measured_and_ends():
    """Once, a dither was never followed by a fit, and its setting was held for good."""
    bench = Bench(policy(explore=replace(policy().explore, converged_every=3)))
    bench.answer(bench.warm(), 4, gain=0.0)
    decision = bench.answer(bench.until(lambda d: d.fit_request is not None), 4, probe=9, gain=0.0)
    assert decision.phase is Phase.CONVERGED
    assert not decision.moves, "the plan that converges is followed, not probed"
    asked = bench.until(lambda d: d.fit_request is not None)
    decision = bench.answer(asked, 4, probe=6, gain=0.0)
    assert (decision.action, decision.setting) == (Action.DITHER, setting(workers=6))
    asked = bench.until(lambda d: d.fit_request is not None, most=12)
    assert asked.observation.setting == setting(workers=6)
    decision = bench.answer(asked, 4, gain=0.0)
    assert (decision.action, decision.setting) == (Action.TRACK, setting(workers=4))


def test_what_never_leads_elsewhere_is_tried_less_and_less_until_something_changes():
    rule = policy(explore=replace(policy().explore, converged_every=2, probes_per_hour=3600.0))
    bench = Bench(rule)
    bench.answer(bench.warm(), 4, gain=0.0)
    bench.answer(bench.until(lambda d: d.fit_request is not None), 4, gain=0.0)

    def windows_until_a_fit(best):
        before = sum(d.observation is not None for d in bench.decisions)
        asked = bench.until(lambda d: d.fit_request is not None, most=400)
        bench.answer(asked, best, gain=0.0)
        return sum(d.observation is not None for d in bench.decisions) - before

    assert [windows_until_a_fit(4) for _ in range(5)] == [2, 4, 8, 16, 16]
    assert windows_until_a_fit(6) == 16  # the plan says now that six are better
    assert windows_until_a_fit(6) == 2


def test_no_probe_outlasts_its_window_by_much_whatever_becomes_of_the_learner():
    bench = Bench()
    bench.answer(bench.warm(), 4, probe=6)
    bench.until(lambda d: d.fit_request is not None)
    assert bench.until(lambda d: d.moves, most=40).setting == setting(workers=4)


def test_a_far_setting_is_reached_by_slew():
    bench = Bench(workers=4)
    decision = bench.answer(bench.warm(), 12)
    assert decision.setting == setting(workers=8)
    assert [str(c.kind) for c in decision.clamps] == ["slew"]
    assert bench.until(lambda d: d.moves).setting == setting(workers=12)


def test_a_breaching_probe_retreats_within_a_tick_of_the_verdict():
    bench = Bench()
    bench.answer(bench.warm(), 4, probe=3)
    assert bench.workers == 3
    slow = readings(**SLOW)
    decision = bench.until(lambda d: d.guard_trips, seen=slow)
    assert decision.action is Action.RETREAT
    assert decision.setting == setting(workers=4)
    assert decision.reason is Reason.SLO_BREACH
    assert decision.phase is Phase.COOLDOWN
    assert decision.observation.setting == setting(workers=3)
    assert decision.observation.breached
    bench.run(3)
    asked = bench.until(lambda d: d.fit_request is not None and d.phase is Phase.EXPLORE)
    assert setting(workers=3) in asked.fit_request.tabu
    assert asked.fit_request.trust_octaves < 0.5
    decision = bench.answer(asked, 4, probe=3)
    assert not decision.moves, "a tabu setting is not tried again"


def test_a_breach_of_the_baseline_before_the_first_move_is_only_watched():
    bench = Bench()
    slow = readings(**SLOW)
    bench.tick(seen=slow)
    decisions = []
    while not decisions or decisions[-1].fit_request is None:
        decisions.append(bench.tick(seen=slow))
    assert not any(d.moves for d in decisions)
    assert decisions[-1].observation.breached


def test_clients_that_queue_make_the_pool_grow_at_once():
    bench = Bench(workers=8)
    bench.answer(bench.warm(), 8)
    queueing = readings(queue=40.0)
    decision = bench.until(lambda d: d.moves, seen=queueing, most=5)
    assert decision.reason is Reason.QUEUEING
    assert decision.setting == setting(workers=10)


def test_after_growth_for_a_queue_nothing_shrinks_before_it_was_measured():
    bench = Bench(workers=8)
    bench.answer(bench.warm(), 8)
    bench.until(lambda d: d.moves, seen=readings(queue=40.0), most=5)
    assert bench.workers == 10
    decisions = [bench.tick() for _ in range(4)]
    assert decisions[-1].reason is Reason.COOLING_DOWN
    assert not any(d.moves for d in decisions), "the plan says 8, and has to wait"
    asked = bench.until(lambda d: d.fit_request is not None)
    assert asked.observation.setting == setting(workers=10)
    assert bench.answer(asked, 8).setting == setting(workers=8)


def test_a_shrink_that_makes_clients_queue_is_repeated_later_and_later():
    bench = Bench(workers=8)
    asked = bench.warm()
    waits = []
    for _ in range(3):
        bench.answer(asked, 8)
        bench.until(lambda d: d.moves and d.reason is Reason.QUEUEING, seen=readings(queue=40.0))
        began = bench.index
        while bench.workers != 8:
            decision = bench.tick()
            if decision.fit_request is not None:
                asked = decision
                bench.answer(asked, 8)
        waits.append(bench.index - began)
    assert waits[0] < waits[1] < waits[2]


def test_no_growth_beyond_the_memory_forecast():
    bench = Bench(workers=8)
    bench.answer(bench.warm(), 8)
    tight = readings(queue=40.0, memory=800e6, used=6.65e9, limit=8e9)
    decision = bench.until(lambda d: d.moves or d.clamps, seen=tight, most=5)
    assert "memory" in [str(c.kind) for c in decision.clamps]
    assert decision.setting == setting(workers=9)


def test_growth_needs_a_reading_of_memory():
    bench = Bench(workers=8)
    bench.answer(bench.warm(), 8)
    queueing = tuple(r for r in readings(queue=40.0) if r.signal != "memory_bytes")
    assert not any(bench.tick(seen=queueing).moves for _ in range(8))


def test_blind_holds_then_goes_to_the_last_safe_setting():
    bench = Bench()
    bench.answer(bench.warm(), 4, probe=6)
    assert bench.workers == 6
    first = bench.tick(seen=BLIND)
    assert (first.action, first.reason) == (Action.HOLD, Reason.NO_DATA)
    decision = bench.until(lambda d: d.moves, seen=BLIND, most=12)
    assert decision.reason is Reason.BLIND_TOO_LONG
    assert decision.setting == setting(workers=4)
    assert decision.phase is Phase.BLIND
    assert bench.tick().phase is not Phase.BLIND


def test_no_data_is_neither_zero_load_nor_a_good_window():
    bench = Bench()
    silent = (
        *(r for r in readings() if r.signal not in ("throughput_rps", "latency_s")),
        Reading(signal="throughput_rps", source="test", status=Status.NO_DATA),
    )
    decisions = [bench.tick(seen=silent) for _ in range(20)]
    assert not any(d.observation for d in decisions)
    assert {d.reason for d in decisions} == {Reason.NO_DATA}


def test_an_idle_service_teaches_nothing_and_proves_nothing_safe():
    bench = Bench()
    idle = readings(rps=0.0, latency_s=None)
    decisions = [bench.tick(seen=idle) for _ in range(80)]
    assert not any(d.observation or d.fit_request or d.moves for d in decisions)
    assert bench.controller.resume().last_safe is None


def test_after_a_shrink_what_drains_is_not_measured():
    knob = replace(policy().knobs[0], drain_s=9.0)
    opened = {}
    for probe in (3, 6):
        bench = Bench(policy(knobs=(knob,)))
        bench.answer(bench.warm(), 4, probe=probe)
        moved = bench.index
        opened[probe] = bench.until(lambda d: d.observation).observation.opened_tick - moved
    assert opened[3] >= opened[6] + 6


def test_another_hand_is_left_alone_until_resume():
    bench = Bench(workers=4)
    bench.warm()
    bench.workers = 7
    decisions = [bench.tick() for _ in range(3)]
    assert decisions[-1].phase is Phase.MANUAL
    assert "commanded workers=4, found workers=7" in decisions[-1].detail
    assert not any(bench.tick().moves for _ in range(20))
    decision = bench.tick(commands=(Command(kind=CommandKind.RESUME, who="ada", why="done"),))
    assert decision.phase is Phase.WARMUP
    assert decision.setting == setting(workers=7)
    assert "resumed by ada: done" in decision.events[0]


def test_reassert_takes_the_level_back():
    bench = Bench(policy(on_other_hand=OtherHand.REASSERT), workers=4)
    bench.warm()
    bench.workers = 11
    decision = bench.until(lambda d: d.moves, most=4)
    assert (decision.reason, decision.setting) == (Reason.REASSERT, setting(workers=4))


def test_a_worker_that_crashes_and_is_replaced_is_not_another_hand():
    bench = Bench(workers=4)
    bench.warm()
    bench.workers = 3
    bench.tick()
    bench.workers = 4
    assert bench.run(3).phase is not Phase.MANUAL


def test_a_reload_that_resets_the_count_is_taken_over_without_a_jump():
    bench = Bench(workers=8)
    bench.answer(bench.warm(), 8)
    bench.workers, bench.epoch = 2, "2"
    decision = bench.tick()
    assert decision.reason is Reason.PLANT_RESTARTED
    assert not decision.moves
    assert decision.setting == setting(workers=2)
    assert bench.until(lambda d: d.moves).setting == setting(workers=6), "by slew, to the plan"


def test_a_failed_move_waits_longer_each_time():
    bench = Bench()
    bench.obeys, bench.status = False, ActuationStatus.FAILED
    bench.answer(bench.warm(), 4, probe=6)
    decision = bench.tick()
    assert decision.reason is Reason.ACTUATION_FAILED
    assert decision.setting == setting(workers=4)
    assert not any(bench.tick().moves for _ in range(9))


def test_pause_holds_whatever_happens():
    bench = Bench()
    asked = bench.warm()
    bench.tick(commands=(Command(kind=CommandKind.PAUSE, who="ada"),))
    assert bench.answer(asked, 10, probe=12).phase is Phase.PAUSED
    assert not any(bench.tick(seen=readings(queue=50.0)).moves for _ in range(10))


def test_recommend_says_and_does_not():
    bench = Bench(policy(mode=Mode.RECOMMEND))
    decision = bench.answer(bench.warm(), 6, probe=9)
    assert not decision.moves
    assert decision.advice.setting == setting(workers=6)
    assert decision.setting == setting(workers=4)


def test_without_leave_to_move_it_converges_too_and_lets_the_learner_sleep():
    bench = Bench(policy(mode=Mode.RECOMMEND))
    for _ in range(2):
        bench.answer(bench.until(lambda d: d.fit_request is not None), 6, probe=9)
    rest = [bench.tick() for _ in range(60)]
    assert rest[-1].phase is Phase.CONVERGED
    assert not any(d.fit_request for d in rest)
    assert rest[-1].advice.setting == setting(workers=6)


def test_observe_says_nothing():
    bench = Bench(policy(mode=Mode.OBSERVE))
    decision = bench.answer(bench.warm(), 6, probe=9)
    assert decision.advice is None
    assert not decision.moves


def test_probes_stop_when_the_budget_is_spent():
    rule = ExploreRule(
        window_s=5.0, warmup_windows=2, probes_per_hour=1.0, budget_ratio=1.0, patience=50
    )
    bench = Bench(policy(explore=rule))
    bench.answer(bench.warm(), 4, probe=6)
    asked = bench.until(lambda d: d.fit_request is not None)
    decision = bench.answer(asked, 6, probe=8)
    assert decision.reason is Reason.BUDGET_SPENT
    assert not decision.moves


def test_a_gap_in_time_drops_the_window():
    bench = Bench()
    bench.run(4)
    bench.mono_ns += 600_000_000_000
    decision = bench.tick()
    assert decision.reason is Reason.CLOCK_GAP
    opened = bench.warm().observation.opened_tick
    assert opened > decision.tick


def test_a_lost_plan_does_not_strand_a_probe():
    bench = Bench()
    bench.answer(bench.warm(), 4, probe=6)
    bench.until(lambda d: d.fit_request is not None)
    decision = bench.tick(learner_fault="killed after 20 s")
    assert any("no plan" in e for e in decision.events)
    assert (decision.action, decision.setting) == (Action.TRACK, setting(workers=4))


def test_drift_reopens_the_search():
    bench = Bench()
    bench.answer(bench.warm(), 4, gain=0.0)
    bench.answer(bench.until(lambda d: d.fit_request is not None), 4, gain=0.0)
    slower = readings(latency_s=0.25)
    decision = bench.until(lambda d: d.phase is Phase.EXPLORE, seen=slower, most=200)
    assert any("drift" in e for e in decision.events)
    assert decision.fit_request is not None
    assert decision.fit_request.evidence[0].weight < 1.0


def test_restore_goes_to_the_baseline_whatever_the_slew():
    bench = Bench(workers=2)
    bench.answer(bench.warm(), 10)
    bench.run(10)
    assert bench.workers == 10
    decision = bench.tick(commands=(Command(kind=CommandKind.RESTORE, who="daemon"),))
    assert (decision.action, decision.setting) == (Action.RESTORE, setting(workers=2))


def test_restore_leaves_the_level_to_the_hand_that_has_it():
    bench = Bench(workers=4)
    bench.warm()
    bench.workers = 9
    bench.run(4)
    assert not bench.tick(commands=(Command(kind=CommandKind.RESTORE, who="daemon"),)).moves


def test_restore_works_also_when_a_move_was_broken_off():
    bench = Bench(workers=2)
    bench.answer(bench.warm(), 10)
    bench.workers = 4
    decision = bench.tick(commands=(Command(kind=CommandKind.RESTORE, who="daemon"),))
    assert (decision.action, decision.setting) == (Action.RESTORE, setting(workers=2))


def test_the_baseline_survives_in_a_resume():
    bench = Bench(workers=9, resume=Resume(baseline=setting(workers=5)))
    bench.tick()
    assert bench.controller.baseline == setting(workers=5)


def test_a_level_out_of_bounds_is_brought_back():
    bench = Bench(workers=20)
    decision = bench.until(lambda d: d.moves, most=10)
    assert (decision.reason, decision.setting) == (Reason.OUT_OF_BOUNDS, setting(workers=16))


def test_a_service_that_cannot_be_read_is_left_alone():
    bench = Bench()
    bench.warm()
    decision = bench.tick(applied=False, fault="pidfile gone")
    assert decision.reason is Reason.READ_BACK_FAILED
    assert decision.detail == "pidfile gone"
    assert not bench.tick().moves


def test_a_prior_goes_to_the_learner_until_enough_was_seen_here_and_makes_nothing_safe():
    bench = Bench()
    bench.answer(bench.warm(), 4)
    prior = bench.controller.resume().evidence
    there = tuple(
        replace(e, observation=replace(e.observation, setting=setting(workers=12))) for e in prior
    )
    helped = Bench(resume=Resume(prior=there))
    asked = helped.warm()
    assert asked.fit_request.prior == there
    assert not [e for e in asked.fit_request.evidence if e in there]
    kept = helped.controller.resume()
    assert kept.prior == there
    assert kept.last_safe == setting(workers=4)
    for _ in range(60):
        helped.answer(asked, 4)
        if helped.decisions[-1].phase is Phase.CONVERGED:
            break
        asked = helped.until(lambda d: d.fit_request is not None)
    helped.run(1500)
    later = [d.fit_request for d in helped.decisions if d.fit_request is not None][-1]
    assert len(later.evidence) >= 48
    assert later.prior == ()


def test_a_probe_for_which_there_is_no_room_is_not_asked_for_again_and_again():
    bench = Bench()
    tight = readings(memory=400e6, used=6.7e9)
    asked = bench.warm()
    bench.tick(seen=tight, plan=plan(asked.fit_request.version, 4, probe=6))
    assert [(c.kind, c.wanted) for c in bench.decisions[-1].clamps] == [(ClampKind.MEMORY, 6)]
    asked = bench.until(lambda d: d.fit_request is not None, seen=tight)
    assert setting(workers=6) in asked.fit_request.tabu
