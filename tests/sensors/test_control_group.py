"""Control groups: version 2 on fake trees, version 1 really throttled and really out of memory."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poolwright.core.model import Status
from poolwright.core.signals import SIGNALS
from poolwright.sensors.control_group import ControlGroup

SECOND = 1_000_000_000
MIB = 1 << 20
PRESSURES = ("cpu", "memory", "io")


def make(root, path="/web"):
    return ControlGroup(ControlGroup.Options(path=path), "web", root=Path(root))


async def read(sensor, second):
    return {r.signal: r for r in await sensor.read(round(second * SECOND))}


class Group:
    """One group of a fake version 2 tree."""

    def __init__(self, root, name="web"):
        self.mount = root / "sys/fs/cgroup"
        self.path = self.mount / name
        self.path.mkdir(parents=True)
        (self.mount / "cgroup.controllers").write_text("cpu memory\n")
        self.write(usage=0)

    def write(self, usage=0, periods=0, held=0, quota="50000 100000", kills=0, stall=0):
        files = {
            "cpu.max": quota,
            "cpu.stat": f"usage_usec {usage}\nnr_periods {periods}\nnr_throttled {held}\n",
            "memory.current": 80 * MIB,
            "memory.stat": f"anon 5\ninactive_file {30 * MIB}\n",
            "memory.max": 100 * MIB,
            "memory.events": f"low 0\noom 9\noom_kill {kills}\n",
            **{f"{r}.pressure": f"some avg10=0.00 total={stall}\nfull total=7" for r in PRESSURES},
        }
        for file, text in files.items():
            (self.path / file).write_text(f"{text}\n")


@pytest.fixture
def group(tmp_path):
    return Group(tmp_path)


async def test_all_of_it_over_two_looks(tmp_path, group):
    sensor = make(tmp_path)
    assert sensor.source == "cgroup /web"
    first = await read(sensor, 0)
    assert set(first) == set(sensor.signals) <= set(SIGNALS)
    now = {name for name, r in first.items() if r.status is Status.OK}
    assert now == {"memory_bytes", "host_memory_used_bytes", "memory_limit_bytes"}
    group.write(usage=1_500_000, periods=20, held=5, kills=2, stall=400_000)
    seen = {name: r.value for name, r in (await read(sensor, 2)).items()}
    assert seen == {
        "cpu_cores": 0.75,
        "throttled_ratio": 0.25,
        "memory_bytes": 50 * MIB,
        "host_memory_used_bytes": 50 * MIB,
        "memory_limit_bytes": 100 * MIB,
        "oom_kills": 2,
        "psi_cpu_ratio": pytest.approx(0.2),
        "psi_memory_ratio": pytest.approx(0.2),
        "psi_io_ratio": pytest.approx(0.2),
    }
    idle = await read(sensor, 3)
    assert (idle["cpu_cores"].value, idle["throttled_ratio"].value) == (0.0, 0.0)
    assert idle["oom_kills"].value == 0.0


async def test_the_worst_quota_on_the_way_to_the_root_is_told(tmp_path):
    outer, inner = Group(tmp_path, "a"), Group(tmp_path, "a/web")
    sensor = make(tmp_path, "/a/web")
    await read(sensor, 0)
    outer.write(periods=10, held=9)
    inner.write(periods=10, held=1)
    seen = (await read(sensor, 1))["throttled_ratio"]
    assert (seen.value, seen.detail) == (0.9, "quota of control group /a")


async def test_no_limit_is_no_data_and_not_zero(tmp_path, group):
    group.write(quota="max 100000")
    (group.path / "memory.max").write_text("max\n")
    for resource in PRESSURES:
        (group.path / f"{resource}.pressure").unlink()
    sensor = make(tmp_path)
    await read(sensor, 0)
    seen = await read(sensor, 1)
    for name in ("throttled_ratio", "memory_limit_bytes", "host_memory_used_bytes"):
        assert (seen[name].status, seen[name].value) == (Status.NO_DATA, None)
    for resource in PRESSURES:
        reading = seen[f"psi_{resource}_ratio"]
        assert (reading.status, "no " in reading.detail) == (Status.NO_DATA, True)
    assert seen["memory_bytes"].value == 50 * MIB


async def test_a_group_made_anew_is_no_negative_number(tmp_path, group):
    group.write(usage=9_000_000, periods=100, held=50, kills=7, stall=900_000)
    sensor = make(tmp_path)
    await read(sensor, 0)
    group.write(usage=1_000, periods=2, held=1, kills=1, stall=5)
    seen = await read(sensor, 1)
    for name in ("cpu_cores", "throttled_ratio", "psi_cpu_ratio"):
        assert seen[name].status is Status.NO_DATA, name
    assert seen["oom_kills"].value == 1.0  # of the new group
    group.write(usage=501_000, periods=4, held=3, kills=1, stall=1_000_005)
    seen = await read(sensor, 2)
    assert seen["cpu_cores"].value == 0.5
    assert seen["throttled_ratio"].value == 1.0
    assert (seen["oom_kills"].value, seen["psi_cpu_ratio"].value) == (0.0, 1.0)


async def test_a_group_that_is_not_there_is_an_error_of_each_signal_and_heals(tmp_path, group):
    sensor = make(tmp_path, "/nowhere")
    seen = await read(sensor, 0)
    pressures = {f"psi_{resource}_ratio" for resource in PRESSURES}
    for name in set(sensor.signals) - pressures:
        assert seen[name].status is Status.ERROR, name
        assert "/nowhere" in seen[name].detail
    assert all(seen[name].value is None for name in pressures)
    Group(tmp_path, "nowhere")
    assert (await read(sensor, 1))["cpu_cores"].status is Status.NO_DATA
    assert (await read(sensor, 2))["cpu_cores"].value == 0.0


@pytest.mark.parametrize(
    ("file", "signal"),
    [
        ("cpu.stat", "cpu_cores"),
        ("cpu.stat", "throttled_ratio"),
        ("cpu.max", "throttled_ratio"),
        ("memory.current", "memory_bytes"),
        ("memory.stat", "memory_bytes"),
        ("memory.max", "memory_limit_bytes"),
        ("memory.events", "oom_kills"),
        ("io.pressure", "psi_io_ratio"),
    ],
)
@pytest.mark.parametrize("text", ["", "x", "usage_usec -\n", "\xff" * 90, "9" * 400])
async def test_a_broken_file_is_an_error_of_its_signals_only(tmp_path, group, file, signal, text):
    sensor = make(tmp_path)
    await read(sensor, 0)
    (group.path / file).write_text(text)
    seen = await read(sensor, 1)
    assert seen[signal].status is Status.ERROR
    assert file in seen[signal].detail
    assert sum(r.status is Status.OK for r in seen.values()) >= 5


async def test_version_1_adds_up_the_kills_of_all_below(tmp_path):
    top = tmp_path / "sys/fs/cgroup/memory/web"
    for name, kills in (("", 1), ("a", 2), ("b", 3)):
        (top / name).mkdir(parents=True, exist_ok=True)
        (top / name / "memory.oom_control").write_text(f"under_oom 0\noom_kill {kills}\n")
    sensor = make(tmp_path)
    assert (await read(sensor, 0))["oom_kills"].status is Status.NO_DATA
    (top / "a/memory.oom_control").write_text("oom_kill 4\n")
    (top / "b/memory.oom_control").unlink()
    (top / "b").rmdir()
    (top / "c").mkdir()
    (top / "c/memory.oom_control").write_text("oom_kill 1\n")
    assert (await read(sensor, 1))["oom_kills"].value == 3.0


# On this machine


_LIBC = ctypes.CDLL(None)


class OwnGroup:
    """A control group below ours in the hierarchies that are there, removed at the end."""

    def __init__(self):
        mount = Path("/sys/fs/cgroup")
        own = Path("/proc/self/cgroup").read_text().splitlines()
        mine = {controllers: path for _, controllers, path in (line.split(":", 2) for line in own)}
        name = f"poolwright-{os.getpid()}"
        if (mount / "cgroup.controllers").exists():  # version 2: only the root lets us
            self.name, bases = f"/{name}", [mount]
        else:  # one path in all hierarchies, and of memory we may not have the root
            self.name = f"{mine['memory'].rstrip('/')}/{name}"
            bases = [mount / one for one in ("cpu", "cpuacct", "memory", "unified")]
        self.folders = {base.name: base / self.name[1:] for base in bases if base.is_dir()}
        self._made = []
        for folder in self.folders.values():
            for one in (*reversed(folder.parents), folder):
                if not one.is_dir():
                    one.mkdir()
                    self._made.append(one)
        self._processes = []

    def limit(self, controller, old, old_text, new, new_text):
        """Write to the file of version 1 or of version 2."""
        if controller in self.folders:
            (self.folders[controller] / old).write_text(old_text)
        else:
            (self.folders["cgroup"] / new).write_text(new_text)

    def run(self, program):
        """A process in the group; ended with us."""

        def enter():
            _LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)
            for folder in self.folders.values():
                (folder / "cgroup.procs").write_text(str(os.getpid()))

        command = [sys.executable, "-S", "-c", program]
        process = subprocess.Popen(
            command,
            stderr=subprocess.DEVNULL,
            preexec_fn=enter,  # noqa: PLW1509  it must be in the group before it begins
        )
        self._processes.append(process)
        return process

    def close(self):
        for process in self._processes:
            process.kill()
            process.wait()
        for folder in reversed(self._made):
            deadline = time.monotonic() + 5
            while True:
                try:
                    folder.rmdir()
                    break
                except OSError:
                    assert time.monotonic() < deadline, folder
                    time.sleep(0.02)


@pytest.fixture
def own_group():
    made = OwnGroup()
    yield made
    made.close()


@pytest.mark.e2e
@pytest.mark.root
async def test_a_quota_really_holds_back_and_the_tasks_really_wait(own_group):
    own_group.limit("cpu", "cpu.cfs_quota_us", "20000", "cpu.max", "20000 100000")
    sensor = make("/", own_group.name)
    own_group.run("while True: pass")
    await read(sensor, time.monotonic())
    for _ in range(10):  # a busy machine may take its time to give it what it may have
        await asyncio.sleep(1.2)
        seen = await read(sensor, time.monotonic())
        if seen["throttled_ratio"].value > 0.8:
            break
    assert seen["cpu_cores"].value == pytest.approx(0.2, abs=0.08)
    assert seen["throttled_ratio"].value > 0.8
    assert own_group.name in seen["throttled_ratio"].detail
    assert seen["psi_cpu_ratio"].value > 0.3  # of the version 2 group beside it
    assert seen["memory_bytes"].value > 0
    assert seen["oom_kills"].value == 0.0


@pytest.mark.e2e
@pytest.mark.root
async def test_a_real_kill_for_memory_is_counted_once(own_group):
    limit = str(50 * MIB)
    own_group.limit("memory", "memory.limit_in_bytes", limit, "memory.max", limit)
    sensor = make("/", own_group.name)
    await read(sensor, 0)
    hungry = own_group.run("kept = [b'x' * (1 << 20) for _ in range(200)]")
    assert hungry.wait(20) == -signal.SIGKILL
    seen = await read(sensor, 1)
    assert seen["oom_kills"].value == 1.0
    assert seen["memory_limit_bytes"].value == 50 * MIB
    assert own_group.name in seen["memory_limit_bytes"].detail
    assert (await read(sensor, 2))["oom_kills"].value == 0.0
