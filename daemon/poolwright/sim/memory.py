"""Where the memory of a simulated pool goes."""

import math

from poolwright.sim.pool import Pool
from poolwright.sim.shape import Disturbance, Memory
from poolwright.sim.worker import Worker


class Heap:
    """The memory of all workers: they boot with some, warm up, and leak."""

    def __init__(self, rule: Memory) -> None:
        self._rule = rule

    def reckon(self, pool: Pool, outside: Disturbance) -> float:
        """Bytes of the pool now; what requests have leaked since the last time is added."""
        rule = self._rule
        leak = rule.leak * outside.leak_factor + outside.leak_bytes
        workers = (*pool.workers, *pool.leaving)
        for worker in workers:
            worker.leaked += (worker.served - worker.counted) * leak
            worker.counted = worker.served
        return rule.base + sum(self.held(worker) for worker in workers)

    def held(self, worker: Worker) -> float:
        """Bytes of one worker."""
        rule, warm = self._rule, 0.0
        if rule.warm:
            warm = rule.warm * -math.expm1(-worker.served / rule.warm_requests)
        return rule.worker + warm + worker.leaked

    def doomed(self, pool: Pool, held: float, outside: Disturbance) -> list[Worker]:
        """Whom the kernel kills, the largest first, until what is left fits under the limit."""
        over = held + self._rule.host + outside.foreign_bytes - self._rule.limit
        found: list[Worker] = []
        if over <= 0.0:
            return found
        workers = sorted((*pool.workers, *pool.leaving), key=self.held, reverse=True)
        for worker in workers:
            if over <= 0.0:
                break
            over -= self.held(worker)
            found.append(worker)
        return found
