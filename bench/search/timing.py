"""What a fit and plan costs: milliseconds by windows of evidence and knobs, and the memory of it.

    python bench/search/timing.py [--tree DIR] [--windows 10,50,200,1000]

Each line is a real learner process (`python -m poolwright.learn`): the CPU time of a plan, mean of
21 after one that does not count, and the peak of its resident memory. The windows go through the
store of evidence, which merges what is more than it keeps, as in the daemon.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

_BENCH = Path(__file__).resolve().parents[1]
_PLANS = 21
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
        responses = {
            n: Estimate(mean=float(m), std=float(m * e), count=1000) for n, (m, e) in means.items()
        }
        observation = Observation(
            setting=Setting(levels=tuple(sorted(zip(plant.names, levels, strict=True)))),
            opened_tick=6 * k,
            closed_tick=6 * k + 5,
            span_s=30.0,
            sample_count=1000,
            context=Context(load_rps=float(seen.load), foreign_cpu_ratio=float(seen.foreign)),
            responses=tuple(sorted(responses.items())),
            app_limited=True,
        )
        found.append(Evidence(observation=observation))
    return tuple(found)


def request_of(knobs: int, windows: int):
    """What the daemon would ask for after so many windows."""
    from poolwright.core.evidence import EvidenceStore
    from poolwright.core.model import Context, FitRequest, Setting
    from search.sidecar import policy_of
    from search.world import CELLS, make_world

    world = make_world(CELLS[_CELLS[knobs]], 0)
    plant = world.plant
    return FitRequest(
        version=1,
        tick=0,
        policy=policy_of(plant, 0),
        evidence=EvidenceStore(evidence_of(world, windows)).items,
        context=Context(load_rps=float(plant.load), foreign_cpu_ratio=0.0),
        incumbent=Setting(levels=tuple(sorted(zip(plant.names, plant.start, strict=True)))),
        trust_octaves=0.5,
        memory_limit_bytes=float(plant.memory_limit),
    )


def measure(tree: str, knobs: int, windows: int) -> tuple[float, float]:
    """Mean CPU milliseconds of a plan, and peak resident MB, of a real learner process."""
    from poolwright.learn.wire import decode_reply, encode

    line = encode(request_of(knobs, windows))
    learner = subprocess.Popen(
        [sys.executable, "-m", "poolwright.learn", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": tree},
    )
    spent = []
    for _ in range(_PLANS + 1):
        learner.stdin.write(line)
        learner.stdin.flush()
        assert decode_reply(learner.stdout.readline()).plan is not None
        fields = Path(f"/proc/{learner.pid}/stat").read_text().rpartition(")")[2].split()
        spent.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    status = Path(f"/proc/{learner.pid}/status").read_text()
    learner.stdin.close()
    learner.wait()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    return 1e3 * (spent[-1] - spent[0]) / _PLANS, int(peak[1]) / 1024


def main() -> None:
    """Measure one after the other, alone."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tree", type=Path, default=_BENCH.parent / "daemon")
    parser.add_argument("--windows", default="10,50,200,1000")
    asked = parser.parse_args()
    tree = str(asked.tree.resolve())
    sys.path[:0] = [tree, str(_BENCH)]
    print("| knobs | windows of evidence | fit and plan | peak RSS |\n|---|---|---|---|")
    for knobs in _CELLS:
        for windows in (int(n) for n in asked.windows.split(",")):
            ms, mb = measure(tree, knobs, windows)
            print(f"| {knobs} | {windows} | {ms:.0f} ms | {mb:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
