"""How well is a load tracked? poolwright, ten control laws and four references on three real days.

On the same requests, for each trace (`traces.py`):

- poolwright, with the shipped policies `balanced` and `autoscale` in mode auto;
- the control laws of `laws.py`, each told once per sample of its own product;
- an oracle, the best fixed size in hindsight, 2 * cores + 1 for ever, and the Kubernetes
  autoscaler on CPU as somebody would set it who had swept the service: its target is 80 % of the
  CPU per worker at the oracle's size at half of the peak.

    nice .venv/bin/python bench/tracking.py --methods laws --seeds 3
    nice .venv/bin/python bench/tracking.py --tables        # what was measured so far

Each row is appended to `out/bench/tracking.jsonl`; rows that are there are not made again.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import asdict  # noqa: E402
from fnmatch import fnmatchcase  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from laws import LAWS, HpaOnCpu, Law, Sample  # noqa: E402
from poolwright.core.model import Reading  # noqa: E402
from poolwright.core.sketch import Sketch, SketchBuilder  # noqa: E402
from poolwright.sim.plant import Plant, Truth  # noqa: E402
from traces import (  # noqa: E402
    CORES,
    FOLK,
    LEAST,
    MOST,
    PEAK_RPS,
    SLO_S,
    TRACES,
    Day,
    Row,
    driven,
    hindsight,
    oracle,
    poolwright,
    sweep,
)

VERSION = 1  # of traces, plant and laws: rows of another are not compared with these
_OUT = Path(__file__).resolve().parents[1] / "out" / "bench" / "tracking.jsonl"
_NONE = Sketch()


class Watch:
    """What a law is told: adds up looks at a service until they are a sample."""

    def __init__(self) -> None:
        self.forget(settled=True)

    def forget(self, *, settled: bool) -> None:
        """Begin a sample."""
        self.settled = settled
        self.span_s = self.cpu_s = self.foreign_s = 0.0
        self.done = self.in_flight = 0
        self.services: list[Sketch] = []

    def look(self, truth: Truth, readings: tuple[Reading, ...]) -> None:
        """The tick that has ended."""
        self.span_s += truth.dt_s
        self.cpu_s += truth.cpu_s
        self.foreign_s += truth.foreign_s
        self.done += truth.done
        self.in_flight = max(self.in_flight, truth.in_service)
        self.queue, self.reserved = truth.waiting, truth.waiting + truth.in_service
        self.services += (r.sketch for r in readings if r.signal == "service_time_s")

    def sample(self) -> Sample:
        """All looks so far. Workers count as busy by the requests that they have finished."""
        total = sum(sketch.total for sketch in self.services if sketch)
        return Sample(
            span_s=self.span_s,
            settled=self.settled,
            done=self.done,
            throughput=self.done / self.span_s,
            service=total / self.done if self.done else 0.0,
            quantile=self._quantile,
            busy=total / self.span_s,
            in_flight=self.in_flight,
            queue=self.queue,
            reserved=self.reserved,
            cpu=self.cpu_s / self.span_s,
            foreign=self.foreign_s / self.span_s / CORES,
            cores=CORES,
        )

    def _quantile(self, q: float) -> float:
        """Of the time in a worker."""
        merged = SketchBuilder()
        for sketch in self.services:
            merged.merge(sketch or _NONE)
        return merged.freeze().quantile(q)


class Steered:
    """A law as a rule: it speaks whenever a sample is full."""

    def __init__(self, law: Law) -> None:
        self.law, self.watch = law, Watch()

    def __call__(self, _at_s: float, plant: Plant, readings: tuple[Reading, ...]) -> int | None:
        """The level that the law wants, when it has just spoken."""
        watch, n = self.watch, plant.workers
        watch.look(plant.truth, readings)
        if watch.span_s < self.law.SPAN_S - 1e-9:
            return None
        sample = watch.sample()
        if not self.law.ready(n, sample):
            return None
        wanted = self.law.take(n, sample)
        watch.forget(settled=wanted == n)
        return wanted


def steered(day: Day, who: str, law: type[Law]) -> Row:
    """Sized by a law from the folk size on, within the policy's bounds."""
    made = law(FOLK, LEAST, MOST, np.random.default_rng([13, day.seed]), slo_s=SLO_S)
    return driven(day, who, Steered(made), FOLK, made.LOOK_S)


def on_cpu(day: Day, who: str) -> Row:
    """Sized by the autoscaler of Kubernetes on CPU, from the oracle's first size on."""
    needs = sweep(day.seed)
    (part,) = day.scenario().services()
    now = part.load.rate(0.0)
    first = next(level for rps, level, _ in needs if rps >= now)
    law = HpaOnCpu(first, LEAST, MOST, np.random.default_rng([13, day.seed]))
    _, level, cpu = next(found for found in needs if found[0] >= PEAK_RPS / 2)
    law.target = law.TARGET * cpu / level
    return driven(day, who, Steered(law), first, law.LOOK_S)


def held(day: Day, who: str) -> Row:
    """2 * cores + 1 workers, whatever comes."""
    return driven(day, who, lambda *_: None, FOLK)


Method = Callable[[Day, str], Row]
METHODS: dict[str, Method] = {
    "oracle": oracle,
    "best fixed size": hindsight,
    "2*cores+1": held,
    "HPA on CPU, swept": on_cpu,
    **{name: partial(steered, law=law) for name, law in LAWS.items()},
    "poolwright, balanced": partial(poolwright, policy="balanced"),
    "poolwright, autoscale": partial(poolwright, policy="autoscale"),
}


def chosen(asked: str) -> list[str]:
    """The methods that patterns separated by `;` mean; `laws` are all control laws."""
    patterns = [p for part in asked.split(";") for p in (LAWS if part == "laws" else [part])]
    found = [name for name in METHODS if any(fnmatchcase(name, p) for p in patterns)]
    if not found:
        raise SystemExit(f"{asked!r} is none of: {', '.join(METHODS)}")
    return found


def over(rows: list[Row], told: Callable[[Row], float], form: str) -> str:
    """The mean over seeds, and the least and the most where they differ as printed."""
    found = [told(row) for row in rows]
    mean, low, high = (format(x, form) for x in (sum(found) / len(found), min(found), max(found)))
    return mean if low == high else f"{mean} [{low}, {high}]"


def table(rows: list[Row]) -> str:
    """Markdown: a row for each way of sizing, trace by trace."""
    head = (
        "sized by", "minutes outside the SLO", "requests failed", "worker-hours", "J/request",
        "moves", "workers",
    )  # fmt: skip
    lines = []
    for trace, (title, _) in TRACES.items():
        if not any(row.trace == trace for row in rows):
            continue
        lines += [f"**{title}**, a day:", "", "| " + " | ".join(head) + " |", "|---|" + "--:|" * 6]
        for who in METHODS:
            mine = [row for row in rows if (row.trace, row.who) == (trace, who)]
            if not mine:
                continue
            levels = [level for row in mine for level in row.levels]
            cells = (
                who,
                over(mine, lambda r: r.minutes_outside / r.days, ",.0f"),
                over(mine, lambda r: r.requests_failed / r.days, ",.0f"),
                over(mine, lambda r: r.worker_hours_per_day, ",.0f"),
                over(mine, lambda r: r.joules_per_request, ".2f"),
                over(mine, lambda r: r.moves_per_day, ",.0f"),
                f"{min(levels)}..{max(levels)}",
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def load(path: Path) -> list[Row]:
    """The rows of this version of the bench."""
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [Row(**row) for row in found if row.pop("version") == VERSION]


def main() -> None:
    """Play what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--methods", default="*", help="separated by `;`: names, patterns, `laws`")
    parser.add_argument("--traces", nargs="+", choices=TRACES, default=list(TRACES))
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", action="store_true", help="workers boot at once, for nothing")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--tables", action="store_true", help="only print what the file holds")
    asked = parser.parse_args()
    names = chosen(asked.methods)
    rows = load(asked.out)
    done = {(row.trace, row.who, row.seed, row.days, row.threads) for row in rows}
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as `poolwright simulate` does: there are few cycles
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(0 if asked.tables else asked.seeds):
        for trace in asked.traces:
            day = Day(trace=trace, seed=seed, days=asked.days, threads=asked.threads)
            for who in names:
                if (trace, who, seed, day.days, day.threads) in done:
                    continue
                row = METHODS[who](day, who)
                rows.append(row)
                with asked.out.open("a") as out:
                    out.write(json.dumps({"version": VERSION, **asdict(row)}) + "\n")
                print(f"{trace}, {who}, seed {seed}: {row.spent_s:.0f} s", file=sys.stderr)
    wanted = [r for r in rows if (r.days, r.threads) == (asked.days, asked.threads)]
    print(table([r for r in wanted if r.who in names and r.trace in asked.traces]))


if __name__ == "__main__":
    main()
