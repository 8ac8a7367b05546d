"""A service to practise on: a pool of workers, its host, its clients, and what sensors see of it.

It is made of mechanisms and knows none of the formulas of `learn/`. What is exact, given the
demands of the requests: who waits for whom, how CPU is shared, locks, connections, pauses
(`sim.pool`). What is approximate: patience and memory are looked at once a tick, so a retry whose
time has come within the tick of its failure, a kill for want of memory, and a connection given
back take effect at the end of the tick. Everything follows from (shape, calls, seed).
"""

from dataclasses import dataclass

from poolwright.core.model import Applied, Reading, Setting, setting
from poolwright.core.sketch import Sketch
from poolwright.sim.clients import Crowd
from poolwright.sim.demand import Demand
from poolwright.sim.memory import Heap
from poolwright.sim.pool import Pool
from poolwright.sim.shape import Disturbance, PlantShape
from poolwright.sim.sight import Eyes
from poolwright.sim.sketches import sketch_array

__all__ = ["Disturbance", "Plant", "PlantShape", "Totals", "Truth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """One tick as it really was, whatever sensors say of it.

    Attempts are counted: a request that is tried three times counts three times. `latency` is of
    those that were answered well in this tick, from arrival to answer; `errors` are all others that
    ended for their clients in it. What happened between two ticks is told by the second.
    """

    at_s: float  # the end of the tick
    dt_s: float
    latency: Sketch
    arrived: int = 0  # refused ones included
    done: int = 0  # served, well or not, also when nobody waited any more
    errors: int = 0  # failed, refused, lost or given up by the client: each attempt once
    failed: int = 0  # served with an error, also when nobody waited any more
    refused: int = 0  # the backlog was full, or the service stopped to listen
    lost: int = 0  # died with their worker, also when nobody waited any more
    timed_out: int = 0  # clients gave up
    killed: int = 0  # workers, for want of memory
    waiting: int = 0  # at the end
    in_service: int = 0  # at the end
    workers: int = 0  # processes at the end: those that boot or leave included
    worker_seconds: float = 0.0
    cpu_s: float = 0.0
    foreign_s: float = 0.0  # CPU seconds of neighbours
    stalled_s: float = 0.0  # time in which some thread got less than a core
    memory_bytes: float = 0.0  # of the pool, at its largest
    host_memory_bytes: float = 0.0  # of all that share its limit
    joules: float = 0.0  # of the whole host

    @property
    def p99_s(self) -> float | None:
        """The 99th percentile of `latency`; None: nobody was answered well."""
        return self.latency.quantile(0.99) if self.latency.count else None

    def violations(self, below_s: float) -> int:
        """Attempts that were not answered well within `below_s`, to the sketch's error."""
        return self.latency.above(below_s) + self.errors


@dataclass(slots=True, kw_only=True)
class Totals:
    """The sums of all Truths so far."""

    arrived: int = 0
    done: int = 0
    errors: int = 0
    failed: int = 0
    refused: int = 0
    lost: int = 0
    timed_out: int = 0
    killed: int = 0
    worker_seconds: float = 0.0
    cpu_s: float = 0.0
    joules: float = 0.0

    def add(self, truth: Truth) -> None:
        """Add one tick."""
        for name in Totals.__slots__:
            setattr(self, name, getattr(self, name) + getattr(truth, name))


class Plant:
    """Advance it tick by tick; it gives the Readings of its sensors and obeys a new level.

    `disturbance` may be changed or replaced between ticks. `knobs` names the levels that
    `applied` reports: workers, threads.
    """

    def __init__(
        self,
        shape: PlantShape,
        workers: int,
        seed: int,
        threads: int | None = None,
        *,
        knobs: tuple[str, ...] = ("workers",),
    ) -> None:
        """A plant with `workers` idle workers at time zero; `threads` overrides the shape's."""
        _at_least_one("workers", workers)
        self.shape = shape
        self.disturbance = Disturbance()
        self.totals = Totals()
        self.truth = Truth(at_s=0.0, dt_s=0.0, latency=Sketch(), workers=workers)
        self._start = (workers, threads or shape.threads)
        _at_least_one("threads", self._start[1])
        self._pool = Pool(shape, workers, self._start[1], seed)
        self._demand = Demand(shape, seed)
        self._crowd = Crowd(shape, seed)
        self._heap = Heap(shape.memory)
        self._eyes = Eyes(shape)
        self._knobs = knobs
        self._epoch = 0

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return self._pool.now_s

    @property
    def workers(self) -> int:
        """The level: workers that live and are meant to, booting ones included."""
        return len(self._pool.workers)

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return self._pool.waiting

    @property
    def in_service(self) -> int:
        """Requests that workers have in hand."""
        return sum(1 for _ in self._pool.in_service())

    @property
    def outstanding(self) -> int:
        """Requests in the service, waiting ones included."""
        return self.waiting + self.in_service

    # -- what is done to it ----------------------------------------------------------------------

    def applied(self) -> Applied:
        """What an actuator would read back."""
        levels = {"workers": self.workers, "threads": self._pool.threads}
        found = setting(**{knob: levels[knob] for knob in self._knobs})
        return Applied(setting=found, epoch=f"sim-{self._epoch}")

    def resize(self, workers: int) -> None:
        """Add workers, which boot first; or let the oldest finish what they have and go."""
        _at_least_one("workers", workers)
        for _ in range(workers - self.workers):
            self._pool.hire()
        for worker in self._pool.workers[: max(0, self.workers - workers)]:
            self._pool.retire(worker)

    def obey(self, wanted: Setting) -> None:
        """Move to a commanded setting. Other threads mean other workers: all are replaced."""
        for knob, level in wanted.levels:
            if knob == "workers":
                self.resize(level)
            elif knob != "threads":
                raise KeyError(knob)
            elif level != self._pool.threads:
                _at_least_one("threads", level)
                self._pool.rethread(level)
                self._replace(self.workers)

    def restart(self, *, graceful: bool = True) -> None:
        """Back to the level of the start, in another epoch.

        Gracefully: new workers boot while the old ones finish what they have (gunicorn's HUP).
        Else all that wait or are served are lost first.
        """
        self._epoch += 1
        if not graceful:
            for worker in (*self._pool.workers, *self._pool.leaving):
                self._crowd.lose(self._pool.kill(worker), self.now_s)
            self._crowd.drop(self._pool.hang_up(), self.now_s)
        self._pool.rethread(self._start[1])
        self._replace(self._start[0])

    def kill_worker(self) -> None:
        """The oldest worker dies with what it has in hand; another boots in its place."""
        self._crowd.lose(self._pool.kill(self._pool.workers[0]), self.now_s)
        self._pool.hire()

    def _replace(self, workers: int) -> None:
        """So many new workers; the old ones finish what they have."""
        old = tuple(self._pool.workers)
        for _ in range(workers):
            self._pool.hire()
        for worker in old:
            self._pool.retire(worker)

    # -- time ------------------------------------------------------------------------------------

    def tick(self, load_rps: float, dt_s: float = 1.0, *, cost: float = 1.0) -> tuple[Reading, ...]:
        """Serve `dt_s` seconds of load, each request `cost` times as dear as usual.

        What the sensors say at the end of it.
        """
        if not (load_rps >= 0.0 and dt_s > 0.0 and cost >= 0.0):
            raise ValueError(f"no such tick: {load_rps} requests/s at cost {cost} for {dt_s} s")
        self.disturbance.check()
        pool, began = self._pool, self.now_s
        end = began + dt_s
        arrivals = self._demand.arrivals(began, dt_s, load_rps)
        back = self._crowd.returning(end)
        if back:
            arrivals = sorted(arrivals + back)
        pool.offer(arrivals, self._demand.ask(len(arrivals), cost))
        before = (pool.burned_s, pool.foreign_s, pool.stalled_s)
        pool.advance(end, self.disturbance)
        finished = pool.finished()
        held, killed = self._remember()
        ended = self._crowd.close(pool, finished, began, self.disturbance.fail_ratio)
        latency = sketch_array(ended.answered)
        cpu_s, foreign_s = pool.burned_s - before[0], pool.foreign_s - before[1]
        busy = (cpu_s + foreign_s) / (dt_s * self.shape.cores)
        processes = len(pool.workers) + len(pool.leaving)
        self.truth = Truth(
            at_s=end,
            dt_s=dt_s,
            latency=latency,
            arrived=len(arrivals),
            done=len(finished),
            errors=ended.errors,
            failed=ended.failed,
            refused=ended.refused,
            lost=ended.lost,
            timed_out=ended.timed_out,
            killed=killed,
            waiting=pool.waiting,
            in_service=self.in_service,
            workers=processes,
            worker_seconds=processes * dt_s,
            cpu_s=cpu_s,
            foreign_s=foreign_s,
            stalled_s=pool.stalled_s - before[2],
            memory_bytes=held,
            host_memory_bytes=held + self.shape.memory.host + self.disturbance.foreign_bytes,
            joules=self.shape.power.watts(busy) * dt_s,
        )
        self.totals.add(self.truth)
        took = [s[0] - s[2] for s in finished]
        service = latency if took == ended.answered else sketch_array(took)
        foreign = self.disturbance.foreign_cores
        return self._eyes.see(self.truth, pool, ended, service, foreign)

    def _remember(self) -> tuple[float, int]:
        """Memory that the pool holds, and how many workers the kernel killed for it."""
        pool = self._pool
        pool.settle()
        held = self._heap.reckon(pool, self.disturbance)
        doomed = self._heap.doomed(pool, held, self.disturbance)
        for worker in doomed:
            replaced = worker.alive
            self._crowd.lose(pool.kill(worker), self.now_s)
            if replaced:
                pool.hire()
        return held, len(doomed)


def _at_least_one(what: str, level: int) -> None:
    if level < 1:
        raise ValueError(f"{what} is {level}; a service has at least one")
