"""The python actuator before clients that are broken, hostile, or gone."""

import asyncio
import json
import os
import resource
import subprocess
import sys
import time

import pytest
from crafted import Crafted, answer

from poolwright.actuators.python import Python
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import ActuationStatus, setting


def actuator(made, **options):
    return Python(Python.Options(folder=str(made.folder), **options), "web")


def test_a_knob_has_a_name():
    with pytest.raises(PolicyError, match="no name"):
        Python.Options(folder="/run/x", knob="a b")
    assert Python(Python.Options(folder="/run/x", knob="threads"), "web").knobs == ("threads",)


async def test_no_folder_and_nobody_in_it():
    gone = Python(Python.Options(folder="/tmp/no-such-folder"), "web")
    with pytest.raises(PlantFault, match="/tmp/no-such-folder: No such file"):
        await gone.read()
    async with Crafted() as made:
        made.dead("1-a")
        with pytest.raises(PlantFault, match="no process answers: does the application run"):
            await actuator(made).read()


async def endless(reader, writer):
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def dripping(reader, writer):
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(reader, writer):
    await reader.read()


async def hanging_up(reader, writer):
    await reader.readline()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (endless, "an answer of more than 262144 bytes"),
        (dripping, "no answer within 0.8 s"),
        (silent, "no answer within 0.8 s"),
        (hanging_up, "hung up without an answer"),
        (b"hello\n", "not the answer of poolwright.client"),
        (b"\xff\xfe\n", "not the answer of poolwright.client"),
        (b"[" * 100_000 + b"\n", "not the answer of poolwright.client"),
        (b"{}\n", "not the answer of poolwright.client"),
        (answer(limit=0), "not the answer"),
        (answer(limit=-3), "not the answer"),
        (answer(limit=10**9), "not the answer"),
        (answer(limit=2.5), "not the answer"),
        (answer(limit=None), "offers no pool"),
        (answer(running=-1), "not the answer"),
        (answer(token="x" * 100), "not the answer"),
        ({"error": "x" * 10_000}, "x{200}'$"),
    ],
)
async def test_who_does_not_answer_sensibly_is_named_and_costs_neither_time_nor_memory(said, told):
    async with Crafted() as made:
        await made.says("1-good", answer("good"))
        await made.says("2-bad", said)
        one = actuator(made, step_timeout=0.8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        with pytest.raises(PlantFault, match=told) as fault:
            await one.read()
        assert "2-bad.sock" in str(fault.value)
        assert time.monotonic() - began < 5.0
        outcome = await one.apply(setting(workers=6), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert "2-bad.sock" in outcome.detail
        assert not [line for _, line in made.asked if "limit" in line]  # nobody was moved
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


async def test_too_many_sockets_are_not_asked():
    async with Crafted() as made:
        for number in range(600):
            (made.folder / f"{number}-x.sock").touch()
        with pytest.raises(PlantFault, match="600 sockets, more than 512"):
            await actuator(made).read()


_STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("up", flush=True)
while True:
    link, _ = listener.accept()
    link.recv(1000)
    link.sendall(sys.argv[2].encode() + b"\\n")
"""


@pytest.mark.root
async def test_an_answer_of_another_user_than_the_folders_is_not_believed():
    async with Crafted() as made:
        await made.says("1-a", answer())
        made.home.chmod(0o755)
        os.chown(made.folder, 0, 65534)
        made.folder.chmod(0o770)
        stranger = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _STRANGER,
            str(made.folder / "2-b.sock"),
            json.dumps(answer("b", limit=1000)),
            stdout=subprocess.PIPE,
        )
        try:
            assert await stranger.stdout.readline() == b"up\n"
            with pytest.raises(PlantFault, match=r"2-b.sock: answered by uid 65534, .* of uid 0"):
                await actuator(made).read()
        finally:
            stranger.kill()
            await stranger.wait()


async def test_what_is_told_is_confirmed_by_who_was_told():
    async with Crafted() as made:
        await made.says("1-a", answer())  # says 2 whatever it is told
        outcome = await actuator(made).apply(setting(workers=5), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert "told 5, and has 2" in outcome.detail
        line = made.asked[-1][1]
        assert (line["limit"], line["total"], line["processes"]) == (5, 5, 1)
        assert 0 < line["until_ns"] - time.monotonic_ns() < 6e9


async def test_shares_are_even_and_what_shrinks_comes_first():
    async with Crafted() as made:
        limits = {"1-a": 1, "2-b": 6, "3-c": 3}

        for name in tuple(limits):

            async def obey(reader, writer, name=name):
                line = json.loads(await reader.readline())
                limits[name] = line.get("limit", limits[name])
                if "limit" in line:
                    made.asked.append((name, line))
                writer.write(json.dumps(answer(name, limit=limits[name])).encode() + b"\n")

            await made.says(name, obey)
        one = actuator(made)
        assert (await one.apply(setting(workers=10), 1)).status is ActuationStatus.APPLIED
        assert [name for name, _ in made.asked] == ["2-b", "3-c", "1-a"]
        assert limits == {"1-a": 3, "2-b": 4, "3-c": 3}
        refused = await one.apply(setting(workers=2), 1)
        assert refused.status is ActuationStatus.REFUSED
        assert "2 for 3 processes" in refused.detail


async def test_what_stays_busy_fails_the_move_and_is_not_interrupted():
    async with Crafted() as made:
        await made.says("1-a", answer(limit=2, running=5, pid=42))
        outcome = await actuator(made, drain_timeout=0.1).apply(setting(workers=2), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert "process 42 runs 5 of 2; nothing was interrupted" in outcome.detail


async def test_processes_that_come_and_go():
    async with Crafted() as made:
        one = actuator(made, successor=0.3)
        await made.says("1-a", answer("a"))
        await made.says("2-b", answer("b"))
        first = await one.read()
        assert first.setting == setting(workers=4)
        await made.ends("2-b")
        with pytest.raises(PlantFault, match="1 of 2 processes ended, 0 came; 2 workers now, 4"):
            await one.read()
        await made.says("3-c", answer("c"))  # the successor
        second = await one.read()
        assert (second.setting, second.epoch) == (first.setting, first.epoch)
        assert "another hand" not in second.detail
        await made.says("3-c", answer("c", limit=5))
        rival = await one.read()
        assert rival.epoch == first.epoch
        assert rival.setting == setting(workers=7)
        assert "7 workers, 4 expected: another hand" in rival.detail
        await made.ends("3-c")
        with pytest.raises(PlantFault, match="waiting"):
            await one.read()
        await asyncio.sleep(0.35)
        third = await one.read()
        assert third.setting == setting(workers=2)
        assert third.epoch != first.epoch
        await made.ends("1-a")
        await made.says("4-d", answer("d"))  # another incarnation, of the same size
        fourth = await one.read()
        assert fourth.setting == setting(workers=2)
        assert fourth.epoch != third.epoch
