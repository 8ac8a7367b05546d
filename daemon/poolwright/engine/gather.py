"""Asking the world: sensors, and the actuator's read-back, each with a deadline where it can wait.

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

Answer = tuple[tuple[Reading, ...], float]  # and how long it took, in seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the world said when asked once."""

    readings: tuple[Reading, ...]  # in the order of the sensors
    took: tuple[tuple[str, float], ...]  # (source, seconds) of each sensor
    applied: Applied | None  # None: it could not be read, and `fault` says why
    fault: str


async def look(sensors: Sequence[Sensor], actuator: Actuator, now_ns: int) -> Look:
    """Ask all of them: those that never wait one by one, those that may wait at once."""
    slow = [s for s in sensors if s.deadline_s is not None]
    found = {id(s): _at_once(s, now_ns) for s in sensors if s.deadline_s is None}
    if slow:
        (applied, fault), late = await asyncio.gather(
            read_back(actuator), asyncio.gather(*(_in_time(s, now_ns) for s in slow))
        )
        found.update(zip(map(id, slow), late, strict=True))
    else:
        applied, fault = await read_back(actuator)
    results = [(s.source, *found[id(s)]) for s in sensors]
    return Look(
        readings=tuple(reading for _, readings, _ in results for reading in readings),
        took=tuple((source, took) for source, _, took in results),
        applied=applied,
        fault=fault,
    )


def _at_once(sensor: Sensor, now_ns: int) -> Answer:
    """Of a sensor that never waits. One that does all the same is not waited for."""
    began = time.perf_counter()
    reading = sensor.read(now_ns)
    try:
        reading.send(None)
    except StopIteration as done:
        readings: tuple[Reading, ...] = done.value
    except Exception as error:  # noqa: BLE001 - third-party adapters may raise anything
        readings = _failed(sensor, now_ns, error)
    else:
        reading.close()
        readings = _broken(sensor, now_ns, "it waits, and has no deadline")
    return readings, time.perf_counter() - began


async def _in_time(sensor: Sensor, now_ns: int) -> Answer:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(sensor.deadline_s):
            readings = await sensor.read(now_ns)
    except TimeoutError:
        readings = _broken(sensor, now_ns, f"no answer within {sensor.deadline_s:g} s")
    except Exception as error:  # noqa: BLE001 - third-party adapters may raise anything
        readings = _failed(sensor, now_ns, error)
    return readings, time.perf_counter() - began


def _failed(sensor: Sensor, now_ns: int, error: Exception) -> tuple[Reading, ...]:
    if isinstance(error, PlantFault):
        return _broken(sensor, now_ns, str(error))
    _LOG.error("sensor %s raised", sensor.source, exc_info=error)
    return _broken(sensor, now_ns, f"{type(error).__name__}: {error}")


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
