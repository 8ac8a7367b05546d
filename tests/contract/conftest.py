"""A fixture for each kind of actuator: tests/support/plant_KIND.py."""

import importlib

from poolwright.actuators import ACTUATORS

for _kind in ACTUATORS:
    globals()[_kind] = getattr(importlib.import_module(f"plant_{_kind}"), _kind)
