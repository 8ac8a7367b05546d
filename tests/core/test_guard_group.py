"""What a control group tells the guard: a quota that is used up, and workers killed for memory."""

from ticks import Bench, policy, readings

from poolwright.core.guard import Guard
from poolwright.core.model import Reading, Reason, setting
from poolwright.core.policy import GuardRule
from poolwright.core.sample import Sample

FOUR = setting(workers=4)


def guard():
    return Guard(policy(slo=(), objective=(), guard=GuardRule()))


def sample(**more):
    seen = {"throughput_rps": 50.0, "host_memory_used_bytes": 1e9, "memory_limit_bytes": 8e9}
    return Sample(tick=0, dt_s=1.0, host_cpu_ratio=0.5, **seen, **more)


def test_one_kill_for_memory_is_a_breach_at_once_and_for_as_long_as_it_is_recent():
    one = guard()
    assert one.judge(sample(oom_kills=0.0), FOUR).tripped == ()
    assert one.judge(sample(oom_kills=1.0), FOUR).tripped == (Reason.MEMORY_BREACH,)
    for _ in range(4):
        assert one.judge(sample(oom_kills=0.0), FOUR).tripped == (Reason.MEMORY_BREACH,)
    assert one.judge(sample(oom_kills=0.0), FOUR).tripped == ()
    one.judge(sample(oom_kills=1.0), FOUR)
    one.forget()  # after the move that it led to
    assert one.judge(sample(oom_kills=0.0), FOUR).tripped == ()


def test_a_quota_used_up_in_bursts_is_a_busy_cpu_at_half_its_use():
    one = guard()
    for _ in range(5):
        one.judge(sample(throttled_ratio=0.4), FOUR)
    assert one.cpu_busy
    for _ in range(5):
        one.judge(sample(throttled_ratio=0.05), FOUR)
    assert not one.cpu_busy


def test_what_is_not_known_of_it_says_nothing():
    one = guard()
    for _ in range(5):
        assert one.judge(sample(), FOUR).tripped == ()
    assert not one.cpu_busy


def told(signal, value, **changes):
    """A tick of a healthy service whose control group also says this."""
    return (*readings(**changes), Reading(signal=signal, source="cgroup /web", value=value))


def settled():
    """A warm pool of 8 that is where its plan wants it."""
    bench = Bench(workers=8)
    bench.answer(bench.warm(), 8)
    return bench


def test_a_worker_killed_for_memory_makes_the_pool_smaller_in_that_tick():
    bench = settled()
    decision = bench.tick(seen=told("oom_kills", 1.0))
    assert (decision.reason, decision.setting) == (Reason.MEMORY_BREACH, setting(workers=4))


def test_clients_that_queue_grow_nothing_under_a_quota_that_is_used_up():
    bench = settled()
    for queue in (0.0, 40.0):
        seen = told("throttled_ratio", 0.6, queue=queue)
        assert not any(bench.tick(seen=seen).moves for _ in range(20))
    growing = bench.until(lambda d: d.moves, seen=readings(queue=40.0), most=10)
    assert (growing.reason, growing.setting) == (Reason.QUEUEING, setting(workers=10))
