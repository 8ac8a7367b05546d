"""Watts from the kernel's hwmon tree, of chips that measure the whole machine.

Kernel documentation: hwmon/sysfs-interface, hwmon/acpi_power_meter. A file powerN_average or
powerN_input is in microwatts. Most chips measure a rail, a CPU or a graphics card, so only those
that are known to stand at the machine's inlet are taken by themselves; another when it is named.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.sensors.cgroup import slurp, why

_HWMON = "sys/class/hwmon"
_WHOLE = frozenset({"power_meter"})  # of ACPI 4.0
_FILE = re.compile(r"power(\d+)_(average|input)")
_DIGITS = 12  # of microwatts: a megawatt is none

HINT = (
    "an ACPI power meter needs the driver acpi_power_meter (modprobe); another chip at the inlet "
    "can be named: hwmon: NAME/power1"
)


@dataclass(frozen=True, slots=True)
class Hwmon:
    """One file of one chip."""

    chip: str
    path: Path

    name = "hwmon"
    std_ratio = 0.03  # the ACPI specification lets a meter state its accuracy; 2 to 5 % is usual
    every_s = 1.0

    @property
    def text(self) -> str:
        """For people."""
        return f"whole host: {self.chip}, {self.path}"

    def watts(self) -> float:
        """What is measured now. Raises PlantFault."""
        try:
            text = slurp(str(self.path)).decode("ascii", "replace").strip()
        except OSError as error:  # a meter that is there may have nothing to say: ENODATA, EIO
            raise PlantFault(f"{self.path}: {why(error)}") from error
        if not text.isdigit() or len(text) > _DIGITS:
            raise PlantFault(f"{self.path}: not microwatts: {text[:40]!r}")
        if int(text) == 0:
            raise PlantFault(f"{self.path}: says 0 watts: it measures nothing")
        return int(text) / 1e6


def find(root: Path, named: str | None) -> Hwmon:
    """The chip that is named (`NAME` or `NAME/power2`), else the only one that is known.

    Raises PlantFault when there is none, or more than one to choose from.
    """
    folder = root / _HWMON
    chip, _, channel = (named or "").partition("/")
    found = []
    for path in sorted(folder.glob("hwmon*")):
        name = _text(path / "name")
        if name == chip or (named is None and name in _WHOLE):
            found += _files(name, path, channel or "power1")
    if len(found) == 1:
        return found[0]
    if found:
        told = ", ".join(str(one.path) for one in found)
        raise PlantFault(f"{told}: which one stands at the inlet cannot be told")
    what = f"no chip {named} with a power file" if named else "no meter of the whole machine"
    raise PlantFault(f"{folder}: {what} ({HINT})")


def _files(name: str, path: Path, channel: str) -> list[Hwmon]:
    """The file of a channel: what the chip has averaged, rather than a moment."""
    if _text(path / f"{channel}_is_battery") == "1":
        return []
    kinds = [path / f"{channel}_{kind}" for kind in ("average", "input")]
    return [Hwmon(name, file) for file in kinds if _FILE.fullmatch(file.name) and file.exists()][:1]


def _text(path: Path) -> str:
    """A small file's text; empty when it cannot be read."""
    try:
        return slurp(str(path))[:64].decode("ascii", "replace").strip()
    except OSError:
        return ""
