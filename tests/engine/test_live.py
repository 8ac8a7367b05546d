"""The live host's clockwork: a fixed cadence, late slots counted and not caught up."""

import asyncio

from poolwright.engine.live import Daemon


class Slots(Daemon):
    """Only the clockwork of a Daemon: no configuration, no pools to start."""

    def __init__(self, times_ns):
        self._times = iter(times_ns)
        self._clock = self
        self._stop = asyncio.Event()
        self._stop.set()  # a slot is not waited for
        self._pools = {"web": self}
        self.counted = []

    def mono_ns(self):
        return next(self._times)

    def count(self, name):
        self.counted.append(name)


async def test_a_slot_in_time_is_the_next_one():
    daemon = Slots([400])
    assert await daemon._sleep(1_000, 1_000) == 1_000
    assert daemon.counted == []


async def test_a_late_slot_is_counted_once_and_the_missed_ones_are_skipped():
    daemon = Slots([3_400])
    assert await daemon._sleep(1_000, 1_000) == 4_000
    assert daemon.counted == ["late_ticks"]
