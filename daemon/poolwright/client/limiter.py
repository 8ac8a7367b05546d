"""How many tasks of an event loop may be inside at once; the number may change at any time.

    limiter = ConcurrencyLimiter(8)
    async with limiter:
        ...

First come, first served: a place that becomes free is handed to who has waited longest, and nobody
who comes later can take it before. A waiter that is cancelled gives its turn, or the place that it
was just handed, to the next. Growing lets waiters in at once; shrinking interrupts nobody.
"""

import asyncio
import contextlib
import os
from collections import OrderedDict
from time import perf_counter
from weakref import WeakKeyDictionary, WeakSet

from poolwright.client.tally import Tally


class ConcurrencyLimiter:
    """At most `limit` inside. Of one event loop at a time; `resize` may come from any thread."""

    def __init__(self, limit: int) -> None:
        """Raises ValueError for less than one place."""
        self._limit = _at_least_one(limit)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forget()
        _LIMITERS.add(self)

    def _forget(self) -> None:
        self._inside = 0
        # Ordered and not a deque: a mass of waiters that time out together leave one by one.
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._since: WeakKeyDictionary[asyncio.Task[object], list[tuple[float, float]]] = (
            WeakKeyDictionary()
        )
        self._done = 0
        self._failed = 0
        self._waited = Tally()
        self._ran = Tally()
        self._stayed = Tally()  # waited and inside

    @property
    def limit(self) -> int:
        """How many may be inside at once."""
        return self._limit

    def resize(self, limit: int) -> None:
        """Let at most `limit` in. Any thread may call it. Raises ValueError for less than one."""
        self._limit = _at_least_one(limit)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # a closed loop has nobody waiting
                self._loop.call_soon_threadsafe(self._let_in)

    async def __aenter__(self) -> None:
        """Wait for a place. Raises RuntimeError while another loop has places."""
        self._bind(asyncio.get_running_loop())
        arrived = perf_counter()
        if self._waiting or self._inside >= self._limit:
            await self._turn()
        else:
            self._inside += 1
        entered = perf_counter()
        self._waited.add(entered - arrived)
        task = asyncio.current_task()
        if task is not None:
            self._since.setdefault(task, []).append((arrived, entered))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the place back."""
        self._inside -= 1
        self._let_in()
        self._done += 1
        self._failed += kind is not None and issubclass(kind, Exception)
        task = asyncio.current_task()
        entries = None if task is None else self._since.get(task)
        if entries:  # an async generator may be left by another task than entered it
            arrived, entered = entries.pop()
            left = perf_counter()
            self._ran.add(left - entered)
            self._stayed.add(left - arrived)

    def told(self) -> dict[str, object]:
        """Inside, waiting, and the distributions of queue delay and time inside since the start."""
        return {
            "running": self._inside,
            "queued": len(self._waiting),
            "done": self._done,
            "failed": self._failed,
            "waited": self._waited.told(),
            "ran": self._ran.told(),
            "stayed": self._stayed.told(),
        }

    @property
    def used(self) -> bool:
        """Whether anybody ever came in this process."""
        return self._inside > 0 or self._done > 0

    def reborn(self) -> None:
        """Begin anew: in a forked child the places are the parent's."""
        self._loop = None
        self._forget()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            return
        if self._inside or self._waiting:
            raise RuntimeError(f"{self!r} is in use by another event loop")
        self._loop = loop

    async def _turn(self) -> None:
        """Wait until a place is handed over."""
        assert self._loop is not None
        turn = self._loop.create_future()
        self._waiting[turn] = None
        try:
            await turn
        except BaseException:  # cancelled, or the loop has gone
            if self._waiting.pop(turn, turn) is turn and not turn.cancelled():
                self._inside -= 1  # it was handed over and not taken any more
                self._let_in()
            raise

    def _let_in(self) -> None:
        while self._waiting and self._inside < self._limit:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():  # a cancelled one has not run yet and is on its way out
                self._inside += 1
                turn.set_result(None)


def _at_least_one(limit: int) -> int:
    if limit < 1:
        raise ValueError(f"a limiter of {limit}: it keeps at least one place")
    return limit


def _in_child() -> None:
    for limiter in list(_LIMITERS):
        limiter.reborn()


_LIMITERS: "WeakSet[ConcurrencyLimiter]" = WeakSet()
os.register_at_fork(after_in_child=_in_child)
