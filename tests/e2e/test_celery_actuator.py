"""The celery actuator on real workers, with tasks that are counted. None may be lost or cut."""

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from celery_service import CeleryService, RedisServer, services
from gunicorn_service import until
from server_table import Row, note
from service_process import until_read

from poolwright.actuators.celery import Celery
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, setting
from poolwright.wire.celery.mailbox import Mailbox
from poolwright.wire.celery.messages import Place

pytestmark = pytest.mark.e2e


@pytest.fixture
def celery_service(tmp_path):
    """Starts workers, each with a redis of its own."""
    with services(tmp_path) as start:
        yield start


@contextlib.asynccontextmanager
async def actuator(service, **options):
    """An actuator of `service`, closed at the end."""
    made = Celery(Celery.Options(broker=service.url, node=service.node, **options), "jobs")
    try:
        yield made
    finally:
        await made.close()


def control(service, command, **arguments):
    """Another hand: one command of Celery's remote control, past the actuator."""
    box = Mailbox(Place(broker=service.url, password_file=None, node=service.node))
    try:
        return box.call(command, 5.0, **arguments)
    finally:
        box.close()


def taken(service):
    """The queues that the worker takes tasks of."""
    return [queue["name"] for queue in control(service, "active_queues")]


async def moved(made, workers):
    """Move; how long it took."""
    outcome = await made.apply(setting(workers=workers), 1)
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    return outcome.took_s


@pytest.mark.parametrize("acks", ["early", "late"])
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
async def test_no_task_is_lost_by_growing_and_shrinking_under_load(celery_service, pool, acks):
    late = {"ACKS_LATE": "1" if acks == "late" else "0"}
    service = celery_service(pool=pool, concurrency=2, env=late)
    service.send(1500, 0.03)
    async with actuator(service) as made:
        sending = asyncio.create_task(asyncio.to_thread(service.send, 1500, 0.03))
        for _ in range(3):
            await moved(made, 6)
            for level in (5, 3, 2):
                await moved(made, level)
        assert service.broker.ask("LLEN", "celery") != "0", "the load ended before the moves"
        await moved(made, 6)
        await sending
    assert taken(service) == ["celery"]
    assert service.wrong() == {}


async def test_busy_processes_are_waited_for(celery_service):
    service = celery_service(concurrency=4, env={"PREFETCH": "1"})
    service.send(6, 2.5)
    until(lambda: len(service.begun()) == 4, 10.0, "four run")
    async with actuator(service) as made:
        assert await moved(made, 2) > 1.0
        assert len(service.children()) == 2
    assert service.wrong() == {}


async def test_tasks_with_an_eta_are_not_cut(celery_service):
    service = celery_service(concurrency=6)
    service.send(200, 0.05, spread_s=8.0)
    async with actuator(service) as made:
        for level in (5, 4, 3, 2):
            await made.apply(setting(workers=level), 1)  # may find no moment: then it says so
            assert taken(service) == ["celery"]
    assert service.wrong() == {}


async def test_a_pool_that_stays_busy_fails_the_move_and_goes_on(celery_service):
    service = celery_service(concurrency=2)
    service.send(4, 4.0)
    until(lambda: len(service.begun()) == 2, 10.0, "two run")
    async with actuator(service, drain_timeout=0.5) as made:
        outcome = await made.apply(setting(workers=1), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert "none was killed" in outcome.detail
        assert (await made.read()).setting == setting(workers=2)
    assert len(service.children()) == 2
    assert taken(service) == ["celery"]
    assert service.broker.ask("KEYS", "*quiet*") == ""
    assert service.wrong() == {}


async def test_cancelled_in_the_middle_the_worker_takes_tasks_again(celery_service):
    service = celery_service(concurrency=2)
    service.send(2, 3.0)
    until(lambda: len(service.begun()) == 2, 10.0, "two run")
    async with actuator(service) as made:
        move = asyncio.create_task(made.apply(setting(workers=1), 1))
        await asyncio.to_thread(until, lambda: not taken(service), 10.0, "quiet")
        move.cancel()
        await asyncio.wait([move])
        assert move.cancelled()
        await asyncio.to_thread(until, lambda: taken(service) == ["celery"], 10.0, "resumed")
    assert service.wrong() == {}


_SHRINK = """
import sys
import uvloop
from poolwright.actuators.celery import Celery
from poolwright.core.model import setting
async def main():
    made = Celery(Celery.Options(broker=sys.argv[1], node=sys.argv[2]), "jobs")
    await made.read()
    print(made._link.pid, flush=True)
    await made.apply(setting(workers=1), 1)
uvloop.run(main())
"""


@pytest.mark.parametrize("child", ["lives", "is killed"])
async def test_a_killed_daemon_leaves_a_worker_that_takes_tasks(celery_service, child):
    service = celery_service(concurrency=2)
    service.send(2, 6.0)
    until(lambda: len(service.begun()) == 2, 10.0, "two run")
    with subprocess.Popen(  # noqa: ASYNC220  ended below
        [sys.executable, "-c", _SHRINK, service.url, service.node], stdout=subprocess.PIPE
    ) as daemon:
        helper = int(daemon.stdout.readline())
        until(lambda: not taken(service), 10.0, "the worker is quiet")
        assert service.broker.ask("KEYS", "*quiet*") != ""
        if child == "is killed":
            os.kill(helper, signal.SIGSTOP)  # or it would be faster than we are
            daemon.kill()
            os.kill(helper, signal.SIGKILL)
        else:
            daemon.kill()
    if child == "is killed":
        assert not taken(service)
        async with actuator(service) as made:
            seen = await made.read()
            assert "celery" in seen.detail
            assert "cut short" in seen.detail
    until(lambda: taken(service) == ["celery"], 10.0, "it takes tasks again")
    until(lambda: not Path(f"/proc/{helper}").exists(), 10.0, "the child ends with the daemon")
    until(lambda: service.broker.ask("KEYS", "*quiet*") == "", 5.0, "the note is gone")
    service.send(3, 0.01)
    assert service.wrong() == {}


async def test_a_worker_that_dies_while_it_is_quiet_starts_as_it_is_configured(celery_service):
    service = celery_service(concurrency=2)
    service.send(2, 30.0)
    until(lambda: len(service.begun()) == 2, 10.0, "two run")
    async with actuator(service) as made:
        move = asyncio.create_task(made.apply(setting(workers=1), 1))
        await asyncio.to_thread(until, lambda: not taken(service), 10.0, "quiet")
        service.kill()
        assert (await move).status is ActuationStatus.FAILED
        await asyncio.to_thread(service.start)
        await until_read(made, lambda seen: seen.setting == setting(workers=2))
        gone = "the note is gone"
        await asyncio.to_thread(
            until, lambda: not service.broker.ask("KEYS", "*quiet*"), 20.0, gone
        )
    assert taken(service) == ["celery"]


async def test_a_worker_with_autoscale_is_left_alone(celery_service):
    service = celery_service(flags=("--autoscale", "4,2"))
    async with actuator(service) as made:
        assert "autoscaler" in (await made.read()).detail
        outcome = await made.apply(setting(workers=3), 1)
        assert outcome.status is ActuationStatus.REFUSED
        assert "without --autoscale" in outcome.detail
        assert len(service.children()) == 2


async def test_a_pool_of_threads_is_refused(celery_service):
    service = celery_service(pool="threads")
    async with actuator(service) as made:
        outcome = await made.apply(setting(workers=3), 1)
        assert outcome.status is ActuationStatus.REFUSED
        assert "thread pool cannot be moved" in outcome.detail


async def test_a_gevent_pool_runs_as_many_as_it_says(celery_service):
    service = celery_service(pool="gevent", concurrency=4)
    service.send(40, 1.0)
    async with actuator(service) as made:
        for level in (7, 3):
            await moved(made, level)
            assert (await made.read()).setting == setting(workers=level)
            await asyncio.sleep(1.2)
            assert len(control(service, "active")) == level
    assert service.wrong() == {}


async def test_a_password_is_read_from_a_file_and_told_to_nobody(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("swordfish\n")
    secret.chmod(0o600)
    broker = RedisServer(tmp_path, password="swordfish")
    with CeleryService(tmp_path, broker=broker) as service:
        async with actuator(service, password_file=str(secret)) as made:
            assert (await made.read()).setting == setting(workers=2)
            child = Path(f"/proc/{made._link.pid}")
            assert b"poolwright.wire.celery" in (child / "cmdline").read_bytes()
            assert b"swordfish" not in (child / "cmdline").read_bytes()
            assert b"swordfish" not in (child / "environ").read_bytes()
        secret.write_text("herring\n")
        async with actuator(service, password_file=str(secret)) as made:
            with pytest.raises(PlantFault, match=r"redis://127\.0\.0\.1") as fault:
                await made.read()
            assert "herring" not in str(fault.value)
            refused = await made.apply(setting(workers=3), 1)
            assert refused.status is ActuationStatus.REFUSED
            assert "name a password_file" in refused.detail
        secret.chmod(0o644)
        async with actuator(service, password_file=str(secret)) as made:
            with pytest.raises(PlantFault, match="everybody may read"):
                await made.read()


async def test_a_broker_that_is_gone_is_a_fault_and_comes_back(celery_service):
    service = celery_service()
    async with actuator(service) as made:
        await made.read()
        service.broker.kill()
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(PlantFault, match=str(service.broker.port)):
                await made.read()
            assert time.monotonic() - began < 2.0
        outcome = await made.apply(setting(workers=3), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert str(service.broker.port) in outcome.detail
        service.broker.start()
        await until_read(made, lambda seen: seen.setting == setting(workers=2), 60.0)


async def test_queues_taken_up_again_are_kept_over_a_reconnect(celery_service):
    """What Celery before 5.7 forgot, and for which those are not shrunk."""
    service = celery_service(concurrency=3)
    async with actuator(service) as made:
        await moved(made, 2)
        service.broker.kill()
        service.broker.start()
        await until_read(made, lambda seen: seen.setting == setting(workers=2), 60.0)
    assert taken(service) == ["celery"]
    service.send(3, 0.01)
    assert service.wrong() == {}


async def test_a_killed_child_is_started_again(celery_service):
    service = celery_service()
    async with actuator(service) as made:
        await made.read()
        first = made._link.pid
        os.kill(first, signal.SIGKILL)
        with pytest.raises(PlantFault, match="its child ended with -9"):
            await made.read()
        await until_read(made, lambda seen: seen.setting == setting(workers=2))
        assert made._link.pid not in (None, first)


async def test_the_row_of_the_table(celery_service):
    service = celery_service(concurrency=2)
    report = str(control(service, "report"))
    version = report[report.index("celery:") :].split(maxsplit=1)[0].partition(":")[2]
    async with actuator(service) as made:
        await made.read()
        took = []
        for level in (4, 2, 3, 2):
            took.append(await moved(made, level))
            assert len(service.children()) == level
        await moved(made, 3)
        before = await made.read()

        victim = service.children()[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in (now := service.children()) and len(now) == 3, 10.0, "respawn")
        after = await until_read(made, lambda seen: seen.setting == before.setting)
        assert after.epoch == before.epoch

        control(service, "pool_grow", n=1)
        other = await until_read(made, lambda seen: seen.setting == setting(workers=4))
        assert other.epoch == before.epoch
        assert "another hand" in other.detail

        service.signal(signal.SIGHUP)
        reloaded = await until_read(
            made, lambda seen: seen.epoch != before.epoch and seen.setting == setting(workers=2)
        )

        service.kill()
        with pytest.raises(PlantFault, match="no answer"):
            await made.read()
        service.start()
        restarted = await until_read(made, lambda seen: seen.epoch != reloaded.epoch)
        assert restarted.setting == setting(workers=2)
    note(
        Row(
            kind="celery",
            server="Celery",
            version=version,
            reads="`stats` over the broker: the pool's processes, of gevent its limit",
            moves="`pool_grow`; to shrink the worker takes no tasks until enough processes are "
            "idle, then `pool_shrink`",
            confirmed_s=(min(took), statistics.median(took), max(took)),
            on_reload="SIGHUP or restart: back to `-c`, taken over as a new incarnation",
            on_crash="a killed process is replaced, the count stays; a dead worker is a fault",
            on_another_hand="its level is read and told; with `--autoscale` refused",
        )
    )
