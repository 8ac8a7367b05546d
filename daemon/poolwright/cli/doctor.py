"""`poolwright doctor`: what this host can measure and move, and how to allow the rest.

It only reads. Exit status: 0, also when something is missing; the report is the answer.
"""

import argparse
import json
import os
import platform
import resource
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from poolwright.cli.doctor_power import power_seen
from poolwright.policy.quantities import render

_CAP_KILL = 5  # capability numbers: include/uapi/linux/capability.h
_CAP_SYS_PTRACE = 19
_NETLINK_SOCK_DIAG = 4  # include/uapi/linux/netlink.h
_WANTED_RMEM = 1 << 20  # bytes: some thousand statsd datagrams between two ticks
_NO_LIMIT = 1 << 62  # cgroup v1 says "none" with a number near 2^63


class State(StrEnum):
    """How well something works."""

    OK = "ok"
    LIMITED = "limited"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at: what was seen, and how to have more of it."""

    topic: str
    state: State
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where to look; a test hands in folders of its own."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    environ: Mapping[str, str]


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "doctor", help="show what this host can measure and move", description=__doc__
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Print the findings."""
    found = list(examine(Host(environ=os.environ)))
    if args.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        _print_table(found)
    return 0


def examine(host: Host) -> Iterator[Finding]:
    """Everything that can be told of a host."""
    yield from _cgroup(host)
    yield _pressure(host)
    yield from _power(host)
    yield _sock_diag()
    yield from _capabilities(host)
    yield from _gunicorns(host)
    yield _clock(host)
    yield _receive_buffer(host)
    yield _notify(host)
    yield _versions()


def _read(path: Path) -> str | None:
    """The text of a small file, None when it is not there or may not be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _cgroup(host: Host) -> Iterator[Finding]:
    lines = (_read(host.proc / "self/cgroup") or "").splitlines()
    groups = {controller: path for _, names, path in _split(lines) for controller in names}
    root = host.sys / "fs/cgroup"
    unified = groups.get("", "/").lstrip("/")
    if (root / "cgroup.controllers").exists():
        yield Finding(topic="cgroup", state=State.OK, seen=f"version 2, /{unified}")
        memory, cpu = _v2_limits(root, unified)
    elif "memory" in groups or "cpu" in groups:
        yield Finding(topic="cgroup", state=State.OK, seen="version 1")
        memory, cpu = _v1_limits(root, groups)
    else:
        advice = "limits are those of the host; in a container, mount /sys/fs/cgroup"
        yield Finding(topic="cgroup", state=State.ABSENT, seen="none found", advice=advice)
        memory, cpu = None, None
    seen = f"memory {render('bytes', memory) if memory else 'unlimited'}, "
    seen += f"CPU {cpu:g} cores" if cpu else "CPU unlimited"
    yield Finding(topic="limits of this process", state=State.OK, seen=seen)


def _split(lines: list[str]) -> Iterator[tuple[str, list[str], str]]:
    for line in lines:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        yield number, names.split(","), path


def _v2_limits(root: Path, group: str) -> tuple[int | None, float | None]:
    """The tightest memory.max (bytes) and cpu.max (cores) from the group up to the root."""
    memory: list[int] = []
    cpu: list[float] = []
    folder = root / group
    for at in (folder, *folder.parents):
        if not at.is_relative_to(root):
            break
        limit = _read(at / "memory.max") or "max"
        quota, _, period = (_read(at / "cpu.max") or "max").partition(" ")
        memory += [int(limit)] if limit.isdigit() else []
        cpu += [int(quota) / int(period)] if quota.isdigit() and period.isdigit() else []
    return min(memory, default=None), min(cpu, default=None)


def _v1_limits(root: Path, groups: Mapping[str, str]) -> tuple[int | None, float | None]:
    memory_at = root / "memory" / groups.get("memory", "/").lstrip("/")
    cpu_at = root / "cpu" / groups.get("cpu", "/").lstrip("/")
    limit = _read(memory_at / "memory.limit_in_bytes") or ""
    quota = _read(cpu_at / "cpu.cfs_quota_us") or ""
    period = _read(cpu_at / "cpu.cfs_period_us") or ""
    memory = int(limit) if limit.isdigit() and int(limit) < _NO_LIMIT else None
    cpu = int(quota) / int(period) if quota.isdigit() and period.isdigit() else None
    return memory, cpu


def _pressure(host: Host) -> Finding:
    readable = [n for n in ("cpu", "memory", "io") if _read(host.proc / "pressure" / n)]
    if len(readable) == 3:
        return Finding(topic="pressure (PSI)", state=State.OK, seen="cpu, memory and io")
    return Finding(
        topic="pressure (PSI)",
        state=State.LIMITED if readable else State.ABSENT,
        seen=", ".join(readable) or "not readable",
        advice="boot with psi=1 on a kernel with CONFIG_PSI=y",
    )


def _power(host: Host) -> Iterator[Finding]:
    for topic, state, seen, advice in power_seen(host.sys.parent):
        yield Finding(topic=topic, state=State(state), seen=seen, advice=advice)


def _sock_diag() -> Finding:
    topic = "accept queues (sock_diag)"
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG).close()
    except OSError as error:
        advice = (
            "allow AF_NETLINK in the unit (RestrictAddressFamilies=); else /proc/net/tcp is read"
        )
        return Finding(topic=topic, state=State.LIMITED, seen=str(error), advice=advice)
    return Finding(topic=topic, state=State.OK, seen="netlink socket opens")


def _capabilities(host: Host) -> Iterator[Finding]:
    status = _read(host.proc / "self/status") or ""
    hexes = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    effective = int(hexes[0], 16) if hexes else 0
    for number, name, purpose in (
        (_CAP_KILL, "CAP_KILL", "signal a service of another user (growing and shrinking)"),
        (_CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "read PSS of another user's workers (else RSS)"),
    ):
        if effective >> number & 1:
            yield Finding(topic=name, state=State.OK, seen=f"held: may {purpose}")
            continue
        advice = f"AmbientCapabilities={name} in the unit, or run as the user of the service"
        yield Finding(
            topic=name, state=State.LIMITED, seen=f"not held: cannot {purpose}", advice=advice
        )


def _gunicorns(host: Host) -> Iterator[Finding]:
    masters = list(_gunicorn_masters(host.proc))
    for pid, words in masters:
        yield _gunicorn(pid, words)
    if not masters:
        yield Finding(
            topic="gunicorn",
            state=State.ABSENT,
            seen="no master process seen",
            advice="gunicorn --pid FILE --statsd-host 127.0.0.1:8125 MODULE:APP",
        )


def _gunicorn_masters(proc: Path) -> Iterator[tuple[int, list[str]]]:
    """(pid, command line) of the gunicorn processes whose parent is not one."""
    found: dict[int, tuple[int, list[str]]] = {}
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        words = [w for w in (_read(folder / "cmdline") or "").split("\0") if w]
        stat = (_read(folder / "stat") or "").rpartition(")")[2].split()
        if len(stat) > 1 and any(_is_gunicorn(word) for word in words[:3]):
            found[int(folder.name)] = int(stat[1]), words
    for pid, (parent, words) in sorted(found.items()):
        if parent not in found:
            yield pid, words


def _is_gunicorn(word: str) -> bool:
    """`/usr/bin/gunicorn`, `-m gunicorn`, or the title that setproctitle gives."""
    return Path(word).name == "gunicorn" or word.startswith("gunicorn: ")


def _gunicorn(pid: int, words: list[str]) -> Finding:
    pidfile = _option(words, "-p", "--pid")
    control = _option(words, "", "--control-socket")
    statsd = _option(words, "", "--statsd-host")
    seen = f"pid {pid}: {' '.join(words)[:120]}"
    handle = f"control: {control}" if control else f"pidfile: {pidfile}" if pidfile else ""
    config = f"actuator: {{kind: gunicorn, {handle}}}" if handle else ""
    lacking = [] if handle else ["--pid FILE"]
    if statsd is None:
        lacking.append("--statsd-host 127.0.0.1:8125")
    if "--config" in words or "-c" in words:
        seen += " (its configuration file may say more)"
    advice = f"start it with {' '.join(lacking)}" if lacking else ""
    return Finding(
        topic="gunicorn",
        state=State.LIMITED if lacking else State.OK,
        seen=seen,
        advice="; ".join(filter(None, (config, advice))),
    )


def _option(words: list[str], short: str, long: str) -> str | None:
    """The value of an option on a command line, None when it is not there."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == long or (short and word == short):
            return following
        if word.startswith(f"{long}="):
            return word.partition("=")[2]
    return None


def _clock(host: Host) -> Finding:
    name = _read(host.sys / "devices/system/clocksource/clocksource0/current_clocksource")
    if name in ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"):
        return Finding(topic="clock", state=State.OK, seen=name)
    advice = "reading the time costs a system call; see clocksource= of the kernel's command line"
    seen = name or "not known"
    return Finding(topic="clock", state=State.LIMITED, seen=seen, advice=advice if name else "")


def _receive_buffer(host: Host) -> Finding:
    text = _read(host.proc / "sys/net/core/rmem_max") or ""
    if not text.isdigit():
        return Finding(topic="rmem_max", state=State.ABSENT, seen="not readable")
    if int(text) >= _WANTED_RMEM:
        return Finding(topic="rmem_max", state=State.OK, seen=render("bytes", int(text)))
    return Finding(
        topic="rmem_max",
        state=State.LIMITED,
        seen=f"{render('bytes', int(text))}: statsd datagrams may be lost in bursts",
        advice=f"sysctl -w net.core.rmem_max={_WANTED_RMEM}",
    )


def _notify(host: Host) -> Finding:
    address = host.environ.get("NOTIFY_SOCKET")
    if address:
        return Finding(topic="systemd notify", state=State.OK, seen=address)
    seen = "NOTIFY_SOCKET is not set: not started by systemd"
    advice = "as a service: Type=notify; otherwise this is as it should be"
    return Finding(topic="systemd notify", state=State.ABSENT, seen=seen, advice=advice)


def _versions() -> Finding:
    parts = [f"Python {platform.python_version()}", f"Linux {platform.release()}"]
    for package in ("poolwright", "uvloop", "gunicorn"):
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            parts.append(f"{package} not installed")
    parts.append(f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files")
    good = sys.version_info >= (3, 11)
    return Finding(
        topic="versions", state=State.OK if good else State.LIMITED, seen=", ".join(parts)
    )


def _print_table(found: list[Finding]) -> None:
    from rich.console import Console  # noqa: PLC0415  not for --json
    from rich.table import Table  # noqa: PLC0415

    colours = {State.OK: "green", State.LIMITED: "yellow", State.ABSENT: "red"}
    table = Table(box=None, pad_edge=False, show_edge=False)
    for title in ("", "what", "seen", "to have more"):
        table.add_column(title, overflow="fold")
    for finding in found:
        state = f"[{colours[finding.state]}]{finding.state.value}[/]"
        table.add_row(state, finding.topic, _literal(finding.seen), _literal(finding.advice))
    Console(highlight=False).print(table)


def _literal(text: str) -> str:
    """A text that is not markup."""
    return text.replace("[", r"\[")
