"""What users of other tuners complain about in public, as tests. Which is whose: docs/pains.md."""

from dataclasses import replace

import pytest
from ticks import BLIND, Bench, policy, readings

from poolwright.core.model import Action, Phase, Reading, Reason, Status, setting
from poolwright.core.policy import ExploreRule

MINUTE = 60


def converged(best=8, workers=8, **changes):
    """A bench that holds `best` and has nothing left to try."""
    bench = Bench(policy(**changes), workers=workers)
    asked = bench.warm()
    for _ in range(8):
        if bench.answer(asked, best).phase is Phase.CONVERGED:
            return bench
        asked = bench.until(lambda d: d.fit_request is not None)
    raise AssertionError("not converged")


def having(seen, **values):
    """The same readings with some signals at another value; None: the source is broken."""
    changed = tuple(
        Reading(signal=name, source="test", status=Status.ERROR, detail="gone")
        if value is None
        else Reading(signal=name, source="test", value=value)
        for name, value in values.items()
    )
    return (*(r for r in seen if r.signal not in values), *changed)


# --- references that drift, or that luck has set


def test_a_lucky_fast_minute_does_not_shrink_the_pool():
    bench = converged()
    fast = [bench.tick(seen=readings(latency_s=0.03, seed=i)) for i in range(MINUTE)]
    normal = bench.run(MINUTE)
    assert not any(d.moves for d in fast)
    assert bench.workers == 8
    assert normal.guard_trips == (), "what was normal before is still normal"


def test_after_half_an_hour_of_incident_slow_is_still_slow():
    bench = converged()
    slow = readings(latency_s=0.9)
    verdicts = [bench.tick(seen=slow).guard_trips for _ in range(30 * MINUTE)]
    assert all(Reason.SLO_BREACH in tripped for tripped in verdicts[10 * MINUTE :])


# --- fast failures, pauses, lone requests


def test_a_probe_whose_requests_fail_fast_is_given_up():
    bench = Bench()
    bench.answer(bench.warm(), 4, probe=6)
    assert bench.workers == 6
    failing = having(readings(latency_s=0.01), errors_rps=20.0)
    decision = bench.until(lambda d: d.moves, seen=failing, most=10)
    assert (decision.action, decision.reason) == (Action.RETREAT, Reason.ERROR_BREACH)
    assert bench.workers == 4


def test_a_pause_of_a_second_moves_nothing():
    bench = converged()
    for _ in range(5):
        bench.tick(seen=readings(latency_s=0.9, queue=40.0))
        assert not any(bench.tick().moves for _ in range(20))
    assert bench.workers == 8


def test_a_queue_of_a_moment_grows_nothing():
    bench = converged()
    for _ in range(20):
        bench.tick(seen=readings(queue=40.0))
        bench.tick(seen=readings(queue=40.0))
        bench.tick()
    assert bench.workers == 8


def test_rare_requests_are_collected_for_longer_before_anything_is_concluded():
    bench = Bench()
    seen = []
    for i in range(60):
        decision = bench.tick(seen=readings(rps=2.0, seed=i))
        seen += [decision.observation] if decision.observation else []
    assert seen
    assert all(o.span_s >= 3 * bench.policy.explore.window_s for o in seen)


# --- growth: at once, as far as it helps, and no further


def test_a_burst_of_seven_times_is_met_without_a_plan_in_little_more_than_a_minute():
    """A worker serves 25 a second, 400 come: by a quarter at a time, each as soon as it settled."""
    bench = converged(best=2, workers=2)
    began = bench.index
    while bench.workers < 15:
        served = 25.0 * bench.workers
        bench.tick(seen=readings(rps=served, queue=400.0 - served, cpu=0.1 * bench.workers))
        assert bench.index - began < 75
    moves = [d for d in bench.decisions[began:] if d.moves]
    assert moves[0].tick - began < 4, "the first at once"
    assert all(d.reason is Reason.QUEUEING for d in moves)


def test_growth_that_serves_no_more_is_not_repeated():
    bench = converged()
    for i in range(10 * MINUTE):
        bench.tick(seen=readings(queue=40.0, seed=i))
    assert bench.workers <= 10, "one try, and no climb to the maximum"


def test_growth_that_serves_less_is_taken_back_and_seldom_repeated():
    """Thrashing: more workers serve less, so waiting for the queue to go would be for ever."""
    bench = converged()
    began = bench.index
    for i in range(5 * MINUTE):
        rps = 50.0 if bench.workers <= 8 else 30.0
        bench.tick(seen=readings(rps=rps, queue=40.0, seed=i))
    moves = [d for d in bench.decisions[began:] if d.moves]
    assert [(d.action, d.setting["workers"]) for d in moves[:2]] == [
        (Action.TRACK, 10),
        (Action.RETREAT, 8),
    ]
    assert moves[1].reason is Reason.QUEUEING
    assert "with workers=8" in moves[1].detail
    grown = [d.tick for d in moves if d.setting["workers"] == 10]
    after = [d.tick for d in moves if d.setting["workers"] == 8]
    waits = [b - a for a, b in zip(after, grown[1:], strict=False)]
    assert min(waits) > 5 * max(a - g for g, a in zip(grown, after, strict=False))


def test_nothing_grows_while_the_cpu_is_used_up():
    bench = converged()
    for queue, ticks in ((0.0, 5), (40.0, 2 * MINUTE)):
        busy = having(readings(queue=queue, cpu=1.8), host_cpu_cores=1.9)
        assert not any(bench.tick(seen=busy).moves for _ in range(ticks))


def test_it_goes_on_deciding_when_every_worker_is_blocked():
    """Nothing completes, so nothing is timed: neither blind, nor idle, nor a reason to climb."""
    bench = converged()
    bench.run(2 * MINUTE)
    blocked = readings(rps=0.0, latency_s=None, queue=40.0, cpu=0.01)
    decisions = [bench.tick(seen=blocked) for _ in range(5 * MINUTE)]
    assert Phase.BLIND not in {d.phase for d in decisions}
    assert Reason.NO_DATA not in {d.reason for d in decisions}
    assert bench.workers <= 10
    windows = [d.observation for d in decisions if d.observation is not None]
    assert all(o.opened_tick < decisions[0].tick for o in windows), "and it teaches nothing"


def test_a_pool_of_one_grows_when_clients_queue():
    bench = converged(best=1, workers=1)
    decision = bench.until(lambda d: d.moves, seen=readings(queue=40.0), most=6)
    wanted = setting(workers=5)  # 50 a second of 0.1 s each keep five busy; slew allows four more
    assert (decision.reason, decision.setting) == (Reason.QUEUEING, wanted)


def test_after_an_idle_hour_the_pool_still_grows():
    bench = converged(best=2, workers=2)
    idle = readings(rps=0.0, latency_s=None)
    assert not any(bench.tick(seen=idle).moves for _ in range(60 * MINUTE))
    decision = bench.until(lambda d: d.moves, seen=readings(queue=40.0), most=15)
    assert decision.reason is Reason.QUEUEING
    assert decision.setting["workers"] > 2


# --- missing is not zero


@pytest.mark.parametrize("gone", ["throughput_rps", "host_memory_used_bytes"])
def test_a_source_that_is_down_is_neither_no_load_nor_room_to_grow(gone):
    """No shrink to nothing, and no growth into memory that cannot be seen."""
    bench = converged()
    lost = having(readings(queue=40.0), **{gone: None})
    decisions = [bench.tick(seen=lost) for _ in range(10 * MINUTE)]
    assert not any(d.moves for d in decisions)
    assert decisions[-1].phase is Phase.BLIND
    assert gone in decisions[-1].detail


def test_a_probe_ends_when_the_guard_loses_sight_however_good_it_looked():
    bench = Bench()
    bench.answer(bench.warm(), 4, probe=6)
    bench.run(3)
    bench.until(lambda d: d.moves, seen=BLIND, most=15)
    assert bench.workers == 4


def test_over_the_memory_limit_the_pool_gives_memory_back():
    bench = converged()
    full = readings(memory=1.6e9, used=7.0e9, limit=8e9)
    decision = bench.until(lambda d: d.moves, seen=full, most=10)
    assert (decision.reason, decision.setting) == (Reason.MEMORY_BREACH, setting(workers=4))


# --- two masters, flapping, repeating itself


def test_a_move_always_changes_something_and_is_followed_by_rest():
    """Noise, bursts, lulls and silence: no move from 8 to 8, and none before the last settled."""
    bench = converged()
    held, last = setting(workers=8), None
    for i in range(20 * MINUTE):
        queue = 40.0 if i % 97 < 9 else 0.0
        seen = BLIND if i % 211 < 4 else readings(rps=30.0 + i % 40, queue=queue, seed=i)
        decision = bench.tick(seen=seen)
        if decision.moves:
            assert decision.setting != held
            if decision.action not in (Action.RETREAT, Action.RESTORE) and last is not None:
                assert i - last >= bench.policy.knobs[0].settle_s
            last = i
        held = decision.setting
    assert last is not None


def test_two_that_tune_one_pool_do_not_fight():
    """The other one sets 12 whenever it finds anything else."""
    bench = converged()
    bench.workers = 12
    moves = 0
    for _ in range(10 * MINUTE):
        moves += bench.tick().moves
        bench.workers = 12
    assert moves == 0
    assert bench.decisions[-1].phase is Phase.MANUAL


# --- clocks, restarts, chance


@pytest.mark.parametrize("origin", [0, 2**31 - 5_000_000_000, 2**32, 2**63, 10**25])
def test_where_the_clock_started_makes_no_difference(origin):
    def life(start):
        bench = Bench()
        bench.mono_ns = start
        bench.answer(bench.warm(), 4, probe=6)
        bench.run(30)
        return [d.state_digest for d in bench.decisions], bench.workers

    assert life(origin) == life(1_000_000_000)


def test_what_was_learned_outlives_a_restart():
    before = converged()
    after = Bench(before.policy, workers=8, resume=before.controller.resume())
    decision = after.until(lambda d: d.phase is not Phase.WARMUP, most=5)
    assert decision.setting == setting(workers=8)
    asked = after.until(lambda d: d.fit_request is not None, most=200)
    known = before.controller.resume().evidence
    assert known[0] in asked.fit_request.evidence


def test_with_no_probes_allowed_none_is_made():
    rule = ExploreRule(window_s=5.0, warmup_windows=2, probes_per_hour=0.0, budget_ratio=0.0)
    bench = Bench(policy(explore=rule))
    asked = bench.warm()
    assert not bench.answer(asked, 4, probe=6).moves
    for _ in range(5):
        asked = bench.until(lambda d: d.fit_request is not None, most=200)
        assert not bench.answer(asked, 4, probe=6).moves
    assert bench.workers == 4


def test_one_bound_serves_one_purpose():
    """The least that may be held is neither the baseline nor where a probe begins."""
    knob = replace(policy().knobs[0], lower=2, baseline=6)
    bench = Bench(policy(knobs=(knob,)), workers=4)
    assert not bench.tick().moves
    assert bench.controller.baseline == setting(workers=6)
    decision = bench.answer(bench.warm(), 4, probe=5)
    assert decision.setting == setting(workers=5)
