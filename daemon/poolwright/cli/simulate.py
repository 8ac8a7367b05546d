"""`poolwright simulate SCENARIO`: the real daemon against a simulated service.

SCENARIO is a YAML file or the name of a shipped one (`--list`). The same scenario and seed give the
same output, to the byte; how fast it went is said on standard error. Every decision is checked
against the invariants of a safe controller; the exit status is 1 when one is broken.
"""

import argparse
import gc
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Decision, Tick
from poolwright.engine.invariants import Broken, Invariants
from poolwright.engine.simulate import Moment, Witness
from poolwright.engine.stage import (
    Made,
    Stage,
    find_scenario,
    load_scenario,
    shipped_scenarios,
    stage,
)
from poolwright.policy.load import yaml_files

EXIT_BROKEN = 1
_GARBAGE_MOST = 50_000  # objects made before cycles are looked for: there are few
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "simulate", help="play a scenario against a simulated service", description=__doc__
    )
    parser.add_argument("scenario", nargs="?", metavar="SCENARIO", help="a file, or a shipped name")
    parser.add_argument("--list", action="store_true", help="name the shipped scenarios")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all chance (0)")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as .png, .svg or .pdf")
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="keep the journal, for explain and replay"
    )
    parser.add_argument(
        "--compare", choices=["fixed"], help="also find the best fixed size in hindsight"
    )
    parser.add_argument("--verbose", action="store_true", help="the daemon's log on standard error")


def run(args: argparse.Namespace) -> int:
    """Play it. Raises PolicyError and PlantFault."""
    if args.list:
        _list()
        return 0
    if args.scenario is None:
        raise PolicyError("simulate what? a file, or one of `poolwright simulate --list`")
    _log(verbose=args.verbose)
    scenario = load_scenario(find_scenario(args.scenario))
    made = makers()
    with journal_file(args.journal) as journal:
        staged = stage(scenario, args.seed, made, journal, (_checks(),))
        began = time.perf_counter()
        gc.freeze()  # as the daemon does once it has started
        gc.set_threshold(_GARBAGE_MOST, 20, 20)
        try:
            staged.simulation.run()
        except Broken as broken:
            print(f"{scenario.name}, seed {args.seed}: broken: {broken}", file=sys.stderr)
            return EXIT_BROKEN
        spent = time.perf_counter() - began
    fixed = _compare(staged, made) if args.compare == "fixed" else None
    _print(staged, fixed, as_json=args.json)
    print(
        f"{spent:.1f} s, {scenario.duration / spent:,.0f} times as fast as real time",
        file=sys.stderr,
    )
    if args.plot is not None:
        from poolwright.sim.plot import draw  # noqa: PLC0415 - matplotlib is an extra

        title = f"{scenario.name}, seed {args.seed}"
        draw(args.plot, title, list(staged.tallies.values()), scenario.faults)
    return 0


def _checks() -> Witness:
    """The invariants of every pool."""
    pools: dict[str, Invariants] = defaultdict(Invariants)

    def check(tick: Tick, decision: Decision, moment: Moment) -> None:
        pools[moment.truth.pool](tick, decision, moment)

    return check


def makers() -> Made:
    """The plant and the learner's function, with the learner's one thread of BLAS."""
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    from poolwright.learn.plan import make_plan  # noqa: PLC0415 - numpy and scipy take their time
    from poolwright.sim.plant import Plant  # noqa: PLC0415

    return Made(plant=Plant, plan=make_plan)


@contextmanager
def journal_file(kept: Path | None) -> Iterator[Path]:
    """Where the journal goes: a new file that is kept, or one in memory that is not."""
    if kept is not None:
        if kept.exists():
            raise PlantFault(f"{kept}: is there already; a simulation writes a new journal")
        yield kept
        return
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    folder = Path(tempfile.mkdtemp(prefix="poolwright-", dir=memory if memory.is_dir() else None))
    try:
        yield folder / "journal.db"
    finally:
        shutil.rmtree(folder)


def _print(staged: Stage, fixed: dict[str, Any] | None, *, as_json: bool) -> None:
    from poolwright.sim.report import told  # noqa: PLC0415 - not for --help

    report = staged.report()
    if as_json:
        data = asdict(report) | ({} if fixed is None else {"fixed": fixed})
        print(json.dumps(data, indent=1))
        return
    print("\n".join(told(report)))
    for pool, best in (fixed or {}).items():
        print(
            f"\nbest fixed size of pool {pool} in hindsight: {best['level']} workers, "
            f"{best['minutes_outside_slo']} minutes outside the SLO, "
            f"{best['worker_hours']:.2f} worker-hours"
        )


def _compare(staged: Stage, made: Made) -> dict[str, Any]:
    from poolwright.sim.fixed import best_fixed  # noqa: PLC0415 - rarely asked

    return {
        name: asdict(best_fixed(staged.scenario, name, policy, made.plant, staged.seed))
        for name, policy in staged.policies.items()
    }


def _list() -> None:
    for path in yaml_files(shipped_scenarios()):
        scenario = load_scenario(path)
        print(f"{scenario.name:18}{scenario.describe}")


def _log(*, verbose: bool) -> None:
    """The daemon's log where it is asked for; else nothing of what the faults provoke."""
    handler: logging.Handler = logging.NullHandler()
    if verbose:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logging.getLogger("poolwright").setLevel(logging.INFO)
    logging.getLogger("poolwright").addHandler(handler)
