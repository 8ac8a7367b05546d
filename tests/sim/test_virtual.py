"""What stands in for real things in a simulation keeps their rules."""

import asyncio
from dataclasses import replace

import pytest
import ticks as make

from poolwright.core.errors import PlantFault
from poolwright.core.model import Resume
from poolwright.engine.snapshot import LearnerState
from poolwright.engine.virtual import VirtualJournal, VirtualLearner, VirtualLoop
from poolwright.sim.faults import DiskFull, Faults, LearnerFault
from poolwright.sim.world import START_WALL_NS, SimClock

S = 10**9


def test_time_passes_only_where_it_is_waited_for():
    clock = SimClock()
    order = []

    async def sleeper(name, span_s):
        await asyncio.sleep(span_s)
        order.append((name, clock.mono_ns()))

    async def main():
        await asyncio.gather(sleeper("b", 86400.0), sleeper("a", 0.25), sleeper("c", 1e7))

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(main())
    assert [name for name, _ in order] == ["a", "b", "c"]
    assert [at for _, at in order] == [
        pytest.approx(at, abs=2) for at in (S // 4, 86400 * S, 10**7 * S)
    ]


def test_a_deadline_ends_what_hangs():
    clock = SimClock()

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.sleep(1e9)

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(main())
    assert clock.mono_ns() == pytest.approx(S // 2, abs=2)


def test_waiting_for_what_never_comes_is_told_and_does_not_hang():
    with (
        asyncio.Runner(loop_factory=lambda: VirtualLoop(SimClock())) as runner,
        pytest.raises(RuntimeError, match="never happen"),
    ):
        runner.run(asyncio.Event().wait())


def test_the_wall_clock_can_be_stepped_and_the_other_cannot():
    clock = SimClock()
    clock.pass_ns(5 * S)
    clock.step_wall(-3600.0)
    assert clock.mono_ns() == 5 * S
    assert clock.wall_ns() == START_WALL_NS + 5 * S - 3600 * S


# -- the learner, against the rules of engine.learner --------------------------------------------


class Bench:
    """A virtual learner at a virtual clock; `make_plan` gives plans that say what was asked."""

    def __init__(self, *faults, refuse=""):
        self.clock = SimClock()
        self.faults = Faults(faults, 0)
        self.asked = []
        self.refuse = refuse
        self.learner = VirtualLearner(self._plan, self.clock, self.faults, start_s=1.0, fit_s=0.5)
        self.wait(0.0)

    def _plan(self, request):
        self.asked.append(request)
        if self.refuse:
            raise ValueError(self.refuse)
        return make.plan(request.version, 5)

    def wait(self, span_s):
        self.clock.pass_ns(round(span_s * S))
        self.faults.advance(self.clock.mono_ns() / S)

    def submit(self, version=1, pool="web"):
        found = make.Bench().warm().fit_request
        self.learner.submit(pool, replace(found, version=version))

    def answer(self, pool="web"):
        plan, failure = self.learner.take(pool), self.learner.failure(pool)
        return failure if plan is None else plan.version


def test_a_plan_comes_later_and_once_and_the_first_takes_a_start():
    bench = Bench()
    assert bench.learner.state is LearnerState.ASLEEP
    bench.submit(1)
    assert bench.learner.state is LearnerState.FITTING
    bench.wait(1.4)
    assert bench.answer() == ""
    bench.wait(0.2)
    assert bench.answer() == 1
    assert bench.answer() == ""
    assert bench.learner.state is LearnerState.IDLE
    bench.submit(2)
    bench.wait(0.5)
    assert bench.answer() == 2
    bench.wait(61.0)
    assert bench.learner.state is LearnerState.ASLEEP


def test_one_fit_at_a_time_and_a_waiting_request_is_replaced():
    bench = Bench()
    bench.submit(1)
    bench.submit(2, "api")
    bench.submit(3, "api")
    bench.wait(1.5)
    assert (bench.answer(), bench.answer("api")) == (1, "")
    bench.wait(0.5)
    assert bench.answer("api") == 3
    assert [request.version for request in bench.asked] == [1, 3]


def test_what_the_learner_refuses_is_a_failure_and_no_death():
    bench = Bench(refuse="no usable evidence")
    bench.submit(1)
    bench.wait(2.0)
    assert bench.answer() == "no usable evidence"
    assert bench.learner.state is LearnerState.IDLE


def test_what_is_forgotten_does_not_come():
    bench = Bench()
    bench.submit(1)
    bench.learner.forget("web")
    bench.wait(5.0)
    assert bench.answer() == ""


def test_a_hang_is_killed_at_the_deadline_and_the_pause_doubles():
    bench = Bench(LearnerFault(does="hangs", at=0.0, lasts=60.0))
    bench.submit(1)
    bench.wait(19.9)
    assert bench.answer() == ""
    bench.wait(0.2)
    assert "no plan within 20 s" in bench.answer()
    assert bench.learner.state is LearnerState.FAILED
    bench.submit(2)
    bench.wait(0.3)
    assert bench.learner.state is LearnerState.FAILED  # the pause of half a second
    bench.answer()
    bench.wait(0.3)
    bench.answer()
    assert bench.learner.state is LearnerState.FITTING


def test_one_that_hangs_and_crashes_is_dead_by_the_deadline():
    hangs = LearnerFault(does="hangs", at=0.0, lasts=60.0)
    bench = Bench(hangs, LearnerFault(does="crashes", at=0.0, lasts=60.0))
    bench.submit(1)
    bench.wait(20.1)
    assert "signal 9" in bench.answer()
    assert bench.learner.state is LearnerState.FAILED


def test_an_absurd_plan_is_well_formed_and_on_the_lattice():
    bench = Bench(LearnerFault(does="absurd", at=0.0, lasts=60.0))
    bench.submit(1)
    bench.wait(2.0)
    plan = bench.learner.take("web")
    assert plan.probes
    levels = [b.setting["workers"] for b in plan.schedule]
    levels += [c.setting["workers"] for c in plan.probes]
    assert all(1 <= level <= 16 for level in levels)


# -- the journal ---------------------------------------------------------------------------------


def test_a_full_disk_is_a_fault_of_every_write_until_there_is_room(tmp_path):
    faults = Faults([DiskFull(at=5.0, lasts=5.0)], 0)
    journal = VirtualJournal(tmp_path / "j.db", faults, lambda _point, _pool: None)
    run = journal.begin_run("web", make.policy(), Resume(), 0)
    faults.advance(6.0)
    with pytest.raises(PlantFault, match="disk is full"):
        journal.note(run, 1, "x", "y")
    faults.advance(11.0)
    journal.note(run, 1, "x", "y")
    journal.close()


def test_what_was_not_committed_is_lost_with_the_process(tmp_path):
    journal = VirtualJournal(tmp_path / "j.db", Faults((), 0), lambda _point, _pool: None)
    run = journal.begin_run("web", make.policy(), Resume(), 0)
    bench = make.Bench()
    for _ in range(3):
        decision = bench.tick()
        journal.append(run, bench.ticks[-1], decision)
    journal.abandon()
    again = VirtualJournal(tmp_path / "j.db", Faults((), 0), lambda _point, _pool: None)
    (note,) = again.last_resume("web").notes
    assert "did not end in order; the last thing it wrote is tick 0" in note
    again.close()
