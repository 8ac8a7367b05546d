"""Taking processes from a prefork pool without losing a task.

`pool_shrink` by itself loses tasks: it sends SIGTERM to a process of which the worker believes that
it is idle, and between the moment when a process has got a task and the moment when the worker has
read its acknowledgement it believes wrongly. The task is then cut, and counts as failed, whether
acknowledged late or early. The only process that `pool_shrink` finds in a busy pool is such a one.

So the worker stops to take tasks from its queues (`cancel_consumer`), goes on with those it has,
and whoever is idle when all of those have begun is idle indeed. One with nothing to do goes at
once; then the worker takes tasks again (`add_consumer`). Meanwhile they wait in the broker, or go
to other workers.

That the worker is quiet is a lease: who does not ask for more loses it. A note on the broker says
which queues to take up again, should this process be killed in between: the next one reads it.
"""

import re
import time
from datetime import UTC, datetime
from threading import Event
from typing import Any

import msgspec

from poolwright.core.errors import PlantFault
from poolwright.wire.celery.mailbox import Denied, Mailbox
from poolwright.wire.celery.messages import Place, Pool

PATIENCE_S = 2.0  # with one command that changes something
_LEASE_S = 5.0
_RETRY_S = 1.0
_POLL_S = 0.02
_LOOK_S = 0.25
_SOON_S = 0.3  # a task with an ETA nearer than this may begin while we look
_SPARE_MOST_S = 2.0
_SINCE = (5, 7)  # celery/celery#7733: older ones forget the queues at the next reconnect
_VERSION = re.compile(r"\bcelery:(\d+)\.(\d+)")


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be undone, and of which worker: one that was started since takes tasks."""

    queues: list[str]
    worker: int
    since_s: float  # since 1970

    def is_of(self, pool: Pool) -> bool:
        """Whether the worker is still the one that was made quiet."""
        return pool.pid == self.worker and pool.uptime_s >= time.time() - self.since_s - 2.0


class Quiet:
    """Whether a worker takes no tasks because of us, and what it does then."""

    def __init__(self, place: Place, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._name = f"poolwright.quiet.{place.node}"
        self._note: _Note | None = None  # None: not quiet
        self._until_s = 0.0
        self._spare_s = 0.0  # since when processes may be idle in vain; 0: they are not
        self._fit = False  # whether the worker was found to be new enough

    @property
    def left_s(self) -> float | None:
        """How long until the lease is over; None when the worker is not quiet."""
        return None if self._note is None else max(0.0, self._until_s - time.monotonic())

    def shrink(self, count: int, pool: Pool) -> int:
        """Tell up to `count` idle processes to go; how many. Looks for such for a moment.

        Raises PlantFault and Denied.
        """
        self._check_version()
        self._begin(pool)
        self._until_s = time.monotonic() + _LEASE_S
        late_s = time.monotonic() + _LOOK_S
        while not (idle := self._idle(pool)):
            if time.monotonic() > late_s:
                return 0
            Event().wait(_POLL_S)
        taken = min(count, idle)
        try:
            self._mailbox.call("pool_shrink", PATIENCE_S, n=taken)
        except Denied as denied:
            if "busy" not in str(denied):
                raise
            return 0  # a process that was counted has ended by itself
        self._until_s = time.monotonic() + _LEASE_S
        return taken

    def put_off(self) -> None:
        """Before an `end` that may fail: when to try again."""
        self._until_s = time.monotonic() + _RETRY_S

    def end(self, pool: Pool) -> None:
        """Let the worker take tasks again. Raises PlantFault, and may be called again then."""
        if self._note is None:
            return
        if self._note.is_of(pool):
            self._resume(self._note.queues)
        self._mailbox.keep(self._name, None)
        self._note = None

    def mend(self, pool: Pool) -> str:
        """End what a killed predecessor of ours has begun; in words, if so. Raises PlantFault."""
        kept = self._mailbox.kept(self._name)
        if kept is None:
            return ""
        news = "a shrink was cut short, and the worker restarted since"
        try:
            note = msgspec.convert(kept, _Note)
        except msgspec.ValidationError as error:
            news = f"queue {self._name} held what was not ours: {error}"
        else:
            if note.is_of(pool):
                self._resume(note.queues)
                news = f"a shrink was cut short: the worker takes up {note.queues} again"
        self._mailbox.keep(self._name, None)
        return news

    def _begin(self, pool: Pool) -> None:
        if self._note is not None:
            if not self._note.is_of(pool):
                raise PlantFault("the worker was restarted")
            return
        note = _Note(queues=self.queues(), worker=pool.pid, since_s=time.time())
        self._mailbox.keep(self._name, msgspec.to_builtins(note))
        self._note, self._spare_s = note, 0.0
        self._until_s = time.monotonic() + _LEASE_S
        for name in note.queues:
            self._mailbox.call("cancel_consumer", PATIENCE_S, queue=name)
        late_s = time.monotonic() + PATIENCE_S
        while left := self.queues():
            if time.monotonic() > late_s:
                raise PlantFault(f"the worker goes on to take tasks of {left}")
            Event().wait(_POLL_S)

    def _idle(self, pool: Pool) -> int:
        """How many processes have nothing to do, beside one that stays; 0: cannot be told yet.

        The order matters. Nothing comes any more; so when nothing waits to begin, nothing will
        begin, and who is active has been acknowledged.
        """
        if taking := self.queues():
            raise Denied(f"another hand made the worker take tasks of {taking} meanwhile")
        if self._listed("reserved"):
            return 0
        if self._due():
            self._spare_s = self._spare_s or time.monotonic()
            if time.monotonic() - self._spare_s > _SPARE_MOST_S:
                raise PlantFault("tasks with an ETA begin all the time: no moment to shrink")
            return 0
        self._spare_s = 0.0
        active = len(self._listed("active"))
        return max(0, min(pool.level - active, pool.level - 1))

    def queues(self) -> list[str]:
        """The queues that the worker takes tasks of."""
        listed = self._listed("active_queues")
        return [str(queue.get("name")) for queue in listed if isinstance(queue, dict)]

    def _due(self) -> bool:
        """Whether a task with an ETA will begin about now."""
        soon_s = time.time() + _SOON_S
        return any(_eta_s(task) < soon_s for task in self._listed("scheduled"))

    def _listed(self, what: str) -> list[Any]:
        found = self._mailbox.call(what, PATIENCE_S)
        if not isinstance(found, list):
            raise PlantFault(f"the worker's answer to {what} is not a list")
        return found

    def _resume(self, queues: list[str]) -> None:
        for name in queues:
            self._mailbox.call("add_consumer", PATIENCE_S, queue=name)
        late_s = time.monotonic() + PATIENCE_S
        while missing := set(queues).difference(self.queues()):
            if time.monotonic() > late_s:
                raise PlantFault(f"the worker does not take up {sorted(missing)} again")
            Event().wait(_POLL_S)

    def _check_version(self) -> None:
        if self._fit:
            return
        report = self._mailbox.call("report", PATIENCE_S)
        found = _VERSION.search(str(report))
        if found is None or (int(found[1]), int(found[2])) < _SINCE:
            raise Denied(
                "not shrinking: the worker has to stop taking tasks for that, and Celery before "
                "5.7 forgets at the next reconnect that it took them up again "
                f"(celery/celery#7733); it is {found[0] if found else 'of unknown version'}"
            )
        self._fit = True


def _eta_s(task: Any) -> float:
    """When a scheduled task begins, in seconds since 1970; 0 when that cannot be read."""
    try:
        eta = datetime.fromisoformat(task["eta"])
    except (KeyError, TypeError, ValueError):
        return 0.0
    return (eta if eta.tzinfo is not None else eta.replace(tzinfo=UTC)).timestamp()
