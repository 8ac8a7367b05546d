"""What another policy would have done: from what was seen, and estimated where nobody was."""

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime

import journal_life
import pytest
import ticks as make

from poolwright.core.controller import Controller
from poolwright.core.derive import Deriver
from poolwright.core.errors import PolicyError
from poolwright.core.model import Action, Decision, Estimate, Phase, Reason, Resume, setting
from poolwright.core.policy import Mode, Override
from poolwright.core.sample import Sample
from poolwright.core.sketch import sketch_of
from poolwright.engine.other_world import OtherWorld
from poolwright.engine.otherwise import Minutes, Typical
from poolwright.engine.replay import replay
from poolwright.engine.what_if import Learner, what_if
from poolwright.journal.query import JournalReader
from poolwright.journal.record import Step
from poolwright.journal.sqlite import SqliteJournal
from poolwright.learn.forecast import Forecast, Versus
from poolwright.learn.plan import make_plan

REAL = Learner(plan=make_plan, forecast=Forecast)
TICKS = 420
SHORT = {"window_s": 10.0, "warmup_windows": 2}


def policy(**more):
    plain = make.policy(**more)
    return replace(plain, explore=replace(plain.explore, **SHORT))


def pinned(level, **more):
    return policy(overrides=(Override(reason="as asked", pin=(("workers", level),)),), **more)


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A real core with a real learner on the simulated plant; (path, run, its pairs)."""
    path = tmp_path_factory.mktemp("lived") / "j.db"
    pairs = list(journal_life.simulated(policy(), TICKS))
    journal = SqliteJournal(path)
    run = journal_life.keep(journal, pairs, policy())
    journal.close()
    return path, run, pairs


def asked(lived, other, learner=REAL):
    path, run, _ = lived
    with JournalReader(path) as reader:
        return what_if(reader, run, Controller, other, learner)


def test_the_same_policy_decides_the_same_at_every_tick(lived):
    found = asked(lived, policy())
    assert sum(decision.moves for _, decision in lived[2]) > 2
    assert (found.ticks, found.differing, found.first) == (TICKS, 0, None)
    assert (found.stretches, found.estimates) == ((), ())
    assert found.outside_minutes[0] == found.outside_minutes[1]
    assert found.moves == found.moves_otherwise > 2
    assert found.unlike_from is None


def test_what_is_estimated_of_another_setting_is_what_would_have_been_seen(lived):
    """The truth is played: the same service and clients, under the other policy."""
    level = 3
    found = asked(lived, pinned(level))
    over = Override(reason="as asked", pin=(("workers", level),))
    truth = list(journal_life.simulated(pinned(level), TICKS, overrides=lambda _: (over,)))
    apart = [
        (there, here)
        for (there, decided), (here, recorded) in zip(truth, lived[2], strict=True)
        if decided.setting != recorded.setting and there.applied.setting == setting(workers=level)
    ]
    assert len(apart) == pytest.approx(found.apart_s, rel=0.1)

    def mean(signal):
        gaps = [value(there, signal) - value(here, signal) for there, here in apart]
        return sum(gaps) / len(gaps)

    estimates = dict(found.estimates)
    for response in ("memory_bytes", "cpu_cores"):
        seen = estimates[response]
        assert abs(seen.mean - mean(response)) <= max(3.0 * seen.std, 0.1 * abs(mean(response)))
    assert estimates["memory_bytes"].mean != 0.0
    for stretch in found.stretches:
        assert stretch.otherwise.setting != stretch.recorded.setting
    assert found.first[2].reason == Reason.PINNED


def value(tick, signal):
    return next(r.value for r in tick.readings if r.signal == signal)


def test_plans_are_fitted_to_what_was_measured_and_to_nothing_else(lived):
    requests = []

    def plan(request):
        requests.append(request)
        return make_plan(request)

    # It wants far fewer, so it is soon in a world that nobody saw.
    other = policy(objective=(("memory_bytes", 1.0),))
    found = asked(lived, other, Learner(plan=plan, forecast=Forecast))
    measured = {d.observation for _, d in lived[2] if d.observation is not None}
    assert found.apart_s > 0.0
    assert found.plans == len(requests) > 3
    for request in requests:
        assert {e.observation for e in request.evidence} <= measured
        assert request.policy.objective == other.objective


def test_without_a_learner_nothing_is_estimated(lived):
    def none(_):
        raise ValueError("nothing of the objective was ever seen: cost_per_hour")

    found = asked(lived, pinned(7), Learner(plan=none, forecast=none))
    assert found.apart_s > 0.0
    assert (found.estimates, found.estimated_s) == ((), 0.0)
    assert "cost_per_hour" in found.plan_fault


def test_a_policy_in_observe_mode_would_have_moved_nothing(lived):
    found = asked(lived, policy(mode=Mode.OBSERVE))
    assert found.moves > 0
    assert found.moves_otherwise == 0
    assert {stretch.otherwise.setting for stretch in found.stretches} == {setting(workers=4)}
    assert sum(stretch.span_s for stretch in found.stretches) == found.apart_s


def test_a_run_whose_first_ticks_are_gone_begins_with_what_was_measured(lived, tmp_path):
    path = tmp_path / "cut.db"
    journal = SqliteJournal(path, batch_ticks=10)
    run = journal_life.keep(journal, lived[2], policy())
    journal.close()
    half = TICKS // 2
    db = sqlite3.connect(path)
    (seq,) = db.execute("SELECT max(seq) FROM batches WHERE last_tick < ?", (half,)).fetchone()
    db.execute("DELETE FROM batches WHERE seq <= ?", (seq,))
    db.execute("UPDATE runs SET kept_seq = ?", (seq + 1,))
    db.commit()
    db.close()
    asked_for = []

    def plan(request):
        asked_for.append(request)
        return make_plan(request)

    found = asked((path, run, ()), pinned(3), Learner(plan=plan, forecast=Forecast))
    assert half - 20 < found.cut_before <= half
    assert found.ticks == TICKS - found.cut_before
    assert found.stretches[-1].otherwise.setting == setting(workers=3)
    assert found.estimates
    early = [e.observation.closed_tick for e in asked_for[0].evidence]
    assert min(early) < found.cut_before


def test_a_policy_about_other_knobs_is_refused(lived):
    threads = replace(make.policy().knobs[0], name="threads")
    with pytest.raises(PolicyError, match=f"moves threads, and run {lived[1]} moved workers"):
        asked(lived, make.policy(knobs=(threads,)))


MONDAY_0930_NS = int(datetime(2026, 3, 2, 9, 30, tzinfo=UTC).timestamp()) * 10**9


class Telling:
    """Holds, and remembers what its ticks said of the calendar."""

    sample = None
    told = ()

    def __init__(self, *_):
        pass

    def resume(self):
        return Resume()

    def step(self, tick):
        Telling.told += ((tick.quiet, tuple(o.reason for o in tick.overrides)),)
        return Decision(
            tick=tick.index, phase=Phase.EXPLORE, action=Action.HOLD, moves=False,
            setting=setting(workers=4), reason=Reason.MEASURING,
        )  # fmt: skip


def test_the_calendar_is_the_journals_in_a_replay_and_the_other_policys_in_a_what_if(tmp_path):
    """One tick before, three in and one after what each policy says of that morning."""
    journalled = Override(reason="as it was", freeze=True)
    launch = Override(
        reason="launch", pin=(("workers", 9),),
        since_wall_ns=MONDAY_0930_NS, until_wall_ns=MONDAY_0930_NS + 3 * 60 * 10**9,
    )  # fmt: skip
    quiet = ("Mon 09:30-09:33 UTC",)
    other = make.policy(overrides=(launch,), explore=replace(make.policy().explore, quiet=quiet))
    journal = SqliteJournal(tmp_path / "j.db")
    run = journal.begin_run("web", make.policy(seed=1), Resume(), 1)
    for i in range(5):
        tick = make.Tick(
            index=i, mono_ns=i, wall_ns=MONDAY_0930_NS + (i - 1) * 60 * 10**9,
            quiet="as it was", overrides=(journalled,),
        )  # fmt: skip
        journal.append(run, tick, Telling().step(tick))
    journal.close()
    Telling.told = ()
    with JournalReader(tmp_path / "j.db") as reader:
        assert replay(reader, run, Telling).identical
        assert Telling.told == (("as it was", ("as it was",)),) * 5
        Telling.told = ()
        what_if(reader, run, Telling, other, REAL)
    there = ("Mon 09:30-09:33 UTC", ("launch",))
    assert Telling.told[1::2] == (("", ()), there, there, there, ("", ()))


def responses(**values):
    return tuple((name, Estimate(mean=mean, std=0.1)) for name, mean in sorted(values.items()))


PAIR = Versus(
    one=responses(latency_p99_s=0.1, latency_p50_s=0.05, cpu_cores=1.0, memory_bytes=1e8),
    other=responses(latency_p99_s=0.3, latency_p50_s=0.1, cpu_cores=1.2, memory_bytes=5e7),
    differences=(),
)


def test_the_other_world_has_the_recorded_load_and_says_what_is_estimated():
    bench = make.Bench(workers=4)
    bench.warm()
    world, here, there = OtherWorld(), Deriver(), Deriver()
    recorded = replace(bench.decisions[-1], setting=setting(workers=4), moves=False)
    world.level = setting(workers=2)
    world._alike = False
    for tick in bench.ticks[-8:]:
        made = world.tick(tick, recorded, PAIR)
        assert made.applied.setting == setting(workers=2)
        assert (made.index, made.mono_ns, made.commands) == (
            tick.index, tick.mono_ns, tick.commands,
        )  # fmt: skip
        seen, otherwise = here.derive(tick), there.derive(made)
        if seen.dt_s:
            assert otherwise.load_rps == pytest.approx(seen.load_rps)
        assert otherwise.latency.quantile(0.99) == pytest.approx(
            3.0 * seen.latency.quantile(0.99), rel=0.03
        )
        before = {r.signal: r for r in tick.readings}
        for reading in made.readings:
            changed = reading.value != before[reading.signal].value
            assert reading.estimated or not changed


def test_another_hand_moves_the_other_world_too():
    world = OtherWorld()
    bench = make.Bench(workers=4)
    bench.warm()
    tick, decision = bench.ticks[-1], bench.decisions[-1]
    world.follow(Step(tick=tick, decision=decision), decision)
    assert world.level == setting(workers=4)
    theirs = replace(tick, applied=replace(tick.applied, setting=setting(workers=9)))
    seen = replace(decision, reason=Reason.OTHER_HAND)
    world.follow(Step(tick=theirs, decision=seen), seen)
    assert world.level == setting(workers=9)


def test_typical_is_a_median_over_time_of_bounded_memory():
    typical = Typical()
    for i in range(20_001):
        wild = 1e6 if i % 10 == 0 else 1.0
        typical.add((("latency_p99_s", Estimate(mean=wild, std=wild)),), 1.0)
    assert typical.span_s == 20_001
    assert typical.made() == (("latency_p99_s", Estimate(mean=1.0, std=1.0)),)
    assert len(typical._kept["latency_p99_s"]) <= 4096


def test_minutes_outside_the_slo():
    slo = next(slo for slo in make.policy().slo if slo.response == "latency_p99_s")
    minutes = Minutes((slo, replace(slo, response="error_ratio")))
    for i in range(300):
        slow = i in {70, 71, 250}  # two seconds of the second minute, one of the fifth
        seen = sketch_of([2.0 * slo.below if slow else 0.5 * slo.below] * 10)
        minutes.see(Sample(tick=i, dt_s=1.0, latency=seen if i != 130 else None))
    assert minutes.outside == 2
