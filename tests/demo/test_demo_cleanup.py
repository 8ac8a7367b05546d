"""The demo leaves nothing behind: not on Ctrl-C, not on a fault, not when it is killed outright."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from poolwright.core.errors import PlantFault
from poolwright.demo.stand import Rig, Stand

pytestmark = pytest.mark.e2e

DEADLINE_S = 30.0


def until(found, what):
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.05)
    pytest.fail(f"not within {DEADLINE_S:g} s: {what}")


def family(pid):
    return psutil.Process(pid).children(recursive=True)


def named(processes, words):
    """Those whose command line holds all of `words`."""
    found = []
    for process in processes:
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if all(word in line for word in words):
            found.append(process)
    return found


@pytest.fixture
def short_path():
    """A folder whose name leaves room for a socket in it: 107 bytes are all there is."""
    with tempfile.TemporaryDirectory(prefix="pw", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def demo(short_path):
    """A demo whose load is under way; (process, its descendants, its temporary folder)."""
    scratch = short_path
    process = subprocess.Popen(
        [sys.executable, "-m", "poolwright", "demo", "--seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    started = []
    try:

        def under_way():
            assert process.poll() is None, process.communicate()
            started[:] = family(process.pid)
            return named(started, ["loadgen"]) and named(started, ["poolwright run"])

        until(under_way, "everything started")
        assert len(named(started, ["gunicorn"])) >= 2
        process.stdout.readline()  # the first line of the view: the daemon ticks
        started[:] = family(process.pid)
        yield process, started, scratch
    finally:
        process.kill()
        process.communicate()
        for left in started:
            if left.is_running():
                left.kill()


def gone(processes):
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_in_order(demo, number):
    process, started, scratch = demo
    process.send_signal(number)
    process.send_signal(number)  # an impatient second one changes nothing
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + number
    assert gone(started), [p for p in started if p.is_running()]
    assert "Traceback" not in err
    assert f"the journal is kept in {scratch}/" in err
    left = [path.name for folder in scratch.iterdir() for path in folder.iterdir()]
    assert left, "the journal is kept"
    assert all(name.startswith("journal.db") for name in left)


def test_killed_outright_it_takes_its_children_along(demo):
    process, started, _ = demo
    process.kill()
    process.wait()
    until(lambda: gone(started), "every child ended")


def test_when_a_child_dies_the_demo_says_which_and_ends(demo):
    process, started, _ = demo
    (daemon,) = named(started, ["poolwright run"])
    daemon.kill()
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3
    assert "daemon was killed by signal 9" in err
    assert "its log ends" in err
    assert gone(started)


def test_a_wrong_override_is_told_before_anything_starts(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "poolwright", "demo", "--seconds", "20"],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "POOLWRIGHT_DEMO_CPU_S": "much"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "POOLWRIGHT_DEMO_CPU_S: 'much' is not a number"
    assert list(tmp_path.iterdir()) == []


async def test_a_service_that_cannot_start_is_told_with_its_log(tmp_path):
    stand = Stand(tmp_path, Rig(workers=2, seconds=1))
    started = pytest.raises(PlantFault, match="gunicorn ended with status 1")
    with socket.create_server(("127.0.0.1", stand.port)), started as caught:
        await stand.__aenter__()
    assert "in use" in str(caught.value)
    assert stand.children[0].process.returncode == 1
