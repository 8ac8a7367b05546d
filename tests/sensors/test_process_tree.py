"""Process trees: fake rows of /proc for arithmetic, real children for the rest."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Status
from poolwright.sensors.cgroup import Cgroup
from poolwright.sensors.process_tree import (
    CpuMeter,
    Process,
    ProcessTree,
    read_pidfile,
    read_tree,
)

SECOND = 1_000_000_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def row(pid, ppid=1, *, start=100, own=0, reaped=0, rss=10, threads=1, state=b"S"):
    return Process(pid, ppid, state, start, own, reaped, threads, rss)


def rows(*processes):
    return {p.pid: p for p in processes}


def write_process(root: Path, p: Process, children=(), *, pss_kb=None, name="a b) (c"):
    folder = root / "proc" / str(p.pid)
    (folder / "task" / str(p.pid)).mkdir(parents=True, exist_ok=True)
    fields = [p.state.decode(), p.ppid] + [0] * 9 + [p.own, 0, p.reaped, 0, 20, 0, p.threads, 0]
    fields += [p.start, 1000, p.rss] + [0] * 28
    (folder / "stat").write_text(f"{p.pid} ({name}) " + " ".join(map(str, fields)) + "\n")
    listed = " ".join(map(str, children))
    (folder / "task" / str(p.pid) / "children").write_text(listed)
    if pss_kb is not None:
        (folder / "smaps_rollup").write_text(f"0-1 ---p 0 0 0 [rollup]\nPss:  {pss_kb} kB\n")


def remove(path: Path):
    for folder, _, files in os.walk(path, topdown=False):
        for file in files:
            Path(folder, file).unlink()
        Path(folder).rmdir()


def fake(tmp_path, **options):
    pidfile = tmp_path / "web.pid"
    pidfile.write_text("10\n")
    return ProcessTree(
        ProcessTree.Options(pidfile=str(pidfile), **options), "web", root=tmp_path
    ), pidfile


async def values(sensor, now_s):
    return {r.signal: r for r in await sensor.read(round(now_s * SECOND))}


# --- CPU arithmetic -------------------------------------------------------------------------------


def test_the_whole_life_of_a_reaped_worker_is_counted_once():
    meter = CpuMeter()
    meter.advance(rows(row(10, own=5), row(11, 10, own=300)))
    # 11 used 40 more, died and was reaped: all 340 are now in the master's second number.
    assert meter.advance(rows(row(10, own=7, reaped=340))) == 2 + 40
    assert meter.advance(rows(row(10, own=7, reaped=340))) == 0


def test_a_worker_reaped_between_two_reads_of_one_look_is_not_counted_twice():
    meter = CpuMeter()
    meter.advance(rows(row(10), row(11, 10, own=300)))
    assert meter.advance(rows(row(10))) == 0  # not in the list any more, not reaped when we looked
    assert meter.advance(rows(row(10, reaped=340))) == 40


def test_a_worker_never_seen_counts_by_what_its_parent_reaped():
    meter = CpuMeter()
    meter.advance(rows(row(10)))
    assert meter.advance(rows(row(10, reaped=25))) == 25


def test_a_recycled_pid_is_another_process():
    meter = CpuMeter()
    meter.advance(rows(row(10), row(11, 10, start=100, own=300)))
    # 11 died after 10 more ticks, and another 11 was born and used 4.
    assert meter.advance(rows(row(10, reaped=310), row(11, 10, start=900, own=4))) == 14


def test_a_parent_that_ignores_sigchld_never_yields_negative_or_late_cpu():
    meter = CpuMeter()
    meter.advance(rows(row(10, own=1), row(11, 10, own=300)))
    assert meter.advance(rows(row(10, own=2))) == 1
    assert meter.advance(rows(row(10, own=3))) == 1
    assert meter.advance(rows(row(10, own=3, reaped=50))) == 50  # the debt is not kept for ever


def test_a_grandchild_is_inherited_over_a_dead_parent():
    meter = CpuMeter()
    meter.advance(rows(row(10), row(11, 10, own=30), row(12, 11, own=200)))
    assert meter.advance(rows(row(10, reaped=30 + 200 + 6))) == 6


def test_rows_in_a_ring_do_not_hang():
    meter = CpuMeter()
    meter.advance(rows(row(10), row(11, 12, own=3), row(12, 11, own=4)))
    assert meter.advance(rows(row(10, own=1))) == 1


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7), st.integers(1, 50)), max_size=60))
def test_no_tick_of_a_random_tree_is_lost_or_doubled(steps):
    """A model of fork, work, exit and wait; looks at any moment, each atomic."""
    own, reaped, parent, used, counted = {1: 0}, {1: 0}, {1: 0}, 0, 0
    meter, next_pid = CpuMeter(), 2

    def look():
        order = sorted(own)  # pids grow, so parents come first
        return rows(*(row(p, parent[p], own=own[p], reaped=reaped[p]) for p in order))

    counted -= meter.advance(look())
    for kind, pick, amount in steps:
        pid = sorted(own)[pick % len(own)]
        if kind in {0, 1}:
            own[pid] += amount
            used += amount
        elif kind == 2:
            own[next_pid], reaped[next_pid], parent[next_pid] = 0, 0, pid
            next_pid += 1
        elif kind == 3 and pid != 1 and pid not in parent.values():
            heir = parent.pop(pid)
            reaped[heir] += own.pop(pid) + reaped.pop(pid)
        else:
            counted += meter.advance(look())
    counted += meter.advance(look())
    assert counted == used


# --- fake /proc -----------------------------------------------------------------------------------


async def test_cpu_memory_and_workers_of_a_fake_tree(tmp_path):
    sensor, _ = fake(tmp_path)
    write_process(tmp_path, row(10, rss=100), (11, 12), pss_kb=200)
    write_process(tmp_path, row(11, 10, rss=50), (13,), pss_kb=100)
    write_process(tmp_path, row(12, 10, rss=50, state=b"Z"), pss_kb=0)
    write_process(tmp_path, row(13, 11, rss=50), pss_kb=100)
    first = await values(sensor, 1)
    assert first["cpu_cores"].status is Status.NO_DATA
    assert first["memory_bytes"].value == pytest.approx(400 * 1024)
    assert first["worker_count"].value == 1.0  # a zombie does not work, a grandchild is no worker
    write_process(tmp_path, row(11, 10, own=150, rss=50), (13,), pss_kb=100)
    write_process(tmp_path, row(13, 11, own=50, rss=50), pss_kb=100)
    second = await values(sensor, 3)
    ticks = os.sysconf("SC_CLK_TCK")
    assert second["cpu_cores"].value == pytest.approx(200 / ticks / 2.0)


async def test_pss_is_read_rarely_and_carried_on_by_rss(tmp_path):
    sensor, _ = fake(tmp_path, pss_every=10.0)
    write_process(tmp_path, row(10, rss=100), pss_kb=100 * PAGE // 1024 // 4)
    assert (await values(sensor, 0))["memory_bytes"].value == pytest.approx(25 * PAGE)
    write_process(tmp_path, row(10, rss=200), pss_kb=1)
    assert (await values(sensor, 9))["memory_bytes"].value == pytest.approx(50 * PAGE)
    assert (await values(sensor, 10))["memory_bytes"].value == pytest.approx(1024)


async def test_pss_is_read_again_when_the_number_of_processes_changed(tmp_path):
    sensor, _ = fake(tmp_path, pss_every=10.0)
    write_process(tmp_path, row(10, rss=100), pss_kb=100)
    await values(sensor, 0)
    write_process(tmp_path, row(10, rss=100), (11,), pss_kb=60)
    write_process(tmp_path, row(11, 10, rss=100), pss_kb=60)
    assert (await values(sensor, 2))["memory_bytes"].value == pytest.approx(120 * 1024)


async def test_without_pss_it_is_rss_and_says_so(tmp_path):
    sensor, _ = fake(tmp_path, pss_every=10.0)
    write_process(tmp_path, row(10, rss=100), (11,))
    write_process(tmp_path, row(11, 10, rss=100))
    reading = (await values(sensor, 0))["memory_bytes"]
    assert reading.value == 200 * PAGE
    assert reading.detail.startswith("RSS")
    write_process(tmp_path, row(11, 10, rss=100), pss_kb=4)
    reading = (await values(sensor, 20))["memory_bytes"]
    assert reading.value == pytest.approx(100 * PAGE + 4096)
    assert "1 of 2" in reading.detail


async def test_processes_without_memory_are_no_data(tmp_path):
    sensor, _ = fake(tmp_path)
    write_process(tmp_path, row(10, rss=0))
    assert (await values(sensor, 0))["memory_bytes"].status is Status.NO_DATA


async def test_a_child_that_the_kernel_skipped_is_still_there(tmp_path):
    sensor, _ = fake(tmp_path)
    write_process(tmp_path, row(10), (11,))
    write_process(tmp_path, row(11, 10, own=500))
    await values(sensor, 0)
    write_process(tmp_path, row(10))  # its list lacks 11
    reading = await values(sensor, 1)
    assert reading["worker_count"].value == 1.0
    assert reading["cpu_cores"].value == 0.0


async def test_a_child_that_left_the_tree_takes_its_cpu_along(tmp_path):
    sensor, _ = fake(tmp_path)
    write_process(tmp_path, row(10), (11,))
    write_process(tmp_path, row(11, 10, own=500))
    await values(sensor, 0)
    write_process(tmp_path, row(10, reaped=30))  # of one we never saw
    write_process(tmp_path, row(11, 1, own=900))
    reading = await values(sensor, 1)
    assert reading["worker_count"].value == 0.0
    assert reading["cpu_cores"].value == pytest.approx(30 / os.sysconf("SC_CLK_TCK"))


async def test_children_of_every_thread_are_seen(tmp_path):
    sensor, _ = fake(tmp_path)
    write_process(tmp_path, row(10, threads=2), (11,))
    (tmp_path / "proc/10/task/77").mkdir()
    (tmp_path / "proc/10/task/77/children").write_text("12 ")
    write_process(tmp_path, row(11, 10))
    write_process(tmp_path, row(12, 10))
    assert (await values(sensor, 0))["worker_count"].value == 2.0


@pytest.mark.parametrize("text", ["", "\n", "abc", "-5", "0", "12abc", "9" * 40, "\0\0", "1.5"])
async def test_a_garbage_pidfile_is_an_error_naming_it(tmp_path, text):
    sensor, pidfile = fake(tmp_path)
    pidfile.write_text(text)
    readings = await sensor.read(0)
    assert {r.signal for r in readings} == set(sensor.signals)
    assert all(r.status is Status.ERROR and str(pidfile) in r.detail for r in readings)


async def test_missing_pidfile_dead_master_and_recovery(tmp_path):
    sensor, pidfile = fake(tmp_path)
    write_process(tmp_path, row(10, own=100))
    assert (await values(sensor, 0))["worker_count"].value == 0.0
    pidfile.unlink()
    gone = (await values(sensor, 1))["cpu_cores"]
    assert (gone.status, "No such file" in gone.detail) == (Status.ERROR, True)
    pidfile.write_text("4242")
    dead = (await values(sensor, 2))["cpu_cores"]
    assert (dead.status, "4242 is not running" in dead.detail) == (Status.ERROR, True)
    write_process(tmp_path, row(20, own=70_000))
    pidfile.write_text("20")
    assert (await values(sensor, 3))["cpu_cores"].status is Status.NO_DATA  # its past is not ours
    write_process(tmp_path, row(20, own=70_050))
    cores = (await values(sensor, 4))["cpu_cores"].value
    assert cores == pytest.approx(50 / os.sysconf("SC_CLK_TCK"))


async def test_a_new_master_under_the_old_pid_begins_anew(tmp_path):
    sensor, _ = fake(tmp_path)
    write_process(tmp_path, row(10, own=100))
    await values(sensor, 0)
    write_process(tmp_path, row(10, start=999, own=100_000))
    assert (await values(sensor, 1))["cpu_cores"].status is Status.NO_DATA


@pytest.mark.parametrize("text", ["", "10", "10 (x) S", "10 (x) S a b c", "(((", "\xff\xfe"])
async def test_a_garbage_row_is_an_error(tmp_path, text):
    sensor, _ = fake(tmp_path)
    write_process(tmp_path, row(10))
    (tmp_path / "proc/10/stat").write_text(text)
    readings = await sensor.read(0)
    assert all(r.status is Status.ERROR and "stat" in r.detail for r in readings)


async def test_garbage_or_missing_children_are_not_no_workers(tmp_path):
    sensor, _ = fake(tmp_path)
    write_process(tmp_path, row(10))
    listed = tmp_path / "proc/10/task/10/children"
    listed.write_text("11 x")
    assert (await values(sensor, 0))["worker_count"].status is Status.ERROR
    listed.unlink()
    reading = (await values(sensor, 1))["worker_count"]
    assert reading.status is Status.ERROR
    assert "CONFIG_PROC_CHILDREN" in reading.detail


async def test_a_zombie_master_is_dead(tmp_path):
    sensor, _ = fake(tmp_path)
    write_process(tmp_path, row(10, state=b"Z"))
    assert (await values(sensor, 0))["worker_count"].status is Status.ERROR


def test_a_fifo_as_pidfile_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(PlantFault, match="fifo"):
        read_pidfile(str(tmp_path / "fifo"))


def test_exactly_one_of_pidfile_and_cgroup():
    for options in ({}, {"pidfile": "/a", "cgroup": "/b"}):
        with pytest.raises(PolicyError, match="either"):
            ProcessTree.Options(**options)


# --- control groups -------------------------------------------------------------------------------


def cgroup_v2(tmp_path, usage_us, pids):
    group = tmp_path / "sys/fs/cgroup/web.service"
    group.mkdir(parents=True, exist_ok=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu memory\n")
    (group / "cpu.stat").write_text(f"usage_usec {usage_us}\nuser_usec 1\n")
    (group / "cgroup.procs").write_text("".join(f"{p}\n" for p in pids))
    return group


async def test_a_control_group_version_2(tmp_path):
    group = cgroup_v2(tmp_path, 5_000_000, (10, 11))
    sensor = ProcessTree(ProcessTree.Options(cgroup="/web.service"), "web", root=tmp_path)
    (group / "below").mkdir()
    (group / "below/cgroup.procs").write_text("12\n")
    write_process(tmp_path, row(10, rss=10), pss_kb=8)
    write_process(tmp_path, row(11, 10, rss=10), pss_kb=8)
    write_process(tmp_path, row(12, 10, rss=10), pss_kb=8)
    first = await values(sensor, 0)
    assert first["cpu_cores"].status is Status.NO_DATA
    assert first["memory_bytes"].value == pytest.approx(24 * 1024)
    assert first["worker_count"].value == 2.0
    cgroup_v2(tmp_path, 6_000_000, (10, 11))
    assert (await values(sensor, 2))["cpu_cores"].value == pytest.approx(0.5)
    cgroup_v2(tmp_path, 1_000, (10, 11))
    assert (await values(sensor, 3))["cpu_cores"].status is Status.NO_DATA  # made anew


async def test_a_control_group_without_one_master_has_no_worker_count(tmp_path):
    cgroup_v2(tmp_path, 1, (10, 11))
    sensor = ProcessTree(ProcessTree.Options(cgroup="/web.service"), "web", root=tmp_path)
    write_process(tmp_path, row(10))
    write_process(tmp_path, row(11))
    assert (await values(sensor, 0))["worker_count"].status is Status.NO_DATA


async def test_a_missing_empty_or_garbage_control_group_is_an_error(tmp_path):
    group = cgroup_v2(tmp_path, 1, ())
    sensor = ProcessTree(ProcessTree.Options(cgroup="/web.service"), "web", root=tmp_path)
    remove(group)
    readings = await sensor.read(0)
    assert all(r.status is Status.ERROR and "/web.service" in r.detail for r in readings)
    cgroup_v2(tmp_path, 1, ())
    readings = await sensor.read(1)
    assert all(r.status is Status.ERROR and "no process" in r.detail for r in readings)
    (group / "cpu.stat").write_text("usage_usec x\n")
    assert all("cpu.stat" in r.detail for r in await sensor.read(2))
    (group / "cpu.stat").write_text("usage_usec 1\n")
    (group / "cgroup.procs").write_text("a\n")
    assert all("cgroup.procs" in r.detail for r in await sensor.read(3))


def test_a_control_group_may_be_named_by_its_path(tmp_path):
    (tmp_path / "sys/fs/cgroup/cpuacct/web").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpuacct/web/cpuacct.usage").write_text("2500000000\n")
    for path in ("/web", "web", "/sys/fs/cgroup/cpuacct/web", "/sys/fs/cgroup/web"):
        group = Cgroup(tmp_path, path)
        assert (group.name, group.cpu_usage_s()) == ("/web", 2.5)


# --- this machine ---------------------------------------------------------------------------------

SERVICE = """
import os, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
hold = bytearray(8 << 20)
kids = {}
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "fork":
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            burn(float(rest)); os.write(w, b"x"); os.read(0, 0); time.sleep(60); os._exit(0)
        os.read(r, 1); kids[pid] = 1
    elif word == "burn":
        burn(float(rest))
    elif word == "kill":
        pid, _ = kids.popitem(); os.kill(pid, 9); os.waitpid(pid, 0)
    print("done", flush=True)
for pid in kids:
    os.kill(pid, 9); os.waitpid(pid, 0)
"""


class Service:
    def __init__(self, folder):
        self.pidfile = folder / "service.pid"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pidfile.write_text(f"{self.process.pid}\n")

    def do(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path)
    yield service
    service.process.stdin.close()
    service.process.wait(10)
    service.process.stdout.close()


async def test_real_children_and_their_cpu_through_death(service):
    """0.3 s in a worker, then its death, then 0.2 s in the master: 0.5 s, not 0.8 and not 0.2."""
    sensor = ProcessTree(ProcessTree.Options(pidfile=str(service.pidfile)), "web")
    service.do("fork 0.05")
    assert (await values(sensor, 0))["worker_count"].value == 1.0
    service.do("fork 0.3")
    grown = await values(sensor, 1)
    assert grown["worker_count"].value == 2.0
    assert grown["cpu_cores"].value == pytest.approx(0.3, abs=0.08)
    service.do("kill")
    service.do("burn 0.2")
    shrunk = await values(sensor, 2)
    assert shrunk["worker_count"].value == 1.0
    assert shrunk["cpu_cores"].value == pytest.approx(0.2, abs=0.08)
    # The workers share the master's 8 MiB, so PSS of all is far below the sum of RSS.
    real = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children()]
    pss = sum(p.memory_full_info().pss for p in real)
    assert shrunk["memory_bytes"].value == pytest.approx(pss, rel=0.05)
    assert pss < 0.9 * sum(p.memory_info().rss for p in real)


async def test_a_killed_master_is_an_error_and_its_successor_is_found(service, tmp_path):
    sensor = ProcessTree(ProcessTree.Options(pidfile=str(service.pidfile)), "web")
    assert (await values(sensor, 0))["worker_count"].value == 0.0
    (tmp_path / "other").mkdir()
    other = Service(tmp_path / "other")
    try:
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait(10)
        assert all(r.status is Status.ERROR for r in await sensor.read(SECOND))
        service.pidfile.write_text(str(other.process.pid))
        other.do("fork 0")
        assert (await values(sensor, 2))["worker_count"].value == 1.0
    finally:
        other.process.stdin.close()
        other.process.wait(10)
        other.process.stdout.close()


def test_our_walk_agrees_with_psutil(service):
    service.do("fork 0")
    service.do("fork 0")
    pid = service.process.pid
    expected = {pid} | {p.pid for p in psutil.Process(pid).children(recursive=True)}
    assert set(read_tree("/proc", pid)) == expected


@pytest.mark.root
async def test_a_real_control_group(service):
    base = Path("/sys/fs/cgroup/cpuacct")
    if not (base / "cpuacct.usage").exists() or os.geteuid() != 0:
        pytest.skip("needs root and the cpuacct controller of cgroup version 1")
    group = base / f"poolwright-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"{group}: {error}")
    try:
        (group / "cgroup.procs").write_text(str(service.process.pid))
        sensor = ProcessTree(ProcessTree.Options(cgroup=f"/{group.name}"), "web")
        await values(sensor, 0)
        service.do("burn 0.2")
        assert (await values(sensor, 1))["cpu_cores"].value == pytest.approx(0.2, abs=0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            (base / "cgroup.procs").write_text(str(service.process.pid))
        deadline = time.monotonic() + 2
        while group.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                group.rmdir()
