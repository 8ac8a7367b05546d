"""What a preset says of a service: all that its configuration and its policy are written from."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from poolwright.core.errors import PolicyError
from poolwright.policy.bind import bind
from poolwright.policy.expand import Suit, parts_of
from poolwright.policy.preset import PRESETS, Part
from poolwright.policy.render import flow
from poolwright.policy.tree import Mapping, parse_document
from poolwright.presets.facts import Facts, Process

Options = dict[str, object]  # of a preset, `kind` first: text, numbers, null, lists of text


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
class Advice:
    """Something that the service or poolwright lacks, and the very line to add."""

    what: str
    add: str = ""

    def __str__(self) -> str:
        """In one line."""
        return f"{self.what}: {self.add}" if self.add else self.what

    @property
    def flag(self) -> str:
        """The flag of init that mends it; empty when none does."""
        named = re.search(r"poolwright init --([a-z-]+)", self.add)
        return named[1] if named else ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One service that can be sized, or could be with what is in `missing`."""

    preset: Options  # as the configuration takes it (`policy.preset`)
    pid: int
    name: str  # of the pool
    level: int  # now; 0: not known without asking the server
    worker_bytes: int = 0  # that each level takes; 0: not known
    most: int = 0  # the server's own limit; 0: none
    why_most: str = ""
    settle: str = "3s"
    missing: tuple[Advice, ...] = ()  # without it nothing can be moved or seen
    better: tuple[Advice, ...] = ()  # with it more would be seen
    rights: tuple[Advice, ...] = ()  # that poolwright's user needs
    own_name: str = ""  # as the server calls it, where it has several

    @property
    def kind(self) -> str:
        """Of the server."""
        return str(self.preset["kind"])

    @property
    def knob(self) -> str:
        """As its policy calls it."""
        return PRESETS[self.kind].knob

    @cached_property
    def parts(self) -> tuple[tuple[Part, Mapping], ...]:
        """The actuator and the sensors that the preset stands for; none before it is complete."""
        document = parse_document(flow(self.preset).encode(), "init")
        assert isinstance(document.root, Mapping), "its options are a mapping"
        kind = PRESETS[self.kind].options
        options = bind(document.root, kind, document.problems, Path("/"), skip="kind")
        return () if options is None else tuple(parts_of(document.root, options))

    @property
    def suit(self) -> Suit:
        """What its sensors tell of what a policy may promise."""
        return Suit.of(self.kind, [made for _, made in self.parts[1:]])

    def sees(self, kind: str) -> bool:
        """Whether it has a sensor of a kind."""
        return any(part.kind == kind for part, _ in self.parts[1:])

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


def given(**options: object) -> Options:
    """Those that are not empty."""
    return {name: told for name, told in options.items() if told}


def tree(pidfile: str, master: Process) -> Options:
    """What the sensor of processes is to look at, where that can be told."""
    return given(pidfile=pidfile, cgroup="" if pidfile else master.cgroup)


def queue(master: Process, *own: str) -> Options:
    """What the sensor of the accept queue is to look at; `own` are addresses not for clients.

    By its addresses, not by a pidfile: the daemon runs as another user than the service, who may
    not look into its descriptors.
    """
    bound = (*master.listening, *(f"unix:{path}" for path in master.unix))
    return given(listen=[at for at in bound if at.removeprefix("unix:") not in own])


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
