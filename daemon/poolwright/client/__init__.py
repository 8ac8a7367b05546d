"""What a Python application imports so that poolwright can see it and move its concurrency.

Standard library only, and nothing is imported before its name is used: an application that only
wants the limiter does not pay for threads. How to use it, and what is guaranteed: docs/client.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolwright.client.asgi import AsgiMeter
    from poolwright.client.desk import Offer, offer
    from poolwright.client.executor import ResizableThreadPoolExecutor
    from poolwright.client.limiter import ConcurrencyLimiter
    from poolwright.client.meter import Meter
    from poolwright.client.wsgi import WsgiMeter

__all__ = [
    "AsgiMeter",
    "ConcurrencyLimiter",
    "Meter",
    "Offer",
    "ResizableThreadPoolExecutor",
    "WsgiMeter",
    "offer",
]

_HOMES = {
    "AsgiMeter": "asgi",
    "ConcurrencyLimiter": "limiter",
    "Meter": "meter",
    "Offer": "desk",
    "ResizableThreadPoolExecutor": "executor",
    "WsgiMeter": "wsgi",
    "offer": "desk",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, once."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found
