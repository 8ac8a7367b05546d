"""One Celery worker's tasks, asked of the worker (inspect) and, with -E, heard of its events.

    - kind: celery
      broker: redis://127.0.0.1:6379/0
      node: web@host
      events: true        # celery worker -E

Asked every tick: how many tasks were begun since the worker started, how many run, how many it has
taken from the broker without having begun, and how many wait there. That gives throughput and the
queue; where several workers take tasks of one queue, each counts all that waits in it.

Only events tell how long each task took, and which failed: without `events` there is no service
time, no latency and no error ratio, and a policy that needs them is refused. What a caller waits,
queue included, is measured where the callers send task-sent (`task_send_sent_event`), else
composed of service time and queue. Events may be lost; when fewer are heard than tasks were begun,
nothing is said of what they tell. To hear them costs about half a millisecond of CPU a task.
"""

from dataclasses import dataclass, field
from functools import partial

from poolwright.core.errors import PlantFault
from poolwright.core.model import Reading, Status
from poolwright.core.sketch import Sketch
from poolwright.core.units import PathText
from poolwright.wire.celery.link import Link, place_of, require_kombu
from poolwright.wire.celery.messages import Ask, Pool, Seen, Tasks

_DEADLINE_S = 0.9
_ASKED = ("throughput_rps", "queue_length", "worker_count")
_HEARD = ("errors_rps", "service_time_s", "latency_s")
_JUDGED_AFTER = 20  # begun tasks
_HEARD_SHARE = 0.9

Tell = partial[Reading]


class Celery:
    """One worker's throughput, queue and size; with events its errors and times."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which worker, and through which broker."""

        broker: str = field(
            metadata={"doc": "the worker's broker_url, without a password: redis://127.0.0.1:6379"}
        )
        password_file: PathText | None = field(
            default=None, metadata={"doc": "a file that holds the broker's password"}
        )
        node: str = field(metadata={"doc": "the worker's name (celery worker -n): web@host"})
        events: bool = field(
            default=False, metadata={"doc": "the worker sends events (celery worker -E)"}
        )

        def __post_init__(self) -> None:
            """Refuse what is no worker."""
            place_of(self.broker, self.password_file, self.node)

    deadline_s: float | None = _DEADLINE_S

    def __init__(self, options: Options, _pool: str) -> None:
        """Nothing is started yet. Raises PolicyError when kombu is missing."""
        require_kombu("celery")
        self._place = place_of(options.broker, options.password_file, options.node)
        self._events = options.events
        self._link: Link | None = None
        self._last: tuple[int, Pool, int] | None = None  # when, who, how many had ended
        self._begun = 0  # as the worker counts, since the events were last judged
        self._heard = 0  # of those, by its events
        self._deaf = ""
        self._ever = False
        self.source = f"celery {options.node}"
        self.signals: tuple[str, ...] = _ASKED + (_HEARD if options.events else ())

    async def start(self) -> None:
        """Start the child; the worker may start after us. Raises PlantFault when there is none."""
        self._link = self._link or Link.to(self._place)
        await self._link.ask(Ask(id=0, do="hello"), _DEADLINE_S)

    async def close(self) -> None:
        """Let go of the child."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal. Raises PlantFault naming the worker when it does not answer."""
        if self._link is None:
            raise PlantFault(f"{self.source}: is not started")
        answer = await self._link.ask(Ask(id=0, do="look", events=self._events), _DEADLINE_S - 0.05)
        if answer.error:
            self._last = None
            raise PlantFault(answer.error)
        pool, tasks = answer.pool, answer.tasks
        assert pool is not None, "an answer without an error carries the pool"
        assert tasks is not None, "and a look the tasks"
        tell: Tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        begun, ended, elapsed_s, why = self._since(now_ns, pool, tasks)
        readings = [
            self._throughput(tell, ended, elapsed_s, why),
            self._queue(tell, tasks),
            tell(signal="worker_count", value=float(pool.level)),
        ]
        if self._events:
            seen = tasks.seen or Seen(fault="the child does not listen")
            readings += self._told(tell, seen, begun, elapsed_s, why)
        return tuple(readings)

    def _since(self, now_ns: int, pool: Pool, tasks: Tasks) -> tuple[int, int, float, str]:
        """Tasks begun and ended since the last look, over how long; or why that is not known."""
        last = self._last
        # The pool was asked first: what begins before the second question is made up for later.
        ended = pool.started - tasks.active
        if last is None:
            self._last = now_ns, pool, ended
            return 0, 0, 0.0, "a rate needs two looks"
        then_ns, before, had_ended = last
        if before.pid != pool.pid or pool.uptime_s < before.uptime_s:
            self._last = now_ns, pool, ended
            self._begun = self._heard = 0
            return 0, 0, 0.0, "the worker was restarted"
        self._last = now_ns, pool, max(ended, had_ended)
        elapsed_s = (now_ns - then_ns) / 1e9
        why = "" if elapsed_s > 0 else "no time has passed"
        return pool.started - before.started, max(0, ended - had_ended), elapsed_s, why

    @staticmethod
    def _throughput(tell: Tell, ended: int, elapsed_s: float, why: str) -> Reading:
        if why:
            return tell(signal="throughput_rps", status=Status.NO_DATA, detail=why)
        return tell(signal="throughput_rps", value=ended / elapsed_s)

    @staticmethod
    def _queue(tell: Tell, tasks: Tasks) -> Reading:
        if tasks.queues_fault:
            return tell(
                signal="queue_length", status=Status.ERROR, detail=f"queue: {tasks.queues_fault}"
            )
        waiting = sum(tasks.queues.values())
        detail = (
            f"{waiting} in {', '.join(sorted(tasks.queues))}, {tasks.reserved} taken and not begun,"
            f" {tasks.active} run"
        )
        return tell(signal="queue_length", value=float(waiting + tasks.reserved), detail=detail)

    def _told(
        self, tell: Tell, seen: Seen, begun: int, elapsed_s: float, why: str
    ) -> tuple[Reading, ...]:
        """What the events tell, when they can be believed."""
        due, self._begun = self._begun, self._begun + begun  # of the newest, events may come yet
        self._heard += seen.started
        self._ever = self._ever or seen.started > 0
        if due >= _JUDGED_AFTER:
            few = self._heard < _HEARD_SHARE * due
            said = f"{self._heard} events told of {due} tasks begun"
            self._deaf = f"{said}: is the worker started with -E?" if few else ""
            self._begun -= due
            self._heard = max(0, self._heard - due)
        if seen.fault or self._deaf:
            broken = partial(tell, status=Status.ERROR, detail=seen.fault or self._deaf)
            return tuple(broken(signal=name) for name in _HEARD)
        if why or not self._ever:
            none = partial(tell, status=Status.NO_DATA, detail=why or "no event was heard yet")
            return tuple(none(signal=name) for name in _HEARD)
        return (
            tell(signal="errors_rps", value=seen.failed / elapsed_s),
            _distribution(tell, "service_time_s", seen.runtime, "no task ended"),
            _distribution(
                tell, "latency_s", seen.latency, "no task ended of which task-sent was heard"
            ),
        )


def _distribution(tell: Tell, signal: str, sketch: Sketch, nothing: str) -> Reading:
    if sketch.count == 0:
        return tell(signal=signal, status=Status.NO_DATA, detail=nothing)
    return tell(signal=signal, value=sketch.mean, sketch=sketch)
