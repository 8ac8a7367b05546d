"""What `poolwright doctor` says of power: each source, which one is used, how to have better.

Each meter is asked once, and may take its time.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.sensors import hwmon, ipmi, rapl
from poolwright.sensors.power_curve import ENDS_STD_RATIO, KNOTS_STD_RATIO, PRIOR_STD_RATIO
from poolwright.sensors.power_meter import Meter

Seen = tuple[str, str, str, str]  # topic, state (ok, limited, absent), what was seen, advice

_MODEL = (
    f"state idle_w and peak_w (then ± {ENDS_STD_RATIO:.0%} of peak), and at_10_w and at_50_w as "
    f"well (± {KNOTS_STD_RATIO:.0%}), or allow a meter above; an exporter: docs/power.md"
)
_RAPL = (
    "chgrp poolwright /sys/class/powercap/intel-rapl:*/energy_uj && chmod g+r the same, at each "
    "boot (a line `z` of tmpfiles.d); energy can leak secrets: CVE-2020-8694"
)


def power_seen(root: Path) -> Iterator[Seen]:
    """All sources under `root`, best first, and then what `source: auto` takes."""
    taken = ""
    meters: tuple[tuple[str, Callable[[], Meter], str], ...] = (
        ("BMC", lambda: ipmi.find(root), ipmi.HINT),
        ("hwmon", lambda: hwmon.find(root, None), hwmon.HINT),
    )
    for name, find, hint in meters:
        seen = _meter(f"power ({name})", find, hint)
        taken = taken or (name if seen[1] == "ok" else "")
        yield seen
    seen = _rapl(root)
    taken = taken or ("RAPL" if seen[1] == "ok" else "")
    yield seen
    yield _meter("power (NVML)", _gpus, "only for hosts with NVIDIA cards: gpus: nvml")
    if taken:
        yield "power", "ok", f"measured: source auto takes {taken}", ""
    else:
        told = f"modelled from CPU use, ± {PRIOR_STD_RATIO:.0%} while nothing is stated"
        yield "power", "limited", told, _MODEL


def _gpus() -> Meter:
    from poolwright.sensors.nvml import Gpus  # noqa: PLC0415 - it needs a package

    return Gpus()


def _meter(topic: str, find: Callable[[], Meter], hint: str) -> Seen:
    try:
        meter = find()
    except (PlantFault, PolicyError) as fault:
        said = str(fault).removesuffix(f" ({hint})")
        state = "limited" if "denied" in said or "installed" in said else "absent"
        return topic, state if topic != "power (NVML)" else "absent", said, hint
    try:
        return topic, "ok", f"{meter.watts():.0f} W, {meter.text}", ""
    except PlantFault as fault:
        return topic, "absent", str(fault), hint


def _rapl(root: Path) -> Seen:
    topic = "power (RAPL)"
    try:
        zones = rapl.discover(root)
    except PlantFault as fault:
        return topic, "limited", str(fault).removesuffix(f" ({rapl.HINT})"), _RAPL
    if not zones:
        advice = "on bare metal: modprobe intel_rapl_msr (also for AMD); most guests have none"
        return topic, "absent", "no powercap zones", advice
    names = ", ".join(zone.name for zone in zones)
    try:
        rapl.read_zones(zones)
    except PlantFault as fault:
        return topic, "limited", str(fault).removesuffix(f" ({rapl.HINT})"), _RAPL
    return topic, "ok", f"readable: {names}", ""
