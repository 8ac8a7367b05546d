"""Real days on the simulated service, and ways to size it that are no control laws.

Three traces (World Cup 1998, an AWS load balancer, Azure LLM inference), each scaled to a service
that needs 2 to about 24 workers. A minute is outside when its p99 or its share of errors is over
the policy's SLO. `tracking.py` plays them all.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from poolwright.cli.simulate import makers
from poolwright.core.model import Reading
from poolwright.core.sketch import Sketch, SketchBuilder
from poolwright.engine.stage import Stage, bind_scenario, stage
from poolwright.policy.tree import parse_document
from poolwright.sim.fixed import best_fixed
from poolwright.sim.plant import Plant, PlantShape
from poolwright.sim.plant import Truth as PlantTruth
from poolwright.sim.report import Tally
from poolwright.sim.scenario import Scenario
from poolwright.sim.world import Load, Truth

DAY_S = 86400.0
PEAK_RPS = 320.0
CORES = 12
FOLK = 2 * CORES + 1
LEAST, MOST = 2, 48
SLO_S = 0.250
TRACES = {  # name -> (what, YAML of the load)
    "worldcup98": ("World Cup 1998", "name: worldcup98, start: 8d"),  # 30 June
    "aws_elb": ("AWS load balancer", "name: aws_elb, start: 4d"),  # 14 April 2014
    "azure_llm": ("Azure LLM", "name: azure_llm"),  # its hour again and again
}
SCENARIO = """
version: 1
name: {name}
duration: {seconds:.0f}s
policy:
  version: 1
  name: {policy}
  extends: {policy}
  mode: auto
  knobs: {{workers: {{min: {least}, max: {most}}}}}
workers: {workers}
plant:
  cores: {cores}
  service: [{{cpu: 8ms, io: 50ms, io_cv: 0.5}}]
{boot}load: {{kind: trace, {load}, peak: {peak}}}
"""
AT_ONCE = "  boot: {lasts: 0s, cpu: 0s}\n"
# (seconds since the start, the service, what its sensors say) -> its level, or None: as it is
Rule = Callable[[float, Plant, tuple[Reading, ...]], int | None]


@dataclass(frozen=True, kw_only=True)
class Day:
    """A trace, played from one seed for so many days."""

    trace: str
    seed: int = 0
    days: float = 1.0
    threads: bool = False  # workers are there at once, as threads are

    def scenario(self, policy: str = "balanced") -> Scenario:
        """It as a scenario of the simulator."""
        text = SCENARIO.format(
            name=self.trace.replace("_", "-"),
            policy=policy,
            load=TRACES[self.trace][1],
            seconds=self.days * DAY_S,
            peak=PEAK_RPS,
            least=LEAST,
            most=MOST,
            cores=CORES,
            workers=FOLK,
            boot=AT_ONCE if self.threads else "",
        )
        return bind_scenario(parse_document(text.encode(), f"{self.trace}.yaml"), Path("/"))

    @contextmanager
    def staged(self, policy: str = "balanced") -> Iterator[Stage]:
        """It with poolwright beside it, ready to run."""
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            yield stage(self.scenario(policy), self.seed, makers(), Path(folder) / "j.db")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of sizing, on one day. Fields with `_per_day` are means over the days."""

    trace: str
    who: str
    seed: int
    days: float
    threads: bool
    minutes: int
    minutes_outside: int
    worker_hours_per_day: float
    joules_per_request: float
    moves_per_day: float
    probes: int
    requests_failed: int
    levels: tuple[int, int]
    spent_s: float


def row_of(day: Day, who: str, tally: Tally, began_s: float, *, moves: int | None = None) -> Row:
    """What a tally came to; `moves` as counted here, or poolwright's decisions."""
    report = tally.report()
    return Row(
        trace=day.trace,
        who=who,
        seed=day.seed,
        days=day.days,
        threads=day.threads,
        minutes=report.minutes,
        minutes_outside=report.minutes_outside_slo,
        worker_hours_per_day=report.worker_hours / day.days,
        joules_per_request=report.joules_per_request or 0.0,
        moves_per_day=(report.moves if moves is None else moves) / day.days,
        probes=report.probes,
        requests_failed=report.requests_failed,
        levels=report.levels,
        spent_s=time.process_time() - began_s,
    )


def poolwright(day: Day, who: str, policy: str) -> Row:
    """The daemon itself, with a shipped policy in mode auto."""
    began = time.process_time()
    with day.staged(policy) as staged:
        staged.simulation.run()
    return row_of(day, who, staged.tallies["web"], began)


class Plain(Plant):
    """The plant, with the one sensor that a rule reads: making up the others takes a third of the
    time of a short tick.
    """

    def __init__(self, shape: PlantShape, workers: int, seed: int) -> None:
        super().__init__(shape, workers, seed)
        self._eyes = self

    def see(self, truth: PlantTruth, _pool, _ended, service: Sketch, _foreign) -> tuple[Reading]:
        """The time in a worker."""
        mean, at_ns = service.mean if service.count else 0.0, round(truth.at_s * 1e9)
        kept = {"value": mean, "sketch": service, "taken_mono_ns": at_ns}
        return (Reading(signal="service_time_s", source="sim", **kept),)


def driven(day: Day, who: str, rule: Rule, first: int, tick_s: float = 1.0) -> Row:
    """The service sized by a rule that looks every `tick_s` seconds, from `first` workers on.

    Watts are a curve of CPU that is not straight: they are told by the whole second, whatever the
    tick is.
    """
    began, scenario = time.process_time(), day.scenario()
    with day.staged() as staged:
        policy = staged.policies["web"]
    (part,) = scenario.services()
    shape = part.plant
    plant = Plain(shape, first, day.seed)
    tally = Tally(pool="web", policy=policy, duration_s=scenario.duration)
    moves, used_s, ticks = 0, 0.0, round(1.0 / tick_s)
    for tick in range(round(scenario.duration / tick_s)):
        rate = part.load.rate(tick * tick_s)
        readings = plant.tick(rate, tick_s)
        used_s += plant.truth.cpu_s
        joules = 0.0
        if (tick + 1) % ticks == 0:
            joules, used_s = shape.power.watts(used_s / shape.cores), 0.0
        tally.saw(told(plant, rate, joules))
        wanted = rule(plant.now_s, plant, readings)
        if wanted is not None and wanted != plant.workers:
            plant.resize(wanted)
            moves += 1
    return row_of(day, who, tally, began, moves=moves)


def told(plant: Plant, rate: float, joules: float) -> Truth:
    """The last tick, as a tally is told it."""
    truth = plant.truth
    return Truth(
        pool="web",
        at_s=truth.at_s,
        dt_s=truth.dt_s,
        load_rps=rate,
        level=plant.workers,
        arrived=truth.arrived,
        failed=truth.errors,
        waiting=truth.waiting,
        latency=truth.latency,
        joules=joules,
        readings=(),
    )


def hindsight(day: Day, who: str) -> Row:
    """The best fixed size: fewest minutes outside the SLO, then fewest worker-hours."""
    began, scenario = time.process_time(), day.scenario()
    with day.staged() as staged:
        policy = staged.policies["web"]
    best = best_fixed(scenario, "web", policy, makers().plant, day.seed)
    return Row(
        trace=day.trace,
        who=who,
        seed=day.seed,
        days=day.days,
        threads=day.threads,
        minutes=int(day.days * 1440),
        minutes_outside=best.minutes_outside_slo,
        worker_hours_per_day=best.worker_hours / day.days,
        joules_per_request=best.joules_per_request or 0.0,
        moves_per_day=0.0,
        probes=0,
        requests_failed=best.requests_failed,
        levels=(best.level, best.level),
        spent_s=time.process_time() - began,
    )


Needs = tuple[tuple[float, int, float], ...]  # (load, smallest size that holds the SLO, CPU there)


@functools.cache
def sweep(seed: int, most_rps: float = PEAK_RPS * 1.35) -> Needs:
    """What constant loads need, up to one above the peak."""
    (part,) = Day(trace="worldcup98").scenario().services()
    found, level, rps = [], LEAST, 5.0
    while rps <= most_rps:
        while True:
            plant = makers().plant(part.plant, level, seed)
            latency, cpu_s, errors, arrived = SketchBuilder(), 0.0, 0, 0
            for second in range(330):
                plant.tick(rps, 1.0)
                if second >= 30:
                    latency.merge(plant.truth.latency)
                    cpu_s += plant.truth.cpu_s
                    errors += plant.truth.errors
                    arrived += plant.truth.arrived
            # A fifth below the bound, since a minute has fewer requests than five.
            if latency.freeze().quantile(0.99) < 0.8 * SLO_S and errors <= 0.001 * arrived:
                break
            level += 1
            if level > MOST:
                raise SystemExit(f"{rps} requests/s need more than {MOST} workers")
        found.append((rps, level, cpu_s / 300.0))
        rps = rps + 5.0 if rps < 60.0 else rps * 1.08
    return tuple(found)


def known(needs: Needs, load: Load) -> tuple[Rule, int]:
    """The oracle: each minute the size for the highest load in it, five seconds before it comes."""

    def need(second: int) -> int:
        lowest = max(0, second - 5)
        highest = max(load.rate(float(s)) for s in range(lowest, second + 66, 5))
        return next(level for rps, level, _ in needs if rps >= highest)

    def rule(at_s: float, _plant: Plant, _readings: tuple[Reading, ...]) -> int | None:
        return need(round(at_s)) if round(at_s) % 60 == 55 else None

    return rule, need(0)


def oracle(day: Day, who: str) -> Row:
    """Sized by one who knows the load of every minute, and what each load needs."""
    (part,) = day.scenario().services()
    rule, first = known(sweep(day.seed), part.load)
    return driven(day, who, rule, first)
