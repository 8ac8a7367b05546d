"""How a move ends: from what it raised, or did not, to an Actuation."""

import time
from collections.abc import Awaitable, Callable

from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, ActuationStatus


class Refusal(Exception):
    """What was asked for may not be done; the message says what to do about it."""


async def outcome(
    endpoint: str,
    decision_tick: int,
    move: Awaitable[str | None],
    *,
    denied: type[PlantFault] | tuple[()] = (),
    allow: str = "",
    undone: Callable[[], None] | None = None,
) -> Actuation:
    """Carry out `move`: applied (what it gives is the detail), refused (it raised Refusal, or the
    fault `denied`: then `allow` says what would allow it) or failed (PlantFault).

    `undone` is called when it was not applied, also when it was cancelled.
    """
    began = time.perf_counter()
    status, detail = ActuationStatus.FAILED, ""
    try:
        detail = await move or ""
        status = ActuationStatus.APPLIED
    except Refusal as refused:
        status, detail = ActuationStatus.REFUSED, f"{endpoint}: {refused}"
    except denied as fault:
        status = ActuationStatus.REFUSED
        detail = "; ".join(filter(None, (f"{endpoint}: {fault}", allow)))
    except PlantFault as fault:
        detail = f"{endpoint}: {fault}"
    finally:
        if status is not ActuationStatus.APPLIED and undone is not None:
            undone()
    return Actuation(
        decision_tick=decision_tick,
        status=status,
        took_s=time.perf_counter() - began,
        detail=detail,
    )
