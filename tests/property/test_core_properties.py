"""Whatever the world does, the controller keeps its promises; equal ticks, equal decisions."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ticks import BLIND, Bench, plan, policy, readings

from poolwright.core.controller import Controller
from poolwright.core.derive import compose
from poolwright.core.envelope import fit, violations
from poolwright.core.evidence import CAPACITY, EvidenceStore
from poolwright.core.model import (
    ActuationStatus,
    Command,
    CommandKind,
    Context,
    Estimate,
    Observation,
    setting,
)
from poolwright.core.phase import TRANSITIONS, Event, after
from poolwright.core.policy import Knob, Mode
from poolwright.core.sketch import RELATIVE_ERROR, merged, sketch_of

LATENCIES = st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=200)


@given(LATENCIES, st.floats(0.0, 1.0))
def test_a_quantile_is_within_the_relative_error(values, q):
    exact = sorted(values)[math.floor(q * (len(values) - 1))]
    assert sketch_of(values).quantile(q) == pytest.approx(exact, rel=1.01 * RELATIVE_ERROR)


@given(LATENCIES, LATENCIES)
def test_merging_is_the_same_as_seeing_all(a, b):
    together, one = merged([sketch_of(a), sketch_of(b)]), sketch_of(a + b)
    assert (together.bins, together.zeros, together.count) == (one.bins, one.zeros, one.count)
    assert together.total == pytest.approx(one.total)


@given(LATENCIES, st.lists(st.integers(0, 50), min_size=1, max_size=40), st.floats(1e-3, 1.0))
def test_composed_latency_has_the_mean_that_littles_law_gives(served, queue, each):
    service, waiting = sketch_of(served), sketch_of(map(float, queue))
    mean = compose(service, waiting, each).mean
    # exact only in the limit of many points: both sums are taken at quantiles
    if len(served) >= 100:
        assert mean == pytest.approx(service.mean + each * waiting.mean, rel=0.25)
    assert mean >= 0.9 * service.quantile(0.0)


@given(
    st.integers(1, 64), st.integers(1, 64), st.integers(1, 8), st.integers(1, 3), st.booleans(),
    st.floats(0.0, 20.0),
)  # fmt: skip
def test_the_envelope_keeps_bounds_lattice_and_slew(current, wanted, slew, step, urgent, still_s):
    knob = Knob(name="workers", lower=2, upper=2 + 20 * step, step=step, slew_per_move=slew * step)
    rule = policy(knobs=(knob,))
    start = setting(workers=knob.clamp(current))
    found = fit(setting(workers=wanted), start, rule, still_s=still_s, urgent=urgent)
    assert not violations(found.setting, rule)
    if not urgent:
        assert abs(found.setting["workers"] - start["workers"]) <= knob.slew_per_move
        if still_s < knob.settle_s:
            assert found.setting == start
    if found.setting["workers"] != wanted:
        assert found.clamps


OBSERVED = st.builds(
    lambda workers, tick, load, breached: Observation(
        setting=setting(workers=workers),
        opened_tick=tick,
        closed_tick=tick + 5,
        span_s=5.0,
        sample_count=100,
        context=Context(load_rps=load),
        responses=(("latency_p99_s", Estimate(mean=0.1, std=0.01)),),
        app_limited=False,
        breached=breached,
    ),
    st.integers(1, 40),
    st.integers(0, 10_000),
    st.floats(1.0, 100.0),
    st.booleans(),
)


@given(st.lists(OBSERVED, max_size=150))
def test_evidence_is_bounded_and_the_last_safe_setting_did_not_breach_since(observed):
    store = EvidenceStore()
    for one in observed:
        store.add(one)
    assert len(store) <= CAPACITY
    safe = store.last_safe(50.0)
    if safe is not None:
        newest = [o for o in observed if o.setting == safe][-1]
        assert not newest.breached


@given(st.lists(OBSERVED, max_size=150), st.integers(0, 40))
def test_the_next_safe_setting_held_a_fifth_more_and_none_nearer_did(observed, here):
    store = EvidenceStore()
    for one in observed:
        store.add(one)
    kept = [item.observation for item in store.items]
    newest = {o.setting["workers"]: o for o in kept}
    held = {w for w, o in newest.items() if not o.breached and o.context.load_rps >= 60.0}
    found = store.next_safe(50.0, setting(workers=here))
    if found is None:
        assert not [w for w in held if w > here]
        return
    assert found["workers"] > here
    assert not newest[found["workers"]].breached
    assert found["workers"] <= min((w for w in held if w > here), default=math.inf)


@given(st.sampled_from(list(TRANSITIONS)))
def test_every_phase_can_be_left(pair):
    phase = TRANSITIONS[pair]
    assert any(after(phase, event) is not phase for event in Event)


WORLD = st.lists(
    st.one_of(
        st.tuples(st.just("good"), st.integers(1, 12)),
        st.tuples(st.just("slow"), st.integers(1, 8)),
        st.tuples(st.just("queueing"), st.integers(1, 8)),
        st.tuples(st.just("blind"), st.integers(1, 15)),
        st.tuples(st.just("unread"), st.integers(1, 4)),
        st.tuples(st.just("hand"), st.integers(1, 20)),
        st.tuples(st.just("reload"), st.integers(1, 20)),
        st.tuples(st.just("gap"), st.integers(10, 4000)),
        st.tuples(st.just("plan"), st.integers(1, 16)),
        st.tuples(st.just("probe"), st.integers(1, 16)),
        st.tuples(st.just("lost plan"), st.just(1)),
        st.tuples(st.just("pause"), st.just(1)),
        st.tuples(st.just("resume"), st.just(1)),
        st.tuples(st.just("fail"), st.booleans()),
        st.tuples(st.just("full"), st.integers(1, 6)),
    ),
    max_size=40,
)


def play(bench, world):
    """Let the world happen to the bench; its own checks hold after every tick."""
    asked = 0
    for what, n in world:
        if bench.decisions and bench.decisions[-1].fit_request is not None:
            asked = bench.decisions[-1].fit_request.version
        if what == "good":
            bench.run(n)
        elif what == "slow":
            bench.run(n, seen=readings(latency_s=2.0))
        elif what == "queueing":
            bench.run(n, seen=readings(queue=60.0))
        elif what == "blind":
            bench.run(n, seen=BLIND)
        elif what == "full":
            bench.run(n, seen=readings(used=7.9e9))
        elif what == "unread":
            bench.run(n, applied=False, fault="gone")
        elif what == "hand":
            bench.workers = n
            bench.run(4)
        elif what == "reload":
            bench.workers, bench.epoch = n, bench.epoch + "+"
            bench.run(2)
        elif what == "gap":
            bench.mono_ns += n * 1_000_000_000
            bench.tick()
        elif what in ("plan", "probe"):
            bench.tick(plan=plan(asked, 5, probe=n if what == "probe" else None))
        elif what == "lost plan":
            bench.tick(learner_fault="died")
        elif what == "fail":
            bench.obeys = not n
            bench.status = ActuationStatus.FAILED if n else ActuationStatus.APPLIED
        else:
            kind = CommandKind.PAUSE if what == "pause" else CommandKind.RESUME
            bench.tick(commands=(Command(kind=kind, who="ada"),))


@settings(deadline=None, max_examples=60)
@given(WORLD, st.sampled_from(list(Mode)))
def test_any_world_keeps_the_envelope_and_replays(world, mode):
    bench = Bench(policy(mode=mode))
    play(bench, world)
    again = Controller(bench.policy)
    for tick, decision in zip(bench.ticks, bench.decisions, strict=True):
        assert again.step(tick) == decision


@settings(deadline=None, max_examples=30)
@given(WORLD, st.randoms(use_true_random=False))
def test_the_order_of_readings_does_not_matter(world, shuffler):
    bench = Bench()
    play(bench, world)
    again = Controller(bench.policy)
    for tick, decision in zip(bench.ticks, bench.decisions, strict=True):
        shuffled = list(tick.readings)
        shuffler.shuffle(shuffled)
        other = again.step(
            type(tick)(
                **{n: getattr(tick, n) for n in tick.__slots__} | {"readings": tuple(shuffled)}
            )
        )
        assert (other.setting, other.reason) == (decision.setting, decision.reason)


@settings(deadline=None, max_examples=60)
@given(WORLD)
def test_no_probe_while_blind_tripped_or_paused(world):
    bench = Bench()
    play(bench, world)
    for tick, decision in zip(bench.ticks, bench.decisions, strict=True):
        if str(decision.action) == "probe":
            assert tick.readings is not BLIND
            assert not {"memory_breach", "cpu_breach", "error_breach"} & set(decision.guard_trips)
            assert str(decision.phase) == "explore"


def test_windows_do_not_all_have_the_same_length():
    bench = Bench(workers=4)
    spans = set()
    for _ in range(400):
        decision = bench.tick()
        if decision.observation is not None:
            spans.add(decision.observation.closed_tick - decision.observation.opened_tick)
    assert len(spans) > 1


def test_randomness_is_seeded_by_policy_and_tick():
    a, b = Bench(policy(seed=1)), Bench(policy(seed=2))
    a.run(100)
    b.run(100)
    assert [d.state_digest for d in a.decisions] != [d.state_digest for d in b.decisions]
