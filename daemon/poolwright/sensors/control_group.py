"""What a control group uses, and what holds it back: version 1, 2 or both side by side.

    - {kind: cgroup, path: /system.slice/system-worker.slice}   # of the instances worker@N
    - {kind: host}

- CPU used, and the share of the quota's periods in which the quota was used up (`throttled_ratio`;
  of several quotas on the way to the root the worst). A pool at 60 % of its quota on average may be
  held back in every second period; more workers would wait longer.
- Memory as the kernel counts it for the limit: the working set, which is usage less inactive file
  cache. And the smallest limit on the way to the root with what is used of it. Without any the
  sensor says nothing of both, and `host` gives RAM.
- Stalls of the group's own tasks (version 2 only). Of two sensors that give the same signal the
  one that is listed first counts: list this one before `host`.
- How many processes the kernel has killed for memory, in the group and below.

Each part by itself: a broken file costs only its own signals. The files are the kernel's and never
wait.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.core.model import Reading, Status
from poolwright.core.units import PathText
from poolwright.sensors.cgroup import Cgroup
from poolwright.sensors.pressure import RESOURCES, Stalls

_FIRST = "first look: no difference yet"

Told = tuple[Reading, ...]


class ControlGroup:
    """One group. See the module for what the numbers mean."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which group."""

        path: PathText = field(
            metadata={"doc": "control group as in /proc/PID/cgroup: /system.slice/web.service"}
        )

    signals = (
        "cpu_cores",
        "throttled_ratio",
        "memory_bytes",
        "host_memory_used_bytes",
        "memory_limit_bytes",
        "oom_kills",
        *(f"psi_{resource}_ratio" for resource in RESOURCES),
    )
    deadline_s: float | None = None

    def __init__(self, options: Options, _pool: str, *, root: Path = Path("/")) -> None:
        self._group = Cgroup(root, options.path)
        self.source = f"cgroup {self._group.name}"
        self._forget()

    def _forget(self) -> None:
        self._used: tuple[int, float] | None = None  # at ns, CPU seconds
        self._periods: dict[str, tuple[int, int]] | None = None
        self._kills: dict[str, int] | None = None
        self._stalls = {resource: Stalls() for resource in RESOURCES}

    async def start(self) -> None:
        """Nothing to open: the service may start after us."""

    async def close(self) -> None:
        """Forget what was seen."""
        self._forget()

    async def read(self, now_ns: int) -> Told:
        """What was used since the last read, and what is used now."""
        parts: tuple[tuple[Callable[[int], Told], tuple[str, ...]], ...] = (
            (self._cpu, ("cpu_cores",)),
            (self._throttled, ("throttled_ratio",)),
            (self._memory, ("memory_bytes",)),
            (self._limit, ("host_memory_used_bytes", "memory_limit_bytes")),
            (self._oom, ("oom_kills",)),
        )
        readings: list[Reading] = []
        for part, signals in parts:
            try:
                readings += part(now_ns)
            except PlantFault as fault:
                readings += [self._none(s, now_ns, str(fault), Status.ERROR) for s in signals]
        return (*readings, *(self._pressure(resource, now_ns) for resource in RESOURCES))

    def _cpu(self, now_ns: int) -> Told:
        last, self._used = self._used, None
        used_s = self._group.cpu_usage_s()
        self._used = now_ns, used_s
        if last is None or now_ns <= last[0]:
            return (self._none("cpu_cores", now_ns, _FIRST),)
        if used_s < last[1]:
            return (self._none("cpu_cores", now_ns, "counter went back: group made anew"),)
        return (self._ok("cpu_cores", now_ns, (used_s - last[1]) / ((now_ns - last[0]) / 1e9)),)

    def _throttled(self, now_ns: int) -> Told:
        none = partial(self._none, "throttled_ratio", now_ns)
        last, self._periods = self._periods, None
        self._group.require()
        now = self._periods = self._group.throttling()
        if not now:
            return (none("no CPU quota from the group to the root"),)
        if last is None or last.keys() != now.keys():
            return (none(_FIRST),)
        shares = {}
        for group, (periods, held) in now.items():
            more, more_held = periods - last[group][0], held - last[group][1]
            if more < 0 or more_held < 0:
                return (none("counter went back: group made anew"),)
            shares[group] = min(1.0, more_held / more) if more else 0.0  # nothing ran
        worst = max(shares, key=lambda group: shares[group])
        detail = f"quota of control group {worst}"
        return (self._ok("throttled_ratio", now_ns, shares[worst], detail),)

    def _memory(self, now_ns: int) -> Told:
        return (self._ok("memory_bytes", now_ns, float(self._group.working_set())),)

    def _limit(self, now_ns: int) -> Told:
        self._group.require()
        found = self._group.memory_limit()
        if found is None:
            detail = "no memory limit from the group to the root: `host` tells of RAM"
            names = ("host_memory_used_bytes", "memory_limit_bytes")
            return tuple(self._none(name, now_ns, detail) for name in names)
        detail = f"limit of control group {found.group}"
        return (
            self._ok("host_memory_used_bytes", now_ns, float(found.used_bytes), detail),
            self._ok("memory_limit_bytes", now_ns, float(found.limit_bytes), detail),
        )

    def _oom(self, now_ns: int) -> Told:
        last, self._kills = self._kills, None
        now = self._kills = self._group.oom_kills()
        if last is None:
            return (self._none("oom_kills", now_ns, _FIRST),)
        # A group that is new, or was made anew, counts from zero; one that is gone tells no more.
        before = {group: min(last.get(group, 0), n) for group, n in now.items()}
        made_anew = [group for group, n in now.items() if n < last.get(group, 0)]
        grown = sum(n - before[group] for group, n in now.items())
        grown += sum(now[group] for group in made_anew)
        return (self._ok("oom_kills", now_ns, float(grown)),)

    def _pressure(self, resource: str, now_ns: int) -> Reading:
        signal, path = f"psi_{resource}_ratio", self._group.pressure(resource)
        if path is None:
            detail = f"the kernel tells no {resource} pressure of {self._group.name}"
            return self._none(signal, now_ns, f"{detail} (version 1, or without PSI)")
        return self._stalls[resource].reading(signal, self.source, path, now_ns)

    def _ok(self, signal: str, now_ns: int, value: float, detail: str = "") -> Reading:
        return Reading(
            signal=signal, source=self.source, value=value, taken_mono_ns=now_ns, detail=detail
        )

    def _none(
        self, signal: str, now_ns: int, detail: str, status: Status = Status.NO_DATA
    ) -> Reading:
        return Reading(
            signal=signal, source=self.source, status=status, taken_mono_ns=now_ns, detail=detail
        )
