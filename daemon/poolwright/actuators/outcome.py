"""How a move ends: from what it raised, or did not, to an Actuation."""

import time
from collections.abc import Awaitable

from poolwright.actuators.absolute import Refusal
from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, ActuationStatus

__all__ = ["Refusal", "outcome"]


async def outcome(endpoint: str, decision_tick: int, move: Awaitable[str | None]) -> Actuation:
    """Carry out `move`: applied (what it gives is the detail), refused (it raised Refusal) or
    failed (PlantFault).
    """
    began = time.perf_counter()
    try:
        status, detail = ActuationStatus.APPLIED, await move or ""
    except Refusal as refused:
        status, detail = ActuationStatus.REFUSED, f"{endpoint}: {refused}"
    except PlantFault as fault:
        status, detail = ActuationStatus.FAILED, f"{endpoint}: {fault}"
    return Actuation(
        decision_tick=decision_tick,
        status=status,
        took_s=time.perf_counter() - began,
        detail=detail,
    )
