"""What a fit and plan costs: milliseconds by windows of evidence and knobs, and the memory of it.

    python bench/search/timing.py [--tree DIR] [--windows 10,50,200,1000]

Each line is a process of its own, as the learner is: the CPU time of the median of seven plans,
after one that does not count, and the peak of resident memory. The windows go through the store of
evidence, which merges what is more than it keeps, as in the daemon.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402
import multiprocessing  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

_BENCH = Path(__file__).resolve().parents[1]
_PLANS = 7
_CELLS = {1: "usl-64", 2: "two-knob", 3: "three-knob"}


def evidence_of(world, windows: int) -> tuple:
    """Windows of feasible settings not further than an octave from the operator's default."""
    import numpy as np

    from poolwright.core.model import Context, Estimate, Evidence, Observation, Setting

    plant = world.plant
    truth = plant.truth(plant.lattice, plant.load, 0.0)
    away = np.abs(np.log2(plant.lattice / np.array(plant.start))).max(axis=1)
    near = plant.lattice[plant.feasible(truth) & (away <= 1.0)]
    found = []
    for k in range(windows):
        levels = tuple(int(v) for v in near[world.rng.integers(len(near))])
        seen = world.window(levels, k % world.cell.windows)
        means = {
            "throughput_rps": (seen.throughput, 0.02),
            "latency_p50_s": (seen.p50, 0.01),
            "latency_p95_s": (seen.p95, 0.03),
            "latency_p99_s": (seen.p99, 0.06),
            "jitter_s": (seen.jitter, 0.05),
            "cpu_cores": (seen.cpu, 0.01),
            "memory_bytes": (seen.memory, 0.003),
            "power_w": (seen.power, 0.01),
        }
        responses = {n: Estimate(mean=m, std=m * e, count=1000) for n, (m, e) in means.items()}
        observation = Observation(
            setting=Setting(levels=tuple(sorted(zip(plant.names, levels, strict=True)))),
            opened_tick=6 * k,
            closed_tick=6 * k + 5,
            span_s=30.0,
            sample_count=1000,
            context=Context(load_rps=seen.load, foreign_cpu_ratio=seen.foreign),
            responses=tuple(sorted(responses.items())),
            app_limited=True,
        )
        found.append(Evidence(observation=observation))
    return tuple(found)


def measure(tree: str, knobs: int, windows: int) -> tuple[float, float]:
    """Median milliseconds of a plan, and peak resident MB, in a process of its own."""
    sys.path[:0] = [tree, str(_BENCH)]
    from poolwright.core.evidence import EvidenceStore
    from poolwright.core.model import Context, FitRequest, Setting
    from poolwright.learn.plan import make_plan
    from search.sidecar import policy_of
    from search.world import CELLS, make_world

    world = make_world(CELLS[_CELLS[knobs]], 0)
    plant = world.plant
    request = FitRequest(
        version=1,
        tick=0,
        policy=policy_of(plant, 0),
        evidence=EvidenceStore(evidence_of(world, windows)).items,
        context=Context(load_rps=plant.load, foreign_cpu_ratio=0.0),
        incumbent=Setting(levels=tuple(sorted(zip(plant.names, plant.start, strict=True)))),
        trust_octaves=0.5,
        memory_limit_bytes=plant.memory_limit,
    )
    spent = []
    for _ in range(_PLANS + 1):
        began = time.process_time()
        make_plan(request)
        spent.append(1e3 * (time.process_time() - began))
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    return sorted(spent[1:])[_PLANS // 2], int(peak[1]) / 1024


def main() -> None:
    """Measure one after the other, alone."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tree", type=Path, default=_BENCH.parent / "daemon")
    parser.add_argument("--windows", default="10,50,200,1000")
    asked = parser.parse_args()
    print("| knobs | windows of evidence | fit and plan | peak RSS |\n|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for knobs in _CELLS:
        for windows in (int(n) for n in asked.windows.split(",")):
            with context.Pool(1) as pool:
                ms, mb = pool.apply(measure, (str(asked.tree.resolve()), knobs, windows))
            print(f"| {knobs} | {windows} | {ms:.0f} ms | {mb:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
