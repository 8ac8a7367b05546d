"""Faults one by one: when they strike, what they do to readings, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playing import faults as written
from playing import scenario

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.sketch import sketch_of
from poolwright.sim.faults import (
    FAULTS,
    SENSES,
    Blow,
    DaemonKilled,
    DiskFull,
    Disturbed,
    Faults,
    LearnerFault,
    OtherHand,
    SensorFault,
    Spell,
    Suspend,
)
from poolwright.sim.shape import Disturbance

SEEN = sketch_of([0.1, 0.2, 0.4])
READINGS = (
    Reading(signal="throughput_rps", source="sim", value=40.0),
    Reading(signal="latency_s", source="sim", value=SEEN.mean, sketch=SEEN),
    Reading(signal="service_time_s", source="sim", status=Status.NO_DATA),
)


def lie(does, **more):
    return SensorFault(does=does, at=0.0, lasts=1.0, **more)


def distorted(does, **more):
    return lie(does, **more).distort(READINGS, Faults((), 0).random("x"))


def test_silence_is_no_readings_at_all():
    assert distorted("silent") == ()
    assert [r.signal for r in distorted("silent", signals=("latency_s",))] == [
        "throughput_rps",
        "service_time_s",
    ]


def test_an_error_is_a_fault_of_the_plant():
    with pytest.raises(PlantFault, match="broken"):
        distorted("error")


def test_stale_readings_have_no_value():
    assert {(r.status, r.value, r.sketch) for r in distorted("stale")} == {
        (Status.STALE, None, None)
    }


def test_a_scaled_reading_scales_its_distribution_as_well():
    _, latency, nothing = distorted("scaled", factor=10.0)
    assert latency.value == pytest.approx(10 * SEEN.mean)
    assert latency.sketch.mean == pytest.approx(10 * SEEN.mean)
    assert latency.sketch.quantile(1.0) == pytest.approx(4.0, rel=0.03)
    assert nothing == READINGS[2]
    (throughput, _, _) = distorted("scaled", factor=0.0)
    assert throughput.value == 0.0


@pytest.mark.parametrize("does", ["nan", "inf"])
def test_what_is_not_a_number_is_refused_where_a_reading_is_made(does):
    with pytest.raises(ValueError, match="throughput_rps"):
        distorted(does)


def test_a_negative_reading_is_below_zero():
    found = [r.value for r in distorted("negative") if r.value is not None]
    assert found
    assert all(value < 0.0 for value in found)


def test_a_reset_counter_shows_a_part_of_what_was():
    throughput, latency, _ = distorted("reset")
    assert 0.0 < throughput.value < 40.0
    assert "reset" in throughput.detail
    assert latency.value / SEEN.mean == pytest.approx(throughput.value / 40.0)


def test_every_signal_belongs_to_one_sense():
    signals = [signal for found in SENSES.values() for signal in found]
    assert len(signals) == len(set(signals))


@given(
    at=st.integers(0, 50),
    every=st.integers(1, 20),
    times=st.integers(1, 8),
    cadence=st.sampled_from([1, 2, 5]),
)
def test_a_blow_strikes_as_often_as_it_says_whatever_the_cadence(at, every, times, cadence):
    blow = OtherHand(to=4, at=float(at), every=float(every), times=times)
    due = sum(blow.due(t - cadence, t) for t in range(0, 400, cadence))
    moments = {at + n * every for n in range(times)}
    assert due == len({math.ceil(m / cadence) for m in moments})


def test_a_spell_is_felt_in_one_tick_at_least():
    book = Faults([DiskFull(at=10.2, lasts=0.1)], 0)
    felt = []
    for second in range(30):
        book.advance(float(second))
        if book.rages(DiskFull):
            felt.append(second)
    assert felt == [11]
    assert book.injected == {"disk-full": 1}


def test_a_fault_of_one_pool_spares_the_others():
    book = Faults([LearnerFault(does="hangs", at=0.0, lasts=9.0, pool="web")], 0)
    book.advance(1.0)
    assert book.active(LearnerFault, "web")
    assert not book.active(LearnerFault, "api")


def test_a_kill_waits_for_its_point_and_comes_once():
    book = Faults([DaemonKilled(before="apply", at=5.0)], 0)
    book.advance(4.0)
    assert book.kill("apply", "web") is None
    book.advance(5.0)
    book.advance(6.0)
    assert book.kill("step", "web") is None
    assert book.injected == {}  # what did not happen is not counted
    assert book.kill("apply", "web") is not None
    assert book.kill("apply", "web") is None
    assert book.injected == {"poolwright killed before apply": 1}


def test_disturbances_at_once_multiply_factors_and_add_amounts():
    total = Disturbance()
    for _ in range(2):
        Disturbed(
            at=0.0, lasts=1.0, cpu_factor=2.0, foreign_cores=1.5, fail_ratio=0.1, leak_bytes=8
        ).onto(total)
    assert total == Disturbance(cpu_factor=4.0, foreign_cores=3.0, fail_ratio=0.1, leak_bytes=16.0)


def test_chance_depends_on_the_seed_the_moment_and_what_for():
    def drawn(seed, what, at):
        book = Faults((), seed)
        book.advance(at)
        return book.random(what).random()

    assert drawn(1, "a", 5.0) == drawn(1, "a", 5.0)
    others = {drawn(1, "a", 6.0), drawn(2, "a", 5.0), drawn(1, "b", 5.0)}
    assert len(others | {drawn(1, "a", 5.0)}) == 4


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_names_itself_and_says_what_its_fields_mean(kind):
    found = FAULTS[kind]
    assert found.kind == kind
    assert issubclass(found, Spell | Blow | Suspend)
    for field in found.__dataclass_fields__.values():
        assert field.name == "kind" or field.metadata["doc"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("kind: sensr, does: error, at: 1s, lasts: 1s", "'sensr' is not known here; did you mean"),
        ("does: error, at: 1s", "'kind' is missing; there are: sensor, "),
        ("kind: sensor, does: err, at: 1s, lasts: 1s", "faults[0].does: 'err' is not known here"),
        ("kind: sensor, does: error, at: 1s", "'lasts' is missing"),
        ("kind: sensor, does: error, at: 1, lasts: 1s", "has no unit"),
        ("kind: other-hand, at: 1s, to: 3, times: 4", "say how often with `every`"),
        ("kind: disk-full, at: 1s, lasts: 1s, pool: web", "strikes the whole host, not one pool"),
        ("kind: disk-full, at: 1s, lasts: 1s, pool: wbe", "there is no pool 'wbe'"),
        ("kind: suspend, at: 61s, lasts: 1s", "61 s is not before the end, 60 s"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(line, message):
    text = "version: 1\nname: x\nduration: 60s\npolicy: balanced\n" + written(line)
    with pytest.raises(PolicyError) as refused:
        scenario(text)
    assert message in str(refused.value)
    assert str(refused.value).startswith("s.yaml:6:")
