"""Asking the world, with a deadline: sensors in parallel, and the actuator's read-back.

Whatever goes wrong becomes a Reading with status error for every signal that was due, or a missing
read-back with its reason. A third party's sensor may raise anything; none of it stops a tick.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from poolwright.core.errors import PlantFault
from poolwright.core.model import Applied, Reading, Status
from poolwright.ports import Actuator, Sensor

_READ_BACK_S = 1.0
_LOG = logging.getLogger("poolwright.gather")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the world said when asked once."""

    readings: tuple[Reading, ...]  # in the order of the sensors
    took: tuple[tuple[str, float], ...]  # (source, seconds) of each sensor
    applied: Applied | None  # None: it could not be read, and `fault` says why
    fault: str


async def look(sensors: Sequence[Sensor], actuator: Actuator, now_ns: int) -> Look:
    """Ask all of them at once."""
    (applied, fault), results = await asyncio.gather(
        read_back(actuator), asyncio.gather(*(_read_one(sensor, now_ns) for sensor in sensors))
    )
    return Look(
        readings=tuple(reading for found, _ in results for reading in found),
        took=tuple((s.source, took) for s, (_, took) in zip(sensors, results, strict=True)),
        applied=applied,
        fault=fault,
    )


async def _read_one(sensor: Sensor, now_ns: int) -> tuple[tuple[Reading, ...], float]:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(sensor.deadline_s):
            readings = await sensor.read(now_ns)
    except TimeoutError:
        readings = _broken(sensor, now_ns, f"no answer within {sensor.deadline_s:g} s")
    except PlantFault as fault:
        readings = _broken(sensor, now_ns, str(fault))
    except Exception as error:  # noqa: BLE001 - third-party adapters may raise anything
        _LOG.exception("sensor %s raised", sensor.source)
        readings = _broken(sensor, now_ns, f"{type(error).__name__}: {error}")
    return readings, time.perf_counter() - began


def _broken(sensor: Sensor, now_ns: int, detail: str) -> tuple[Reading, ...]:
    return tuple(
        Reading(
            signal=signal,
            source=sensor.source,
            status=Status.ERROR,
            taken_mono_ns=now_ns,
            detail=detail,
        )
        for signal in sensor.signals
    )


async def read_back(actuator: Actuator) -> tuple[Applied | None, str]:
    """The real levels, or None and why not."""
    try:
        async with asyncio.timeout(_READ_BACK_S):
            return await actuator.read(), ""
    except TimeoutError:
        return None, f"{actuator.endpoint}: no answer within {_READ_BACK_S:g} s"
    except PlantFault as fault:
        return None, str(fault)
    except Exception as error:  # noqa: BLE001 - third-party adapters may raise anything
        _LOG.exception("actuator %s raised", actuator.endpoint)
        return None, f"{actuator.endpoint}: {type(error).__name__}: {error}"
