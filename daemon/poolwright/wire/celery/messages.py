"""What goes through the pipe of a child: JSON lines, an Ask in, an Answer out.

Light: the control process imports this and must not import kombu.
"""

from typing import Any, Literal, TypeVar

import msgspec

from poolwright.core.sketch import Sketch

EMPTY = Sketch()
T = TypeVar("T")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Which worker, and through which broker. The first line that a child gets."""

    broker: str
    password_file: str | None
    node: str


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a child shall do.

    hello: say that you are there. level: tell the pool. look: tell the tasks as well. grow: by
    `count`. shrink: by up to `count`, of processes that have nothing to do at present; until
    `resume`, or until nobody asks for a while, the worker takes no new task from the broker.
    """

    id: int
    do: Literal["hello", "level", "look", "grow", "shrink", "resume"]
    count: int = 0
    within_s: float = 0.0  # patience with the worker; 0: the child's own
    events: bool = False  # of look: count the worker's events, from the first time on


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's events since the last look, by the events' own type."""

    fault: str = ""  # why they cannot be listened to
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    runtime: Sketch = EMPTY  # seconds in a worker, of tasks that ended
    latency: Sketch = EMPTY  # seconds from task-sent to the end, where task-sent was heard


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's pool, as the worker tells it."""

    pid: int
    uptime_s: int
    kind: str  # prefork, gevent, eventlet, ...
    level: int  # processes that are there, or greenlets that may run at once
    autoscaled: bool
    started: int  # tasks begun since the worker started
    prefetch: int


class Tasks(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tasks are."""

    active: int
    reserved: int  # taken from the broker and not begun
    queues: dict[str, int] = {}  # in the broker
    queues_fault: str = ""
    seen: Seen | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """To the Ask of the same id. `error` says why there is no more; `refused`: asking is no use."""

    id: int
    pool: Pool | None = None
    tasks: Tasks | None = None
    taken: int = 0  # processes that were told to go
    news: str = ""
    error: str = ""
    refused: bool = False


_ENCODER = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """One line, newline included."""
    return _ENCODER.encode(message) + b"\n"


def decode(line: bytes, kind: type[T]) -> T:
    """Raises ValueError (msgspec's errors are) when the line is not of that kind."""
    return msgspec.json.decode(line, type=kind)
