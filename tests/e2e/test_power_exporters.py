"""The real node_exporter and ipmi_exporter, on hardware that is made up: what they call their
metrics, and what they make of a wrap and of a controller that does not measure.
"""

import asyncio
import ctypes
import shutil
import signal
import socket
import subprocess
import time

import pytest

from poolwright.core.model import Status
from poolwright.sensors.prometheus import Prometheus
from poolwright.sensors.prometheus_mapping import PrometheusOptions

pytestmark = pytest.mark.e2e

_LIBC = ctypes.CDLL(None)
RANGE = 262_143_328_850
DCMI = """#!/bin/sh
case "$*" in *--get-system-power-statistics*) ;; *) exit 1 ;; esac
cat <<'END'
Current Power                        : {watts} Watts
Minimum Power over sampling duration : 48 watts
Maximum Power over sampling duration : 361 watts
Average Power over sampling duration : 157 watts
Time Stamp                           : 12/29/2023 - 08:58:00
Statistics reporting time period     : 1000 milliseconds
Power Measurement                    : {state}
END
"""


@pytest.fixture
def exporter(tmp_path):
    """Starts an exporter: its url. Ended with the test."""
    started = []

    def start(program, *flags):
        assert shutil.which(program), f"{program} is missing: apt-get install {program}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with (tmp_path / "log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [program, f"--web.listen-address=127.0.0.1:{port}", *flags],
                    stdout=log,
                    stderr=log,
                    preexec_fn=lambda: _LIBC.prctl(1, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509
                )
            )
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as link:
                if link.connect_ex(("127.0.0.1", port)) == 0:
                    return f"http://127.0.0.1:{port}/metrics"
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)

    yield start
    for process in started:
        process.kill()
        process.wait()


async def watts(sensor):
    (reading,) = await sensor.read(time.monotonic_ns())
    return reading


def scraper(url, preset):
    return Prometheus(PrometheusOptions(url=url, preset=preset, timeout=5.0), "web")


@pytest.mark.parametrize("labelled", [False, True])
async def test_node_exporter_on_two_sockets_told_in_two_ways(tmp_path, exporter, labelled):
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl-mmio:0": "package-0",
    }

    def write(**energies):
        for folder, name in zones.items():
            path = tmp_path / "sys/class/powercap" / folder
            path.mkdir(parents=True, exist_ok=True)
            (path / "name").write_text(f"{name}\n")
            (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
            (path / "energy_uj").write_text(f"{energies[name.replace('-', '_')]}\n")

    flags = ["--collector.rapl.enable-zone-label"] if labelled else []
    write(package_0=RANGE - 5_000_000, package_1=1_000_000, core=1, dram=1_000_000)
    url = exporter(
        "prometheus-node-exporter",
        f"--path.sysfs={tmp_path}/sys",
        "--collector.disable-defaults",
        "--collector.rapl",
        *flags,
    )
    sensor = scraper(url, "node_exporter")
    await sensor.start()
    assert (await watts(sensor)).status is Status.NO_DATA
    began = time.monotonic()
    await asyncio.sleep(0.5)
    write(package_0=RANGE - 1_000_000, package_1=3_000_000, core=9, dram=2_000_000)
    seen = await watts(sensor)
    joules = 7.0 if labelled else 6.0  # dram is in another metric without the label
    took_s = time.monotonic() - began
    assert seen.status is Status.OK, seen.detail
    assert joules / took_s <= seen.value * 1.05
    assert seen.value <= joules / 0.5
    assert seen.std == pytest.approx(0.02 * seen.value)
    assert (await watts(sensor)).status is Status.NO_DATA, "it has not moved"
    write(package_0=1_000_000, package_1=4_000_000, core=9, dram=2_500_000)
    wrapped = await watts(sensor)
    assert (wrapped.status, wrapped.value) == (Status.NO_DATA, None)
    await sensor.close()


async def test_ipmi_exporter_on_a_controller(tmp_path, exporter):
    tools = tmp_path / "tools"
    tools.mkdir()

    def controller(tool, text):
        (tools / tool).write_text(text)
        (tools / tool).chmod(0o755)

    controller("ipmi-dcmi", DCMI.format(watts=164, state="Active"))
    config = tmp_path / "ipmi.yml"
    config.write_text("modules:\n  default:\n    collectors: [dcmi]\n")
    url = exporter(
        "prometheus-ipmi-exporter", f"--freeipmi.path={tools}", f"--config.file={config}"
    )
    sensor = scraper(url, "ipmi_exporter")
    await sensor.start()
    seen = await watts(sensor)
    assert (seen.status, seen.value) == (Status.OK, 164.0), seen.detail
    assert seen.std == pytest.approx(0.03 * 164.0)
    controller("ipmi-dcmi", DCMI.format(watts=0, state="Active"))
    assert (await watts(sensor)).status is Status.NO_DATA
    controller("ipmi-dcmi", "#!/bin/sh\nexit 1\n")
    broken = await watts(sensor)
    assert (broken.status, broken.value) == (Status.ERROR, None)
    assert url in broken.detail
    await sensor.close()
