"""The numbered instances of templates that the running systemd has, asked for over D-Bus."""

import re
from dataclasses import dataclass

from poolwright.actuators.systemd_bus import Bus, Call, get
from poolwright.core.errors import PlantFault, PolicyError

BUS = "/run/dbus/system_bus_socket"
_ANSWER_S = 5.0
_NUMBERED = re.compile(r"(.+@)([1-9][0-9]{0,5})\.service")
_NO_POOLS = ("user@", "user-runtime-dir@")  # their numbers are users


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """An instance that is active with a process: worker@3.service."""

    template: str  # worker@.service
    number: int
    pid: int
    cgroup: str  # its control group; empty when systemd does not tell


async def running(path: str = BUS) -> tuple[Unit, ...]:
    """All of them, by template and number. Raises PlantFault when there is no systemd to ask."""
    try:
        bus = Bus(path)
    except PolicyError as error:
        raise PlantFault(str(error)) from error
    try:
        call = Call(
            method="ListUnitsByPatterns", signature="asas", body=(["active"], ["*@*.service"])
        )
        (rows,) = await bus.call(call, _ANSWER_S)
        named = [(_NUMBERED.fullmatch(str(row[0])), str(row[6])) for row in rows]
        there = [(m, at) for m, at in named if m is not None and m[1] not in _NO_POOLS]
        names = ("MainPID", "ControlGroup")
        asked = [get(at, "Service", name) for _, at in there for name in names]
        answers = await bus.ask(asked, _ANSWER_S) if asked else []
        told = [None if isinstance(answer, PlantFault) else answer[0][1] for answer in answers]
    except (IndexError, TypeError, ValueError) as error:
        raise PlantFault(f"{path}: its answer is not systemd's: {error}") from error
    finally:
        await bus.close()
    units = [
        Unit(template=f"{m[1]}.service", number=int(m[2]), pid=pid, cgroup=str(group or ""))
        for (m, _), pid, group in zip(there, told[::2], told[1::2], strict=True)
        if isinstance(pid, int) and pid > 0
    ]
    return tuple(sorted(units, key=lambda unit: (unit.template, unit.number)))
