"""The host: captured text of /proc and control groups in a fake tree, then this machine."""

import os
from pathlib import Path

import psutil
import pytest

from poolwright.core.model import Status
from poolwright.core.signals import SIGNALS
from poolwright.sensors.cgroup import Cgroup
from poolwright.sensors.host import CpuTimes, Host, busy_share, usable_cpus

SECOND = 1_000_000_000
GIB = 1 << 30


def stat_line(user=0, idle=0, iowait=0, steal=0, guest=0):
    return f"cpu  {user} 0 0 {idle} {iowait} 0 0 {steal} {guest} 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"


def pressure(total):
    return (
        f"some avg10=0.00 avg60=0.03 avg300=0.18 total={total}\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=999\n"
    )


def write(path: Path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A whole host: 16 GiB, 4 of them available."""
    proc = tmp_path / "proc"
    write(proc / "stat", stat_line(user=1000, idle=1000))
    write(proc / "loadavg", "1.25 0.50 0.10 1/100 4242\n")
    write(
        proc / "meminfo",
        f"MemTotal: {16 * GIB // 1024} kB\nMemFree: {GIB // 1024} kB\n"
        f"MemAvailable: {4 * GIB // 1024} kB\nBuffers: 1 kB\nCached: 1 kB\nShmem: 1 kB\n"
        "Active: 1 kB\nInactive: 1 kB\nSlab: 1 kB\n",
    )
    for name in ("cpu", "memory", "io"):
        write(proc / "pressure" / name, pressure(1_000_000))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(proc))
    return tmp_path


def v2(tree: Path, name: str, **files: str):
    write(tree / "sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
    folder = tree / "sys/fs/cgroup" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file.replace("_", ".", 1)).write_text(text + "\n")


async def values(sensor, now_s):
    return {r.signal: r for r in await sensor.read(round(now_s * SECOND))}


async def test_a_whole_host(tree):
    sensor = Host(Host.Options(), "web", root=tree)
    first = await values(sensor, 1)
    assert set(first) == set(Host.signals) <= set(SIGNALS)
    assert first["host_cpu_cores"].status is Status.NO_DATA
    assert all(first[f"psi_{r}_ratio"].status is Status.NO_DATA for r in ("cpu", "memory", "io"))
    assert first["memory_limit_bytes"].value == 16 * GIB
    assert first["host_memory_used_bytes"].value == 12 * GIB
    assert first["load_average"].value == 1.25
    write(tree / "proc/stat", stat_line(user=1020, idle=1050, iowait=10, steal=20, guest=20))
    write(tree / "proc/pressure/cpu", pressure(1_500_000))
    second = await values(sensor, 3)
    count = usable_cpus()[0]
    # busy: 20 user (guest is part of it) + 20 steal, of 100
    assert second["host_cpu_cores"].value == pytest.approx(0.4 * count)
    assert second["host_cpu_count"].value == count
    assert second["psi_cpu_ratio"].value == pytest.approx(0.25)
    assert second["psi_io_ratio"].value == 0.0


def test_busy_share_with_and_without_steal_and_going_back():
    a = CpuTimes(10.0, 10.0, 1.0)
    assert busy_share(a, CpuTimes(13.0, 17.0, 2.0), stolen=True) == pytest.approx(0.3)
    assert busy_share(a, CpuTimes(13.0, 17.0, 2.0), stolen=False) == pytest.approx(0.2)
    assert busy_share(a, a, stolen=True) is None
    assert busy_share(a, CpuTimes(9.0, 20.0, 1.0), stolen=True) is None
    assert busy_share(a, CpuTimes(12.0, 9.9, 1.0), stolen=True) == 1.0  # iowait went back a little


async def test_a_quota_bounds_cpu_and_use_is_of_the_same_group(tree):
    if usable_cpus()[0] < 2:
        pytest.skip("a quota of 1.5 bounds nothing here")
    v2(tree, "slice", cpu_max="150000 100000", cpu_stat="usage_usec 1000000")
    v2(tree, "slice/web", cpu_max="max 100000", cpu_stat="usage_usec 400000")
    sensor = Host(Host.Options(cgroup="/slice/web"), "web", root=tree)
    first = await values(sensor, 0)
    assert first["host_cpu_count"].value == 1.5
    assert first["host_cpu_cores"].status is Status.NO_DATA
    v2(tree, "slice", cpu_stat="usage_usec 2500000")
    second = await values(sensor, 2)
    assert second["host_cpu_cores"].value == pytest.approx(0.75)
    assert "/slice" in second["host_cpu_count"].detail


async def test_the_smallest_quota_on_the_way_up(tree):
    v2(tree, "slice", cpu_max="30000 100000", cpu_stat="usage_usec 1000000")
    v2(tree, "slice/web", cpu_max="50000 100000", cpu_stat="usage_usec 400000")
    assert Cgroup(tree, "/slice/web").cpu_quota().cores == 0.3
    v2(tree, "slice/web", cpu_max="20000 100000")
    quota = Cgroup(tree, "/slice/web").cpu_quota()
    assert (quota.cores, quota.group, quota.usage_s) == (0.2, "/slice/web", 0.4)


async def test_a_quota_wider_than_the_cpus_bounds_nothing(tree):
    v2(tree, "web", cpu_max="900000000 100000", cpu_stat="usage_usec 1")
    sensor = Host(Host.Options(cgroup="/web"), "web", root=tree)
    assert (await values(sensor, 0))["host_cpu_count"].value == usable_cpus()[0]


async def test_the_smallest_memory_limit_on_the_way_up(tree):
    v2(tree, "slice", memory_max=str(2 * GIB), memory_current=str(GIB))
    v2(tree, "slice", memory_stat=f"anon 5\ninactive_file {GIB // 4}")
    v2(tree, "slice/web", memory_max=str(3 * GIB), memory_current="5", memory_stat="anon 5")
    found = await values(Host(Host.Options(cgroup="/slice/web"), "web", root=tree), 0)
    assert found["memory_limit_bytes"].value == 2 * GIB
    assert found["host_memory_used_bytes"].value == GIB - GIB // 4
    assert "/slice" in found["memory_limit_bytes"].detail


async def test_a_container_is_bounded_by_its_own_root_group(tree):
    v2(tree, "", memory_max=str(GIB), memory_current="1000", memory_stat="inactive_file 400")
    found = await values(Host(Host.Options(), "web", root=tree), 0)
    assert found["memory_limit_bytes"].value == GIB
    assert found["host_memory_used_bytes"].value == 600


async def test_version_1_limits_and_unlimited(tree):
    for folder, limit in (("", 2**63 - 4096), ("web", GIB)):
        base = tree / "sys/fs/cgroup/memory" / folder
        write(base / "memory.limit_in_bytes", f"{limit}\n")
        write(base / "memory.usage_in_bytes", "5000\n")
        write(base / "memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n")
    cpu = tree / "sys/fs/cgroup/cpu/web"
    write(cpu / "cpu.cfs_quota_us", "50000\n")
    write(cpu / "cpu.cfs_period_us", "100000\n")
    write(tree / "sys/fs/cgroup/cpuacct/web/cpuacct.usage", "1000000000\n")
    sensor = Host(Host.Options(cgroup="/web"), "web", root=tree)
    found = await values(sensor, 0)
    assert found["memory_limit_bytes"].value == GIB
    assert found["host_memory_used_bytes"].value == 3000
    assert found["host_cpu_count"].value == 0.5
    write(tree / "sys/fs/cgroup/cpuacct/web/cpuacct.usage", "1250000000\n")
    assert (await values(sensor, 1))["host_cpu_cores"].value == pytest.approx(0.25)
    write(cpu / "cpu.cfs_quota_us", "-1\n")
    assert Cgroup(tree, "/web").cpu_quota() is None
    rootwide = await values(Host(Host.Options(), "web", root=tree), 0)
    assert rootwide["memory_limit_bytes"].value == 16 * GIB


async def test_a_named_group_that_is_not_there_is_an_error(tree):
    sensor = Host(Host.Options(cgroup="/gone.service"), "web", root=tree)
    found = await values(sensor, 0)
    for signal in Host.signals[:4]:
        assert found[signal].status is Status.ERROR
        assert "/gone.service" in found[signal].detail
    assert found["load_average"].status is Status.OK


GARBAGE = ["", "\n", "x", "max", "cpu", "cpu a b c d", "-1", "nan", "9" * 400, "\xff\0"]


@pytest.mark.parametrize("text", GARBAGE)
async def test_garbage_is_never_a_number(tree, text):
    sensor = Host(Host.Options(), "web", root=tree)
    await sensor.read(0)
    files = ("stat", "loadavg", "meminfo", "pressure/cpu", "pressure/io", "pressure/memory")
    for file in files:
        write(tree / "proc" / file, text)
    found = await values(sensor, 1)
    assert all(r.status is Status.ERROR for s, r in found.items() if s != "host_cpu_count")


@pytest.mark.parametrize("text", ["", "x", "max", "-5 100000", "0 100000", "1 0", "1", "9" * 400])
async def test_garbage_in_a_group_is_an_error(tree, text):
    v2(tree, "web", cpu_max=text, memory_max=text.split(" ")[0] or "?", cpu_stat="usage_usec 1")
    found = await values(Host(Host.Options(cgroup="/web"), "web", root=tree), 0)
    assert found["host_cpu_count"].status is Status.ERROR
    assert "cpu.max" in found["host_cpu_count"].detail


async def test_a_limit_whose_use_cannot_be_seen_is_an_error(tree):
    v2(tree, "web", memory_max="1000")
    found = await values(Host(Host.Options(cgroup="/web"), "web", root=tree), 0)
    assert found["memory_limit_bytes"].status is Status.ERROR
    assert "memory.current" in found["memory_limit_bytes"].detail


async def test_missing_files_are_errors_and_missing_pressure_is_no_data(tree):
    for file in ("stat", "loadavg", "meminfo", "pressure/cpu", "pressure/io", "pressure/memory"):
        (tree / "proc" / file).unlink()
    found = await values(Host(Host.Options(), "web", root=tree), 0)
    for signal in ("host_cpu_cores", "host_memory_used_bytes", "load_average"):
        assert found[signal].status is Status.ERROR
    for resource in ("cpu", "memory", "io"):
        reading = found[f"psi_{resource}_ratio"]
        assert reading.status is Status.NO_DATA
        assert "PSI" in reading.detail


@pytest.mark.parametrize("total", ["", "x", "-1", "1.5", "9" * 400])
async def test_a_garbage_stall_counter_is_an_error(tree, total):
    sensor = Host(Host.Options(), "web", root=tree)
    await sensor.read(0)
    write(tree / "proc/pressure/cpu", pressure(total))
    assert (await values(sensor, 1))["psi_cpu_ratio"].status is Status.ERROR


async def test_a_stall_counter_that_went_back_is_no_data(tree):
    sensor = Host(Host.Options(), "web", root=tree)
    await sensor.read(0)
    write(tree / "proc/pressure/cpu", pressure(5))
    assert (await values(sensor, 1))["psi_cpu_ratio"].status is Status.NO_DATA


async def test_this_machine():
    sensor = Host(Host.Options(), "web")
    await sensor.start()
    await sensor.read(0)
    before = os.times()
    while os.times().elapsed - before.elapsed < 0.1:
        pass  # burn: the host is busy by at least one core
    found = await values(sensor, os.times().elapsed - before.elapsed)
    memory = psutil.virtual_memory()
    assert found["host_cpu_cores"].value > 0.5
    assert found["memory_limit_bytes"].value <= memory.total
    assert found["host_memory_used_bytes"].value > 10 << 20
    assert found["host_cpu_count"].value <= (os.cpu_count() or 1)
    await sensor.close()
    await sensor.close()
