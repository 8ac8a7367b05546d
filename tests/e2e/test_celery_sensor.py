"""The celery sensor beside real workers: what it says is what was done."""

import asyncio
import contextlib
import os
import signal
import time
from itertools import pairwise

import pytest
from celery_service import services
from gunicorn_service import until

from poolwright.actuators.celery import Celery as Mover
from poolwright.core.errors import PlantFault
from poolwright.core.model import Status, setting
from poolwright.sensors.celery import Celery

pytestmark = pytest.mark.e2e


@pytest.fixture
def celery_service(tmp_path):
    """Starts workers, each with a redis of its own."""
    with services(tmp_path) as start:
        yield start


@contextlib.asynccontextmanager
async def sensor(service, **options):
    """A sensor of `service`, started and closed."""
    made = Celery(Celery.Options(broker=service.url, node=service.node, **options), "jobs")
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def look(made):
    """Signal -> Reading."""
    readings = await made.read(time.monotonic_ns())
    assert tuple(reading.signal for reading in readings) == made.signals
    return {reading.signal: reading for reading in readings}


async def looks(made, enough, within_s=30.0, every_s=0.25):
    """Look until `enough(the looks so far)`."""
    end, seen = time.monotonic() + within_s, []
    while not (seen and enough(seen)):
        assert time.monotonic() < end, seen[-3:]
        seen.append(await look(made))
        await asyncio.sleep(every_s)
    return seen


def total(seen, signal):
    """What a rate amounts to over all looks."""
    found = 0.0
    for before, after in pairwise(seen):
        elapsed_s = (after[signal].taken_mono_ns - before[signal].taken_mono_ns) / 1e9
        found += (after[signal].value or 0.0) * elapsed_s
    return round(found)


async def until_heard(service, made):
    """Send single tasks until the events are listened to."""

    def heard(seen):
        service.send(1, 0.0)
        return seen[-1]["errors_rps"].status is Status.OK

    return await looks(made, heard)


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
async def test_events_tell_what_was_done(celery_service, pool):
    service = celery_service(pool=pool, concurrency=3, flags=("-E",))
    async with sensor(service, events=True) as made:
        first = await look(made)
        assert first["throughput_rps"].status is Status.NO_DATA
        assert first["errors_rps"].status is not Status.OK
        assert first["worker_count"].value == 3
        assert (first["queue_length"].status, first["queue_length"].value) == (Status.OK, 0)
        await until_heard(service, made)
        await asyncio.to_thread(until, lambda: len(service.ended()) == service._sent, 10.0, "idle")
        await asyncio.sleep(0.5)
        begin = await look(made)
        before = service._sent
        sending = asyncio.create_task(asyncio.to_thread(service.send, 60, 0.3))
        seen = [begin, *await looks(made, lambda _: len(service.ended()) >= before + 60, every_s=1)]
        await sending
        await asyncio.to_thread(service.send, 10, 0.0, fail=True)
        await asyncio.to_thread(until, lambda: len(service.ended()) == before + 70, 20.0, "done")
        await asyncio.sleep(1.0)
        seen.append(await look(made))
        seen.append(await look(made))
    assert total(seen, "throughput_rps") == 70
    assert total(seen, "errors_rps") == 10
    assert max(one["queue_length"].value for one in seen) > 20
    assert "taken and not begun" in seen[1]["queue_length"].detail
    assert seen[-1]["queue_length"].value == 0
    times = [one["service_time_s"] for one in seen[1:] if one["service_time_s"].sketch]
    assert sum(one.sketch.count for one in times) == 70
    assert max(one.sketch.quantile(0.5) for one in times) == pytest.approx(0.3, rel=0.3)
    waits = [one["latency_s"] for one in seen[1:] if one["latency_s"].sketch]
    # A task that ends at once may end before its task-sent, on another connection, is heard.
    assert 60 <= sum(one.sketch.count for one in waits) <= 70
    assert max(one.sketch.quantile(1.0) for one in waits) > 2.0, "60 of 0.3 s, three at a time"


async def test_without_events_only_what_is_known_is_said(celery_service):
    service = celery_service(concurrency=2)
    async with sensor(service) as made:
        assert set(made.signals) == {"throughput_rps", "queue_length", "worker_count"}
        begin = await look(made)
        service.send(30, 0.1)
        seen = [begin, *await looks(made, lambda _: len(service.ended()) == 30)]
        await asyncio.sleep(0.2)
        seen.append(await look(made))
    assert total(seen, "throughput_rps") == 30


async def test_a_worker_that_sends_no_events_is_not_believed(celery_service):
    service = celery_service(concurrency=2)  # without -E, whatever the sensor was told
    async with sensor(service, events=True) as made:
        await look(made)
        service.send(40, 0.0)
        seen = await looks(made, lambda s: s[-1]["errors_rps"].status is Status.ERROR)
        assert "0 events told" in seen[-1]["errors_rps"].detail
        assert "-E" in seen[-1]["errors_rps"].detail
        assert total(seen, "errors_rps") == 0
        assert all(one["errors_rps"].value is None for one in seen)


async def test_a_restart_is_no_rate(celery_service):
    service = celery_service(concurrency=2)
    async with sensor(service) as made:
        service.send(20, 0.0)
        until(lambda: len(service.ended()) == 20, 20.0, "done")
        await look(made)
        service.kill()
        with pytest.raises(PlantFault, match="tested@here: no answer"):
            await look(made)
        service.start()
        service.send(3, 0.0)
        until(lambda: len(service.ended()) == 23, 20.0, "done")
        again = await look(made)
        assert again["throughput_rps"].status is Status.NO_DATA
        assert (await look(made))["throughput_rps"].value == 0


async def test_a_dead_broker_and_a_stopped_worker_keep_nobody_waiting(celery_service):
    service = celery_service(concurrency=2)
    async with sensor(service, events=True) as made:
        await look(made)
        service.signal(signal.SIGSTOP)
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(PlantFault, match="tested@here"):
                await look(made)
            assert time.monotonic() - began < 1.0
        service.signal(signal.SIGCONT)
        await asyncio.sleep(1.0)
        await look(made)
        service.broker.kill()
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(PlantFault, match=str(service.broker.port)):
                await look(made)
            assert time.monotonic() - began < 2.0


async def test_sensor_and_actuator_share_one_child(celery_service):
    service = celery_service(concurrency=2)
    mover = Mover(Mover.Options(broker=service.url, node=service.node), "jobs")
    async with sensor(service) as made:
        await asyncio.gather(look(made), mover.read())
        child = made._link.pid
        assert mover._link is made._link
        await mover.close()
        assert made._link.pid == child
        await look(made)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


async def test_a_worker_that_is_made_quiet_still_tells_its_queue(celery_service):
    service = celery_service(concurrency=2)
    service.send(30, 0.5)
    until(lambda: len(service.begun()) == 2, 10.0, "two run")
    mover = Mover(Mover.Options(broker=service.url, node=service.node), "jobs")
    async with sensor(service) as made:
        await look(made)
        move = asyncio.create_task(mover.apply(setting(workers=1), 1))
        seen = await looks(made, lambda _: move.done())
        await mover.close()
    lengths = [one["queue_length"] for one in seen]
    assert all(one.status is Status.OK for one in lengths)
    assert all("in celery" in one.detail for one in lengths)
    assert lengths[0].value > 15
    assert (await move).status == "applied"
