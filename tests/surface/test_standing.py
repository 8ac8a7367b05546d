"""What is told of advice, pins, budgets and benefit: all of it, and nothing that is not known."""

from dataclasses import replace

import pytest
import snapshots as make

from poolwright.core.model import Benefit, Estimate, Kept, Phase, Reason
from poolwright.core.policy import ExploreRule, Mode
from poolwright.surface.standing import budget_left, burn_rates, figures, notices
from poolwright.surface.words import advice, benefit, daemon_troubles, gain, holdout, override


def told(lines, head):
    return [said for found, said in lines if found == head]


def test_a_pool_that_is_well_has_nothing_to_tell():
    assert notices(make.pool_snapshot()) == []


def test_an_advice_is_told_with_what_it_brings_and_how_to_answer():
    lines = notices(make.busy_pool())
    assert told(lines, "advice") == [
        (
            "5fbb3e2a: workers=5 -> workers=4, expected gain 12 % ± 7.8 % (95 %), P(safe) 0.97: "
            "this is the best safe setting known at this load"
        )
    ]
    assert told(lines, "to answer") == [
        "`poolwright approve web 5fbb3e2a` or `poolwright reject web 5fbb3e2a --why TEXT`"
    ]


def test_what_is_not_known_of_an_advice_is_said_to_be_so():
    assert advice(make.advice(gain=None, p_safe=None)).endswith(
        "expected gain not known, P(safe) not known"
    )
    assert gain(Estimate(mean=-0.02, std=0.8)) == "-2 % ± 157 % (95 %)"


def test_every_order_in_force_is_told_with_reason_and_end():
    lines = notices(make.busy_pool())
    assert told(lines, "pinned") == [
        (
            "workers=5 until 2027-01-01 00:00:00 UTC by ann (pid 7): launch day "
            "(`poolwright unpin web`)"
        )
    ]
    assert told(lines, "override") == [
        "pin workers=12 until 2027-01-01 00:00:00 UTC: launch day",
        "freeze: audit",
        "workers within 4..8 until 2027-01-01 00:00:00 UTC: small host",
    ]


def test_an_override_of_several_kinds_tells_all_of_them():
    written = make.override(freeze=True, bounds=(("threads", 1, 2),), until_wall_ns=None)
    assert override(written) == "pin workers=12, freeze, threads within 1..2: launch day"


@pytest.mark.parametrize(
    ("phase", "reason", "head"),
    [
        (Phase.PAUSED, Reason.PAUSED_BY_OPERATOR, "paused"),
        (Phase.MANUAL, Reason.OTHER_HAND, "manual"),
        (Phase.STOOD_DOWN, Reason.NO_BENEFIT, "stood down"),
    ],
)
def test_who_took_the_level_and_why_is_told_with_the_way_back(phase, reason, head):
    decision = make.hold(phase=phase, reason=reason, detail="ann (pid 7): deploy")
    (said,) = told(notices(make.pool_snapshot(decision=decision)), head)
    assert said.endswith(": ann (pid 7): deploy (`poolwright resume web`)")


def test_all_reasons_why_nothing_is_tried_are_told():
    pool = make.busy_pool(
        policy=replace(make.POLICY, mode=Mode.RECOMMEND, explore=ExploreRule(window_s=30.0)),
        decision=make.hold(
            phase=Phase.COOLDOWN,
            guard_trips=(Reason.SLO_BREACH,),
            evidence=(
                ("probes_left", 0.9),
                ("probe_seconds_left", 29.0),
                ("slo_seconds_left", -40.0),
                ("burn_short", 1.2),
                ("burn_long", 1.1),
            ),
        ),
    )
    assert told(notices(pool), "not trying") == [
        (
            "the mode is recommend, the phase is cooldown, "
            "quiet: Mon-Fri 09:00-10:00 Europe/Berlin, mail holds this host's experiment, "
            "not enough probes, time, error budget left for a probe, "
            "the error budget burns faster than 1, the latency objective is breached"
        )
    ]
    assert told(figures(pool), "budgets") == [
        (
            "probes 0.9 (20 an hour), time 29 s (3 min an hour), "
            "error budget 40 s owed (12 min an hour)"
        )
    ]


@pytest.mark.parametrize(("short", "long"), [(1.2, 0.9), (0.9, 1.2), (1.0, 1.0)])
def test_a_budget_burns_only_when_both_windows_say_so(short, long):
    evidence = (("burn_short", short), ("burn_long", long))
    assert notices(make.pool_snapshot(decision=make.hold(evidence=evidence))) == []


def test_who_holds_the_experiment_of_the_host_is_told():
    pool = make.pool_snapshot(decision=make.probe(probing=True))
    assert told(notices(pool), "trying") == ["workers=4: this pool holds the host's experiment"]


def test_budgets_that_the_core_did_not_tell_are_not_invented():
    pool = make.pool_snapshot()
    assert (budget_left(pool), burn_rates(pool)) == ({}, {})
    assert not {"budgets", "burn rate", "room"} & {head for head, _ in figures(pool)}


def test_figures_of_a_pool():
    lines = figures(make.busy_pool())
    assert told(lines, "budgets")[0].endswith(", error budget 11.7 min (12 min an hour)")
    assert told(lines, "burn rate") == [
        "0.4 (short window) and 0.1 (long window); above 1 in both nothing is tried"
    ]
    assert told(lines, "room") == ["1.2 GB and 0.7 cores left of what all pools share"]
    assert told(lines, "policy") == [
        "balanced, mode recommend, sha256 9f2c9f2c9f2c, from balanced.yaml, 10-site.yaml"
    ]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (None, "not measured: tuning was never compared with the baseline"),
        (
            Benefit(mean=0.08, lower=None, upper=None, count=1),
            "8 % in 1 comparison with the baseline; too few for an interval",
        ),
        (
            Benefit(mean=-0.02, lower=-0.05, upper=0.01, count=4),
            "-2 % (95 %: -5 % to 1 %), from 4 comparisons with the baseline",
        ),
    ],
)
def test_the_benefit_is_told_with_its_uncertainty(seen, said):
    assert benefit(seen) == said
    assert told(figures(make.pool_snapshot(benefit=seen)), "benefit") == [said]


def test_a_comparison_that_was_lost_says_so():
    assert "1 % higher at workers=4 than" in holdout(make.holdout(gain_ratio=-0.01))
    assert "at least 8 % lower at" in holdout(make.holdout(breached=True))


def test_a_refused_policy_comes_first_with_all_its_lines():
    wrong = make.snapshot(policy_error="a.yaml:1:1: one\nb.yaml:2:2: two", journal_error="full")
    assert daemon_troubles(wrong) == [
        "the policy on disk is refused and the one before stays in force: a.yaml:1:1: one",
        "b.yaml:2:2: two",
        "journal: full",
    ]


def test_a_pin_without_end_or_name_is_told_as_it_is():
    pool = make.pool_snapshot(kept=Kept(pin=make.at(5)))
    assert told(notices(pool), "pinned") == ["workers=5 (`poolwright unpin web`)"]
