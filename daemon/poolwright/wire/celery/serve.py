"""What the child does for each Ask."""

import time
from contextlib import suppress
from typing import Any

from poolwright.core.errors import PlantFault
from poolwright.wire.celery.events import Tally, listen
from poolwright.wire.celery.mailbox import Denied, Mailbox
from poolwright.wire.celery.messages import Answer, Ask, Place, Pool, Tasks
from poolwright.wire.celery.quiet import PATIENCE_S, Quiet

_READ_S = 0.4  # patience with each question of a look
_QUEUES_EVERY_S = 5.0
_LAST_TRIES = 3


class Server:
    """One worker's keeper."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._mailbox = Mailbox(place)
        self._quiet = Quiet(place, self._mailbox)
        self._tally: Tally | None = None
        self._queues: list[str] = []
        self._queues_at_s: float | None = None
        self._mended = False

    def patience_s(self) -> float | None:
        """How long to wait for the next Ask before `tire`; None: for ever."""
        return self._quiet.left_s

    def tire(self) -> None:
        """Nobody asked in time: the lease is over. What fails is tried again after a while."""
        self._quiet.put_off()
        with suppress(PlantFault, Denied):
            self._quiet.end(self._pool(PATIENCE_S))

    def close(self) -> None:
        """Leave the worker as it was."""
        for _ in range(_LAST_TRIES):
            if self._quiet.left_s is None:
                break
            self._mailbox.close()  # we may have been cut in the middle of something
            self.tire()
        self._mailbox.close()

    def answer(self, ask: Ask) -> Answer:
        """The answer, also when it is a failure."""
        try:
            return self._do(ask)
        except PlantFault as fault:
            return Answer(id=ask.id, error=str(fault))
        except Denied as denied:
            return Answer(id=ask.id, error=str(denied), refused=True)

    def _do(self, ask: Ask) -> Answer:
        if ask.do == "hello":
            return Answer(id=ask.id)
        pool = self._pool(_READ_S if ask.do == "look" else ask.within_s or PATIENCE_S)
        news = ""
        if not self._mended:
            news, self._mended = self._quiet.mend(pool), True
        if ask.do == "look":
            return Answer(id=ask.id, pool=pool, tasks=self._tasks(ask.events), news=news)
        taken = 0
        if ask.do == "grow":
            self._mailbox.call("pool_grow", PATIENCE_S, n=ask.count)
        elif ask.do == "shrink" and pool.kind == "prefork":
            taken = self._quiet.shrink(ask.count, pool)
        elif ask.do == "shrink":  # nobody is ended: fewer are begun
            taken = min(ask.count, pool.level - 1)
            self._mailbox.call("pool_shrink", PATIENCE_S, n=taken)
        elif ask.do == "resume":
            self._quiet.end(pool)
        return Answer(id=ask.id, pool=pool, taken=taken, news=news)

    def _pool(self, patience_s: float) -> Pool:
        stats = self._mailbox.call("stats", patience_s)
        try:
            return pool_of(stats)
        except (KeyError, TypeError, ValueError) as error:
            raise PlantFault(f"celery worker {self._place.node}: stats: {error!r}") from error

    def _tasks(self, events: bool) -> Tasks:
        if events and self._tally is None:
            self._tally = listen(self._place)
        active = self._mailbox.call("active", _READ_S)
        reserved = self._mailbox.call("reserved", _READ_S)
        fault, sizes = "", {}
        try:
            sizes = self._mailbox.sizes(self._consumed())
        except PlantFault as error:
            fault = str(error)
        return Tasks(
            active=len(active),
            reserved=len(reserved),
            queues=sizes,
            queues_fault=fault if sizes or fault else "the worker takes tasks of no queue",
            seen=None if self._tally is None else self._tally.seen(),
        )

    def _consumed(self) -> list[str]:
        """The worker's queues; while it is quiet, those that it had."""
        now_s = time.monotonic()
        due = self._queues_at_s is None or now_s - self._queues_at_s > _QUEUES_EVERY_S
        if due and self._quiet.left_s is None:
            self._queues, self._queues_at_s = self._quiet.queues(), now_s
        return self._queues


def pool_of(stats: Any) -> Pool:
    """The pool in a worker's stats. Raises KeyError, TypeError or ValueError when it is none."""
    pool = stats["pool"]
    kind = str(pool["implementation"]).partition(":")[0].rpartition(".")[2]
    # Of prefork, max-concurrency is what the worker was started with, whatever became of it.
    level = len(pool["processes"]) if kind == "prefork" else int(pool["max-concurrency"])
    return Pool(
        pid=int(stats["pid"]),
        uptime_s=int(stats["uptime"]),
        kind=kind,
        level=level,
        autoscaled="autoscaler" in stats,
        started=sum(int(count) for count in dict(stats["total"]).values()),
        prefetch=int(stats.get("prefetch_count") or 0),
    )
