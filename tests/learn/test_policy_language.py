"""What a policy may ask of the learner: any quantile, jitter, cost, relations between knobs."""

from dataclasses import replace

import pytest
from learn_loop import policy, request
from test_make_plan import recommended, windows

from poolwright.core.model import Estimate, setting
from poolwright.core.policy import Relation, Slo
from poolwright.learn.plan import make_plan


def also(evidence, name, of):
    """The same evidence with one more response, made of the others."""
    changed = []
    for item in evidence:
        seen = item.observation
        added = (*seen.responses, (name, of(seen)))
        changed.append(replace(item, observation=replace(seen, responses=tuple(sorted(added)))))
    return changed


def scaled(response, factor):
    """An Estimate that is `factor` times a response's."""

    def of(seen):
        found = seen.response(response)
        return Estimate(mean=factor * found.mean, std=factor * found.std, count=found.count)

    return of


LEVELS = [4, 5, 6, 7, 8, 10, 6, 7, 8, 10]


def test_an_slo_on_any_quantile_is_predicted_and_kept():
    seen = also(windows(LEVELS), "latency_p99.9_s", scaled("latency_p99_s", 1.5))
    slo = Slo(response="latency_p99.9_s", below=1e-3)
    asked = request(seen, setting(workers=6), policy=replace(policy(), slo=(slo,)))
    plan = make_plan(asked)
    assert all("latency_p99.9_s" in dict(c.predictions) for c in plan.candidates)
    assert max(c.p_safe for c in plan.candidates) < 0.5, "nothing is that fast"
    easy = Slo(response="latency_p99.9_s", below=60.0)
    asked = replace(asked, policy=replace(policy(), slo=(easy,)))
    assert min(c.p_safe for c in make_plan(asked).candidates if c.setting["workers"] > 5) > 0.9


def test_an_slo_on_jitter_is_judged_in_seconds():
    seen = windows(LEVELS)
    jitter = seen[-1].observation.response("jitter_s").mean
    for below, safe in ((jitter / 50.0, False), (50.0 * jitter, True)):
        slo = (Slo(response="jitter_s", below=below),)
        plan = make_plan(request(seen, setting(workers=8), policy=replace(policy(), slo=slo)))
        (here,) = [c for c in plan.candidates if c.setting == setting(workers=8)]
        assert (here.p_safe > 0.9) is safe


def test_cost_pulls_towards_the_cheaper_setting():
    dear = also(windows(LEVELS), "cost_per_hour", scaled("memory_bytes", 1e-7))
    fast = policy(weights={"latency_p99_s": 1.0})
    cheap = policy(weights={"latency_p99_s": 0.05, "cost_per_hour": 1.0})
    picked = [
        recommended(make_plan(request(dear, setting(workers=8), policy=rule)))["workers"]
        for rule in (fast, cheap)
    ]
    assert picked[1] < picked[0]
    assert dict(make_plan(request(dear, setting(workers=8), policy=cheap)).references)[
        "cost_per_hour"
    ] == pytest.approx(dear[0].observation.response("cost_per_hour").mean, rel=0.5)


def test_no_candidate_breaks_a_relation_but_the_incumbent_is_always_judged():
    relation = Relation(text="workers <= 7", terms=((1, ("workers",)), (-7, ())))
    rule = replace(policy(), relations=(relation,))
    plan = make_plan(request(windows(LEVELS), setting(workers=8), policy=rule))
    levels = {c.setting["workers"] for c in plan.candidates}
    assert levels - {8} == set(range(1, 8))
    assert all(entry.setting["workers"] <= 8 for entry in plan.schedule)
