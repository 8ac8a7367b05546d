"""One tick against a hostile world: hanging sensors, full disks, broken actuators, our own bugs.

The sensors and the actuator are the simulated plant's; journal and core are the real ones.
"""

import asyncio

import pytest
import ticks as make

from poolwright.core.errors import PlantFault
from poolwright.core.model import (
    Actuation,
    ActuationStatus,
    Applied,
    Reason,
    Resume,
    Status,
    setting,
)
from poolwright.engine.recovery import recover
from poolwright.engine.snapshot import LearnerState
from poolwright.engine.tick import CoreFault, Pool
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal


class Hands:
    """A clock that is set by hand."""

    def __init__(self):
        self.now_ns = 10**9

    def mono_ns(self):
        return self.now_ns

    def wall_ns(self):
        return 1_789_000_000_000_000_000 + self.now_ns


class Sees:
    """A sensor that says what the test says."""

    source, deadline_s = "test", 0.02
    signals = ("throughput_rps", "latency_s")

    def __init__(self):
        self.seen = make.readings
        self.reads = 0

    async def start(self):
        pass

    async def read(self, now_ns):
        self.reads += 1
        found = self.seen()
        return await found if asyncio.iscoroutine(found) else found

    async def close(self):
        pass


class Moves:
    """An actuator over a number."""

    knobs, endpoint = ("workers",), "a number"

    def __init__(self, workers=4):
        self.workers = workers
        self.applied = []
        self.reads = lambda: Applied(setting=setting(workers=self.workers), epoch="1")
        self.error = None

    async def read(self):
        return self.reads()

    async def apply(self, wanted, decision_tick):
        self.applied.append(wanted)
        if self.error is not None:
            raise self.error
        self.workers = wanted["workers"]
        return Actuation(decision_tick=decision_tick, status=ActuationStatus.APPLIED)

    async def close(self):
        pass


class Thinks:
    """A learner whose plans the test writes."""

    state, rss_bytes = LearnerState.ASLEEP, None

    def __init__(self):
        self.requests, self.plan, self.fault = [], None, ""

    def submit(self, _pool, request):
        self.requests.append(request)

    def take(self, _pool):
        plan, self.plan = self.plan, None
        return plan

    def failure(self, _pool):
        fault, self.fault = self.fault, ""
        return fault


class World:
    """A Pool with everything round it."""

    def __init__(self, path, policy=None, workers=4):
        self.path = path
        self.clock, self.sensor = Hands(), Sees()
        self.actuator, self.learner = Moves(workers), Thinks()
        self.journal = SqliteJournal(path)
        self.policy = policy or make.policy()
        self.pool = self.new_pool()
        self.pool.open_run(Resume())

    def new_pool(self):
        return Pool(
            name="web",
            policy=self.policy,
            sensors=(self.sensor,),
            actuator=self.actuator,
            journal=self.journal,
            learner=self.learner,
            clock=self.clock,
        )

    async def tick(self):
        decision = await self.pool.tick()
        self.clock.now_ns += 10**9
        await asyncio.sleep(0)  # let an actuation run
        return decision

    async def to_the_first_request(self):
        while not self.learner.requests:
            await self.tick()

    async def probe(self, workers=6):
        """Answer the first request with a plan that probes; the deciding tick's decision."""
        await self.to_the_first_request()
        self.learner.plan = make.plan(self.learner.requests[-1].version, 4, probe=workers)
        return await self.tick()


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
        "poolwright.engine.tick.violations", lambda _s, _p: ("workers=6 is outside 1..5",)
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
