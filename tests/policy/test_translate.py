"""From the core's policy to YAML and back; what is different between two, and their digest."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from some_policies import policies

from poolwright.core.policy import ExploreRule, Knob, Mode, Override, Policy, Slo
from poolwright.policy.difference import changes
from poolwright.policy.library import Effective
from poolwright.policy.load import bind_policy, find_policy, load_policy
from poolwright.policy.relations import parse_relation
from poolwright.policy.render import policy_text
from poolwright.policy.translate import digest
from poolwright.policy.tree import Mapping, Mark, parse_document

NOWHERE = Mapping(Mark("", 0, 0), ())


def read(text):
    return bind_policy(parse_document(text.encode(), "f.yaml"), Path())


@settings(deadline=None, max_examples=50)
@given(policies())
def test_a_policy_that_is_written_and_read_again_is_the_same(policy):
    text = policy_text(Effective(policy, NOWHERE))
    assert read(text) == replace(policy, sha256=digest(policy))


@settings(deadline=None, max_examples=30)
@given(policies(), policies())
def test_policies_differ_exactly_when_their_digests_do(old, new):
    assert (changes(old, new) == ()) is (digest(old) == digest(new))
    assert changes(old, old) == ()
    for mixed in (replace(old, guard=new.guard), replace(old, overrides=new.overrides)):
        assert (changes(old, mixed) == ()) is (digest(old) == digest(mixed))


@pytest.mark.parametrize(
    "reason", ["12", "on", "a: b # c", "'\"", "a\x85\u2028b", "é \U0001f600", "\\n"]
)
def test_awkward_texts_come_back(reason):
    balanced = load_policy(find_policy("balanced", None))
    policy = replace(balanced, overrides=(Override(reason=reason, freeze=True),))
    assert read(policy_text(Effective(policy, NOWHERE))).overrides == policy.overrides


def test_comments_layout_order_and_spelling_do_not_count():
    one = read(
        "version: 1\nname: web\nknobs: {workers: {min: 2, max: 16}, threads: {min: 1, max: 8}}\n"
        "objective: {latency_p99: 1, power: 0.3}\nrelations: ['workers * threads <= 64']\n"
        "explore: {window: 60s, quiet: ['Mon,Tue,Wed 09:00-10:00 UTC']}\n"
    )
    other = read(
        "# a comment\nname: web\nobjective: {power: 0.30, latency_p99: 1.0}\n"
        "relations:\n- 64 >= threads*workers\nknobs:\n  threads: {max: 8, min: 1, slew: 4}\n"
        "  workers: {max: 16, min: 2}\nexplore: {quiet: ['Mon-Wed  09:00-10:00 UTC'], window: 1m}\n"
        "version: 1\n"
    )
    assert one.sha256 == other.sha256
    assert changes(one, other) == ()
    assert digest(replace(one, name="api")) != one.sha256


def test_changes_are_said_in_the_words_of_the_policy_file():
    old = Policy(
        name="web",
        knobs=(Knob(name="threads", lower=1, upper=8), Knob(name="workers", lower=2, upper=64)),
        objective=(("latency_p99_s", 1.0), ("power_w", 0.3)),
        slo=(Slo(response="latency_p99_s", below=0.25),),
        relations=(parse_relation("workers*threads <= 200"),),
    )
    new = replace(
        old,
        knobs=(Knob(name="workers", lower=2, upper=32, baseline=8, settle_s=0.5),),
        objective=(("jitter_s", 0.2), ("latency_p99_s", 1.0)),
        slo=(Slo(response="error_ratio", below=0.01), Slo(response="latency_p99_s", below=0.1)),
        relations=(),
        overrides=(
            Override(reason="launch", pin=(("workers", 12),), until_wall_ns=1_798_761_600 * 10**9),
            Override(reason="memory", bounds=(("workers", 2, 8),)),
        ),
        explore=ExploreRule(quiet=("daily 01:00-02:00 UTC",), budget_ratio=0.1),
        guard=replace(old.guard, psi_cpu_ratio=0.2, cooldown_s=90.0),
        mode=Mode.AUTO,
    )
    threads = "{min: 1, max: 8, step: 1, slew: 4, settle: 3s, drain: 0s, dwell: 0s, scale: log}"
    assert changes(old, new) == (
        f"knobs.threads: removed, was {threads}",
        "knobs.workers.max: 64 -> 32",
        "knobs.workers.settle: 3s -> 500ms",
        "knobs.workers.baseline: none -> 8",
        "objective.power: 0.3 -> none",
        "objective.jitter: none -> 0.2",
        "relations: - threads * workers <= 200",
        "slo.latency_p99.below: 250ms -> 100ms",
        "slo.error_ratio: added, {below: 1%, confidence: 95%}",
        "guard.pressure.cpu: added, {below: 20%}",
        "guard.cooldown: 30s -> 90s",
        "explore.budget: 5% -> 10%",
        "explore.quiet: + daily 01:00-02:00 UTC",
        "override: + {bounds: {workers: {min: 2, max: 8}}, reason: memory}",
        "override: + {pin: {workers: 12}, until: 2027-01-01T00:00:00Z, reason: launch}",
        "mode: recommend -> auto",
    )
    back = changes(new, old)
    assert "mode: auto -> recommend" in back
    assert "knobs.workers.baseline: 8 -> none" in back


@given(st.integers(0, 2**63 // 10**9 - 2 * 86400), st.integers(0, 10**9 - 1))
def test_instants_come_back(seconds, fraction):
    from poolwright.policy.quantities import parse, render

    wall_ns = seconds * 10**9 + fraction
    assert parse("instant", render("instant", wall_ns)) == wall_ns
