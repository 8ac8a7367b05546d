"""Everything that asks over HTTP, against servers that want to stall a tick or eat the memory.

Each of them has an answer within its time, keeps the event loop for no more than a moment at once
(measured in CPU time: a busy machine is not a fault), takes no more memory than a page may have,
never passes a number on, and works again at the next tick.
"""

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile_server import ATTACKS, SLOW

from poolwright.actuators.file import File, LevelUrl
from poolwright.actuators.http import Http
from poolwright.core.errors import PlantFault
from poolwright.core.model import Status
from poolwright.sensors.prometheus import Prometheus
from poolwright.sensors.prometheus_mapping import PrometheusOptions, Signals, Source
from poolwright.sensors.promql import Promql

pytestmark = pytest.mark.e2e

WITHIN_S = 0.4
MOST_BYTES = 256 * 1024
MOST_GAP_S = 0.12  # of CPU, without a look at anything else
MOST_MEMORY_KB = 12 * 1024
SERVER = Path(__file__).parents[1] / "support" / "hostile_server.py"


@pytest.fixture(scope="module")
def port():
    process = subprocess.Popen(
        [sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True, env={"PATH": ""}
    )
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Scraped:
    """The sensor `prometheus`."""

    def __init__(self, url):
        signals = Signals(queue_length=Source(gauge="m"))
        options = PrometheusOptions(
            url=f"{url}/metrics", signals=signals, timeout=WITHIN_S, max_bytes=MOST_BYTES
        )
        self.made = Prometheus(options, "web")

    async def value(self):
        """What it tells; PlantFault when it tells an error."""
        await self.made.start()
        (one,) = await self.made.read(time.monotonic_ns())
        if one.status is Status.ERROR:
            raise PlantFault(one.detail)
        return one.value


class Queried(Scraped):
    """The sensor `promql`."""

    def __init__(self, url):
        options = Promql.Options(
            url=url, queries={"queue_length": "m"}, timeout=WITHIN_S, max_bytes=MOST_BYTES
        )
        self.made = Promql(options, "web")


class Moved:
    """The actuator `http`."""

    def __init__(self, url):
        options = Http.Options(url=f"{url}/level", timeout=WITHIN_S, max_bytes=MOST_BYTES)
        self.made = Http(options, "web")

    async def value(self):
        return (await self.made.read()).setting["workers"]


class Filed(Moved):
    """The actuator `file`, reading back over HTTP."""

    def __init__(self, url):
        told = LevelUrl(url=f"{url}/level", max_bytes=MOST_BYTES)
        self.made = File(File.Options(path="/x", get_http=told, get_timeout=WITHIN_S), "web")


def memory_kb():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1])


async def beat(gaps):
    """CPU time of this thread between two turns of the event loop."""
    last = time.thread_time()
    while True:
        await asyncio.sleep(0)
        now = time.thread_time()
        gaps.append(now - last)
        last = now


@pytest.mark.parametrize("asks", [Scraped, Queried, Moved, Filed], ids=lambda c: c.__name__.lower())
@pytest.mark.parametrize("attack", [*ATTACKS, *SLOW])
async def test_no_answer_stalls_a_tick_or_eats_the_memory(port, asks, attack):
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(PlantFault):  # a page that is an error, so that all is imported
        await asks(f"{url}/cut").value()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now
    before_kb, gaps = memory_kb(), []
    beside = asyncio.create_task(beat(gaps))
    began = time.monotonic()
    with pytest.raises(PlantFault) as fault:
        await asks(f"{url}/{attack}").value()
    took_s = time.monotonic() - began
    beside.cancel()
    grown_kb = memory_kb() - before_kb
    said = str(fault.value)
    print(f"{attack}: {took_s:.3f} s, gap {max(gaps):.3f} s, {grown_kb} kB: {said[:90]}")
    assert took_s < WITHIN_S + 5.0, "also on a machine that does other things"
    assert max(gaps) < MOST_GAP_S
    assert grown_kb < MOST_MEMORY_KB
    assert f"{url}/{attack}/" in said
    assert len(said) < 1000
    assert said.isprintable()
    assert await asks(f"{url}/good").value() == 4
