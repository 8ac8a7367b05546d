"""Every core type survives the journal, to the last bit; what cannot be read says so."""

import math
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolwright.core import model
from poolwright.core.model import (
    Decision,
    Estimate,
    Kept,
    Observation,
    Plan,
    Reading,
    Resume,
    Setting,
    Status,
    Tick,
    setting,
)
from poolwright.core.policy import Policy
from poolwright.core.sketch import Sketch, sketch_of
from poolwright.journal import record
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import journal_life

INTS = st.integers(-(2**62), 2**62)
ALL_FLOATS = st.floats()
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.one_of(st.text(max_size=8), st.sampled_from(["null", "inf", "nan", "1", ""]))


def _readings(draw):
    good = draw(st.booleans())
    return Reading(
        signal=draw(TEXT),
        source=draw(TEXT),
        value=draw(FINITE) if good else draw(st.sampled_from([None, math.nan, math.inf])),
        status=Status.OK if good else draw(st.sampled_from([Status.STALE, Status.ERROR])),
        taken_mono_ns=draw(st.integers(0, 2**61)),
        std=draw(st.none() | ALL_FLOATS),
        sketch=draw(st.none() | st.from_type(Sketch)),
        estimated=draw(st.booleans()),
        detail=draw(TEXT),
    )


def _tuples(kind):
    """None, one and two of a kind: more of them take time to draw, and are written alike."""
    args = get_args(kind)
    if args[-1:] == (...,):
        return st.lists(st.from_type(args[0]), max_size=2).map(tuple)
    return st.tuples(*map(st.from_type, args))


st.register_type_strategy(tuple, _tuples)
st.register_type_strategy(float, ALL_FLOATS)
st.register_type_strategy(int, INTS)
st.register_type_strategy(str, TEXT)
st.register_type_strategy(
    Setting,
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 999), max_size=3).map(
        lambda levels: setting(**levels)
    ),
)
st.register_type_strategy(
    Estimate,
    st.builds(Estimate, mean=FINITE, std=FINITE.map(abs), count=st.integers(0, 10**9)),
)
st.register_type_strategy(
    Sketch,
    st.one_of(
        st.lists(st.floats(0, 1e6), max_size=30).map(sketch_of),
        st.builds(Sketch, bins=st.just(()), zeros=INTS, total=ALL_FLOATS, total_squares=FINITE),
    ),
)
st.register_type_strategy(Reading, st.composite(_readings)())


def same(one, other):
    """Equal, NaN and the sign of zero included."""
    return type(one) is type(other) and repr(one) == repr(other)


def _hold(tick):
    return Decision(
        tick=tick, phase=model.Phase.EXPLORE, action=model.Action.HOLD, setting=None, moves=False,
        reason=model.Reason.MEASURING,
    )  # fmt: skip


TYPES = [
    kind
    for name, kind in vars(model).items()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == model.__name__
]
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("kind", [*TYPES, Sketch], ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_every_core_type_comes_back_from_json(kind, data):
    value = data.draw(st.from_type(kind))
    written = record.encode(value)
    assert record.encode(value) == written
    back = record.decode(written, kind)
    assert same(back, value)
    assert record.encode(back) == written


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(tick=st.from_type(Tick), decision=st.from_type(Decision))
def test_a_line_gives_back_the_tick_and_the_decision(tick, decision):
    line = record.encode_line(tick, decision, "")
    step = record.decode_line(line)
    kept = record.without_fit(decision)
    assert same(step.decision, kept)
    for field in fields(Tick):
        if field.name != "plan":
            assert same(getattr(step.tick, field.name), getattr(tick, field.name)), field.name
    assert step.fit_digest == record.fit_digest(decision.fit_request)
    assert record.encode_line(step.tick, kept, "") == record.encode_line(
        replace(tick, plan=None), kept, ""
    )


def every_field(kind, **but):
    """Values of a type of which every field is drawn, also those with a default."""
    return st.builds(kind, **{field.name: ... for field in fields(kind)} | but)


# Without what is large and has a test of its own: plans, and the evidence of a FitRequest.
TICKS = every_field(Tick, plan=st.none(), readings=st.lists(st.from_type(Reading), max_size=2))
DECISIONS = every_field(Decision, fit_request=st.none())


@settings(max_examples=20, deadline=None, suppress_health_check=SLOW)
@given(life=st.lists(st.tuples(TICKS, DECISIONS), max_size=5))
def test_any_life_is_read_back_from_a_journal_and_anything_kept_is_resumed(
    life, tmp_path_factory, bench
):
    path = tmp_path_factory.mktemp("life") / "journal.db"
    journal = SqliteJournal(path, batch_ticks=3)
    run = journal.begin_run("web", bench.policy, Resume(), 1)
    pairs = [
        (replace(tick, index=i, readings=tuple(tick.readings)), replace(decision, tick=i))
        for i, (tick, decision) in enumerate(life)
    ]
    kept = Kept()
    for tick, decision in pairs:
        journal.append(run, tick, decision)
        kept = decision.kept or kept
        assert same(journal.last_resume("web").kept, kept)
    journal.close()
    with JournalReader(path) as reader:
        found = list(reader.steps(run))
        assert same([s.tick for s in found], [tick for tick, _ in pairs])
        wanted = [record.without_fit(decision) for _, decision in pairs]
        assert same([s.decision for s in found], wanted)
        rows = [row for row in reader.decisions_of_run(run) if "command" in row.kinds]
        told = {row.tick: [(c["who"], c["why"]) for c in row.commands] for row in rows}
        assert told == {
            t.index: [(c.who, c.why) for c in t.commands] for t, _ in pairs if t.commands
        }


def test_a_value_that_its_sketch_tells_is_not_written_twice():
    seen = sketch_of([0.1, 0.2, 0.3])
    told = Reading(signal="latency_s", source="x", value=seen.mean, sketch=seen)
    other = replace(told, value=0.25)
    zero = replace(told, value=-0.0, sketch=sketch_of([0.0]))  # equal to the mean, and another
    empty = replace(told, sketch=Sketch())
    tick = Tick(index=1, mono_ns=1, wall_ns=1, readings=(told, other, zero, empty))
    line = record.encode_line(tick, _hold(1), "")
    written = [("value" in r) for r in msgspec.msgpack.decode(line)[0]["readings"]]
    assert written == [False, True, True, True]
    assert same(record.decode_line(line).tick, tick)


def test_a_real_life_comes_back():
    for tick, decision in journal_life.steps(journal_life.lived()):
        step = record.decode_line(record.encode_line(tick, decision, ""))
        assert step.tick == replace(tick, plan=None)
        assert step.decision == record.without_fit(decision)


@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
@given(plan=st.from_type(Plan))
def test_a_plan_comes_back_from_its_blob(plan):
    digest, blob = record.encode_plan(plan)
    assert same(record.decode_plan(blob), plan)
    assert record.encode_plan(plan) == (digest, blob)
    with pytest.raises(record.UnknownRecord, match="Plan"):
        record.decode_plan(blob[:-3])


def test_fields_of_a_later_release_are_ignored_and_absent_ones_take_their_default():
    later = {"knob": "x", "setting": {"levels": [["workers", 5]], "colour": "red"}}
    seen = {
        "opened_tick": 1, "closed_tick": 2, "span_s": 1.0, "sample_count": 1,
        "context": {"moon": "full"}, "responses": [], "app_limited": False, **later,
    }  # fmt: skip
    found = record.decode(msgspec.json.encode(seen), Observation)
    assert found.setting == setting(workers=5)
    assert found.context == model.Context()
    assert not found.breached


def test_an_unknown_member_makes_the_one_record_unreadable_and_nothing_else():
    tick = Tick(index=1, mono_ns=1, wall_ns=1)
    decision = _hold(1)
    line = record.encode_line(tick, decision, "")
    later = line.replace(b"measuring", b"mooncycle")
    assert later != line
    with pytest.raises(record.UnknownRecord, match="mooncycle"):
        record.decode_line(later)
    assert "mooncycle" in repr(record.raw_line(later))
    assert record.decode_line(line).decision == decision


@pytest.mark.parametrize("kind", [Plan, Policy, Resume, Tick])
def test_damaged_bytes_are_refused(kind):
    with pytest.raises(record.UnknownRecord, match=kind.__name__):
        record.decode(b'{"index": ', kind)
    with pytest.raises(record.UnknownRecord, match="damaged"):
        record.unsqueeze(b"not zlib", kind)
    for dictionary in (None, b"some words"):
        whole = record.pack([b"x"], dictionary)
        assert record.unpack(whole, dictionary) == [b"x"]
        for blob in (whole[:-3], whole + b"x", b""):
            with pytest.raises(record.UnknownRecord, match="damaged"):
                record.unpack(blob, dictionary)
    with pytest.raises(record.UnknownRecord, match="damaged"):
        record.unpack(whole, b"other words")


def test_a_chain_feels_every_part():
    base = record.chain("a", (1, 2), b"blob")
    assert len({base, record.chain("b", (1, 2), b"blob"), record.chain("a", (1, 3), b"blob"),
                record.chain("a", (1, 2), b"blub")}) == 4  # fmt: skip


def test_the_round_trip_covers_the_types_of_the_core():
    assert {kind.__name__ for kind in TYPES} >= {"Tick", "Decision", "Plan", "FitRequest", "Resume"}
