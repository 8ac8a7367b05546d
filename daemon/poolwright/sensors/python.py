"""A Python application as it counts itself: `poolwright.client`.

    count: requests    what the WSGI or ASGI middleware sees. A request's service time is the time
                       that it runs in the pool, where one is offered, for which it takes one place;
                       its latency is known where it carries X-Request-Start.
    count: tasks       what goes through the pool: throughput, errors (tasks that raised), service
                       time, latency (queue delay and service time), of tasks and not of requests.

Processes tell counts since their start, so a read that failed loses nothing: the next one covers
the time of both. What a process had counted since the last read when it ended is not known, so in
that tick there is no rate.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from poolwright.client.reach import Reach, Requests, Shape, Tasks, Told
from poolwright.core.errors import PlantFault
from poolwright.core.model import Reading, Status
from poolwright.core.sketch import Sketch, SketchBuilder
from poolwright.core.units import PathText
from poolwright.sensors.datagram import requests_told

_ASK_S = 0.8
_STEP_NS = 50_000_000

_Tell = partial[Reading]
_NONE = Shape(bins=[], zeros=0, total=0.0, squares=0.0)
_NO_TASKS = Tasks(running=0, queued=0, done=0, failed=0, waited=_NONE, stayed=_NONE, ran=_NONE)
_NO_REQUESTS = Requests(
    in_flight=0,
    open_streams=0,
    ended=0,
    errors=0,
    carried=0,
    odd=0,
    refused=0,
    service=_NONE,
    queue=_NONE,
    latency=_NONE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonOptions:
    """What a `python` sensor may be told."""

    folder: PathText = field(
        metadata={"doc": "the folder that the application names in poolwright.client.offer"}
    )
    count: Literal["requests", "tasks"] = field(
        default="requests",
        metadata={"doc": "requests as the middleware sees them, or tasks of the pool"},
    )


@dataclass(slots=True)
class _Tick:
    """What all processes together did since the last read."""

    done: int = 0
    errors: int = 0
    carried: int = 0
    refused: int = 0
    queued: int | None = None
    running: int = 0
    service: SketchBuilder = field(default_factory=SketchBuilder)
    latency: SketchBuilder = field(default_factory=SketchBuilder)
    waited: SketchBuilder = field(default_factory=SketchBuilder)  # the part of it before service


def _clocks() -> tuple[int, int]:
    return time.time_ns(), time.monotonic_ns()


class Python:
    """Throughput, errors, service time, latency and queue of one application."""

    Options = PythonOptions
    signals = ("throughput_rps", "errors_rps", "service_time_s", "latency_s", "queue_length")
    deadline_s: float | None = 0.9

    def __init__(
        self,
        options: PythonOptions,
        pool: str,
        clocks: Callable[[], tuple[int, int]] = _clocks,
    ) -> None:
        """`clocks` gives (wall, monotonic) nanoseconds."""
        self.pool = pool
        self.source = f"python {options.folder}"
        self._requests = options.count == "requests"
        self._reach = Reach(options.folder)
        self._clocks = clocks
        self._last: dict[str, Told] = {}
        self._last_ns: int | None = None  # of the last good read
        self._offset_ns: int | None = None  # wall minus monotonic, then

    async def start(self) -> None:
        """Nothing to open: the application may come later."""

    async def close(self) -> None:
        """Nothing is kept open."""

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal. Raises PlantFault when a process does not answer sensibly."""
        told = await self._reach.ask(_ASK_S, counts=True)
        wall_ns, mono_ns = self._clocks()
        stepped_s = self._stepped_s(wall_ns - mono_ns)
        self._check(told)
        before, self._last = self._last, {t.token: t for t in told}
        last_ns, self._last_ns = self._last_ns, mono_ns
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        if last_ns is None:
            first = partial(tell, status=Status.NO_DATA, detail="a rate needs two reads")
            return tuple(first(signal=name) for name in self.signals)
        tick = _Tick()
        unknown = [before[token].name for token in before.keys() - self._last.keys()]
        for now in told:
            then = before.get(now.token)
            if then is None and now.born_ns < last_ns:
                unknown.append(now.name)  # it was there, and not seen: since when does it count?
            else:
                self._add(tick, now, then)
        return self._tell(tell, tick, (mono_ns - last_ns) / 1e9, unknown, stepped_s)

    def _stepped_s(self, offset_ns: int) -> float:
        """By how much the wall clock was stepped since the last read; 0 for less than 50 ms."""
        last_ns, self._offset_ns = self._offset_ns, offset_ns
        if last_ns is None or abs(offset_ns - last_ns) <= _STEP_NS:
            return 0.0
        return (offset_ns - last_ns) / 1e9

    def _check(self, told: Sequence[Told]) -> None:
        """Raises PlantFault when a process does not offer what is to be counted."""
        for process in told:
            if self._requests and process.requests is None:
                raise PlantFault(f"{process.path}: {process.name} offers no meter")
            if not self._requests and process.tasks is None:
                raise PlantFault(f"{process.path}: {process.name} offers no pool")

    def _add(self, tick: _Tick, now: Told, then: Told | None) -> None:
        """What one process did since `then`, or since its start. PlantFault if it counts back."""
        then_tasks = (then and then.tasks) or _NO_TASKS
        then_requests = (then and then.requests) or _NO_REQUESTS
        try:
            ran = None if now.tasks is None else _since(now.tasks.ran, then_tasks.ran)
            if self._requests:
                assert now.requests is not None
                _add_requests(tick, now.requests, then_requests, ran)
            else:
                assert now.tasks is not None
                _add_tasks(tick, now.tasks, then_tasks)
        except ValueError as error:
            raise PlantFault(f"{now.path}: {now.name} counts backwards: {error}") from None
        if now.tasks is not None:
            tick.queued = (tick.queued or 0) + now.tasks.queued
            tick.running += now.tasks.running

    def _tell(
        self,
        tell: _Tell,
        tick: _Tick,
        elapsed_s: float,
        unknown: Sequence[str],
        stepped_s: float,
    ) -> tuple[Reading, ...]:
        throughput, errors, service = requests_told(
            tell, tick.done, tick.errors, elapsed_s, tick.service
        )
        if unknown:
            why = f"{', '.join(unknown[:4])} ended or came unseen: what it served is not known"
            broken = partial(tell, status=Status.ERROR, detail=why)
            throughput, errors = broken(signal="throughput_rps"), broken(signal="errors_rps")
        if tick.queued is None:
            none = "the application offers no pool that could have a queue"
            queue = tell(signal="queue_length", status=Status.NO_DATA, detail=none)
        else:
            runs = f"{tick.running} more run"
            queue = tell(signal="queue_length", value=float(tick.queued), detail=runs)
        latency = self._latency(partial(tell, signal="latency_s"), tick, stepped_s)
        return throughput, errors, service, latency, queue

    def _latency(self, tell: _Tell, tick: _Tick, stepped_s: float) -> Reading:
        if self._requests and stepped_s:
            why = f"the wall clock was stepped by {stepped_s:+.3f} s"
            return tell(status=Status.ERROR, detail=why)
        if self._requests and tick.refused:
            why = (
                f"{tick.refused} of {tick.carried} X-Request-Start lie in the future or over an "
                "hour back: do the clocks of proxy and host agree?"
            )
            return tell(status=Status.ERROR, detail=why)
        if tick.done == 0:
            return tell(status=Status.NO_DATA, detail="nothing was done in this tick")
        if self._requests and 2 * tick.carried < tick.done:
            why = f"only {tick.carried} of {tick.done} requests carried X-Request-Start"
            return tell(status=Status.NO_DATA, detail=why)
        sketch, waited = tick.latency.freeze(), tick.waited.freeze()
        where = "before the application" if self._requests else "in the pool's queue"
        part = f"{waited.mean:.3f} s of it {where}" if waited.count else ""
        return tell(value=sketch.mean, sketch=sketch, detail=part)


def _add_requests(tick: _Tick, now: Requests, then: Requests, ran: Sketch | None) -> None:
    tick.done += _more(now.ended, then.ended)
    tick.errors += _more(now.errors, then.errors)
    tick.carried += _more(now.carried, then.carried)
    tick.refused += _more(now.refused, then.refused)
    tick.latency.merge(_since(now.latency, then.latency))
    tick.waited.merge(_since(now.queue, then.queue))
    tick.service.merge(ran if ran is not None else _since(now.service, then.service))


def _add_tasks(tick: _Tick, now: Tasks, then: Tasks) -> None:
    tick.done += _more(now.done, then.done)
    tick.errors += _more(now.failed, then.failed)
    tick.latency.merge(_since(now.stayed, then.stayed))
    tick.waited.merge(_since(now.waited, then.waited))
    tick.service.merge(_since(now.ran, then.ran))


def _more(now: int, then: int) -> int:
    """Raises ValueError when it is less."""
    if now < then:
        raise ValueError(f"{now} after {then}")
    return now - then


def _since(now: Shape, then: Shape) -> Sketch:
    """The distribution of what came after `then`. Raises ValueError when something went."""
    bins = dict(now.bins)
    for index, count in then.bins:
        bins[index] = bins.get(index, 0) - count
    zeros = _more(now.zeros, then.zeros)
    if min(bins.values(), default=0) < 0:
        raise ValueError("fewer in a bucket than before")
    return Sketch(
        bins=tuple(sorted((index, count) for index, count in bins.items() if count)),
        zeros=zeros,
        total=max(0.0, now.total - then.total),  # rounded
        total_squares=max(0.0, now.squares - then.squares),
    )
