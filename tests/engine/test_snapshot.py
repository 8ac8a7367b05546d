"""What the engine counts for people and for Prometheus."""

from dataclasses import replace

import ticks as make
from pools import World


async def test_each_finished_comparison_with_the_baseline_is_counted_once(tmp_path):
    rule = make.policy(explore=replace(make.policy().explore, holdout_every_s=60.0))
    world = World(tmp_path / "journal.db", rule)
    finished = 0
    while finished < 2:
        if world.learner.requests:
            version = world.learner.requests.pop().version
            world.learner.plan = make.plan(version, 6)  # better than the baseline of 4 workers
        decision = await world.tick()
        assert decision.tick < 2000, "two comparisons"
        finished += decision.holdout is not None
        assert dict(world.pool.snapshot.counters).get("holdouts", 0) == finished
    world.journal.close()
