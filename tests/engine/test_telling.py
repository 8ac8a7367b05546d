"""One line for each decision that matters, none for the others; what broke is told once."""

import logging
import re
from pathlib import Path

import pytest
import snapshots as make

from poolwright.core.model import (
    Actuation,
    ActuationStatus,
    Command,
    CommandKind,
    Phase,
    Reading,
    Reason,
    Status,
)
from poolwright.engine.telling import Teller

DOCS = Path(__file__).parents[2] / "docs" / "logs.md"


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.DEBUG, "poolwright")
    teller = Teller("web")

    def tell(decision, **tick):
        caplog.clear()
        teller.tell(3, make.tick(decision.tick, **tick), decision)
        return list(caplog.records)

    tell(make.hold(400))
    return tell


def test_the_first_tick_has_a_line_and_those_that_go_on_holding_have_none(caplog):
    caplog.set_level(logging.INFO, "poolwright")
    teller = Teller("web")
    for index in range(400, 420):
        teller.tell(3, make.tick(index), make.hold(index))
    (line,) = caplog.records
    assert line.getMessage() == "web: explore hold workers=5: measuring this setting [3/400]"


@pytest.mark.parametrize(
    "decision",
    [
        make.probe(412),
        make.hold(412, events=("a worker died",)),
        make.hold(412, phase=Phase.CONVERGED),
        make.hold(412, advice=make.advice()),
        make.hold(412, guard_trips=(Reason.SLO_BREACH,)),
    ],
)
def test_what_matters_has_exactly_one_line_with_its_id(told, decision):
    (line,) = told(decision)
    assert line.getMessage().endswith(" [3/412]")
    assert line.fields["decision_id"] == "3/412"
    assert (line.fields["event"], line.fields["pool"]) == ("decision", "web")


@pytest.mark.parametrize(
    "tick",
    [
        {"commands": (Command(kind=CommandKind.PAUSE, who="ann"),)},
        {"quiet": "Mon-Fri 09:00-10:00 Europe/Berlin"},
        {"overrides": (make.override(),)},
    ],
)
def test_what_people_ask_has_a_line(told, tick):
    assert len(told(make.hold(412), **tick)) == 1


def test_a_trip_that_lasts_and_an_advice_that_stands_are_told_once(told):
    again = {"guard_trips": (Reason.SLO_BREACH,), "advice": make.advice()}
    assert len(told(make.hold(412, **again))) == 1
    assert not told(make.hold(413, **again))
    assert not told(make.hold(414)), "a trip that ends is no news, nor an advice not repeated"
    assert len(told(make.hold(415, guard_trips=(Reason.SLO_BREACH,)))) == 1


def test_a_retreat_is_a_warning_with_what_a_program_wants_to_know(told):
    (line,) = told(make.retreat())
    assert line.levelno == logging.WARNING
    assert line.fields == {
        "event": "decision",
        "pool": "web",
        "decision_id": "3/431",
        "phase": "cooldown",
        "action": "retreat",
        "reason": "slo_breach",
        "moves": True,
        "setting": {"workers": 8},
        "clamps": ["slew"],
        "guard_trips": ["slo_breach"],
        "events": ["probe of workers=4 given up"],
    }


def test_a_move_that_failed_is_a_warning_with_the_actuators_words(told):
    failed = make.applied(411, status=ActuationStatus.FAILED, detail="no right to signal 4711")
    (line,) = told(make.hold(412, reason=Reason.ACTUATION_FAILED), actuation=failed)
    assert line.levelno == logging.WARNING
    assert line.fields["actuation_error"] == "no right to signal 4711"
    pending = Actuation(decision_tick=411, status=ActuationStatus.PENDING)
    assert not told(make.hold(413), actuation=pending)


def test_a_fit_that_failed_is_a_warning(told):
    decision = make.hold(412, events=("no plan: the learner ended with signal 9",))
    (line,) = told(decision, learner_fault="the learner ended with signal 9")
    assert line.levelno == logging.WARNING


def test_a_sensor_that_breaks_is_told_after_three_ticks_and_once(told):
    broken = {"readings": (make.broken_reading(),)}
    well = {"readings": (Reading(signal="cpu_cores", source=make.TREE, value=1.0),)}
    lines = [told(make.hold(i), **broken) for i in range(412, 422)]
    assert [len(found) for found in lines] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    (line,) = lines[2]
    assert line.getMessage() == (
        f"web: sensor {make.TREE} gives nothing good: /run/web/gunicorn.pid: No such file"
    )
    assert (line.levelno, line.fields["event"]) == (logging.WARNING, "sensor_broken")
    assert line.fields["sensor"] == make.TREE
    lines = [told(make.hold(i), **well) for i in range(422, 430)]
    assert [len(found) for found in lines] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert lines[2][0].fields["event"] == "sensor_well"


def test_a_sensor_that_flaps_is_not_told_each_time(told):
    for i in range(412, 440):
        status = Status.ERROR if i % 2 else Status.NO_DATA
        reading = Reading(signal="cpu_cores", source=make.TREE, status=status)
        assert not told(make.hold(i), readings=(reading,))


def test_every_field_is_in_the_page(told):
    advised = make.hold(
        432,
        advice=make.advice(),
        detail="why",
        clamps=make.retreat().clamps,
        events=("x",),
        guard_trips=(Reason.SLO_BREACH,),
    )
    failed = make.applied(431, status=ActuationStatus.REFUSED, detail="no")
    (line,) = told(advised, actuation=failed)
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", DOCS.read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {*line.fields, "time", "level", "message", "exception", "sensor"}
