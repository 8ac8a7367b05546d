"""Asking sensors and the actuator: nothing that they do stops a tick."""

import asyncio

import pytest

from poolwright.core.errors import PlantFault
from poolwright.core.model import Applied, Reading, Status, setting
from poolwright.engine.gather import look


class Says:
    """A sensor that does what it is told."""

    signals = ("cpu_cores",)

    def __init__(self, source, does, deadline_s=None):
        self.source, self._does, self.deadline_s = source, does, deadline_s

    async def read(self, now_ns):
        value = self._does()
        if asyncio.iscoroutine(value):
            value = await value
        return (Reading(signal="cpu_cores", source=self.source, value=value, taken_mono_ns=now_ns),)


class Level:
    endpoint = "test"

    async def read(self):
        return Applied(setting=setting(workers=3), epoch="e")


def fails(error):
    def does():
        raise error

    return does


async def test_readings_come_in_the_order_of_the_sensors_whoever_waits():
    async def later():
        await asyncio.sleep(0)
        return 2.0

    asked = [Says("a", lambda: 1.0), Says("b", later, deadline_s=5.0), Says("c", lambda: 3.0)]
    seen = await look(asked, Level(), 7)
    assert [(r.source, r.value) for r in seen.readings] == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    assert [source for source, _ in seen.took] == ["a", "b", "c"]
    assert seen.applied.setting == setting(workers=3)


async def test_a_sensor_that_says_it_never_waits_is_not_waited_for():
    ended = []

    async def waits():
        try:
            await asyncio.sleep(3600.0)
        finally:
            ended.append(True)
        return 1.0

    seen = await look([Says("liar", waits), Says("b", lambda: 2.0)], Level(), 7)
    assert [r.status for r in seen.readings] == [Status.ERROR, Status.OK]
    assert seen.readings[0].detail == "it waits, and has no deadline"
    assert ended, "and nothing of it runs on"


@pytest.mark.parametrize("deadline_s", [None, 5.0])
@pytest.mark.parametrize(
    ("error", "told"), [(PlantFault("gone"), "gone"), (KeyError("x"), "KeyError: 'x'")]
)
async def test_what_a_sensor_raises_is_a_broken_source(deadline_s, error, told, caplog):
    seen = await look([Says("a", fails(error), deadline_s), Says("b", lambda: 2.0)], Level(), 7)
    assert [(r.status, r.detail) for r in seen.readings] == [(Status.ERROR, told), (Status.OK, "")]
    assert bool(caplog.records) is isinstance(error, KeyError), "what is a bug is in the log"


async def test_who_does_not_answer_in_time_is_given_up():
    async def never():
        await asyncio.get_running_loop().create_future()

    seen = await look([Says("a", never, deadline_s=0.01)], Level(), 7)
    assert seen.readings[0].detail == "no answer within 0.01 s"


class Stuck(Level):
    async def read(self):
        raise PlantFault("no such process 7")


async def test_a_level_that_cannot_be_read_is_told():
    seen = await look([Says("a", lambda: 1.0)], Stuck(), 7)
    assert (seen.applied, seen.fault) == (None, "no such process 7")
    assert seen.readings[0].value == 1.0
