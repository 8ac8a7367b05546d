"""Offering: who is seen, who may ask, what a newcomer begins with, and forks."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from client_service import die_with_parent
from gunicorn_service import until
from hypothesis import given, settings
from hypothesis import strategies as st

import poolwright
from poolwright.client import Meter, ResizableThreadPoolExecutor, offer
from poolwright.client.desk import share
from poolwright.client.reach import Denied, Reach
from poolwright.core.errors import PlantFault

pytestmark = pytest.mark.e2e

_OURS = str(Path(poolwright.__file__).parents[1])


@pytest.fixture
def folder():
    made = Path(tempfile.mkdtemp(prefix="pw", dir="/tmp"))
    yield made / "o"
    shutil.rmtree(made)


@pytest.fixture
def offered(folder):
    """An executor of 3 that this process offers."""
    pool = ResizableThreadPoolExecutor(3)
    made = offer(str(folder), pool=pool)
    until(lambda: list(folder.glob("*.sock")), 10.0, "it offers")
    until(lambda: told(folder) is not None, 10.0, "it answers")
    yield made
    made.close()
    pool.shutdown()


def told(folder):
    try:
        return asyncio.run(Reach(str(folder)).ask(5.0, counts=True))
    except PlantFault:
        return None


def ask(path, line):
    """One raw exchange."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5)
        link.connect(str(path))
        link.sendall(line)
        found = b""
        while part := link.recv(65536):
            found += part
    return found


class Process:
    """A process of an application in `folder`: commands are lines on its stdin."""

    def __init__(self, folder, code, limit=2):
        head = f"""
            import os, sys, time
            from poolwright.client import *
            pool = ResizableThreadPoolExecutor({limit})
            made = offer({str(folder)!r}, pool=pool)
            print("up", flush=True)
        """
        tail = "for line in sys.stdin:\n    exec(line)\n"
        self._popen = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code) + tail],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": _OURS},
            text=True,
            bufsize=1,
            preexec_fn=die_with_parent,  # noqa: PLW1509  one prctl(2)
        )
        assert self.line() == "up"

    @property
    def pid(self):
        return self._popen.pid

    def line(self):
        return self._popen.stdout.readline().strip()

    def do(self, line):
        self._popen.stdin.write(line + "\n")

    def kill(self):
        """SIGKILL; may be called twice."""
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def end(self):
        """As a program does."""
        self._popen.stdin.close()
        self._popen.wait(10)


@pytest.fixture
def start(folder):
    started = []

    def make(code="", **options):
        process = Process(folder, code, **options)
        started.append(process)
        until(
            lambda: process.pid in {t.pid for t in told(folder) or ()}, 10.0, "the process is seen"
        )
        return process

    make.any = lambda code, **options: (
        started.append(Process(folder, code, **options)) or (started[-1])
    )
    yield make
    for process in started:
        process.kill()


def limits(folder):
    return sorted(t.limit for t in told(folder) or ())


def move(folder, process, limit, plan):
    async def go():
        reach = Reach(str(folder))
        (found,) = [t for t in await reach.ask(5.0) if t.pid == process.pid]
        return await reach.move(found, limit, plan, 5.0)

    return asyncio.run(go())


@settings(max_examples=300)
@given(st.integers(1, 12), st.integers(0, 40), st.data())
def test_whoever_dies_and_whatever_is_reloaded_the_sum_stays(processes, more, data):
    total = processes + more
    least, rest = divmod(total, processes)
    here = [least + (i < rest) for i in range(processes)]  # oldest first
    for _ in range(data.draw(st.integers(0, 4), "crashes")):
        if data.draw(st.booleans(), "of one alone"):
            del here[data.draw(st.integers(0, len(here) - 1))]
        else:
            del here[data.draw(st.integers(0, len(here) - 1)) :]
        while len(here) < processes:
            here.append(share(total, processes, here))
        assert sum(here) == total
    old, new = here, []
    while len(new) < processes:  # a reload: the old go in any order, the new come meanwhile
        for _ in range(data.draw(st.integers(0, 2), "leave")):
            if old:
                del old[data.draw(st.integers(0, len(old) - 1))]
        new.append(share(total, processes, [*old, *new]))
    assert sum(new) == total
    assert max(new) - min(new) <= 1


@given(st.integers(1, 12), st.integers(0, 40), st.lists(st.integers(1, 90), max_size=20))
def test_beside_others_who_have_anything_a_newcomer_takes_an_even_share(processes, more, limits):
    total = processes + more
    found = share(total, processes, limits)
    assert total // processes <= found <= -(-total // processes)


@pytest.mark.parametrize(
    ("where", "message"), [("o", "relative path"), ("/" + "x" * 90, "no socket's path fits")]
)
def test_a_folder_that_cannot_be_meant(where, message):
    with pytest.raises(ValueError, match=message):
        offer(where, meter=Meter())


def test_nothing_to_offer_and_an_unknown_group():
    with pytest.raises(ValueError, match="a pool or a meter"):
        offer("/tmp/pw-none")
    with pytest.raises(KeyError):
        offer("/tmp/pw-none", meter=Meter(), group="no-such-group")


def test_folder_and_socket_are_the_owners_alone_and_go_with_the_offer(folder, offered):
    assert folder.stat().st_mode & 0o777 == 0o700
    (socket_file,) = folder.glob("*.sock")
    assert socket_file.stat().st_mode & 0o777 == 0o600
    offered.close()
    offered.close()
    assert not list(folder.glob("*.sock"))


def test_a_group_may_be_let_in(folder):
    with ResizableThreadPoolExecutor(1) as pool:
        made = offer(str(folder), pool=pool, group="root")
        until(lambda: told(folder) is not None, 10.0, "it answers")
        (socket_file,) = folder.glob("*.sock")
        assert socket_file.stat().st_mode & 0o777 == 0o660
        assert folder.stat().st_mode & 0o777 == 0o750
        made.close()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b"{\n",
        b'{"limit": 0, "total": 1, "processes": 1}\n',
        b'{"limit": -1, "total": 1, "processes": 1}\n',
        b'{"limit": true, "total": 1, "processes": 1}\n',
        b'{"limit": 1e9, "total": 1, "processes": 1}\n',
        b'{"limit": 1000000, "total": 1, "processes": 1}\n',
        b'{"limit": 7}\n',
        b'{"limit": 7, "total": 7, "processes": 1, "until_ns": 1}\n',
        b"x" * 4090 + b"\n",
        b"[" * 3000 + b"\n",
    ],
)
def test_what_makes_no_sense_moves_nothing_and_harms_nobody(folder, offered, line):
    (path,) = folder.glob("*.sock")
    assert b"error" in ask(path, line)
    assert limits(folder) == [3]


def test_who_connects_and_says_nothing_stops_the_others_for_a_second(folder, offered):
    (path,) = folder.glob("*.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        began = time.monotonic()
        assert limits(folder) == [3]
        assert time.monotonic() - began < 4.0


def test_the_distributions_come_whole(folder, offered):
    for _ in range(20):
        offered._pool.submit(abs, 1).result(5)
    (seen,) = told(folder)
    assert seen.tasks.done >= 19
    assert seen.pid == os.getpid()
    assert json.loads(ask(seen.path, b"{}\n"))["limit"] == 3


def test_a_socket_that_was_removed_comes_back(folder, offered, monkeypatch):
    monkeypatch.setattr("poolwright.client.desk._AGAIN_S", 0.05)
    (before,) = told(folder)
    shutil.rmtree(folder)
    offered._hang_up()  # what the thread itself notices after ten seconds
    until(lambda: told(folder) is not None, 10.0, "it answers again")
    (after,) = told(folder)
    assert (after.limit, after.token, after.born_ns) == (3, before.token, before.born_ns)


def test_what_the_system_refuses_is_logged_once_and_the_application_goes_on(folder, caplog):
    folder.mkdir()
    folder.chmod(0o777)
    with ResizableThreadPoolExecutor(1) as pool:
        made = offer(str(folder), pool=pool)
        until(lambda: caplog.records, 10.0, "it is logged")
        assert "anybody may write to" in caplog.text
        assert pool.submit(abs, -1).result(5) == 1
        with pytest.raises(PlantFault, match="anybody may write to it"):
            asyncio.run(Reach(str(folder)).ask(1.0))
        made.close()
        assert made._thread.is_alive() is False


def test_what_a_killed_process_leaves_is_passed_over_and_cleared_away(folder, start):
    first, second = start(), start()
    first.kill()
    assert len(list(folder.glob("*.sock"))) == 2
    assert [t.pid for t in told(folder)] == [second.pid]
    third = start()
    assert len(list(folder.glob("*.sock"))) == 2
    assert {t.pid for t in told(folder)} == {second.pid, third.pid}
    third.end()
    assert len(list(folder.glob("*.sock"))) == 1


def test_a_newcomer_takes_the_place_that_is_free(folder, start):
    processes = [start() for _ in range(3)]
    for process, limit in zip(processes, (4, 3, 3), strict=True):
        move(folder, process, limit, (10, 3))
    processes[0].kill()
    start()
    until(lambda: limits(folder) == [3, 3, 4], 5.0, "it has what is missing")


def test_the_first_of_a_service_begins_at_its_default_unless_its_parent_is_the_same(folder, start):
    first = start(limit=2)
    move(folder, first, 9, (9, 1))
    first.end()
    start(limit=2)
    assert limits(folder) == [9]  # as after a reload of an idle service
    noted = json.loads((folder / "plan").read_text())
    (folder / "plan").write_text(json.dumps(noted | {"parent": "1:1"}))
    for process in told(folder):
        os.kill(process.pid, signal.SIGKILL)
    start(limit=2)
    assert limits(folder) == [2]


@pytest.mark.root
def test_the_first_process_of_a_container_is_a_master():
    """gunicorn is often process 1 there; who is nobody's child is of no service."""
    told = "from poolwright.client import wire; print(wire.parent())"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {told!r}])"
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c"]

    def run(*code):
        env = os.environ | {"PYTHONPATH": _OURS}
        return subprocess.run(
            [*inside, *code], capture_output=True, text=True, timeout=30, check=False, env=env
        )

    child, first = run(code), run(told)
    assert child.stdout.startswith("1:"), child.stderr
    assert "started by init" in first.stderr


def test_a_stuck_process_does_not_keep_others_from_coming(folder, start):
    stuck = start()
    os.kill(stuck.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{stuck.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 5.0, "it stands")
    try:
        other = start.any("")
        until(lambda: len(list(folder.glob("*.sock"))) == 2, 10.0, "it offers beside a stuck one")
        with pytest.raises(PlantFault, match=f"{stuck.pid}-.*no answer within"):
            asyncio.run(Reach(str(folder)).ask(0.5))
        assert other._popen.poll() is None
    finally:
        os.kill(stuck.pid, signal.SIGCONT)
    assert len(told(folder)) == 2


_FORKS = """
    child = os.fork()
    if child == 0:
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(0.05)
            if os.path.exists({used!r}):
                pool.submit(abs, 1).result()
        os._exit(0)
    print(child, flush=True)
"""


def test_who_forks_before_working_is_a_master_and_its_child_a_worker(folder, start):
    code = _FORKS.format(used="/nonexistent")
    master = start.any(code)
    child = int(master.line())
    try:
        until(lambda: {t.pid for t in told(folder) or ()} == {child}, 10.0, "only the child")
        master.do("pool.submit(abs, 1).result()")
        until(lambda: len(told(folder) or ()) == 2, 10.0, "it works now too")
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_of_who_works_is_seen_when_it_works_itself(folder, start, tmp_path):
    used = tmp_path / "used"
    code = "pool.submit(abs, 1).result()" + textwrap.dedent(_FORKS.format(used=str(used)))
    parent = start.any(code)
    child = int(parent.line())
    try:
        until(lambda: {t.pid for t in told(folder) or ()} == {parent.pid}, 10.0, "the parent")
        used.touch()
        until(
            lambda: {t.pid for t in told(folder) or ()} == {parent.pid, child},
            10.0,
            "and the child",
        )
    finally:
        os.kill(child, signal.SIGKILL)


_AS_NOBODY = """
import asyncio, os, sys
from poolwright.client.reach import Reach
from poolwright.actuators.python import Python
from poolwright.core.model import setting
os.setgroups([]); os.setgid(65534); os.setuid(65534)
made = Python(Python.Options(folder=sys.argv[1]), "web")
try:
    asyncio.run(made.read())
except Exception as error:
    print(repr(error))
print(asyncio.run(made.apply(setting(workers=2), 1)))
"""


@pytest.mark.root
@pytest.mark.parametrize("opened", [False, True])
def test_a_stranger_is_refused_by_the_folder_and_by_the_application(folder, offered, opened):
    folder.parent.chmod(0o755)
    if opened:  # somebody has loosened the modes: the kernel still says who asks
        folder.chmod(0o755)
        for path in folder.glob("*.sock"):
            path.chmod(0o666)
    run = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, str(folder)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONPATH": _OURS},
    )
    assert run.returncode == 0, run.stderr
    assert "Denied" in run.stdout
    assert "refused" in run.stdout
    assert "offer(..., group=...)" in run.stdout
    assert ("may not ask" in run.stdout) is opened
    assert limits(folder) == [3]
    assert issubclass(Denied, PlantFault)
