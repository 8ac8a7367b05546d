"""The oracle: what is the best worker count of the demo service, and does poolwright find it?

    python bench/oracle.py [--runs 10] [--out oracle.json]

sweeps all worker counts with the demo's service, load and measuring code, and prints the demo
policy's objective J of each. With --runs it then runs so many demos and compares the setting that
each ended at with the best of the sweep; the exit status is 1 when fewer than nine of ten are
within 10 %, or when a request failed. Needs a machine with nothing else to do.

J of neighbouring counts is noise over a smooth curve, and the least of many noisy values is too
low. So J is judged on a local quadratic fit of log J over log2 c (Cleveland, "Robust locally
weighted regression", 1979, without the robustness steps); raw values are printed beside it.
"""

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from poolwright.demo.run import Outcome, baseline_workers, meter, write_files
from poolwright.demo.stand import Rig, Stand
from poolwright.demo.stats import Second, Summary, objective, p99_bound, references, summarise
from poolwright.policy.load import load_policy

NEAR = 1.10
NEEDED = 0.9
HALF_WIDTH_OCTAVES = 0.75


@dataclass(frozen=True, kw_only=True)
class Point:
    """One worker count: all repetitions together, and J of each."""

    workers: int
    summary: Summary
    j: float
    j_smooth: float
    j_each: list[float]


async def measure(workers: int, seed: int, settle_s: int, span_s: int, rps: float) -> list[Second]:
    """`span_s` seconds of a fresh service at `workers`, after `settle_s`."""
    rig = Rig(workers=workers, rps=rps, seconds=settle_s + span_s + 1, seed=seed)
    with tempfile.TemporaryDirectory(prefix="poolwright-oracle-") as name:
        folder = Path(name)
        async with Stand(folder, rig) as stand:
            await stand.add_load(meter(write_files(folder, stand, "127.0.0.1:1", seed)))
            seen: list[Second] = []
            async for second in stand.seconds():
                seen.append(second)
                if len(seen) == settle_s + span_s:
                    break
            return seen[settle_s:]


def demo_policy():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stand = Stand(folder, Rig(workers=baseline_workers(), seconds=1))
        write_files(folder, stand, "127.0.0.1:1", 0)
        return load_policy(folder / "demo.yaml")


def smooth(levels: list[int], js: list[float]) -> list[float]:
    """Local quadratic fit of log J over log2 level, tricube weights."""
    x, y = np.log2(np.asarray(levels, float)), np.log(np.asarray(js))
    if len(levels) < 5:
        return list(js)
    fitted = []
    for at in x:
        distance = np.abs(x - at)
        width = max(HALF_WIDTH_OCTAVES, np.sort(distance)[4] * 1.001)  # five points at least
        weight = np.clip(1 - (distance / width) ** 3, 0, None) ** 3
        fitted.append(math.exp(np.polyfit(x - at, y, 2, w=np.sqrt(weight))[-1]))
    return fitted


async def sweep(args: argparse.Namespace) -> list[Point]:
    policy, base = demo_policy(), baseline_workers()
    levels = sorted({*args.levels, base})
    seen: dict[int, list[list[Second]]] = {level: [] for level in levels}
    for repeat in range(args.repeats):
        order = list(levels)
        random.Random(f"{args.seed}:{repeat}").shuffle(order)
        for level in order:
            seed = args.seed + repeat  # every count is asked the same
            seconds = await measure(level, seed, args.settle, args.span, args.rps)
            seen[level].append(seconds)
            one = summarise(seconds, p99_bound(policy))
            print(f"{time.strftime('%T')} repeat {repeat + 1}: {row(level, one)}", flush=True)
    bound = p99_bound(policy)
    whole = {level: summarise([s for r in seen[level] for s in r], bound) for level in levels}
    divide_by = references(policy, whole[base])
    js = [objective(policy, whole[level], divide_by) for level in levels]
    each = {
        level: [objective(policy, summarise(r, bound), divide_by) for r in seen[level]]
        for level in levels
    }
    return [
        Point(workers=level, summary=whole[level], j=j, j_smooth=fit, j_each=each[level])
        for level, j, fit in zip(levels, js, smooth(levels, js), strict=True)
    ]


def row(level: int, s: Summary) -> str:
    def ms(value: float | None) -> str:
        return "    -" if value is None else f"{value * 1e3:5.0f}"

    def known(value: float | None, scale: float, form: str) -> str:
        return "-" if value is None else format(value / scale, form)

    return (
        f"c={level:2d}  p50 {ms(s.p50_s)}  p99 {ms(s.p99_s)}  jitter {ms(s.jitter_s)} ms"
        f"  {s.throughput_rps:5.1f}/s  CPU {known(s.cpu_cores, 1, '4.2f')}"
        f"  {known(s.memory_bytes, 1e6, '4.0f')} MB  {known(s.power_w, 1, '5.1f')} W"
        f"  errors {s.error_count}  late {ms(s.lateness_max_s)} ms"
    )


def print_sweep(points: list[Point]) -> Point:
    best = min(points, key=lambda p: p.j_smooth)
    print("\nObjective J of the demo policy, less is better:")
    for p in points:
        each = " ".join(f"{j:6.3f}" for j in p.j_each)
        mark = " <- best" if p is best else ""
        print(
            f"{row(p.workers, p.summary)}  J {p.j:6.3f}  fit {p.j_smooth:6.3f}"
            f"  J/best {p.j_smooth / best.j_smooth:5.2f}  each {each}{mark}"
        )
    near = [p.workers for p in points if p.j_smooth <= NEAR * best.j_smooth]
    print(f"within 10 % of the best: {near}; power: {best.summary.power_source or 'not seen'}")
    return best


def demos(args: argparse.Namespace, points: list[Point], best: Point) -> tuple[list[dict], bool]:
    by_level = {p.workers: p for p in points}
    found, good = [], 0
    clean = True
    for run in range(args.runs):
        seed = 1000 + args.seed + run  # not the sweep's
        command = [sys.executable, "-m", "poolwright", "demo", "--json", "--seed", str(seed)]
        command += ["--seconds", str(args.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        if done.returncode:
            print(f"run {run + 1}: the demo ended with {done.returncode}:\n{done.stderr}")
            found.append({"seed": seed, "status": done.returncode})
            clean = False
            continue
        out = msgspec.json.decode(done.stdout, type=Outcome)
        at = by_level.get(out.final) if out.final is not None else None
        ratio = at.j_smooth / best.j_smooth if at else math.inf
        good += ratio <= NEAR
        clean &= out.whole.error_count == 0
        found.append({"seed": seed, "ratio": ratio, "outcome": msgspec.to_builtins(out)})
        print(
            f"run {run + 1}: ends at {out.final}, J/best {ratio:.3f}; measured J "
            f"{out.objective_before:.3f} -> {out.objective_after:.3f}; errors "
            f"{out.whole.error_count}; blocks over the SLO {out.before.breach_ratio} -> "
            f"{out.after.breach_ratio}; probes {out.probes}, trips {out.guard_trips}, converged "
            f"{out.converged_s} s, last move {out.settled_s} s; p99 daemon/generator "
            f"{out.agreement_before and out.agreement_before.ratio} "
            f"{out.agreement_after and out.agreement_after.ratio}",
            flush=True,
        )
    print(f"{good} of {args.runs} within 10 % of the best")
    return found, clean and good >= NEEDED * args.runs


def levels_of(text: str) -> list[int]:
    """`2-24` or `5,8,12`."""
    if "-" in text:
        first, _, last = text.partition("-")
        return list(range(int(first), int(last) + 1))
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--levels", type=levels_of, default=levels_of("2-24"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--settle", type=int, default=6, help="seconds not counted")
    parser.add_argument("--span", type=int, default=20, help="seconds counted")
    parser.add_argument("--rps", type=float, default=80.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=0, help="demos to compare with the sweep")
    parser.add_argument("--seconds", type=int, default=170, help="of each demo")
    parser.add_argument("--sweep", type=Path, help="use this earlier --out instead of sweeping")
    parser.add_argument("--out", type=Path, default=Path("oracle.json"))
    args = parser.parse_args()
    if args.sweep:
        points = msgspec.convert(json.loads(args.sweep.read_text())["points"], list[Point])
    else:
        points = asyncio.run(sweep(args))
    best = print_sweep(points)
    runs, good = demos(args, points, best) if args.runs else ([], True)
    told = {
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "best": best.workers,
        "points": msgspec.to_builtins(points),
        "runs": runs,
    }
    args.out.write_text(json.dumps(told, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
