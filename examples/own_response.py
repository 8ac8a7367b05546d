# ruff: noqa: INP001  a module of somebody else's package
"""A response of your own: garbage-collection pauses, which grow with the memory of each worker.

In the package that has it, pyproject.toml says

    [project.entry-points."poolwright.models"]
    gc_pause = "own_response:GcPause"

A sensor of yours gives windows a response `gc_pause_s`; a policy may then weigh it.
"""

from poolwright.learn.declare import At, Model, Normal, Seen, Values
from poolwright.learn.points import Array


class GcPause(Model):
    """Log pause, linear in the log of memory, and in that of the load."""

    response = "gc_pause_s"
    parents = ("memory_bytes",)

    def priors(self, seen: Seen) -> dict[str, Normal]:
        """The oldest window's pause; twice the memory, about twice the pause."""
        return {"pause": Normal(seen.first, 0.7), "heap": Normal(0.7, 0.3), "load": Normal(0, 0.3)}

    def mean(self, p: Values, at: At) -> Array:
        """Memory comes as a multiple of the first window's, the load as a logarithm."""
        return p.pause + p.heap * (at["memory_bytes"] - 1.0) + p.load * at.log_load
