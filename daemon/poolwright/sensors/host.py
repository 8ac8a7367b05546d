"""CPU, memory, load and pressure of the host, or of the container or group that bounds the pool.

Use and limit always belong together. Where a control group's quota is tighter than the CPUs, both
`host_cpu_count` and `host_cpu_cores` are that group's; where its memory limit is smaller than RAM,
so are the two memory signals. Without a `cgroup` the root group is asked: on a host it has no
limit, in a container it is the container's. The group of the daemon itself is never asked: its own
small limit is not the pool's.

CPU is counted in /proc/stat (proc_stat(5)): busy is all that is not idle or iowait. Steal counts as
busy: another guest had the CPU, so the pool could not. Guest time is within user time already.
Pressure is the growth of `total=` of the `some` line over the time between two reads
(admin-guide/accounting/psi).
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from poolwright.core.errors import PlantFault
from poolwright.core.model import Reading, Status
from poolwright.core.units import PathText
from poolwright.sensors.cgroup import Cgroup, slurp, why
from poolwright.sensors.pressure import RESOURCES, Stalls


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU seconds since boot over some CPUs; `stolen_s` is a part of `busy_s`."""

    busy_s: float
    idle_s: float
    stolen_s: float


def cpu_times(cpus: frozenset[int] | None = None) -> CpuTimes:
    """Of the CPUs with these numbers, or of all. Raises PlantFault."""
    path = f"{psutil.PROCFS_PATH}/stat"
    try:
        if cpus is None:
            rows = [psutil.cpu_times()]
        else:  # in the order of the numbers; `online` has refused hosts with gaps
            rows = [row for i, row in enumerate(psutil.cpu_times(percpu=True)) if i in cpus]
        busy = sum(r.user + r.nice + r.system + r.irq + r.softirq + r.steal for r in rows)
        idle = sum(r.idle + r.iowait for r in rows)
        stolen = sum(r.steal for r in rows)
    except OSError as error:
        raise PlantFault(f"{path}: {why(error)}") from error
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise PlantFault(f"{path}: not the CPU times of a kernel") from error
    if not (rows and math.isfinite(busy) and math.isfinite(idle)):
        raise PlantFault(f"{path}: not the CPU times of a kernel")
    return CpuTimes(busy, idle, stolen)


def usable_cpus() -> tuple[int, frozenset[int] | None]:
    """How many CPUs this process may use, and which; None for every CPU that is online."""
    logical = psutil.cpu_count() or 1
    allowed = frozenset(os.sched_getaffinity(0))
    if len(allowed) >= logical:
        return logical, None
    # With CPUs offline the rows of psutil cannot be told by number: take the whole host's share.
    return len(allowed), allowed if max(allowed) < logical == os.cpu_count() else None


def busy_share(before: CpuTimes, now: CpuTimes, *, stolen: bool) -> float | None:
    """Share of CPU time that was busy, 0..1, with or without steal; None without a difference.

    A share, not seconds over a clock: it does not shake with the moment of the read.
    """
    busy, idle = now.busy_s - before.busy_s, now.idle_s - before.idle_s
    theft = now.stolen_s - before.stolen_s
    # The kernel lets iowait go back a little now and then (proc_stat(5)); the rest never does.
    if busy < 0.0 or theft < 0.0 or busy + max(0.0, idle) <= 0.0:
        return None
    return max(0.0, busy if stolen else busy - theft) / (busy + max(0.0, idle))


class Host:
    """What bounds every pool of this host. See the module for what the numbers mean."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Whose limits hold."""

        cgroup: PathText | None = field(
            default=None,
            metadata={"doc": "control group of the service, whose limits hold: /system.slice/..."},
        )

    signals = (
        "host_cpu_cores",
        "host_cpu_count",
        "host_memory_used_bytes",
        "memory_limit_bytes",
        "load_average",
        "psi_cpu_ratio",
        "psi_memory_ratio",
        "psi_io_ratio",
    )
    deadline_s: float | None = None
    source = "host"

    def __init__(self, options: Options, _pool: str, *, root: Path = Path("/")) -> None:
        self._named = options.cgroup is not None
        self._cgroup = Cgroup(root, options.cgroup or "/")
        self._proc = root / "proc"
        self._cpu: CpuTimes | None = None
        self._quota: tuple[str, float, int] | None = None  # group, CPU seconds used, at ns
        self._stalls = {resource: Stalls() for resource in RESOURCES}

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Forget what was seen."""
        self._cpu, self._quota = None, None
        self._stalls = {resource: Stalls() for resource in RESOURCES}

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """Each part by itself: a broken file costs only its own signals."""
        parts = (
            (self._read_cpu, ("host_cpu_cores", "host_cpu_count")),
            (self._read_memory, ("host_memory_used_bytes", "memory_limit_bytes")),
            (self._read_load, ("load_average",)),
        )
        readings: list[Reading] = []
        for part, signals in parts:
            try:
                readings += part(now_ns)
            except PlantFault as fault:
                readings += [self._none(s, now_ns, str(fault), Status.ERROR) for s in signals]
        for resource, stalls in self._stalls.items():
            path = self._proc / "pressure" / resource
            readings.append(stalls.reading(f"psi_{resource}_ratio", self.source, path, now_ns))
        return tuple(readings)

    def _read_cpu(self, now_ns: int) -> tuple[Reading, ...]:
        if self._named:
            self._cgroup.require()
        count, numbers = usable_cpus()
        quota = self._cgroup.cpu_quota()
        if quota is not None and quota.cores < count:
            before = self._quota
            self._cpu, self._quota = None, (quota.group, quota.usage_s, now_ns)
            cores = None
            if before is not None and before[0] == quota.group and now_ns > before[2]:
                used = (quota.usage_s - before[1]) / ((now_ns - before[2]) / 1e9)
                cores = used if used >= 0.0 else None
            limit, detail = quota.cores, f"quota of control group {quota.group}"
        else:
            last, self._quota = self._cpu, None
            self._cpu = cpu_times(numbers)
            share = None if last is None else busy_share(last, self._cpu, stolen=True)
            cores = None if share is None else share * count
            limit, detail = float(count), "CPUs"
        none = self._none("host_cpu_cores", now_ns, "no difference yet, or a counter went back")
        used_cores = none if cores is None else self._ok("host_cpu_cores", now_ns, cores, detail)
        return used_cores, self._ok("host_cpu_count", now_ns, limit, detail)

    def _read_memory(self, now_ns: int) -> tuple[Reading, ...]:
        path = f"{psutil.PROCFS_PATH}/meminfo"
        if self._named:
            self._cgroup.require()
        try:
            memory = psutil.virtual_memory()
        except OSError as error:
            raise PlantFault(f"{path}: {why(error)}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise PlantFault(f"{path}: not the memory of a kernel") from error
        used, total, detail = memory.total - memory.available, memory.total, "RAM"
        limit = self._cgroup.memory_limit()
        if limit is not None and limit.limit_bytes < total:
            used, total = limit.used_bytes, limit.limit_bytes
            detail = f"limit of control group {limit.group}"
        if total <= 0:
            raise PlantFault(f"{path}: no memory at all ({detail})")
        return (
            self._ok("host_memory_used_bytes", now_ns, float(used), detail),
            self._ok("memory_limit_bytes", now_ns, float(total), detail),
        )

    def _read_load(self, now_ns: int) -> tuple[Reading, ...]:
        path = self._proc / "loadavg"
        try:
            load = float(slurp(str(path)).split()[0])
        except OSError as error:
            raise PlantFault(f"{path}: {why(error)}") from error
        except (ValueError, IndexError) as error:
            raise PlantFault(f"{path}: not a load average") from error
        if not 0.0 <= load < 1e9:
            raise PlantFault(f"{path}: {load} is not a load average")
        return (self._ok("load_average", now_ns, load),)

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
