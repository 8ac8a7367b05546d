"""What goes wrong in a simulation, and when: sensors, actuator, plant, clocks, disk, learner, us.

A scenario lists faults by kind. Each lasts from `at` for `lasts`, or strikes once at `at` and then
`every` so often. All randomness comes from the seed of the run and the moment of the fault.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any, ClassVar, Literal, TypeVar

from poolwright.core.errors import PlantFault
from poolwright.core.model import Reading, Status
from poolwright.core.sketch import GAMMA, Sketch
from poolwright.core.units import Bytes, Ratio, Seconds
from poolwright.sim.kinds import bind_kind
from poolwright.sim.shape import Disturbance

F = TypeVar("F", bound="Fault")

# The sensors of a simulated pool and what each gives, as the real ones divide it.
SENSES: dict[str, tuple[str, ...]] = {
    "requests": ("throughput_rps", "errors_rps", "latency_s", "service_time_s"),
    "queue": ("queue_length", "queue_limit"),
    "processes": ("cpu_cores", "memory_bytes", "worker_count"),
    "host": (
        "host_cpu_cores", "host_cpu_count", "host_memory_used_bytes", "memory_limit_bytes",
        "load_average", "psi_cpu_ratio", "psi_memory_ratio", "psi_io_ratio",
    ),
    "dependency": ("connections", "connections_limit"),
    "power": ("power_w",),
}  # fmt: skip
Sense = Literal["requests", "queue", "processes", "host", "dependency", "power"]


def _doc(text: str, **rules: Any) -> dict[str, Any]:
    return {"doc": text, **rules}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong, at one pool or at all of them."""

    kind: ClassVar[str] = ""
    at: Seconds = field(metadata=_doc("when it begins, since the start"))
    pool: str = field(default="", metadata=_doc("which pool it strikes; left out: all"))

    @classmethod
    def bind_node(cls, node: Any, binder: Any, where: str) -> Any:
        """The fault of the `kind` that a mapping names."""
        return bind_kind(node, binder, where, FAULTS)

    @property
    def ends_s(self) -> float:
        """When it is over."""
        return self.at

    def strikes(self, pool: str) -> bool:
        """Whether `pool` is meant."""
        return self.pool in ("", pool)

    def __str__(self) -> str:
        """For people: what it is."""
        return self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell(Fault):
    """A fault that lasts."""

    lasts: Seconds = field(metadata=_doc("for how long", above=0))

    @property
    def ends_s(self) -> float:
        """When it is over."""
        return self.at + self.lasts


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow(Fault):
    """A fault of one moment, which may come again."""

    every: Seconds | None = field(default=None, metadata=_doc("again after so long", above=0))
    times: int = field(default=1, metadata=_doc("how often in all", min=1, max=100_000))

    def __post_init__(self) -> None:
        """Refuse a repetition without a period."""
        if self.times > 1 and self.every is None:
            raise ValueError(f"comes {self.times} times; say how often with `every`")

    @property
    def ends_s(self) -> float:
        """When it strikes for the last time."""
        return self.at + (self.times - 1) * (self.every or 0.0)

    def due(self, after_s: float, until_s: float) -> bool:
        """Whether it strikes within (after_s, until_s]."""
        period = self.every or math.inf
        n = 0 if until_s < self.at or self.times == 1 else math.floor((until_s - self.at) / period)
        return after_s < self.at + min(n, self.times - 1) * (self.every or 0.0) <= until_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorFault(Spell):
    """A sensor is silent, breaks, hangs, or lies."""

    kind: ClassVar[str] = "sensor"
    does: Literal[
        "silent", "error", "hang", "stale", "scaled", "stuck", "nan", "inf", "negative", "reset"
    ] = field(
        metadata=_doc(
            "silent: gives no readings; error, hang, stale: as it says; scaled: every value times "
            "`factor`; stuck: the first values for ever; nan, inf: tries to pass them on; negative:"
            " turns the sign; reset: counts only a part"
        )
    )
    sensor: Sense | None = field(default=None, metadata=_doc("which one; left out: all"))
    signals: tuple[str, ...] = field(default=(), metadata=_doc("only these signals of it"))
    factor: float = field(default=0.1, metadata=_doc("of scaled", min=0, max=1e6))

    def __str__(self) -> str:
        """`requests sensor: stuck`."""
        return f"{self.sensor or 'every'} sensor: {self.does}"

    def distort(self, readings: Sequence[Reading], random: Random) -> tuple[Reading, ...]:
        """What the sensor gives instead. Raises PlantFault, or ValueError from `Reading` itself,
        which refuses a NaN, as a sensor of another author would.
        """
        if self.does == "silent":
            return tuple(r for r in readings if not self._meant(r))
        if self.does == "error":
            raise PlantFault("sim: the source is broken")
        share = random.random()
        return tuple(self._one(r, share) if self._meant(r) else r for r in readings)

    def _meant(self, reading: Reading) -> bool:
        return not self.signals or reading.signal in self.signals

    def _one(self, reading: Reading, share: float) -> Reading:
        if self.does == "stale":
            return replace(reading, value=None, sketch=None, status=Status.STALE)
        if reading.value is None:
            return reading
        if self.does == "scaled":
            return _times(reading, self.factor)
        if self.does == "reset":
            return replace(_times(reading, share), detail="the counter was reset")
        values = {"nan": math.nan, "inf": math.inf, "negative": -abs(reading.value) - 1.0}
        return replace(reading, value=values.get(self.does, reading.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class ActuatorFault(Spell):
    """The actuator does not do as it is told."""

    kind: ClassVar[str] = "actuator"
    does: Literal["fails", "refuses", "delays", "partial", "ignores", "unreadable"] = field(
        metadata=_doc(
            "fails, refuses: nothing moves; delays: begins after `delay`; partial: half of the way;"
            " ignores: says applied and does nothing; unreadable: the level cannot be read back"
        )
    )
    delay: Seconds = field(default=5.0, metadata=_doc("of delays", above=0))

    def __str__(self) -> str:
        """`actuator fails`."""
        return f"actuator {self.does}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherHand(Blow):
    """Somebody else sets the level."""

    kind: ClassVar[str] = "other-hand"
    to: int = field(metadata=_doc("the level that they set", min=1))

    def __str__(self) -> str:
        """`another hand sets 4`."""
        return f"another hand sets {self.to}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantBlow(Blow):
    """The service reloads or restarts, or one of its workers dies."""

    kind: ClassVar[str] = "plant"
    does: Literal["reload", "restart", "worker-killed"] = field(
        metadata=_doc(
            "reload: new workers, and the old ones finish what they have; restart: what they have "
            "is lost; worker-killed: one of them dies"
        )
    )
    to: int | None = field(
        default=None,
        metadata=_doc("workers after a reload or restart; left out: as at the start", min=1),
    )

    def __str__(self) -> str:
        """`service restart`."""
        return f"service {self.does}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDown(Spell):
    """The service is gone; what is asked of it fails. Then it starts again as at the start."""

    kind: ClassVar[str] = "service-down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbed(Spell):
    """What acts on the service from outside (`sim.shape.Disturbance`)."""

    kind: ClassVar[str] = "disturbance"
    dependency_factor: float = field(
        default=1.0, metadata=_doc("what it waits for takes so many times as long", min=0)
    )
    cpu_factor: float = field(
        default=1.0, metadata=_doc("every request burns so many times the CPU", above=0)
    )
    foreign_cores: float = field(default=0.0, metadata=_doc("cores that others burn", min=0))
    foreign_bytes: Bytes = field(default=0, metadata=_doc("memory that others take"))
    leak_factor: float = field(default=1.0, metadata=_doc("of the service's leak", min=0))
    leak_bytes: Bytes = field(default=0, metadata=_doc("that each request leaks in addition"))
    fail_ratio: Ratio = field(default=0.0, metadata=_doc("share of requests that fail"))

    def __str__(self) -> str:
        """`disturbance dependency_factor=4`."""
        usual = Disturbance()
        changed = [
            f"{spec.name}={getattr(self, spec.name):g}"
            for spec in fields(Disturbance)
            if getattr(self, spec.name) != getattr(usual, spec.name)
        ]
        return " ".join([self.kind, *changed])

    def onto(self, sum_: Disturbance) -> None:
        """Add this to what else disturbs: factors multiply, amounts add."""
        sum_.dependency_factor *= self.dependency_factor
        sum_.cpu_factor *= self.cpu_factor
        sum_.leak_factor *= self.leak_factor
        sum_.foreign_cores += self.foreign_cores
        sum_.foreign_bytes += self.foreign_bytes
        sum_.leak_bytes += self.leak_bytes
        sum_.fail_ratio = max(sum_.fail_ratio, self.fail_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonKilled(Blow):
    """kill -9 of poolwright at one step of a tick; it starts again after `down`.

    The points of a move (apply, mid-apply, close) wait for the first move after `at`.
    """

    kind: ClassVar[str] = "daemon-killed"
    before: Literal["step", "journal", "apply", "mid-apply", "close"] = field(
        metadata=_doc(
            "step: readings were gathered; journal: decided; apply: journalled; mid-apply: the "
            "first worker moved; close: moved, and the intent still open"
        )
    )
    down: Seconds = field(default=5.0, metadata=_doc("until it runs again", above=0))

    def __str__(self) -> str:
        """`poolwright killed before journal`."""
        return f"poolwright killed before {self.before}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WallJump(Blow):
    """The wall clock is stepped."""

    kind: ClassVar[str] = "wall-jump"
    by: Seconds = field(metadata=_doc("by so much", above=0))
    back: bool = field(default=False, metadata=_doc("into the past"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend(Spell):
    """The machine sleeps: nothing runs, and the monotonic clock has gone on when it wakes."""

    kind: ClassVar[str] = "suspend"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull(Spell):
    """The journal cannot be written."""

    kind: ClassVar[str] = "disk-full"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerFault(Spell):
    """The learner process hangs, dies, is slow, or answers nonsense."""

    kind: ClassVar[str] = "learner"
    does: Literal["hangs", "crashes", "slow", "absurd"] = field(
        metadata=_doc("absurd: a well-formed plan of random settings")
    )
    takes: Seconds = field(default=10.0, metadata=_doc("of slow: for one fit", above=0))

    def __str__(self) -> str:
        """`learner hangs`."""
        return f"learner {self.does}"


FAULTS: dict[str, type[Fault]] = {
    found.kind: found
    for found in (
        SensorFault, ActuatorFault, OtherHand, PlantBlow, ServiceDown, Disturbed, DaemonKilled,
        WallJump, Suspend, DiskFull, LearnerFault,
    )
}  # fmt: skip


class Faults:
    """The faults of a run, asked by what they act on. Counts what was really injected."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self.all = tuple(sorted(faults, key=lambda f: (f.at, f.kind)))
        self.injected: dict[str, int] = {}
        self._seed = seed
        self._waiting_kills: list[DaemonKilled] = []
        self._now_s = -1.0
        self._active: tuple[Spell, ...] = ()
        self._spells = tuple(f for f in self.all if isinstance(f, Spell))
        self._blows = tuple(f for f in self.all if isinstance(f, Blow))

    def advance(self, until_s: float) -> tuple[Blow, ...]:
        """Let time pass; the blows that strike now, in order.

        A spell is felt in one tick at least.
        """
        after_s, self._now_s = self._now_s, until_s
        before, dt_s = self._active, until_s - after_s
        self._active = tuple(
            f for f in self._spells if f.at <= until_s < max(f.ends_s, f.at + dt_s)
        )
        for fault in self._active:
            if fault not in before:
                self._count(fault)
        blows = [f for f in self._blows if f.due(after_s, until_s)]
        for blow in blows:
            if isinstance(blow, DaemonKilled):
                self._waiting_kills.append(blow)
            else:
                self._count(blow)
        return tuple(blows)

    def active(self, kind: type[F], pool: str) -> tuple[F, ...]:
        """The lasting faults of a kind that act on `pool` now."""
        if not self._active:
            return ()
        return tuple(f for f in self._active if isinstance(f, kind) and f.strikes(pool))

    def ever(self, kind: type[F], pool: str) -> bool:
        """Whether a lasting fault of a kind is to act on `pool` at any time."""
        return any(isinstance(f, kind) and f.strikes(pool) for f in self._spells)

    def rages(self, kind: type[F]) -> F | None:
        """A lasting fault of a kind that acts on the whole host now."""
        return next((f for f in self._active if isinstance(f, kind)), None)

    def kill(self, point: str, pool: str) -> DaemonKilled | None:
        """The kill that waits for this point of a tick of `pool`, once."""
        for fault in self._waiting_kills:
            if fault.before == point and fault.strikes(pool):
                self._waiting_kills.remove(fault)
                self._count(fault)
                return fault
        return None

    def random(self, what: str) -> Random:
        """A generator of its own for `what` at this moment."""
        return Random(f"faults:{self._seed}:{what}:{self._now_s}")

    def _count(self, fault: Fault) -> None:
        name = str(fault)
        self.injected[name] = self.injected.get(name, 0) + 1


def _times(reading: Reading, factor: float) -> Reading:
    """A reading with its value and its distribution scaled."""
    assert reading.value is not None
    sketch = None if reading.sketch is None else _scaled(reading.sketch, factor)
    return replace(reading, value=reading.value * factor, sketch=sketch)


def _scaled(sketch: Sketch, factor: float) -> Sketch:
    """Every value of a sketch times `factor`, to the sketch's relative error."""
    if factor <= 0.0:
        return Sketch(zeros=sketch.count)
    shift = round(math.log(factor) / math.log(GAMMA))
    return Sketch(
        bins=tuple((index + shift, n) for index, n in sketch.bins),
        zeros=sketch.zeros,
        total=sketch.total * factor,
        total_squares=sketch.total_squares * factor * factor,
    )
