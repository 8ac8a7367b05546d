"""What the engine needs of the world: Sensor, Actuator, Clock, Journal. Protocols only."""

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from poolwright.core.model import Actuation, Applied, Decision, Reading, Resume, Setting, Tick
from poolwright.core.policy import Policy


class Sensor(Protocol):
    """Sees some signals. Made as `Kind(options, pool)`, then start, read every tick, close.

    A class also has `Options`: a frozen dataclass whose fields are bound from YAML (types of
    `core.units`; `field(metadata={"doc": ...})` gives each its description).
    """

    source: str  # in Reading.source, for people: "statsd 127.0.0.1:8125"
    signals: tuple[str, ...]  # names of core.signals.SIGNALS
    deadline_s: float | None  # the engine gives up on `read` after this; None: it never waits

    async def start(self) -> None:
        """Open sockets and files. Raises PlantFault naming the endpoint."""

    def read(self, now_ns: int) -> Coroutine[Any, Any, tuple[Reading, ...]]:
        """What was seen since the last read; one Reading a signal, at monotonic time `now_ns`.

        A broken source is a Reading with status error and a detail, not an exception; PlantFault
        is caught by the engine and becomes such readings for all of `signals`.
        """

    async def close(self) -> None:
        """Let go of everything. May be called twice, and without start."""


class Actuator(Protocol):
    """Moves some knobs of one plant. Made as `Kind(options, pool)`."""

    knobs: tuple[str, ...]
    endpoint: str  # for people: what is moved, and through what

    async def read(self) -> Applied:
        """The real levels, now. Raises PlantFault."""

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Move to `wanted` step by step, each step read back; doing it twice is doing it once.

        Returns applied, failed or refused with a detail. It may be cancelled between two steps:
        what was done by then stays, and the next `read` tells it.
        """

    async def close(self) -> None:
        """Let go of everything; moves nothing."""


class Clock(Protocol):
    """Time, handed in."""

    def mono_ns(self) -> int:
        """Monotonic nanoseconds."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, for people."""


class Journal(Protocol):
    """What happened. One journal file serves all pools of a daemon; a run is one pool's life.

    Every method raises PlantFault, naming the file, when the journal cannot be written or read.
    """

    def begin_run(self, pool: str, policy: Policy, resume: Resume, wall_ns: int) -> int:
        """Open a run, durably; its id."""

    def append(self, run_id: int, tick: Tick, decision: Decision) -> None:
        """Keep a tick and its decision. Batched; when the decision moves something, everything up
        to and including it is durable, with an intent, before this returns; durable likewise when
        it has `kept` something, for what an operator has settled must survive a kill.
        """

    def close_intent(self, run_id: int, actuation: Actuation, wall_ns: int) -> None:
        """What became of the intent of `actuation.decision_tick`."""

    def open_intents(self, pool: str) -> Sequence[tuple[int, int, Setting]]:
        """Intents that were never closed: (run_id, tick, setting), oldest first."""

    def note(self, run_id: int, wall_ns: int, kind: str, text: str) -> None:
        """Keep an event of the daemon itself (recovery, learner death, policy reload), durably."""

    def flush(self) -> None:
        """Make durable what is batched."""

    def end_run(self, run_id: int, reason: str, wall_ns: int) -> None:
        """Close a run, durably."""

    def last_resume(self, pool: str) -> Resume | None:
        """What a new run of `pool` may start from, None when the journal does not know the pool."""

    def close(self) -> None:
        """Flush and close. May be called twice."""
