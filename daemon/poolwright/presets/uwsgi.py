"""uWSGI: moved by its master FIFO, seen by its stats server and its request log."""

from pathlib import Path

from poolwright.actuators.uwsgi_config import HOW
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
    tree,
)
from poolwright.presets.ini import sections
from poolwright.sensors.uwsgi import ACCESS_LOG_FORMAT, access_log_flags

_NAMES = ("uwsgi", "uwsgi-core")
_TITLE = "uWSGI master"  # --auto-procname's


class UwsgiPreset:
    """uWSGI masters; vassals of an emperor count, the emperor does not."""

    def find(self, facts: Facts) -> list[Process]:
        """The processes called uwsgi whose parent is not one."""
        return facts.masters(_is_uwsgi)

    def describe(self, master: Process, facts: Facts, asked: Asked) -> list[Found]:
        """One pool: the workers of the master."""
        told = _Told(master, facts)
        name = asked.pool or _name(told)
        fifo, stats = master.resolved(told.get("master-fifo")), _stats(master, told)
        pidfile = pidfile_of(facts, master, told.get("pidfile"), asked)
        missing = []
        if not fifo:
            missing.append(Advice(what="no master FIFO", add=f"--master-fifo /run/{name}/fifo"))
        if not stats:
            missing.append(Advice(what="no stats server", add=f"--stats /run/{name}/stats.sock"))
        requests, better = _requests(told, facts, asked)
        own = given(fifo=fifo, stats=stats) | tree(pidfile, master) | requests
        if not pidfile and not master.cgroup:
            what = "no pidfile, so CPU and memory of the pool are not seen"
            better.append(Advice(what=what, add=f"--pidfile /run/{name}/uwsgi.pid"))
        workers = facts.children(master.pid)
        most = told.get("processes", "-p") or told.get("workers")
        return [
            Found(
                preset={"kind": "uwsgi", **own, **queue(master, stats)},
                pid=master.pid,
                name=name,
                level=len(workers),
                worker_bytes=mean_rss(workers),
                most=int(most) if most.isdigit() else 0,
                why_most="uWSGI's --processes",
                missing=tuple(missing),
                better=(*better, *_unsafe(told)),
                rights=reaching(fifo, facts, master) if fifo else (),
            )
        ]


class _Told:
    """uWSGI's options: command line, and the INI file that it names."""

    def __init__(self, master: Process, facts: Facts) -> None:
        self._words = master.words
        path = option(master.words, "--ini", "-i")
        path = path or next((w for w in master.words if w.endswith(".ini") and w[0] != "-"), "")
        text = facts.files.read(master.resolved(path.partition(":")[0])) if path else None
        plain = sections(text or "").get("uwsgi", {})
        # What has a variable in it (%n, $(NAME)) is not known before uWSGI has put it in.
        self._file = {k.replace("_", "-"): v for k, v in plain.items() if not set(v) & set("%$@")}

    def get(self, name: str, *short: str) -> str:
        """An option by its long name; empty when it is not told."""
        return option(self._words, f"--{name}", *short) or self._file.get(name, "")

    def format(self) -> str:
        """The log format, which is full of variables."""
        return option(self._words, "--log-format", "--logformat")


def _is_uwsgi(process: Process) -> bool:
    if not process.words or "--emperor" in process.words:
        return False
    name = Path(process.words[0]).name
    return name in _NAMES or name.startswith("uwsgi_") or process.words[0].startswith(_TITLE)


def _name(told: _Told) -> str:
    module = told.get("module", "-w") or told.get("wsgi-file") or told.get("file") or "uwsgi"
    return Path(module.partition(":")[0]).stem


def _stats(master: Process, told: _Told) -> str:
    """As the sensor takes it: HOST:PORT or a path."""
    address = told.get("stats")
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        return f"{host or '127.0.0.1'}:{port}"
    return master.resolved(address.removeprefix("unix:"))


def _requests(told: _Told, facts: Facts, asked: Asked) -> tuple[Options, list[Advice]]:
    """What tells of each request, and what uWSGI lacks for that."""
    if asked.access_log:
        return {"access_log": asked.access_log}, []
    to = told.get("req-logger").removeprefix("socket:")
    if to and told.format() == ACCESS_LOG_FORMAT and to.startswith("127.0.0.1:"):
        return {"requests": to}, []
    flag, to, option_name, form = access_log_flags(facts.free_udp())
    what = "uWSGI tells no latency (its avg_rt is a mean); Debian's needs --plugin logsocket first"
    return {}, [Advice(what=what, add=f"{flag} {to} {option_name} '{form}'")]


def _unsafe(told: _Told) -> list[Advice]:
    """What would keep moves from being made."""
    found = []
    if told.get("cheaper-algo") != "manual":
        found.append(Advice(what="uWSGI would not let go of workers, or undo it", add=HOW))
    threads = told.get("threads")
    if threads.isdigit() and int(threads) > 1:
        what = "with threads uWSGI loses requests when a worker leaves: only growing is done"
        found.append(Advice(what=what, add="more --processes in place of --threads"))
    return found
