"""A pool simulated the slow and obvious way: all rates anew at every event. The oracle of sim.pool.

Written apart from it: no heap, no virtual time; each job carries the CPU seconds that are left of
its burst, and all bursts are worked down to the next event.
"""

from dataclasses import dataclass
from math import inf


@dataclass
class Job:
    arrival: float
    bursts: list  # [(CPU seconds, under the lock), ...]
    wait: float
    start: float = inf
    finish: float = inf
    place: int = -1
    left: float = 0.0
    locked: bool = False


class SlowPool:
    def __init__(self, *, workers, threads, cores, foreign, lock, gil, backlog, connections):
        self.cores, self.foreign, self.lock, self.gil = cores, foreign, lock, gil
        self.backlog, self.threads = backlog, threads
        self.idle = [(0.0, place) for place in range(workers * threads)]
        self.connections = connections or 10**9
        self.now = 0.0
        self.queue, self.burning, self.wants_lock, self.waiting = [], [], [], []
        self.wants_gil = {worker: [] for worker in range(workers)}
        self.wants_connection = []
        self.lock_taken = False
        self.refused, self.done, self.burned = [], [], 0.0

    def speed(self):
        running = len(self.burning) + self.foreign
        return min(1.0, self.cores / running) if running else 1.0

    def run(self, arrivals, cpus, waits):
        coming = [
            Job(a, [(c * (1 - self.lock), False), (c * self.lock, True)][: 1 + bool(self.lock)], w)
            for a, c, w in zip(arrivals, cpus, waits, strict=True)
        ]
        while coming or self.queue or self.burning or self.waiting:
            speed = self.speed()
            ends = [(self.now + job.left / speed, i) for i, job in enumerate(self.burning)]
            burst = min(ends, default=(inf, -1))
            answer = min(((job.finish, i) for i, job in enumerate(self.waiting)), default=(inf, -1))
            arrival = coming[0].arrival if coming else inf
            now = min(burst[0], answer[0], arrival)
            for job in self.burning:
                job.left -= (now - self.now) * speed
            self.burned += (now - self.now) * speed * len(self.burning)
            self.now = now
            if now == burst[0]:
                self.burst_ends(self.burning.pop(burst[1]))
            elif now == answer[0]:
                self.answered(self.waiting.pop(answer[1]))
            else:
                self.arrives(coming.pop(0))
        return self.done

    def arrives(self, job):
        if self.idle:
            self.begin(job)
        elif len(self.queue) >= self.backlog:
            self.refused.append(job.arrival)
        else:
            self.queue.append(job)

    def begin(self, job):
        job.place = self.idle.pop(self.idle.index(min(self.idle)))[1]
        job.start = self.now
        self.burn(job)

    def burn(self, job):
        worker = job.place // self.threads
        if self.gil and any(j.place // self.threads == worker for j in self.burning):
            self.wants_gil[worker].append(job)
            return
        job.left, job.locked = job.bursts.pop(0)
        self.burning.append(job)

    def burst_ends(self, job):
        worker = job.place // self.threads
        if self.wants_gil[worker]:
            self.burn(self.wants_gil[worker].pop(0))
        if job.bursts:
            if self.lock_taken:
                self.wants_lock.append(job)
            else:
                self.lock_taken = True
                self.burn(job)
            return
        if job.locked:
            self.lock_taken = bool(self.wants_lock)
            if self.wants_lock:
                self.burn(self.wants_lock.pop(0))
        if len(self.waiting) < self.connections:
            self.depend(job)
        else:
            self.wants_connection.append(job)

    def depend(self, job):
        job.finish = self.now + job.wait
        self.waiting.append(job)

    def answered(self, job):
        self.done.append((job.finish, job.arrival, job.start))
        self.idle.append((self.now, job.place))
        if self.wants_connection:
            self.depend(self.wants_connection.pop(0))
        if self.queue:
            self.begin(self.queue.pop(0))
