"""The php_fpm actuator on a real php-fpm behind nginx, under clients. No request may fail."""

import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gunicorn_service import Load, _die_with_parent, until
from php_fpm_service import PhpFpmService
from server_table import Row, note

from poolwright.actuators.php_fpm import PhpFpm
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, setting

pytestmark = pytest.mark.e2e


@pytest.fixture
def php():
    """Starts services: `service = php(workers=3)`; ended with the test."""
    started = []

    def start(**options):
        started.append(PhpFpmService(**options))
        return started[-1].start()

    yield start
    for service in started:
        service.stop()


def given(service):
    return {
        "config": str(service.config),
        "main_config": str(service.main_config),
        "pidfile": str(service.pidfile),
        "binary": service.binary,
    }


def actuator(service, **options):
    return PhpFpm(PhpFpm.Options(**given(service) | options), "web")


async def level(made):
    return (await made.read()).setting["workers"]


async def moved(made, workers):
    """How long the move took. AssertionError when it was not applied."""
    outcome = await made.apply(setting(workers=workers), 1)
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    return outcome.took_s


async def reloaded(service):
    """Reload as a person does, and wait until it is done."""
    before = service.pidfile.stat().st_mtime_ns
    service.fpm.signal(signal.SIGUSR2)

    def again():
        return service.pidfile.exists() and service.pidfile.stat().st_mtime_ns != before

    await asyncio.to_thread(until, again, 20.0, "reloaded")


def leftovers(service):
    return sorted(p.name for p in service.config.parent.iterdir() if p.name != "www.conf")


@pytest.mark.parametrize("unix", [True, False])
async def test_no_request_fails_through_grows_and_shrinks_under_load(php, unix):
    """And the row of docs/servers.md: confirmed times, reload, crash, another hand."""
    service = php(workers=3, unix=unix)
    made = actuator(service)
    assert await level(made) == 3
    text, mode = service.config.read_text(), 0o640
    service.config.chmod(mode)
    owner = service.config.stat().st_uid
    times = []
    async with (
        Load(service.http_port, "/sleep?s=0.01", clients=6) as short,
        Load(service.http_port, "/sleep?s=0.4", clients=2) as long,
    ):
        for workers in (6, 4, 8, 2, 5, 3):
            await asyncio.sleep(0.3)
            times.append(await moved(made, workers))
            assert await level(made) == len(service.workers()) == workers
    assert not short.failed, short.outcomes
    assert not long.failed, long.outcomes
    assert short.outcomes["ok"] > 100
    assert long.outcomes["ok"] > 5
    assert service.config.read_text() == text, "back at 3, every byte is as it was"
    seen = service.config.stat()
    assert (seen.st_uid, seen.st_mode & 0o7777) == (owner, mode)
    assert leftovers(service) == []

    before = await made.read()
    await moved(made, 5)
    assert (await made.read()).epoch == before.epoch
    await reloaded(service)
    again = await made.read()
    assert again.setting == setting(workers=5), "what was written is kept"
    assert again.epoch != before.epoch
    assert "reloaded" in again.detail
    service.write_pool(4)
    unseen = await made.read()
    assert (unseen.setting, unseen.epoch) == (setting(workers=5), again.epoch)
    assert "was edited after the last reload, and is not in force" in unseen.detail
    refused = await made.apply(setting(workers=6), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "reload php-fpm when it is meant" in refused.detail
    await reloaded(service)
    by_hand = await made.read()
    assert by_hand.setting == setting(workers=4)
    assert by_hand.epoch != again.epoch
    service.fpm.kill()
    with pytest.raises(PlantFault, match=r"php-fpm\.pid: process \d+ is not running"):
        await made.read()
    service.fpm.start()
    crashed = await made.read()
    assert crashed.setting == setting(workers=4)
    assert crashed.epoch.split(":")[:2] != by_hand.epoch.split(":")[:2]
    version = await asyncio.to_thread(
        subprocess.run, [service.binary, "-v"], capture_output=True, text=True, check=True
    )
    note(
        Row(
            kind="php_fpm",
            server="php-fpm",
            version=version.stdout.split()[1],
            reads="the pool's processes; with pm = dynamic its file as of the last reload",
            moves="pm.max_children in the pool's file, checked by php-fpm -t; SIGUSR2",
            confirmed_s=(min(times), statistics.median(times), max(times)),
            on_reload="the file's size, which is ours: new epoch, taken over",
            on_crash="the file's size, new epoch, taken over",
            on_another_hand="an edit and a reload: taken over; an edit alone: told, moves refused",
        )
    )


async def test_a_reload_waits_for_what_is_served_and_new_requests_wait_with_it(php):
    """What a move costs: nothing fails, but nobody is taken until the slowest has ended."""
    service = php(workers=2)
    made = actuator(service)
    await made.read()
    async with Load(service.http_port, "/sleep?s=2", clients=1) as slow:
        await asyncio.sleep(0.5)
        move = asyncio.create_task(made.apply(setting(workers=4), 1))
        await asyncio.sleep(0.4)
        slow._stop = True
        with pytest.raises(PlantFault, match="a reload is under way"):
            await made.read()
        began = time.monotonic()
        async with Load(service.http_port, "/sleep", clients=1) as quick:
            await asyncio.sleep(0.05)
        assert time.monotonic() - began > 0.3
        outcome = await move
    assert outcome.status is ActuationStatus.APPLIED
    assert outcome.took_s > 1.0
    assert not quick.failed
    assert not slow.failed
    assert await level(made) == 4


async def test_without_grace_a_reload_is_refused(php):
    for grace in (None, "0", "0s"):
        service = php(workers=2, grace=grace, nginx=False)
        made = actuator(service)
        refused = await made.apply(setting(workers=3), 1)
        assert refused.status is ActuationStatus.REFUSED
        assert "process_control_timeout above 0" in refused.detail
        assert len(service.workers()) == await level(made) == 2
        assert leftovers(service) == []


async def test_what_php_fpm_does_not_accept_is_taken_back(php):
    service = php(workers=4, mode="dynamic", nginx=False)
    made = actuator(service)
    before = await made.read()
    assert before.setting == setting(workers=4), "the limit, whatever there is"
    text, stamp = service.config.read_text(), service.config.stat()
    refused = await made.apply(setting(workers=1), 1)  # below pm.max_spare_servers
    assert refused.status is ActuationStatus.REFUSED
    assert "the old file is back" in refused.detail
    assert "FPM initialization failed" in refused.detail
    assert service.config.read_text() == text
    assert service.config.stat().st_mtime_ns == stamp.st_mtime_ns
    assert service.config.stat().st_ino == stamp.st_ino
    assert leftovers(service) == []
    assert await made.read() == before
    await moved(made, 6)
    assert await level(made) == await level(actuator(service)) == 6


_MOVE = """
import asyncio, json, sys
from poolwright.actuators.php_fpm import PhpFpm
from poolwright.core.model import setting
made = PhpFpm(PhpFpm.Options(**json.loads(sys.argv[1])), "web")
asyncio.run(made.apply(setting(workers=7), 1))
"""


def mover_of(service, binary):
    """A process that moves to 7 workers."""
    options = json.dumps(given(service) | {"binary": str(binary)})
    argv = [sys.executable, "-c", _MOVE, options]
    return subprocess.Popen(argv, preexec_fn=_die_with_parent)  # noqa: PLW1509  one prctl(2)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
async def test_killed_between_the_file_and_the_signal(php, mode, tmp_path):
    service = php(workers=3, mode=mode, nginx=False)
    pidfile = tmp_path / "check.pid"
    slow = tmp_path / "slow-check"
    slow.write_text(f"#!/bin/sh\necho $$ > {pidfile}\nexec sleep 30\n")
    slow.chmod(0o755)
    mover = mover_of(service, slow)
    try:
        await asyncio.to_thread(until, lambda: pidfile.exists() and pidfile.read_text(), 20.0, "-t")
    finally:
        mover.kill()
        mover.wait()
        os.kill(int(pidfile.read_text()), signal.SIGKILL)
    beside = service.config.with_name(".www.conf.poolwright-before")
    assert "max_children=7" in service.config.read_text()
    assert "max_children=3" in beside.read_text()
    made = actuator(service)
    seen = await made.read()
    assert seen.setting == setting(workers=3)
    assert "not in force" in seen.detail
    await moved(made, 4)
    assert await level(made) == 4
    assert leftovers(service) == []
    # a person's edit on top of it is not ours to take back
    beside.hardlink_to(service.config)
    text = service.config.read_text()
    service.config.unlink()
    service.config.write_text(text.replace("max_children=4", "max_children=9") + "; mine\n")
    made = actuator(service)
    assert await level(made) == 4
    refused = await made.apply(setting(workers=5), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "was edited after the last reload" in refused.detail
    assert service.config.read_text().endswith("; mine\n")


async def test_cancelled_before_the_signal_the_old_file_is_back(php, tmp_path):
    service = php(workers=2, nginx=False)
    slow = tmp_path / "slow-check"
    slow.write_text("#!/bin/sh\nsleep 30\n")
    slow.chmod(0o755)
    made = actuator(service, binary=str(slow))
    text = service.config.read_text()
    move = asyncio.create_task(made.apply(setting(workers=6), 1))
    await asyncio.to_thread(until, lambda: service.config.read_text() != text, 5.0, "written")
    assert await level(made) == 2
    move.cancel()
    await asyncio.wait([move])
    assert service.config.read_text() == text
    assert leftovers(service) == []
    assert (await made.read()).detail == ""


async def test_cancelled_after_the_signal_the_next_move_waits_for_that_reload(php):
    """The master is stopped, so that its reload is under way for as long as we like."""
    service = php(workers=2, nginx=False)
    made = actuator(service)
    master = int(service.pidfile.read_text())
    os.kill(master, signal.SIGSTOP)
    try:
        move = asyncio.create_task(made.apply(setting(workers=4), 1))
        pending = f"/proc/{master}/status"
        await asyncio.to_thread(until, lambda: usr2_waits(pending), 10.0, "signalled")
        await asyncio.sleep(0.1)
        move.cancel()
        await asyncio.wait([move])
        second = asyncio.create_task(made.apply(setting(workers=3), 2))
        await asyncio.sleep(0.3)
        assert not second.done(), second.result()
    finally:
        os.kill(master, signal.SIGCONT)
    outcome = await second
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    assert await level(made) == len(service.workers()) == 3


def usr2_waits(status):
    """Whether a process has a SIGUSR2 that it has not taken yet."""
    lines = (line.split() for line in Path(status).read_text().splitlines())
    waiting = next(int(words[1], 16) for words in lines if words[0] == "ShdPnd:")
    return bool(waiting >> (signal.SIGUSR2 - 1) & 1)


async def test_edits_of_others_that_a_reload_would_put_in_force_are_left_to_them(php):
    service = php(workers=2, nginx=False)
    made = actuator(service)
    other = service.config.with_name("other.conf")
    other.write_text("; another team is at work here\n")
    refused = await made.apply(setting(workers=3), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "other.conf was edited after the last reload" in refused.detail
    await reloaded(service)
    await moved(made, 3)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "it has 1 and 0"),
        ("pm.max_children = ${WORKERS}", "it has 1 and 1"),
        ("pm.max_children = 2\npm.max_children = 3", "it has 1 and 2"),
        ("pm = static\npm.max_children = 2", "it has 2 and 1"),
        ("include = /nowhere/*.conf\npm.max_children = 2", "includes other files"),
    ],
)
async def test_a_file_that_is_not_as_expected_is_a_fault(php, line, why):
    service = php(workers=2, nginx=False)
    text = re.sub(r" *pm\.max_children=2.*", lambda _: line, service.config.read_text())
    os.utime(service.config)
    stamp = service.config.stat()
    service.config.write_text(text)
    os.utime(service.config, ns=(stamp.st_atime_ns, service.pidfile.stat().st_mtime_ns))
    made = actuator(service)
    with pytest.raises(PlantFault, match=why):
        await made.read()
    assert (await made.apply(setting(workers=3), 1)).status is ActuationStatus.FAILED
    assert service.config.read_text() == text


async def test_a_killed_worker_is_replaced_and_no_other_hand(php):
    service = php(workers=3, nginx=False)
    made = actuator(service)
    before = await made.read()
    victim = service.workers()[0]
    os.kill(victim, signal.SIGKILL)
    await asyncio.to_thread(
        until, lambda: victim not in service.workers() and len(service.workers()) == 3, 5.0, "three"
    )
    after = await made.read()
    assert (after.setting, after.epoch) == (before.setting, before.epoch)


@pytest.mark.root
async def test_without_permission_it_is_refused_and_says_how_to_allow_it(php):
    """As nobody, for whom the folder is read-only and the master somebody else's."""
    assert os.geteuid() == 0, "needs root, to be nobody"
    service = php(workers=2, nginx=False)
    made = actuator(service)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        assert await level(made) == 2
        refused = await made.apply(setting(workers=3), 1)
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert refused.status is ActuationStatus.REFUSED
    assert "CAP_FOWNER" in refused.detail
    assert len(service.workers()) == 2
    assert leftovers(service) == []
