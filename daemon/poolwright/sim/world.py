"""The world of a simulation: clocks, services with their load, and the sensors and actuators that
the engine is given for them.

A service advances in whole ticks; what moved between two ticks takes effect from the later one.
What is really so (`Service.seen`) and what the sensors tell differ by the faults alone.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, ActuationStatus, Applied, Reading, Setting, Status
from poolwright.core.sketch import Sketch
from poolwright.sim.faults import (
    SENSES,
    ActuatorFault,
    Blow,
    DaemonKilled,
    Disturbed,
    Faults,
    OtherHand,
    PlantBlow,
    SensorFault,
    ServiceDown,
    WallJump,
)
from poolwright.sim.shape import Disturbance

KNOB = "workers"
START_WALL_NS = 1_767_571_200_000_000_000  # Monday, 2026-01-05T00:00:00Z
_STEP_S = 0.1  # the actuator moves a worker in so long
_RATES = frozenset(
    {"cpu_cores", "host_cpu_cores", "psi_cpu_ratio", "psi_memory_ratio", "psi_io_ratio"}
)
_FOREVER_S = 1e9
_DEADLINE_S = 0.5  # of a sensor that may hang
_SENSE_OF = {signal: sense for sense, signals in SENSES.items() for signal in signals}
_OF_WORKERS = ("requests", "processes")  # what cannot be read while it is down


class PlantTruth(Protocol):
    """One tick of a plant (`sim.plant.Truth`)."""

    @property
    def latency(self) -> Sketch:
        """What those waited who were answered well."""

    @property
    def arrived(self) -> int:
        """Attempts, refused ones included."""

    @property
    def errors(self) -> int:
        """Attempts that ended badly for the client."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker at the end."""

    @property
    def joules(self) -> float:
        """Energy of the whole host."""


class Plant(Protocol):
    """What a service runs on (`sim.plant.Plant`)."""

    disturbance: Disturbance

    @property
    def truth(self) -> PlantTruth:
        """The last tick as it really was."""

    @property
    def workers(self) -> int:
        """The level."""

    def tick(self, load_rps: float, dt_s: float = 1.0, *, cost: float = 1.0) -> tuple[Reading, ...]:
        """Serve `dt_s` seconds of load; what sensors without faults would say."""

    def applied(self) -> Applied:
        """What an actuator would read back."""

    def resize(self, workers: int) -> None:
        """Set the level."""

    def restart(self, *, graceful: bool = True) -> None:
        """Start again as at first: another incarnation. Gracefully, what is served is finished."""

    def kill_worker(self) -> None:
        """Lose one worker with what it serves; another boots in its place."""


class Load(Protocol):
    """Requests a second over time (`sim.load`)."""

    def rate(self, at_s: float) -> float:
        """Requests a second at `at_s` seconds after the start."""

    def cost(self, at_s: float) -> float:
        """What a request costs at `at_s`, as a multiple of the usual."""


class SimClock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self._now_ns = 0
        self._wall_offset_ns = START_WALL_NS

    def mono_ns(self) -> int:
        """Nanoseconds since the start; goes on in suspend."""
        return self._now_ns

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, as the machine believes."""
        return self._now_ns + self._wall_offset_ns

    def pass_ns(self, span_ns: int) -> None:
        """Let time pass."""
        assert span_ns >= 0, "time does not run backwards"
        self._now_ns += span_ns

    def step_wall(self, by_s: float) -> None:
        """Set the wall clock."""
        self._wall_offset_ns += round(by_s * 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """One tick of a service as it really was."""

    pool: str
    at_s: float  # its end
    dt_s: float
    load_rps: float  # as the load is written, before chance and retries
    level: int
    arrived: float  # attempts
    failed: float  # attempts that ended badly for the client
    waiting: int  # for a worker, at the end
    latency: Sketch  # of those answered well
    joules: float  # of the whole host
    readings: tuple[Reading, ...]  # what sensors without faults say


class Service:
    """One simulated service: its plant, its load, what distorts it."""

    def __init__(self, name: str, plant: Plant, load: Load, faults: Faults) -> None:
        self.name = name
        self.plant = plant
        self.load = load
        self.faults = faults
        self.seen: tuple[Reading, ...] = ()
        self.senses: frozenset[str] = frozenset()  # those that it has
        self.stepped = False  # the wall clock, within the last tick
        self.down = False
        self.on_kill: Callable[[DaemonKilled], None] | None = None

    @property
    def level(self) -> int:
        """Workers, really."""
        return self.plant.workers

    def sensors(self) -> tuple["SimSensor", ...]:
        """New sensors, as a daemon that starts has them."""
        senses = tuple(sense for sense in SENSES if sense in self.senses)
        if not self.faults.ever(SensorFault, self.name):
            return (SimSensor(self, "all", senses),)  # one does, and none of them can hang
        return tuple(SimSensor(self, sense, (sense,), _DEADLINE_S) for sense in senses)

    def actuator(self) -> "SimActuator":
        """A new actuator."""
        return SimActuator(self)

    def advance(
        self, at_s: float, dt_s: float, blows: Sequence[Blow], neighbours: tuple[float, float]
    ) -> Truth:
        """One tick up to `at_s`. `neighbours`: CPU [cores] and memory [bytes] of other pools."""
        self.stepped = any(isinstance(b, WallJump) for b in blows)
        for blow in blows:
            self._strike(blow)
        self.plant.disturbance = self._disturbed(neighbours)
        down = bool(self.faults.active(ServiceDown, self.name))
        if down != self.down:
            self.plant.restart(graceful=False)
        self.down = down
        rate = max(0.0, self.load.rate(at_s - dt_s))
        cost = self.load.cost(at_s - dt_s)
        self.seen = self.plant.tick(0.0 if down else rate, dt_s, cost=cost)
        self.senses = frozenset(_SENSE_OF[reading.signal] for reading in self.seen)
        return self._truth(at_s, dt_s, rate)

    def used(self) -> tuple[float, float]:
        """CPU [cores] and memory [bytes] that it used in the last tick."""
        values = {r.signal: r.value or 0.0 for r in self.seen}
        return values.get("cpu_cores", 0.0), values.get("memory_bytes", 0.0)

    def _truth(self, at_s: float, dt_s: float, rate: float) -> Truth:
        found = self.plant.truth
        lost = rate * dt_s if self.down else 0.0
        return Truth(
            pool=self.name,
            at_s=at_s,
            dt_s=dt_s,
            load_rps=rate,
            level=0 if self.down else self.level,
            arrived=found.arrived + lost,
            failed=found.errors + lost,
            waiting=found.waiting,
            latency=found.latency,
            joules=found.joules,
            readings=self.seen,
        )

    def _strike(self, blow: Blow) -> None:
        if not blow.strikes(self.name):
            return
        if isinstance(blow, OtherHand):
            self.plant.resize(blow.to)
        elif isinstance(blow, PlantBlow) and blow.does == "worker-killed":
            self.plant.kill_worker()
        elif isinstance(blow, PlantBlow):
            self.plant.restart(graceful=blow.does == "reload")
            self.plant.resize(blow.to or self.level)

    def _disturbed(self, neighbours: tuple[float, float]) -> Disturbance:
        """All that acts on it now."""
        found = Disturbance(foreign_cores=neighbours[0], foreign_bytes=neighbours[1])
        for fault in self.faults.active(Disturbed, self.name):
            fault.onto(found)
        return found


class SimSensor:
    """ports.Sensor over a service: the part of its readings that one real sensor would give."""

    def __init__(
        self, service: Service, name: str, senses: tuple[str, ...], deadline_s: float | None = None
    ) -> None:
        self.source = f"sim {name}"
        self.signals = tuple(signal for sense in senses for signal in SENSES[sense])
        self.deadline_s = deadline_s
        self._service = service
        self._senses = senses
        self._fresh = True
        self._stuck: dict[SensorFault, tuple[Reading, ...]] = {}

    async def start(self) -> None:
        """Nothing to open."""

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """What the last tick showed, less what the faults do to it. Raises PlantFault."""
        service, found = self._service, self._mine(now_ns)
        if service.stepped:  # as access_log: arrivals are told by the wall clock
            found = tuple(_stepped(r) if r.signal == "latency_s" else r for r in found)
        if service.down:
            found = tuple(_gone(r) if _SENSE_OF[r.signal] in _OF_WORKERS else r for r in found)
        if self._fresh:  # a rate needs two looks at a counter
            found = tuple(_unknown(r) if r.signal in _RATES else r for r in found)
            self._fresh = False
        for fault in service.faults.active(SensorFault, service.name):
            if fault.sensor is None or fault.sensor in self._senses:
                found = await self._distorted(fault, found)
        return found

    def _mine(self, now_ns: int) -> tuple[Reading, ...]:
        """What the last tick showed of its senses."""
        seen = self._service.seen
        if len(self._senses) < len(self._service.senses):
            seen = tuple(r for r in seen if _SENSE_OF[r.signal] in self._senses)
        if all(r.taken_mono_ns == now_ns for r in seen):
            return seen
        return tuple(replace(r, taken_mono_ns=now_ns) for r in seen)

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _distorted(
        self, fault: SensorFault, readings: tuple[Reading, ...]
    ) -> tuple[Reading, ...]:
        if fault.does == "hang":
            await asyncio.sleep(_FOREVER_S)
        if fault.does == "stuck":
            first = self._stuck.setdefault(fault, readings)
            at = readings[0].taken_mono_ns if readings else 0
            return tuple(replace(r, taken_mono_ns=at) for r in first)
        return fault.distort(readings, self._service.faults.random(self.source))


class SimActuator:
    """ports.Actuator over a service: a worker at a time, each step seen by `read`."""

    knobs: tuple[str, ...] = (KNOB,)

    def __init__(self, service: Service) -> None:
        self.endpoint = f"sim service {service.name}"
        self._service = service

    async def read(self) -> Applied:
        """The real level. Raises PlantFault when it cannot be read."""
        service = self._service
        if service.down:
            raise PlantFault(f"{self.endpoint}: is not running")
        if any(f.does == "unreadable" for f in self._faults()):
            raise PlantFault(f"{self.endpoint}: does not answer")
        return service.plant.applied()

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Move one worker at a time. Raises PlantFault when the service is gone."""
        service = self._service
        loop = asyncio.get_running_loop()
        began = loop.time()

        def outcome(status: ActuationStatus, detail: str = "") -> Actuation:
            took = loop.time() - began
            return Actuation(decision_tick=decision_tick, status=status, took_s=took, detail=detail)

        faults = {fault.does: fault for fault in self._faults()}
        level = wanted[KNOB]
        if level < 1 or "refuses" in faults:
            return outcome(ActuationStatus.REFUSED, f"{self.endpoint}: refuses {level} workers")
        if "fails" in faults or service.down:
            raise PlantFault(f"{self.endpoint}: the move failed")
        if "ignores" in faults:
            return outcome(ActuationStatus.APPLIED)
        if "delays" in faults:
            await asyncio.sleep(faults["delays"].delay)
        steps = abs(level - service.level)
        most = (steps + 1) // 2 if "partial" in faults else steps
        await self._move(level, most)
        if most < steps:
            return outcome(ActuationStatus.FAILED, f"{self.endpoint}: stopped at {service.level}")
        return outcome(ActuationStatus.APPLIED)

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _move(self, level: int, most: int) -> None:
        """At most `most` steps towards `level`; it may be cancelled between two."""
        service = self._service
        for done in range(most):
            if service.level == level:
                return
            await asyncio.sleep(_STEP_S)
            service.plant.resize(service.level + (1 if level > service.level else -1))
            killed = service.faults.kill("mid-apply", service.name) if done == 0 else None
            if killed is not None:
                assert service.on_kill is not None
                service.on_kill(killed)
                await asyncio.sleep(_FOREVER_S)  # nothing of the dead daemon runs on

    def _faults(self) -> tuple[ActuatorFault, ...]:
        return self._service.faults.active(ActuatorFault, self._service.name)


class World:
    """All services of one host, on one clock: they take CPU and memory from each other."""

    def __init__(self, services: Iterable[Service], faults: Faults, clock: SimClock) -> None:
        self.services = {service.name: service for service in services}
        self.faults = faults
        self.clock = clock

    def advance(self, dt_s: float) -> tuple[Truth, ...]:
        """Let every service live through the tick that ends now."""
        at_s = self.clock.mono_ns() / 1e9
        blows = self.faults.advance(at_s)
        for blow in blows:
            if isinstance(blow, WallJump):
                self.clock.step_wall(-blow.by if blow.back else blow.by)
        alone = len(self.services) == 1
        used = {} if alone else {name: s.used() for name, s in self.services.items()}
        return tuple(
            service.advance(at_s, dt_s, blows, self._neighbours(name, used))
            for name, service in self.services.items()
        )

    def _neighbours(self, pool: str, used: dict[str, tuple[float, float]]) -> tuple[float, float]:
        others = [u for name, u in used.items() if name != pool]
        return sum(cores for cores, _ in others), sum(held for _, held in others)


def _unknown(reading: Reading) -> Reading:
    return replace(reading, value=None, sketch=None, status=Status.NO_DATA, detail="first read")


def _stepped(reading: Reading) -> Reading:
    return replace(
        reading, value=None, sketch=None, status=Status.ERROR, detail="the wall clock was stepped"
    )


def _gone(reading: Reading) -> Reading:
    return replace(
        reading, value=None, sketch=None, status=Status.ERROR, detail="the service is not running"
    )
