"""Does poolwright find the best level of a real server from a bad one?

    python bench/converge/run.py --servers all --write
    python bench/converge/run.py --servers pgbouncer,haproxy --seconds 90
    python bench/converge/run.py --servers gunicorn --bad 5 --runs 10

For each server: every level of a geometric sweep is measured on a freshly started server, twice, in
shuffled order, under the same load; then the server is started at a level that is far too small,
and at one that is far too large, with the daemon beside it in mode auto. Latency and what was lost
are the clients', from the moment at which a request was intended; CPU, memory and power are read by
poolwright's own sensors in this process. J is the policy's objective, less is better, divided by
the references that the daemon had in that run.

The best is the least of a fit over the levels, since the least of many noisy values is too low:
local quadratic of log J over log2 of the level (Cleveland, "Robust locally weighted regression",
1979, without the robustness steps). The exit status is 1 when a run does not end within 10 % of it,
or loses a request. Needs a machine with nothing else to do.
"""

import argparse
import asyncio
import math
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from converge import table
from converge.servers import SERVERS, Server
from converge.stand import LAST_S, Run, converge, lost, measure, write_policy
from poolwright.core.policy import Policy
from poolwright.demo.stats import Second, objective, p99_bound, summarise

NEAR = 1.10
_HALF_WIDTH_OCTAVES = 0.75
_OUT = Path(__file__).resolve().parents[2] / "out" / "bench" / "converge"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One level of a sweep: its repetitions, and what was lost in them."""

    level: int
    repeats: list[list[Second]]
    lost: int


def smooth(levels, js):
    """Local quadratic fit of log J over log2 level, tricube weights."""
    x, y = np.log2(np.asarray(levels, float)), np.log(np.asarray(js))
    if len(levels) < 5:
        return list(js)
    fitted = []
    for at in x:
        distance = np.abs(x - at)
        width = max(_HALF_WIDTH_OCTAVES, np.sort(distance)[4] * 1.001)  # five points at least
        weight = np.clip(1 - (distance / width) ** 3, 0, None) ** 3
        fitted.append(math.exp(np.polyfit(x - at, y, 2, w=np.sqrt(weight))[-1]))
    return fitted


async def sweep(server: Server, args) -> list[Point]:
    """All levels, each repetition in an order of its own."""
    seen, gone = {level: [] for level in server.levels}, dict.fromkeys(server.levels, 0)
    for repeat in range(args.repeats):
        order = list(server.levels)
        random.Random(f"{args.seed}:{repeat}").shuffle(order)
        for level in order:
            seed = args.seed + repeat  # every level is asked the same
            seconds, missed = await measure(server, level, seed, args.settle, args.span)
            seen[level].append(seconds)
            gone[level] += missed
            print(f"{time.strftime('%T')} {server.title} {told(level, seconds)}", flush=True)
    return [Point(level=n, repeats=seen[n], lost=gone[n]) for n in server.levels]


def told(level, seconds):
    s = summarise(seconds, None)
    known = {
        "p50": (s.p50_s, 1e3, "ms"),
        "p99": (s.p99_s, 1e3, "ms"),
        "jitter": (s.jitter_s, 1e3, "ms"),
        "CPU": (s.cpu_cores, 1, ""),
        "memory": (s.memory_bytes, 1e-6, "MB"),
        "power": (s.power_w, 1, "W"),
    }
    texts = (f"{k} {v * scale:.3g} {u}" for k, (v, scale, u) in known.items() if v is not None)
    return f"at {level:2d}: {s.throughput_rps:.1f}/s, {', '.join(texts)}"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """J of a sweep under one run's references."""

    levels: list[int]
    raw: list[float]
    fit: list[float]
    spread: list[tuple[float, float]]  # least and most of the repetitions

    @property
    def best(self):
        """Index of the least."""
        return min(range(len(self.fit)), key=self.fit.__getitem__)

    def over_best(self, level):
        """The fit at `level`, also between those of the sweep, over the best."""
        at = np.interp(math.log2(level), np.log2(self.levels), np.log(self.fit))
        return math.exp(at) / self.fit[self.best]


def curve(points: list[Point], policy: Policy, divide_by) -> Curve:
    def j(seconds):
        return objective(policy, summarise(seconds, None), divide_by)

    raw = [j([s for one in p.repeats for s in one]) for p in points]
    each = [[j(one) for one in p.repeats] for p in points]
    levels = [p.level for p in points]
    return Curve(
        levels=levels,
        raw=raw,
        fit=smooth(levels, raw),
        spread=[(min(e), max(e)) for e in each],
    )


def row_of(server: Server, points: list[Point], run: Run, policy: Policy) -> table.Row:
    """A line of the table, and the sweep as this run's objective sees it, printed."""
    made = curve(points, policy, run.references)
    last = summarise(run.seconds[-LAST_S:], p99_bound(policy))
    whole = summarise(run.seconds, p99_bound(policy))
    reached = objective(policy, last, run.references)
    best = made.best
    low, high = made.spread[best]
    print(f"\n{server.title} from {run.began}: J by level, and over the best")
    for level, raw, fit, spread in zip(made.levels, made.raw, made.fit, made.spread, strict=True):
        mark = " <- best" if level == made.levels[best] else ""
        each = f"{spread[0]:.3f} to {spread[1]:.3f}"
        print(f"  {level:3d}  {raw:8.3f} ({each})  {fit / made.fit[best]:6.2f}{mark}")
    print(
        f"  levels {' '.join(map(str, run.levels))}; {told(run.held or 0, run.seconds[-LAST_S:])}"
    )
    print(f"  J in the last {LAST_S} s {reached:.3f}; journal {run.journal}", flush=True)
    return table.Row(
        server=server.title,
        version=server.version(),
        rps=server.rps,
        began=run.began,
        held=run.held,
        best=made.levels[best],
        best_j=made.raw[best],
        best_low=low,
        best_high=high,
        over_best=made.over_best(run.held) if run.held else math.inf,
        run_over_best=reached / made.fit[best],
        began_over_best=made.over_best(run.began),
        converged_s=run.converged_s,
        windows=run.windows,
        settled_s=run.settled_s,
        levels=len(set(run.levels)),
        breach_ratio=whole.breach_ratio,
        last_breach_ratio=last.breach_ratio,
        lost=lost(run.final) + sum(p.lost for p in points),
        requests=run.final.intended,
        power_source=whole.power_source,
    )


async def of(server: Server, args) -> list[table.Row]:
    """The sweep of one server (or an earlier one, with --reuse) and its runs."""
    _OUT.mkdir(parents=True, exist_ok=True)
    kept = _OUT / f"{server.name}-sweep.json"
    if args.reuse and kept.exists():
        points = msgspec.json.decode(kept.read_bytes(), type=list[Point])
    else:
        points = await sweep(server, args)
        kept.write_bytes(msgspec.json.encode(points))
    with tempfile.TemporaryDirectory() as name:
        policy = write_policy(server, Path(name) / "policies.d")
    rows = []
    for began in args.bad or server.bad:
        for number in range(args.runs):
            seed = 1000 + args.seed + number  # not the sweep's
            journal = _OUT / f"{server.name}-{began}-{seed}.db"
            run = await converge(server, began, seed, args.seconds, journal)
            rows.append(row_of(server, points, run, policy))
    return rows


def chosen(text):
    names = [s.name for s in SERVERS]
    wanted = names if text == "all" else text.split(",")
    if unknown := set(wanted) - set(names):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: one of {', '.join(names)}")
    return [s for s in SERVERS if s.name in wanted]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--servers", type=chosen, default="all")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--settle", type=int, default=2, help="seconds of a sweep not counted")
    parser.add_argument("--span", type=int, default=8, help="seconds of a sweep counted")
    parser.add_argument("--seconds", type=int, default=100, help="of each run")
    parser.add_argument("--runs", type=int, default=1, help="from each bad level")
    parser.add_argument("--bad", type=lambda t: [int(n) for n in t.split(",")], default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reuse", action="store_true", help="the sweeps made before")
    parser.add_argument("--write", action="store_true", help="into docs/measurements.md")
    args = parser.parse_args()
    rows = []
    for server in args.servers:
        rows += asyncio.run(of(server, args))
    text = table.text(rows)
    print("\n" + text)
    if args.write:
        table.write(text, sys.argv[1:], os.cpu_count() or 1)
    return 0 if all(row.over_best <= NEAR and not row.lost for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
