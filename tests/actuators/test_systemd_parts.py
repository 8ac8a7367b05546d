"""The systemd_units actuator's parts: what looks mean, and a bus that is none. The e2e test has the
real ones.
"""

import asyncio
import contextlib
import struct
import sys

import pytest

from poolwright.actuators.systemd_bus import Bus, Call
from poolwright.actuators.systemd_units import SystemdUnits
from poolwright.actuators.systemd_watch import UNLIMITED, Instance, Watch, limits_text
from poolwright.core.errors import PlantFault, PolicyError


def one(number, active="active", sub="running", invocation=None, **more):
    invocation = f"i{number}" if invocation is None else invocation
    name = f"w@{number}.service"
    return Instance(number=number, name=name, active=active, sub=sub, invocation=invocation, **more)


def numbers(instances):
    return [i.number for i in instances]


# What looks mean


@pytest.mark.parametrize(
    ("active", "sub", "job", "kind"),
    [
        ("active", "running", "", "serving"),
        ("active", "running", "restart", "serving"),
        ("reloading", "reload", "reload", "serving"),
        ("active", "running", "stop", "leaving"),
        ("active", "exited", "", None),
        ("activating", "start", "start", "coming"),
        ("activating", "auto-restart", "", "coming"),
        ("activating", "start", "stop", None),
        ("inactive", "dead", "start", "coming"),
        ("deactivating", "stop-sigterm", "stop", "leaving"),
        ("deactivating", "stop-sigterm", "restart", "coming"),
        ("deactivating", "stop-sigterm", "start", "coming"),
        ("deactivating", "stop-sigterm", "", "leaving"),
        ("failed", "failed", "", "failed"),
        ("failed", "failed", "start", "coming"),
        ("inactive", "dead", "", None),
    ],
)
def test_each_instance_is_one_thing(active, sub, job, kind):
    view = Watch().see([one(1, active, sub, job=job)], moving=False)
    found = {name for name in ("serving", "coming", "leaving", "failed") if getattr(view, name)}
    assert found == ({kind} if kind else set())


def test_active_without_a_process_is_not_counted_and_said():
    view = Watch().see([one(1), one(2, sub="exited")], moving=False)
    assert numbers(view.serving) == [1]
    assert view.news == ("w@2 is active (exited): without a process it is not counted",)


def test_a_crash_is_no_epoch_and_all_by_hand_is_one():
    watch = Watch()
    first = watch.see([one(1), one(2)], moving=False)
    crashed = watch.see([one(1), one(2, invocation="x", restarts=1)], moving=False)
    assert crashed.epoch == first.epoch
    assert crashed.news == ("2 ended and systemd restarted it (1 times so far)",)
    half = watch.see([one(1, invocation="y"), one(2, invocation="x")], moving=False)
    assert (half.epoch, half.news) == (first.epoch, ())
    both = watch.see([one(1, invocation="y"), one(2, invocation="z")], moving=False)
    assert both.epoch != first.epoch
    assert both.news == ("all 2 instances were restarted",)


def test_what_was_started_in_the_middle_of_a_rolling_restart_is_new_as_well():
    watch = Watch()
    first = watch.see([one(1), one(2)], moving=False)
    watch.see([one(1, invocation="x"), one(2)], moving=False)
    watch.starts(3)
    assert watch.see([one(1, invocation="x"), one(2), one(3)], moving=True).epoch == first.epoch
    after = watch.see([one(1, invocation="x"), one(2, invocation="y"), one(3)], moving=False)
    assert after.epoch != first.epoch


def test_started_and_stopped_by_hand_is_told_until_a_move():
    watch = Watch()
    watch.see([one(1), one(2)], moving=False)
    for _ in range(2):
        news = watch.see([one(1), one(9)], moving=False).news
        assert news == ("9 started by another hand", "2 stopped by another hand")
    assert watch.see([one(1), one(9)], moving=True).news == ()
    assert watch.see([one(1), one(9)], moving=False).news == ()


def test_one_that_ended_badly_when_we_stopped_it_did_as_told():
    watch = Watch()
    watch.see([one(1), one(2)], moving=False)
    watch.stops(2)
    bad = one(2, "failed", "failed", "", result="exit-code")
    assert watch.see([one(1), bad], moving=True).failed == ()
    assert watch.see([one(1), bad], moving=False).news == ()
    watch.see([one(1), one(2, invocation="n")], moving=False)  # somebody has started it again
    news = watch.see([one(1), bad], moving=False).news
    assert "failed, and not counted: 2 (exit-code)" in news


def test_many_are_not_spelled_out():
    watch = Watch()
    watch.see([one(1)], moving=False)
    news = watch.see([one(n) for n in range(1, 9)], moving=False).news
    assert news == ("2, 3, 4, 5 and 3 more started by another hand",)


def test_limits_in_words():
    assert limits_text([(UNLIMITED, UNLIMITED)] * 2) == ""
    assert limits_text([(300_000, UNLIMITED)]) == "limits of each: CPU 0.3 cores"
    assert limits_text([(UNLIMITED, 2**30)]) == "limits of each: memory 1024 MiB"


# Options


@pytest.mark.parametrize("template", ["worker", "worker@3.service", "worker@*.service", "a b@"])
def test_what_is_no_template_is_refused(template):
    with pytest.raises(PolicyError, match=r"write worker@.service"):
        SystemdUnits.Options(template=template)


def test_numbers_begin_with_one():
    with pytest.raises(PolicyError, match="last is 0"):
        SystemdUnits.Options(template="worker@.service", last=0)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jeepney", None)
    with pytest.raises(PolicyError, match=r"pip install 'poolwright\[systemd\]'"):
        SystemdUnits(SystemdUnits.Options(template="worker@.service"), "web")


# A bus that is none

_PING = Call(method="ListUnits", signature="", body=())
_GREETED = b"OK 1234deadbeef\r\n"
_ENDLESS = struct.pack("<BBBBIII", ord("l"), 2, 0, 1, 1 << 26, 1, 8)


@contextlib.asynccontextmanager
async def pretending(folder, greeting, then=b"", hang=True):
    """Something at a socket that answers each connection with the same bytes."""
    links = set()

    async def serve(reader, writer):
        links.add(writer)
        with contextlib.suppress(ConnectionError):
            await reader.read(100)
            writer.write(greeting)
            await reader.read(100)
            writer.write(then)
            await writer.drain()
            if hang:
                await reader.read(-1)
        writer.close()

    path = folder / "bus"
    server = await asyncio.start_unix_server(serve, path)
    bus = Bus(str(path))
    try:
        yield bus
    finally:
        await bus.close()
        for link in links:
            link.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("greeting", "then", "hang", "why"),
    [
        (b"REJECTED EXTERNAL\r\n", b"", True, "REJECTED"),
        (b"x" * 70_000, b"", True, ""),
        (_GREETED, b"", False, "hung up"),
        (_GREETED, b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9, True, "does not speak D-Bus"),
        (_GREETED, _ENDLESS, True, "more than 1048576 bytes"),
        (_GREETED, b"", True, "no answer within 0.3 s"),
    ],
    ids=["rejected", "long", "ends", "garbage", "endless", "silent"],
)
async def test_a_bus_that_is_none_is_a_fault_that_names_it(tmp_path, greeting, then, hang, why):
    async with pretending(tmp_path, greeting, then, hang) as bus:
        for _ in range(2):
            async with asyncio.timeout(3):
                with pytest.raises(PlantFault) as fault:
                    await bus.call(_PING, 0.3)
            assert str(tmp_path) in str(fault.value)
            assert why in str(fault.value)
