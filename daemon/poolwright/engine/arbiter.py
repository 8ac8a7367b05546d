"""What the pools of one host share: one experiment at a time, and memory and CPU.

A pool asks right before its step and reports right after it, both without an await between, so no
two pools are ever told that the same thing is theirs. What is not known grants nothing.
"""

import fcntl
import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from poolwright.core.errors import PolicyError
from poolwright.core.model import ActuationStatus, Decision, Reading, Status, Tick
from poolwright.core.policy import Policy
from poolwright.policy.config import SharedBudget
from poolwright.ports import Sensor

_RECENT_TICKS = 5  # the most of them counts: a dip of one tick is no room
_OLD_CADENCES = 3.0  # what a pool used longer ago than this is not known any more
_LOG = logging.getLogger("poolwright")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one pool may do in this tick; the fields of the Tick of the same names."""

    may_probe: bool = True
    rival: str = ""
    room_bytes: float | None = None
    room_cores: float | None = None


class _Recent:
    """The most of a few ticks; None when the newest is not known."""

    __slots__ = ("_kept", "most")

    def __init__(self) -> None:
        self._kept: deque[float | None] = deque(maxlen=_RECENT_TICKS)
        self.most: float | None = None

    def see(self, value: float | None) -> None:
        """Take this tick's."""
        self._kept.append(value)
        known = [kept for kept in self._kept if kept is not None]
        self.most = None if value is None else max(known)


@dataclass(slots=True, kw_only=True)
class _Use:
    """What one pool uses, and what it has been promised and does not show yet."""

    known_until_ns: int = -1
    bytes: _Recent = field(default_factory=_Recent)
    cores: _Recent = field(default_factory=_Recent)
    promised_bytes: float = 0.0
    promised_cores: float = 0.0
    moving: bool = False  # the promise waits for the end of an actuation
    until_ns: int = 0  # when the promise ends, once the actuation has ended


class ExperimentLock:
    """flock(2) on a file that all daemons of a host name, so that one of them tries at a time."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._fd: int | None = None
        self._told = ""

    def take(self) -> str:
        """Empty when the lock is ours, else who has it or why it cannot be taken."""
        if self._fd is not None:
            return ""
        fd = None
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert fd is not None
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip()
            os.close(fd)
            return f"another daemon has {self._path}{holder and ': '}{holder}"
        except OSError as error:
            if fd is not None:
                os.close(fd)
            return self._failed(f"{self._path} cannot be locked: {error.strerror or error}")
        self._fd, self._told = fd, ""
        return ""

    def sign(self, who: str) -> None:
        """Write who holds it, for the others to read; nothing when it is not held."""
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"pid {os.getpid()}, {who}\n".encode(), 0)
        except OSError as error:
            _LOG.warning("%s: held, but not signed: %s", self._path, error.strerror or error)

    def release(self) -> None:
        """Let others try. May be called at any time."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _failed(self, why: str) -> str:
        if why != self._told:
            _LOG.error("no pool is experimented with: %s", why)
        self._told = why
        return why


class Arbiter:
    """Between the pools of one daemon and, through the lock, between daemons."""

    def __init__(
        self,
        pools: Sequence[str] = (),
        budget: SharedBudget | None = None,
        lock: ExperimentLock | None = None,
    ) -> None:
        """`pools`: all that share `budget`; one that was not seen yet uses an unknown amount."""
        self._budget = budget or SharedBudget()
        self._lock = lock
        self._uses = {name: _Use() for name in pools}
        self._holder: str | None = None
        self._waiting: list[str] = []  # first come, first served

    def share(self, pool: str, policy: Policy, readings: Sequence[Reading], mono_ns: int) -> Share:
        """What `pool` may do in the tick of these readings. `took` must follow."""
        self._see(pool, policy, readings, mono_ns)
        rival = self._rival(pool)
        return Share(
            may_probe=not rival,
            rival=rival,
            room_bytes=self._room_bytes(policy, readings, mono_ns),
            room_cores=self._room_cores(mono_ns),
        )

    def took(self, pool: str, policy: Policy, tick: Tick, decision: Decision | None) -> None:
        """What `pool` made of its share; None: its core failed, and what it held stays held."""
        if decision is not None:
            self._experiment(pool, tick, decision)
            _promise(self._uses[pool], policy, tick, decision)
        if self._lock is not None and self._holder is None:
            self._lock.release()

    def close(self) -> None:
        """Let other daemons try."""
        if self._lock is not None:
            self._lock.release()

    def _rival(self, pool: str) -> str:
        """Who keeps `pool` from experimenting; empty when nobody does."""
        if self._holder == pool:
            return ""
        if self._holder is not None:
            return self._holder
        if self._waiting and self._waiting[0] != pool:
            return self._waiting[0]
        return "" if self._lock is None else self._lock.take()

    def _experiment(self, pool: str, tick: Tick, decision: Decision) -> None:
        waited = pool in self._waiting
        if decision.probing and self._holder is None:
            self._holder = pool
            if self._lock is not None:
                self._lock.sign(f"pool {pool}")
        elif not decision.probing and self._holder == pool:
            self._holder = None
        keeps_place = decision.asks_probe and waited and not tick.may_probe
        if waited and not keeps_place:  # also who was let and did not go: others come first
            self._waiting.remove(pool)
        if decision.asks_probe and not keeps_place:
            self._waiting.append(pool)

    def _see(self, pool: str, policy: Policy, readings: Sequence[Reading], mono_ns: int) -> None:
        use = self._uses.setdefault(pool, _Use())
        use.known_until_ns = mono_ns + round(_OLD_CADENCES * policy.cadence_s * 1e9)
        use.bytes.see(_value(readings, "memory_bytes"))
        use.cores.see(_value(readings, "cpu_cores"))

    def _room_bytes(
        self, policy: Policy, readings: Sequence[Reading], mono_ns: int
    ) -> float | None:
        uses = self._uses.values()
        promised = sum(u.promised_bytes for u in uses)
        rooms: list[float] = []
        if self._budget.memory is not None:
            used = [u.bytes.most if mono_ns <= u.known_until_ns else None for u in uses]
            rooms.append(_left(float(self._budget.memory), used, promised))
        if promised:  # it is not seen in use yet, but it is no room any more
            limit = _value(readings, "memory_limit_bytes")
            host = _value(readings, "host_memory_used_bytes")
            whole = 0.0 if limit is None else policy.guard.memory_ratio * limit
            rooms.append(_left(whole, [host], promised))
        return min(rooms, default=None)

    def _room_cores(self, mono_ns: int) -> float | None:
        if self._budget.cpu is None:
            return None
        uses = self._uses.values()
        used = [u.cores.most if mono_ns <= u.known_until_ns else None for u in uses]
        promised = sum(u.promised_cores for u in uses)
        return _left(self._budget.cpu, used, promised)


def unmeasured(budget: SharedBudget, pools: Sequence[tuple[str, Sequence[Sensor]]]) -> None:
    """PolicyError when a budget is shared by a pool whose use no sensor gives."""
    problems = [
        f"pool {name}: no sensor gives {signal}, which `budget` needs: add a sensor of kind "
        "process_tree"
        for signal, limit in (("memory_bytes", budget.memory), ("cpu_cores", budget.cpu))
        for name, sensors in pools
        if limit is not None and not any(signal in sensor.signals for sensor in sensors)
    ]
    if problems:
        raise PolicyError("\n".join(problems))


def _promise(use: _Use, policy: Policy, tick: Tick, decision: Decision) -> None:
    """A promise lasts until the move has settled; a failed one may have been made in part."""
    if use.moving:
        status = None if tick.actuation is None else tick.actuation.status
        if status is ActuationStatus.REFUSED:
            use.promised_bytes = use.promised_cores = 0.0
        if status is not ActuationStatus.PENDING:  # None: a reload broke it off
            use.moving = False
            settle_s = max(knob.settle_s for knob in policy.knobs)
            use.until_ns = tick.mono_ns + round(settle_s * 1e9)
    elif tick.mono_ns >= use.until_ns:
        use.promised_bytes = use.promised_cores = 0.0
    if decision.moves:
        use.promised_bytes += decision.reserved_bytes  # what an earlier move still may take stays
        use.promised_cores += decision.reserved_cores
        use.moving = True


def _value(readings: Sequence[Reading], signal: str) -> float | None:
    """The first good reading of a signal, as the core takes it."""
    for reading in readings:
        if reading.signal == signal and reading.status is Status.OK:
            return reading.value
    return None


def _left(whole: float, used: Sequence[float | None], promised: float) -> float:
    """What is left of `whole`: nothing when any use is unknown."""
    total = promised
    for value in used:
        if value is None:
            return 0.0
        total += value
    return max(0.0, whole - total)
