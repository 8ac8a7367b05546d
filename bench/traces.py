"""Real days, simulated: poolwright against a fixed size, an oracle and a CPU autoscaler.

Three traces (World Cup 1998, an AWS load balancer, Azure LLM inference), each scaled to a service
that needs 2 to about 24 workers. On the same requests:

- poolwright, with the shipped policies `balanced` and `autoscale` in mode auto;
- the best fixed size in hindsight: fewest minutes outside the SLO, then fewest worker-hours;
- an oracle: it knows the load of every minute to come, and from a sweep of constant loads the
  smallest size that holds the SLO there; it is at that size when the minute begins;
- the Kubernetes horizontal pod autoscaler's law on CPU, with its defaults (every 15 s, tolerance
  10 %, up by at most 100 % or 4 in 15 s, down to the highest recommendation of 300 s). Its target
  is 80 % of the CPU per worker at the oracle's size at half of the peak, as somebody would set it
  who had made the same sweep; it reads CPU of the last 15 s without delay.

A minute is outside when its p99 or its share of errors is over the policy's SLO. The start is the
folk size for poolwright (2 * cores + 1), and the right one for the oracle and the autoscaler.

    nice .venv/bin/python bench/traces.py --days 2 --out traces.json
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from poolwright.cli.simulate import makers
from poolwright.core.sketch import SketchBuilder
from poolwright.engine.stage import bind_scenario, stage
from poolwright.policy.tree import parse_document
from poolwright.sim.faults import Faults
from poolwright.sim.fixed import best_fixed
from poolwright.sim.report import Tally
from poolwright.sim.world import Service, SimClock, World

DAY_S = 86400.0
PEAK_RPS = 320.0
CORES = 12
MOST = 48
SLO_S = 0.250
TRACES = {  # name -> (what, YAML of the load)
    "worldcup98": ("World Cup 1998, 30 June on", "name: worldcup98, start: 8d"),
    "aws_elb": ("AWS load balancer, 14 April 2014 on", "name: aws_elb, start: 4d"),
    "azure_llm": ("Azure LLM, its hour again and again", "name: azure_llm"),
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
  knobs: {{workers: {{max: {most}}}}}
workers: {workers}
plant:
  cores: {cores}
  service: [{{cpu: 8ms, io: 50ms, io_cv: 0.5}}]
load: {{kind: trace, {load}, peak: {peak}}}
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of sizing, on one trace."""

    trace: str
    who: str
    days: float
    minutes: int
    minutes_outside: int
    resizes_per_day: float
    probes: int
    worker_hours_per_day: float
    requests_failed: int
    joules_per_request: float
    levels: tuple[int, int]
    spent_s: float


def scenario_of(trace, policy, days):
    text = SCENARIO.format(
        name=trace.replace("_", "-"),
        policy=policy,
        load=TRACES[trace][1],
        seconds=days * DAY_S,
        peak=PEAK_RPS,
        most=MOST,
        cores=CORES,
        workers=2 * CORES + 1,
    )
    return bind_scenario(parse_document(text.encode(), f"{trace}.yaml"), Path("/"))


def row_of(trace, who, tally, days, began, *, resizes=None):
    report = tally.report()
    return Row(
        trace=trace,
        who=who,
        days=days,
        minutes=report.minutes,
        minutes_outside=report.minutes_outside_slo,
        resizes_per_day=(report.moves if resizes is None else resizes) / days,
        probes=report.probes,
        worker_hours_per_day=report.worker_hours / days,
        requests_failed=report.requests_failed,
        joules_per_request=report.joules_per_request,
        levels=report.levels,
        spent_s=time.perf_counter() - began,
    )


def poolwright(trace, policy, days, seed, made):
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        staged = stage(scenario_of(trace, policy, days), seed, made, Path(folder) / "j.db")
        staged.simulation.run()
    return row_of(trace, f"poolwright, {policy}", staged.tallies["web"], days, began)


def driven(trace, who, rule, first, days, seed, made, policy):
    """The service sized by `rule(second, cpu_cores, level) -> level or None`, once a second."""
    began = time.perf_counter()
    scenario = scenario_of(trace, "balanced", days)
    (part,) = scenario.services()
    plant = made.plant(part.plant, first, seed)
    faults, clock = Faults((), seed), SimClock()
    world = World([Service("web", plant, part.load, faults)], faults, clock)
    tally = Tally(pool="web", policy=policy, duration_s=scenario.duration)
    resizes = 0
    for second in range(int(scenario.duration)):
        wanted = rule(second, plant.truth.cpu_s, plant.workers)
        if wanted is not None and wanted != plant.workers:
            plant.resize(wanted)
            resizes += 1
        clock.pass_ns(10**9)
        for truth in world.advance(1.0):
            tally.saw(truth)
    return row_of(trace, who, tally, days, began, resizes=resizes)


def sweep(made, seed):
    """(load, smallest size that holds the SLO, CPU there), at constant loads up to the peak."""
    (part,) = scenario_of("worldcup98", "balanced", 1.0).services()
    found, level = [], 2
    rps = 5.0
    while rps <= PEAK_RPS * 1.35:
        while True:
            plant = made.plant(part.plant, level, seed)
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
    return found


def oracle(load, needs):
    """Each minute the size for the highest load in it, five seconds before it comes."""

    def need(rps):
        return next(level for known, level, _ in needs if known >= rps)

    def at(second):
        lowest = max(0, second - 5)
        return max(load.rate(float(s)) for s in range(lowest, second + 66, 5))

    def rule(second, _cpu, _level):
        return need(at(second)) if second % 60 == 55 else None

    return rule, need(at(0))


def autoscaler(target_cores, first):
    """The law of the horizontal pod autoscaler, with its defaults."""
    seen = deque(maxlen=15)
    recommended = deque()

    def rule(second, cpu_cores, level):
        seen.append(cpu_cores)
        if second % 15 != 14:
            return None
        ratio = sum(seen) / len(seen) / level / target_cores
        wanted = level if abs(1.0 - ratio) <= 0.1 else math.ceil(level * ratio)
        wanted = min(wanted, max(2 * level, level + 4), MOST)
        recommended.append((second, wanted))
        while recommended[0][0] <= second - 300:
            recommended.popleft()
        highest = max(level_then for _, level_then in recommended)
        return max(2, wanted if wanted >= level else min(level, highest))

    return rule, first


def rows_of(trace, days, seed, made, needs):
    for policy in ("balanced", "autoscale"):
        yield poolwright(trace, policy, days, seed, made)
    scenario = scenario_of(trace, "balanced", days)
    (part,) = scenario.services()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        policy = stage(scenario, seed, made, Path(folder) / "j.db").policies["web"]
    began = time.perf_counter()
    best = best_fixed(scenario, "web", policy, made.plant, seed)
    yield Row(
        trace=trace,
        who="best fixed size",
        days=days,
        minutes=int(days * 1440),
        minutes_outside=best.minutes_outside_slo,
        resizes_per_day=0.0,
        probes=0,
        worker_hours_per_day=best.worker_hours / days,
        requests_failed=best.requests_failed,
        joules_per_request=best.joules_per_request,
        levels=(best.level, best.level),
        spent_s=time.perf_counter() - began,
    )
    rule, first = oracle(part.load, needs)
    yield driven(trace, "oracle", rule, first, days, seed, made, policy)
    _, level, cpu = next(found for found in needs if found[0] >= PEAK_RPS / 2)
    rule, first = autoscaler(0.8 * cpu / level, first)
    yield driven(trace, "HPA on CPU", rule, first, days, seed, made, policy)


def table(rows):
    head = "trace|sized by|minutes outside the SLO|worker-hours a day|resizes a day|probes"
    columns = [*head.split("|"), "requests failed", "J/request", "workers"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for r in rows:
        share = r.minutes_outside / r.minutes
        lines.append(
            f"| {r.trace} | {r.who} | {r.minutes_outside} of {r.minutes} ({share:.2%}) "
            f"| {r.worker_hours_per_day:.0f} | {r.resizes_per_day:.0f} | {r.probes} "
            f"| {r.requests_failed:,} | {r.joules_per_request:.2f} "
            f"| {r.levels[0]}..{r.levels[1]} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--days", type=float, default=2.0)
    parser.add_argument("--traces", nargs="+", choices=TRACES, default=list(TRACES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    args = parser.parse_args()
    made = makers()
    needs = sweep(made, args.seed)
    print("sweep: " + ", ".join(f"{rps:.0f}/s {n}" for rps, n, _ in needs), file=sys.stderr)
    rows = []
    for trace in args.traces:
        for row in rows_of(trace, args.days, args.seed, made, needs):
            rows.append(row)
            print(f"{row.trace}, {row.who}: {row.spent_s:.0f} s", file=sys.stderr, flush=True)
            if args.out is not None:
                args.out.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    print(json.dumps([asdict(r) for r in rows], indent=1) if args.json else table(rows))


if __name__ == "__main__":
    main()
