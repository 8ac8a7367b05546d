"""What pools share: one experiment at a time, in one daemon and between daemons; memory and CPU."""

import os
import subprocess
import sys

import pytest
import ticks as make
from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.errors import PolicyError
from poolwright.core.model import (
    Action,
    Actuation,
    ActuationStatus,
    Decision,
    Phase,
    Reading,
    Reason,
    Status,
    Tick,
    setting,
)
from poolwright.engine.arbiter import Arbiter, ExperimentLock, unmeasured
from poolwright.policy.config import SharedBudget

GB = 10**9
POLICY = make.policy()  # settle 2 s, memory guard 85 %, cadence 1 s


class Pools:
    """Some pools at one arbiter; a slot is a second."""

    def __init__(self, *names, budget=None, lock=None):
        self.arbiter = Arbiter(names, budget, lock)
        self.now_ns = 10**9
        self.index = 0

    def share(self, pool, **seen):
        """What `pool` may do; `seen` are readings."""
        self.readings = make.readings(**seen)
        return self.arbiter.share(pool, POLICY, self.readings, self.now_ns)

    def took(self, pool, share, *, status=None, **decided):
        """Tell the arbiter of a decision."""
        tick = Tick(
            index=self.index,
            mono_ns=self.now_ns,
            wall_ns=0,
            may_probe=share.may_probe,
            actuation=status and Actuation(decision_tick=0, status=status),
        )
        decided.setdefault("moves", False)
        self.arbiter.took(pool, POLICY, tick, decision(self.index, **decided))

    def tick(self, pool, *, seen=None, **told):
        """One tick of a pool; its share."""
        share = self.share(pool, **(seen or {}))
        self.took(pool, share, **told)
        return share

    def pass_time(self, seconds=1.0):
        """The next slot."""
        self.now_ns += round(seconds * 1e9)
        self.index += 1


def decision(tick, **more):
    return Decision(
        tick=tick,
        phase=Phase.EXPLORE,
        action=Action.HOLD,
        setting=setting(workers=4),
        reason=Reason.BEST_KNOWN,
        **more,
    )


def test_one_pool_at_a_time_is_experimented_with():
    pools = Pools("a", "b")
    assert pools.tick("a", probing=True).may_probe
    refused = pools.tick("b", asks_probe=True)
    assert (refused.may_probe, refused.rival) == (False, "a")
    pools.pass_time()
    assert pools.tick("a", probing=True).may_probe, "its own experiment goes on"
    assert not pools.tick("b", asks_probe=True).may_probe
    pools.pass_time()
    pools.tick("a")
    assert pools.tick("b", probing=True).may_probe, "the same slot in which the other ended"
    assert pools.tick("a").rival == "b"


def test_who_asked_first_is_first():
    pools = Pools("a", "b", "c")
    pools.tick("a", probing=True)
    pools.tick("c", asks_probe=True)
    pools.tick("b", asks_probe=True)
    pools.pass_time()
    pools.tick("a", asks_probe=True)  # it has ended, and would go on with the next
    waits = pools.tick("b", asks_probe=True)
    assert (waits.may_probe, waits.rival) == (False, "c")
    assert pools.tick("c", probing=True).may_probe
    pools.pass_time()
    pools.tick("c")
    assert not pools.tick("a", asks_probe=True).may_probe
    assert pools.tick("b").may_probe


def test_who_does_not_ask_any_more_loses_its_place():
    pools = Pools("a", "b", "c")
    pools.tick("a", probing=True)
    pools.tick("b", asks_probe=True)
    pools.tick("c", asks_probe=True)
    pools.tick("b")
    pools.tick("a")
    assert pools.tick("c", asks_probe=True).may_probe


def test_who_is_let_and_does_not_go_blocks_nobody():
    pools = Pools("a", "b", "c")
    pools.tick("a", probing=True)
    pools.tick("b", asks_probe=True)
    pools.tick("c", asks_probe=True)
    pools.tick("a")
    assert pools.tick("b", asks_probe=True).may_probe
    assert pools.tick("c", asks_probe=True).may_probe, "b had its turn"


def test_a_pool_whose_core_failed_keeps_what_it_held():
    pools = Pools("a", "b")
    pools.tick("a", probing=True)
    share = pools.share("a")
    tick = Tick(index=1, mono_ns=pools.now_ns, wall_ns=0, may_probe=share.may_probe)
    pools.arbiter.took("a", POLICY, tick, None)
    assert not pools.tick("b").may_probe


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=60))
def test_however_pools_ask_no_two_experiments_overlap(steps):
    pools = Pools("a", "b", "c")
    probing = {}
    for pool, wants, goes_on in steps:
        share = pools.share(pool)
        now = probing.get(pool) if goes_on else False
        now = now or (wants and share.may_probe)
        pools.took(pool, share, probing=bool(now), asks_probe=bool(wants and not now))
        probing[pool] = now
        assert sum(map(bool, probing.values())) <= 1, probing
        pools.pass_time()


def test_daemons_share_one_experiment_through_the_lock(tmp_path):
    path = tmp_path / "experiment.lock"
    mine = Pools("a", lock=ExperimentLock(path))
    other = Pools("x", lock=ExperimentLock(path))
    assert mine.tick("a", probing=True).may_probe
    refused = other.tick("x", asks_probe=True)
    assert not refused.may_probe
    assert refused.rival == f"another daemon has {path}: pid {os.getpid()}, pool a"
    mine.tick("a")
    assert other.tick("x", probing=True).may_probe
    assert not mine.tick("a").may_probe


def test_a_lock_that_was_asked_for_and_not_used_is_free_again(tmp_path):
    path = tmp_path / "experiment.lock"
    mine, other = (Pools("a", lock=ExperimentLock(path)) for _ in range(2))
    assert mine.tick("a").may_probe
    assert other.tick("a").may_probe
    mine.tick("a", probing=True)
    mine.arbiter.close()
    assert other.tick("a").may_probe, "the daemon has ended"


def test_the_lock_of_a_daemon_that_was_killed_is_free(tmp_path):
    path = tmp_path / "experiment.lock"
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from poolwright.engine.arbiter import ExperimentLock\n"
        f"lock = ExperimentLock(Path({str(path)!r}))\nassert not lock.take()\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        assert "another daemon" in ExperimentLock(path).take()
        process.kill()
        process.wait()
        assert ExperimentLock(path).take() == ""


def test_a_lock_that_cannot_be_taken_forbids_probes_and_is_told_once(tmp_path, caplog):
    pools = Pools("a", lock=ExperimentLock(tmp_path / "absent" / "experiment.lock"))
    for _ in range(3):
        share = pools.tick("a", asks_probe=True)
        assert not share.may_probe
        assert "No such file or directory" in share.rival
    assert caplog.text.count("cannot be locked") == 1
    (tmp_path / "absent").mkdir()
    assert pools.tick("a").may_probe, "mended"


def test_without_a_budget_there_is_none():
    share = Pools("a").tick("a")
    assert (share.room_bytes, share.room_cores) == (None, None)


def test_the_budget_is_shared_by_all_pools():
    pools = Pools("a", "b", budget=SharedBudget(memory=4 * GB, cpu=3.0))
    pools.tick("a", seen={"memory": 1.0 * GB, "cpu": 0.5})
    share = pools.tick("b", seen={"memory": 0.5 * GB, "cpu": 1.0})
    assert share.room_bytes == pytest.approx(2.5 * GB)
    assert share.room_cores == pytest.approx(1.5)


def test_a_pool_that_was_not_seen_uses_nobody_knows_how_much():
    pools = Pools("a", "b", budget=SharedBudget(memory=4 * GB, cpu=3.0))
    share = pools.tick("a")
    assert (share.room_bytes, share.room_cores) == (0.0, 0.0)


def test_unknown_or_old_use_of_any_pool_leaves_no_room():
    pools = Pools("a", "b", budget=SharedBudget(memory=4 * GB, cpu=3.0))
    pools.tick("a")
    assert pools.tick("b").room_bytes > 0.0
    share = pools.tick("a", seen={"memory": None})
    assert share.room_bytes == 0.0
    assert share.room_cores > 0.0
    assert pools.tick("b").room_bytes == 0.0, "another pool's is unknown"
    pools.tick("a")
    pools.pass_time(3.0)
    assert pools.tick("b").room_bytes > 0.0
    pools.pass_time(0.5)
    assert pools.tick("b").room_bytes == 0.0, "what a used is 3.5 s old"


def test_a_reading_that_is_not_ok_is_no_use_of_zero():
    pools = Pools("a", budget=SharedBudget(memory=4 * GB))
    stale = Reading(signal="memory_bytes", source="test", status=Status.STALE)
    share = pools.arbiter.share("a", POLICY, (stale,), pools.now_ns)
    assert share.room_bytes == 0.0


def test_a_dip_of_one_tick_is_no_room():
    pools = Pools("a", budget=SharedBudget(cpu=2.0))
    pools.tick("a", seen={"cpu": 1.5})
    pools.pass_time()
    assert pools.tick("a", seen={"cpu": 0.1}).room_cores == pytest.approx(0.5)
    for _ in range(5):
        pools.pass_time()
        share = pools.tick("a", seen={"cpu": 0.1})
    assert share.room_cores == pytest.approx(1.9)


GROWS = {"moves": True, "reserved_bytes": 1.0 * GB, "reserved_cores": 0.5}


def test_what_is_promised_to_one_is_not_promised_to_another():
    pools = Pools("a", "b", budget=SharedBudget(memory=4 * GB, cpu=3.0))
    pools.tick("a", seen={"memory": 1.0 * GB})
    before = pools.tick("b", seen={"memory": 1.0 * GB})
    pools.tick("a", seen={"memory": 1.0 * GB}, **GROWS)
    after = pools.tick("b", seen={"memory": 1.0 * GB})
    assert before.room_bytes - after.room_bytes == pytest.approx(1.0 * GB)
    assert before.room_cores - after.room_cores == pytest.approx(0.5)


def test_without_a_budget_promised_memory_is_taken_from_the_hosts_room():
    pools = Pools("a", "b")
    assert pools.tick("a", **GROWS).room_bytes is None
    share = pools.tick("b", seen={"used": 2.0 * GB, "limit": 8.0 * GB})
    assert share.room_bytes == pytest.approx(0.85 * 8 * GB - 2 * GB - 1 * GB)
    blind = pools.share("b", used=None)
    assert blind.room_bytes == 0.0


def test_a_move_before_the_last_one_settled_adds_to_its_promise():
    pools = Pools("a", "b")
    pools.tick("a", **GROWS)
    before = pools.tick("b").room_bytes
    pools.pass_time()
    pools.tick("a", status=ActuationStatus.APPLIED, **GROWS)
    assert before - pools.tick("b").room_bytes == pytest.approx(1.0 * GB)
    pools.pass_time()
    pools.tick("a", status=ActuationStatus.APPLIED, moves=True)
    assert before - pools.tick("b").room_bytes == pytest.approx(1.0 * GB), "a shrink gives nothing"


def test_a_promise_lasts_until_the_move_has_settled():
    pools = Pools("a", "b")
    pools.tick("a", **GROWS)
    for status in (*[ActuationStatus.PENDING] * 5, ActuationStatus.APPLIED, None):
        pools.pass_time()
        pools.tick("a", status=status)
        assert pools.tick("b").room_bytes is not None
    pools.pass_time()
    pools.tick("a")
    assert pools.tick("b").room_bytes is None, "2 s after it was applied"


@pytest.mark.parametrize("status", [ActuationStatus.FAILED, None])
def test_a_move_that_failed_or_was_broken_off_may_have_been_made_in_part(status):
    pools = Pools("a", "b")
    pools.tick("a", **GROWS)
    pools.pass_time()
    pools.tick("a", status=status)
    assert pools.tick("b").room_bytes is not None
    pools.pass_time(2.0)
    pools.tick("a")
    assert pools.tick("b").room_bytes is None


def test_a_move_that_was_refused_takes_nothing():
    pools = Pools("a", "b")
    pools.tick("a", **GROWS)
    pools.pass_time()
    pools.tick("a", status=ActuationStatus.REFUSED)
    assert pools.tick("b").room_bytes is None


@st.composite
def growths(draw):
    """Who wants how many gigabytes more, and after how many slots they show."""
    return draw(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.floats(0.0, 3.0), st.integers(1, 2)), max_size=30
        )
    )


@given(growths(), st.booleans())
def test_pools_that_grow_in_the_same_slot_stay_within_the_memory_limit(wishes, budgeted):
    """Each takes all that it may; two of three wishes come in a slot in which others grew."""
    limit, base = 8.0 * GB, {"a": 0.5 * GB, "b": 0.5 * GB}
    budget = SharedBudget(memory=round(0.85 * limit)) if budgeted else None
    pools = Pools("a", "b", budget=budget)
    shown, coming = dict(base), []  # (slot, pool, bytes)
    outcome = {}
    for number, (pool, wanted, delay) in enumerate(wishes):
        if number % 3 == 0:
            pools.pass_time(3.0)  # also time for a settled move
            for slot, who, much in [c for c in coming if c[0] <= pools.index]:
                shown[who] += much
                coming.remove((slot, who, much))
            for name in "ab":
                pools.tick(
                    name,
                    seen={"memory": shown[name], "used": sum(shown.values()), "limit": limit},
                    status=outcome.pop(name, None),
                )
        seen = {"memory": shown[pool], "used": sum(shown.values()), "limit": limit}
        share = pools.share(pool, **seen)
        host = POLICY.guard.memory_ratio * limit - seen["used"]
        room = host if share.room_bytes is None else min(host, share.room_bytes)
        grant = min(wanted * GB, room)
        if grant > 0.0 and pool not in outcome:  # one move at a time
            pools.took(pool, share, moves=True, reserved_bytes=grant)
            outcome[pool] = ActuationStatus.APPLIED
            coming.append((pools.index + delay, pool, grant))
        else:
            pools.took(pool, share, status=outcome.get(pool) and ActuationStatus.PENDING)
        assert sum(shown.values()) + sum(c[2] for c in coming) <= 0.85 * limit * (1 + 1e-9)


class Gives:
    def __init__(self, *signals):
        self.signals = signals


def test_a_budget_needs_to_see_what_each_pool_uses():
    pools = [("a", [Gives("memory_bytes", "cpu_cores")]), ("b", [Gives("cpu_cores")])]
    unmeasured(SharedBudget(cpu=2.0), pools)
    with pytest.raises(PolicyError, match="pool b: no sensor gives memory_bytes, which `budget`"):
        unmeasured(SharedBudget(memory=4 * GB), pools)
