"""Garbage collection on a real JVM: young generation, survivor ratio, tenuring threshold.

    python bench/boat/gc.py --seeds 5
    python bench/boat/gc.py --tables               # only print what the file holds

What is lessened is half the 99th percentile of latency and half the time of a request (one over
the throughput), each over about what the JVM's own choice shows (`jvm.py`, `gc_model.py`). Runs are
made one after the other, each about two seconds. Without a JDK it says so and leaves.
"""

import functools
import os
import statistics
import sys
import warnings
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from boat import gc_model, jvm, peers, race  # noqa: E402

TRUE_RUNS = 3
STARTS = 4  # random settings before a generic model is asked


@functools.cache
def true(levels: tuple[int, ...]) -> float:
    """The median of fresh runs that no method sees."""
    return statistics.median(gc_model.cost_of(jvm.run(levels)) for _ in range(TRUE_RUNS))


def space() -> list:
    """Young, survivor, tenuring."""
    return [
        peers.Dimension(name="young", low=jvm.YOUNG_MB[0], high=jvm.YOUNG_MB[1]),
        peers.Dimension(name="survivor", low=jvm.SURVIVOR[0], high=jvm.SURVIVOR[1]),
        peers.Dimension(name="tenuring", low=jvm.TENURING[0], high=jvm.TENURING[1], log=False),
    ]


def run_one(name: str, seed: int, iterations: int) -> dict:
    """One method with one seed."""
    run = race.Run(method=name, seed=seed)

    def measure(levels, _):
        shown = jvm.run(levels)
        return gc_model.cost_of(shown), shown

    if name == race.STRUCTURED:
        tuner = gc_model.Structured()

        def tell(at, _, seen):
            tuner.tell(at, seen)

        race.play(run, tuner.ask, tell, measure, jvm.START, iterations)
    else:
        peer = peers.catalogue()[name](space(), seed, STARTS)

        def tell(at, cost, _):
            peer.tell(at, cost)

        try:
            race.play(run, peer.ask, tell, measure, jvm.START, iterations)
        finally:
            peer.close()
    return run.record(true)


def main() -> None:
    """Run what is missing, then print."""
    warnings.simplefilter("ignore")
    asked = race.arguments(
        __doc__.split("\n")[0], seeds=5, iterations=15, out="boat-gc.jsonl"
    ).parse_args()
    why = jvm.missing()
    if why and not asked.tables:
        print(f"The garbage-collection case was left out: {why}.")
        return
    names = race.chosen(asked.methods, [race.STRUCTURED, *peers.catalogue()])
    if not asked.tables:
        done = {(r["method"], r["seed"]) for r in race.load(asked.out)}
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            for name in names:
                if (name, seed) not in done:
                    race.keep(asked.out, run_one(name, seed, asked.iterations))
        how = "with" if jvm.priority() else "WITHOUT"
        print(f"The JVM ran {how} real-time priority. Its own choice costs {true(jvm.OWN):.3g}.\n")
    records = race.load(asked.out)
    print(race.table([r for r in records if asked.tables or r["method"] in names], "objective"))


if __name__ == "__main__":
    main()
