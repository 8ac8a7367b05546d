"""What a preset says of a service: all that its configuration and its policy are written from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from poolwright.core.errors import PolicyError
from poolwright.presets.facts import Facts, Process

Options = dict[str, object]  # of an adapter, `kind` first: text, numbers, lists of text


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the operator says that cannot be seen."""

    pool: str = ""
    pidfile: str = ""
    broker: str = ""
    user: str = ""
    password_file: str = ""
    access_log: str = ""  # of nginx in front


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One sensor of the pool, and why it is there."""

    options: Options
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Something that the service or poolwright lacks, and the very line to add."""

    what: str
    add: str = ""

    def __str__(self) -> str:
        """In one line."""
        return f"{self.what}: {self.add}" if self.add else self.what


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One service that can be sized, or could be with what is in `missing`."""

    kind: str
    pid: int
    name: str  # of the pool
    knob: str
    actuator: Options
    level: int  # now; 0: not known without asking the server
    sights: tuple[Sight, ...] = ()
    latency: bool = False  # whether they tell it, and not only means
    errors: bool = False
    worker_bytes: int = 0  # that each level takes; 0: not known
    most: int = 0  # the server's own limit; 0: none
    why_most: str = ""
    settle: str = "3s"
    missing: tuple[Advice, ...] = ()  # without it nothing can be moved or seen
    better: tuple[Advice, ...] = ()  # with it more would be seen
    rights: tuple[Advice, ...] = ()  # that poolwright's user needs
    own_name: str = ""  # as the server calls it, where it has several

    @property
    def title(self) -> str:
        """What a person calls it."""
        level = f", {self.knob} {self.level}" if self.level else ""
        return f"{self.kind} {self.name} (process {self.pid}{level})"


class Preset(Protocol):
    """What is known of one kind of server."""

    def find(self, facts: Facts) -> list[Process]:
        """The master processes."""
        ...

    def describe(self, master: Process, facts: Facts, asked: Asked) -> list[Found]:
        """The pools of one master. Raises PolicyError when what was asked contradicts it."""
        ...


def printable(text: str) -> str:
    """A text of one line: command lines are anybody's, and end up on terminals and in comments."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


HOST = Sight(options={"kind": "host"}, why="CPU and memory of the host, and their limits")


def options(words: Iterable[str], *names: str) -> list[str]:
    """The values of all of these options on a command line, in order."""
    found, taken = [], False
    for word in words:
        name, equals, told = word.partition("=")
        if taken:
            found.append(word)
            taken = False
        elif word in names:
            taken = True
        elif name in names and equals:
            found.append(told)
        elif any(_glued(word, short) for short in names):
            found.append(word[2:])
    return found


def option(words: Iterable[str], *names: str) -> str:
    """The value of the last of these options on a command line; empty when there is none."""
    return next(reversed(options(words, *names)), "")


def _glued(word: str, name: str) -> bool:
    """`-w4`, and neither `-w` nor `--workers`."""
    return len(name) == 2 and word.startswith(name) and len(word) > 2 and not word.startswith("--")


def mean_rss(processes: list[Process]) -> int:
    """Bytes that one of them takes; what they share counts in each, so it is rather too much."""
    return sum(p.rss_bytes for p in processes) // len(processes) if processes else 0


def trees(pidfile: str, master: Process, *own: str) -> list[Sight]:
    """The sensors of processes and of the accept queue, where they can be told where to look.

    The queue by its addresses, not by a pidfile: the daemon runs as another user than the service,
    who may not look into its descriptors. `own` are addresses that are not for clients.
    """
    of: Options = {"pidfile": pidfile} if pidfile else {}
    if not of and master.cgroup:
        of = {"cgroup": master.cgroup}
    found = []
    if of:
        tree: Options = {"kind": "process_tree", **of}
        found.append(Sight(options=tree, why="CPU and memory of the pool"))
    bound = (*master.listening, *(f"unix:{path}" for path in master.unix))
    listening = [at for at in bound if at.removeprefix("unix:") not in own]
    if listening:
        queue: Options = {"kind": "listen_queue", "listen": listening}
        found.append(Sight(options=queue, why="connections that no worker has accepted yet"))
    return found


def pidfile_of(facts: Facts, master: Process, told: str, asked: Asked) -> str:
    """The pidfile that was asked for, else the one that is told if it names this master, else "".

    A stale file would move a stranger. Raises PolicyError when the one asked for is of another.
    """
    if asked.pidfile:
        if not facts.names(asked.pidfile, master.pid):
            raise PolicyError(f"--pidfile {asked.pidfile} does not name process {master.pid}")
        return asked.pidfile
    path = master.resolved(told)
    return path if path and facts.names(path, master.pid) else ""


def signalling(facts: Facts, master: Process) -> tuple[Advice, ...]:
    """What is needed to signal this master."""
    if master.user == facts.user or facts.may_signal:
        return ()
    return (
        Advice(
            what=f"this user ({facts.user}) may not signal processes of {master.user}",
            add="AmbientCapabilities=CAP_KILL in poolwright's unit: `poolwright install` adds it",
        ),
    )


def reaching(path: str, facts: Facts, master: Process) -> tuple[Advice, ...]:
    """What is needed to open a socket or FIFO of this master, which its mode decides."""
    if master.user == facts.user:
        return ()
    return (
        Advice(
            what=f"poolwright's user must be able to write {path}, a file of {master.user}",
            add=f"SupplementaryGroups= with a group that may (mode 0660), or User={master.user}",
        ),
    )


def nginx_log(asked: Asked) -> list[Sight]:
    """Nginx's log in front of the service, if one was named."""
    if not asked.access_log:
        return []
    log: Options = {"kind": "access_log", "file": asked.access_log, "format": "nginx"}
    return [Sight(options=log, why="each request, as nginx in front of it writes it down")]
