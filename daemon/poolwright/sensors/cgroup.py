"""Limits and usage of one control group, version 1, 2 or both side by side.

A group is named as in /proc/PID/cgroup (`/system.slice/web.service`); a path below /sys/fs/cgroup
is taken as well. Kernel documentation: admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from poolwright.core.errors import PlantFault

_MOUNT = "sys/fs/cgroup"
_MOST_GROUPS = 1_000  # in one tree that is walked every tick
_DIGITS = 20  # of a 64-bit number with its sign
_V1 = ("memory", "cpu", "cpuacct", "cpuset", "pids", "systemd", "blkio", "devices", "freezer")


def slurp(path: str) -> bytes:
    """A small kernel file whole. Raises OSError. A third of the cost of Path.read_bytes.

    Files of /proc come in pages, so one read may not be all. O_NONBLOCK: a FIFO put in place of a
    file must not hang the daemon.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        text = os.read(descriptor, 65536)
        while more := os.read(descriptor, 65536) if text else b"":
            text += more
    finally:
        os.close(descriptor)
    return text


def why(error: OSError) -> str:
    """For people: `No such file or directory`, without the number and the path."""
    return error.strerror or type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuQuota:
    """The tightest CPU quota on the way to the root: of `group`, which has used `usage_s`."""

    cores: float
    usage_s: float
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """The smallest memory limit on the way to the root, and the working set of that group."""

    limit_bytes: int
    used_bytes: int
    group: str


class Cgroup:
    """One group under `root` (the file system's root; another one in tests)."""

    def __init__(self, root: Path, path: str) -> None:
        self._mount = root / _MOUNT
        self._unified = (self._mount / "cgroup.controllers").exists()
        parts = Path(path).parts
        mount = Path("/", _MOUNT).parts
        parts = parts[len(mount) :] if parts[: len(mount)] == mount else parts
        parts = tuple(part for part in parts if part != "/")
        if not self._unified and parts and parts[0] in (*_V1, "cpu,cpuacct", "unified"):
            parts = parts[1:]
        self.name = "/" + "/".join(parts)

    def require(self) -> None:
        """Raises PlantFault, naming the group, when it is in no hierarchy."""
        self._directory(*_V1)

    def cpu_usage_s(self) -> float:
        """CPU seconds used since the group was made. Raises PlantFault."""
        return _usage_s(self._directory("cpuacct", "cpu"))

    def cpu_quota(self) -> CpuQuota | None:
        """The smallest quota / period from the group to the root; None without any.

        Raises PlantFault when a file that is there cannot be understood.
        """
        found: CpuQuota | None = None
        for directory in self._upward("cpu"):
            cores = _quota(directory)
            if cores is not None and (found is None or cores < found.cores):
                name = self._name(directory)
                usage = self._usage_of(name)
                found = CpuQuota(cores=cores, usage_s=usage, group=name)
        return found

    def memory_limit(self) -> MemoryLimit | None:
        """The smallest limit from the group to the root; None when no level has one.

        Used is usage less inactive file cache, which the kernel gives back before it kills: the
        working set as the kubelet counts it. Raises PlantFault on files that make no sense.
        """
        best: tuple[int, Path] | None = None
        for directory in self._upward("memory"):
            for file in ("memory.max", "memory.limit_in_bytes"):
                limit = _bound(directory / file)
                if limit is not None and (best is None or limit < best[0]):
                    best = limit, directory
        if best is None:
            return None
        limit, directory = best
        name = self._name(directory)
        return MemoryLimit(limit_bytes=limit, used_bytes=_working_set(directory), group=name)

    def working_set(self) -> int:
        """Memory of the group and those below it, in bytes, less what the kernel would give back.

        Raises PlantFault, also where no memory controller knows the group.
        """
        return _working_set(self._directory("memory"))

    def throttling(self) -> dict[str, tuple[int, int]]:
        """Of each group with a CPU quota, from this one to the root: how many periods it had
        something to run, and in how many of them the quota was used up. Raises PlantFault.
        """
        found = {}
        for directory in self._upward("cpu"):
            if _quota(directory) is not None:
                path = directory / "cpu.stat"
                counts = _stat_field(path, b"nr_periods"), _stat_field(path, b"nr_throttled")
                found[self._name(directory)] = counts
        return found

    def oom_kills(self) -> dict[str, int]:
        """How many processes were killed for memory, by group; version 2 adds up what is below.

        Version 1 counts each group alone, so all below are looked at. Raises PlantFault.
        """
        top = self._directory("memory")
        if (path := top / "memory.events").exists():
            return {self.name: _stat_field(path, b"oom_kill")}
        found: dict[str, int] = {}
        for directory, _, _ in os.walk(top):
            if len(found) >= _MOST_GROUPS:
                raise PlantFault(
                    f"control group {self.name}: more than {_MOST_GROUPS} groups in it"
                )
            try:
                found[directory] = _stat_field(Path(directory, "memory.oom_control"), b"oom_kill")
            except PlantFault:
                if Path(directory).exists():  # else removed while we walked
                    raise
        return found

    def pressure(self, resource: str) -> Path | None:
        """The file that tells the group's stalls; None where the kernel keeps none of a group."""
        base = self._mount if self._unified else self._mount / "unified"
        path = base / self.name[1:] / f"{resource}.pressure"
        return path if path.exists() else None

    def pids(self) -> tuple[int, ...]:
        """The processes of the group and of the groups below it. Raises PlantFault."""
        found: list[int] = []
        top = self._directory("systemd", "pids", "memory", "cpu", "cpuacct")
        for directory, _, _ in os.walk(top):
            path = f"{directory}/cgroup.procs"
            try:
                found.extend(int(word) for word in slurp(path).split())
            except FileNotFoundError:
                if directory == str(top):
                    raise PlantFault(f"{path}: No such file or directory") from None
                continue  # a group below, removed while we walked
            except OSError as error:
                raise PlantFault(f"{path}: {why(error)}") from error
            except ValueError as error:
                raise PlantFault(f"{path}: not a list of process ids") from error
        return tuple(found)

    def _usage_of(self, name: str) -> float:
        for base in self._bases("cpuacct", "cpu"):
            if (base / name[1:]).is_dir():
                return _usage_s(base / name[1:])
        raise PlantFault(f"control group {name}: its CPU usage is nowhere under {self._mount}")

    def _bases(self, *controllers: str) -> Iterator[Path]:
        """Roots of the hierarchies that may know one of the controllers, likeliest first."""
        if self._unified:
            yield self._mount
            return
        yield from (self._mount / controller for controller in controllers)
        yield self._mount / "unified"

    def _directory(self, *controllers: str) -> Path:
        for base in self._bases(*controllers):
            if (base / self.name[1:]).is_dir():
                return base / self.name[1:]
        raise PlantFault(f"control group {self.name}: not found under {self._mount}")

    def _upward(self, controller: str) -> Iterator[Path]:
        """The group's directory and those above it, in the hierarchy that has the controller."""
        for base in self._bases(controller):
            directory = base / self.name[1:]
            if directory.is_dir():
                yield directory
                while directory != base:
                    directory = directory.parent
                    yield directory
                return

    def _name(self, directory: Path) -> str:
        base = next(b for b in self._bases("cpu", "memory") if directory.is_relative_to(b))
        return "/" + "/".join(directory.relative_to(base).parts)


def _text(path: Path) -> str | None:
    """The stripped text of a file; None when the file is not there. Raises PlantFault."""
    try:
        return slurp(str(path)).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlantFault(f"{path}: {why(error)}") from error


def _integer(path: Path, text: str) -> int:
    if len(text) > _DIGITS or not text.removeprefix("-").isdigit():
        raise PlantFault(f"{path}: not a number: {text[:40]!r}")
    return int(text)


def _number(path: Path) -> int:
    """The whole number that the file holds. Raises PlantFault, also when it is missing."""
    text = _text(path)
    if text is None:
        raise PlantFault(f"{path}: No such file or directory")
    return _integer(path, text)


def _bound(path: Path) -> int | None:
    """A limit; None when there is no such file (the root has none) or no limit."""
    text = _text(path)
    if text is None or text == "max":
        return None
    number = _integer(path, text)
    return number if number >= 0 else None


def _quota(directory: Path) -> float | None:
    """CPU quota of one level in cores, None for no limit. Raises PlantFault."""
    path = directory / "cpu.max"
    text = _text(path)
    if text is None:
        quota = _bound(directory / "cpu.cfs_quota_us")
        if quota is None:
            return None
        path = directory / "cpu.cfs_period_us"
        period = _number(path)
    else:
        words = text.split()
        if len(words) != 2:
            raise PlantFault(f"{path}: not a quota and a period: {text[:40]!r}")
        if words[0] == "max":
            return None
        quota, period = _integer(path, words[0]), _integer(path, words[1])
    if period <= 0 or quota <= 0:
        raise PlantFault(f"{path}: quota {quota} of period {period} makes no sense")
    return quota / period


def _working_set(directory: Path) -> int:
    if (directory / "memory.usage_in_bytes").exists():
        used, field = _number(directory / "memory.usage_in_bytes"), b"total_inactive_file"
    else:
        used, field = _number(directory / "memory.current"), b"inactive_file"
    return max(0, used - _stat_field(directory / "memory.stat", field))


def _usage_s(directory: Path) -> float:
    path = directory / "cpuacct.usage"
    if (text := _text(path)) is not None:
        return _integer(path, text) / 1e9
    return _stat_field(directory / "cpu.stat", b"usage_usec") / 1e6


def _stat_field(path: Path, field: bytes) -> int:
    """One counter of a flat keyed file. Raises PlantFault when it is not there."""
    try:
        for line in slurp(str(path)).splitlines():
            words = line.split()
            if len(words) == 2 and words[0] == field:
                return _integer(path, words[1].decode("ascii", "replace"))
    except OSError as error:
        raise PlantFault(f"{path}: {why(error)}") from error
    raise PlantFault(f"{path}: has no {field.decode()}")
