"""Facebook's Autoscale by simulation: what does running the smallest pool save, and when?

    python bench/autoscale.py [--servers 400] [--json out.json]

Facebook published three points of one web server (60 W at rest, 130 W at its first work, 150 W at
medium CPU) and two savings: 27 % about midnight and 10 to 15 % over the day (Qiang Wu, "Making
Facebook's software infrastructure more energy efficient with Autoscale", 8 Aug 2014). Here a
cluster of such servers is played through a day whose night is 46 % of its peak, and the peak at
medium CPU; the share of the night follows from the three points and the 27 %, the rest is
computed. Then the same with the measured SPECpower curves, and with two weeks of a real load.

Before: the load is spread over every server. After: poolwright's own `core.schedule` (grow at
once, shrink only to what the last 30 ticks needed, hysteresis at a bin's edge) follows a plan. A
bin names the number of servers that draws least at its middle among those that carry its upper
edge, and all of them unless that saves more than 2 %. What is inactive idles, or is off. In the row
`learned` the plan is the learner's, from the windows of the day before.
"""

import argparse
import csv
import itertools
import json
import math
import time
from dataclasses import asdict, dataclass
from importlib import resources

import numpy as np

from poolwright.core.model import (
    Context,
    Estimate,
    Evidence,
    FitRequest,
    Observation,
    Plan,
    PlanBin,
    setting,
)
from poolwright.core.policy import Knob, Policy, Slo
from poolwright.core.schedule import Schedule
from poolwright.learn.plan import make_plan
from poolwright.sim.power import machines

MEDIUM = 0.5  # "medium" CPU, as a share
BUSY = 0.7  # as far as a pool may be concentrated where a machine's own optimum is sought
NIGHT, PEAK = 0.23, 0.50  # of the cluster's capacity
TICK_S = 10.0
DAY = round(86_400 / TICK_S)
BIN = 1.1  # upper over lower edge, as the learner has it
FINE = 1.02
NOISE = 0.02  # of a minute's load
WORTH = 0.02  # a shrink that saves less is not made
NOISY = f"sinusoid, {100 * NOISE:.0f} % noise"
LEARNED = 40  # servers, where the plan is the learner's own
UNIT_RPS = 100.0  # of one server's full capacity; only a scale


@dataclass(frozen=True, kw_only=True)
class Server:
    """Watts at rest, and over its load from the first request on: points joined by lines."""

    name: str
    idle_w: float
    loads: tuple[float, ...]
    busy_w: tuple[float, ...]

    def watts(self, load):
        """At a share of its capacity; 0 is rest."""
        return np.where(load > 0.0, np.interp(load, self.loads, self.busy_w), self.idle_w)


def facebook() -> Server:
    """The three published points: nothing is known above medium."""
    return Server(name="Facebook, 2014", idle_w=60.0, loads=(0.0, 0.5), busy_w=(130.0, 150.0))


def measured() -> list[Server]:
    """The SPECpower curves that are shipped with the simulator, eleven points each."""
    steps = tuple(k / 10 for k in range(11))
    return [
        Server(name=name.split(" (")[0], idle_w=watts[0], loads=steps, busy_w=watts)
        for name, watts in machines().items()
    ]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """So many servers, how busy one may be made, and what an inactive one draws."""

    server: Server
    count: int
    limit: float
    off: bool = False
    bin: float = BIN  # upper over lower edge of the schedule's bins

    def watts(self, active, load):
        """Of `load` (a share of the whole cluster's capacity) spread over `active` servers."""
        busy = self.server.watts(np.minimum(load * self.count / active, 1.0))
        return active * busy + (self.count - active) * (0.0 if self.off else self.server.idle_w)

    def best(self, upper: float, middle: float) -> int:
        """The cheapest number of servers at `middle` that carries `upper`; all, unless it pays."""
        least = min(self.count, max(1, math.ceil(upper * self.count / self.limit - 1e-9)))
        choices = np.arange(least, self.count + 1)
        watts = self.watts(choices, middle)
        cheapest = int(np.argmin(watts))
        return int(choices[cheapest]) if watts[cheapest] < (1.0 - WORTH) * watts[-1] else self.count


def plan_of(cluster: Cluster, low: float, high: float) -> Plan:
    """The schedule over loads [rps] as the daemon holds one."""
    low, high = low / cluster.bin, high * cluster.bin
    count = math.ceil(math.log(high / low) / math.log(cluster.bin))
    edges = np.geomspace(low, high, count + 1)
    whole = UNIT_RPS * cluster.count
    bins = []
    for lower, upper in itertools.pairwise(edges):
        held = setting(servers=cluster.best(upper, math.sqrt(lower * upper)))
        bins.append(
            PlanBin(
                load_lower_rps=whole * float(lower),
                load_upper_rps=whole * float(upper),
                setting=held,
                safe_lower=held,
                safe_upper=setting(servers=cluster.count),
                p_safe=1.0,
                predictions=(),
            )
        )
    return Plan(
        version=1,
        fitted_tick=0,
        evidence_digest="",
        context=Context(),
        schedule=tuple(bins),
        candidates=(),
        probes=(),
        best_gain_ratio=0.0,
    )


def taught(cluster: Cluster, loads, seed: int) -> Plan:
    """The plan that poolwright's learner makes of a day of windows, one each quarter of an hour.

    It is told no curve: watts (1 % noise), latency (5 %), CPU and completions, at pools drawn
    between what the limit needs and all. A server's 99th percentile rises as 1 / (1 - busy); the
    SLO is what it is at the limit.
    """
    rng, whole = np.random.default_rng([7, seed]), UNIT_RPS * cluster.count
    evidence = []
    for tick, load in enumerate(loads[:: round(900 / TICK_S)].tolist()):
        need = min(cluster.count, math.ceil(load * cluster.count / cluster.limit))
        active = int(rng.integers(need, cluster.count + 1))
        watts, busy = float(cluster.watts(active, load)), load * cluster.count / active
        tail = 0.1 / (1.0 - busy)
        seen = {
            "cpu_cores": Estimate(mean=16.0 * load * cluster.count, std=0.5),
            "latency_p99_s": Estimate(mean=tail * (1.0 + 0.05 * rng.normal()), std=0.01 * tail),
            "power_w": Estimate(mean=watts * (1.0 + 0.01 * rng.normal()), std=0.001 * watts),
            "throughput_rps": Estimate(mean=load * whole, std=0.001 * load * whole),
        }
        observation = Observation(
            setting=setting(servers=active),
            opened_tick=tick,
            closed_tick=tick,
            span_s=30.0,
            sample_count=1000,
            context=Context(load_rps=load * whole, foreign_cpu_ratio=0.0),
            responses=tuple(sorted(seen.items())),
            app_limited=False,
        )
        evidence.append(Evidence(observation=observation))
    policy = Policy(
        name="web",
        knobs=(Knob(name="servers", lower=1, upper=cluster.count, slew_per_move=cluster.count),),
        objective=(("power_w", 1.0),),
        slo=(Slo(response="latency_p99_s", below=0.1 / (1.0 - cluster.limit), confidence=0.9),),
    )
    last = evidence[-1].observation
    return make_plan(
        FitRequest(
            version=1,
            tick=len(evidence),
            policy=policy,
            evidence=tuple(evidence),
            context=last.context,
            incumbent=last.setting,
            trust_octaves=2.0,
        )
    )


def follow(cluster: Cluster, loads, plan: Plan | None = None) -> np.ndarray:
    """Active servers in each tick, as `core.schedule` moves them."""
    plan = plan or plan_of(cluster, max(float(loads.min()), 1e-3), float(loads.max()))
    schedule, held = Schedule(), setting(servers=cluster.count)
    active = np.empty(len(loads))
    for tick, load in enumerate(loads):
        active[tick] = held["servers"]  # what was decided before this load was seen
        schedule.see(UNIT_RPS * cluster.count * float(load))
        wanted = schedule.wanted(plan, held)
        if wanted is not None:
            held = wanted.setting
    return active


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What concentrating saved, and what it cost in busyness and moves."""

    server: str
    load: str
    inactive: str
    limit: float
    bin: float
    night: float | None  # saving in the hour round midnight
    day: float  # over all hours
    least_active: float  # share of the servers
    most_busy: float  # of an active server
    over: float  # share of the ticks in which an active server is over the limit by 5 %
    moves_per_day: float


def play(cluster: Cluster, name: str, loads, *, night=None, plan=None) -> Outcome:
    """A load through a cluster; the first half hour, in which it is got to know, is not counted."""
    active = follow(cluster, loads, plan)
    skip = round(1800 / TICK_S)
    before = cluster.count * cluster.server.watts(loads)
    after = cluster.watts(active, loads)
    busy = (loads * cluster.count / active)[skip:]
    days = (len(loads) - skip) * TICK_S / 86_400
    return Outcome(
        server=cluster.server.name,
        load=name,
        inactive="off" if cluster.off else "idle",
        limit=cluster.limit,
        bin=cluster.bin,
        night=None if night is None else _saving(before[night], after[night]),
        day=_saving(before[skip:], after[skip:]),
        least_active=float(active[skip:].min()) / cluster.count,
        most_busy=float(busy.max()),
        over=float(np.mean(busy > 1.05 * cluster.limit)),
        moves_per_day=float(np.count_nonzero(np.diff(active[skip:]))) / days,
    )


def _saving(before, after) -> float:
    return 1.0 - float(np.sum(after)) / float(np.sum(before))


def day_load(noise: float, seed: int):
    """A sinusoidal day and the half hour before it, from noon; and the ticks round midnight.

    Noise: of each minute, autoregressive (0.9), as a share of the load.
    """
    ticks = np.arange(-round(1800 / TICK_S), DAY)
    smooth = (PEAK + NIGHT) / 2 + (PEAK - NIGHT) / 2 * np.cos(2 * np.pi * ticks / DAY)
    rng = np.random.default_rng(seed)
    minutes, level = np.empty(len(ticks) // 6 + 1), 0.0
    for k in range(len(minutes)):
        level = 0.9 * level + math.sqrt(1 - 0.9**2) * rng.normal()
        minutes[k] = level
    wobble = 1.0 + noise * np.repeat(minutes, 6)[: len(ticks)]
    half = round(1800 / TICK_S)
    midnight = half + DAY // 2
    return np.maximum(smooth * wobble, 0.01), slice(midnight - half, midnight + half)


def published(server: Server) -> tuple[float, float]:
    """Night's and the day's saving if a pool could be any real number: closed form and sum."""
    ticks = np.arange(DAY)
    loads = (PEAK + NIGHT) / 2 + (PEAK - NIGHT) / 2 * np.cos(2 * np.pi * ticks / DAY)
    share = loads / MEDIUM
    after = share * server.watts(MEDIUM) + (1.0 - share) * server.idle_w
    night = 1.0 - float(after[DAY // 2]) / float(server.watts(loads[DAY // 2]))
    return night, _saving(server.watts(loads), after)


def trace(name: str, column: str, step_s: float, peak: float):
    """A real load in ticks, straight lines between its rows; its 99.9th percentile is `peak`.

    What is above that is cut: no schedule of this cluster could carry it.
    """
    file = resources.files("poolwright.sim") / "traces" / name
    with file.open(encoding="utf-8") as lines:
        rates = np.array([float(row[column]) for row in csv.DictReader(lines)])
    ticks = np.arange(0.0, len(rates) - 1, TICK_S / step_s)
    return np.clip(
        peak * np.interp(ticks, np.arange(len(rates)), rates) / np.quantile(rates, 0.999),
        1e-3,
        peak,
    )


def run(count: int, seed: int) -> list[Outcome]:
    """Every row of the tables."""
    fb, smooth, noisy = facebook(), day_load(0.0, seed), day_load(NOISE, seed)
    found = []
    for width in (FINE, BIN):
        cluster = Cluster(server=fb, count=count, limit=MEDIUM, bin=width)
        found.append(play(cluster, "sinusoid", smooth[0], night=smooth[1]))
        found.append(play(cluster, NOISY, noisy[0], night=noisy[1]))
    some = Cluster(server=fb, count=LEARNED, limit=MEDIUM)
    before = day_load(NOISE, seed + 1)[0]
    plan = taught(some, before, seed)
    found.append(play(some, f"{NOISY}; learned", noisy[0], night=noisy[1], plan=plan))
    for server in measured():
        for limit, off in ((MEDIUM, False), (BUSY, False), (BUSY, True)):
            cluster = Cluster(server=server, count=count, limit=limit, off=off)
            found.append(play(cluster, NOISY, noisy[0], night=noisy[1]))
    real = trace("worldcup98_1min_14d.csv", "rps", 60.0, MEDIUM)
    for server in (fb, *(one for one in measured() if "DL360 G7" in one.name)):
        cluster = Cluster(server=server, count=count, limit=MEDIUM)
        found.append(play(cluster, "World Cup 98, 14 days", real))
    return found


def table(found: list[Outcome]) -> str:
    """Markdown."""
    head = (
        "server", "load", "inactive", "busy at most", "bins", "saved at night",
        "saved over the day", "fewest active", "busiest", "ticks over", "moves a day",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|" + "--:|" * 8]
    for o in found:
        night = "" if o.night is None else f"{100 * o.night:.1f} %"
        lines.append(
            f"| {o.server} | {o.load} | {o.inactive} | {o.limit:.1f} | "
            f"{100 * (o.bin - 1):.0f} % | {night} | "
            f"{100 * o.day:.1f} % | {100 * o.least_active:.0f} % | {o.most_busy:.2f} | "
            f"{100 * o.over:.2f} % | {o.moves_per_day:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Play, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--servers", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the load's noise")
    parser.add_argument("--json", default="", help="write the rows here, - for standard output")
    asked = parser.parse_args()
    began = time.perf_counter()
    night, day = published(facebook())
    found = run(asked.servers, asked.seed)
    if asked.json != "-":
        print("Published: 27 % about midnight, 10 to 15 % over the day.")
        print(f"Three points alone, a pool of any real size: {100 * night:.1f} % about midnight, "
              f"{100 * day:.1f} % over the day.\n")  # fmt: skip
        print(table(found))
        print(f"\n{asked.servers} servers, seed {asked.seed}, {time.perf_counter() - began:.0f} s")
    if asked.json:
        exact = {"night": night, "day": day}
        told = json.dumps({"exact": exact, "rows": [asdict(o) for o in found]}, indent=1)
        if asked.json == "-":
            print(told)
        else:
            with open(asked.json, "w", encoding="utf-8") as out:  # noqa: PTH123
                out.write(told + "\n")


if __name__ == "__main__":
    main()
