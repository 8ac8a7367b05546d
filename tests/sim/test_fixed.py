"""The best fixed size in hindsight."""

from playing import makers, scenario

from poolwright.engine.stage import stage
from poolwright.sim.fixed import best_fixed, held

BRIEF = """
version: 1
name: brief
duration: 3m
policy: {version: 1, name: brief, extends: balanced, knobs: {workers: {min: 2, max: 20}}}
workers: 6
plant: {cores: 4, service: [{cpu: 6ms, io: 50ms, io_cv: 0.5}]}
load: {kind: step, before: 40/s, after: 90/s, at: 90s}
"""


def test_it_is_the_smallest_of_those_that_are_outside_for_the_fewest_minutes(tmp_path):
    brief = scenario(BRIEF)
    made = makers()
    policy = stage(brief, 0, made, tmp_path / "j.db").policies["web"]
    every = [held(brief, "web", policy, made.plant, 0, level) for level in range(2, 21)]
    fewest = min(found.minutes_outside_slo for found in every)
    assert fewest < every[0].minutes_outside_slo, "it matters which"
    smallest = next(found for found in every if found.minutes_outside_slo == fewest)
    assert best_fixed(brief, "web", policy, made.plant, 0) == smallest
