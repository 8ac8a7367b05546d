"""What both cases share: run methods x seeds, keep each run on file, tell best found by iteration.

A method is judged by the setting of its own best measurement so far, and that setting by what it
really is: measured again, apart (`true`). So nobody gains by a lucky measurement.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SHOWN = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80)
STRUCTURED = "structured (poolwright)"


@dataclass
class Run:
    """One method with one seed: what it tried, measured, and had found after each iteration."""

    method: str
    seed: int
    measured: list[float] = field(default_factory=list)
    tried: list[tuple[int, ...]] = field(default_factory=list)
    ask_s: float = 0.0  # CPU of this process; OpenTuner's is in another

    @property
    def incumbents(self) -> list[tuple[int, ...]]:
        """The setting of the best measurement up to each iteration."""
        found, best = [], float("inf")
        for levels, cost in zip(self.tried, self.measured, strict=True):
            if cost < best:
                best = cost
                found.append(levels)
            else:
                found.append(found[-1])
        return found

    def record(self, true: Callable[[tuple[int, ...]], float]) -> dict:
        """For the file."""
        return {
            "method": self.method,
            "seed": self.seed,
            "best": [round(true(levels), 5) for levels in self.incumbents],
            "measured": [round(cost, 5) for cost in self.measured],
            "last": self.incumbents[-1],
            "ask_ms": round(1e3 * self.ask_s / max(1, len(self.tried)), 1),
        }


def play(run: Run, ask, tell, measure, first: tuple[int, ...], iterations: int) -> Run:
    """Iteration 1 is the operator's default, whatever the method."""
    for k in range(iterations):
        at = time.process_time()
        levels = first if k == 0 else ask()
        run.ask_s += time.process_time() - at
        cost, seen = measure(levels, k)
        run.tried.append(levels)
        run.measured.append(cost)
        at = time.process_time()
        tell(levels, cost, seen)
        run.ask_s += time.process_time() - at
    return run


def arguments(about: str, *, seeds: int, iterations: int, out: str) -> argparse.ArgumentParser:
    """What both cases may be told."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--methods", default="all", help="comma separated; a part of a name does")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=iterations)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=Path, default=root / "out" / "bench" / out)
    parser.add_argument("--tables", action="store_true", help="only print what the file holds")
    return parser


def chosen(asked: str, known: list[str]) -> list[str]:
    """The names that `asked` means. SystemExit for one that means none."""
    if asked == "all":
        return known
    found = []
    for part in asked.split(","):
        names = [name for name in known if part.lower() in name.lower()]
        if not names:
            raise SystemExit(f"{part!r} is none of: {', '.join(known)}")
        found += names
    return list(dict.fromkeys(found))


def load(path: Path) -> list[dict]:
    """The runs on file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def keep(path: Path, record: dict) -> None:
    """One more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as out:
        out.write(json.dumps(record) + "\n")
    print(
        f"{record['method']}, seed {record['seed']}: {record['best'][0]:.4g} -> "
        f"{record['best'][-1]:.4g}",
        file=sys.stderr,
    )


def table(records: list[dict], unit: str, *, near: float = 0.10) -> str:
    """Markdown: the median (quartiles) of what was found, by iteration; the best method first.

    `near`: the last column counts the iterations until what was found is within this share of the
    best that any run ever found; one more than there were where it never is.
    """
    if not records:
        return "no runs"
    groups: dict[str, list[dict]] = {}
    for record in records:
        groups.setdefault(record["method"], []).append(record)
    length = max(len(record["best"]) for record in records)
    shown = [k for k in SHOWN if k <= length]
    least = min(min(record["best"]) for record in records)
    head = [
        "method",
        *(f"{k}" for k in shown),
        f"iterations to {100 * near:.0f} %",
        "CPU ms",
        "seeds",
    ]
    lines = [
        f"Best found [{unit}] by iteration: median [quartiles]. Best known: {least:.3g}.",
        "",
        "| " + " | ".join(head) + " |",
        "|---|" + "--:|" * (len(head) - 1),
    ]

    def final(name: str) -> tuple[float, float]:
        found = np.array([r["best"][-1] for r in groups[name]])
        return float(np.median([_until(r["best"], least, near) for r in groups[name]])), float(
            np.median(found)
        )

    for name in sorted(groups, key=final):
        runs = groups[name]
        cells = []
        for k in shown:
            found = [r["best"][k - 1] for r in runs if len(r["best"]) >= k]
            low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
            cells.append(f"{middle:.3g} [{low:.3g}, {high:.3g}]" if k > 1 else f"{middle:.3g}")
        until = [_until(r["best"], least, near) for r in runs]
        low, middle, high = np.quantile(until, (0.25, 0.5, 0.75))
        over = "> " if middle > length else ""
        cells.append(f"{over}{min(middle, length):.3g} [{low:.3g}, {high:.3g}]")
        cells += [f"{np.mean([r['ask_ms'] for r in runs]):.0f}", f"{len(runs)}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _until(best: list[float], least: float, near: float) -> int:
    within = [k for k, found in enumerate(best, 1) if found <= (1.0 + near) * least]
    return within[0] if within else len(best) + 1
