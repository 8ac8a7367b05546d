"""What the contract tests of actuators know of a plant. One file a kind: plant_KIND.py, which holds
the pytest fixture KIND that starts the real thing and gives a Plant.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from poolwright.actuators import ACTUATORS


@dataclass
class Plant:
    """A real plant of one kind, with 2 of what its knob counts."""

    make: Callable  # -> a new actuator of it
    count: Callable  # -> how many there really are, seen past the actuator
    end: Callable  # the plant dies
    name: str  # must be in the endpoint
    most: int = 8  # a level that takes so many steps that it can be interrupted
    atomic: bool = False  # any level is reached in one step, which cannot be interrupted


def kind_of(name):
    """The actuator class of a line in the table."""
    module, _, kind = ACTUATORS[name].partition(":")
    return getattr(importlib.import_module(module), kind)
