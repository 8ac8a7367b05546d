"""What is special about `command`: programs of others, run with nothing of ours."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import uvloop
from gunicorn_service import until

from poolwright.actuators.command import Command
from poolwright.actuators.run import Program
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import ActuationStatus, Setting, setting


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine on either loop: they start processes differently."""
    new_loop = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[request.param]
    with asyncio.Runner(loop_factory=new_loop) as runner:
        yield runner.run


def ran(run, *argv, within_s=5.0, env=None):
    return run(Program(env or {}).run(argv, within_s))


def commands(path, **more):
    """An actuator whose level is the content of a file."""
    options = {
        "get": ("cat", str(path)),
        "set": ("sh", "-c", f'echo "$1" > {path}', "x", "{level}"),
    }
    options |= {"confirm_timeout": 0.3, "get_timeout": 5.0} | more
    return Command(Command.Options(**options), "web")


def alive(marker):
    """The processes whose command line holds `marker`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(") ")[2][0]
            if marker.encode() in (folder / "cmdline").read_bytes() and state not in "ZX":
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def gone(marker):
    until(lambda: not alive(marker), 5.0, f"{marker} has ended")


def test_it_gets_nothing_of_the_daemon_but_arguments(run, monkeypatch):
    monkeypatch.setenv("SECRET_OF_DAEMON", "x")
    ended = ran(run, sys.executable, "-c", _SHOW, "a b;$HOME", env={"PGPASSFILE": "/x"})
    env, argument, folder, stdin, own_group, handles = ended.out.decode().splitlines()
    assert set(env.split()) - {"LC_CTYPE"} == {"PATH", "LANG", "PGPASSFILE"}
    assert argument == "a b;$HOME", "no shell"
    assert (folder, stdin, own_group) == ("/", "b''", "True")
    assert handles == "3", "no descriptor but the first three"


_SHOW = """
import os, sys
print(*os.environ)
print(sys.argv[1])
print(os.getcwd())
print(sys.stdin.buffer.read())
print(os.getpgrp() == os.getpid() == os.getsid(0))
print(len(os.listdir("/proc/self/fd")) - 1)
"""


def test_too_late_is_killed_with_all_that_it_started(run):
    began = time.monotonic()
    with pytest.raises(PlantFault, match=r"sh has not ended within 0\.3 s: killed"):
        ran(run, "sh", "-c", "sleep 61.25 & sleep 61.25; echo", within_s=0.3)
    assert time.monotonic() - began < 3.0
    gone("61.25")


def test_what_it_starts_and_leaves_is_no_reason_to_wait(run):
    """A `set` may restart the service: not killed, and its hold on the output is no matter."""
    began = time.monotonic()
    ended = ran(run, "sh", "-c", "sleep 62.25 & echo 3", within_s=10.0)
    assert time.monotonic() - began < 5.0
    assert (ended.status, ended.out) == (0, b"3\n")
    (left,) = alive("62.25")
    os.kill(left, signal.SIGKILL)


def test_cancelled_it_is_killed(run):
    async def cancelled():
        task = asyncio.create_task(Program({}).run(("sleep", "63.25"), 60.0))
        await asyncio.sleep(0)  # it has been started
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(cancelled())
    gone("63.25")


@pytest.mark.parametrize("where", ["", " >&2"])
def test_endless_output_is_cut_and_killed(run, where):
    with pytest.raises(PlantFault, match="sh prints more than 65536 bytes: killed"):
        ran(run, "sh", "-c", f"exec yes 64.25{where}")
    gone("64.25")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no such pool >&2; exit 3", "sh ended with status 3: no such pool"),
        ("echo on stdout; exit 4", "sh ended with status 4: on stdout"),
        ("kill -SEGV $$", "sh was ended by SIGSEGV"),
        (r"printf 'a\033[2Jb\377' >&2; exit 1", "status 1: a [2Jb\ufffd"),
    ],
)
def test_how_it_ended_is_said(run, script, said):
    assert said in str(ran(run, "sh", "-c", script))


def test_what_cannot_be_run_is_said(run, tmp_path):
    with pytest.raises(PlantFault, match="cannot run /no/such: No such file"):
        ran(run, "/no/such")
    with pytest.raises(PlantFault, match="cannot run a"):
        ran(run, "a\0b")
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    with pytest.raises(PermissionError):
        ran(run, str(plain))


def test_many_runs_leave_nothing_open(run):
    async def many():
        program = Program({})
        await program.run(("true",), 5.0)
        before = open_files()
        for _ in range(30):
            await program.run(("true",), 5.0)
        return open_files() - before

    assert run(many()) <= 0


PRINTED = {
    "4": 4,
    " 4\n": 4,
    "": "''",
    "4 workers": "'4 workers",
    "-4": "'-4",
    "4.0": "'4.0",
    "0x10": "'0x10",
    "1_000": "'1_000",
    "\u0664": "is no level",
    "9999999999": "9 digits",
    "0": "workers is 0, which is no level",
}


@pytest.mark.parametrize("printed", PRINTED)
async def test_what_it_prints_is_a_level_or_a_fault(tmp_path, printed):
    (tmp_path / "level").write_text(printed)
    made = commands(tmp_path / "level")
    wanted = PRINTED[printed]
    if isinstance(wanted, int):
        assert (await made.read()).setting == setting(workers=wanted)
        return
    with pytest.raises(PlantFault) as fault:
        await made.read()
    assert wanted in str(fault.value)
    assert str(tmp_path) in str(fault.value)


async def test_json_and_several_knobs(tmp_path):
    for knob, level in (("threads", 4), ("workers", 2)):
        (tmp_path / knob).write_text(f'{{"{knob}": {{"now": "{level}"}}}}')
    script = f'printf \'{{"%s": {{"now": %s}}}}\' "$1" "$2" > {tmp_path}/"$1"'
    made = commands(
        tmp_path / "{knob}",
        knobs=("workers", "threads"),
        pointer="/{knob}/now",
        set=("sh", "-c", script, "x", "{knob}", "{level}"),
    )
    assert made.knobs == ("threads", "workers")
    assert (await made.read()).setting == setting(threads=4, workers=2)
    both = Setting(levels=(("threads", 3), ("workers", 5)))
    assert (await made.apply(both, 1)).status is ActuationStatus.APPLIED
    assert (await made.read()).setting == both
    none = Setting(levels=(("threads", 0), ("workers", 9)))
    refused = await made.apply(none, 2)
    assert refused.status is ActuationStatus.REFUSED
    assert (await made.read()).setting == both, "nothing of it was done"


async def test_a_level_that_does_not_come_is_a_failure_after_the_time(tmp_path):
    (tmp_path / "level").write_text("2")
    outcome = await commands(tmp_path / "level", set=("true", "{level}")).apply(
        setting(workers=3), 1
    )
    assert outcome.status is ActuationStatus.FAILED
    assert "workers: after 0.3 s told 3, and reads 2" in outcome.detail


async def test_what_is_read_decides_when_set_fails(tmp_path):
    path = tmp_path / "level"
    path.write_text("2")
    done_all_the_same = commands(
        path, set=("sh", "-c", f"echo $1 > {path}; exit 5", "x", "{level}")
    )
    outcome = await done_all_the_same.apply(setting(workers=3), 1)
    assert outcome.status is ActuationStatus.APPLIED
    outcome = await commands(path, set=("sh", "-c", "exit 5", "{level}")).apply(
        setting(workers=4), 1
    )
    assert outcome.status is ActuationStatus.FAILED
    assert "sh ended with status 5" in outcome.detail


async def test_what_may_not_be_done_is_refused(tmp_path):
    path = tmp_path / "level"
    path.write_text("2")
    for set_ in (("sh", "-c", "echo ask root >&2; exit 77", "{level}"), (str(path), "{level}")):
        outcome = await commands(path, set=set_).apply(setting(workers=3), 1)
        assert outcome.status is ActuationStatus.REFUSED, outcome
        assert ("ask root" in outcome.detail) or ("allow poolwright to run it" in outcome.detail)


async def test_a_restart_during_a_move_fails_it(tmp_path):
    path, epoch = tmp_path / "level", tmp_path / "epoch"
    path.write_text("2")
    epoch.write_text("one\n")
    made = commands(
        path,
        epoch=("cat", str(epoch)),
        set=("sh", "-c", f"echo $1 > {path}; echo two > {epoch}", "x", "{level}"),
    )
    assert (await made.read()).epoch == "one"
    outcome = await made.apply(setting(workers=3), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert "restarted during the move (epoch one before, now two)" in outcome.detail


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"set": ("x",)}, r"set: \{level\} stands nowhere"),
        ({"pointer": "a/b"}, "no JSON pointer"),
        ({"knobs": ("a", "b")}, r"get: of 2 knobs each needs its own"),
        ({"knobs": ("a", "b"), "get": ("x", "{knob}")}, r"set: of 2 knobs"),
        ({"knobs": ("a", "a")}, "once each"),
        ({"knob": "Workers"}, "a-z"),
    ],
)
def test_what_makes_no_sense_is_refused(options, why):
    asked = {"get": ("x",), "set": ("x", "{level}")} | options
    with pytest.raises(PolicyError, match=why):
        Command.Options(**asked)
