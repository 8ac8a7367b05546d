"""Relations between knobs: what they mean, that they come back, and what cannot be satisfied."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.policy.quantities import PATTERNS
from poolwright.policy.relations import (
    knobs_of,
    parse_relation,
    render_relation,
    satisfiable,
)

NAMES = ("workers", "threads", "pool_size")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("workers * threads <= 200", ((1, ("threads", "workers")), (-200, ()))),
        ("workers*threads<=200", ((1, ("threads", "workers")), (-200, ()))),
        ("200 >= workers * threads", ((1, ("threads", "workers")), (-200, ()))),
        ("workers < 8", ((1, ("workers",)), (-7, ()))),
        ("workers > 8", ((-1, ("workers",)), (9, ()))),
        ("2 * (workers + 1) - threads <= 2", ((-1, ("threads",)), (2, ("workers",)))),
        ("-(workers - 3) <= -2 + 0 * threads", ((-1, ("workers",)), (5, ()))),
        ("pool_size >= workers * threads", ((1, ("threads", "workers")), (-1, ("pool_size",)))),
    ],
)
def test_reads(text, terms):
    relation = parse_relation(text)
    assert relation.terms == terms
    assert relation.text == text


def test_shows_one_text_for_all_ways_to_write_it():
    texts = [
        "200 >= threads*workers",
        "workers * threads < 201",
        "2*workers*threads <= 200 + workers*threads",
    ]
    assert {render_relation(parse_relation(text)) for text in texts} == {"threads * workers <= 200"}


SUMS = st.recursive(
    st.sampled_from(NAMES) | st.integers(0, 50).map(str),
    lambda inner: (
        st.tuples(inner, st.sampled_from([" + ", " - ", "*"]), inner).map(
            lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
        )
        | inner.map("-{}".format)
    ),
    max_leaves=6,
)
RELATIONS = st.tuples(SUMS, st.sampled_from(["<=", "<", ">=", ">"]), SUMS).map(" ".join)


def read(text):
    try:
        return parse_relation(text)
    except ValueError:
        return None


@given(RELATIONS, st.tuples(*[st.integers(1, 40)] * 3))
def test_it_means_what_python_would_mean(text, levels):
    relation = read(text)
    if relation is not None:
        at = dict(zip(NAMES, levels, strict=True))
        assert relation.holds(at) is eval(text, {}, at)


@given(RELATIONS)
def test_relations_come_back_from_their_text(text):
    relation = read(text)
    if relation is not None:
        shown = render_relation(relation)
        again = parse_relation(shown)
        assert again.terms == relation.terms
        assert render_relation(again) == shown
        assert re.search(PATTERNS["relation"], shown)


RANGES = st.builds(lambda low, count, step: range(low, low + count * step, step),
                   st.integers(1, 9), st.integers(1, 6), st.integers(1, 3))  # fmt: skip


@given(st.lists(RELATIONS, min_size=1, max_size=3), st.tuples(RANGES, RANGES, RANGES))
def test_what_can_be_satisfied_is_told_exactly(texts, ranges):
    relations = [relation for text in texts if (relation := read(text)) is not None]
    levels = dict(zip(NAMES, ranges, strict=True))
    found = any(
        all(relation.holds(dict(zip(NAMES, at, strict=True))) for relation in relations)
        for at in itertools.product(*ranges)
    )
    assert satisfiable(relations, levels) is found


def test_a_large_lattice_is_decided_without_walking_it():
    levels = {name: range(1, 100_001) for name in NAMES}
    never = [
        parse_relation("workers * threads >= 1000000"),
        parse_relation("workers + threads <= 1000"),
    ]
    assert not satisfiable(never, levels)
    assert satisfiable([*never[:1], parse_relation("pool_size > workers")], levels)


def test_names_its_knobs():
    assert knobs_of(parse_relation("workers * threads <= 2 * workers")) == ("threads", "workers")


PIECES = ["a", "1", "*", "+", "-", "(", ")", "<=", "<", " "]


@given(st.text(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_any_text_is_a_relation_or_refused(text):
    relation = read(text)
    if relation is not None:
        assert knobs_of(relation)
