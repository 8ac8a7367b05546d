"""What became of a move, as an Actuation: the part that is the same for all actuators."""

import time
from collections.abc import Coroutine
from typing import Any

from poolwright.actuators.absolute import Refusal
from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, ActuationStatus


async def outcome_of(
    move: Coroutine[Any, Any, str], endpoint: str, decision_tick: int
) -> Actuation:
    """Do it: applied, with the detail that it gives; refused on Refusal; failed on PlantFault."""
    began = time.perf_counter()
    try:
        status, detail = ActuationStatus.APPLIED, await move
    except Refusal as refusal:
        status, detail = ActuationStatus.REFUSED, f"{endpoint}: {refusal}"
    except PlantFault as fault:
        status, detail = ActuationStatus.FAILED, f"{endpoint}: {fault}"
    took_s = time.perf_counter() - began
    return Actuation(decision_tick=decision_tick, status=status, took_s=took_s, detail=detail)
