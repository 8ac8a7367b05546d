"""RFC 6901, and changing one value of a document while every other byte stays."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.wire.pointer import decode, parse, resolve, shown, span

# Section 5 of the RFC.
DOCUMENT = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}
POINTERS = {
    "": DOCUMENT,
    "/foo": ["bar", "baz"],
    "/foo/0": "bar",
    "/": 0,
    "/a~1b": 1,
    "/c%d": 2,
    "/e^f": 3,
    "/g|h": 4,
    "/i\\j": 5,
    '/k"l': 6,
    "/ ": 7,
    "/m~0n": 8,
}


@pytest.mark.parametrize("pointer", POINTERS)
def test_the_examples_of_the_rfc(pointer):
    text = json.dumps(DOCUMENT, indent=1)
    tokens = parse(pointer)
    assert resolve(decode(text.encode()), tokens) == POINTERS[pointer]
    start, end = span(text, tokens)
    assert json.loads(text[start:end]) == POINTERS[pointer]
    assert not pointer or parse(shown(tokens)) == tokens


@pytest.mark.parametrize("pointer", ["foo", "/a~", "/a~2b", "#/foo"])
def test_what_is_no_pointer_is_refused(pointer):
    with pytest.raises(PolicyError, match="RFC 6901"):
        parse(pointer)


@pytest.mark.parametrize("pointer", ["/foo/2", "/foo/-", "/foo/00", "/foo/-1", "/x/y", "/foo/0/0"])
def test_what_is_not_there_is_a_fault(pointer):
    for look in (resolve, lambda d, t: span(json.dumps(d), t)):
        with pytest.raises(PlantFault, match="has nothing at /"):
            look(DOCUMENT, parse(pointer))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON, st.data())
def test_a_span_is_the_value_and_nothing_else(document, data):
    text = json.dumps(document, indent=data.draw(st.sampled_from([None, 2])))
    tokens, at = (), document
    while isinstance(at, dict | list) and at and data.draw(st.booleans()):
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        tokens, at = (*tokens, str(key)), at[key]
    start, end = span(text, tokens)
    assert json.loads(text[start:end]) == at == resolve(decode(text.encode()), tokens)


@given(st.text(max_size=30), st.lists(st.text(max_size=2), max_size=3))
def test_no_text_makes_it_raise_anything_else(text, tokens):
    try:
        start, end = span(text, tuple(tokens))
    except PlantFault:
        return
    assert 0 <= start < end <= len(text)
