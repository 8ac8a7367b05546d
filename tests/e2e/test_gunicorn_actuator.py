"""The gunicorn actuator on real gunicorns, under real clients. Nothing here may fail a request."""

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

import gunicorn
import pytest
from gunicorn_service import Load, until
from server_table import Row, note
from service_process import until_read

from poolwright.actuators.gunicorn import Gunicorn
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, setting

pytestmark = pytest.mark.e2e

_GTHREAD = ("-k", "gthread", "--threads", "4")
_EITHER = ("control", "signals")
_WAYS = (*_EITHER, "both")


def actuator(service, way="both", **options):
    """An actuator of `service` by one way or by both."""
    return Gunicorn(
        Gunicorn.Options(
            pidfile=None if way == "control" else str(service.pidfile),
            control=None if way == "signals" else str(service.control),
            **options,
        ),
        "web",
    )


async def level(made):
    return (await made.read()).setting["workers"]


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("flags", [(), _GTHREAD], ids=["sync", "gthread"])
async def test_grows_and_shrinks_under_load_without_losing_a_request(gunicorn_service, flags, way):
    service = gunicorn_service(workers=3, flags=flags)
    made = actuator(service, way)
    assert await level(made) == 3
    async with (
        Load(service.port, "/sleep?s=0.005", clients=8) as short,
        Load(service.port, "/sleep?s=1", clients=2) as long,
    ):
        grown = await made.apply(setting(workers=5), 1)
        assert grown.status is ActuationStatus.APPLIED, grown.detail
        assert await level(made) == len(service.children()) == 5
        await asyncio.sleep(0.2)
        shrunk = await made.apply(setting(workers=2), 2)
        assert shrunk.status is ActuationStatus.APPLIED, shrunk.detail
        assert await level(made) == len(service.children()) == 2
    assert not short.failed, short.outcomes
    assert not long.failed, long.outcomes
    assert short.outcomes["ok"] >= 100
    assert long.outcomes["ok"] >= 2
    assert 0.0 < shrunk.took_s < 8.0
    assert (await made.read()).detail == ""


@pytest.mark.parametrize("way", _EITHER)
async def test_twice_is_once(gunicorn_service, way):
    service = gunicorn_service(workers=2)
    made = actuator(service, way)
    assert (await made.apply(setting(workers=4), 1)).status is ActuationStatus.APPLIED
    before = set(service.children())
    again = await made.apply(setting(workers=4), 1)
    assert again.status is ActuationStatus.APPLIED
    assert again.took_s < 0.5
    assert set(service.children()) == before


@pytest.mark.parametrize("way", _EITHER)
async def test_a_leaving_worker_does_not_count_and_is_waited_for(gunicorn_service, way):
    service = gunicorn_service(workers=3)
    made = actuator(service, way)
    await made.read()
    async with Load(service.port, "/sleep?s=1.2", clients=3) as load:
        await asyncio.sleep(0.4)
        move = asyncio.create_task(made.apply(setting(workers=2), 1))
        await asyncio.sleep(0.3)
        assert len(service.children()) == 3
        assert await level(made) == 2
        assert not move.done()
        load._stop = True
        assert (await move).status is ActuationStatus.APPLIED
        assert len(service.children()) == 2
    assert not load.failed


@pytest.mark.parametrize("way", _EITHER)
async def test_a_worker_that_stays_busy_fails_the_move_and_is_not_killed(gunicorn_service, way):
    service = gunicorn_service(workers=2)
    made = actuator(service, way, drain_timeout=0.5)
    await made.read()
    async with Load(service.port, "/sleep?s=1.5", clients=2) as load:
        await asyncio.sleep(0.3)
        outcome = await made.apply(setting(workers=1), 1)
        load._stop = True
        assert outcome.status is ActuationStatus.FAILED
        assert "still busy" in outcome.detail
        assert "none was killed" in outcome.detail
        assert len(service.children()) == 2
        assert await level(made) == 1
    assert not load.failed, load.outcomes
    until(lambda: len(service.children()) == 1, 2.0, "the worker leaves when it is done")


@pytest.mark.parametrize("way", _WAYS)
async def test_cancelled_between_steps_what_was_done_stays(gunicorn_service, way):
    service = gunicorn_service(workers=2)
    made = actuator(service, way)
    await made.read()
    move = asyncio.create_task(made.apply(setting(workers=12), 1))
    until_some = time.monotonic() + 3.0
    while len(service.children()) < 4:
        assert time.monotonic() < until_some
        await asyncio.sleep(0.005)
    move.cancel()
    with pytest.raises(asyncio.CancelledError):
        await move
    await asyncio.sleep(0.3)
    there = len(service.children())
    assert 4 <= there < 12
    seen = await made.read()
    assert (seen.setting["workers"], seen.detail) == (there, "")
    back = await made.apply(setting(workers=2), 2)
    assert back.status is ActuationStatus.APPLIED, back.detail
    assert len(service.children()) == 2


@pytest.mark.parametrize("way", _WAYS)
async def test_a_reload_in_the_middle_of_the_load(gunicorn_service, way):
    service = gunicorn_service(workers=2)
    made = actuator(service, way)
    await made.read()
    await made.apply(setting(workers=5), 1)
    before = await made.read()
    async with Load(service.port, "/sleep?s=0.3", clients=4) as load:
        await asyncio.sleep(0.1)
        service.signal(signal.SIGHUP)
        after = await until_read(made, lambda seen: seen.epoch != before.epoch)
        assert after.setting == setting(workers=2)
        assert "reloaded" in after.detail
        # Epoch and level stay, also while the old workers leave and when the socket is back.
        for _ in range(12):
            await asyncio.sleep(0.05)
            seen = await made.read()
            assert (seen.epoch, seen.setting) == (after.epoch, after.setting), seen
    assert not load.failed, load.outcomes
    assert len(service.children()) == 2
    assert (await made.apply(setting(workers=3), 2)).status is ActuationStatus.APPLIED


@pytest.mark.parametrize("way", _WAYS)
async def test_a_reload_during_a_move_fails_the_move(gunicorn_service, way):
    service = gunicorn_service(workers=2)
    made = actuator(service, way, step_timeout=4.0)
    await made.read()
    async with Load(service.port, "/sleep?s=0.6", clients=4) as load:
        await made.apply(setting(workers=4), 1)
        await asyncio.sleep(0.2)
        move = asyncio.create_task(made.apply(setting(workers=2), 2))
        await asyncio.sleep(0.1)
        service.signal(signal.SIGHUP)
        outcome = await move
        load._stop = True
        assert outcome.status is ActuationStatus.FAILED
        assert "reloaded" in outcome.detail
        await until_read(made, lambda seen: seen.setting == setting(workers=2))
    assert not load.failed, load.outcomes


@pytest.mark.parametrize("way", _EITHER)
async def test_a_killed_worker_is_told_and_replaced(gunicorn_service, way):
    service = gunicorn_service(workers=3)
    made = actuator(service, way)
    before = await made.read()
    victim = service.children()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in (now := service.children()) and len(now) == 3, 2.0, "respawned")
    after = await until_read(made, lambda seen: seen.setting == before.setting)
    assert after.epoch == before.epoch
    assert f"worker {victim} ended" in after.detail
    assert (await made.read()).detail == ""


@pytest.mark.parametrize("way", _WAYS)
async def test_a_killed_master_is_a_fault_and_its_successor_another_epoch(gunicorn_service, way):
    service = gunicorn_service(workers=3)
    made = actuator(service, way)
    before = await made.read()
    old = service.pid
    service.kill()
    with pytest.raises(PlantFault, match=r"gunicorn\.(pid|ctl)"):
        await made.read()
    failed = await actuator(service, way, step_timeout=0.3).apply(setting(workers=4), 1)
    assert failed.status is ActuationStatus.FAILED
    assert str(service.folder) in failed.detail
    service.start()
    after = await until_read(made, lambda seen: seen.epoch != before.epoch)
    assert after.setting == setting(workers=3)
    assert f"process {old} before, now {service.pid}" in after.detail
    assert (await made.apply(setting(workers=4), 2)).status is ActuationStatus.APPLIED


@pytest.mark.parametrize("way", _EITHER)
async def test_another_hand_is_told_as_long_as_its_count_stays(gunicorn_service, way):
    service = gunicorn_service(workers=2)
    made = actuator(service, way)
    before = await made.read()
    service.signal(signal.SIGTTIN)
    seen = await until_read(made, lambda seen: seen.setting == setting(workers=3))
    assert seen.epoch == before.epoch
    for _ in range(2):
        assert "another hand" in (await made.read()).detail
    assert (await made.apply(setting(workers=2), 1)).status is ActuationStatus.APPLIED
    assert (await made.read()).detail == ""


async def test_an_upgrade_follows_the_pidfile(gunicorn_service):
    service = gunicorn_service(workers=2)
    made = actuator(service)
    before = await made.read()
    service.signal(signal.SIGUSR2)
    new = service.folder / "gunicorn.pid.2"
    until(new.exists, 3.0, "the new master has a pidfile")
    # The new master is a child of the old one, and not a worker of it.
    seen = await until_read(made, lambda seen: "pidfile names" in seen.detail)
    assert seen.setting == before.setting
    assert seen.epoch == before.epoch
    pid = int(new.read_text())
    service.signal(signal.SIGTERM)
    service.process.wait(5.0)
    try:
        after = await until_read(made, lambda seen: seen.epoch != before.epoch)
        assert after.epoch.startswith(f"{pid}:")
        assert f"process {service.pid} before, now {pid}" in after.detail
        assert after.setting == setting(workers=2)
    finally:
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("way", _EITHER)
async def test_listening_by_each_worker_refuses_to_shrink(gunicorn_service, way):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = gunicorn_service(workers=2, flags=("--reuse-port",), port=port)
    made = actuator(service, way)
    assert (await made.apply(setting(workers=3), 1)).status is ActuationStatus.APPLIED
    refused = await made.apply(setting(workers=2), 2)
    assert refused.status is ActuationStatus.REFUSED
    assert "reuse_port" in refused.detail
    assert len(service.children()) == 3


async def test_never_below_one(gunicorn_service):
    service = gunicorn_service(workers=1)
    refused = await actuator(service).apply(setting(workers=0), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert len(service.children()) == 1


_AS_NOBODY = """
import asyncio, json, os, sys
from poolwright.actuators.gunicorn import Gunicorn
from poolwright.core.model import setting
os.setgroups([]); os.setgid(65534); os.setuid(65534)
async def main():
    found = []
    for options in json.loads(sys.argv[1]):
        made = Gunicorn(Gunicorn.Options(**options), "web")
        try:
            level = (await made.read()).setting["workers"]
        except Exception as error:
            level = repr(error)
        for workers in (3, 1):
            done = await made.apply(setting(workers=workers), 1)
            found.append([level, str(done.status), done.detail])
    print(json.dumps(found))
asyncio.run(main())
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="drops from root to nobody")
async def test_without_permission_it_is_refused_and_says_how_to_allow_it(
    gunicorn_service, tmp_path
):
    service = gunicorn_service(workers=2)
    for folder in (service.folder, *service.folder.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    pidfile, control = str(service.pidfile), str(service.control)
    ways = [{"pidfile": pidfile}, {"control": control, "step_timeout": 0.5}]
    ways.append({"pidfile": pidfile, "control": control})
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _AS_NOBODY, json.dumps(ways)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert len(found) == 6
    for _, status, detail in found:
        assert status == "refused", found
        assert "CAP_KILL" in detail
        assert "--control-socket-mode" in detail
    assert found[0][0] == found[4][0] == 2  # reading needs no permission
    assert "Permission denied" in found[2][0]
    assert len(service.children()) == 2


async def test_a_dirty_arbiter_is_not_a_worker(gunicorn_service, tmp_path):
    (tmp_path / "dirty_app.py").write_text(
        "from gunicorn.dirty import DirtyApp\n\n\nclass Slow(DirtyApp):\n    pass\n"
    )
    service = gunicorn_service(
        workers=2,
        flags=("--dirty-app", "dirty_app:Slow", "--dirty-workers", "1"),
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert len(service.children()) == 3
    for way in _WAYS:
        made = actuator(service, way)
        assert await level(made) == 2
        assert (await made.apply(setting(workers=1), 1)).status is ActuationStatus.APPLIED
        assert len(service.children()) == 2
        assert (await made.apply(setting(workers=2), 2)).status is ActuationStatus.APPLIED


async def test_gunicorn_reload_crash_and_another_hand_as_the_table_says(gunicorn_service):
    """The row of docs/servers.md: each of its words is asserted here first."""
    service = gunicorn_service(workers=2)
    made = actuator(service)
    first = await made.read()
    times = []
    for goal in (3, 5, 4, 2, 3):
        moved = await made.apply(setting(workers=goal), 1)
        assert moved.status is ActuationStatus.APPLIED, moved.detail
        times.append(moved.took_s)

    # Another hand: the level differs, the epoch does not.
    service.signal(signal.SIGTTIN)
    seen = await until_read(made, lambda seen: seen.setting == setting(workers=4))
    assert seen.epoch == first.epoch

    # A crash: replaced before the next look, level and epoch stay.
    victim = service.children()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in (now := service.children()) and len(now) == 4, 5.0, "respawned")
    seen = await until_read(made, lambda seen: seen.setting == setting(workers=4))
    assert seen.epoch == first.epoch

    # A reload: the configured count again, in another epoch.
    service.signal(signal.SIGHUP)
    seen = await until_read(made, lambda seen: seen.epoch != first.epoch, 10.0)
    assert seen.setting == setting(workers=2)
    note(
        Row(
            kind="gunicorn",
            server="gunicorn",
            version=gunicorn.__version__,
            reads="the master's workers in /proc, and its control socket where there is one",
            moves="`worker add`, `worker remove` at the control socket, else SIGTTIN and SIGTTOU",
            confirmed_s=(min(times), statistics.median(times), max(times)),
            on_reload="the configured count, told as a new incarnation",
            on_crash="replaced by gunicorn before the next look, count kept",
            on_another_hand="the level differs in the same epoch: MANUAL",
        )
    )
