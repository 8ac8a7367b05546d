"""RAPL arithmetic on fake powercap trees, and the model on fake and real CPU times."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Status
from poolwright.sensors.power import Power
from poolwright.sensors.power_curve import (
    IDLE_W_PER_CPU,
    PEAK_W_PER_CPU,
    PRIOR_STD_RATIO,
    curve_of,
)
from poolwright.sensors.rapl import Zone, discover, grown_uj, watts

SECOND = 1_000_000_000
RANGE = 262_143_328_850


def zone(root: Path, folder: str, name: str, energy=0, range_uj=RANGE):
    path = root / "sys/class/powercap" / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    return path


def server(root: Path, energy=1_000_000):
    """Two sockets with all that powercap shows of them."""
    (root / "sys/class/powercap/intel-rapl").mkdir(parents=True, exist_ok=True)
    for i in (0, 1):
        zone(root, f"intel-rapl:{i}", f"package-{i}", energy)
        zone(root, f"intel-rapl:{i}:0", "core", energy)
        zone(root, f"intel-rapl:{i}:1", "uncore", energy)
        zone(root, f"intel-rapl:{i}:2", "dram", energy)
    zone(root, "intel-rapl-mmio:0", "package-0", energy)


async def one(sensor, now_s):
    (reading,) = await sensor.read(round(now_s * SECOND))
    assert reading.signal == "power_w"
    return reading


def make(root, **options):
    return Power(Power.Options(**options), "web", root=root, cpus=4)


# --- zones ----------------------------------------------------------------------------------------


def test_packages_and_dram_are_added_and_nothing_twice(tmp_path):
    server(tmp_path)
    folders = [z.path.name for z in discover(tmp_path)]
    assert folders == ["intel-rapl:0", "intel-rapl:0:2", "intel-rapl:1", "intel-rapl:1:2"]


def test_psys_stands_alone(tmp_path):
    server(tmp_path)
    zone(tmp_path, "intel-rapl:2", "psys")
    assert [z.name for z in discover(tmp_path)] == ["psys"]


def test_dies_and_two_digit_packages(tmp_path):
    for i, name in enumerate(("package-0-die-0", "package-0-die-1", "package-15", "packages")):
        zone(tmp_path, f"intel-rapl:{i}", name)
    names = [z.name for z in discover(tmp_path)]
    assert names == ["package-0-die-0", "package-0-die-1", "package-15"]


def test_no_powercap_is_no_zone(tmp_path):
    assert discover(tmp_path) == ()


# --- counters -------------------------------------------------------------------------------------


@given(st.integers(0, RANGE), st.integers(0, RANGE - 1))
def test_growth_survives_one_wrap(last, grown):
    now = last + grown
    assert grown_uj(last, now - RANGE if now > RANGE else now, RANGE) == grown


def test_watts_of_wraps_resets_and_gaps():
    zones = tuple(Zone(name=n, path=Path("/"), range_uj=RANGE) for n in ("package-0", "dram"))
    assert watts(zones, (0, 0), (50_000_000, 10_000_000), 2.0, 100.0) == pytest.approx(30.0)
    wrapped = (RANGE - 20_000_000, 0), (30_000_000, 10_000_000)
    assert watts(zones, *wrapped, 2.0, 100.0) == pytest.approx(30.0)
    assert watts(zones, (RANGE // 2, 0), (5, 10), 1.0, 100.0) is None  # reset: 131 kW implied
    assert watts(zones, (0, 0), (400_000_000, 0), 1.0, 100.0) is None  # over 3 x peak
    assert watts(zones, (0, 0), (5, 5), RANGE / 1e6 / 100.0 + 1, 100.0) is None  # second wrap?
    assert watts(zones, (7, 7), (7, 7), 1.0, 100.0) is None  # stuck is not zero watts
    assert watts(zones, (0, 0), (1, 1), 0.0, 100.0) is None
    assert watts(zones, (0, 0), (RANGE + 5, 1), 1.0, 100.0) is None


async def test_rapl_from_first_look_to_wrap_and_reset(tmp_path):
    server(tmp_path)
    sensor = make(tmp_path, idle_w=20.0, peak_w=200.0)
    await sensor.start()
    assert sensor.source == "rapl"
    assert (await one(sensor, 0)).status is Status.NO_DATA
    server(tmp_path, 21_000_000)
    reading = await one(sensor, 1)
    assert reading.value == pytest.approx(80.0)  # 2 x (package + dram), 20 J each
    assert (reading.source, reading.estimated) == ("rapl", False)
    assert reading.std == pytest.approx(1.6)
    assert "whole host" in reading.detail
    server(tmp_path, 0)  # a driver was loaded anew
    assert (await one(sensor, 2)).status is Status.NO_DATA
    server(tmp_path, 10_000_000)
    assert (await one(sensor, 3)).value == pytest.approx(40.0)


async def test_an_unreadable_zone_is_an_error_not_a_smaller_sum(tmp_path):
    server(tmp_path)
    sensor = make(tmp_path)
    await sensor.start()
    await one(sensor, 0)
    energy = tmp_path / "sys/class/powercap/intel-rapl:0:2/energy_uj"
    for text in ("", "x", "-5", "1.5", "9" * 400):
        energy.write_text(text)
        reading = await one(sensor, 1)
        assert (reading.status, str(energy) in reading.detail) == (Status.ERROR, True)
    energy.unlink()
    assert (await one(sensor, 2)).status is Status.ERROR
    server(tmp_path)
    assert (await one(sensor, 3)).status is Status.NO_DATA  # a difference over the gap is none
    server(tmp_path, 2_000_000)
    assert (await one(sensor, 4)).value == pytest.approx(4.0)
    assert sensor.source == "rapl"  # never silently the model


@pytest.mark.parametrize("text", ["", "0", "x", "-1"])
def test_a_zone_without_a_range_is_a_fault(tmp_path, text):
    path = zone(tmp_path, "intel-rapl:0", "package-0")
    (path / "max_energy_range_uj").write_text(text)
    with pytest.raises(PlantFault, match="max_energy_range_uj"):
        discover(tmp_path)


async def test_without_rapl_auto_models_and_says_why(tmp_path):
    sensor = make(tmp_path)
    await sensor.start()
    reading = await one(sensor, 0)
    assert (sensor.source, reading.status) == ("model", Status.NO_DATA)
    assert "no RAPL" in reading.detail


async def test_rapl_asked_for_and_missing_is_an_error_that_heals(tmp_path):
    sensor = make(tmp_path, source="rapl")
    await sensor.start()
    reading = await one(sensor, 0)
    assert (reading.status, "powercap" in reading.detail) == (Status.ERROR, True)
    server(tmp_path)
    assert (await one(sensor, 1)).status is Status.NO_DATA
    server(tmp_path, 2_000_000)
    assert (await one(sensor, 2)).value == pytest.approx(4.0)


@pytest.fixture
def as_nobody():
    """A folder that others may enter, while this process is not root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    server(folder)
    for path in folder.rglob("energy_uj"):
        path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path in folder.rglob("energy_uj"):
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    shutil.rmtree(folder)


async def test_without_permission_it_models_and_says_how_to_allow_it(as_nobody):
    sensor = make(as_nobody)
    await sensor.start()
    reading = await one(sensor, 0)
    assert sensor.source == "model"
    assert "CAP_DAC_READ_SEARCH" in reading.detail
    forced = make(as_nobody, source="rapl")
    await forced.start()
    refused = await one(forced, 0)
    assert (refused.status, "CAP_DAC_READ_SEARCH" in refused.detail) == (Status.ERROR, True)


# --- the model ------------------------------------------------------------------------------------


@pytest.fixture
def proc(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))

    def write(busy, idle, steal=0):
        (tmp_path / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 {steal} 0 0\n")

    return write


STATED = {"idle_w": 50.0, "at_10_w": 90.0, "at_50_w": 130.0, "peak_w": 210.0}


@pytest.mark.parametrize(
    ("busy", "expected"), [(0, 50.0), (5, 70.0), (10, 90.0), (30, 110.0), (75, 170.0), (100, 210.0)]
)
async def test_four_stated_knots(tmp_path, proc, busy, expected):
    sensor = make(tmp_path, source="model", **STATED)
    await sensor.start()
    proc(1000, 1000)
    assert (await one(sensor, 0)).status is Status.NO_DATA
    proc(1000 + busy, 1000 + 100 - busy)
    reading = await one(sensor, 1)
    assert reading.value == pytest.approx(expected)
    assert reading.std == pytest.approx(0.03 * 210.0)
    assert (reading.source, reading.estimated) == ("model", True)
    assert "whole host" in reading.detail


async def test_the_prior_is_labelled_and_honest(tmp_path, proc):
    sensor = make(tmp_path, source="model")
    proc(0, 0)
    await one(sensor, 0)
    for busy, watts_each in ((0, IDLE_W_PER_CPU), (100, PEAK_W_PER_CPU)):
        proc(0, 0)
        await one(sensor, 1)
        proc(busy, 100 - busy)
        reading = await one(sensor, 2)
        assert reading.value == pytest.approx(4 * watts_each)
        assert reading.std == pytest.approx(PRIOR_STD_RATIO * reading.value)
        assert "typical server of 4" in reading.detail


async def test_stated_ends_take_the_typical_shape(tmp_path, proc):
    sensor = make(tmp_path, source="model", idle_w=100.0, peak_w=200.0)
    proc(0, 0)
    await one(sensor, 0)
    proc(50, 50)
    reading = await one(sensor, 1)
    assert reading.value == pytest.approx(144.0)
    assert reading.std == pytest.approx(12.0)


async def test_stolen_time_burns_no_watts_of_ours(tmp_path, proc):
    sensor = make(tmp_path, source="model", **STATED)
    proc(0, 0)
    await one(sensor, 0)
    proc(10, 40, steal=50)
    assert (await one(sensor, 1)).value == pytest.approx(90.0)


@pytest.mark.parametrize("text", ["", "cpu", "cpu a b c d e f g h i j", "cpu nan" + " 1" * 9])
async def test_garbage_cpu_times_are_an_error(tmp_path, proc, text):
    sensor = make(tmp_path, source="model")
    proc(0, 0)
    await one(sensor, 0)
    (tmp_path / "stat").write_text(text)
    assert (await one(sensor, 1)).status is Status.ERROR
    (tmp_path / "stat").unlink()
    assert (await one(sensor, 2)).status is Status.ERROR
    proc(10, 10)
    assert (await one(sensor, 3)).status is Status.NO_DATA


@given(st.lists(st.floats(1.0, 500.0), min_size=4, max_size=4), st.floats(-0.5, 1.5))
def test_a_curve_stays_within_its_ends(points, share):
    a, b, c, d = sorted(points)
    curve = curve_of(1, a, b, c, d)
    assert a - 1e-9 <= curve.at(share)[0] <= d + 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"idle_w": 10.0},
        {"peak_w": 10.0},
        {"at_10_w": 5.0, "at_50_w": 6.0},
        {"idle_w": 10.0, "peak_w": 20.0, "at_10_w": 12.0},
        {"idle_w": 30.0, "peak_w": 20.0},
        {"idle_w": 0.0, "peak_w": 20.0},
        {"idle_w": 1.0, "peak_w": float("inf")},
        {"idle_w": float("nan"), "peak_w": 5.0},
    ],
)
def test_half_a_curve_is_refused(options):
    with pytest.raises(PolicyError, match="power"):
        Power.Options(**options)


async def test_this_machine():
    sensor = Power(Power.Options(), "web")
    await sensor.start()
    assert (await one(sensor, 0)).status is Status.NO_DATA
    before = os.times()
    while os.times().elapsed - before.elapsed < 0.1:
        pass
    reading = await one(sensor, os.times().elapsed - before.elapsed)
    assert reading.source in {"rapl", "model"}
    assert reading.value > 0.0
    assert reading.std > 0.0
    await sensor.close()
    await sensor.close()
