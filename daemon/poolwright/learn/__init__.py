"""The surrogate and the choice of probes: `plan.make_plan`. Pure, heavy, run in its own process.

Importing this package, or `learn.wire`, does not import numpy; everything else here does.
"""
