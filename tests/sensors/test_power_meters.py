"""Management controllers, ACPI meters and graphics cards that are not there: their tools, trees and
library are made up here, as no test machine has such hardware. The thread that asks them is real.
"""

import asyncio
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Status
from poolwright.sensors import hwmon, ipmi
from poolwright.sensors.power import Power
from poolwright.sensors.power_meter import Watched

SECOND = 1_000_000_000

IPMITOOL = """
    Instantaneous power reading:                   220 Watts
    Minimum during sampling period:                 18 Watts
    Maximum during sampling period:                355 Watts
    Average power reading over sample period:      218 Watts
    IPMI timestamp:                           Thu Feb 15 09:37:32 2018
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   activated
"""
FREEIPMI = """Current Power                        : 164 Watts
Minimum Power over sampling duration : 110 watts
Maximum Power over sampling duration : 362 watts
Average Power over sampling duration : 157 watts
Time Stamp                           : 12/29/2023 - 08:58:00
Statistics reporting time period     : 1000 milliseconds
Power Measurement                    : Active
"""


def make(root, **options):
    return Power(Power.Options(**options), "web", root=root, cpus=4)


async def one(sensor, now_ns=None):
    (reading,) = await sensor.read(now_ns or time.monotonic_ns())
    assert reading.signal == "power_w"
    return reading


async def until(sensor, wanted, within_s=10.0):
    end = time.monotonic() + within_s
    while not wanted(reading := await one(sensor)):
        assert time.monotonic() < end, reading
        await asyncio.sleep(0.01)
    return reading


# Management controllers


@pytest.fixture
def controller(tmp_path, monkeypatch):
    """A device, and a tool that runs a shell script."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ipmi0").touch()
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))

    def install(script, name="ipmitool"):
        tool = tools / name
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)

    return install


@pytest.mark.parametrize(("text", "expected"), [(IPMITOOL, 220.0), (FREEIPMI, 164.0)])
def test_both_tools_are_understood(text, expected):
    assert ipmi.parse("tool", text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no power reading"),
        ("Current Power : -1 Watts\nPower Measurement : Active\n", "no power reading"),
        ("Current Power : 1e3 Watts\nPower Measurement : Active\n", "no power reading"),
        ("Current Power : 99999999 Watts\nPower Measurement : Active\n", "no power reading"),
        ("Current Power : 164 Watts\n", "no power reading"),
        (FREEIPMI.replace("Active", "Not Available"), "does not measure"),
        (IPMITOOL.replace("activated", "deactivated"), "does not measure"),
        (IPMITOOL.replace("220", "0"), "0 watts"),
        ("\xff" * 300, "no power reading"),
    ],
)
def test_what_is_no_measurement_is_a_fault(text, why):
    with pytest.raises(PlantFault, match=why):
        ipmi.parse("tool", text.encode("latin-1"))


async def test_the_controller_is_taken_first_and_keeps_its_source(tmp_path, controller):
    controller(f"cat <<'END'\n{FREEIPMI}\nEND".replace("cat", "/bin/cat"), "ipmi-dcmi")
    sensor = make(tmp_path)
    await sensor.start()
    reading = await one(sensor)
    assert (reading.source, reading.value, reading.estimated) == ("bmc", 164.0, False)
    assert reading.std == pytest.approx(0.03 * 164.0)
    assert "whole host" in reading.detail
    assert reading.taken_mono_ns <= time.monotonic_ns()
    await sensor.close()
    await sensor.close()


async def test_a_controller_without_a_meter_is_passed_over(tmp_path, controller):
    controller("echo 'DCMI request failed because: Invalid command (c1)' >&2; exit 1")
    sensor = make(tmp_path)
    await sensor.start()
    reading = await one(sensor)
    assert sensor.source == "model"
    assert "ended with 1: DCMI request failed" in reading.detail
    for thread in threading.enumerate():
        if thread.name == "power-bmc":
            thread.join(5)
            assert not thread.is_alive(), "it is asked no more"


async def test_one_that_hangs_is_not_waited_for_by_any_tick(tmp_path, controller, monkeypatch):
    monkeypatch.setattr("poolwright.sensors.ipmi._PATIENCE_S", 0.3)
    controller("exec /bin/sleep 60")
    sensor = make(tmp_path, source="bmc")
    await sensor.start()
    began = time.perf_counter()
    reading = await one(sensor)
    assert time.perf_counter() - began < 0.1
    assert (reading.status, "has not answered yet" in reading.detail) == (Status.ERROR, True)
    late = await until(sensor, lambda r: "no answer within" in r.detail)
    assert late.status is Status.ERROR
    await sensor.close()


async def test_without_a_tool_or_permission_it_says_what_to_do(tmp_path, controller):
    missing = make(tmp_path, source="bmc")
    await missing.start()
    reading = await one(missing)
    assert reading.status is Status.ERROR
    assert "neither ipmi-dcmi nor ipmitool" in reading.detail
    assert 'KERNEL=="ipmi*"' in reading.detail
    (tmp_path / "dev/ipmi0").unlink()
    assert "no management controller" in (await one(missing)).detail


async def test_one_that_was_missing_heals(tmp_path, controller):
    sensor = make(tmp_path, source="bmc")
    await sensor.start()
    assert (await one(sensor)).status is Status.ERROR
    controller(f"/bin/cat <<'END'\n{IPMITOOL}\nEND")
    reading = await until(sensor, lambda r: r.status is Status.OK)
    assert (reading.source, reading.value) == ("bmc", 220.0)
    await sensor.close()


# hwmon


def chip(root, index, name, **files):
    path = root / f"sys/class/hwmon/hwmon{index}"
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    for file, text in files.items():
        (path / file).write_text(f"{text}\n")
    return path


async def test_an_acpi_meter_is_taken_and_a_rail_is_not(tmp_path):
    chip(tmp_path, 0, "ina3221", power1_input=5_000_000)
    chip(tmp_path, 1, "amdgpu", power1_average=30_000_000)
    chip(tmp_path, 2, "power_meter", power1_average=212_500_000, power1_is_battery=0)
    sensor = make(tmp_path)
    await sensor.start()
    reading = await one(sensor)
    assert (reading.source, reading.value) == ("hwmon", 212.5)
    assert reading.std == pytest.approx(0.03 * 212.5)
    assert "power_meter" in reading.detail
    assert "hwmon2/power1_average" in reading.detail
    await sensor.close()


def test_no_battery_and_not_one_of_two(tmp_path):
    chip(tmp_path, 0, "power_meter", power1_average=1, power1_is_battery=1)
    with pytest.raises(PlantFault, match=r"no meter of the whole machine.*acpi_power_meter"):
        hwmon.find(tmp_path, None)
    chip(tmp_path, 1, "power_meter", power1_average=1)
    assert hwmon.find(tmp_path, None).path.parent.name == "hwmon1"
    chip(tmp_path, 2, "power_meter", power1_average=1)
    with pytest.raises(PlantFault, match="which one stands at the inlet"):
        hwmon.find(tmp_path, None)


def test_another_chip_is_taken_when_it_is_named(tmp_path):
    chip(tmp_path, 0, "psu", power1_input=1_000_000, power2_input=2_000_000)
    assert hwmon.find(tmp_path, "psu").watts() == 1.0
    assert hwmon.find(tmp_path, "psu/power2").watts() == 2.0
    with pytest.raises(PlantFault, match="no chip psu/power3"):
        hwmon.find(tmp_path, "psu/power3")


@pytest.mark.parametrize("text", ["", "0", "-5", "x", "1.5", "9" * 30])
def test_what_is_no_power_is_a_fault_that_names_the_file(tmp_path, text):
    path = chip(tmp_path, 0, "power_meter", power1_average=text)
    with pytest.raises(PlantFault, match=str(path / "power1_average")):
        hwmon.find(tmp_path, None).watts()


async def test_a_meter_that_breaks_is_an_error_and_never_the_model(tmp_path):
    path = chip(tmp_path, 0, "power_meter", power1_average=50_000_000) / "power1_average"
    sensor = make(tmp_path)
    await sensor.start()
    path.write_text("")
    reading = await until(sensor, lambda r: r.status is Status.ERROR)
    assert (reading.source, reading.value) == ("hwmon", None)
    path.write_text("70000000\n")
    assert (await until(sensor, lambda r: r.status is Status.OK)).value == 70.0
    await sensor.close()


async def test_a_file_that_blocks_is_not_chosen_and_holds_up_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("poolwright.sensors.power._TRIAL_S", 0.2)
    chip(tmp_path, 0, "power_meter", power1_average=1)
    stuck = threading.Event()
    monkeypatch.setattr("poolwright.sensors.hwmon.slurp", _stuck(stuck))
    sensor = make(tmp_path)
    began = time.perf_counter()
    await sensor.start()
    assert time.perf_counter() - began < 2.0
    assert sensor.source == "model"
    stuck.set()
    await sensor.close()


def _stuck(event):
    def slurp(path):
        if "average" in path:
            event.wait(30)
        return Path(path).read_bytes()

    return slurp


# The thread


class Slow:
    name, text, std_ratio, every_s = "slow", "a slow meter", 0.1, 0.05

    def __init__(self):
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()

    def watts(self):
        self.asked += 1
        self.gate.wait(30)
        if self.asked == 2:
            raise ValueError("odd")
        return 10.0 * self.asked


def test_an_answer_that_is_too_old_is_none_and_only_one_question_is_open():
    meter = Slow()
    watched = Watched(meter)
    watched.start()
    watched.start()
    assert watched.first(5).watts == 10.0
    deadline = time.monotonic() + 5
    while "odd" not in watched.newest().why:
        assert time.monotonic() < deadline
    meter.gate.clear()
    while "no answer for" not in watched.newest().why:
        assert time.monotonic() < deadline
    open_questions = meter.asked
    time.sleep(0.3)
    assert meter.asked == open_questions
    watched.close()
    meter.gate.set()
    assert watched.newest().watts is None


# Graphics cards


class Cards(types.ModuleType):
    """As much of pynvml as is used."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801
        pass

    def __init__(self, count=2, counts_energy=True):
        super().__init__("pynvml")
        self.count, self.counts_energy = count, counts_energy
        self.energy_mj = [1_000, 5_000]
        self.broken = False

    def nvmlInit(self):  # noqa: N802
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self):  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, i):  # noqa: N802
        return i

    def nvmlDeviceGetPowerUsage(self, i):  # noqa: N802
        return (60_000, 40_000)[i]

    def nvmlDeviceGetTotalEnergyConsumption(self, i):  # noqa: N802
        if self.broken:
            raise self.NVMLError("GPU is lost")
        if not self.counts_energy:
            raise self.NVMLError_NotSupported("Not Supported")
        return self.energy_mj[i]


@pytest.fixture
def cards(monkeypatch):
    made = Cards()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


def test_cards_are_added_up_by_their_energy(cards, monkeypatch):
    from poolwright.sensors.nvml import Gpus

    now = [100.0]
    monkeypatch.setattr("poolwright.sensors.nvml.time.monotonic", lambda: now[0])
    gpus = Gpus()
    assert gpus.watts() == 100.0  # as the cards say, before there is a difference
    now[0] += 2.0
    cards.energy_mj = [301_000, 105_000]
    assert gpus.watts() == pytest.approx(200.0)
    now[0] += 1.0
    cards.energy_mj = [5, 105_000]
    with pytest.raises(PlantFault, match="went back"):
        gpus.watts()
    cards.broken = True
    with pytest.raises(PlantFault, match="GPU is lost"):
        gpus.watts()
    with pytest.raises(PlantFault, match="Driver Not Loaded"):
        gpus.watts()
    cards.broken, cards.counts_energy = False, False
    assert gpus.watts() == 100.0
    cards.count = 0
    gpus._cards = None
    with pytest.raises(PlantFault, match="no graphics card"):
        gpus.watts()


async def test_cards_beside_rapl_are_one_sum_or_none(tmp_path, cards):
    from test_power import server

    server(tmp_path)
    sensor = make(tmp_path, source="rapl", gpus="nvml")
    await sensor.start()
    await one(sensor, SECOND)
    server(tmp_path, 21_000_000)
    sensor._gpus.first(5)
    reading = await one(sensor, 2 * SECOND)
    assert (reading.source, reading.value) == ("rapl+nvml", pytest.approx(180.0))
    assert reading.std == pytest.approx((1.6**2 + 5.0**2) ** 0.5)
    cards.broken = True
    while not sensor._gpus.newest().why:  # noqa: ASYNC110  the thread has its own time
        await asyncio.sleep(0.01)
    server(tmp_path, 41_000_000)
    reading = await one(sensor, 3 * SECOND)
    assert (reading.source, reading.status) == ("rapl+nvml", Status.ERROR)
    assert "GPU is lost" in reading.detail or "Driver Not Loaded" in reading.detail
    await sensor.close()


def test_cards_are_not_counted_twice_and_need_a_package(tmp_path, monkeypatch):
    for source in ("auto", "bmc", "hwmon"):
        with pytest.raises(PolicyError, match="gpus needs source"):
            Power.Options(source=source, gpus="nvml")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(PolicyError, match=r"poolwright\[nvml\]"):
        make(tmp_path, source="model", gpus="nvml")


async def test_the_real_library_tells_of_this_host():
    sensor = Power(Power.Options(source="model", gpus="nvml"), "web")
    await sensor.start()
    await one(sensor)
    reading = await until(sensor, lambda r: r.status in (Status.OK, Status.ERROR))
    assert reading.source == "model+nvml"
    if not Path("/dev/nvidia0").exists():
        assert "NVML" in reading.detail
        assert reading.value is None
    await sensor.close()


async def test_this_machine_says_why_it_models():
    sensor = Power(Power.Options(), "web")
    await sensor.start()
    if sensor.source == "model":
        detail = (await one(sensor)).detail
        for name in ("BMC", "HWMON", "RAPL"):
            assert f"no {name}: " in detail
    await sensor.close()
