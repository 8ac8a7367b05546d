"""Run cells x methods x seeds, append each run to a JSONL file, and print Markdown tables.

    python bench/search/run.py --cells usl-64,plateau-64 --methods "poolwright;Optuna*" --seeds 30
    python bench/search/run.py --tables            # only print what the file holds

Runs that the file holds already are not made again. `--tree DIR` puts another daemon/ folder first
on the path of the worker processes (with `--label` its name in the tables), so that two learners
are compared side by side.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402
import json  # noqa: E402
import multiprocessing  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

_BENCH = Path(__file__).resolve().parents[1]
_OUT = _BENCH.parent / "out" / "bench" / "search.jsonl"
POOLWRIGHT = "poolwright"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", default="usl-64", help="comma separated, `all`, or a prefix*")
    parser.add_argument(
        "--methods", default=POOLWRIGHT, help="separated by `;`: names, beginnings*, or `all`"
    )
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tree", type=Path, default=_BENCH.parent / "daemon")
    parser.add_argument("--label", default="", help="of --tree, in the tables")
    parser.add_argument("--warmup", type=int, default=1, help="poolwright's warm-up windows")
    parser.add_argument(
        "--ablate",
        default="",
        help="the learner without: trust region, safe set, context, residual, mean",
    )
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--tables", action="store_true", help="only print what the file holds")
    parser.add_argument("--again", action="store_true", help="forget these runs and make them anew")
    return parser.parse_args()


def _chosen(asked: str, known: list[str], between: str) -> list[str]:
    """The names that a list with `all` and trailing * means."""
    found: list[str] = []
    for name in asked.split(between):
        if name == "all":
            found += known
        elif name in known:
            found.append(name)
        elif name.endswith("*"):
            found += [one for one in known if one.startswith(name[:-1])]
        else:
            raise SystemExit(f"{name!r} is none of: {', '.join(known)}")
    return list(dict.fromkeys(found))


def _prepare(tree: str) -> None:
    """In a worker process: which poolwright, which bench."""
    sys.path[:0] = [tree, str(_BENCH)]


def run_one(task: tuple) -> dict:
    """One run; the record that is appended."""
    cell_name, method, seed, options = task
    import warnings

    from search.score import Score
    from search.world import CELLS, VERSION, make_world

    warnings.simplefilter("ignore")
    cell = CELLS[cell_name]
    world = make_world(cell, seed)
    began, cpu = time.perf_counter(), time.process_time()
    subject = _make(method, world, options)
    score = Score(world)
    for slot in range(cell.windows):
        world.enter(slot)
        held = subject.slot(slot)
        score.take(slot, held, subject.recommend())
    record = {
        "cell": cell_name,
        "method": options["label"] if method == POOLWRIGHT else method,
        "seed": seed,
        "version": VERSION,
        **score.record(),
        "ms": round(subject.spent_ms / cell.windows, 2),
        "wall_s": round(time.perf_counter() - began, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    if method == POOLWRIGHT:
        record |= {"revision": options["revision"], **subject.told()}
    return record


def _make(method: str, world, options: dict):
    if method == POOLWRIGHT:
        from search.sidecar import Sidecar

        return Sidecar(world, warmup=options["warmup"], ablate=options["ablate"])
    return catalogue()[method](world)


def catalogue() -> dict:
    """Every method but poolwright, by name: those whose package is installed."""
    from search.laws import LAWS
    from search.methods import BASELINES
    from search.peers import PEERS

    return {**BASELINES, **PEERS, **LAWS}


def _revision(tree: Path) -> str:
    """The commit of a tree, and + where files differ from it; empty where there is no git."""
    asked = ["git", "-C", str(tree), "describe", "--always", "--dirty=+", "--abbrev=10"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _load(path: Path) -> list[dict]:
    """The runs of this version of the bench."""
    from search.world import VERSION

    if not path.exists():
        return []
    lines = (line for line in path.read_text().splitlines() if line.strip())
    return [record for line in lines if (record := json.loads(line)).get("version") == VERSION]


def print_tables(records: list[dict], cells: list[str]) -> None:
    """One table a cell, of the runs that the file holds."""
    from search.score import calibration_table, table, title_of, told_beside
    from search.world import CELLS

    for cell in cells:
        rows: dict[str, list[dict]] = {}
        for record in records:
            if record["cell"] == cell:
                rows.setdefault(record["method"], []).append(record)
        if rows:
            print(table(title_of(CELLS[cell]), rows))
            for more in (told_beside(CELLS[cell], rows), calibration_table(rows)):
                if more:
                    print(more)


def main() -> None:
    """Run what is missing, then print."""
    asked = _arguments()
    tree = str(asked.tree.resolve())
    _prepare(tree)
    from search.world import CELLS

    cells = _chosen(asked.cells, list(CELLS), ",")
    methods = _chosen(asked.methods, [POOLWRIGHT, *catalogue()], ";")
    label = f"{POOLWRIGHT}, {asked.label}" if asked.label else POOLWRIGHT
    if asked.ablate:
        label += f", no {asked.ablate}"
    if asked.warmup != 1:
        label += f", warm-up {asked.warmup}"
    options = {
        "label": label,
        "warmup": asked.warmup,
        "ablate": asked.ablate,
        "revision": _revision(asked.tree),
    }
    names = [label if method == POOLWRIGHT else method for method in methods]
    records = _load(asked.out)
    if asked.again:
        keep = lambda r: not (r["cell"] in cells and r["method"] in names)  # noqa: E731
        records = [record for record in records if keep(record)]
        asked.out.write_text("".join(json.dumps(record) + "\n" for record in records))
    if not asked.tables:
        done = {(r["cell"], r["method"], r["seed"]) for r in records}
        seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
        tasks = [
            (cell, method, seed, options)
            for cell in cells
            for seed in seeds
            for method, name in zip(methods, names, strict=True)
            if (cell, name, seed) not in done
        ]
        _run(tasks, asked, tree)
        records = _load(asked.out)
    wanted = set(names) if not asked.tables else {r["method"] for r in records}
    print_tables([r for r in records if r["method"] in wanted], cells)


def _run(tasks: list[tuple], asked: argparse.Namespace, tree: str) -> None:
    """All tasks in worker processes; each record is written as soon as it is there."""
    if not tasks:
        return
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    began = time.time()
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(asked.jobs, initializer=_prepare, initargs=(tree,)) as pool,
        asked.out.open("a") as out,
    ):
        for done, record in enumerate(pool.imap_unordered(run_one, tasks), 1):
            out.write(json.dumps(record) + "\n")
            out.flush()
            spent = time.time() - began
            print(
                f"{done}/{len(tasks)} {record['cell']} {record['method']} seed {record['seed']}: "
                f"regret {100 * record['regret']:.1f} %, {spent:.0f} s",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
