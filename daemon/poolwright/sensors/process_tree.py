"""CPU, memory and worker count of a master and its descendants, or of a control group.

**CPU that is neither lost nor counted twice.** /proc/PID/stat tells of each process the CPU it used
itself (utime + stime) and that of the children it has waited for (cutime + cstime). When a worker
is reaped, its whole life moves from its own row into its parent's second number. So of each living
process the growth of both numbers is counted, and what a vanished process had already been counted
for is taken off the growth of its nearest living ancestor's second number: left over is what it
used between our last look and its death. A parent is read before its children, so no life is seen
in both places at once. A child that is reaped between the two reads is in neither place; what was
to be taken off is then kept as a debt for one more read. A parent that ignores SIGCHLD never gets
its children's CPU (wait(2)): then the last fraction of a tick is lost. (pid, starttime) tells a
recycled pid. Resolution: 1 / SC_CLK_TCK, 10 ms, a row.

**Memory.** PSS counts a page that n processes share as 1/n in each; a sum of RSS counts it n times.
The kernel walks page tables for PSS, so it is read every `pss_every`, or when the number of
processes has changed, and scales RSS in between.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.units import PathText, Seconds
from poolwright.sensors.cgroup import Cgroup, slurp, why

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_DEAD = (b"Z", b"X")
_CHURN = 5  # a changing number of processes makes PSS be read so many times as often, not more


class Process(NamedTuple):
    """One row of /proc/PID/stat. `own` and `reaped` are in clock ticks, `rss` in pages."""

    pid: int
    ppid: int
    state: bytes
    start: int
    own: int
    reaped: int
    threads: int
    rss: int


def read_pidfile(path: str) -> int:
    """The process id on the first line of `path`. Raises PlantFault naming the path."""
    try:
        text = slurp(path)[:64]
    except OSError as error:
        raise PlantFault(f"{path}: {why(error)}") from error
    word = text.split(b"\n", 1)[0].strip()
    if not (word.isdigit() and 0 < int(word) < 1 << 31):
        raise PlantFault(f"{path}: holds no process id but {text[:20]!r}")
    return int(word)


def read_process(proc: str, pid: int) -> Process | None:
    """The row of one process, None when it does not exist. Raises PlantFault."""
    path = f"{proc}/{pid}/stat"
    try:
        text = slurp(path)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise PlantFault(f"{path}: {why(error)}") from error
    # The name stands in brackets and may hold anything, so count from its end: proc_pid_stat(5).
    w = text[text.rfind(b")") + 1 :].split(None, 22)
    try:
        ticks = int(w[11]) + int(w[12]), int(w[13]) + int(w[14])
        return Process(pid, int(w[1]), w[0], int(w[19]), *ticks, int(w[17]), int(w[21]))
    except (ValueError, IndexError) as error:
        raise PlantFault(f"{path}: not the row of a process: {text[:40]!r}") from error


def read_tree(proc: str, master: int) -> dict[int, Process]:
    """The master and all its descendants, parents first. Raises PlantFault without a master."""
    top = read_process(proc, master)
    if top is None or top.state in _DEAD:
        raise PlantFault(f"process {master} is not running")
    tree = {master: top}
    queue = [top]
    for process in queue:  # grows while we go: breadth first
        for pid in _children(proc, process, required=process is top):
            child = None if pid in tree else read_process(proc, pid)
            if child is not None:
                tree[pid] = child
                queue.append(child)
    return tree


def _children(proc: str, process: Process, *, required: bool) -> list[int]:
    """Children of every thread of a process; a thread or process that ended has none."""
    pid = process.pid
    found: list[int] = []
    try:
        tasks = (
            [str(pid)]
            if process.threads == 1
            else [entry.name for entry in os.scandir(f"{proc}/{pid}/task")]
        )
    except FileNotFoundError:
        return found  # it has ended
    for task in tasks:
        path = f"{proc}/{pid}/task/{task}/children"
        try:
            found.extend(map(int, slurp(path).split()))
        except (FileNotFoundError, ProcessLookupError) as error:
            if required and task == str(pid):
                raise PlantFault(
                    f"{path}: not there: process {pid} has ended, or the kernel was built without "
                    "CONFIG_PROC_CHILDREN (then name a cgroup)"
                ) from error
        except OSError as error:
            raise PlantFault(f"{path}: {why(error)}") from error
        except ValueError as error:
            raise PlantFault(f"{path}: not a list of process ids") from error
    return found


class CpuMeter:
    """Growth of the CPU of a tree from one look to the next, in clock ticks. Pure."""

    def __init__(self) -> None:
        self.before: dict[int, Process] = {}
        self._debts: dict[int, int] = {}  # pid of a living ancestor -> ticks

    def forget(self, pid: int) -> None:
        """A process left the tree alive: nobody in the tree will inherit its CPU."""
        self.before.pop(pid, None)

    def advance(self, now: dict[int, Process]) -> int:
        """Ticks used since the last look; the first look gives all that it sees."""
        before, spent = self.before, 0
        kept = {p.pid for p in now.values() if p.pid in before and before[p.pid].start == p.start}
        gone = {pid: ticks for pid, ticks in self._debts.items() if pid in kept}
        fresh: dict[int, int] = {}
        for old in before.values():
            if old.pid in kept:
                continue
            heir = old.ppid
            for _ in before:  # bounded: rows read while pids are recycled may form a ring
                if heir in kept or heir not in before:
                    break
                heir = before[heir].ppid
            fresh[heir] = fresh.get(heir, 0) + old.own + old.reaped
        self._debts = {}
        for process in now.values():
            pid, own, reaped = process.pid, process.own, process.reaped
            if pid in kept:
                own, reaped = own - before[pid].own, reaped - before[pid].reaped
                new = fresh.get(pid, 0)
                left = reaped - gone.get(pid, 0) - new
                if left < 0:  # an old debt that was not paid by now is dropped
                    self._debts[pid] = min(new, -left)
                reaped = left
            spent += max(0, own) + max(0, reaped)
        self.before = now
        return spent


class Memory:
    """PSS of some processes, read rarely and carried on by RSS."""

    def __init__(self, proc: str, every_s: float) -> None:
        self._proc = proc
        self._every_ns = round(every_s * 1e9)
        self._taken_ns: int | None = None
        self._count = 0
        self._ratio = 1.0
        self.detail = ""

    def measure(self, processes: dict[int, Process], now_ns: int) -> float:
        """Bytes; `detail` says of which kind."""
        rss = {p.pid: p.rss * _PAGE_BYTES for p in processes.values() if p.rss > 0}
        total = sum(rss.values())
        age_ns = self._every_ns if self._taken_ns is None else now_ns - self._taken_ns
        changed = len(rss) != self._count and age_ns * _CHURN >= self._every_ns
        if total and (age_ns >= self._every_ns or changed):
            self._taken_ns, self._count = now_ns, len(rss)
            readable, pss = 0, 0
            for pid, size in rss.items():
                own = self._pss(pid)
                readable += own is not None
                pss += size if own is None else own
            self._ratio = pss / total
            self.detail = f"PSS, of {readable} of {len(rss)} processes, carried on by RSS"
            if not readable:
                self.detail = "RSS: shared memory counted in every process (PSS needs the same"
                self.detail += " user or CAP_SYS_PTRACE)"
            elif readable == len(rss):
                self.detail = "PSS, carried on by RSS"
        return total * self._ratio

    def _pss(self, pid: int) -> int | None:
        """Bytes; None when it may not be read, the kernel has none (< 4.14), or it has ended."""
        try:
            text = slurp(f"{self._proc}/{pid}/smaps_rollup")
        except OSError:
            return None  # the process is then counted by its RSS, and `detail` says so
        for line in text.splitlines():
            words = line.split()
            if len(words) == 3 and words[0] == b"Pss:" and words[1].isdigit():
                return int(words[1]) * 1024
        return None


class ProcessTree:
    """What the pool's processes use. Signals: cpu_cores, memory_bytes, worker_count."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where the processes are; exactly one of pidfile and cgroup (else PolicyError)."""

        pidfile: PathText | None = field(
            default=None, metadata={"doc": "file with the master's process id"}
        )
        cgroup: PathText | None = field(
            default=None, metadata={"doc": "control group, such as /system.slice/web.service"}
        )
        pss_every: Seconds = field(
            default=30.0, metadata={"doc": "how often PSS is read; RSS carries it on in between"}
        )

        def __post_init__(self) -> None:
            """Refuse both and neither."""
            if (self.pidfile is None) == (self.cgroup is None):
                raise PolicyError("process_tree needs either a pidfile or a cgroup")

    signals = ("cpu_cores", "memory_bytes", "worker_count")
    deadline_s: float | None = None

    def __init__(self, options: Options, _pool: str, *, root: Path = Path("/")) -> None:
        self._pidfile = options.pidfile
        self._cgroup = None if options.cgroup is None else Cgroup(root, options.cgroup)
        self._proc = str(root / "proc")
        self._every_s = options.pss_every
        self.source = f"process_tree {options.pidfile or options.cgroup}"
        self._last_ns: int | None = None
        self._last_s = 0.0
        self._reset(None)

    async def start(self) -> None:
        """Nothing to open: the service may start after us."""

    async def close(self) -> None:
        """Forget what was seen."""
        self._reset(None)

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """CPU since the last read, memory and workers now; error readings, never an exception."""
        try:
            if self._cgroup is not None:
                return self._read_cgroup(self._cgroup, now_ns)
            assert self._pidfile is not None
            return self._read_tree(self._pidfile, now_ns)
        except PlantFault as fault:
            self._reset(None)
            return tuple(
                self._reading(name, now_ns, None, str(fault), Status.ERROR) for name in self.signals
            )

    def _read_tree(self, pidfile: str, now_ns: int) -> tuple[Reading, ...]:
        master = read_pidfile(pidfile)
        try:
            tree = read_tree(self._proc, master)
        except PlantFault as fault:
            raise PlantFault(f"{pidfile}: {fault}") from fault
        if self._master != (master, tree[master].start):
            self._reset((master, tree[master].start))
        for pid in [pid for pid in self._meter.before if pid not in tree]:
            # The list of children may skip one while another ends (proc_pid_children(5)).
            process = read_process(self._proc, pid)
            if process is not None and process.start == self._meter.before[pid].start:
                if process.ppid in tree:
                    tree[pid] = process
                else:
                    self._meter.forget(pid)
        used_s = self._meter.advance(tree) / _TICKS_PER_S
        workers = sum(p.ppid == master and p.state not in _DEAD for p in tree.values())
        return (
            self._cpu(used_s, now_ns, grown=True),
            self._memory_reading(tree, now_ns),
            self._reading("worker_count", now_ns, float(workers)),
        )

    def _read_cgroup(self, group: Cgroup, now_ns: int) -> tuple[Reading, ...]:
        usage_s = group.cpu_usage_s()
        rows = (read_process(self._proc, pid) for pid in group.pids())
        found = {row.pid: row for row in rows if row is not None and row.state not in _DEAD}
        if not found:
            raise PlantFault(f"control group {group.name}: no process in it")
        masters = [p.pid for p in found.values() if p.ppid not in found]
        if len(masters) == 1:
            count = float(sum(p.ppid == masters[0] for p in found.values()))
            workers = self._reading("worker_count", now_ns, count)
        else:
            detail = f"{len(masters)} processes without a parent in {group.name}: no one master"
            workers = self._reading("worker_count", now_ns, None, detail)
        return (
            self._cpu(usage_s, now_ns, grown=False),
            self._memory_reading(found, now_ns),
            workers,
        )

    def _cpu(self, used_s: float, now_ns: int, *, grown: bool) -> Reading:
        """`used_s` is the growth since the last read, or a counter."""
        last_ns, last_s = self._last_ns, 0.0 if grown else self._last_s
        self._last_ns, self._last_s = now_ns, used_s
        if last_ns is None or now_ns <= last_ns:
            return self._reading("cpu_cores", now_ns, None, "first look: no difference yet")
        if used_s < last_s:
            return self._reading("cpu_cores", now_ns, None, "counter went back: group made anew")
        return self._reading("cpu_cores", now_ns, (used_s - last_s) / ((now_ns - last_ns) / 1e9))

    def _memory_reading(self, processes: dict[int, Process], now_ns: int) -> Reading:
        size = self._memory.measure(processes, now_ns)
        if size <= 0.0:  # processes that are just ending show none: that is not an empty pool
            return self._reading("memory_bytes", now_ns, None, "no process shows its memory")
        return self._reading("memory_bytes", now_ns, size, self._memory.detail)

    def _reading(
        self,
        signal: str,
        now_ns: int,
        value: float | None,
        detail: str = "",
        status: Status = Status.NO_DATA,
    ) -> Reading:
        return Reading(
            signal=signal,
            source=self.source,
            value=value,
            status=status if value is None else Status.OK,
            taken_mono_ns=now_ns,
            detail=detail,
        )

    def _reset(self, master: tuple[int, int] | None) -> None:
        """Begin anew with a master, known by (pid, start); None: with nothing known."""
        self._master = master
        self._meter = CpuMeter()
        self._memory = Memory(self._proc, self._every_s)
        self._last_ns = None
        self._last_s = 0.0
