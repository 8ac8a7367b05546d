"""One process of a simulated pool, and what its threads carry."""

from collections import deque

BOOTING = -1.0  # in place of a time of arrival
HOLDER = -1.0  # in place of CPU still to be burned under the lock: this is that


class Worker:
    """One process: places for requests, a cache, memory, and an interpreter lock."""

    __slots__ = (
        "alive", "burning", "connected", "counted", "first", "fresh", "leaked", "pause_at",
        "served", "threads", "waiting",
    )  # fmt: skip

    def __init__(self, first: int, threads: int, pause_at: float) -> None:
        """`first` is the number of its first place; it has `threads` of them."""
        self.first = first
        self.threads = threads
        self.pause_at = pause_at  # when it is next due to collect garbage
        self.alive = True  # False: takes no further request
        self.connected = True  # it has its connections to the dependency
        self.served = 0  # requests begun
        self.counted = 0  # of these, what memory has been reckoned for
        self.leaked = 0.0  # bytes
        self.fresh: dict[int, float] = {}  # cache key -> fresh until
        self.burning = False  # a thread has the interpreter
        self.waiting: deque[tuple[float, Entry]] = deque()  # (CPU seconds, thread) that want it


# What a thread carries: place, worker, I/O seconds, arrival, start, CPU still to burn under the
# lock. In the heap of those who burn, the virtual time at which it will have burned enough is put
# first. Places are unique, so that comparison never goes further.
Entry = tuple[int, Worker, float, float, float, float]
Burning = tuple[float, int, Worker, float, float, float, float]
Served = tuple[float, float, float, Worker, bool]  # finish, arrival, start, worker, failed
