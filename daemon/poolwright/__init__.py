"""poolwright: finds the right size for the worker pools of a live service, and holds it there."""

__version__ = "0.1.0"
