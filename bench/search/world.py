"""The world around a plant: load and foreign CPU window by window, noise, and what is measured.

A run is `windows` slots of 30 s, each of six sub-windows of 5 s. Load and foreign CPU are drawn
once per slot, before any method acts, so that all methods of a seed meet the same ones.
"""

from dataclasses import dataclass, field

import numpy as np

from search.plants import DRAWS, WINDOW_S, Plant, Truth, make

VERSION = 1  # of plants, worlds and scores: runs of another are not compared with these
TICKS = 6
TICK_S = WINDOW_S / TICKS
OUTLIERS = 0.03
_POWER_NOISE = 0.02
_CPU_NOISE = 0.02
_MEMORY_NOISE = 0.005


@dataclass(frozen=True)
class Cell:
    """One experiment. `kind` and `top` name the plant; `noise` is of the latency, per window."""

    name: str
    kind: str
    top: int
    noise: float = 0.10
    windows: int = 60
    diurnal: bool = False
    deploy_at: int | None = None


def _cells() -> dict[str, Cell]:
    found = [
        Cell("usl-64", "usl", 64),
        Cell("usl-256", "usl", 256),
        Cell("plateau-64", "plateau", 64),
        Cell("plateau-256", "plateau", 256),
        Cell("retrograde-64", "retrograde", 64),
        Cell("bimodal-64", "bimodal", 64),
        Cell("memory_cliff-64", "memory_cliff", 64),
        Cell("two-knob", "threads", 64),
        Cell("three-knob", "pool", 32),
        Cell("diurnal-64", "usl", 64, windows=200, diurnal=True),
        Cell("diurnal-plateau-64", "plateau", 64, windows=200, diurnal=True),
        Cell("deploy-64", "usl", 64, windows=160, deploy_at=80),
        Cell("saturated-64", "saturated", 64),
        Cell("saturated-64@30", "saturated", 64, noise=0.30),
    ]
    for at in (0.05, 0.20):
        for base in list(found[:9]):
            name = f"{base.name}@{round(100 * at)}"
            found.append(Cell(name, base.kind, base.top, noise=at))
    return {cell.name: cell for cell in found}


CELLS = _cells()


@dataclass(frozen=True)
class Seen:
    """What one window at one setting measured, for those who see windows and not ticks."""

    load: float
    foreign: float
    throughput: float
    p50: float
    p95: float
    p99: float
    mean: float
    least: float
    jitter: float
    wait: float
    service: float  # mean time in a worker
    service_least: float
    service_p50: float
    service_p90: float
    busy: float  # mean requests in service
    queue: float  # mean requests waiting
    cpu: float
    cores: int
    memory: float
    power: float
    cost: float  # J of what was measured, penalties included


@dataclass
class World:
    """A plant under its load, with the clock of slots. Deterministic in (cell, seed)."""

    cell: Cell
    seed: int
    plant: Plant
    rng: np.random.Generator
    loads: np.ndarray = field(init=False)
    foreign: np.ndarray = field(init=False)
    _truths: dict = field(default_factory=dict, repr=False)
    deployed: bool = False

    def __post_init__(self) -> None:
        """Draw the loads and foreign CPU of all slots."""
        rng = np.random.default_rng([7, self.seed])
        n = self.cell.windows
        spread, keep = (0.05, 0.9) if self.cell.diurnal else (0.025, 0.7)
        level, x = np.zeros(n), 0.0
        for k in range(n):
            x = keep * x + np.sqrt(1.0 - keep**2) * spread * rng.normal()
            level[k] = np.clip(x, -2.0 * spread, 2.0 * spread)
        day = np.ones(n)
        self.foreign = np.zeros(n)
        if self.cell.diurnal:
            phase = rng.uniform(0.0, 2.0 * np.pi)
            day = 0.75 + 0.25 * np.sin(2.0 * np.pi * np.arange(n) / 96.0 + phase)
            day = day * 0.95  # the plant's own load is the day's peak, noise included
            for _ in range(n // 50):
                at, span = int(rng.integers(10, n)), int(rng.integers(8, 20))
                self.foreign[at : at + span] = rng.uniform(0.1, 0.3)
        self.loads = self.plant.load * day * (1.0 + level)

    def enter(self, slot: int) -> None:
        """A slot begins: the deploy happens if it is its time."""
        if self.cell.deploy_at is not None and slot >= self.cell.deploy_at and not self.deployed:
            self.plant.deploy()
            self.deployed = True
            self._truths.clear()

    def truth(self, setting: tuple[int, ...], slot: int) -> Truth:
        """What `setting` really does in a slot."""
        key = (setting, slot)
        if key not in self._truths:
            x = np.array([setting])
            self._truths[key] = self.plant.truth(x, self.loads[slot], self.foreign[slot])
        return self._truths[key]

    def factor(self) -> tuple[float, float]:
        """The noise of one window: on all latencies, and on how far their tail is stretched."""
        noise = self.cell.noise
        scale = float(np.exp(noise * self.rng.normal()))
        if self.rng.random() < OUTLIERS:
            scale *= float(self.rng.uniform(1.5, 2.5))
        return scale, 1.0 + 0.5 * noise * float(self.rng.normal())

    def requests(self, truth: Truth, scale: float, stretch: float, seconds: float):
        """Latencies (DRAWS,) and how many requests had each, within `seconds`."""
        p95, rate = truth.p95[0], float(truth.throughput[0])
        values = scale * p95 * (truth.latencies[0] / p95) ** stretch
        if self.cell.kind == "saturated":
            rate /= scale  # all workers are busy: by Little's law they serve the less the slower
        done = int(self.rng.poisson(rate * seconds))
        counts = self.rng.multinomial(max(done, 1), np.full(DRAWS, 1.0 / DRAWS))
        return values, counts

    def gauges(self, truth: Truth) -> tuple[float, float, float]:
        """CPU [cores], memory [bytes] and power [W] as sensors tell them."""
        noisy = self.rng.normal(1.0, (_CPU_NOISE, _MEMORY_NOISE, _POWER_NOISE))
        return (
            float(truth.cpu[0] * noisy[0]),
            float(truth.memory[0] * noisy[1]),
            float(truth.power[0] * noisy[2]),
        )

    def window(self, setting: tuple[int, ...], slot: int) -> Seen:
        """One whole window at one setting."""
        truth = self.truth(setting, slot)
        scale, stretch = self.factor()
        values, counts = self.requests(truth, scale, stretch, WINDOW_S)
        seen = np.repeat(values, counts)
        served = np.repeat(scale * truth.services[0], counts)
        cpu, memory, power = self.gauges(truth)
        done = counts.sum() / WINDOW_S
        p50, p95, p99 = (float(q) for q in np.quantile(seen, (0.5, 0.95, 0.99)))
        jitter, load = float(seen.std()), float(self.loads[slot])
        plant, capacity = self.plant, float(truth.capacity[0])
        offered = done + max(0.0, load - capacity)  # completions, and the backlog's growth
        if self.cell.kind == "saturated":
            offered = load
        cost = plant.cost_of(p95, power, jitter, done / offered)
        return Seen(
            load=offered,
            foreign=float(self.foreign[slot]),
            throughput=done,
            p50=p50,
            p95=p95,
            p99=p99,
            mean=float(seen.mean()),
            least=float(seen.min()),
            jitter=jitter,
            wait=float(truth.wait[0]),
            service=float(served.mean()),
            service_least=float(served.min()),
            service_p50=float(np.quantile(served, 0.5)),
            service_p90=float(np.quantile(served, 0.9)),
            busy=min(done * float(served.mean()), float(plant.concurrency(np.array([setting]))[0])),
            queue=done * float(truth.wait[0]),
            cpu=cpu,
            cores=plant.cores,
            memory=memory,
            power=power,
            cost=float(cost + plant.penalty_of(p95, memory)),
        )


def make_world(cell: Cell, seed: int) -> World:
    """The world of a cell's seed."""
    plant = make(cell.kind, cell.top, seed, deploys=cell.deploy_at is not None)
    return World(cell, seed, plant, np.random.default_rng([11, seed]))


@dataclass
class Oracle:
    """The best setting of every slot, by enumeration."""

    world: World
    _best: dict = field(default_factory=dict, repr=False)

    def best(self, slot: int) -> float:
        """The least charged cost that any setting has in a slot."""
        key = self._key(slot)
        if key not in self._best:
            self._best[key] = self._enumerate(slot)
        return self._best[key]

    def _key(self, slot: int):
        world = self.world
        return (world.loads[slot], world.foreign[slot], world.deployed)

    def _enumerate(self, slot: int) -> float:
        world, plant = self.world, self.world.plant
        least = np.inf
        for part in np.array_split(plant.lattice, max(1, len(plant.lattice) // 2048)):
            truth = plant.truth(part, world.loads[slot], world.foreign[slot])
            least = min(least, float(plant.charged(truth, world.loads[slot]).min()))
        return least

    def steady(self) -> float:
        """The least charged cost at the plant's steady load."""
        key = ("steady", self.world.deployed)
        if key not in self._best:
            plant = self.world.plant
            truth = plant.truth(plant.lattice, plant.load, 0.0)
            self._best[key] = float(plant.charged(truth, plant.load).min())
        return self._best[key]
