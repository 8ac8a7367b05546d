"""What is kept of every snapshot: histories, and the newest points."""

from collections.abc import Callable

from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.surface.history import History, row_of
from poolwright.surface.point import Point, point


class Book:
    """The histories of all pools, by name."""

    def __init__(self, tell: Callable[[float, float, tuple[Point, ...]], None]) -> None:
        """`tell` gets the time, the cadence and the points of each snapshot."""
        self.histories: dict[str, History] = {}
        self._tell = tell
        self._seen: dict[str, tuple[int, int]] = {}  # run and tick

    def published(self, snapshot: Snapshot) -> None:
        """Keep what is new of a snapshot, and tell it."""
        points = tuple(map(point, snapshot.pools))
        for seen, found in zip(snapshot.pools, points, strict=True):
            history = self.histories.setdefault(seen.pool, History())
            history.cadence_s = snapshot.cadence_s
            if self._is_new(seen):
                history.put(found.time_s, row_of(found))
        self._tell(snapshot.wall_ns / 1e9, snapshot.cadence_s, points)

    def _is_new(self, seen: PoolSnapshot) -> bool:
        now = (seen.run_id, seen.tick.index)
        if self._seen.get(seen.pool) == now:
            return False
        self._seen[seen.pool] = now
        return True
