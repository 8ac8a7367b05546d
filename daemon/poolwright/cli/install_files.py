"""Which files an installation consists of, and what became of those that are there.

What poolwright wrote carries a last line with the sha256 of the rest, so that a file that nobody
has edited is known, may be brought up to date and may be removed. One that was edited is the
operator's and is never touched.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.policy.bind import suggestion
from poolwright.policy.config import DaemonConfig
from poolwright.policy.quantities import is_loopback
from poolwright.policy.tree import Listing, Mapping, Node, Scalar

PROGRAM = "/opt/poolwright/bin/poolwright"  # as the shipped units call it
_STAMP = "poolwright install: sha256 "
# Kind -> (its drop-in, the option without which it needs none).
_ACTUATORS = {
    "file": ("file", ""),
    "gunicorn": ("gunicorn", ""),
    "haproxy": ("haproxy", "socket"),
    "kubernetes": ("kubernetes", ""),
    "pgbouncer": ("pgbouncer", ""),
    "php_fpm": ("php-fpm", ""),
    "uvicorn": ("uvicorn", ""),
    "uwsgi": ("uwsgi", ""),
}
_SENSORS = {
    "access_log": ("log-files", "file"),
    "haproxy": ("haproxy", "socket"),
    "listen_queue": ("listen-queue", ""),
    "pgbouncer": ("pgbouncer", ""),
    "process_tree": ("processes", ""),
    "uwsgi": ("uwsgi", ""),
}
# Rights that are wide, and so never taken without being asked for.
OPT_IN = ("memory-pss", "power-ipmi", "power-nvidia", "power-rapl")


class State(StrEnum):
    """What is to be done about one file."""

    WRITE = "write"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    EDITED = "keep"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class File:
    """One file, and what it shall hold; None: it shall not be there."""

    path: Path
    text: str | None
    state: State


def shipped() -> Path:
    """The folder `deploy`: beside this file where it is packaged, else the tree's."""
    packaged = Path(__file__).with_name("deploy")
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "deploy"


def dropins(config: DaemonConfig) -> list[str]:
    """The names of the drop-ins that a configuration needs, sorted."""
    found = {"control-group"} if config.control_group else set()
    if config.listen is not None and not is_loopback(config.listen):
        found.add("network")
    for pool in config.pools:
        attached = [(pool.actuator, _ACTUATORS), *((one, _SENSORS) for one in pool.sensors)]
        for adapter, table in attached:
            name, option = table.get(adapter.kind, ("", ""))
            if name and (not option or adapter.node.get(option)):
                found.add(name)
            if any(_is_elsewhere(text) for text in _texts(adapter.node)):
                found.add("network")
    return sorted(found)


def dropin_text(name: str, config: DaemonConfig | None) -> str:
    """A drop-in as it is shipped, with the group that the configuration names."""
    text = (shipped() / "systemd" / "poolwright.service.d" / f"{name}.conf").read_text()
    group = config.control_group if config is not None else None
    return text.replace("poolwright-ops", group) if group else text


def opt_in(name: str) -> str:
    """The same name; PolicyError when there is no such drop-in to be asked for."""
    if name not in OPT_IN:
        raise PolicyError(f"--with {name}: there is no such drop-in{suggestion(name, OPT_IN)}")
    return name


def polkit_rule(config: DaemonConfig) -> str:
    """The rule for the templates whose instances are started and stopped; empty: there are none."""
    templates = []
    for pool in config.pools:
        told = pool.actuator.node.get("template")
        if pool.actuator.kind == "systemd_units" and isinstance(told, Scalar):
            templates.append(re.escape(told.text.partition("@")[0]))
    if not templates:
        return ""
    text = (shipped() / "polkit" / "50-poolwright-units.rules").read_text()
    return text.replace("/^worker@", f"/^(?:{'|'.join(dict.fromkeys(templates))})@")


def group_names(text: str) -> list[tuple[str, str]]:
    """(`group` or `passwd`, name) of everybody whom a drop-in names."""
    groups = re.findall(r"^(?:SupplementaryGroups|Group)=(\S+)", text, re.MULTILINE)
    users = re.findall(r"^User=(\S+)", text, re.MULTILINE)
    return [*(("group", name) for name in groups), *(("passwd", name) for name in users)]


def wanted(path: Path, text: str) -> File:
    """A file that shall hold `text`. Raises PlantFault when something else is at its place."""
    signed = _signed(text, "//" if path.suffix == ".rules" else "#")
    there = _read(path)
    if there is None:
        return File(path, signed, State.WRITE)
    if there == signed:
        return File(path, signed, State.UNCHANGED)
    return File(path, signed, State.UPDATE if _is_ours(there) else State.EDITED)


def unwanted(path: Path) -> File | None:
    """A file that shall not be there; None when it is not. PlantFault as `wanted`."""
    there = _read(path)
    if there is None:
        return None
    return File(path, None, State.REMOVE if _is_ours(there) else State.EDITED)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlantFault(f"{path}: {error.strerror}; nothing was changed") from error


def _signed(text: str, comment: str) -> str:
    return f"{text}{comment} {_STAMP}{_digest(text)}\n"


def _is_ours(text: str) -> bool:
    body, stamp, digest = text.rpartition(_STAMP)
    body = body.rpartition("\n")[0] + "\n"
    return bool(stamp) and digest.rstrip("\n") == _digest(body)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _texts(node: Node) -> Iterator[str]:
    """Every text among the options of an adapter."""
    match node:
        case Scalar():
            yield node.text
        case Listing():
            for item in node.items:
                yield from _texts(item)
        case Mapping():
            for _, value in node.entries:
                yield from _texts(value)


def _is_elsewhere(text: str) -> bool:
    """Whether a text is a URL or an address of another host."""
    try:
        url = urlsplit(text)
        if url.scheme and url.hostname:
            return not is_loopback(f"{_bracketed(url.hostname)}:1")
        return not text.startswith("unix:") and not is_loopback(text)
    except ValueError:  # neither
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
