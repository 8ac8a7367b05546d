"""Plants to search on: what a service of each setting would do, in closed form and vectorised.

Written without the surrogate's formulas. A setting's requests are 256 stratified draws of service
time and of waiting time; waiting is that of M/M/c (Erlang's C formula, tail exp(-t / tau)), with
bursts; every quantile, the mean and the standard deviation come from the same draws. Only the
capacity of the kind `usl` shares a formula with the surrogate, and it has ripple and cliffs on top.

Kinds: usl (ripple, cliffs), plateau (a back-end that saturates, and a hump of latency where its
lock convoys), retrograde (thrashing: throughput falls steeply past its peak), bimodal (two modes
of service time whose shares move with the workers' caches), memory_cliff (memory jumps, and grows
faster past it), saturated (plain USL under three times the load that it can serve; only throughput
counts), threads (workers x threads, where a worker's threads share an interpreter), pool
(workers x threads x back-end connections).
"""

import copy
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, ndtri, pdtr

DRAWS = 256
WINDOW_S = 30.0
FULL = 0.97  # utilisation from which a queue is said to grow for as long as the window lasts
BUSY = 0.7  # how many workers share what they contend for: more than are busy on average
PEAK = 1.05  # times the steady load: what the operator's default is safe for
CAP_SLO = 5.0  # latency counts up to this many SLOs: by then the clients have gone
WEIGHTS = (("latency_p95_s", 2.0), ("power_w", 0.5), ("jitter_s", 0.4))  # see Plant.cost
SHORTFALL = 2.0 * sum(weight for _, weight in WEIGHTS)  # as poolwright's objective has it
SLACK = 0.02
SLO_PENALTY = 1.0
MEMORY_PENALTY = 3.0

_U = (np.arange(DRAWS) + 0.5) / DRAWS


@dataclass(frozen=True)
class Truth:
    """Long-run behaviour of settings, one element (or row) each."""

    latencies: np.ndarray  # (n, DRAWS) seconds, not sorted
    services: np.ndarray  # (n, DRAWS)
    p95: np.ndarray
    jitter: np.ndarray
    wait: np.ndarray  # mean seconds
    capacity: np.ndarray
    throughput: np.ndarray
    cpu: np.ndarray
    memory: np.ndarray
    power: np.ndarray


def stratified(rng: np.random.Generator) -> np.ndarray:
    """The stratified uniforms, in an order of their own."""
    return rng.permutation(_U)


def erlang_c(servers: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """The probability of having to wait in M/M/c (Erlang, 1917), from his loss formula."""
    offered = rho * servers
    log_full = servers * np.log(offered) - offered - gammaln(servers + 1.0)
    lost = np.exp(log_full) / np.maximum(pdtr(servers, offered), 1e-300)
    return lost / (1.0 - rho * (1.0 - lost))


@dataclass
class Plant:
    """One seeded plant. `spans` are the knobs' (name, lowest, highest). Where it `deploys`, some
    setting meets the SLO before and after that.
    """

    kind: str
    seed: int
    spans: tuple[tuple[str, int, int], ...]
    deploys: bool = False

    def __post_init__(self) -> None:
        """Draw constants until there is a safe setting to start from that is not the best one."""
        for attempt in range(100):
            seeds = [_KINDS.index(self.kind), self.top, self.seed, attempt]
            self._draw(np.random.default_rng(seeds))
            if self.start:
                return
        raise AssertionError(f"no {self.kind} plant of seed {self.seed} leaves anything to gain")

    def _draw(self, rng: np.random.Generator) -> None:
        """Constants of the service, then load, cores, memory limit and SLO to scale."""
        self.s0 = float(rng.uniform(0.02, 0.12))
        self._u_service, self._u_wait = stratified(rng), stratified(rng)
        self.burst = float(rng.uniform(1.5, 4.0))
        self.sigma = float(rng.uniform(0.25, 0.5))
        self._draw_capacity(rng)
        self._ripple = rng.uniform(0.03, 0.08)
        self._phase, self._cycles = rng.uniform(0.0, 6.3), rng.uniform(1.0, 2.2)
        self.cliff_c = int(rng.uniform(0.25, 0.9) * self.top)
        self.cliff_depth = float(rng.uniform(0.05, 0.20)) if self.kind == "usl" else 0.0
        self.slow_share = rng.uniform(0.02, 0.10)
        self.cpu_s = self.s0 * float(rng.uniform(0.3, 0.7))
        self.overhead = float(rng.uniform(0.2, 0.6))
        self._all = self._lattice()
        capacity = self.capacity(self._all, 0.0)
        peak_at, self.peak = int(np.argmax(capacity)), float(capacity.max())
        part = 3.0 if self.kind == "saturated" else float(rng.uniform(0.5, 0.75))
        self.load = part * (self._later().peak if self.deploys else self.peak)
        self._scale_cpu(rng, peak_at)
        self._scale_memory(rng)
        self.slo_s = float("inf")
        self.power_ref = 1.0
        self._choose_slo()
        self.start = self._choose_start(rng)
        if not self.start or self.kind == "saturated":
            return
        self.power_ref = float(self.truth(np.array([self.start]), self.load, 0.0).power[0])

    @property
    def top(self) -> int:
        """The highest level of the first knob."""
        return self.spans[0][2]

    @property
    def names(self) -> tuple[str, ...]:
        """The knobs, in the order of a setting's levels."""
        return tuple(name for name, _, _ in self.spans)

    def _lattice(self) -> np.ndarray:
        axes = [np.arange(low, high + 1) for _, low, high in self.spans]
        return np.array(np.meshgrid(*axes, indexing="ij")).reshape(len(axes), -1).T

    @property
    def lattice(self) -> np.ndarray:
        """Every setting, (n, knobs)."""
        return self._all

    def _draw_capacity(self, rng: np.random.Generator) -> None:
        top = self.top
        centre = 0.05 if self.kind == "saturated" else 0.02
        self.alpha = float(np.exp(rng.normal(np.log(centre), 0.6)))
        peak = float(rng.uniform(0.3, 0.9)) * top
        self.beta = (1.0 - self.alpha) / peak**2
        self.knee = float(rng.uniform(0.15, 0.5)) * top
        self.sharp = float(rng.uniform(1.2, 2.5))
        self.hump_at = float(rng.uniform(0.2, 0.7)) * top
        self.hump = float(rng.uniform(0.15, 0.5))
        self.steep = float(rng.uniform(2.0, 4.0))
        self.gil = float(rng.uniform(0.05, 0.3))  # share of a request that its worker serialises
        self.pool_at = float(rng.uniform(6.0, 20.0))

    def _usl(self, c: np.ndarray) -> np.ndarray:
        return c / (1.0 + self.alpha * (c - 1.0) + self.beta * c * (c - 1.0))

    def capacity(self, x: np.ndarray, foreign: float) -> np.ndarray:
        """Requests a second that settings can serve."""
        c = x[:, 0].astype(float)
        if self.kind == "plateau":
            limit = self.knee * (1.0 - np.exp(-((c / self.knee) ** self.sharp)))
            raw = np.minimum(limit, c)
        elif self.kind == "retrograde":
            raw = c * np.exp(-((c / (1.6 * self.knee)) ** self.steep))
        elif self.kind == "threads":
            raw = self._usl(c) * self._per_worker(x[:, 1])
        elif self.kind == "pool":
            front = self._usl(c) * self._per_worker(x[:, 1])
            d = x[:, 2].astype(float)
            back = d * np.exp(-((d / (2.0 * self.pool_at)) ** 2.0)) * 0.12 * self.top
            raw = 1.0 / (1.0 / front**4 + 1.0 / back**4) ** 0.25
        else:
            raw = self._usl(c)
        if self.kind == "saturated":
            return raw / self.s0 * (1.0 - 0.5 * foreign)
        wave = 1.0 + self._ripple * np.sin(6.28 * self._cycles * np.log2(c) + self._phase)
        wave = wave * np.where(c > self.cliff_c, 1.0 - self.cliff_depth, 1.0)
        return raw * wave / self.s0 * (1.0 - 0.5 * foreign)

    def _per_worker(self, t: np.ndarray) -> np.ndarray:
        """What t threads of one worker do of what one does (Amdahl's law, and switching)."""
        t = t.astype(float)
        return t / (1.0 + self.gil * (t - 1.0) + 0.01 * t * (t - 1.0))

    def concurrency(self, x: np.ndarray) -> np.ndarray:
        """Requests in service at once when all are busy."""
        c = x[:, 0].astype(float)
        return c * x[:, 1] if len(self.spans) > 1 else c

    def _service(self, x: np.ndarray, load: float, foreign: float) -> tuple[np.ndarray, np.ndarray]:
        """Service times (n, DRAWS) and utilisation."""
        capacity = self.capacity(x, foreign)
        servers = self.concurrency(x)
        rho = load / capacity
        full = servers / capacity  # the service time when all are busy
        busy = np.minimum(rho, 1.0) ** BUSY
        mean = self.s0 / (1.0 - 0.25 * foreign) * (1.0 - busy) + full * busy
        if self.kind == "plateau":
            away = np.log2(x[:, 0] / self.hump_at)
            mean = mean * (1.0 + self.hump * np.exp(-((away / 0.35) ** 2)))
        z = ndtri(self._u_service)
        shape = np.exp(self.sigma * z - 0.5 * self.sigma**2)
        service = mean[:, None] * shape[None, :]
        if self.kind == "bimodal":
            share = self.slow_share * (0.6 + 1.2 * x[:, 0] / self.top)
            fast = 1.0 / (1.0 + 3.0 * share)
            slow = self._u_wait[None, ::-1] > 1.0 - share[:, None]
            service = service * np.where(slow, 4.0, 1.0) * fast[:, None]
        return service, rho

    def truth(self, x: np.ndarray, load: float, foreign: float) -> Truth:
        """What settings `x` (n, knobs) do at `load` [rps] with a share `foreign` of CPU gone."""
        x = np.asarray(x)
        capacity = self.capacity(x, foreign)
        service, rho = self._service(x, load, foreign)
        servers = self.concurrency(x)
        held = np.minimum(rho, FULL)
        p_wait = erlang_c(servers, held)
        tau = self.burst * servers / capacity / (servers * (1.0 - held))
        tail = np.log(np.maximum(p_wait, 1e-300))[:, None] - np.log(1.0 - self._u_wait)[None, :]
        wait = tau[:, None] * np.maximum(0.0, tail)
        if self.kind == "saturated":  # what waits outside is not waited for: clients give up
            return self._truth(x, load, foreign, capacity, service, np.zeros_like(wait))
        grown = np.maximum(0.0, rho - FULL) * WINDOW_S  # at the window's end
        wait = wait + grown[:, None] * self._u_wait[None, :]
        return self._truth(x, load, foreign, capacity, service, wait)

    def _truth(self, x, load, foreign, capacity, service, wait) -> Truth:
        latencies = service + wait
        throughput = np.minimum(load, capacity)
        cpu = self._cpu(x, throughput)
        share = np.minimum(1.0, cpu / self.cores + foreign)
        return Truth(
            latencies=latencies,
            services=service,
            p95=np.quantile(latencies, 0.95, axis=1),
            jitter=latencies.std(axis=1),
            wait=wait.mean(axis=1),
            capacity=capacity,
            throughput=throughput,
            cpu=cpu,
            memory=self.memory(x),
            power=60.0 + 140.0 * (2.0 * share - share**1.4),
        )

    def _cpu(self, x: np.ndarray, throughput: np.ndarray) -> np.ndarray:
        crowd = 1.0 + self.overhead * self.concurrency(x) / self._crowd
        return throughput * self.cpu_s * crowd

    def _scale_cpu(self, rng: np.random.Generator, peak_at: int) -> None:
        """As many cores as make the fastest setting 40 to 75 % busy."""
        self._crowd = float(self.concurrency(self._all[peak_at : peak_at + 1])[0])
        used = self._cpu(self._all[peak_at : peak_at + 1], np.array([self.load]))[0]
        self.cores = max(1, int(np.ceil(used / rng.uniform(0.4, 0.75))))

    def memory(self, x: np.ndarray) -> np.ndarray:
        """Bytes."""
        c = x[:, 0].astype(float)
        each = (
            self.worker_bytes * (1.0 + 0.06 * (x[:, 1] - 1.0))
            if len(self.spans) > 1
            else (np.full(len(c), self.worker_bytes))
        )
        total = self.base_bytes + each * c
        if self.kind == "memory_cliff":
            past = np.maximum(0.0, c - self.cliff_at)
            total = total + (past > 0.0) * self.cliff_bytes + 1.5 * self.worker_bytes * past
        return total

    def _scale_memory(self, rng: np.random.Generator) -> None:
        self.base_bytes = float(rng.uniform(100e6, 400e6))
        self.worker_bytes = float(rng.uniform(20e6, 120e6))
        self.cliff_at, self.cliff_bytes = self.top + 1, 0.0
        edge = np.array([[int(rng.uniform(0.6, 0.95) * high) for _, _, high in self.spans]])
        self.memory_limit = float(self.memory(edge)[0]) + 0.5 * self.worker_bytes
        if self.kind == "saturated":
            self.memory_limit = 2.0 * float(self.memory(self._all).max())
        if self.kind == "memory_cliff":
            self.cliff_at = int(edge[0, 0] * rng.uniform(0.5, 0.85))
            self.cliff_bytes = float(rng.uniform(0.04, 0.10)) * self.memory_limit

    def _choose_slo(self) -> None:
        """Twice the best 95th percentile within memory, at the plant's load."""
        if self.kind == "saturated":
            return
        last = self._later() if self.deploys else self
        truth = last.truth(self._all, self.load, 0.0)
        self.slo_s = 2.0 * float(truth.p95[truth.memory <= self.memory_limit].min())

    def _choose_start(self, rng: np.random.Generator) -> tuple[int, ...]:
        """An operator's safe default: feasible up to the usual peak of the load, and at least 15 %
        worse than the best; () when there is none.
        """
        truth = self.truth(self._all, self.load, 0.0)
        if self.kind == "saturated":
            slow = (truth.capacity <= 0.87 * self.peak) & (truth.capacity >= 0.4 * self.peak)
            return (int(rng.choice(self._all[slow, 0])),)
        self.power_ref = float(np.median(truth.power))
        cost, ok = self.cost(truth, self.load), self.feasible(truth)
        busiest = self.truth(self._all, PEAK * self.load, 0.0)
        safe = ok & self.feasible(busiest)
        worse = safe & (cost >= 1.15 * cost[ok].min())
        if not worse.any():
            return ()
        return tuple(int(level) for level in self._all[rng.choice(np.flatnonzero(worse))])

    def cost(self, truth: Truth, load: float) -> np.ndarray:
        """J = L / L* + 0.5 P / P0 + 0.2 jitter / L*, and what is short of the load.

        L* is half of the SLO: the best 95th percentile at the steady load; P0 the power at the
        start. Divided by the SLO, as poolwright does it, the weights are 2, 0.5 and 0.4. Of the
        kind `saturated` it is the peak over the throughput.
        """
        return self.cost_of(truth.p95, truth.power, truth.jitter, truth.throughput / load)

    def cost_of(self, p95, power, jitter, served):
        """J of numbers, measured or true; `served` is throughput over load."""
        if self.kind == "saturated":
            return self.peak / self.load / served
        w = dict(WEIGHTS)
        late = np.minimum(p95 / self.slo_s, CAP_SLO)
        uneven = np.minimum(jitter / self.slo_s, CAP_SLO)
        lost = np.maximum(0.0, 1.0 - SLACK - served)
        quick = w["latency_p95_s"] * late + w["jitter_s"] * uneven
        return quick + w["power_w"] * power / self.power_ref + SHORTFALL * lost

    def penalty_of(self, p95, memory):
        """What black boxes are told, and regret counts, of broken limits."""
        over = SLO_PENALTY * (p95 > self.slo_s)
        return over + MEMORY_PENALTY * (memory > self.memory_limit)

    def feasible(self, truth: Truth) -> np.ndarray:
        """Within the memory limit and the SLO."""
        return (truth.memory <= self.memory_limit) & (truth.p95 <= self.slo_s)

    def charged(self, truth: Truth, load: float) -> np.ndarray:
        """J with its penalties: what regret is measured in."""
        return self.cost(truth, load) + self.penalty_of(truth.p95, truth.memory)

    @property
    def memory_top(self) -> int:
        """The highest level of the first knob that memory allows, the others as at the start."""
        levels = np.arange(self.spans[0][1], self.top + 1)
        x = np.column_stack([levels, *(np.full(len(levels), v) for v in self.start[1:])])
        return int(levels[self.memory(x) <= self.memory_limit].max())

    def deploy(self) -> None:
        """A new release: three times the coherency, everything a tenth slower."""
        self.beta *= 3.0
        self.knee /= 1.5
        self.s0 *= 1.1

    def _later(self) -> "Plant":
        """The plant as it will be after the deploy."""
        later = copy.copy(self)
        later.deploy()
        later.peak = float(later.capacity(self._all, 0.0).max())
        return later


_KINDS = (
    "usl", "plateau", "retrograde", "bimodal", "memory_cliff", "threads", "pool", "saturated",
)  # fmt: skip
_SPANS = {
    "threads": (("threads", 1, 8),),
    "pool": (("threads", 1, 8), ("connections", 1, 32)),
}


def make(kind: str, top: int, seed: int, *, deploys: bool = False) -> Plant:
    """The plant of a kind with 1..`top` workers."""
    return Plant(kind, seed, (("workers", 1, top), *_SPANS.get(kind, ())), deploys)
