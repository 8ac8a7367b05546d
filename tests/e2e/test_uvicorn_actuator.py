"""The uvicorn actuator on real uvicorns, under real clients."""

import asyncio
import contextlib
import os
import signal
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from gunicorn_service import Load, until
from server_table import Row, note
from service_process import moved_by_nobody, starter, until_read
from uvicorn_service import Retrying, UvicornService

from poolwright.actuators.uvicorn import Uvicorn
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, setting

pytestmark = pytest.mark.e2e


@pytest.fixture
def uvicorn_service(tmp_path):
    """Starts real ones: `service = uvicorn_service(workers=3)`; ended with the test."""
    yield from starter(UvicornService, tmp_path)


def actuator(service, **options):
    options = {"lossy_shrink": True} | options
    return Uvicorn(Uvicorn.Options(pidfile=str(service.pidfile), **options), "web")


async def level(made):
    return (await made.read()).setting["workers"]


async def keep_busy(service, seconds):
    """Requests that take so long, one after another, so that every worker has some."""
    load = Load(service.port, f"/sleep?s={seconds}", clients=0)
    tasks = []
    for _ in range(30):
        tasks.append(asyncio.create_task(load._request()))
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    return tasks


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_growing_loses_nothing_and_shrinking_is_refused_unless_it_may_be_lossy(
    uvicorn_service, loop
):
    service = uvicorn_service(workers=2, flags=("--loop", loop))
    made = actuator(service, lossy_shrink=False)
    assert await level(made) == 2
    async with Load(service.port, "/sleep?s=0.002", clients=8) as load:
        for goal in (3, 4):
            grown = await made.apply(setting(workers=goal), 1)
            assert grown.status is ActuationStatus.APPLIED, grown.detail
            assert await level(made) == len(service.children()) == goal
        refused = await made.apply(setting(workers=3), 2)
        assert refused.status is ActuationStatus.REFUSED
        assert "lossy_shrink" in refused.detail
        await asyncio.sleep(0.3)
    assert len(service.children()) == 4
    assert not load.failed, load.outcomes
    assert load.outcomes["ok"] >= 100


async def test_behind_a_proxy_that_tries_again_no_request_is_lost(uvicorn_service):
    """What was begun is answered; what uvicorn hangs up on is little, and nobody notices."""
    service = uvicorn_service(workers=2)
    made = actuator(service)
    left = 0
    async with (
        Retrying(service.port, "/sleep?s=0.003", clients=12) as short,
        Load(service.port, "/sleep?s=0.8", clients=3) as long,
    ):
        for goal in (4, 1, 3, 2, 4, 2, 3, 1):
            before = await level(made)
            moved = await made.apply(setting(workers=goal), 1)
            assert moved.status is ActuationStatus.APPLIED, moved.detail
            assert await level(made) == len(service.children()) == goal
            left += max(0, before - goal)
    assert not short.failed, short.outcomes
    assert not long.failed, long.outcomes
    assert short.outcomes["ok"] >= 1000
    assert short.hung_up <= 5 * left, (short.hung_up, left)
    assert short.hung_up < 0.005 * short.outcomes["ok"]


async def test_a_leaving_worker_is_waited_for_and_does_not_count(uvicorn_service):
    service = uvicorn_service(workers=2)
    made = actuator(service)
    await made.read()
    requests = await keep_busy(service, 3)
    move = asyncio.create_task(made.apply(setting(workers=1), 1))
    seen = await until_read(made, lambda seen: seen.setting == setting(workers=1))
    assert seen.detail == ""
    assert len(service.children()) == 2
    assert not move.done()
    assert (await move).status is ActuationStatus.APPLIED
    assert len(service.children()) == 1
    assert set(await asyncio.gather(*requests)) == {"ok"}


async def test_a_worker_that_stays_busy_fails_the_move_and_is_not_killed(uvicorn_service):
    service = uvicorn_service(workers=2)
    made = actuator(service, drain_timeout=0.5)
    await made.read()
    requests = await keep_busy(service, 4)
    outcome = await made.apply(setting(workers=1), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert "none was killed" in outcome.detail
    assert "--timeout-graceful-shutdown" in outcome.detail
    assert len(service.children()) == 2
    assert await level(made) == 1
    assert set(await asyncio.gather(*requests)) == {"ok"}


async def test_a_slow_application_counts_when_it_accepts(uvicorn_service):
    service = uvicorn_service(workers=2, env={"LOADS_S": "1.5"})
    made = actuator(service)
    assert await level(made) == 2
    move = asyncio.create_task(made.apply(setting(workers=3), 1))
    until_s = time.monotonic() + 5.0
    while len(service.children()) < 3:
        assert time.monotonic() < until_s
        await asyncio.sleep(0.02)
    assert await level(made) == 2
    assert not move.done()
    assert (await move).status is ActuationStatus.APPLIED
    assert await level(made) == 3

    # A crash: who starts in its place counts, so nobody takes it for another hand.
    before = await made.read()
    victim = service.children()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(now := service.children()) == 3 and victim not in now, 5.0, "respawned")
    for _ in range(10):
        seen = await made.read()
        assert (seen.setting, seen.epoch) == (setting(workers=3), before.epoch)
        await asyncio.sleep(0.2)
    assert seen.detail == ""

    # A restart: no level before all of them accept.
    service.kill()
    with pytest.raises(PlantFault, match=r"uvicorn\.pid"):
        await made.read()
    starting = asyncio.create_task(asyncio.to_thread(service.start))
    levels = set()
    while not starting.done():
        with contextlib.suppress(PlantFault):
            levels.add(await level(made))
        await asyncio.sleep(0.02)
    await starting
    after = await until_read(made, lambda seen: seen.epoch != before.epoch)
    assert levels <= {2}
    assert after.setting == setting(workers=2)


async def test_workers_that_crash_one_after_another_are_no_reload(uvicorn_service):
    service = uvicorn_service(workers=2)
    made = actuator(service)
    first = await made.read()
    old = service.children()
    for victim in old:
        os.kill(victim, signal.SIGKILL)
        until(
            lambda gone=victim: len(now := service.children()) == 2 and gone not in now,
            20.0,
            "respawned",
        )
        seen = await until_read(made, lambda seen: seen.setting == first.setting)
        await asyncio.sleep(0.5)
    assert not set(old) & set(service.children())
    seen = await made.read()
    assert (seen.setting, seen.epoch, seen.detail) == (first.setting, first.epoch, "")


async def test_whom_it_does_not_know_it_does_not_signal(uvicorn_service, tmp_path):
    """One worker alone has no supervisor: SIGTTIN would stop it."""
    alone = uvicorn_service(workers=1)
    refused = await actuator(alone).apply(setting(workers=2), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "--workers 2 or more" in refused.detail
    state = Path(f"/proc/{alone.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state in "SR"
    with pytest.raises(PlantFault):
        await actuator(alone).read()


@pytest.mark.root
async def test_without_permission_nothing_is_done_and_it_says_how_to_allow_it(uvicorn_service):
    service = uvicorn_service(workers=2)
    seen, status, detail = await moved_by_nobody(service, Uvicorn, pidfile=str(service.pidfile))
    assert status == "failed"
    for told in (seen, detail):
        assert "uvicorn's user" in told
        assert str(service.pidfile) in told
    assert len(service.children()) == 2


async def test_uvicorn_reload_crash_and_another_hand_as_the_table_says(uvicorn_service):
    """The row of docs/servers.md: each of its words is asserted here first."""
    service = uvicorn_service(workers=2)
    made = actuator(service)
    first = await made.read()
    times = []
    for goal in (3, 4, 3, 2, 3, 2):
        moved = await made.apply(setting(workers=goal), 1)
        assert moved.status is ActuationStatus.APPLIED, moved.detail
        times.append(moved.took_s)
    assert await made.read() == first

    # Another hand: level moves, epoch does not, and it is told as long as it stays.
    service.signal(signal.SIGTTIN)
    seen = await until_read(made, lambda seen: seen.setting == setting(workers=3))
    assert seen.epoch == first.epoch
    assert "another hand" in (await made.read()).detail
    assert (await made.apply(setting(workers=3), 2)).status is ActuationStatus.APPLIED
    assert (await made.read()).detail == ""

    # A crash: replaced by uvicorn; level and epoch stay.
    assert (await made.apply(setting(workers=3), 3)).status is ActuationStatus.APPLIED
    victim = service.children()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(now := service.children()) == 3 and victim not in now, 5.0, "respawned")
    seen = await until_read(made, lambda seen: seen.setting == setting(workers=3))
    assert seen.epoch == first.epoch

    # A reload under load: one after another; the count stays, the epoch does not.
    old = set(service.children())
    odd_s = [0.0]
    async with Retrying(service.port, "/sleep?s=0.02", clients=4) as load:
        service.signal(signal.SIGHUP)
        end = time.monotonic() + 30.0
        while (seen := await made.read()).epoch == first.epoch:
            assert time.monotonic() < end
            odd_s.append(odd_s[-1] + 0.05 if seen.setting != setting(workers=3) else 0.0)
            await asyncio.sleep(0.05)
    until(lambda: not old & set(service.children()), 5.0, "the last of the old ones has gone")
    assert seen.setting == setting(workers=3)
    assert "reloaded" in seen.detail
    assert max(odd_s) < 1.0, "between the new one's first accept and the old one's last"
    assert not load.failed, load.outcomes
    note(
        Row(
            kind="uvicorn",
            server="uvicorn",
            version=version("uvicorn"),
            reads="/proc: workers that wait at the listening socket",
            moves="SIGTTIN and SIGTTOU to the supervisor; shrinks only with `lossy_shrink`",
            confirmed_s=(min(times), statistics.median(times), max(times)),
            on_reload="count kept, told as a new incarnation when all are replaced",
            on_crash="replaced by uvicorn, its successor counts while it starts",
            on_another_hand="told as long as its count stays",
        )
    )
