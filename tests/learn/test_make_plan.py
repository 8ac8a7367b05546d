"""make_plan on evidence of every kind: invariants, refusals, safety, independence."""

import os
import subprocess
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from learn_loop import WEIGHTS, held, policy, request
from plants import MIB, Plant, window

from poolwright.core.model import (
    Context,
    Estimate,
    Evidence,
    Observation,
    Setting,
    Verdict,
    setting,
)
from poolwright.core.policy import Knob
from poolwright.learn.declare import At, Values
from poolwright.learn.flow import Latency, capacity
from poolwright.learn.plan import make_plan
from poolwright.learn.points import Points, tabulate
from poolwright.learn.residual import Prior, Rows, fit, kernel
from poolwright.learn.wire import Reply, decode_reply, decode_request, encode

PLANT = Plant()


def windows(levels, loads=(80.0,), seed=1, plant=PLANT) -> list[Evidence]:
    rng = np.random.default_rng(seed)
    loads = list(loads)
    return [window(plant, rng, 10 * k, w, loads[k % len(loads)]) for k, w in enumerate(levels)]


def without(evidence, *names) -> list[Evidence]:
    """The same evidence with some responses never seen."""
    return [
        replace(
            e,
            observation=replace(
                e.observation,
                responses=tuple(r for r in e.observation.responses if r[0] not in names),
            ),
        )
        for e in evidence
    ]


def verdicts(plan) -> dict[Setting, Verdict]:
    return {c.setting: c.verdict for c in plan.candidates}


def recommended(plan) -> Setting:
    (one,) = [c.setting for c in plan.candidates if c.verdict is Verdict.RECOMMENDED]
    return one


def choices(plan):
    return (
        verdicts(plan),
        [p.setting for p in plan.probes],
        [(b.setting, b.safe_lower, b.safe_upper) for b in plan.schedule],
    )


SEEN = windows([5, 5, 5, 7, 6, 9, 8, 7, 6, 10])


# --- what it may not depend on


def test_the_same_request_gives_the_same_bytes_here_and_in_another_process():
    asked = request(SEEN, setting(workers=7), memory_limit_bytes=500 * MIB, leverage=True)
    here = msgspec.json.encode(make_plan(asked))
    assert msgspec.json.encode(make_plan(asked)) == here
    program = (
        "import sys, msgspec\n"
        "from poolwright.learn.plan import make_plan\n"
        "from poolwright.learn.wire import decode_request\n"
        "sys.stdout.buffer.write(msgspec.json.encode(make_plan(decode_request(sys.stdin.buffer.read()))))"
    )
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "77"}
    there = subprocess.run(
        [sys.executable, "-c", program],
        input=encode(asked),
        capture_output=True,
        check=True,
        env=env,
    ).stdout
    assert there == here


def test_the_order_of_windows_of_one_tick_does_not_matter():
    same_tick = [replace(e, observation=replace(e.observation, opened_tick=3)) for e in SEEN]
    first = make_plan(request(same_tick, setting(workers=7)))
    rng = np.random.default_rng(0)
    for _ in range(3):
        shuffled = [same_tick[k] for k in rng.permutation(len(same_tick))]
        assert msgspec.json.encode(make_plan(request(shuffled, setting(workers=7)))) == (
            msgspec.json.encode(first)
        )


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_the_scale_of_the_weights_does_not_change_the_choice(factor):
    scaled = policy(weights={name: factor * w for name, w in WEIGHTS.items()})
    plain = make_plan(request(SEEN, setting(workers=7)))
    other = make_plan(request(SEEN, setting(workers=7), policy=scaled))
    assert choices(other) == choices(plain)
    assert other.best_gain_ratio == pytest.approx(plain.best_gain_ratio, rel=1e-4)


def test_the_references_stay_as_evidence_is_added():
    few = make_plan(request(SEEN[:4], setting(workers=5)))
    many = make_plan(request(SEEN, setting(workers=7)))
    assert dict(few.references) == dict(many.references)
    assert dict(few.references)["latency_p99_s"] == 0.25


# --- too little, or odd


def test_no_evidence_is_refused():
    with pytest.raises(ValueError, match="no usable evidence"):
        make_plan(request([], setting(workers=5)))
    weightless = [replace(e, weight=0.0) for e in SEEN]
    with pytest.raises(ValueError, match="no usable evidence"):
        make_plan(request(weightless, setting(workers=5)))


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="a setting of workers was expected"):
        make_plan(request(SEEN, setting(threads=5)))
    with pytest.raises(ValueError, match="nothing of the objective was ever seen"):
        make_plan(request(without(SEEN, *WEIGHTS), setting(workers=5)))


def test_one_window_is_enough_for_a_plan():
    plan = make_plan(request(SEEN[:1], setting(workers=5)))
    assert plan.schedule
    assert all(b.setting in {setting(workers=w) for w in (4, 5, 6, 7)} for b in plan.schedule)


def test_a_knob_of_one_level_has_nothing_to_try():
    fixed = replace(policy(), knobs=(Knob(name="workers", lower=5, upper=5),))
    plan = make_plan(request(SEEN[:3], setting(workers=5), policy=fixed))
    assert plan.probes == ()
    assert plan.best_gain_ratio == 0.0
    assert recommended(plan) == setting(workers=5)


def test_no_probe_while_next_to_nothing_comes():
    plan = make_plan(request(SEEN, setting(workers=7), load=0.0))
    assert plan.probes == ()
    assert plan.context.load_rps == 0.0


def test_windows_without_load_feed_memory_only():
    still = [
        replace(
            e,
            observation=replace(
                e.observation,
                context=Context(load_rps=0.0),
                responses=(("memory_bytes", Estimate(mean=2e8, std=1e6)),),
            ),
        )
        for e in SEEN[:3]
    ]
    alone = make_plan(request(still, setting(workers=5)))
    assert alone.probes == (), "the latency was never seen, so nothing is known to be safe"
    assert recommended(alone) == setting(workers=5)
    mixed = make_plan(request(still + SEEN, setting(workers=7)))
    assert mixed.schedule[0].load_lower_rps < 1.0
    assert mixed.schedule[-1].load_upper_rps > 80.0


def test_an_unknown_load_falls_back_on_what_was_completed():
    unknown = [replace(e, observation=replace(e.observation, context=Context())) for e in SEEN]
    plan = make_plan(request(unknown, setting(workers=7), load=None))
    assert plan.context.load_rps == pytest.approx(80.0, rel=0.2)


# --- safety


def test_a_slo_on_what_was_never_seen_is_never_safe():
    plan = make_plan(request(without(SEEN, "latency_p99_s"), setting(workers=7)))
    assert plan.probes == ()
    assert recommended(plan) == setting(workers=7)
    assert all(c.p_safe == 0.0 for c in plan.candidates)
    assert "never measured" in plan.candidates[0].detail


def test_memory_that_was_never_seen_is_no_permission_to_grow():
    plan = make_plan(
        request(
            without(SEEN, "memory_bytes"),
            setting(workers=6),
            memory_limit_bytes=900 * MIB,
            trust_octaves=1.5,
        )
    )
    assert all(p.setting["workers"] < 6 for p in plan.probes)
    assert verdicts(plan)[setting(workers=8)] is Verdict.UNSAFE_MEMORY


@pytest.mark.parametrize("limit_workers", [6, 8, 11])
def test_nothing_over_the_memory_limit_is_named(limit_workers):
    limit = PLANT.memory(limit_workers)
    plan = make_plan(request(SEEN, setting(workers=5), memory_limit_bytes=limit, trust_octaves=1.5))
    named = [p.setting for p in plan.probes] + [b.setting for b in plan.schedule]
    assert all(PLANT.memory(s["workers"]) <= limit for s in named)
    assert verdicts(plan)[setting(workers=limit_workers + 1)] is Verdict.UNSAFE_MEMORY


def test_over_the_memory_limit_only_smaller_pools_are_named():
    plan = make_plan(
        request(SEEN, setting(workers=10), memory_limit_bytes=PLANT.memory(9), trust_octaves=0.5)
    )
    assert plan.probes
    assert all(p.setting["workers"] < 10 for p in plan.probes)
    assert recommended(plan)["workers"] < 10


def test_in_overload_the_way_out_is_named_and_stays_in_the_trust_region():
    plan = make_plan(request(windows([3, 3, 3]), setting(workers=3)))
    assert plan.probes[0].setting == setting(workers=4)
    assert recommended(plan) == setting(workers=4)
    assert plan.best_gain_ratio > 0.05
    assert verdicts(plan)[setting(workers=6)] is Verdict.OUTSIDE_TRUST_REGION
    assert dict(plan.belief)["utilisation"] > 1.0
    assert dict(plan.belief)["service_p50_s"] == pytest.approx(0.05, rel=0.5)


def test_what_is_tabu_is_not_named():
    free = make_plan(request(SEEN, setting(workers=5), trust_octaves=1.0))
    wanted = {p.setting for p in free.probes} | {recommended(free)}
    tabu = tuple(sorted(wanted, key=lambda s: s.levels))
    plan = make_plan(request(SEEN, setting(workers=5), trust_octaves=1.0, tabu=tabu))
    named = {p.setting for p in plan.probes} | {b.setting for b in plan.schedule}
    assert not named & set(tabu)
    assert all(verdicts(plan)[s] is Verdict.TABU for s in tabu if s != recommended(plan))


def test_leverage_names_what_may_be_best_by_most():
    seen = windows([7] * 8)
    plain = make_plan(request(seen, setting(workers=7), trust_octaves=0.7))
    teach = make_plan(request(seen, setting(workers=7), trust_octaves=0.7, leverage=True))
    by_setting = {c.setting: c for c in teach.candidates}
    first = teach.probes[0]
    assert first.verdict is Verdict.PROBE
    assert first.objective.mean <= 1.15 * by_setting[setting(workers=7)].objective.mean
    least = [p.objective.mean - 1.6449 * p.objective.std for p in (first, *plain.probes)]
    assert least[0] == pytest.approx(min(least), rel=0.01)  # drawn, and not quite Gaussian


def test_before_nothing_is_left_to_try_it_looks_further_and_once():
    near = windows([6, 7, 8] * 8)
    plan = make_plan(request(near, setting(workers=7), trust_octaves=0.8))
    first = plan.probes[0]
    assert min(abs(np.log2(first.setting["workers"] / level)) for level in (6, 7, 8)) > 0.3
    assert first.p_safe >= 0.9
    assert plan.best_gain_ratio >= request(near, setting(workers=7)).policy.explore.epsilon
    wide = windows([4, 5, 6, 7, 8, 9, 10, 12] * 4)
    assert make_plan(request(wide, setting(workers=7), trust_octaves=0.8)).best_gain_ratio < 0.01


# --- what it learns


def test_more_load_takes_more_workers_and_never_far_from_what_was_visited():
    seen = windows([3, 4, 5, 6, 7, 8] * 4, loads=(30.0, 45.0, 60.0, 80.0, 90.0))
    plan = make_plan(request(seen, setting(workers=6)))
    levels = [b.setting["workers"] for b in plan.schedule]
    assert levels == sorted(levels)
    assert levels[-1] > levels[0]
    assert min(levels) >= 3 / np.sqrt(2) - 1e-6
    assert max(levels) <= 8 * np.sqrt(2) + 1e-6
    assert held(plan, 30.0)["workers"] < held(plan, 90.0)["workers"]
    for entry in plan.schedule:
        if entry.safe_lower != entry.safe_upper:
            assert entry.safe_lower["workers"] <= entry.setting["workers"]
            assert entry.setting["workers"] <= entry.safe_upper["workers"]


@pytest.mark.parametrize("seed", [1, 9, 16, 20])
def test_noise_does_not_make_the_schedule_wiggle(seed):
    """Where any of ten settings would do, the cheapest of each bin alone goes up and down."""
    rng, loads = np.random.default_rng(seed), [20, 30, 45, 60, 80]
    seen = [
        window(PLANT, rng, 10 * k, int(rng.integers(6, 16)), float(rng.choice(loads)))
        for k in range(14)
    ]
    flat = policy(weights={"latency_p99_s": 1.0})
    plan = make_plan(request(seen, setting(workers=10), policy=flat))
    levels = [b.setting["workers"] for b in plan.schedule]
    assert levels == sorted(levels)


def test_throughput_is_kept_at_the_load_whatever_the_objective():
    """Watts alone would shrink the pool until it turns requests away."""
    watts = replace(policy(weights={"power_w": 1.0}), slo=())
    seen = without(windows([3, 4, 6, 7, 8, 6]), "latency_p50_s", "latency_p95_s", "latency_p99_s")
    plan = make_plan(request(seen, setting(workers=6), policy=watts, trust_octaves=1.5))
    assert recommended(plan)["workers"] >= 5
    assert held(plan, 80.0)["workers"] >= 5


def test_idle_windows_do_not_pull_capacity_down():
    """Slow windows of workers that are mostly idle are not for want of workers."""
    c = np.array([[4.0]] * 4 + [[10.0]] * 4)
    load = np.array([30.0, 60.0, 70.0, 75.0] + [70.0] * 4)
    latency = np.array([0.05, 0.055, 0.07, 0.11] + [0.25] * 4)
    points = Points(levels=c, places=np.log2(c), load=load, foreign=np.zeros(8))
    model = Latency("latency_p50_s", ("workers",))
    names = (*model.shared, "service", "trend", "wait")
    means = [3.0, np.log(0.02), np.log(20.0), 0.5, np.log(0.05), 0.0, -0.37]
    stds = [0.6, 1.0, 0.7, 0.25, 0.5, 0.1, 0.8]
    prior = Prior(names=names, mean=np.array(means), cov=np.diag(stds) ** 2)
    at = At(points=points, first=points[:1])

    def values(theta):
        return Values(**{name: theta[:, k : k + 1] for k, name in enumerate(names)})

    def capacity_of(idle) -> float:
        rows = Rows(
            points=points,
            value=np.log(latency),
            error=np.full(8, 0.03),
            weight=np.ones(8),
            bound=np.zeros(8),
            idle=np.array([False] * 4 + [idle] * 4),
            kernel=kernel(points, points),
            shared=(0, 1, 2, 3),
            blame=1.0,
        )
        made = fit(lambda theta, _: model.mean(values(theta), at), prior, rows, (0.1,), (0.04,))
        return float(capacity(values(made.theta[None, :]), at)[0, 7])

    assert capacity_of(idle=True) > 1.1 * capacity_of(idle=False)


def test_idle_is_told_from_evidence():
    """App-limited, and by Little's law less than half of the workers busy."""
    busy = tabulate(request(windows([6, 7], loads=(75.0,)), setting(workers=6))).idle
    idle = tabulate(request(windows([14, 16], loads=(30.0,)), setting(workers=6))).idle
    assert not busy.any()
    assert idle.all()


def test_one_wild_window_does_not_turn_the_plan():
    seen = windows([5, 5, 5, 7, 6, 9, 8, 7, 7, 8, 7, 7])
    calm = make_plan(request(seen, setting(workers=7)))
    last = seen[-1].observation
    wild = dict(last.responses) | {
        "latency_p99_s": Estimate(mean=20.0 * last.response("latency_p99_s").mean, std=0.05)
    }
    turned = [
        *seen[:-1],
        replace(seen[-1], observation=replace(last, responses=tuple(sorted(wild.items())))),
    ]
    plan = make_plan(request(turned, setting(workers=7)))
    expected = {c.setting: dict(c.predictions)["latency_p99_s"].mean for c in calm.candidates}
    found = {c.setting: dict(c.predictions)["latency_p99_s"].mean for c in plan.candidates}
    assert found[setting(workers=7)] <= 1.35 * expected[setting(workers=7)]


def test_what_was_discounted_counts_less():
    """After a deploy made requests slow, old fast windows of low weight give way."""
    old = [replace(e, weight=1 / 16) for e in windows([11] * 10)]
    new = windows([11] * 4, plant=replace(PLANT, io_s=0.08), seed=9)
    plan = make_plan(request(old + new, setting(workers=11)))
    here = {c.setting: dict(c.predictions) for c in plan.candidates}[setting(workers=11)]
    seen = np.mean([e.observation.response("latency_p50_s").mean for e in new])
    assert here["latency_p50_s"].mean == pytest.approx(seen, rel=0.12)


def test_two_knobs_share_one_lattice():
    knobs = (Knob(name="workers", lower=1, upper=32), Knob(name="threads", lower=1, upper=8))
    seen = []
    for k, e in enumerate(windows([4, 6, 8, 6, 4, 8, 6, 8])):
        threads = 1 + k % 2
        workers = e.observation.setting["workers"] // (1 + k % 2)
        seen.append(
            replace(
                e,
                observation=replace(
                    e.observation, setting=setting(workers=workers, threads=threads)
                ),
            )
        )
    at = setting(workers=3, threads=2)
    plan = make_plan(
        request(seen, at, policy=replace(policy(), knobs=knobs), memory_limit_bytes=600 * MIB)
    )
    assert 32 <= len(plan.candidates) <= 128, "a large lattice lists the nearest"
    assert at in verdicts(plan)
    for probe in plan.probes:
        for name, level in probe.setting.levels:
            assert abs(np.log2(level / at[name])) <= 0.7 or abs(level - at[name]) <= 1
    for entry in plan.schedule:
        assert [name for name, _ in entry.setting.levels] == ["threads", "workers"]


def test_details_read_well():
    plan = make_plan(request(SEEN, setting(workers=7)))
    worse = next(c for c in plan.candidates if c.setting == setting(workers=14))
    assert worse.detail.startswith("p99 ")
    assert " ms, P(safe) " in worse.detail
    assert f"% more than {recommended(plan)}" in worse.detail


# --- invariants over anything

_numbers = st.floats(1e-4, 50.0)


@st.composite
def anything(draw) -> Evidence:
    names = ["latency_p50_s", "latency_p95_s", "latency_p99_s", "jitter_s", "throughput_rps"]
    names += ["power_w", "cpu_cores", "memory_bytes", "error_ratio"]
    chosen = draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    responses = {}
    for name in chosen:
        mean = draw(st.one_of(st.just(0.0), _numbers))
        mean = mean * 1e8 if name == "memory_bytes" else min(mean, 1.0) if "ratio" in name else mean
        responses[name] = Estimate(mean=mean, std=mean * draw(st.floats(0.0, 2.0)))
    return Evidence(
        weight=draw(st.sampled_from([1.0, 0.5, 0.01])),
        observation=Observation(
            setting=setting(workers=draw(st.integers(1, 24))),
            opened_tick=draw(st.integers(0, 3)),
            closed_tick=9,
            span_s=8.0,
            sample_count=draw(st.integers(0, 500)),
            context=Context(
                load_rps=draw(st.one_of(st.none(), st.just(0.0), st.floats(0.01, 1e4))),
                foreign_cpu_ratio=draw(st.one_of(st.none(), st.floats(0.0, 1.0))),
            ),
            responses=tuple(sorted(responses.items())),
            app_limited=draw(st.booleans()),
            breached=draw(st.booleans()),
        ),
    )


def plan_or_refusal(asked):
    try:
        return make_plan(asked)
    except ValueError as error:
        return str(error)


def plannable(seen: Observation) -> bool:
    """Whether this window alone is enough for a plan."""
    latency = seen.response("latency_p99_s")
    return bool(seen.context.load_rps and latency is not None and latency.mean > 0.0)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    evidence=st.lists(anything(), min_size=1, max_size=12),
    incumbent=st.integers(1, 24),
    load=st.one_of(st.none(), st.floats(0.0, 1e4)),
    limit=st.one_of(st.none(), st.floats(1e6, 1e10)),
    tabu=st.lists(st.integers(1, 24), max_size=3, unique=True),
    leverage=st.booleans(),
)
def test_any_plan_is_well_formed(evidence, incumbent, load, limit, tabu, leverage):
    banned = tuple(setting(workers=w) for w in sorted(tabu))
    asked = request(
        evidence,
        setting(workers=incumbent),
        load,
        memory_limit_bytes=limit,
        tabu=banned,
        leverage=leverage,
    )
    plan = plan_or_refusal(asked)
    if isinstance(plan, str):
        assert "no usable evidence" in plan or "nothing of the objective" in plan
        assert not any(plannable(e.observation) for e in evidence), plan
        return
    order = [c.setting.levels for c in plan.candidates]
    assert order == sorted(set(order))
    assert sum(c.verdict is Verdict.RECOMMENDED for c in plan.candidates) == 1
    assert all(0.0 <= c.p_safe <= 1.0 for c in plan.candidates)
    assert plan.best_gain_ratio == max((p.gain_ratio for p in plan.probes), default=0.0)
    for probe in plan.probes:
        workers = probe.setting["workers"]
        assert probe.verdict is Verdict.PROBE
        assert probe.setting not in banned
        assert probe.setting != asked.incumbent
        assert abs(np.log2(workers / incumbent)) <= 0.7 or abs(workers - incumbent) <= 1
    for low, high in zip(plan.schedule, plan.schedule[1:], strict=False):
        assert low.load_upper_rps == high.load_lower_rps
    assert all(b.load_lower_rps < b.load_upper_rps for b in plan.schedule)
    assert decode_reply(encode(Reply(plan=plan))).plan == plan
    assert decode_request(encode(asked)) == asked
