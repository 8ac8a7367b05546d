"""The live host's clockwork: a fixed cadence, late slots counted and not caught up, and a reload
that does not wait for the slot.
"""

import asyncio

import pytest
import ticks as make
from pools import World

from poolwright.core.errors import PlantFault
from poolwright.core.model import Command, CommandKind, setting
from poolwright.core.policy import Mode
from poolwright.engine.live import Daemon


class Slots(Daemon):
    """Only the clockwork of a Daemon: no configuration, no pools to start."""

    def __init__(self, times_ns, *, stop=True, reloads=0):
        self._times = iter(times_ns)
        self._clock = self._reload = self
        self._stop, self._wake = asyncio.Event(), asyncio.Event()
        if stop:
            self._stop.set()  # a slot is not waited for
        self._pools = {"web": self}
        self.counted = []
        self.reloads = reloads
        self.reloaded = 0
        self.done = asyncio.Event()

    def mono_ns(self):
        return next(self._times)

    def count(self, name):
        self.counted.append(name)

    @property
    def asked(self):
        return self.reloaded < self.reloads

    async def _reload_policies(self):
        self.reloaded += 1
        self.done.set()


async def test_a_slot_in_time_is_the_next_one():
    daemon = Slots([400])
    assert await daemon._sleep(1_000, 1_000) == 1_000
    assert daemon.counted == []


async def test_a_late_slot_is_counted_once_and_the_missed_ones_are_skipped():
    daemon = Slots([3_400])
    assert await daemon._sleep(1_000, 1_000) == 4_000
    assert daemon.counted == ["late_ticks"]


async def test_a_reload_is_made_before_the_slot_comes_and_the_slot_stays():
    daemon = Slots([0, 0], stop=False, reloads=1)
    waiting = asyncio.create_task(daemon._sleep(3_600 * 10**9, 10**9))
    await daemon.done.wait()
    assert not waiting.done(), "the slot is still waited for"
    daemon._end()
    assert await waiting == 3_600 * 10**9


async def test_what_is_asked_while_it_sleeps_wakes_it():
    daemon = Slots([0, 0, 0], stop=False)
    waiting = asyncio.create_task(daemon._sleep(3_600 * 10**9, 10**9))
    await asyncio.sleep(0)
    daemon.reloads = 1
    daemon._wake.set()
    await daemon.done.wait()
    daemon._end()
    await waiting


async def test_a_stop_is_not_delayed_by_a_reload():
    daemon = Slots([0], reloads=1)
    await daemon._sleep(3_600 * 10**9, 10**9)
    assert daemon.reloaded == 0


class Broken(Daemon):
    """A Daemon whose core has failed: only its pools."""

    def __init__(self, *worlds):
        self._pools = {world.name: world.pool for world in worlds}


@pytest.fixture
def worlds(tmp_path):
    made = []

    def make_one(name, **policy):
        made.append(World(tmp_path / f"{name}.db", make.policy(**policy), name=name))
        return made[-1]

    yield make_one
    for world in made:
        world.journal.close()


async def test_when_the_core_fails_every_level_that_is_ours_goes_back(worlds, caplog):
    web, api, shown, gone = (
        worlds("web"), worlds("api"), worlds("shown", mode=Mode.RECOMMEND), worlds("gone"),
    )  # fmt: skip
    for world in (web, api, shown, gone):
        await world.run(3)
        world.actuator.workers = 7  # the core failed in the middle of something
    pin = Command(kind=CommandKind.PIN, who="ana", setting=setting(workers=7))
    assert api.pool.ask(pin) == ""
    await api.tick()
    api.actuator.applied.clear()
    gone.actuator.error = PlantFault("/run/gone.pid: no such process")
    await Broken(web, api, shown, gone)._restore_baselines("the core failed")
    assert web.actuator.applied == [setting(workers=4)]
    assert api.actuator.applied == []
    assert shown.actuator.applied == []
    assert "api: the baseline is not restored: it is pinned to workers=7" in caplog.text
    assert "gone: the core failed; the baseline cannot be restored: /run/gone.pid" in caplog.text
