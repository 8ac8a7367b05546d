"""RAPL energy counters of the powercap tree: which to add up, and what two readings mean.

Kernel documentation: power/powercap/powercap.rst. Each zone has `energy_uj`, which grows up to
`max_energy_range_uj` and begins again at zero. `psys` covers the platform and stands alone; else
the packages are added, and dram, which lies beside them; `core` and `uncore` are inside a package.
`intel-rapl-mmio:*` repeats `intel-rapl:*` by another way. AMD's counters have the same names.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.sensors.cgroup import slurp, why

_POWERCAP = "sys/class/powercap"
_DIGITS = 20  # of a 64-bit counter
_PSYS = re.compile(r"psys(-\d+)?")  # one a socket on some servers: they are added
_ADDED = re.compile(r"package-\d+(-die-\d+)?|dram")

HINT = (
    "since Linux 5.10 only root may read energy counters: give the unit "
    "AmbientCapabilities=CAP_DAC_READ_SEARCH, or a group read access to energy_uj by a udev rule"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One energy counter; `range_uj` is where it begins again."""

    name: str
    path: Path
    range_uj: int


def discover(root: Path) -> tuple[Zone, ...]:
    """The zones whose sum is the machine's energy; empty where there is no RAPL.

    Raises PlantFault when a zone that should be added cannot be described.
    """
    folder = root / _POWERCAP
    try:
        entries = sorted(p for p in folder.iterdir() if p.name.startswith("intel-rapl:"))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise PlantFault(f"{folder}: {why(error)}") from error
    named = [(_text(path / "name"), path) for path in entries]
    chosen = [x for x in named if _PSYS.fullmatch(x[0])]
    chosen = chosen or [x for x in named if _ADDED.fullmatch(x[0])]
    zones = []
    for name, path in chosen:
        limit = _number(path / "max_energy_range_uj")
        if limit <= 0:
            raise PlantFault(f"{path / 'max_energy_range_uj'}: a range of {limit} makes no sense")
        zones.append(Zone(name=name, path=path, range_uj=limit))
    return tuple(zones)


def read_zones(zones: tuple[Zone, ...]) -> tuple[int, ...]:
    """The counters in microjoules. Raises PlantFault: a sum without one of them is none."""
    return tuple(_number(zone.path / "energy_uj") for zone in zones)


def grown_uj(last: int, now: int, range_uj: int) -> int:
    """Microjoules between two readings at most one wrap apart."""
    return now - last if now >= last else range_uj - last + now


def watts(
    zones: tuple[Zone, ...],
    last: tuple[int, ...],
    now: tuple[int, ...],
    span_s: float,
    peak_w: float,
) -> float | None:
    """Mean power over `span_s`; None when the counters cannot tell it.

    They cannot when the span is long enough, at `peak_w`, for a second wrap, nor when the result
    is more than 3 x `peak_w`: then a counter was reset (driver reload, suspend), which looks like
    a wrap. Counters of which none has moved are not at zero watts but stuck.
    """
    if span_s <= 0.0 or span_s * peak_w * 1e6 >= min(zone.range_uj for zone in zones):
        return None
    if any(value > zone.range_uj for zone, value in zip(zones, now, strict=True)):
        return None
    total = sum(grown_uj(a, b, zone.range_uj) for zone, a, b in zip(zones, last, now, strict=True))
    mean = total / 1e6 / span_s
    return mean if 0.0 < mean <= 3.0 * peak_w else None


def _text(path: Path) -> str:
    try:
        return slurp(str(path)).decode("ascii", "replace").strip()
    except PermissionError as error:
        raise PlantFault(f"{path}: {why(error)} ({HINT})") from error
    except OSError as error:
        raise PlantFault(f"{path}: {why(error)}") from error


def _number(path: Path) -> int:
    text = _text(path)
    if not text.isdigit() or len(text) > _DIGITS:
        raise PlantFault(f"{path}: not a counter: {text[:40]!r}")
    return int(text)
