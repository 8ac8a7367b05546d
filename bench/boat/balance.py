"""Thirty parameters: ten unlike machines, each with a share of the traffic, workers and a cache.

    python bench/boat/balance.py --seeds 10
    python bench/boat/balance.py --tables          # only print what the file holds

What is lessened is the 99th percentile over all requests of ten seconds of the simulated fleet
(`fleet.py`), from an operator's default (traffic by cores, twice as many
workers as cores and one more, a small cache). The structured tuner
(`fleet_tuner.py`) also sees what each machine showed, as it would in a live fleet; the others see
the one number, which is all that they can use. Every method has the same measurements to make.

The peers run twice: on the levels themselves, and `per core` with what the structured tuner knows
beforehand of the machines, their cores and memory, put into the box: a share and workers for each
core, and the cache as a part of the memory. A random setting of that box overloads far less.
"""

import functools
import multiprocessing
import os
import sys
import warnings
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from boat import fleet, fleet_tuner, peers, race  # noqa: E402

TRUE_SEEDS = range(900_000, 900_005)
PER_CORE = ", per core"
STARTS = 10  # random settings before a generic model is asked


@functools.lru_cache(maxsize=4096)
def true(levels: tuple[int, ...]) -> float:
    """The mean over measurements that no method sees [s]."""
    return sum(fleet.measure(levels, seed)[0] for seed in TRUE_SEEDS) / len(TRUE_SEEDS)


def space() -> list:
    """The thirty dimensions."""
    bounds = {"share": fleet.SHARE, "workers": fleet.WORKERS, "cache": fleet.CACHE}
    return [
        peers.Dimension(name=f"{knob}_{k}", low=low, high=high)
        for k in range(len(fleet.FLEET))
        for knob, (low, high) in bounds.items()
    ]


def space_per_core() -> list:
    """Share and workers for each core, and the cache in hundredths of the memory."""
    bounds = {"share": (1, 8, True), "workers": (1, 8, True), "cache": (2, 70, False)}
    return [
        peers.Dimension(name=f"{knob}_{k}", low=low, high=high, log=log)
        for k in range(len(fleet.FLEET))
        for knob, (low, high, log) in bounds.items()
    ]


def levels_of(point: tuple[int, ...]) -> tuple[int, ...]:
    """The levels that a point of `space_per_core` means."""
    levels: list[int] = []
    for k, machine in enumerate(fleet.FLEET):
        share, workers, part = point[3 * k : 3 * k + 3]
        blocks = round(part / 100 * machine.ram_mb / fleet.BLOCK_MB)
        cache = min(fleet.CACHE[1], max(fleet.CACHE[0], blocks))
        levels += [share * machine.cores, workers * machine.cores, cache]
    return tuple(levels)


def point_of_default() -> tuple[int, ...]:
    """The point nearest to the operator's default."""
    point: list[int] = []
    for k, machine in enumerate(fleet.FLEET):
        part = round(100 * fleet.DEFAULT[3 * k + 2] * fleet.BLOCK_MB / machine.ram_mb)
        point += [2, 2, part]
    return tuple(point)


def run_one(task: tuple[str, int, int]) -> dict:
    """One method with one seed. All methods of a seed get the same noise in the same iteration."""
    warnings.simplefilter("ignore")
    name, seed, iterations = task
    first = fleet.DEFAULT
    run = race.Run(method=name, seed=seed)

    def measure(levels, k):
        return fleet.measure(levels, 1000 * seed + k)

    if name == race.STRUCTURED:
        tuner = fleet_tuner.Structured(seed)
        race.play(
            run, tuner.ask, lambda at, _, seen: tuner.tell(at, seen), measure, first, iterations
        )
        return run.record(true)
    told = name.endswith(PER_CORE)
    box = space_per_core() if told else space()
    peer = peers.catalogue()[name.removesuffix(PER_CORE)](box, seed, STARTS)
    asked = [point_of_default() if told else first]  # the point that was last asked for

    def ask():
        asked[0] = peer.ask()
        return levels_of(asked[0]) if told else asked[0]

    try:
        race.play(
            run, ask, lambda _, cost, __: peer.tell(asked[0], cost), measure, first, iterations
        )
    finally:
        peer.close()
    return run.record(true)


def main() -> None:
    """Run what is missing, then print."""
    asked = race.arguments(
        __doc__.split("\n")[0], seeds=10, iterations=40, out="boat-balance.jsonl"
    ).parse_args()
    generic = list(peers.catalogue())
    known = [race.STRUCTURED, *generic, *(name + PER_CORE for name in generic)]
    names = race.chosen(asked.methods, known)
    if not asked.tables:
        done = {(r["method"], r["seed"]) for r in race.load(asked.out)}
        seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
        tasks = [
            (name, seed, asked.iterations)
            for seed in seeds
            for name in names
            if (name, seed) not in done
        ]
        context = multiprocessing.get_context("spawn")
        with context.Pool(asked.jobs) as pool:
            for record in pool.imap_unordered(run_one, tasks):
                race.keep(asked.out, record)
    records = race.load(asked.out)
    print(race.table([r for r in records if asked.tables or r["method"] in names], "s, p99"))


if __name__ == "__main__":
    main()
