"""The uWSGI actuator on real uWSGIs, under real clients. Nothing here may fail a request."""

import asyncio
import os
import signal
import statistics
import time

import pytest
from gunicorn_service import Load, until
from server_table import Row, note
from service_process import moved_by_nobody, starter, until_read
from uwsgi_service import UwsgiService

from poolwright.actuators.uwsgi import Uwsgi
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, setting

pytestmark = pytest.mark.e2e


@pytest.fixture
def uwsgi_service(tmp_path):
    """Starts real ones: `service = uwsgi_service(workers=3)`; ended with the test."""
    yield from starter(UwsgiService, tmp_path)


def actuator(service, **options):
    return Uwsgi(Uwsgi.Options(fifo=str(service.fifo), stats=service.stats, **options), "web")


async def level(made):
    return (await made.read()).setting["workers"]


async def test_no_request_is_lost_while_it_grows_and_shrinks(uwsgi_service):
    service = uwsgi_service(workers=3, most=6)
    made = actuator(service)
    assert await level(made) == 3
    async with (
        Load(service.port, "/sleep?s=0.002", clients=1) as short,
        Load(service.port, "/sleep?s=0.7", clients=1) as long,
    ):
        for goal in (6, 3, 5, 3, 4, 3):
            moved = await made.apply(setting(workers=goal), 1)
            assert moved.status is ActuationStatus.APPLIED, moved.detail
            assert await level(made) == service.kept() == len(service.children()) == goal
    assert not short.failed, short.outcomes
    assert not long.failed, long.outcomes
    assert short.outcomes["ok"] >= 500
    assert long.outcomes["ok"] >= 5
    assert (await made.read()).detail == ""


async def test_with_threads_a_shrink_is_refused_for_uwsgi_would_lose_requests(uwsgi_service):
    """Its issue 1983. Growing is safe."""
    service = uwsgi_service(workers=2, most=5, flags=("--threads", "4"))
    made = actuator(service)
    async with Load(service.port, "/sleep?s=0.002", clients=3) as load:
        assert (await made.apply(setting(workers=4), 1)).status is ActuationStatus.APPLIED
        refused = await made.apply(setting(workers=3), 2)
    assert refused.status is ActuationStatus.REFUSED
    assert "4 threads" in refused.detail
    assert service.kept() == 4
    assert not load.failed, load.outcomes


async def test_while_all_are_busy_a_shrink_waits_and_then_is_taken_back(uwsgi_service):
    service = uwsgi_service(workers=3)
    made = actuator(service, drain_timeout=1.5)
    await made.read()
    async with Load(service.port, "/sleep?s=3", clients=3) as load:
        await asyncio.sleep(0.3)
        load._stop = True
        outcome = await made.apply(setting(workers=2), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert "3 of 3 workers are busy" in outcome.detail
    assert not load.failed, load.outcomes
    # Idle for two of the master's cycles: nothing that was sent waits there any more.
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert await level(made) == 3
        await asyncio.sleep(0.1)
    assert (await made.apply(setting(workers=2), 2)).status is ActuationStatus.APPLIED


async def test_a_shrink_that_was_broken_off_does_not_come_later(uwsgi_service):
    service = uwsgi_service(workers=3)
    made = actuator(service)
    await made.read()
    async with Load(service.port, "/sleep?s=2", clients=3) as load:
        await asyncio.sleep(0.3)
        load._stop = True
        first = asyncio.create_task(made.apply(setting(workers=1), 1))
        await asyncio.sleep(0.4)
        first.cancel()
        second = await made.apply(setting(workers=3), 2)
        assert second.status is ActuationStatus.APPLIED, second.detail
    assert not load.failed, load.outcomes
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert await level(made) == 3
        await asyncio.sleep(0.1)


async def test_more_than_processes_is_refused_and_says_so(uwsgi_service):
    service = uwsgi_service(workers=2, most=4)
    made = actuator(service)
    refused = await made.apply(setting(workers=5), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "--processes 4" in refused.detail
    assert service.kept() == 2
    assert (await made.apply(setting(workers=4), 2)).status is ActuationStatus.APPLIED


@pytest.mark.parametrize("algorithm", ["spare", "backlog", ""])
async def test_uwsgis_own_algorithm_is_not_fought(uwsgi_service, algorithm):
    """Without --cheaper-algo it is `spare`."""
    service = uwsgi_service(workers=2, cheaper=algorithm)
    refused = await actuator(service).apply(setting(workers=3), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert f"cheaper-algo {algorithm or 'spare'}" in refused.detail
    assert "--cheaper-algo manual" in refused.detail
    assert service.kept() == 2


async def test_the_algorithm_is_found_in_an_ini_file_too(uwsgi_service, tmp_path):
    ini = tmp_path / "more.ini"
    ini.write_text("[uwsgi]\n; cheaper-algo = manual\ncheaper = 1\ncheaper-algo = backlog\n")
    service = uwsgi_service(cheaper=None, flags=("--ini", str(ini)))
    refused = await actuator(service).apply(setting(workers=3), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "cheaper-algo backlog" in refused.detail


async def test_without_the_cheaper_subsystem_the_failure_says_how_to_have_it(uwsgi_service):
    service = uwsgi_service(most=3, cheaper=None)
    made = actuator(service, drain_timeout=2.0)
    assert await level(made) == 3
    failed = await made.apply(setting(workers=2), 1)
    assert failed.status is ActuationStatus.FAILED
    assert "--cheaper-algo manual" in failed.detail
    assert await level(made) == 3


async def test_the_last_worker_is_never_let_go(uwsgi_service):
    """uWSGI itself would: a `-` at one worker leaves none."""
    service = uwsgi_service(workers=2)
    made = actuator(service)
    assert (await made.apply(setting(workers=1), 1)).status is ActuationStatus.APPLIED
    refused = await made.apply(setting(workers=0), 2)
    assert refused.status is ActuationStatus.REFUSED
    assert service.kept() == 1
    service.order("-")
    until(lambda: service.kept() == 0, 3.0, "uWSGI has let go of its last worker")
    with pytest.raises(PlantFault, match="no worker"):
        await made.read()
    rescued = await made.apply(setting(workers=2), 3)
    assert rescued.status is ActuationStatus.FAILED
    assert "last worker" in rescued.detail
    await until_read(made, lambda seen: seen.setting == setting(workers=1))


async def test_a_worker_that_loads_slowly_counts_when_it_accepts(uwsgi_service):
    service = uwsgi_service(workers=1, flags=("--lazy-apps",), env={"LOADS_SLOWLY": "1"})
    made = actuator(service)
    assert await level(made) == 1
    move = asyncio.create_task(made.apply(setting(workers=2), 1))
    until_s = time.monotonic() + 5.0
    while service.kept() < 2:
        assert time.monotonic() < until_s
        await asyncio.sleep(0.02)
    assert await level(made) == 1
    assert not move.done()
    assert (await move).status is ActuationStatus.APPLIED
    assert await level(made) == 2


@pytest.mark.root
async def test_without_permission_it_is_refused_and_says_how_to_allow_it(uwsgi_service):
    service = uwsgi_service(workers=2, flags=("--chmod-socket=666",))
    seen, status, detail = await moved_by_nobody(
        service, Uwsgi, fifo=str(service.fifo), stats=service.stats
    )
    assert status == "refused", detail
    assert "uWSGI's user" in detail
    assert "CAP_DAC_OVERRIDE" in detail
    assert seen == 2


async def test_what_is_no_fifo_is_not_written_to(uwsgi_service, tmp_path):
    service = uwsgi_service(workers=2)
    file = tmp_path / "plain"
    file.write_text("mine")
    made = Uwsgi(Uwsgi.Options(fifo=str(file), stats=service.stats), "web")
    refused = await made.apply(setting(workers=3), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert file.read_text() == "mine"
    made = Uwsgi(Uwsgi.Options(fifo=str(tmp_path / "none"), stats=service.stats), "web")
    failed = await made.apply(setting(workers=3), 1)
    assert failed.status is ActuationStatus.FAILED
    assert "none: No such file" in failed.detail


async def test_reload_crash_and_another_hand_as_the_table_says(uwsgi_service):
    """The row of docs/servers.md: each of its words is asserted here first."""
    service = uwsgi_service(workers=2)
    made = actuator(service)
    first = await made.read()
    times = []
    for goal in (3, 4, 3, 2, 3, 2):
        moved = await made.apply(setting(workers=goal), 1)
        assert moved.status is ActuationStatus.APPLIED, moved.detail
        times.append(moved.took_s)

    # Another hand: level moves, epoch does not, and it is told as long as it stays.
    service.order("+")
    seen = await until_read(made, lambda seen: seen.setting == setting(workers=3))
    assert seen.epoch == first.epoch
    assert "another hand" in (await made.read()).detail
    hand = asyncio.create_task(made.apply(setting(workers=1), 2))
    await asyncio.sleep(0.05)
    service.order("++")
    met = await hand
    assert met.status is ActuationStatus.FAILED
    assert "another hand" in met.detail

    # A crash: replaced by uWSGI within a look; level and epoch stay.
    assert (await made.apply(setting(workers=4), 3)).status is ActuationStatus.APPLIED
    victim = service.children()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in (now := service.children()) and len(now) == 4, 2.0, "respawned")
    seen = await made.read()
    assert (seen.setting, seen.epoch) == (setting(workers=4), first.epoch)

    # A reload: --cheaper-initial again, with another epoch; no request is lost.
    async with Load(service.port, "/sleep?s=0.02", clients=4) as load:
        await asyncio.sleep(0.2)
        service.order("r")
        seen = await until_read(made, lambda seen: seen.epoch != first.epoch, 20.0)
        assert seen.setting == setting(workers=2)
        assert "started or reloaded" in seen.detail
    assert not load.failed, load.outcomes
    again = await made.read()
    assert (again.epoch, again.detail) == (seen.epoch, "")

    # A new master.
    service.kill()
    with pytest.raises(PlantFault, match=r"stats\.sock"):
        await made.read()
    service.start()
    started = await until_read(made, lambda now: now.epoch != seen.epoch)
    assert started.setting == setting(workers=2)
    note(
        Row(
            kind="uwsgi",
            server="uWSGI",
            version=service.stats_told()["version"].removesuffix("-debian"),
            reads="stats server: workers that accept and are not `cheap`",
            moves="`+` and `-` to the master FIFO, up to `processes`; with `threads` only `+`",
            confirmed_s=(min(times), statistics.median(times), max(times)),
            on_reload="back to `cheaper-initial`, told as a new incarnation",
            on_crash="replaced by uWSGI before the next look, count kept",
            on_another_hand="told, and a move under way ends as failed",
        )
    )


async def test_a_reload_in_the_middle_of_a_move_ends_it(uwsgi_service):
    service = uwsgi_service(workers=2)
    made = actuator(service)
    await made.read()
    move = asyncio.create_task(made.apply(setting(workers=8), 1))
    until_s = time.monotonic() + 8.0
    while service.kept() < 4:
        assert time.monotonic() < until_s
        await asyncio.sleep(0.05)
    service.order("r")
    outcome = await move
    assert outcome.status is ActuationStatus.FAILED
    assert await until_read(made, lambda seen: seen.setting == setting(workers=2))


async def test_all_workers_replaced_at_once_are_another_incarnation(uwsgi_service):
    service = uwsgi_service(workers=2)
    made = actuator(service)
    await made.apply(setting(workers=4), 1)
    before = await made.read()
    old = set(service.children())
    service.order("w")
    until(lambda: len(now := service.children()) == 4 and not old & set(now), 10.0, "replaced")
    after = await until_read(made, lambda seen: seen.epoch != before.epoch)
    assert after.setting == setting(workers=4)
