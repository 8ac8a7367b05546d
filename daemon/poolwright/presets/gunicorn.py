"""gunicorn: moved by its control socket or its pidfile, seen by its access log or its statsd."""

import ast
import re
import shlex
from pathlib import Path

from poolwright.presets.facts import Facts, Process
from poolwright.presets.found import (
    Advice,
    Asked,
    Found,
    Options,
    given,
    mean_rss,
    option,
    pidfile_of,
    queue,
    reaching,
    signalling,
    tree,
)
from poolwright.sensors.access_log import ACCESS_LOG_FORMAT, gunicorn_flags

_TITLE = "gunicorn: "  # setproctitle's, which hides the command line
_APPLICATION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*(\(.*\))?")


class GunicornPreset:
    """gunicorn masters."""

    def find(self, facts: Facts) -> list[Process]:
        """The processes called gunicorn whose parent is not one."""
        return facts.masters(_is_gunicorn)

    def describe(self, master: Process, facts: Facts, asked: Asked) -> list[Found]:
        """One pool: the workers of the master."""
        told = _Told(master, facts)
        pidfile = pidfile_of(facts, master, told.get("pid", "-p"), asked)
        control = _control(master, told)
        workers = facts.children(master.pid)
        requests, better = _requests(told, facts, asked)
        own = tree(pidfile, master) | given(control=control) | requests | queue(master, control)
        name = asked.pool or _name(master, told)
        noted, missing = master.resolved(told.get("pid", "-p")), []
        wrong = f"{noted} does not name process {master.pid}" if noted else ""
        if not pidfile and not control:
            what = "; ".join(filter(None, ("neither a pidfile nor a control socket", wrong)))
            add = f"gunicorn --pid /run/{name}/gunicorn.pid, or poolwright init --pidfile FILE"
            missing.append(Advice(what=what, add=add))
        elif not pidfile:
            better.append(
                Advice(
                    what=wrong or "no pidfile, so CPU and memory of the pool are not seen",
                    add=f"gunicorn --pid /run/{name}/gunicorn.pid",
                )
            )
        if not master.listening and not master.unix and master.user != facts.user:
            what = f"this user ({facts.user}) cannot see where gunicorn listens, for its queue"
            better.append(Advice(what=what, add="run `poolwright init` as root"))
        return [
            Found(
                preset={"kind": "gunicorn", **own},
                pid=master.pid,
                name=name,
                level=len(workers),
                worker_bytes=mean_rss(workers),
                missing=tuple(missing),
                better=tuple(better),
                rights=signalling(facts, master) if pidfile else reaching(control, facts, master),
            )
        ]


class _Told:
    """gunicorn's settings: command line, else GUNICORN_CMD_ARGS, else plain lines of its file."""

    def __init__(self, master: Process, facts: Facts) -> None:
        self._lines = (master.words, _split(master.environ.get("GUNICORN_CMD_ARGS", "")))
        self._file: dict[str, str] = {}
        named = self.get("config", "-c").removeprefix("file:") or "gunicorn.conf.py"
        text = facts.files.read(master.resolved(named)) if master.cwd or named[0] == "/" else None
        self._file = _plain(text or "")

    def get(self, name: str, *short: str) -> str:
        """A setting by its long flag; empty when it is not told."""
        for words in self._lines:
            if found := option(words, f"--{name}", *short):
                return found
        attribute = {"pid": "pidfile", "access-logformat": "access_log_format"}.get(name)
        return self._file.get(attribute or name.replace("-", "_"), "")

    def has(self, flag: str) -> bool:
        """Whether a flag without a value is given."""
        return any(f"--{flag}" in words for words in self._lines) or (
            self._file.get(flag.replace("-", "_")) == "True"
        )


def _plain(text: str) -> dict[str, str]:
    """The assignments of literals in a configuration file; it is read, never executed."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}
    return {
        target.id: str(node.value.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and node.value.value is not None
    }


def _split(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return ()


def _is_gunicorn(process: Process) -> bool:
    """`/usr/bin/gunicorn`, `python -m gunicorn`, or the title that setproctitle gives."""
    return any(Path(w).name == "gunicorn" or w.startswith(_TITLE) for w in process.words[:3])


def _control(master: Process, told: _Told) -> str:
    """The control socket (25.1 and later has one unless told not to), only where it really is."""
    if told.has("no-control-socket"):
        return ""
    named = master.resolved(told.get("control-socket"))
    defaults = [named] if named else [p for p in master.unix if Path(p).name == "gunicorn.ctl"]
    return next((path for path in defaults if path in master.unix), "")


def _requests(told: _Told, facts: Facts, asked: Asked) -> tuple[Options, list[Advice]]:
    """What tells of requests, and what gunicorn lacks for it."""
    if asked.access_log:
        return {"access_log": asked.access_log}, []
    to = told.get("log-syslog-to").removeprefix("udp://")
    if to and told.get("access-logformat") == ACCESS_LOG_FORMAT and _is_local(to):
        return {"requests": to}, []
    statsd = told.get("statsd-host")
    if _is_local(statsd) and not _taken(statsd, facts):
        advice = Advice(
            what="latency is composed of service time and queue; the access log would measure it",
            add=f"gunicorn {shlex.join(gunicorn_flags(facts.free_udp()))}",
        )
        return given(statsd=statsd, statsd_prefix=told.get("statsd-prefix")), [advice]
    listen = facts.free_udp()
    what = "gunicorn tells nobody of its requests, so nothing can be learned yet"
    if statsd:
        what = f"--statsd-host {statsd} leads to somebody else, so requests are not seen yet"
    advice = Advice(what=what, add=f"gunicorn {shlex.join(gunicorn_flags(listen))}")
    return {"requests": listen}, [advice]


def _is_local(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return host in ("127.0.0.1", "localhost") and port.isdigit()


def _taken(address: str, facts: Facts) -> bool:
    return int(address.rpartition(":")[2]) in facts.udp_ports


def _name(master: Process, told: _Told) -> str:
    """As `--name`, else as the application's module is called."""
    title = next((w for w in master.words if w.startswith(_TITLE)), "")
    named = (w for w in master.words if _APPLICATION.fullmatch(w))
    app = title.partition("[")[2].rstrip("]") or next(named, master.words[-1])
    return told.get("name", "-n") or app.partition(":")[0].partition(".")[0]
