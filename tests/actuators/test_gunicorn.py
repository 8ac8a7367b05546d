"""The gunicorn actuator's parts without a gunicorn: what looks mean, /proc, the wire."""

import asyncio
import json
import os
import signal
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.actuators.gunicorn import Gunicorn
from poolwright.actuators.gunicorn_control import Control, ControlSilent
from poolwright.actuators.gunicorn_proc import Proc, Worker, read_pidfile
from poolwright.actuators.gunicorn_watch import Scene, Watch
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import ActuationStatus, setting

MASTER = 100


def workers(*pids):
    return tuple(Worker(pid, pid) for pid in pids)


def scene(*pids, **options):
    return Scene(**({"pid": MASTER, "start": 1, "live": workers(*pids)} | options))


class Eyes:
    """A Watch with a clock of its own."""

    def __init__(self):
        self.watch = Watch(40.0)
        self.now_s = 0.0

    def see(self, *pids, moving=False, after_s=1.0, **options):
        self.now_s += after_s
        return self.watch.see(scene(*pids, **options), self.now_s, moving=moving)


# What looks mean


def test_the_level_is_what_is_aimed_at_and_there():
    eyes = Eyes()
    assert eyes.see(1, 2, 3, target=3, reloads=0).level == 3
    crashed = eyes.see(1, 2, target=3, reloads=0)
    assert (crashed.level, crashed.aim) == (2, 3)
    assert crashed.news == "the master aims at 3 workers, 2 serve"


def test_above_the_target_the_oldest_leave_and_still_leave_when_the_target_is_raised():
    eyes = Eyes()
    eyes.see(1, 2, 3, target=3, reloads=0)
    shrinking = eyes.see(1, 2, 3, target=2, reloads=0)
    assert (shrinking.level, shrinking.leaving) == (2, workers(1))
    raised = eyes.see(1, 2, 3, target=3, reloads=0)
    assert (raised.level, raised.aim, raised.leaving) == (2, 3, workers(1))
    assert eyes.see(2, 3, 4, target=3, reloads=0).level == 3


def test_without_a_target_whom_we_told_to_go_does_not_count():
    eyes = Eyes()
    eyes.see(1, 2, 3)
    eyes.watch.leaves(Worker(1, 1))
    assert eyes.see(1, 2, 3, moving=True).level == 2
    assert eyes.see(2, 3).level == 2
    assert eyes.see(2, 3).news == ""


def test_when_another_one_left_than_we_thought_nobody_is_written_off():
    eyes = Eyes()
    eyes.see(1, 2, 3)
    eyes.watch.leaves(Worker(1, 1))
    eyes.see(1, 2, 3, moving=True)
    assert eyes.see(1, 3, moving=True).level == 2
    assert eyes.see(1, 3).level == 2


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"target": 2, "reloads": 0}, {"target": 2, "reloads": 1}),
        ({"stamp": (1, 1)}, {"stamp": (2, 2)}),
    ],
    ids=["counter", "pidfile"],
)
def test_a_reload_is_another_epoch_once_and_its_old_workers_do_not_count(first, then):
    eyes = Eyes()
    before = eyes.see(1, 2, **first)
    during = eyes.see(1, 2, 3, 4, **then)
    assert during.epoch != before.epoch
    assert during.level == 2
    assert "reloaded" in during.news
    after = eyes.see(3, 4, **then)
    assert (after.epoch, after.level, after.news) == (during.epoch, 2, "")


def test_without_any_counter_a_reload_is_that_all_workers_are_new():
    eyes = Eyes()
    before = eyes.see(1, 2)
    assert eyes.see(2, 3).epoch == before.epoch
    assert eyes.see(4, 5).epoch != before.epoch


def test_a_single_worker_that_is_new_is_a_crash():
    eyes = Eyes()
    before = eyes.see(1)
    after = eyes.see(2)
    assert after.epoch == before.epoch
    assert "worker 1 ended" in after.news


def test_a_crash_is_told_when_the_successor_comes():
    eyes = Eyes()
    eyes.see(1, 2, 3)
    assert eyes.see(1, 3).news == "2 workers, 3 expected: another hand or a crash"
    assert eyes.see(1, 3, 4).news == (
        "worker 2 ended (a crash, or max_requests) and worker 4 took over"
    )
    assert eyes.see(1, 3, 4).news == ""


def test_a_reload_seen_in_the_pidfile_is_not_told_again_by_the_counter():
    eyes = Eyes()
    before = eyes.see(1, 2, stamp=(1, 1), target=2, reloads=0)
    silent = eyes.see(3, 4, stamp=(2, 2))
    back = eyes.see(3, 4, stamp=(2, 2), target=2, reloads=1)
    assert before.epoch != silent.epoch == back.epoch
    assert eyes.see(5, 6, stamp=(3, 3), target=2, reloads=2).epoch != back.epoch


def test_a_pidfile_that_was_only_touched_is_no_reload():
    eyes = Eyes()
    before = eyes.see(1, 2, stamp=(1, 1))
    for _ in range(4):
        eyes.see(1, 2, stamp=(1, 9))
    grown = eyes.see(1, 2, 3, stamp=(1, 9))
    assert (grown.epoch, grown.level) == (before.epoch, 3)


def test_another_master_voids_what_was_known():
    eyes = Eyes()
    before = eyes.see(1, 2, 3, target=2, reloads=5)
    after = eyes.see(7, 8, pid=101, start=9, target=2, reloads=0)
    assert after.epoch != before.epoch
    assert after.level == 2
    assert after.news == "the master was replaced: process 100 before, now 101"
    recycled = eyes.see(7, 8, pid=101, start=10, target=2, reloads=0)
    assert recycled.epoch != after.epoch


def test_another_hand_is_told_until_a_move_of_ours():
    eyes = Eyes()
    eyes.see(1, 2, target=2, reloads=0)
    for _ in range(2):
        assert "another hand" in eyes.see(1, 2, 3, target=3, reloads=0).news
    assert eyes.see(1, 2, 3, target=3, reloads=0, moving=True).news == ""
    assert eyes.see(1, 2, 3, target=3, reloads=0).news == ""


def test_a_new_master_is_whole_with_its_target_or_after_two_equal_looks():
    watch = Watch(40.0)
    assert not watch.is_whole(scene(1, 2, target=3), None)
    assert watch.is_whole(scene(1, 2, 3, target=3), None)
    assert not watch.is_whole(scene(1, 2), scene(1))
    assert not watch.is_whole(scene(), scene())
    assert watch.is_whole(scene(1, 2), scene(1, 2))


def test_a_reload_that_has_begun_is_not_whole_while_only_old_workers_are_there():
    eyes = Eyes()
    eyes.see(1, 2, target=2, reloads=0)
    begun = scene(1, 2, target=2, reloads=1)
    assert eyes.watch.is_new(begun)
    assert not eyes.watch.is_whole(begun, None)
    assert eyes.watch.is_whole(scene(1, 2, 3, 4, target=2, reloads=1), None)


@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(1, 9), max_size=6),
            st.none() | st.integers(1, 6),
            st.integers(0, 2),
            st.integers(0, 1),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_no_level_is_above_what_is_aimed_at_or_alive(looks):
    eyes = Eyes()
    for pids, target, reloads, stamp, moving in looks:
        view = eyes.see(
            *sorted(pids),
            target=target,
            reloads=None if target is None else reloads,
            stamp=(stamp, 0),
            moving=moving,
        )
        assert 0 <= view.level <= len(pids)
        assert target is None or view.level <= target
        assert set(view.leaving) <= set(workers(*pids))


# /proc

_CATCHES_ALL = sum(
    1 << (n - 1) for n in (signal.SIGHUP, signal.SIGTERM, signal.SIGTTIN, signal.SIGTTOU)
)
_WORKS = sum(1 << (n - 1) for n in (signal.SIGTERM, signal.SIGTTIN, signal.SIGTTOU))


class FakeProc:
    """A /proc in a folder, with a master that has workers."""

    def __init__(self, root):
        self.root = root
        self.add(MASTER, parent=1, caught=_CATCHES_ALL)
        (root / f"{MASTER}/net").mkdir()

    def add(self, pid, *, parent=MASTER, caught=_WORKS, state="S", start=None):
        folder = self.root / str(pid)
        (folder / f"task/{pid}").mkdir(parents=True)
        (folder / "fd").mkdir()
        tail = " ".join(["0"] * 17 + [str(pid if start is None else start), "0"])
        (folder / "stat").write_text(f"{pid} (a) b) {state} {parent} {tail}")
        (folder / "status").write_text(f"Name:\tx\nSigCgt:\t{caught:016x}\n")
        return folder

    def children(self, *pids):
        (self.root / f"{MASTER}/task/{MASTER}/children").write_text(" ".join(map(str, pids)) + " ")

    def listen(self, *rows):
        """(address, inode, user) of each socket, and one that is connected."""
        lines = [
            "  sl  local_address ...",
            "   0: 0100007F:1F90 0200007F:9999 01 0:0 0:0 0 0 0 9 1",
        ]
        lines += [f"   1: {a} 00000000:0000 0A 0:0 00:0 0 {uid} 0 {i} 1" for a, i, uid in rows]
        (self.root / f"{MASTER}/net/tcp").write_text("\n".join(lines) + "\n")

    def holds(self, pid, *inodes):
        for inode in inodes:
            (self.root / f"{pid}/fd/{inode}").symlink_to(f"socket:[{inode}]")


@pytest.fixture
def fake(tmp_path):
    return FakeProc(tmp_path)


def test_workers_are_the_children_that_serve(fake):
    fake.add(11)
    fake.add(12, state="Z")
    fake.add(13, caught=_CATCHES_ALL)  # a dirty arbiter, a new master, a worker just forked
    fake.add(14, caught=0)  # a resource tracker
    fake.add(15, parent=1)  # its number was used again
    fake.add(16, start=5)
    fake.children(11, 12, 13, 14, 15, 16, 17)
    assert Proc(str(fake.root)).workers(MASTER) == (Worker(5, 16), Worker(11, 11))


def test_a_worker_that_the_list_leaves_out_is_still_there(fake):
    fake.add(11)
    fake.add(12)
    proc = Proc(str(fake.root))
    fake.children(11, 12)
    assert len(proc.workers(MASTER)) == 2
    fake.children(12)
    assert len(proc.workers(MASTER)) == 2


@pytest.mark.parametrize(("text", "message"), [(None, "CONFIG_PROC_CHILDREN"), ("1 x", "literal")])
def test_a_list_of_children_that_cannot_be_read_is_a_fault(fake, text, message):
    if text is not None:
        (fake.root / f"{MASTER}/task/{MASTER}/children").write_text(text)
    with pytest.raises(PlantFault, match=message):
        Proc(str(fake.root)).workers(MASTER)


def test_several_listening_sockets_of_the_pool_are_found(fake):
    fake.add(11)
    fake.add(12)
    proc = Proc(str(fake.root))
    pair = workers(11, 12)
    fake.listen(("0100007F:1F90", 7, 0))
    assert proc.own_queues(MASTER, pair) == ""
    fake.listen(("0100007F:1F90", 7, 0), ("0100007F:1F91", 8, 0))
    fake.holds(11, 7, 8)
    assert proc.own_queues(MASTER, pair) == ""
    fake.listen(("0100007F:1F90", 7, 0), ("0100007F:1F90", 8, 0))
    assert proc.own_queues(MASTER, pair) == "2 sockets listen at port 8080"
    fake.listen(("0100007F:1F92", 1, 0), ("0100007F:1F92", 2, 0))  # somebody else's
    assert proc.own_queues(MASTER, pair) == ""


def test_sockets_that_cannot_be_read_are_a_fault(fake):
    with pytest.raises(PlantFault, match="net/tcp"):
        Proc(str(fake.root)).own_queues(MASTER, ())


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "99999999999", "12 13", "\0"])
def test_a_pidfile_with_garbage_names_the_file(tmp_path, text):
    path = tmp_path / "web.pid"
    path.write_text(text)
    with pytest.raises(PlantFault, match=r"pidfile .*web\.pid: holds no process id"):
        read_pidfile(str(path))


async def test_a_pidfile_that_is_missing_or_of_a_dead_process_names_file_and_reason(tmp_path, fake):
    path = tmp_path / "web.pid"
    made = Gunicorn(Gunicorn.Options(pidfile=str(path)), "web", proc=str(fake.root))
    with pytest.raises(PlantFault, match=r"web\.pid: No such file"):
        await made.read()
    path.write_text("31\n")
    with pytest.raises(PlantFault, match=r"web\.pid: process 31 is not running"):
        await made.read()
    path.write_text(f"{MASTER}\n")
    fake.children()
    with pytest.raises(PlantFault, match=r"web\.pid.*100"):
        await made.read()
    path.unlink()
    path.mkdir()
    with pytest.raises(PlantFault, match=r"web\.pid: Is a directory"):
        await made.read()


async def test_a_process_that_is_no_gunicorn_is_not_signalled(tmp_path):
    """The default action of SIGTTIN stops a process; this one must go on."""
    process = await asyncio.create_subprocess_exec("sleep", "5")
    try:
        path = tmp_path / "web.pid"
        path.write_text(str(process.pid))
        made = Gunicorn(Gunicorn.Options(pidfile=str(path)), "web")
        outcome = await made.apply(setting(workers=2), 3)
        assert outcome.status is ActuationStatus.FAILED
        assert outcome.decision_tick == 3
        assert str(path) in outcome.detail
        start = Proc().start_of(process.pid)
        view = Watch(1.0).see(scene(1, 2, pid=process.pid, start=start), 0.0, moving=True)
        with pytest.raises(PlantFault, match="does not handle SIGTTIN: not a gunicorn master"):
            made._signal(view, 1)
        recycled = Watch(1.0).see(scene(1, pid=process.pid, start=start - 1), 0.0, moving=True)
        with pytest.raises(PlantFault, match="another one than before"):
            made._signal(recycled, 1)
        path.write_text("1")
        with pytest.raises(PlantFault, match="names another process"):
            made._signal(view, 1)
        assert Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "S"
    finally:
        process.kill()
        await process.wait()


def test_who_is_asked_must_be_named():
    with pytest.raises(PolicyError, match="pidfile or a control socket"):
        Gunicorn.Options()
    made = Gunicorn(Gunicorn.Options(pidfile="/p", control="unix:/c"), "web")
    assert made.endpoint == "gunicorn, pidfile /p and control socket /c"


async def test_close_may_be_called_twice():
    made = Gunicorn(Gunicorn.Options(pidfile="/p"), "web")
    await made.close()
    await made.close()


# The wire


class Peer:
    """A control socket that answers each connection with the next of `answers` (None: hangs up)."""

    def __init__(self, path, *answers):
        self.path = str(path)
        self.answers = list(answers)
        self.asked = []

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return Control(self.path)

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        size = struct.unpack(">I", await reader.readexactly(4))[0]
        self.asked.append(json.loads(await reader.readexactly(size)))
        answer = self.answers.pop(0)
        if answer is Ellipsis:
            await reader.read()
        elif answer is not None:
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            writer.write(struct.pack(">I", len(body)) + body)
        writer.close()
        await writer.wait_closed()


def ok(**data):
    return {"id": 1, "status": "ok", "data": data}


_STATS = ok(pid=5, workers_target=3, reloads=1, dirty_arbiter_pid=None, workers_current=9)


async def test_stats_are_asked_again_after_a_hang_up_and_after_silence(tmp_path):
    peer = Peer(tmp_path / "g.ctl", None, ..., _STATS)
    async with peer as control:
        stats = await control.stats(1.0)
    assert (stats.pid, stats.peer, stats.target, stats.reloads) == (5, os.getpid(), 3, 1)
    assert [asked["command"] for asked in peer.asked] == ["show stats"] * 3


async def test_a_socket_that_comes_later_is_waited_for(tmp_path):
    control = Control(str(tmp_path / "g.ctl"))
    asking = asyncio.create_task(control.stats(2.0))
    await asyncio.sleep(0)
    async with Peer(tmp_path / "g.ctl", _STATS):
        assert (await asking).target == 3


@pytest.mark.parametrize("answer", [None, ...], ids=["hangs up", "silent"])
async def test_a_change_is_never_sent_twice_by_itself(tmp_path, answer):
    peer = Peer(tmp_path / "g.ctl", answer, ok(previous=3, total=4))
    async with peer as control:
        with pytest.raises(ControlSilent, match=r"g\.ctl.*worker add.*not answered"):
            await control.change(1, 0.3)
        assert len(peer.asked) == 1
        assert await control.change(1, 0.3) == 3
    assert peer.asked[1] == {"id": 1, "command": "worker add", "args": [1]}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "no data"),
        ({"status": "ok"}, "no data"),
        ({"status": "error", "error": "Unknown command"}, "Unknown command"),
        (ok(pid=1, reloads=0), "workers_target is None"),
        (ok(pid=1, reloads=0, workers_target=True), "workers_target is True"),
        (ok(pid=1, reloads=0, workers_target=-1), "workers_target is -1"),
        (ok(pid=float("inf"), reloads=0, workers_target=1), "pid is inf"),
    ],
)
async def test_what_is_not_gunicorns_answer_is_a_fault_naming_the_socket(tmp_path, answer, message):
    async with Peer(tmp_path / "g.ctl", answer) as control:
        with pytest.raises(PlantFault, match=rf"g\.ctl: .*{message}"):
            await control.stats(1.0)


async def test_no_socket_is_a_fault_after_the_patience(tmp_path):
    began = time.monotonic()
    with pytest.raises(PlantFault, match=r"g\.ctl: No such file.*within 0.1 s"):
        await Control(str(tmp_path / "g.ctl")).stats(0.1)
    assert time.monotonic() - began < 1.0
