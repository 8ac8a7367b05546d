"""Clients who lose patience, and come back: where retry storms come from."""

from bisect import bisect_right
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from poolwright.sim.pool import Pool
from poolwright.sim.shape import PlantShape
from poolwright.sim.worker import Served


@dataclass(slots=True, kw_only=True)
class Ended:
    """How the attempts of one tick ended, for the clients."""

    answered: list[float] = field(default_factory=list)  # seconds that good answers took
    waited: list[float] = field(default_factory=list)  # ... and bad ones, and none
    errors: int = 0
    failed: int = 0  # served with an error, also when nobody waited any more
    refused: int = 0
    lost: int = 0  # also when nobody waited any more
    timed_out: int = 0


class Crowd:
    """Those who ask. An attempt is known by its time of arrival."""

    def __init__(self, shape: PlantShape, seed: int) -> None:
        self._rule = shape.clients
        self._patience = shape.clients.timeout or float("inf")
        self._may_fail = shape.connections.limit > 0 or shape.clients.timeout > 0.0
        self._random = Random(f"clients:{seed}")
        self._coming: list[tuple[float, int]] = []  # (when, how many attempts went before)
        self._attempts: dict[float, int] = {}  # of those under way that are not the first
        self._lost: list[tuple[float, float]] = []  # (arrival, when), since the last tick
        self._dropped: list[tuple[float, float]] = []

    def returning(self, until_s: float) -> list[float]:
        """When earlier failures come back, up to `until_s`, ascending."""
        found: list[float] = []
        while self._coming and self._coming[0][0] <= until_s:
            at, attempt = heappop(self._coming)
            self._attempts[at] = attempt
            found.append(at)
        return found

    def lose(self, arrivals: list[float], at_s: float) -> None:
        """These died with their worker."""
        self._lost += [(arrival, at_s) for arrival in arrivals]

    def drop(self, arrivals: list[float], at_s: float) -> None:
        """These waited when the service stopped to listen."""
        self._dropped += [(arrival, at_s) for arrival in arrivals]

    def close(self, pool: Pool, finished: list[Served], began_s: float, fail_ratio: float) -> Ended:
        """How attempts ended since `began_s`; those that may be repeated will come back."""
        if self._may_fail or fail_ratio > 0.0:
            ended = self._sort_out(finished, fail_ratio)
        else:
            took = [s[0] - s[1] for s in finished]
            ended = Ended(answered=took, waited=took)
        if self._attempts:
            for served in finished:
                if served[0] - served[1] <= self._patience:
                    self._attempts.pop(served[1], None)
        ended.refused, ended.lost = len(pool.refused) + len(self._dropped), len(self._lost)
        for arrival in self._impatient(pool, finished, began_s):
            self._give_up(ended, arrival)
        if ended.refused or ended.lost:
            self._cut_off(ended, pool, began_s)
        self._settle_returns(pool.now_s, pool.now_s - began_s)
        return ended

    def _sort_out(self, finished: list[Served], fail_ratio: float) -> Ended:
        """Good answers, bad ones, and those that nobody waits for any more."""
        ended = Ended()
        for finish, arrival, _, _, broken in finished:
            bad = broken or (fail_ratio > 0.0 and self._random.random() < fail_ratio)
            ended.failed += bad
            took = finish - arrival
            if took > self._patience:
                continue
            ended.waited.append(took)
            if bad:
                ended.errors += 1
                self._again(arrival, finish)
            else:
                ended.answered.append(took)
        return ended

    def _impatient(self, pool: Pool, finished: list[Served], began_s: float) -> list[float]:
        """Arrival times of those in the service whose patience ended in (began_s, now]."""
        patience = self._patience
        first, last = began_s - patience, pool.now_s - patience
        if last < 0.0:  # nobody has been here for so long, or patience is endless
            return []
        found = [s[1] for s in finished if first < s[1] and s[0] - s[1] > patience]
        found += [arrival for _, arrival in pool.in_service() if first < arrival <= last]
        begin = bisect_right(pool.arrivals, first, pool.begun)
        found += pool.arrivals[begin : bisect_right(pool.arrivals, last, begin)]
        return sorted(found)

    def _cut_off(self, ended: Ended, pool: Pool, began_s: float) -> None:
        """Refused, dropped and lost attempts; of these, some had given up before."""
        refused = [(arrival, arrival) for arrival in pool.refused]
        for arrival, at in (*refused, *self._dropped, *self._lost):
            if at - arrival < self._patience:
                ended.errors += 1
                if at > arrival:
                    ended.waited.append(at - arrival)
                self._again(arrival, at)
            elif arrival > began_s - self._patience:
                self._give_up(ended, arrival)
        pool.refused.clear()
        self._dropped.clear()
        self._lost.clear()

    def _give_up(self, ended: Ended, arrival: float) -> None:
        ended.timed_out += 1
        ended.errors += 1
        ended.waited.append(self._patience)
        self._again(arrival, arrival + self._patience)

    def _again(self, arrival: float, failed_s: float) -> None:
        """The attempt that arrived at `arrival` failed at `failed_s`: it may be repeated."""
        attempt = self._attempts.pop(arrival, 0)
        if attempt < self._rule.retries:
            wait = self._rule.backoff * 2.0**attempt * self._random.uniform(0.5, 1.5)
            heappush(self._coming, (failed_s + wait, attempt + 1))

    def _settle_returns(self, now_s: float, dt_s: float) -> None:
        """What should have come back by now comes a whole number of ticks later."""
        while self._coming and self._coming[0][0] <= now_s:
            at, attempt = heappop(self._coming)
            late = int((now_s - at) / dt_s) + 1
            heappush(self._coming, (at + late * dt_s, attempt))
