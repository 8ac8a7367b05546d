"""One tick against a hostile world: hanging sensors, full disks, broken actuators, our own bugs.

The sensors and the actuator are the simulated plant's; journal and core are the real ones.
"""

import asyncio
from dataclasses import replace

import pytest
import ticks as make
from pools import World

from poolwright.core.errors import PlantFault
from poolwright.core.model import (
    Action,
    ActuationStatus,
    Applied,
    Command,
    CommandKind,
    Phase,
    Reason,
    Status,
    setting,
)
from poolwright.core.policy import Knob, Mode, Override
from poolwright.engine.arbiter import Arbiter
from poolwright.engine.recovery import recover
from poolwright.engine.tick import CoreFault
from poolwright.journal.query import JournalReader
from poolwright.policy.config import SharedBudget


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "journal.db")
    yield made
    made.journal.close()


async def test_a_probe_is_journalled_applied_and_its_outcome_told(world):
    decision = await world.probe()
    assert decision.moves
    assert world.actuator.applied == [setting(workers=6)]
    await world.tick()
    assert world.pool.snapshot.tick.actuation.status is ActuationStatus.APPLIED
    world.journal.flush()
    intents = JournalReader(world.path).intents(world.pool.run_id)
    assert [str(i.status) for i in intents] == ["applied"]


async def test_a_sensor_that_hangs_is_given_up_and_is_an_error(world):
    await world.tick()
    world.sensor.seen = lambda: asyncio.Event().wait()
    decision = await world.tick()
    seen = world.pool.snapshot.tick.readings
    assert {r.status for r in seen} == {Status.ERROR}
    assert seen[0].detail == "no answer within 0.02 s"
    assert decision.reason is Reason.NO_DATA


async def test_a_sensor_that_raises_anything_is_an_error_not_a_crash(world, caplog):
    def broken():
        raise ZeroDivisionError("third party")

    world.sensor.seen = broken
    decision = await world.tick()
    assert "ZeroDivisionError: third party" in world.pool.snapshot.tick.readings[0].detail
    assert decision.reason is Reason.NO_DATA
    assert "sensor test raised" in caplog.text


async def test_what_cannot_be_journalled_is_not_done(world, monkeypatch):
    await world.to_the_first_request()
    real = world.journal.append

    def full(run_id, tick, decision):
        if decision.moves:
            raise PlantFault("journal.db: no space left on device")
        real(run_id, tick, decision)

    monkeypatch.setattr(world.journal, "append", full)
    world.learner.plan = make.plan(1, 4, probe=6)
    assert (await world.tick()).moves
    assert world.actuator.applied == []
    decision = await world.tick()
    assert decision.reason is Reason.ACTUATION_FAILED
    assert decision.setting == setting(workers=4)
    assert "not journalled: journal.db: no space left" in decision.detail


async def test_a_disk_that_is_really_full_holds_the_level(tmp_path):
    world = World(tmp_path / "small.db")
    try:
        await world.to_the_first_request()
        world.journal.flush()
        world.journal._db.execute("PRAGMA max_page_count = 1")  # what is there, and no page more
        world.learner.plan = make.plan(1, 4, probe=6)
        decisions = [await world.tick() for _ in range(40)]
        assert any(d.moves for d in decisions)
        assert world.actuator.applied == []
        assert "small.db" in world.pool.journal_error
        assert world.actuator.workers == 4
    finally:
        world.journal._db.execute("PRAGMA max_page_count = 1073741823")
        world.journal.close()


async def test_an_actuator_that_fails_is_reported_and_not_hammered(world):
    world.actuator.error = PlantFault("/run/web.pid: operation not permitted")
    await world.probe()
    decision = await world.tick()
    assert decision.reason is Reason.ACTUATION_FAILED
    assert "operation not permitted" in decision.detail
    for _ in range(9):
        assert not (await world.tick()).moves


async def test_a_service_that_is_gone_is_held_and_taken_up_again(world):
    await world.to_the_first_request()

    def gone():
        raise PlantFault("/run/web.pid: no such file")

    there, world.actuator.reads = world.actuator.reads, gone
    decision = await world.tick()
    assert decision.reason is Reason.READ_BACK_FAILED
    assert decision.detail == "/run/web.pid: no such file"
    world.actuator.reads = lambda: Applied(setting=setting(workers=2), epoch="2", detail="new pid")
    assert (await world.tick()).reason is Reason.PLANT_RESTARTED
    world.actuator.reads = there


async def test_a_core_that_keeps_failing_gives_up(world, monkeypatch):
    def bug(_tick):
        raise AssertionError("ours")

    await world.tick()
    monkeypatch.setattr(world.pool.controller, "step", bug)
    assert await world.tick() is None
    assert await world.tick() is None
    with pytest.raises(CoreFault, match="3 ticks in a row"):
        await world.tick()
    notes = JournalReader(world.path).notes(world.pool.run_id)
    assert [n.kind for n in notes] == ["core_fault"] * 3


async def test_the_envelope_is_asserted_again_before_the_actuator(world, monkeypatch):
    await world.to_the_first_request()
    monkeypatch.setattr(
        "poolwright.engine.tick.violations",
        lambda found, _policy: ("workers=6 is outside 1..5",) if found["workers"] == 6 else (),
    )
    await world.probe()
    assert world.actuator.applied == []
    assert "outside 1..5" in (await world.tick()).detail
    assert world.journal.open_intents("web") == []


async def test_recovery_closes_the_intent_with_what_is_there(tmp_path):
    world = World(tmp_path / "journal.db")

    async def stuck(wanted, decision_tick):
        world.actuator.workers = 5  # half way, and then the daemon dies
        await asyncio.Event().wait()

    world.actuator.apply = stuck
    await world.probe(workers=6)
    await world.tick()
    assert [(t, s) for _, t, s in world.journal.open_intents("web")] == [
        (world.pool._actuation_tick, setting(workers=6))
    ]
    resume = await recover("web", world.actuator, world.journal, world.clock)
    assert world.journal.open_intents("web") == []
    assert any("while moving to workers=6" in n and "found workers=5" in n for n in resume.notes)
    assert resume.notes[-1] == "continuing from workers=5"
    assert resume.baseline == setting(workers=4)
    world.pool._actuating.cancel()
    pool = world.new_pool()
    pool.open_run(resume)
    decision = await pool.tick()
    assert decision.setting == setting(workers=5)
    assert not decision.moves
    assert any("found workers=5" in e for e in decision.events)
    world.journal.close()


async def test_another_policy_goes_on_with_what_was_learned(world):
    await world.to_the_first_request()
    before, run = world.pool.controller.resume(), world.pool.run_id
    await world.pool.adopt(make.policy(seed=7), "policy changed")
    after = world.pool.controller.resume()
    assert world.pool.run_id != run
    assert (after.evidence, after.baseline) == (before.evidence, before.baseline)
    assert (await world.tick()).tick == 0


async def test_no_learned_move_is_made_before_a_window_and_a_fit_under_the_new_policy(world):
    await world.to_the_first_request()
    world.learner.plan = make.plan(world.learner.requests[-1].version, 6)
    assert (await world.tick()).setting == setting(workers=6)
    await world.tick()
    stale = make.plan(1, 9)  # of a request that was made under the old policy
    await world.pool.adopt(make.policy(objective=(("latency_p99_s", 1.0),)), "policy changed")
    assert world.learner.forgotten == 1
    world.learner.plan = stale
    while not world.learner.requests:
        decision = await world.tick()
        assert (decision.setting, decision.moves) == (setting(workers=6), False)
    assert world.learner.requests[0].policy.objective == (("latency_p99_s", 1.0),)
    world.learner.plan = make.plan(world.learner.requests[-1].version, 5)
    assert (await world.tick()).setting == setting(workers=5)


async def test_new_bounds_are_the_only_thing_that_moves_by_itself(world):
    await world.tick()
    narrower = make.policy(knobs=(Knob(name="workers", lower=1, upper=3, settle_s=2.0),))
    await world.pool.adopt(narrower, "policy changed")
    decision = await world.tick()
    assert (decision.reason, decision.setting) == (Reason.OUT_OF_BOUNDS, setting(workers=3))
    assert world.actuator.applied == [setting(workers=3)]


@pytest.mark.parametrize(
    ("change", "goes_on_with"),
    [({"objective": (("latency_p99_s", 1.0),)}, 5), ({"seed": 7}, 4)],
    ids=["another question: stays where it is", "the same plan: back to the best known"],
)
async def test_a_move_under_way_is_broken_off_by_a_new_policy(world, change, goes_on_with):
    async def slow(wanted, decision_tick):
        world.actuator.workers = 5  # the first of two steps
        await asyncio.Event().wait()

    world.actuator.apply = slow
    await world.probe(workers=6)
    run = world.pool.run_id
    await world.pool.adopt(make.policy(**change), "policy changed")
    intents = JournalReader(world.path).intents(run)
    assert [(str(i.status), i.detail) for i in intents] == [("failed", "broken off")]
    decisions = await world.run(4)
    assert decisions[-1].setting == setting(workers=goes_on_with)
    assert Phase.MANUAL not in {d.phase for d in decisions}, "it was no other hand"


async def test_an_actuator_that_does_not_stop_is_left_behind(world, monkeypatch):
    monkeypatch.setattr("poolwright.engine.tick._BREAK_OFF_S", 0.01)
    release = asyncio.Event()

    async def stubborn(wanted, decision_tick):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    world.actuator.apply = stubborn
    await world.probe(workers=6)
    run = world.pool.run_id
    await world.pool.adopt(make.policy(seed=7), "policy changed")
    intents = JournalReader(world.path).intents(run)
    assert intents[0].detail == "broken off, and not yet at an end"
    release.set()


async def test_a_journal_that_cannot_take_the_new_run_leaves_the_old_one(world, monkeypatch):
    await world.to_the_first_request()
    run, policy, controller = world.pool.run_id, world.pool.policy, world.pool.controller

    def full(*_args):
        raise PlantFault("journal.db: no space left on device")

    monkeypatch.setattr(world.journal, "begin_run", full)
    with pytest.raises(PlantFault, match="no space left"):
        await world.pool.adopt(make.policy(seed=7), "policy changed")
    assert (world.pool.run_id, world.pool.policy) == (run, policy)
    assert world.pool.controller is controller
    assert (await world.tick()).tick > 0


def ask(kind, **more):
    return Command(kind=CommandKind(kind), who="ana", why="test", **more)


async def test_what_an_operator_said_stays_under_another_policy_and_after_a_restart(world):
    await world.tick()
    assert world.pool.ask(ask("pause")) == ""
    await world.tick()
    await world.pool.adopt(make.policy(seed=7), "policy changed")
    assert (await world.tick()).phase is Phase.PAUSED
    resume = await recover("web", world.actuator, world.journal, world.clock)
    assert "still paused" in resume.notes
    pool = world.new_pool()
    pool.open_run(resume)
    decision = await pool.tick()
    assert decision.phase is Phase.PAUSED
    assert "still paused" in decision.events


async def test_a_pin_ends_by_itself_also_after_a_restart(world):
    await world.tick()
    until = world.clock.wall_ns() + 10 * 10**9
    assert world.pool.ask(ask("pin", setting=setting(workers=6), until_wall_ns=until)) == ""
    await world.run(5)
    assert world.actuator.workers == 6
    assert world.pool.snapshot.kept.pin == setting(workers=6)
    world.clock.now_ns += 20 * 10**9  # the daemon was down
    world.pool = world.new_pool()
    world.pool.open_run(await recover("web", world.actuator, world.journal, world.clock))
    decision = await world.tick()
    assert [c.kind for c in world.pool.snapshot.tick.commands] == [CommandKind.UNPIN]
    assert "unpinned by poolwright: its time has passed" in decision.events
    assert world.pool.snapshot.kept.pin is None
    assert (await world.tick()).moves is False
    assert world.pool.snapshot.tick.commands == ()


async def test_a_request_that_cannot_be_obeyed_is_refused_and_reaches_no_tick(world):
    assert world.pool.ask(ask("pin", setting=setting(workers=6))) == (
        "the pool has not been seen yet"
    )
    await world.tick()
    assert world.pool.ask(ask("pin", setting=setting(workers=99))) == "workers=99 is outside 1..16"
    await world.tick()
    assert world.pool.snapshot.tick.commands == ()


async def test_requests_are_not_dropped_silently(world):
    for _ in range(64):
        assert world.pool.ask(ask("pause")) == ""
    assert world.pool.ask(ask("resume")) == "64 requests wait already"
    await world.tick()
    assert len(world.pool.snapshot.tick.commands) == 64


async def test_a_rollback_goes_to_what_was_held_before_and_not_to_a_probe(world):
    await world.probe(workers=6)
    assert world.pool.snapshot.previous == setting(workers=4), "from a probe: to what was held"
    while not world.learner.requests[1:]:
        await world.tick()
    world.learner.plan = make.plan(world.learner.requests[-1].version, 3)
    decision = await world.tick()
    assert (decision.setting, decision.probing) == (setting(workers=3), False)
    assert world.pool.snapshot.previous == setting(workers=4)
    assert world.pool.ask(ask("rollback")) == ""
    decision = await world.tick()
    assert world.pool.snapshot.tick.commands[0].setting == setting(workers=4)
    await world.run(5)
    assert world.actuator.workers == 4
    assert world.pool.snapshot.decision.phase is Phase.PAUSED


async def test_the_level_of_a_person_is_not_ours_to_restore(world):
    await world.tick()
    assert world.pool.hands_off == ""
    world.pool.ask(ask("pin", setting=setting(workers=6)))
    await world.tick()
    assert world.pool.hands_off == "it is pinned to workers=6: ana: test"
    world.pool.ask(ask("pause"))
    await world.tick()
    assert world.pool.hands_off == "it is paused"


async def test_the_tick_says_what_the_calendar_says(tmp_path):
    now = 1_789_000_001_000_000_000
    launch = Override(reason="launch", freeze=True, since_wall_ns=now + 2 * 10**9)
    always = replace(make.policy().explore, quiet=("daily 00:00-24:00 UTC",))
    rule = make.policy(overrides=(launch,), explore=always)
    world = World(tmp_path / "journal.db", rule)
    seen = []
    for _ in range(4):
        await world.tick()
        seen.append(world.pool.snapshot.tick.overrides)
        assert world.pool.snapshot.tick.quiet == "daily 00:00-24:00 UTC"
    assert seen == [(), (), (launch,), (launch,)]
    assert world.pool.snapshot.decision.reason is Reason.FROZEN
    world.journal.close()


async def test_pools_of_one_host_probe_one_after_the_other(tmp_path):
    arbiter = Arbiter(("web", "api"))
    one, two = (World(tmp_path / f"{n}.db", name=n, arbiter=arbiter) for n in ("web", "api"))
    try:
        assert (await one.probe()).action is Action.PROBE
        decision = await two.probe()
        assert (decision.reason, decision.asks_probe) == (Reason.HOST_BUSY, True)
        assert two.pool.snapshot.tick.rival == "web"
        while decision.asks_probe:
            first = await one.tick()
            if one.learner.requests[1:]:  # the window of the probe is over
                one.learner.plan = make.plan(one.learner.requests.pop().version, 4)
            decision = await two.tick()
            assert first.probing + decision.probing <= 1
        assert decision.action is Action.PROBE
    finally:
        one.journal.close()
        two.journal.close()


async def test_two_pools_that_grow_in_one_slot_do_not_pass_the_memory_limit_together(tmp_path):
    """Each may grow by its own forecast; there is memory for one of them."""
    arbiter, gb = Arbiter(("web", "api")), 1e9
    rule = make.policy(
        knobs=(Knob(name="workers", lower=1, upper=16, slew_per_move=16, settle_s=2.0),)
    )
    worlds = [World(tmp_path / f"{n}.db", rule, name=n, arbiter=arbiter) for n in ("web", "api")]
    for world in worlds:
        world.sensor.seen = lambda: make.readings(memory=1.0 * gb, used=4.0 * gb, limit=8.0 * gb)
        await world.run(3)
        assert world.pool.ask(ask("pin", setting=setting(workers=10))) == ""
    moved = [await world.tick() for world in worlds]
    grown = [d.setting["workers"] - 4 for d in moved]
    assert grown[0] == 6
    assert 0 <= grown[1] < 6
    assert "memory" in {str(c.kind) for c in moved[1].clamps}
    assert 4.0 * gb + sum(d.reserved_bytes for d in moved) <= 0.85 * 8.0 * gb
    for world in worlds:
        world.journal.close()


async def test_nothing_grows_beyond_the_budget_of_all_pools(tmp_path):
    arbiter = Arbiter(("web",), SharedBudget(memory=round(0.21e9)))
    world = World(tmp_path / "web.db", arbiter=arbiter)
    decision = await world.probe(workers=6)  # of 0.2 GB for four workers
    assert not decision.moves
    assert "memory" in {str(c.kind) for c in decision.clamps}
    world.journal.close()


async def test_a_mode_that_moves_nothing_starts_to_move_only_after_a_look(tmp_path):
    world = World(tmp_path / "web.db", make.policy(mode=Mode.RECOMMEND))
    await world.to_the_first_request()
    world.learner.plan = make.plan(world.learner.requests[-1].version, 6)
    assert (await world.tick()).advice.setting == setting(workers=6)
    await world.pool.adopt(make.policy(), "policy changed")
    while not world.learner.requests:
        assert not (await world.tick()).moves
    world.journal.close()
