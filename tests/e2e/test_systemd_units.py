"""Instances of a template under a real systemd, with real workers. No task may be lost."""

import asyncio
import json
import re
import statistics

import pytest
import units_machine
from server_table import Row, note
from service_process import until_read
from units_machine import Broker, active

from poolwright.actuators.systemd_units import SystemdUnits
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, setting

pytestmark = [pytest.mark.e2e, pytest.mark.root]

LIMITS = "limits of each: CPU 0.5 cores, memory 100 MiB"


@pytest.fixture
def machine(request):
    return units_machine.machine(request)


@pytest.fixture
def units(machine):
    """Makes actuators of a template, worker@.service unless said otherwise."""
    made = []

    def make(template="worker@.service", **options):
        options = SystemdUnits.Options(
            template=template, **{"bus": units_machine.bus(machine), **options}
        )
        made.append(SystemdUnits(options, "web"))
        return made[-1]

    yield make
    for one in made:
        asyncio.run(one.close())


async def moved(made, workers, tick=1):
    outcome = await made.apply(setting(workers=workers), tick)
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    return outcome


async def inside(machine, *command):
    return await asyncio.to_thread(machine.run, *command)


async def test_no_task_is_lost_through_grows_and_shrinks(machine, units):
    made = units()
    async with Broker(machine, 0.08) as broker:
        for tick, level in enumerate((5, 2, 6, 1, 4, 2)):
            await moved(made, level, tick)
            assert active(machine) == list(range(1, level + 1))
            await asyncio.sleep(0.2)
    assert (broker.given, broker.lost) == (broker.done, 0)
    assert broker.done > 50


async def test_a_leaving_instance_does_not_count_and_is_waited_for(machine, units):
    made = units()
    async with Broker(machine, 1.0) as broker:
        await broker.busy(2)
        move = asyncio.create_task(made.apply(setting(workers=1), 1))
        await asyncio.sleep(0.3)
        assert not move.done()
        seen = await made.read()
        assert seen.setting == setting(workers=1)
        outcome = await move
        assert outcome.status is ActuationStatus.APPLIED, outcome.detail
        assert outcome.took_s > 0.4
    assert (broker.given, broker.lost) == (broker.done, 0)


async def test_one_that_stays_busy_fails_the_move_and_is_not_killed(machine, units):
    made = units(drain_timeout=0.4)
    async with Broker(machine, 1.5) as broker:
        await broker.busy(2)
        outcome = await made.apply(setting(workers=1), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert "worker@2 is deactivating" in outcome.detail
        assert "none was killed" in outcome.detail
        # its stop job goes on; the next move takes it as it is
        await moved(units(), 1)
    assert (broker.given, broker.lost) == (broker.done, 0)


async def test_that_systemd_killed_is_said(machine, units):
    await inside(machine, "systemctl", "start", "stubborn@1", "stubborn@2")
    made = units("stubborn@.service")
    outcome = await made.apply(setting(workers=1), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert "stubborn@2.service was still busy after its TimeoutStopSec=" in outcome.detail


async def test_gaps_are_filled_from_below_and_the_highest_goes_first(machine, units):
    made = units()
    await moved(made, 4)
    await inside(machine, "systemctl", "stop", "worker@2")
    seen = await made.read()
    assert seen.setting == setting(workers=3)
    assert "2 stopped by another hand" in seen.detail
    await moved(made, 4)
    assert active(machine) == [1, 2, 3, 4]
    await inside(machine, "systemctl", "stop", "worker@2")
    await moved(made, 2)
    assert active(machine) == [1, 3]
    assert (await made.read()).detail == LIMITS


async def test_another_hand_is_told_as_long_as_its_count_stays(machine, units):
    made = units()
    before = await made.read()
    await inside(machine, "systemctl", "start", "worker@7")
    for _ in range(2):
        seen = await made.read()
        assert seen.setting == setting(workers=3)
        assert (seen.epoch, seen.detail) == (before.epoch, f"7 started by another hand; {LIMITS}")
    await moved(made, 2)
    assert active(machine) == [1, 2]
    assert (await made.read()).detail == LIMITS


async def test_others_than_numbered_instances_are_not_ours(machine, units):
    made = units()
    await inside(machine, "systemctl", "start", "worker@blue", "worker@007")
    assert (await made.read()).setting == setting(workers=2)
    await moved(made, 1)
    await inside(machine, "systemctl", "is-active", "worker@blue", "worker@007")


async def test_a_crash_is_waited_for_and_told_and_is_no_epoch(machine, units):
    made = units()
    before = await made.read()
    await inside(machine, "systemctl", "kill", "-s", "KILL", "worker@2")
    with pytest.raises(PlantFault, match=r"worker@2 is activating \(auto-restart\)"):
        await made.read()
    seen = await until_read(made, lambda seen: "restarted it" in seen.detail)
    assert (seen.setting, seen.epoch) == (before.setting, before.epoch)
    assert seen.detail.startswith("2 ended and systemd restarted it (1 times so far)")
    assert (await made.read()).detail == LIMITS


async def test_a_failed_instance_is_none_and_its_number_is_passed_over(machine, units):
    await inside(machine, "systemctl", "start", "plain@1", "plain@2", "plain@3")
    made = units("plain@.service")
    before = await made.read()
    await inside(machine, "systemctl", "kill", "-s", "KILL", "plain@2")
    seen = await until_read(made, lambda seen: "failed" in seen.detail)
    assert (seen.setting, seen.epoch) == (setting(workers=2), before.epoch)
    assert seen.detail == "failed, and not counted: 2 (signal)"
    await moved(made, 3)
    assert active(machine, "plain") == [1, 3, 4]
    await moved(made, 1)
    last = units("plain@.service", last=2)
    await moved(last, 2)  # the only number left is the one that failed
    assert active(machine, "plain") == [1, 2]
    refused = await last.apply(setting(workers=3), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "up to 2" in refused.detail


async def test_one_that_cannot_start_fails_the_move_and_three_end_it(machine, units):
    await inside(machine, "systemctl", "start", "plain@1")
    await inside(machine, "sh", "-c", "touch /run/bad.2 /run/bad.3 /run/bad.4")
    made = units("plain@.service")
    for number in (2, 3, 4):
        outcome = await made.apply(setting(workers=2), number)
        assert outcome.status is ActuationStatus.FAILED
        assert f"plain@{number}.service failed to start: exit-code" in outcome.detail
    refused = await made.apply(setting(workers=2), 5)
    assert refused.status is ActuationStatus.REFUSED
    assert "reset-failed" in refused.detail
    assert active(machine, "plain") == [1]
    await inside(machine, "sh", "-c", "rm /run/bad.*; systemctl reset-failed")
    await moved(made, 2)
    assert active(machine, "plain") == [1, 2]


async def test_restarted_by_hand_all_at_once_or_one_by_one_is_another_epoch(machine, units):
    made = units()
    await moved(made, 3)
    epochs = [(await made.read()).epoch]
    await inside(machine, "systemctl", "restart", "worker@*")
    seen = await until_read(made, lambda seen: seen.epoch not in epochs)
    assert seen.setting == setting(workers=3)
    assert "all 3 instances were restarted" in seen.detail
    epochs.append(seen.epoch)
    for number in (1, 2, 3):
        assert (await made.read()).epoch == epochs[-1]
        await inside(machine, "systemctl", "restart", f"worker@{number}")
    seen = await until_read(made, lambda seen: seen.epoch not in epochs)
    assert seen.setting == setting(workers=3)
    # neither new unit files nor a new systemd is a new pool
    for order in ("daemon-reload", "daemon-reexec"):
        await inside(machine, "systemctl", order)
        again = await until_read(made, lambda seen: seen.setting == setting(workers=3))
        assert (again.epoch, again.detail) == (seen.epoch, LIMITS)


async def test_a_restart_that_drains_for_longer_than_a_start_takes_is_no_other_hand(machine, units):
    made = units(step_timeout=0.5)
    before = await made.read()
    async with Broker(machine, 1.5) as broker:
        await broker.busy(2)
        restart = asyncio.create_task(inside(machine, "systemctl", "restart", "worker@*"))
        seen = before
        while seen.epoch == before.epoch:
            assert seen.setting == before.setting
            assert "hand" not in seen.detail
            seen = await until_read(made, lambda _: True)
        await restart
        assert seen.setting == before.setting
    assert (broker.given, broker.lost) == (broker.done, 0)


async def test_restarted_by_hand_after_a_crash_is_another_epoch(machine, units):
    made = units()
    await inside(machine, "systemctl", "kill", "-s", "KILL", "worker@1", "worker@2")
    before = await until_read(made, lambda seen: seen.setting == setting(workers=2))
    await inside(machine, "systemctl", "restart", "worker@1", "worker@2")
    after = await until_read(made, lambda seen: seen.epoch != before.epoch)
    assert after.setting == setting(workers=2)


async def test_a_template_with_an_escaped_name(machine, units):
    """The backslash of `we-b` means itself, and not the next letter of a pattern."""
    await inside(machine, "systemctl", "start", r"we\x2db@1")
    made = units(r"we\x2db@.service")
    assert (await made.read()).setting == setting(workers=1)
    await moved(made, 2)
    assert (await made.read()).setting == setting(workers=2)
    await moved(made, 1)
    await inside(machine, "systemctl", "stop", r"we\x2db@1")
    with pytest.raises(PlantFault, match="no instance is active"):
        await made.read()


async def test_limits_changed_while_it_runs_are_seen(machine, units):
    made = units()
    assert (await made.read()).detail == LIMITS
    await inside(
        machine, "systemctl", "set-property", "--runtime", "worker@1", "CPUQuota=200%", "MemoryMax="
    )
    wanted = "limits of each: CPU 0.5 to 2 cores, memory 100 to unlimited MiB"
    await until_read(made, lambda seen: seen.detail == wanted)
    await inside(machine, "systemctl", "revert", "worker@1")


async def test_a_bus_started_anew_is_connected_to_again(machine, units):
    made = units()
    await made.read()
    await inside(machine, "systemctl", "restart", "dbus.socket", "dbus.service")
    await until_read(made, lambda seen: seen.setting == setting(workers=2))
    await moved(made, 3)


async def test_a_bus_that_is_not_there_is_a_fault_that_names_it(units, tmp_path):
    made = units(bus=str(tmp_path / "none"))
    with pytest.raises(PlantFault, match=rf"worker@.service at {tmp_path}/none"):
        await made.read()
    outcome = await made.apply(setting(workers=3), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert "No such file" in outcome.detail


_AS_POOLWRIGHT = """
import asyncio, json, sys
from poolwright.actuators.systemd_units import SystemdUnits
from poolwright.core.model import setting
async def main():
    found = []
    for template in ("worker@.service", "plain@.service"):
        made = SystemdUnits(SystemdUnits.Options(template=template), "web")
        level = (await made.read()).setting["workers"]
        for workers in (level + 1, level):
            done = await made.apply(setting(workers=workers), 1)
            found.append([level, str(done.status), done.detail])
    print(json.dumps(found))
asyncio.run(main())
"""


async def test_without_a_rule_it_is_refused_and_the_shipped_rule_allows_just_these(machine):
    await inside(machine, "systemctl", "start", "plain@1")
    exports = [f"{name}={word}" for name, word in units_machine.ENV.items()]
    command = ("setpriv", "--reuid=poolwright", "--regid=nogroup", "--clear-groups", "env")
    command = (*command, *exports, units_machine.PYTHON, "-c", _AS_POOLWRIGHT)
    refused = json.loads(await inside(machine, *command))
    assert [status for _, status, _ in refused[::2]] == ["refused"] * 2, refused
    for level, _, detail in refused[::2]:
        assert level in (1, 2)  # anybody may look
        assert "polkit" in detail
        assert "manage-units" in detail
    rule = (units_machine.ROOT / "deploy/polkit/50-poolwright-units.rules").read_text()
    file = "/etc/polkit-1/rules.d/50-poolwright-units.rules"
    await asyncio.to_thread(machine.run, "tee", file, stdin=rule)
    await inside(machine, "systemctl", "restart", "polkit")
    # as the shipped unit runs it
    unit = (units_machine.ROOT / "deploy/systemd/poolwright.service").read_text()
    keys = r"^((?:Protect|Private|Restrict|SystemCall|Lock|NoNew|Keyring|MemoryDeny)\w*=.*)$"
    hardened = [f"--property={line}" for line in re.findall(keys, unit, re.MULTILINE)]
    assert "--property=NoNewPrivileges=yes" in hardened
    exports = [f"--setenv={one}" for one in exports]
    allowed = json.loads(
        await inside(
            machine, "systemd-run", "--pipe", "--wait", "--quiet", "--uid=poolwright",
            *exports, *hardened, units_machine.PYTHON, "-c", _AS_POOLWRIGHT,
        )
    )  # fmt: skip
    assert [status for _, status, _ in allowed] == ["applied", "applied", "refused", "applied"]
    assert active(machine) == [1, 2]


async def test_the_row_of_the_table(machine, units):
    made = units()
    took = []
    async with Broker(machine, 0.02) as broker:
        for tick, level in enumerate((3, 4, 5, 6, 5, 4, 3, 2)):
            took.append((await moved(made, level, tick)).took_s)
    assert (broker.given, broker.lost) == (broker.done, 0)
    before = await made.read()
    await inside(machine, "systemctl", "restart", "worker@*")
    reloaded = await until_read(made, lambda seen: seen.epoch != before.epoch)
    assert reloaded.setting == before.setting
    await inside(machine, "systemctl", "kill", "-s", "KILL", "worker@2")
    crashed = await until_read(made, lambda seen: "restarted it" in seen.detail)
    assert (crashed.setting, crashed.epoch) == (reloaded.setting, reloaded.epoch)
    await inside(machine, "systemctl", "start", "worker@7")
    other = await made.read()
    assert other.setting == setting(workers=3)
    assert "another hand" in other.detail
    version = machine.run("systemctl", "--version").split("(")[1].split(")")[0]
    note(
        Row(
            kind="systemd_units",
            server="systemd template instances",
            version=version,
            reads="D-Bus: ActiveState, SubState, InvocationID, limits of each instance",
            moves="StartUnit and StopUnit of worker@N.service, one at a time",
            confirmed_s=(min(took), statistics.median(took), max(took)),
            on_reload="all restarted: a new epoch, taken over; daemon-reload changes nothing",
            on_crash="waited for while systemd restarts it; one that stays failed is not counted",
            on_another_hand="an instance started or stopped by a person is told by its number",
        )
    )
