"""A journal that holds a day until now: what a daemon would have written, from the simulator.

    day(path, ("web", "api"))

A tick is ten seconds long, so that ten pools take a minute and not ten.
"""

import time

from poolwright.cli.simulate import makers
from poolwright.engine.stage import bind_scenario, stage
from poolwright.policy.tree import read_document

DAY_S = 86400
_SCENARIO = """\
version: 1
name: day
duration: 1d
cadence: 10s
pools:
"""
_POOL = """\
  - name: {name}
    policy: {{version: 1, name: {name}, extends: autoscale, mode: auto, cadence: 10s}}
    workers: 6
    plant:
      cores: 4
      service: [{{cpu: 20ms, io: 150ms, io_cv: 0.5}}]
    load:
      kind: noise
      cv: 0.08
      every: 60s
      of: {{kind: diurnal, low: 3/s, high: {high}/s, peak_at: {peak}h}}
"""


def day(journal, names):
    """Simulate a day of these pools into a new journal; it ends now."""
    written = journal.with_suffix(".yaml")
    pools = (
        _POOL.format(name=name, high=18 + 3 * (n % 4), peak=9 + n % 8)
        for n, name in enumerate(names)
    )
    written.write_text(_SCENARIO + "".join(pools))
    played = stage(bind_scenario(read_document(written), journal.parent), 0, makers(), journal)
    clock = played.simulation.world.clock
    clock.step_wall(time.time() - DAY_S - clock.wall_ns() / 1e9)
    played.simulation.run()
