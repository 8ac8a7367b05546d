"""The python sensor: differences of what processes count, and what it will not say."""

import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from crafted import SHAPE, Crafted, answer, requests, tasks
from gunicorn_service import until
from hypothesis import given
from hypothesis import strategies as st

from poolwright.client import Meter, ResizableThreadPoolExecutor, WsgiMeter, offer
from poolwright.client.reach import Shape
from poolwright.client.tally import Tally
from poolwright.core.errors import PlantFault
from poolwright.core.model import Status
from poolwright.core.sketch import sketch_of
from poolwright.sensors.python import Python, _since

SECOND = 1_000_000_000


class Clocks:
    def __init__(self):
        self.mono_ns = 1_000 * SECOND
        self.wall_ns = 10**18

    def __call__(self):
        return self.wall_ns, self.mono_ns

    def forward(self, seconds):
        self.mono_ns += int(seconds * SECOND)
        self.wall_ns += int(seconds * SECOND)


@asynccontextmanager
async def watching(count="requests"):
    clocks = Clocks()
    async with Crafted() as made:
        sensor = Python(Python.Options(folder=str(made.folder), count=count), "web", clocks)
        await sensor.start()

        async def read(after_s=1.0):
            clocks.forward(after_s)
            return {r.signal: r for r in await sensor.read(clocks.mono_ns)}

        yield made, read, clocks
        await sensor.close()


def shape(*seconds):
    tally = Tally()
    for each in seconds:
        tally.add(each)
    return tally.told()


async def test_the_first_read_is_where_counting_begins():
    async with watching() as (made, read, _):
        await made.says("1-a", answer(requests=requests(ended=500, errors=3)))
        first = await read()
        assert set(first) == set(Python.signals)
        assert {r.status for r in first.values()} == {Status.NO_DATA}
        again = await read()
        assert again["throughput_rps"].value == 0.0
        assert again["errors_rps"].value == 0.0
        assert again["service_time_s"].status is Status.NO_DATA
        assert again["latency_s"].status is Status.NO_DATA
        assert again["queue_length"].value == 0.0


async def test_all_processes_are_summed_over_the_time_since_the_last_read():
    async with watching() as (made, read, _):
        for name in "ab":
            await made.says(name, answer(name, requests=requests(ended=100)))
        await read()
        for name, queued in (("a", 3), ("b", 4)):
            latency, queue = shape(*[0.3] * 10), shape(*[0.2] * 10)
            now = requests(ended=110, errors=2, carried=10, latency=latency, queue=queue)
            ran = tasks(queued=queued, running=2, ran=shape(*[0.1] * 10))
            await made.says(name, answer(name, requests=now, tasks=ran))
        seen = await read(2.0)
        assert seen["throughput_rps"].value == 10.0
        assert seen["errors_rps"].value == 2.0
        assert seen["queue_length"].value == 7.0
        assert seen["queue_length"].detail == "4 more run"
        assert seen["latency_s"].detail == "0.200 s of it before the application"
        assert seen["service_time_s"].value == pytest.approx(0.1)
        assert seen["latency_s"].value == pytest.approx(0.3)
        assert seen["latency_s"].sketch.count == 20


async def test_without_a_pool_service_is_the_requests_own_and_there_is_no_queue():
    async with watching() as (made, read, _):
        await made.says("a", answer(limit=None, running=None, tasks=None))
        await read()
        now = requests(ended=2, service=shape(0.2, 0.4))
        await made.says("a", answer(limit=None, running=None, tasks=None, requests=now))
        seen = await read()
        assert seen["service_time_s"].value == pytest.approx(0.3)
        assert seen["queue_length"].status is Status.NO_DATA


async def test_tasks_of_a_pool():
    async with watching("tasks") as (made, read, _):
        await made.says("a", answer(requests=None))
        await read()
        now = tasks(done=4, failed=1, queued=2, ran=shape(*[0.1] * 4), stayed=shape(*[0.5] * 4))
        await made.says("a", answer(requests=None, tasks=now))
        seen = await read()
        assert seen["throughput_rps"].value == 4.0
        assert seen["errors_rps"].value == 1.0
        assert seen["service_time_s"].value == pytest.approx(0.1)
        assert seen["latency_s"].value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("count", "said", "told"),
    [
        ("requests", answer(requests=None), "offers no meter"),
        ("tasks", answer(tasks=None), "offers no pool"),
    ],
)
async def test_what_is_not_offered_cannot_be_counted(count, said, told):
    async with watching(count) as (made, read, _):
        await made.says("a", said)
        with pytest.raises(PlantFault, match=told):
            await read()


async def test_a_failed_read_loses_nothing():
    async with watching() as (made, read, _):
        await made.says("a", answer(requests=requests(ended=10)))
        await read()
        await made.says("a", b"?\n")
        with pytest.raises(PlantFault):
            await read()
        await made.says("a", answer(requests=requests(ended=30)))
        assert (await read())["throughput_rps"].value == 10.0


async def test_a_newcomer_counts_from_its_start_and_who_was_not_seen_does_not():
    async with watching() as (made, read, clocks):
        await made.says("a", answer("a"))
        await read()
        born = clocks.mono_ns + 1
        await made.says("b", answer("b", born_ns=born, requests=requests(ended=7)))
        assert (await read())["throughput_rps"].value == 7.0
        await made.says("c", answer("c", pid=33, requests=requests(ended=9_999)))
        seen = await read()
        assert seen["throughput_rps"].status is Status.ERROR
        assert "process 33" in seen["throughput_rps"].detail
        assert (await read())["throughput_rps"].value == 0.0


async def test_who_ended_takes_its_last_counts_along_and_that_is_said():
    async with watching() as (made, read, _):
        await made.says("a", answer("a"))
        await made.says("b", answer("b", pid=77))
        await read()
        await made.ends("b")
        seen = await read()
        for signal in ("throughput_rps", "errors_rps"):
            assert seen[signal].status is Status.ERROR
            assert "process 77 ended" in seen[signal].detail
        assert (await read())["throughput_rps"].status is Status.OK


@pytest.mark.parametrize(
    "then_now",
    [
        (requests(ended=5), requests(ended=4)),
        (requests(errors=5), requests(errors=4)),
        (requests(latency=shape(1.0)), requests(latency=shape(2.0))),
        (requests(service=SHAPE | {"zeros": 3}), requests(service=SHAPE | {"zeros": 2})),
    ],
)
async def test_counts_that_go_back_are_no_counts(then_now):
    then, now = then_now
    async with watching() as (made, read, _):
        for said in (then, now):
            await made.says("a", answer(limit=None, running=None, tasks=None, requests=said))
            if said is then:
                await read()
        with pytest.raises(PlantFault, match="counts backwards"):
            await read()


@pytest.mark.parametrize(
    "bad",
    [
        {"bins": [[0, -1]]},
        {"bins": [[5_000, 1]]},
        {"bins": [[0, 1]] * 2_000},
        {"zeros": -1},
        {"total": -1.0},
        {"total": 1e300},
        {"squares": "many"},
    ],
)
async def test_a_distribution_that_cannot_be_is_refused(bad):
    async with watching() as (made, read, _):
        await made.says("a", answer(requests=requests(latency=SHAPE | bad)))
        with pytest.raises(PlantFault, match="not the answer"):
            await read()


async def test_latency_needs_most_requests_to_tell_their_start():
    async with watching() as (made, read, _):
        await made.says("a", answer())
        await read()
        now = requests(ended=10, carried=4, latency=shape(*[0.1] * 4))
        await made.says("a", answer(requests=now))
        seen = await read()
        assert seen["latency_s"].status is Status.NO_DATA
        assert "only 4 of 10" in seen["latency_s"].detail


async def test_latency_and_clocks():
    async with watching() as (made, read, clocks):
        await made.says("a", answer())
        await read()
        good = requests(ended=1, carried=1, latency=shape(0.1))
        await made.says("a", answer(requests=good))
        clocks.wall_ns += 3 * SECOND
        seen = await read()
        assert seen["latency_s"].status is Status.ERROR
        assert "stepped by +3.000 s" in seen["latency_s"].detail
        assert seen["throughput_rps"].value == 1.0
        await made.says("a", answer(requests=good | {"ended": 2, "carried": 2, "refused": 1}))
        seen = await read()
        assert seen["latency_s"].status is Status.ERROR
        assert "do the clocks" in seen["latency_s"].detail


@given(st.lists(st.floats(0, 1e4), max_size=30), st.lists(st.floats(0, 1e4), max_size=30))
def test_the_difference_of_two_distributions_is_what_came_between(before, after):
    then, now = shape(*before), shape(*before, *after)
    made = [Shape(**{k: tuple(v) if k == "bins" else v for k, v in s.items()}) for s in (now, then)]
    found, wanted = _since(*made), sketch_of(after)
    assert (found.bins, found.zeros) == (wanted.bins, wanted.zeros)
    assert found.total == pytest.approx(wanted.total, abs=1e-6)


async def test_a_real_application_is_counted_exactly():
    home = Path(tempfile.mkdtemp(prefix="pw", dir="/tmp"))
    try:
        pool, meter = ResizableThreadPoolExecutor(2), Meter()
        made = offer(str(home / "o"), pool=pool, meter=meter)
        until(lambda: list(home.glob("o/*.sock")), 10.0, "it offers")
        sensor = Python(Python.Options(folder=str(home / "o")), "web")
        await sensor.read(1)

        def app(env, start_response):
            pool.submit(abs, -1).result()
            start_response("200 OK", [])
            return [b"x"]

        metered = WsgiMeter(app, meter)
        for _ in range(50):
            metered({}, lambda *_: None)
        before = await sensor._reach.ask(1.0, counts=True)
        assert before[0].requests.ended == 50
        seen = {r.signal: r for r in await sensor.read(2)}
        assert seen["throughput_rps"].status is Status.OK
        assert seen["service_time_s"].sketch.count in (49, 50)  # the last may not be put down yet
        made.close()
        pool.shutdown()
    finally:
        shutil.rmtree(home)
