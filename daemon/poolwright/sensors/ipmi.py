"""Watts of the whole machine from its management controller (BMC), by DCMI.

Asked through ipmi-dcmi (FreeIPMI) or ipmitool, whichever is installed: `Get Power Reading` of the
Data Center Manageability Interface 1.5, section 6.6.1. The controller averages over a second or
more, rounds to watts, and many say 0 though they measure nothing.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from poolwright.core.errors import PlantFault

_TOOLS = (
    ("ipmi-dcmi", "--get-system-power-statistics"),
    ("ipmitool", "dcmi", "power", "reading"),
)
_DEVICES = ("dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0")
_WATTS = re.compile(
    rb"^\s*(?:Current Power|Instantaneous power reading)\s*:\s*(\d{1,6}) Watts", re.MULTILINE
)
_STATE = re.compile(rb"^\s*(?:Power Measurement|Power reading state is)\s*:\s*(\w+)", re.MULTILINE)
_ACTIVE = (b"active", b"activated")
_PATIENCE_S = 10.0
_SAID = 120  # characters of a tool's complaint

HINT = (
    "install ipmitool or freeipmi-tools, load ipmi_devintf and ipmi_si, give poolwright's group "
    'the device by a udev rule: KERNEL=="ipmi*", GROUP="poolwright", MODE="0660". Whoever may open '
    "it may do with the controller what he likes: where that is too much, let ipmi_exporter read it"
)


class Bmc:
    """A management controller, asked through a tool."""

    name = "bmc"
    std_ratio = 0.03  # power supplies state 2 to 5 %; with its lag and its rounding
    every_s = 5.0

    def __init__(self, command: tuple[str, ...]) -> None:
        """`command` is run for each answer."""
        self._command = command
        self.text = f"whole host: {' '.join(command)}"

    def watts(self) -> float:
        """What the machine takes now. Raises PlantFault."""
        try:
            done = subprocess.run(
                self._command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PATIENCE_S,
                check=False,
                env={"PATH": os.defpath, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            raise PlantFault(f"{self._command[0]}: no answer within {_PATIENCE_S:g} s") from None
        except OSError as error:
            raise PlantFault(f"{self._command[0]}: {error.strerror}") from error
        if done.returncode:
            said = done.stderr.decode("ascii", "replace").strip()[:_SAID]
            raise PlantFault(f"{self._command[0]}: ended with {done.returncode}: {said}")
        return parse(self._command[0], done.stdout)


def parse(tool: str, said: bytes) -> float:
    """The watts in what a tool has printed. Raises PlantFault for anything but a measurement."""
    found, state = _WATTS.search(said), _STATE.search(said)
    if found is None or state is None:
        raise PlantFault(f"{tool}: printed no power reading: {said[:60]!r}")
    if state[1].lower() not in _ACTIVE:
        raise PlantFault(f"{tool}: the controller does not measure power: {state[1].decode()}")
    if int(found[1]) == 0:
        raise PlantFault(f"{tool}: the controller says 0 watts: it has no meter")
    return float(found[1])


def find(root: Path, which: Callable[[str], str | None] = shutil.which) -> Bmc:
    """The controller of this machine. Raises PlantFault saying what is missing, and how to mend it.

    Nothing is asked: whether it measures shows at the first answer.
    """
    device = next((root / name for name in _DEVICES if (root / name).exists()), None)
    if device is None:
        raise PlantFault(f"{root / _DEVICES[0]}: no management controller ({HINT})")
    if not os.access(device, os.R_OK | os.W_OK):
        raise PlantFault(f"{device}: Permission denied ({HINT})")
    for name, *words in _TOOLS:
        path = which(name)
        if path is not None:
            return Bmc((path, *words))
    raise PlantFault(f"{device}: neither ipmi-dcmi nor ipmitool is installed ({HINT})")
