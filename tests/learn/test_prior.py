"""Evidence of another host is believed as far as it foretells what is seen here."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from learn_loop import request
from plants import Plant, window

from poolwright.core.model import setting
from poolwright.learn.plan import make_plan
from poolwright.learn.points import tabulate
from poolwright.learn.prior import weighed


def windows(levels, plant=None, seed=1, load=80.0):
    rng = np.random.default_rng(seed)
    return [window(plant or Plant(), rng, 10 * k, w, load) for k, w in enumerate(levels)]


def slower(evidence, times):
    """The same windows of a service whose requests take so many times as long."""
    return [
        replace(
            e,
            observation=replace(
                e.observation,
                responses=tuple(
                    (n, replace(r, mean=times * r.mean)) if n.endswith("_s") else (n, r)
                    for n, r in e.observation.responses
                ),
            ),
        )
        for e in evidence
    ]


THERE = windows((4, 5, 6, 7, 8, 10, 12) * 3, seed=7)
HERE = windows((5, 5, 6))


def weight_of(prior, own=HERE):
    found = weighed(request(own, setting(workers=5), prior=tuple(prior))).prior
    return found[0].weight if found else 0.0


def test_a_prior_that_fits_counts_a_quarter_and_one_that_does_not_counts_less():
    assert weight_of(THERE) == pytest.approx(0.25, rel=0.5)
    assert weight_of(THERE) > 3.0 * weight_of(slower(THERE, 1.5)) > 0.0
    assert weight_of(slower(THERE, 30.0)) == 0.0, "of no use at all"


def test_before_anything_was_seen_here_it_counts_a_quarter():
    assert weight_of(THERE, own=()) == 0.25


def test_it_makes_what_was_not_tried_better_known():
    alone = make_plan(request(HERE, setting(workers=5)))
    helped = make_plan(request(HERE, setting(workers=5), prior=tuple(THERE)))
    spreads = [
        {c.setting["workers"]: c.objective.std for c in plan.candidates} for plan in (alone, helped)
    ]
    assert all(spreads[1][level] < 0.8 * spreads[0][level] for level in (7, 8))


def test_what_was_tried_elsewhere_was_not_tried_here():
    asked = request(HERE, setting(workers=5), prior=tuple(THERE))
    table = tabulate(asked)
    assert table.own.tolist() == [False] * len(THERE) + [True] * len(HERE)
    plan = make_plan(asked)
    named = [b.setting["workers"] for b in plan.schedule]
    assert max(named) <= 6 * 2**0.5 + 1e-6
    assert min(named) >= 5 / 2**0.5 - 1e-6


def test_without_a_prior_nothing_changes():
    asked = request(HERE, setting(workers=5))
    assert weighed(asked) is asked
    assert make_plan(replace(asked, prior=())) == make_plan(asked)
