"""Which settings are judged."""

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ticks import policy

from poolwright.core.model import setting
from poolwright.core.policy import Relation, Scale
from poolwright.learn.lattice import MOST, lattice
from poolwright.learn.points import Axes


def knob(name, lower, upper, *, step=1, scale=Scale.LOG):
    return dataclasses.replace(
        policy().knobs[0], name=name, lower=lower, upper=upper, step=step, scale=scale
    )


def judged(knobs, at, octaves=1.0, relations=()):
    rule = dataclasses.replace(policy(), knobs=tuple(knobs), relations=tuple(relations))
    axes = Axes(knobs=tuple(sorted(knobs, key=lambda k: k.name)))
    return lattice(rule, axes, setting(**at), octaves)


def test_of_one_knob_with_few_levels_all_are_judged():
    found = judged([knob("workers", 1, 16)], {"workers": 5})
    assert found[0] == setting(workers=5)
    assert sorted(s["workers"] for s in found) == list(range(1, 17))


knobs = st.builds(
    lambda lower, wide, step, scale: (lower, lower + wide * step, step, scale),
    st.integers(0, 5), st.integers(3, 120), st.integers(1, 4), st.sampled_from(Scale),
)  # fmt: skip


@settings(max_examples=25)
@given(
    shapes=st.lists(knobs, min_size=2, max_size=3),
    octaves=st.floats(0.3, 4.0),
    data=st.data(),
)
def test_of_many_settings_the_nearest_and_a_spread_are_judged(shapes, octaves, data):
    made = [
        knob(name, lower, upper, step=step, scale=scale)
        for name, (lower, upper, step, scale) in zip("abc", shapes, strict=False)
    ]
    at = {k.name: data.draw(st.integers(0, (k.upper - k.lower) // k.step)) for k in made}
    at = {k.name: k.lower + at[k.name] * k.step for k in made}
    found = judged(made, at, octaves)
    assert found[0] == setting(**at)
    assert len(found) == len(set(found)) <= MOST + 1
    assert found == judged(made, at, octaves), "the same every time"
    for one in found:
        for k in made:
            assert k.lower <= one[k.name] <= k.upper
            assert (one[k.name] - k.lower) % k.step == 0
    for k in made:
        for step in (-k.step, k.step):
            if k.lower <= at[k.name] + step <= k.upper:
                assert setting(**at | {k.name: at[k.name] + step}) in found


def test_three_knobs_are_looked_at_finely():
    made = [knob("a", 1, 64), knob("b", 1, 64), knob("c", 1, 64)]
    found = judged(made, {"a": 8, "b": 8, "c": 8}, 2.0)
    assert len(found) >= 0.9 * MOST
    for name in "abc":
        levels = sorted({s[name] for s in found})
        assert len(levels) >= 12
        assert all(high <= 1.5 * low + 1 for low, high in pairwise(levels))


def test_only_what_the_relations_allow_is_judged():
    relation = Relation(text="a * b <= 60", terms=((1, ("a", "b")), (-60, ())))
    found = judged([knob("a", 1, 64), knob("b", 1, 64)], {"a": 4, "b": 4}, 3.0, [relation])
    assert all(s["a"] * s["b"] <= 60 for s in found)
    assert len(found) > 60


@pytest.mark.parametrize("octaves", [0.5, 1.0])
def test_what_is_spread_stays_near(octaves):
    found = judged([knob("a", 1, 256), knob("b", 1, 256)], {"a": 32, "b": 32}, octaves)
    wide = 2.0**octaves
    assert all(32 / wide - 2 <= s[name] <= 32 * wide + 2 for s in found for name in "ab")
