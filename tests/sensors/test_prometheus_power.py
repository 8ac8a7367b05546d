"""Watts from the exporters that measure them: presets, zones, counters that pause and wrap."""

import pytest
from test_prometheus import scraping

from poolwright.core.errors import PolicyError
from poolwright.core.model import Status
from poolwright.sensors.prometheus import Prometheus
from poolwright.sensors.prometheus_mapping import PRESETS, PrometheusOptions, Signals, Source

NONE = Signals()
KEPLER = """# TYPE kepler_node_cpu_joules_total counter
kepler_node_cpu_joules_total{{zone="package",path="/a"}} {package}
kepler_node_cpu_joules_total{{zone="dram",path="/b"}} {dram}
kepler_node_cpu_joules_total{{zone="core",path="/c"}} 7777
kepler_node_cpu_joules_total{{zone="uncore",path="/d"}} 8888
kepler_node_cpu_watts{{zone="package",path="/a"}} 999
"""
NODE = """# TYPE node_rapl_package_joules_total counter
node_rapl_package_joules_total{{index="0",path="/sys/class/powercap/intel-rapl:0"}} {a}
node_rapl_package_joules_total{{index="1",path="/sys/class/powercap/intel-rapl:1"}} {b}
node_rapl_package_joules_total{{index="0",path="/sys/class/powercap/intel-rapl-mmio:0"}} {a}
# TYPE node_rapl_core_joules_total counter
node_rapl_core_joules_total{{index="0",path="/sys/class/powercap/intel-rapl:0:0"}} {a}
"""


async def power(read, second):
    return (await read(second))["power_w"]


async def test_kepler_adds_dram_to_packages_and_no_other_zone():
    async with scraping(NONE, preset="kepler") as (site, read):
        site.answer(KEPLER.format(package=1000, dram=100))
        assert (await power(read, 0)).status is Status.NO_DATA
        site.answer(KEPLER.format(package=1400, dram=150))
        seen = await power(read, 5)
    assert seen.value == pytest.approx(90.0)
    assert seen.std == pytest.approx(0.02 * 90.0)
    assert seen.detail == "Kepler: RAPL packages and dram"
    assert not seen.estimated


async def test_psys_and_the_platform_stand_alone():
    psys = KEPLER + 'kepler_node_cpu_joules_total{{zone="psys",path="/p"}} {psys}\n'
    async with scraping(NONE, preset="kepler") as (site, read):
        site.answer(psys.format(package=1000, dram=100, psys=5000))
        await power(read, 0)
        site.answer(psys.format(package=1400, dram=150, psys=5600))
        assert (await power(read, 5)).value == pytest.approx(120.0)
    platform = "# TYPE kepler_platform_watts gauge\nkepler_platform_watts 240\n"
    async with scraping(NONE, preset="kepler") as (site, read):
        site.answer(platform + KEPLER.format(package=1, dram=1))
        seen = await power(read, 0)
    assert (seen.value, seen.std) == (240.0, pytest.approx(7.2))


async def test_what_was_found_first_stays():
    platform = "# TYPE kepler_platform_watts gauge\nkepler_platform_watts 240\n"
    async with scraping(NONE, preset="kepler") as (site, read):
        site.answer(KEPLER.format(package=1, dram=1))
        await power(read, 0)
        site.answer(platform + KEPLER.format(package=101, dram=1))
        assert (await power(read, 1)).value == 100.0
        site.answer(platform)
        gone = await power(read, 2)
    assert gone.status is Status.ERROR
    assert "kepler_node_cpu_joules_total" in gone.detail


async def test_counters_that_pause_are_not_zero_watts():
    async with scraping(NONE, preset="kepler") as (site, read):
        values = []
        for second in range(12):
            joules = 1000 + 100 * (second // 5) * 5
            site.answer(KEPLER.format(package=joules, dram=100))
            values.append((await power(read, second)).value)
    assert [v for v in values if v is not None] == [pytest.approx(100.0)] * 2


async def test_a_wrap_or_a_lost_socket_is_no_reading():
    async with scraping(NONE, preset="node_exporter") as (site, read):
        site.answer(NODE.format(a=262_000, b=100))
        await power(read, 0)
        site.answer(NODE.format(a=262_050, b=150))
        seen = await power(read, 1)
        assert seen.value == pytest.approx(100.0)  # both sockets, and not the same way twice
        site.answer(NODE.format(a=20, b=200))
        wrapped = await power(read, 2)
        assert (wrapped.status, wrapped.value) == (Status.NO_DATA, None)
        site.answer(NODE.format(a=70, b=250))
        assert (await power(read, 3)).value == pytest.approx(100.0)
        one = "".join(x for x in NODE.splitlines(keepends=True) if "rapl:1" not in x)
        site.answer(one.format(a=120, b=0))
        assert (await power(read, 4)).status is Status.NO_DATA
        site.answer(one.format(a=170, b=0))
        assert (await power(read, 5)).value == pytest.approx(50.0)


async def test_node_exporter_with_zones_as_labels():
    page = "# TYPE node_rapl_joules_total counter\n"
    for zone, path, joules in (
        ("package-0", "intel-rapl:0", "{a}"),
        ("dram", "intel-rapl:0:1", "{b}"),
        ("core", "intel-rapl:0:0", "5"),
        ("package-0", "intel-rapl-mmio:0", "{a}"),
    ):
        labels = f'index="0",path="/sys/{path}",rapl_zone="{zone}"'
        page += f"node_rapl_joules_total{{{{{labels}}}}} {joules}\n"
    async with scraping(NONE, preset="node_exporter") as (site, read):
        site.answer(page.format(a=10, b=10))
        await power(read, 0)
        site.answer(page.format(a=70, b=20))
        seen = await power(read, 1)
    assert seen.value == pytest.approx(70.0)
    assert "packages and dram" in seen.detail


@pytest.mark.parametrize("name", [o.source.gauge for o in PRESETS["ipmi_exporter"]])
async def test_ipmi_exporter_by_either_name_and_zero_is_no_watts(name):
    async with scraping(NONE, preset="ipmi_exporter") as (site, read):
        site.answer(f"{name} 312\n")
        seen = await power(read, 0)
        assert (seen.value, seen.std) == (312.0, pytest.approx(9.36))
        site.answer(f"{name} 0\n")
        assert (await power(read, 1)).status is Status.NO_DATA


async def test_scaphandre_is_in_microwatts():
    async with scraping(NONE, preset="scaphandre") as (site, read):
        site.answer("# TYPE scaph_host_power_microwatts gauge\nscaph_host_power_microwatts 9e7\n")
        seen = await power(read, 0)
    assert (seen.value, seen.detail) == (pytest.approx(90.0), "Scaphandre: RAPL")


@pytest.mark.parametrize("preset", sorted(PRESETS))
async def test_a_page_without_them_is_an_error_that_names_them(preset):
    async with scraping(NONE, preset=preset) as (site, read):
        site.answer("other 1\n")
        seen = await power(read, 0)
    assert seen.status is Status.ERROR
    assert "http://127.0.0.1" in seen.detail
    assert (PRESETS[preset][0].source.gauge or "node_rapl") in seen.detail


def test_a_preset_beside_other_signals_and_not_beside_power():
    url = "http://h/"
    gauge = Source(gauge="g")
    both = PrometheusOptions(url=url, preset="kepler", signals=Signals(memory=gauge))
    assert Prometheus(both, "web").signals == ("memory_bytes", "power_w")
    twice = PrometheusOptions(url=url, preset="kepler", signals=Signals(power=gauge))
    with pytest.raises(PolicyError, match="preset kepler gives it already"):
        Prometheus(twice, "web")
    with pytest.raises(PolicyError, match="no preset"):
        Prometheus(PrometheusOptions(url=url), "web")
