"""HAProxy: the servers' maxconn of a backend through its socket, seen by its statistics."""

from dataclasses import dataclass, field
from pathlib import Path

from poolwright.presets.facts import Facts, Process
from poolwright.presets.found import (
    Advice,
    Asked,
    Found,
    given,
    options,
    reaching,
)

_SECTIONS = ("global", "defaults", "frontend", "backend", "listen")


class HaproxyPreset:
    """HAProxy masters, or the single process where there is none."""

    def find(self, facts: Facts) -> list[Process]:
        """The processes called haproxy whose parent is not one."""
        return facts.masters(lambda p: bool(p.words) and Path(p.words[0]).name == "haproxy")

    def describe(self, master: Process, facts: Facts, asked: Asked) -> list[Found]:
        """Each backend with servers."""
        said = _Said()
        for path in options(master.words, "-f"):
            for line in (facts.files.read(master.resolved(path)) or "").splitlines():
                said.take(line.partition("#")[0].split())
        return [
            _found(master, facts, asked, said.socket, backend)
            for backend in said.backends
            if backend.servers
        ]


@dataclass(slots=True)
class _Backend:
    """A backend or listen section: server -> its maxconn, empty when it has none."""

    name: str
    limit: str  # of default-server
    servers: dict[str, str] = field(default_factory=dict)


class _Said:
    """What a configuration says, taken line by line."""

    def __init__(self) -> None:
        self.socket = ""  # of level admin
        self.backends: list[_Backend] = []
        self._here = ""
        self._limit = ""  # of the defaults

    def take(self, words: list[str]) -> None:
        """One line, in words and without its comment."""
        if not words:
            return
        if words[0] in _SECTIONS:
            self._here = words[0]
            if words[0] in ("backend", "listen") and len(words) > 1:
                self.backends.append(_Backend(name=words[1], limit=self._limit))
            return
        if words[:2] == ["stats", "socket"] and _after(words, "level") == "admin":
            self.socket = self.socket or words[2].removeprefix("unix@")
        elif words[0] == "default-server" and self._here == "defaults":
            self._limit = _after(words, "maxconn")
        elif words[0] == "default-server" and self._here in ("backend", "listen"):
            self.backends[-1].limit = _after(words, "maxconn") or self.backends[-1].limit
        elif words[0] == "server" and self._here in ("backend", "listen") and len(words) > 2:
            backend = self.backends[-1]
            backend.servers[words[1]] = _after(words, "maxconn") or backend.limit


def _after(words: list[str], key: str) -> str:
    return words[words.index(key) + 1] if key in words[:-1] else ""


def _found(master: Process, facts: Facts, asked: Asked, socket: str, backend: _Backend) -> Found:
    missing = []
    if not socket.startswith("/"):
        add = "stats socket /run/haproxy/admin.sock mode 660 level admin"
        missing.append(Advice(what="no stats socket of level admin in `global`", add=add))
    limits = set(backend.servers.values())
    if len(limits) > 1 or not all(limit.isdigit() for limit in limits):
        what = f"the servers of {backend.name} do not all have one and the same maxconn"
        missing.append(Advice(what=what, add="default-server maxconn 20"))
    level = int(limits.pop()) if not missing else 0
    own = given(socket=socket, backend=backend.name, servers=list(backend.servers))
    what = "HAProxy tells no latency, only averages: name a log of nginx's format in front of it"
    return Found(
        preset={"kind": "haproxy", **own, **given(access_log=asked.access_log)},
        pid=master.pid,
        name=asked.pool or backend.name,
        own_name=backend.name,
        level=level,
        settle="2s",
        missing=tuple(missing),
        better=()
        if asked.access_log
        else (Advice(what=what, add="poolwright init --access-log FILE, or see docs/haproxy.md"),),
        rights=reaching(socket, facts, master) if socket else (),
    )
