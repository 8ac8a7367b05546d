"""The binder: whatever stands in the file, a value or a PolicyError."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.units import Bytes, HostPort, PathText, Ratio, Rps, Seconds
from poolwright.policy.bind import bind
from poolwright.policy.config import DaemonConfig, bind_config
from poolwright.policy.load import bind_policy
from poolwright.policy.tree import parse_document, read_document


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    wait: Seconds = 1.0
    share: Ratio | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    text: str = "t"
    count: int = 1
    weight: float = 1.0
    yes: bool = False
    colour: Colour = Colour.RED
    choice: Literal["a", 2] = "a"
    size: Bytes = 0
    rate: Rps = 0.0
    at: HostPort = "localhost:1"
    path: PathText = "/"
    inner: Inner = field(default=Inner())
    buckets: tuple[Seconds, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    maybe: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOfTwo:
    a: int | None = None
    b: int | None = None

    def __post_init__(self):
        if (self.a is None) == (self.b is None):
            raise PolicyError("exactly one of a and b is wanted")


def read(text, kind=Everything):
    document = parse_document(text.encode(), "f")
    made = bind(document.root, kind, document.problems, Path("/etc/p"))
    document.problems.check()
    return made


def problems(text, kind=Everything):
    with pytest.raises(PolicyError) as caught:
        read(text, kind)
    return str(caught.value)


def test_binds_every_kind_of_field():
    made = read(
        'text: "5"\ncount: -3\nweight: 1e3\nyes: true\ncolour: green\nchoice: 2\nsize: 1KiB\n'
        "rate: 60/m\nat: '127.0.0.1:0'\npath: x/y\ninner: {wait: 5m, share: 10%}\n"
        "buckets: [1ms, 1s]\nlabels: {a: b}\nmaybe: null\n"
    )
    assert made == Everything(
        text="5",
        count=-3,
        weight=1000.0,
        yes=True,
        colour=Colour.GREEN,
        choice=2,
        size=1024,
        rate=1.0,
        at="127.0.0.1:0",
        path="/etc/p/x/y",
        inner=Inner(wait=300.0, share=0.1),
        buckets=(0.001, 1.0),
        labels={"a": "b"},
        maybe=None,
    )


@pytest.mark.parametrize(
    ("written", "bound"),
    [
        ("/abs", "/abs"),
        ("unix:/run/x", "unix:/run/x"),
        ("unix:x", "unix:/etc/p/x"),
        ('"unix:@name"', "unix:@name"),
    ],
)
def test_relative_paths_start_at_the_file(written, bound):
    assert read(f"path: {written}").path == bound


@pytest.mark.parametrize(
    "line",
    [
        "count: true", "count: 1.0", 'count: "5"', "count: 0x10", "count: 010", "count: ~",
        "weight: .nan", "weight: .inf", "weight: 1e999", "weight: true", "weight: '1'",
        "yes: yes", "yes: 1", 'yes: "true"', "text: 5", "text: null", "text: [a]", "colour: RED",
        "choice: '2'", "size: 1.5", "size: '1'", "rate: -1", "inner: 5", "inner: [1]",
        "inner: {wait: 1}", "inner: {share: 2}", "buckets: 1s", "buckets: [1]", "labels: [a]",
        "labels: {a: 1}", "maybe: x", "path: ''", "at: localhost",
    ],
)  # fmt: skip
def test_refuses_what_only_looks_right(line):
    key = line.partition(":")[0]
    assert problems(f"# comment\n{line}\n").startswith(f"f:2:{len(key) + 3}" if "{" not in line
                                                       and "[" not in line else "f:2:")  # fmt: skip


def test_everything_that_is_wrong_is_said_at_once_in_order():
    text = problems("weight: x\ncount: y\ninner:\n  wait: 5\n  wat: 1s\ncolur: red\n")
    places = [line.split(": ")[0] for line in text.splitlines()]
    assert places == ["f:1:9", "f:2:8", "f:4:9", "f:5:3", "f:6:1"]
    assert "did you mean 'wait'?" in text
    assert "did you mean 'colour'?" in text


def test_a_refusal_of_the_class_itself_has_a_place():
    assert problems("a: 1\nb: 2\n", OneOfTwo) == "f:1:1: exactly one of a and b is wanted"
    assert problems("a: x\n", OneOfTwo) == "f:1:4: a: 'x' is not a whole number"


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter():
    assert read("\ufefftext: a\r\ncount: 2\r\n") == Everything(text="a", count=2)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\0", b"\xff\xfe", b"a: \x80", b"[" * 5000, b"{" * 5000, b"a: &a [*a]", b"- " * 3000,
        b"? [a]\n: b", b"a: !!python/name:os.system x", b"%YAML 9.9\n---\na: 1", b"x" * (2 << 20),
        b"---\n---\n", b"\t", b"'", b"a: |\n\tb", b"&a a: *b", b"!<tag> a", b"\xef\xbb\xbf",
    ],
)  # fmt: skip
def test_hostile_bytes(raw):
    with pytest.raises(PolicyError, match=r"^f:\d+:\d+: "):
        bind_policy(parse_document(raw, "f"), Path())


YAMLISH = st.lists(
    st.sampled_from(
        [
            "version: 1", "name: a", "knobs:", "  workers:", " {min: 2, max: 4}", "objective:",
            "slo:", "pools:", "- ", "  ", "\n", ": ", "{", "}", "[", "]", ",", "&a", "*a", "!t",
            "|", ">", "'", '"', "#", "%", "---", "...", "\t", "null", "1", "-3s", "5%", ".nan",
            "kind: x", "latency_p99", "explore: {window: 1s}", "\u2028", "\x85",
            "é", "\ud7ff", "<<", "?",
        ]
    ),
    max_size=40,
).map("".join)  # fmt: skip


def outcome(binder, raw):
    """What is wrong with these bytes, empty when nothing is; any other exception goes through."""
    try:
        binder(parse_document(raw, "f"), Path("/"))
    except PolicyError as error:
        return str(error)
    return ""


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@settings(max_examples=250, deadline=None)
@given(st.one_of(YAMLISH, TEXT), st.sampled_from([bind_policy, bind_config]))
def test_any_text_gives_a_value_or_a_policy_error(text, binder):
    for line in outcome(binder, text.encode()).splitlines():
        assert line.startswith("f:")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_policy_error(raw):
    assert outcome(bind_policy, raw).startswith("f:")


def test_what_cannot_be_read_is_the_worlds_fault(tmp_path):
    with pytest.raises(PlantFault, match="No such file"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(PlantFault, match="Is a directory"):
        read_document(tmp_path)


def test_an_annotation_that_cannot_be_bound_is_our_bug():
    @dataclass
    class Bad:
        what: complex = 0j

    with pytest.raises(TypeError, match="complex"):
        read("what: 1\n", Bad)


def test_defaults_of_the_configuration_are_what_the_binder_would_give():
    """A default that breaks its own rule would be accepted silently."""
    text = "version: 1\npools:\n  - {name: a, actuator: {kind: x}, sensors: [{kind: y}]}\n"
    defaults = read(text, DaemonConfig)
    written = read(
        text + f"listen: {defaults.listen}\njournal_max_bytes: {defaults.journal_max_bytes}\n"
        f"journal_max_age: {defaults.journal_max_age}s\ncontrol: {defaults.control}\n",
        DaemonConfig,
    )
    assert written.journal_max_age == defaults.journal_max_age
    assert written.control == defaults.control == "/run/poolwright/control.sock"
