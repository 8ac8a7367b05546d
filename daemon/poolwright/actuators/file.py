"""Moves a level that a service reads from a file, and tells the service to read it again.

    actuator:
      kind: file
      path: /etc/nginx/nginx.conf
      key: worker_processes
      pidfile: /run/nginx.pid
      signal: HUP
      get: [/usr/local/bin/nginx-workers]

The file is replaced as a whole (written beside it, made durable, renamed), with its owner, mode and
extended attributes; all but the digits stays. Whom to signal is looked up and checked before
anything is written, and a signal that cannot be sent takes the change back: the file must not claim
what nobody was told. Without `get` or `get_http` the level that is read back is that of the file,
which is what was asked for and not what runs: give one of them where the service can tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from poolwright.actuators.absolute import KNOB, UNTOLD, Absolute, check_templates, level_of, names
from poolwright.actuators.outcome import Refusal
from poolwright.actuators.replace_file import read_file, replaced
from poolwright.actuators.run import Program
from poolwright.actuators.signalled import Signalled
from poolwright.actuators.text_level import Place
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.units import PathText, Seconds
from poolwright.wire.endpoint import Access, Endpoint
from poolwright.wire.http import Url
from poolwright.wire.pointer import parse, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelUrl(Access):
    """Where the service tells its level over HTTP, as JSON."""

    url: str = field(metadata={"doc": "http://host:port/path, with {knob} where there are several"})
    pointer: str = field(default="", metadata={"doc": "where the level is in it (RFC 6901)"})

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        self.check(Url.parse(self.url.replace(KNOB, "knob"), secure=True))
        parse(self.pointer)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What a `file` actuator may be told."""

    path: PathText = field(metadata={"doc": "the file; it must be there and hold a level"})
    key: str | None = field(
        default=None, metadata={"doc": "the level is in the one line `key = 8` (or `key 8;`)"}
    )
    pointer: str | None = field(
        default=None, metadata={"doc": "the file is JSON, and there is the level (RFC 6901)"}
    )
    pattern: str | None = field(
        default=None,
        metadata={"doc": "RE2 expression with one group, the level, that matches once"},
    )
    knob: str = field(default="workers", metadata={"doc": "what the level is called"})
    knobs: tuple[str, ...] = field(
        default=(), metadata={"doc": "several in one file, told apart by {knob} in the place"}
    )
    pidfile: PathText | None = field(
        default=None, metadata={"doc": "whom to signal after a change; a restart is seen by it"}
    )
    signal: Literal["HUP", "USR1", "USR2", "WINCH"] = field(
        default="HUP", metadata={"doc": "what makes the service read its file"}
    )
    get: tuple[str, ...] = field(
        default=(), metadata={"doc": "program that prints the level which is really in force"}
    )
    get_http: LevelUrl | None = field(
        default=None, metadata={"doc": "or where the service tells it over HTTP"}
    )
    get_timeout: Seconds = field(
        default=0.8, metadata={"doc": "for `get` or `get_http`", "above": 0}
    )
    confirm_timeout: Seconds = field(
        default=10.0, metadata={"doc": "from the change until it is read back", "above": 0}
    )

    def __post_init__(self) -> None:
        """Refuse what could move nothing, or the wrong thing."""
        found = names(self.knob, self.knobs)
        self.place.check(found[0])
        if self.get and self.get_http is not None:
            raise PolicyError("get and get_http: one of them tells what is in force")
        place = (self.key or "", self.pointer or "", self.pattern or "")
        check_templates(found, {"key": place})
        if self.get:
            check_templates(found, {"get": self.get})
        if self.get_http is not None:
            check_templates(found, {"get_http": (self.get_http.url, self.get_http.pointer)})

    @property
    def place(self) -> Place:
        """How the level is found in the file."""
        return Place(self.key, self.pointer, self.pattern)


class File(Absolute):
    """A level in a file."""

    Options = FileOptions

    def __init__(self, options: FileOptions, _pool: str) -> None:
        """Nothing is opened yet."""
        knobs = names(options.knob, options.knobs)
        super().__init__(knobs, f"file {options.path}", options.confirm_timeout)
        self._options = options
        self._place = options.place
        self._signalled = (
            None if options.pidfile is None else Signalled(options.pidfile, options.signal)
        )
        self._program = Program({})

    async def _look(self) -> tuple[Mapping[str, int], str]:
        epoch = UNTOLD if self._signalled is None else self._signalled.epoch()
        return await self._levels(), epoch

    async def _levels(self) -> Mapping[str, int]:
        options = self._options
        if options.get:
            return {knob: await self._of_program(knob) for knob in self.knobs}
        if options.get_http is not None:
            return {knob: await self._of_http(knob, options.get_http) for knob in self.knobs}
        text = read_file(options.path).text
        return {knob: self._held(text, knob) for knob in self.knobs}

    def _held(self, text: bytes, knob: str) -> int:
        return int(text[slice(*self._place.span(text, knob))])

    async def _of_program(self, knob: str) -> int:
        argv = tuple(part.replace(KNOB, knob) for part in self._options.get)
        said = await self._program.output(argv, self._options.get_timeout)
        try:
            return level_of(said.decode("utf-8", "replace"))
        except PlantFault as fault:
            raise PlantFault(f"get: {fault}") from fault

    async def _of_http(self, knob: str, told: LevelUrl) -> int:
        url = Url.parse(told.url.replace(KNOB, knob), secure=True)
        found = await Endpoint(url, told).json(self._options.get_timeout)
        try:
            return level_of(resolve(found, parse(told.pointer.replace(KNOB, knob))))
        except PlantFault as fault:
            raise PlantFault(f"{url.text}: {fault}") from fault

    async def _set(self, knob: str, level: int) -> None:
        """Write, then signal; without an await between, so that both happen or neither."""
        before = read_file(self._options.path)
        start, end = self._place.span(before.text, knob)
        text = before.text[:start] + b"%d" % level + before.text[end:]
        if self._signalled is None:
            replaced(before, text)
            return
        with self._signalled.ready() as send:
            after = before if text == before.text else replaced(before, text)
            try:
                send()
            except (PlantFault, Refusal):
                if after is not before:
                    replaced(after, before.text)
                raise
