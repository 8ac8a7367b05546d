"""Real applications with poolwright.client inside: gunicorn (prefork) and uvicorn."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gunicorn as gunicorn_package
import pytest
from client_service import AsgiService, WsgiService, die_with_parent
from gunicorn_service import Load, http_get, until
from server_table import Row, note
from service_process import until_read

from poolwright.actuators.python import Python
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, Status, setting
from poolwright.sensors.python import Python as Sensor

pytestmark = pytest.mark.e2e


def actuator(service, **options):
    return Python(Python.Options(folder=str(service.offer), **options), "web")


def sensor(service, **options):
    return Sensor(Sensor.Options(folder=str(service.offer), **options), "web")


async def poll(*what):
    """`until`, while clients go on."""
    await asyncio.to_thread(until, *what)


async def level(made):
    """A busy machine may be late once."""
    return (await until_read(made, lambda applied: True)).setting["workers"]


async def moved(made, workers):
    outcome = await made.apply(setting(workers=workers), 1)
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    return outcome


async def readings(made):
    """A busy machine may be late once; what was counted is not lost."""
    for _ in range(2):
        with contextlib.suppress(PlantFault):
            return {r.signal: r for r in await made.read(time.monotonic_ns())}
    return {r.signal: r for r in await made.read(time.monotonic_ns())}


async def test_no_request_is_lost_through_grows_and_shrinks_of_a_prefork_service():
    with WsgiService(workers=2, limit=2) as service:
        made, seen = actuator(service), sensor(service)
        assert await level(made) == 4
        await readings(seen)
        async with (
            Load(service.port, "/sleep?s=0.01", clients=12) as short,
            Load(service.port, "/sleep?s=0.5", clients=2) as long,
        ):
            for workers in (16, 3, 9, 2, 12, 2, 5):
                await moved(made, workers)
                assert await level(made) == service.total() == workers
                await asyncio.sleep(0.15)
            told = await readings(seen)
        assert not short.failed, short.outcomes
        assert not long.failed, long.outcomes
        assert short.outcomes["ok"] > 100
        assert told["throughput_rps"].value > 10
        assert told["errors_rps"].value == 0.0
        assert told["queue_length"].value >= 0
        # What the meter counted in all is what the clients counted, but for one look at the start.
        end = await seen._reach.ask(5.0, counts=True)
        answered = short.outcomes["ok"] + long.outcomes["ok"] + 1
        assert sum(t.requests.ended for t in end) == answered
        assert sum(t.requests.in_flight for t in end) == 0


async def test_a_killed_process_is_no_change_when_its_successor_takes_its_place():
    with WsgiService(workers=2, limit=2) as service:
        made, seen = actuator(service), sensor(service)
        await moved(made, 9)
        before = await made.read()
        await readings(seen)
        victim = service.children()[0]
        os.kill(victim, signal.SIGKILL)
        await poll(lambda: victim not in service.children(), 3.0, "it has ended")
        await poll(lambda: len(service.seen()) == 2, 10.0, "its successor offers")
        after = await until_read(made, lambda applied: True)
        assert (after.setting, after.epoch) == (before.setting, before.epoch)
        assert "1 of 2 processes ended, 1 came" in after.detail
        assert service.total() == 9
        told = await readings(seen)
        assert told["throughput_rps"].status is Status.ERROR
        assert str(victim) in told["throughput_rps"].detail
        assert (await readings(seen))["throughput_rps"].status is Status.OK
        assert (await made.read()).detail == ""


async def test_a_service_that_stays_smaller_is_another_epoch():
    with WsgiService(workers=3, limit=2) as service:
        made = actuator(service, successor=0.5)
        before = await made.read()
        service.signal(signal.SIGTTOU)
        await poll(lambda: len(service.children()) == 2, 5.0, "one has gone")
        with pytest.raises(PlantFault, match="waiting for their successors"):
            await made.read()
        after = await until_read(made, lambda applied: applied.setting == setting(workers=4))
        assert after.epoch != before.epoch
        assert "another hand" not in after.detail


@pytest.mark.parametrize("flags", [(), ("--preload",)], ids=["", "preload"])
async def test_a_reload_keeps_what_was_shared_out(flags):
    """With --preload the master has the pool too, never uses it, and is not counted."""
    with WsgiService(workers=2, limit=2, flags=flags) as service:
        made = actuator(service, successor=0.5)
        # For a moment, before it forks, the master is there too.
        await until_read(made, lambda seen: seen.setting == setting(workers=4))
        await moved(made, 7)
        before = await made.read()
        old = set(service.children())
        async with Load(service.port, "/sleep?s=0.02", clients=4) as load:
            service.signal(signal.SIGHUP)
            await poll(lambda: not old & set(service.children()), 20.0, "the old ones have gone")
            await poll(lambda: len(service.seen()) == 2, 10.0, "the new ones offer")
            after = await until_read(made, lambda seen: seen.setting == before.setting)
        assert after.epoch != before.epoch
        assert service.total() == 7
        assert set(load.outcomes) == {"ok"}
        await moved(made, 2)


async def test_without_the_daemon_it_goes_on_and_a_new_daemon_finds_it():
    """The daemon's end is killed in the middle of its work; the limits stay."""
    code = (
        "import asyncio, sys\n"
        "from poolwright.actuators.python import Python\n"
        "from poolwright.core.model import setting\n"
        "made = Python(Python.Options(folder=sys.argv[1]), 'web')\n"
        "async def main():\n"
        "    await made.apply(setting(workers=8), 1)\n"
        "    print('moved', flush=True)\n"
        "    while True:\n"
        "        await made.read()\n"
        "asyncio.run(main())\n"
    )
    with WsgiService(workers=2, limit=1) as service:
        async with Load(service.port, "/sleep?s=0.01", clients=4) as load:
            daemon = subprocess.Popen(  # noqa: ASYNC220 - killed in the same test
                [sys.executable, "-c", code, str(service.offer)],
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  one prctl(2)
            )
            try:
                assert daemon.stdout.readline() == "moved\n"
            finally:
                daemon.kill()
                daemon.wait()
                daemon.stdout.close()
            await asyncio.sleep(0.3)
            assert service.total() == 8
            assert await level(actuator(service)) == 8
        assert set(load.outcomes) == {"ok"}


async def test_a_uvicorn_with_a_limiter():
    with AsgiService(limit=2) as service:
        made, seen = actuator(service, drain_timeout=5.0), sensor(service)
        assert await level(made) == 2
        await readings(seen)
        async with Load(service.port, "/sleep?s=0.02", clients=16) as load:
            for workers in (12, 1, 6, 2):
                await moved(made, workers)
                assert await level(made) == workers
                await asyncio.sleep(0.2)
            told = await readings(seen)
            assert told["queue_length"].value > 0
            assert told["service_time_s"].value == pytest.approx(0.02, rel=0.5)
            assert told["latency_s"].status is Status.NO_DATA
            assert "X-Request-Start" in told["latency_s"].detail
        assert set(load.outcomes) == {"ok"}, load.outcomes
        assert load.outcomes["ok"] > 50


async def test_a_worker_of_uvicorn_is_replaced_in_its_place():
    with AsgiService(limit=2, workers=2) as service:
        made = actuator(service, successor=20.0)  # uvicorn looks after its workers twice a second
        await moved(made, 7)
        before = await made.read()
        victim = min(service.seen())
        os.kill(victim, signal.SIGKILL)
        after = await until_read(made, lambda seen: "1 came" in seen.detail, within_s=25.0)
        assert (after.setting, after.epoch) == (before.setting, before.epoch)
        async with Load(service.port, "/sleep?s=0.01", clients=8) as load:
            for workers in (3, 12, 2):
                await moved(made, workers)
        assert set(load.outcomes) == {"ok"}


async def test_uvicorn_streams_failures_and_request_start():
    with AsgiService(limit=2) as service:
        seen = sensor(service)
        await readings(seen)
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: t\r\n\r\n")
        await reader.readuntil(b"data: x")
        (told,) = await seen._reach.ask(1.0, counts=True)
        assert (told.requests.open_streams, told.requests.in_flight) == (1, 0)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        assert (await asyncio.to_thread(http_get, service.port, "/fail"))[0] == 500
        start = f"t={time.time() - 0.5:.3f}"
        for spelt in (
            start,
            f"{(time.time() - 0.5) * 1e3:.0f}",
            f"{(time.time() - 0.5) * 1e6:.0f}",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            head = f"GET / HTTP/1.1\r\nHost: t\r\nX-Request-Start: {spelt}\r\nConnection: close"
            writer.write(head.encode() + b"\r\n\r\n")
            await reader.read()
            writer.close()
            await writer.wait_closed()
        told = await readings(seen)
        assert told["errors_rps"].value > 0
        assert told["latency_s"].status is Status.OK, told["latency_s"]
        assert told["latency_s"].sketch.count == 3
        assert 0.5 <= told["latency_s"].value < 1.0


async def test_a_stopped_process_is_named_and_obeys_nothing_later():
    with AsgiService(limit=3) as service:
        made = actuator(service, step_timeout=0.5)
        assert await level(made) == 3
        service.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{service.process.pid}/stat")
        await poll(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 5.0, "it stands")
        try:
            with pytest.raises(PlantFault, match=r"\.sock: no answer within 0.8 s"):
                await made.read()
            outcome = await made.apply(setting(workers=7), 1)
            assert outcome.status is ActuationStatus.FAILED
            assert "no answer" in outcome.detail
        finally:
            service.process.send_signal(signal.SIGCONT)
        assert await level(made) == 3
        service.kill()
        with pytest.raises(PlantFault, match="no process answers"):
            await made.read()


async def test_the_row_of_the_servers_table():
    """What the table says of an application with the client is asserted here before it is noted."""
    with WsgiService(workers=2, limit=2) as service:
        made = actuator(service)
        took = []
        async with Load(service.port, "/sleep?s=0.01", clients=8) as load:
            for workers in (8, 4, 12, 2, 16, 4):
                began = time.perf_counter()
                await moved(made, workers)
                assert await level(made) == workers
                took.append(time.perf_counter() - began)
            before = await made.read()
            old = set(service.children())
            service.signal(signal.SIGHUP)
            await poll(lambda: not old & set(service.children()), 20.0, "reloaded")
            await poll(lambda: len(service.seen()) == 2, 10.0, "the new ones offer")
            reloaded = await until_read(made, lambda seen: seen.setting == before.setting)
            assert reloaded.epoch != before.epoch
        assert set(load.outcomes) == {"ok"}
        os.kill(service.children()[0], signal.SIGKILL)
        await poll(lambda: len(service.seen()) == 2, 10.0, "its successor offers")
        crashed = await until_read(made, lambda seen: seen.setting == before.setting)
        assert crashed.epoch == reloaded.epoch
        other = actuator(service)
        await moved(other, 6)
        rival = await made.read()
        assert rival.epoch == reloaded.epoch
        assert "another hand" in rival.detail
    took.sort()
    note(
        Row(
            kind="python",
            server="Python application (`poolwright.client`)",
            version=f"Python {sys.version.split()[0]}, gunicorn {gunicorn_package.__version__}",
            reads="requests, errors, latency, service time and queue, by a socket a process",
            moves="threads of an executor or places of a limiter, summed over the processes",
            confirmed_s=(took[0], took[len(took) // 2], took[-1]),
            on_reload="the new processes take over what was shared out; another epoch",
            on_crash="the successor takes the place; the same epoch",
            on_another_hand="told: the level differs in the same epoch",
        )
    )
