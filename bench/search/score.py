"""One run scored: regret, violations, windows to the oracle, moves. And runs gathered to rows."""

from dataclasses import dataclass, field

import numpy as np

from search.world import TICKS, Cell, Oracle, World

NEAR = 0.05  # of the oracle's cost
IN_A_ROW = 5
LAST = 20


@dataclass
class Score:
    """Accumulates the slots of one run."""

    world: World
    oracle: Oracle = field(init=False)
    regret: list[float] = field(default_factory=list)
    near: list[bool] = field(default_factory=list)
    hard: list[bool] = field(default_factory=list)
    slo: list[bool] = field(default_factory=list)
    held: list[tuple[int, ...]] = field(default_factory=list)
    last: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Enumerate the oracle as needed."""
        self.oracle = Oracle(self.world)

    def take(self, slot: int, held: list[tuple[int, ...]], recommended: tuple[int, ...]) -> None:
        """One slot: the setting of each tick (or one for all), and the recommendation after it."""
        world, plant = self.world, self.world.plant
        costs, hard, slo = [], False, False
        for setting in held:
            truth = world.truth(setting, slot)
            costs.append(float(plant.charged(truth, world.loads[slot])[0]))
            hard |= bool(truth.memory[0] > plant.memory_limit)
            slo |= bool(truth.p95[0] > plant.slo_s)
        self.regret.append(float(np.mean(costs)) / self.oracle.best(slot) - 1.0)
        self.hard.append(hard)
        self.slo.append(slo)
        self.held.extend(held if len(held) > 1 else held * TICKS)
        self.near.append(self._is_near(slot, recommended))
        self.last = recommended

    def _is_near(self, slot: int, setting: tuple[int, ...]) -> bool:
        """Feasible and within 5 % of the oracle, at the steady load (a day's: at the slot's)."""
        world, plant = self.world, self.world.plant
        if world.cell.diurnal:
            truth = world.truth(setting, slot)
            cost = float(plant.charged(truth, world.loads[slot])[0])
            best = self.oracle.best(slot)
        else:
            truth = plant.truth(np.array([setting]), plant.load, 0.0)
            cost, best = float(plant.charged(truth, plant.load)[0]), self.oracle.steady()
        return bool(plant.feasible(truth)[0]) and cost <= (1.0 + NEAR) * best

    @property
    def windows_to_oracle(self) -> int:
        """The first window after which the recommendation is near for 5 in a row; else one more
        than there were.
        """
        n = len(self.near)
        for k in range(n):
            if all(self.near[k : k + IN_A_ROW]) and k + IN_A_ROW <= n:
                return k + 1
        return n + 1

    def moves(self) -> tuple[int, int, float]:
        """How many moves, how many by more than a factor 2, and the mean size in octaves."""
        steps = [
            max(abs(np.log2(b / a)) for a, b in zip(one, two, strict=True))
            for one, two in zip(self.held, self.held[1:], strict=False)
            if one != two
        ]
        return len(steps), int(sum(s > 1.0 for s in steps)), float(np.mean(steps)) if steps else 0.0

    def final(self) -> float:
        """The regret of holding the last recommendation for ever, at the steady load."""
        plant = self.world.plant
        truth = plant.truth(np.array([self.last]), plant.load, 0.0)
        return float(plant.charged(truth, plant.load)[0]) / self.oracle.steady() - 1.0

    def record(self) -> dict:
        """What is written to the results' file."""
        moves, jumps, octaves = self.moves()
        return {
            "n5": self.windows_to_oracle,
            "solved": self.windows_to_oracle <= len(self.near),
            "hard": sum(self.hard),
            "slo": sum(self.slo),
            "regret": round(float(np.mean(self.regret)), 5),
            "last20": round(float(np.mean(self.regret[-LAST:])), 5),
            "final": round(self.final(), 5),
            "moves": moves,
            "jumps": jumps,
            "octaves": round(octaves, 3),
            "by_slot": [round(r, 4) for r in self.regret],
        }


def row_of(runs: list[dict]) -> list[str]:
    """One row of the table from the runs of a cell and method."""
    get = lambda name: np.array([run[name] for run in runs], dtype=float)  # noqa: E731
    n5 = get("n5")
    low, mid, high = np.quantile(n5, (0.25, 0.5, 0.75))
    spread = np.quantile(get("regret"), (0.25, 0.75))
    return [
        f"{mid:.3g} [{low:.3g},{high:.3g}]",
        f"{get('solved').mean():.2f}",
        f"{get('hard').mean():.2f}",
        f"{get('slo').mean():.2f}",
        f"{100 * get('regret').mean():.1f} % [{100 * spread[0]:.1f},{100 * spread[1]:.1f}]",
        f"{100 * get('last20').mean():.1f} %",
        f"{100 * get('final').mean():.1f} %",
        f"{get('moves').mean():.0f}",
        f"{get('jumps').mean():.1f}",
        f"{get('octaves').mean():.2f}",
        f"{get('ms').mean():.1f}",
        f"{len(runs)}",
    ]


HEAD = [
    "windows to 5 % [q25,q75]", "solved", "hard", "SLO", "regret, all [q25,q75]",
    "last 20", "final rec.", "moves", "> 2x", "octaves", "ms", "seeds",
]  # fmt: skip


def table(title: str, rows: dict[str, list[dict]]) -> str:
    """A Markdown table, one row a method, by mean regret."""
    lines = [f"### {title}", "", "| method | " + " | ".join(HEAD) + " |"]
    lines.append("|" + "---|" * (len(HEAD) + 1))
    order = sorted(rows, key=lambda m: float(np.mean([run["regret"] for run in rows[m]])))
    lines += [f"| {method} | " + " | ".join(row_of(rows[method])) + " |" for method in order]
    return "\n".join(lines) + "\n"


def calibration_table(rows: dict[str, list[dict]]) -> str:
    """Share of fresh windows inside the 90 % interval, per response, where there is one."""
    known = {m: runs for m, runs in rows.items() if any(run.get("asked") for run in runs)}
    if not known:
        return ""
    names = sorted({name for runs in known.values() for run in runs for name in run["asked"]})
    lines = [
        "",
        "| 90 % interval of | " + " | ".join(names) + " |",
        "|" + "---|" * (len(names) + 1),
    ]
    for method, runs in known.items():
        shares = []
        for name in names:
            asked = sum(run["asked"].get(name, 0) for run in runs)
            inside = sum(run["inside"].get(name, 0) for run in runs)
            shares.append(f"{inside / asked:.2f} ({asked})" if asked else "-")
        lines.append(f"| {method} | " + " | ".join(shares) + " |")
    return "\n".join(lines) + "\n"


def told_beside(cell: Cell, rows: dict[str, list[dict]]) -> str:
    """What a cell is about and its table does not say: lines of Markdown."""
    about = ""
    if cell.deploy_at is not None:
        about, first = "mean regret from the 40th window after the deploy", cell.deploy_at + 40
    elif cell.kind == "saturated":
        about, first = "share of the peak throughput from the 40th window on", 40
    if not about:
        return ""
    lines = [f"{about[0].upper()}{about[1:]}:"]
    for method, runs in rows.items():
        late = np.array([run["by_slot"][first:] for run in runs])
        if cell.kind == "saturated":
            shown = f"{(1.0 / (1.0 + late)).mean():.3f}"
        else:
            shown = f"{100 * late.mean():.1f} %"
        lines.append(f"- {method}: {shown}")
    return "\n".join(lines) + "\n"


def title_of(cell: Cell) -> str:
    """What a cell is, in words."""
    kind = {"threads": "workers x threads", "pool": "workers x threads x connections"}
    about = f"{kind.get(cell.kind, cell.kind)}, 1..{cell.top} workers"
    about += f", latency noise {100 * cell.noise:.0f} %, {cell.windows} windows"
    if cell.diurnal:
        about += ", a day of 96 windows with foreign CPU"
    if cell.deploy_at is not None:
        about += f", a deploy at window {cell.deploy_at}"
    return f"{cell.name}: {about}"
