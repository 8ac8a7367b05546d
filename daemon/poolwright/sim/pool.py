"""The workers of a simulated pool: an exact discrete-event simulation, event by event.

Requests wait first-come-first-served for a free place (a worker has one for each thread; the one
that has been free longest is taken), burn CPU, then wait for the dependency. CPU is shared equally
among all that burn, neighbours included, and none gets more than one core. Processor sharing is
exact: a virtual clock runs at the speed that every burning thread gets, so a burst that begins at
virtual time v and needs x ends when the clock shows v + x, whoever comes and goes meanwhile.

No formula for queues is used anywhere: waits are what happens.
"""

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from random import Random

from poolwright.sim.demand import Asked
from poolwright.sim.shape import Disturbance, OverCap, PlantShape, Scope
from poolwright.sim.worker import BOOTING, HOLDER, Burning, Entry, Served, Worker

_NEVER = float("inf")


class Pool:
    """Workers, those who wait for one, and the CPU that they share."""

    def __init__(self, shape: PlantShape, workers: int, threads: int, seed: int) -> None:
        """`workers` that have booted, at time zero."""
        self.shape = shape
        self.now_s = 0.0
        self.workers: list[Worker] = []  # that live and are meant to, oldest first
        self.leaving: list[Worker] = []  # that finish what they have
        self.arrivals: list[float] = []  # not refused; those before `begun` have begun
        self.begun = 0
        self.starts: list[float] = []  # of the last advance
        self.served: list[Served] = []  # whose end is known, also when it is yet to come
        self.refused: list[float] = []  # arrivals that found the backlog full
        self.stalled_s = 0.0  # time in which some thread got less than a core, ever
        self.burned_s = 0.0  # CPU seconds of the pool, ever
        self.foreign_s = 0.0  # CPU seconds of neighbours, ever
        self._random = Random(f"pool:{seed}")
        self._asked: Asked = ([], [], [])
        self._free: list[tuple[float, int, Worker]] = []
        self._burn: list[Burning] = []
        self._clock = 0.0  # virtual: CPU seconds that an endless burst would have burned
        self._places = 0
        self._shares = False  # some worker has had several threads, and one interpreter
        self.rethread(threads)
        self._lock_held = False
        self._lock_queue: deque[Entry] = deque()
        self._connections = [0.0] * shape.connections.limit  # when each is free
        paused = shape.pauses.every > 0.0
        self._collects = paused and shape.pauses.scope is Scope.WORKER
        self._extras = self._collects or shape.cache.miss_cpu > 0.0
        self._frozen_until = 0.0
        self._freeze_at = _NEVER
        if paused and shape.pauses.scope is Scope.POOL:
            self._freeze_at = self._next_pause(0.0)
        for _ in range(workers):
            self._admit(self._new_worker(), 0.0)

    @property
    def waiting(self) -> int:
        """Requests that have arrived and not begun."""
        return len(self.arrivals) - self.begun

    @property
    def runnable(self) -> int:
        """Threads of the pool that burn CPU now."""
        return len(self._burn)

    @property
    def connections(self) -> int:
        """Connections to the dependency that are held now."""
        rule = self.shape.connections
        wanted = rule.per_worker * (len(self.workers) + len(self.leaving))
        return min(wanted, rule.limit) if rule.limit else wanted

    def in_service(self) -> Iterator[tuple[Worker, float]]:
        """Worker and time of arrival of every request that has begun and not finished."""
        for e in self._burn:
            if e[4] != BOOTING:
                yield e[2], e[4]
        for worker in (*self.workers, *self.leaving):
            for _, entry in worker.waiting:
                yield worker, entry[3]
        for entry in self._lock_queue:
            yield entry[1], entry[3]
        for served in self.served:
            if served[0] > self.now_s:
                yield served[3], served[1]

    # -- what is done to it ----------------------------------------------------------------------

    def offer(self, arrivals: list[float], asked: Asked) -> None:
        """Requests that will arrive during the next advance, ascending, with what they ask."""
        done, self.begun = self.begun, 0
        cpu, io, keys = self._asked
        self.arrivals = self.arrivals[done:] + arrivals
        self._asked = (cpu[done:] + asked[0], io[done:] + asked[1], keys[done:] + asked[2])
        self.starts = []

    def hire(self) -> None:
        """One more worker, which boots first."""
        worker, boot = self._new_worker(), self.shape.boot
        ready = self.now_s + boot.lasts
        if boot.cpu == 0.0:
            self._admit(worker, ready)
        else:
            end = self._clock + boot.cpu
            heappush(self._burn, (end, worker.first, worker, ready, BOOTING, self.now_s, 0.0))

    def rethread(self, threads: int) -> None:
        """Workers hired from now on have so many threads."""
        self.threads = threads
        self._shares = self._shares or (threads > 1 and self.shape.gil)

    def retire(self, worker: Worker) -> None:
        """Let it finish what it has, and go."""
        worker.alive = False
        self.workers.remove(worker)
        self.leaving.append(worker)
        self._free = [entry for entry in self._free if entry[2] is not worker]
        heapify(self._free)

    def kill(self, worker: Worker) -> list[float]:
        """End it now; the times of arrival of the requests that are lost with it."""
        if worker.alive:
            self.retire(worker)
        lost = [arrival for owner, arrival in self.in_service() if owner is worker]
        held = any(e[2] is worker and e[6] == HOLDER for e in self._burn)
        held = held or any(entry[5] == HOLDER for _, entry in worker.waiting)
        self.leaving.remove(worker)
        worker.waiting.clear()
        self._burn = [e for e in self._burn if e[2] is not worker]
        heapify(self._burn)
        self._lock_queue = deque(e for e in self._lock_queue if e[1] is not worker)
        self.served = [s for s in self.served if s[3] is not worker or s[0] <= self.now_s]
        if held:
            self._pass_lock(self._clock)
        return lost

    def hang_up(self) -> list[float]:
        """Drop all that wait for a worker; their times of arrival."""
        dropped = self.arrivals[self.begun :]
        for column in (self.arrivals, *self._asked):
            del column[self.begun :]
        return dropped

    def settle(self) -> None:
        """Forget the leaving workers that have nothing left to do; share out connections."""
        if self.leaving:
            busy = {id(worker) for worker, _ in self.in_service()}
            self.leaving = [w for w in self.leaving if id(w) in busy]
        rule = self.shape.connections
        if rule.limit and rule.over is OverCap.FAIL:
            left = rule.limit
            for worker in (*self.leaving, *self.workers):
                worker.connected = left >= rule.per_worker
                left -= rule.per_worker if worker.connected else 0

    def finished(self) -> list[Served]:
        """Take out those whose end has come."""
        now = self.now_s
        found = [s for s in self.served if s[0] <= now]
        self.served = [s for s in self.served if s[0] > now]
        return found

    def advance(self, until_s: float, outside: Disturbance) -> None:
        """Let time pass."""
        while self.now_s < until_s:
            if self.now_s < self._frozen_until:
                end = min(until_s, self._frozen_until)
                speed = min(1.0, self.shape.cores / max(outside.foreign_cores, 1e-9))
                self.foreign_s += (end - self.now_s) * outside.foreign_cores * speed
                self.now_s = end
            elif self.now_s >= self._freeze_at:
                self._freeze()
            else:
                self._run(min(until_s, self._freeze_at), outside)
        self._refuse(self.begun, until_s)

    # -- how it works ----------------------------------------------------------------------------

    def _run(self, until: float, outside: Disturbance) -> None:  # noqa: C901, PLR0912, PLR0915
        """The events up to `until`, none of which is a freeze: one loop, which must be fast."""
        shape, free, burn, arrivals = self.shape, self._free, self._burn, self.arrivals
        (cpu, io, keys), extras, misses = self._asked, self._extras, shape.cache.miss_cpu > 0.0
        served, starts, cores, backlog = self.served, self.starts, shape.cores, shape.backlog
        foreign, factor = outside.foreign_cores, outside.cpu_factor
        plain = not (shape.lock or shape.connections.limit or self._shares)
        i, count, now, clock = self.begun, len(arrivals), self.now_s, self._clock
        tight = count - i > backlog
        slow = max(1.0, (len(burn) + foreign) / cores)  # seconds that a CPU second takes
        began, stalled, given = clock, 0.0, sum([e[0] - clock for e in burn])
        while True:
            start = _NEVER
            if i < count and free:
                start, arrival = free[0][0], arrivals[i]
                if start < arrival:  # noqa: PLR1730  (a call of max costs more than all the rest)
                    start = arrival
            if burn:
                end = now + (burn[0][0] - clock) * slow
                if end <= start:
                    if end > until:
                        break
                    entry = heappop(burn)
                    clock, place, worker, wait, arrival, begun, _ = entry
                    if slow > 1.0:
                        stalled += end - now
                    now = end
                    if plain and arrival != BOOTING:
                        finish = now + wait * outside.dependency_factor
                        served.append((finish, arrival, begun, worker, False))
                        if worker.alive:
                            heappush(free, (finish, place, worker))
                    else:
                        given += self._burned(now, entry, outside.dependency_factor)
                    active = len(burn) + foreign
                    slow = active / cores if active > cores else 1.0
                    continue
            if start > until:
                break
            if tight and i + backlog < count and arrivals[i + backlog] < start:
                count = self._refuse(i, start)
                continue
            if slow > 1.0:
                stalled += start - now
                clock += (start - now) / slow
            else:
                clock += start - now
            now = start
            _, place, worker = heappop(free)
            worker.served += 1
            starts.append(now)
            work = cpu[i]
            if extras and (
                now >= worker.pause_at or (misses and worker.fresh.get(keys[i], -1.0) <= now)
            ):
                work += self._extra(worker, keys[i], now)
            work *= factor
            if plain:
                heappush(burn, (clock + work, place, worker, io[i], arrival, now, 0.0))
                given += work
            else:
                carried = (place, worker, io[i], arrival, now, work * shape.lock)
                given += self._take_cpu(clock, work - carried[5], carried)
            i += 1
            active = len(burn) + foreign
            slow = active / cores if active > cores else 1.0
        self.begun, self.now_s = i, until
        self._clock = clock + (until - now) / slow
        self.stalled_s += stalled + (until - now if slow > 1.0 else 0.0)
        self.foreign_s += foreign * (self._clock - began)
        self.burned_s += max(0.0, given - sum([e[0] - self._clock for e in burn]))

    def _burned(self, now: float, entry: Burning, slower: float) -> float:
        """A burst has ended: what comes next. The CPU seconds of the bursts that begin by it."""
        clock, place, worker, wait, arrival, start, lock = entry
        if arrival == BOOTING:
            if worker.alive:
                self._admit(worker, max(now, wait))
            return 0.0
        given = 0.0
        worker.burning = False
        if worker.waiting:
            work, other = worker.waiting.popleft()
            given += self._take_cpu(clock, work, other)
        if lock > 0.0:
            return given + self._want_lock(clock, (place, worker, wait, arrival, start, lock))
        if lock == HOLDER:
            given += self._pass_lock(clock)
        self._depend(now, (place, worker, wait * slower, arrival, start, 0.0))
        return given

    def _take_cpu(self, clock: float, work: float, entry: Entry) -> float:
        """Burn `work` seconds, when the worker's interpreter is free; what is begun of them."""
        worker = entry[1]
        if self._shares:
            if worker.burning:
                worker.waiting.append((work, entry))
                return 0.0
            worker.burning = True
        heappush(self._burn, (clock + work, *entry))
        return work

    def _want_lock(self, clock: float, entry: Entry) -> float:
        if self._lock_held:
            self._lock_queue.append(entry)
            return 0.0
        self._lock_held = True
        return self._take_cpu(clock, entry[5], (*entry[:5], HOLDER))

    def _pass_lock(self, clock: float) -> float:
        self._lock_held = False
        return self._want_lock(clock, self._lock_queue.popleft()) if self._lock_queue else 0.0

    def _depend(self, now: float, entry: Entry) -> None:
        """Wait for the dependency, over a connection where these are few, and be done."""
        place, worker, wait, arrival, start, _ = entry
        finish, failed = now + wait, False
        if wait > 0.0 and self._connections:
            if self.shape.connections.over is OverCap.WAIT:
                finish = max(now, self._connections[0]) + wait
                heapreplace(self._connections, finish)
            elif not worker.connected:
                finish, failed = now, True
        self.served.append((finish, arrival, start, worker, failed))
        if worker.alive:
            heappush(self._free, (finish, place, worker))

    def _extra(self, worker: Worker, key: int, now: float) -> float:
        """CPU seconds of a cache miss and of garbage collection that this request meets."""
        more, cache = 0.0, self.shape.cache
        if cache.miss_cpu > 0.0 and worker.fresh.get(key, -1.0) <= now:
            worker.fresh[key] = now + cache.ttl
            more = cache.miss_cpu
        if now >= worker.pause_at:
            worker.pause_at = self._next_pause(now)
            more += self.shape.pauses.lasts
        return more

    def _refuse(self, first: int, before: float) -> int:
        """Refuse those that arrived before `before` and found the backlog full, when `first` is
        the oldest that waits. How many arrivals are left.
        """
        full = last = first + self.shape.backlog
        while last < len(self.arrivals) and self.arrivals[last] < before:
            last += 1
        if last > full:
            self.refused += self.arrivals[full:last]
            for column in (self.arrivals, *self._asked):
                del column[full:last]
        return len(self.arrivals)

    def _freeze(self) -> None:
        """Nothing moves until the pause is over; what would have ended in it ends with it."""
        now, end = self.now_s, self.now_s + self.shape.pauses.lasts
        self._frozen_until = end
        self._freeze_at = self._next_pause(end)
        self.served = [(max(s[0], end) if s[0] > now else s[0], *s[1:]) for s in self.served]
        self._free = [(max(at, end), place, worker) for at, place, worker in self._free]
        heapify(self._free)

    def _next_pause(self, now: float) -> float:
        return now + self.shape.pauses.every * self._random.uniform(0.5, 1.5)

    def _new_worker(self) -> Worker:
        pause_at = self._next_pause(self.now_s) if self._collects else _NEVER
        worker = Worker(self._places, self.threads, pause_at)
        self._places += self.threads
        self.workers.append(worker)
        return worker

    def _admit(self, worker: Worker, at_s: float) -> None:
        """Its places are free from `at_s` on."""
        for place in range(worker.first, worker.first + worker.threads):
            heappush(self._free, (at_s, place, worker))
