"""`poolwright swarm`: random services, policies and faults, every decision watched.

A broken seed is printed with the command that plays it again. The same seeds give the same output,
to the byte; how long it took is said on standard error. Exit code 1 when any is broken.
"""

import argparse
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from poolwright.core.errors import PolicyError


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "swarm", help="play random scenarios with random faults", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many (100)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first one (0)")
    parser.add_argument("--jobs", type=int, default=None, metavar="N", help="processes (one a CPU)")
    parser.add_argument("--verbose", action="store_true", help="a line a seed")


def run(args: argparse.Namespace) -> int:
    """Play them. PolicyError for a number that is none."""
    if args.seeds < 1 or args.first < 0:
        raise PolicyError("--seeds is at least 1, --first at least 0")
    seeds = range(args.first, args.first + args.seeds)
    began = time.perf_counter()
    broken: list[tuple[int, str]] = []
    done = decisions = moves = faults = lives = rested = 0
    for seed, found, error in _play_all(seeds, args.jobs or multiprocessing.cpu_count()):
        done += 1
        if error:
            broken.append((seed, error))
            print(f"seed {seed} is broken: {error}", flush=True)
            print(f"  again: poolwright swarm --first {seed} --seeds 1", flush=True)
        else:
            decisions, moves = decisions + found["decisions"], moves + found["moves"]
            faults, lives = faults + found["faults"], lives + found["lives"]
            rested += found["rested"]
            if args.verbose or not found["rested"]:
                print(f"seed {seed}: {found}", flush=True)
        if done % 500 == 0:
            print(f"{done} seeds, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    spent = time.perf_counter() - began
    print(
        f"{done} seeds, {len(broken)} broken, {done - len(broken) - rested} not at rest: "
        f"{decisions} decisions checked and replayed, {moves} moves, {faults} faults, "
        f"{lives} lives of the daemon"
    )
    print(f"{spent:.0f} s", file=sys.stderr)
    return 1 if broken or rested < done - len(broken) else 0


def play_seed(seed: int) -> tuple[int, dict[str, Any], str]:
    """Play one seed in a folder of its own: (seed, figures, what broke)."""
    from dataclasses import asdict  # noqa: PLC0415 - in the worker process

    from poolwright.cli.simulate import makers  # noqa: PLC0415
    from poolwright.engine.swarm import play  # noqa: PLC0415
    from poolwright.sim.chaos import case  # noqa: PLC0415

    logging.getLogger("poolwright").addHandler(logging.NullHandler())
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        try:
            return seed, asdict(play(case(seed), makers(), Path(folder))), ""
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed is broken
            return seed, {}, f"{type(error).__name__}: {error}"


def _play_all(seeds: range, jobs: int) -> Iterator[tuple[int, dict[str, Any], str]]:
    if jobs == 1 or len(seeds) == 1:
        yield from map(play_seed, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=500) as pool:
        yield from pool.imap(play_seed, seeds, chunksize=4)
