"""Moves a level through two programs of the operator's: `get` prints it, `set` changes it.

    actuator:
      kind: command
      get: [/usr/local/bin/pool-size, get]
      set: [/usr/local/bin/pool-size, set, "{level}"]
      epoch: [cat, /run/pool.pid]

No shell: each item of a list is one argument, and `{level}` and `{knob}` are replaced within it.
`get` prints a whole number, or JSON of which `pointer` tells the place. `epoch` prints what changes
when the service restarts; without it a restart that resets the level is taken for another hand.
`set` ends with status 0 when it was done, 77 (EX_NOPERM of sysexits.h) when it may not be done, and
anything else when it failed; in either case the level that `get` prints decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from poolwright.actuators.absolute import (
    KNOB,
    LEVEL,
    UNTOLD,
    Absolute,
    check_templates,
    level_of,
    names,
)
from poolwright.actuators.outcome import Refusal
from poolwright.actuators.run import Program
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.units import Seconds
from poolwright.wire.pointer import decode, parse, resolve

_EX_NOPERM = 77  # sysexits.h


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions:
    """What a `command` actuator may be told."""

    get: tuple[str, ...] = field(
        metadata={"doc": "program and arguments that print the level", "nonempty": True}
    )
    set: tuple[str, ...] = field(
        metadata={"doc": "program and arguments that change it to {level}", "nonempty": True}
    )
    epoch: tuple[str, ...] = field(
        default=(), metadata={"doc": "program that prints what changes when the service restarts"}
    )
    knob: str = field(default="workers", metadata={"doc": "what the level is called"})
    knobs: tuple[str, ...] = field(
        default=(), metadata={"doc": "several, each got and set by itself with {knob}"}
    )
    pointer: str | None = field(
        default=None, metadata={"doc": "where the level is when `get` prints JSON (RFC 6901)"}
    )
    env: dict[str, str] = field(
        default_factory=dict, metadata={"doc": "the programs' environment, beside PATH and LANG"}
    )
    get_timeout: Seconds = field(
        default=0.8, metadata={"doc": "for `get` and for `epoch`; then killed", "above": 0}
    )
    set_timeout: Seconds = field(
        default=10.0, metadata={"doc": "for `set`; then killed with all it started", "above": 0}
    )
    confirm_timeout: Seconds = field(
        default=10.0, metadata={"doc": "from `set` until `get` prints the new level", "above": 0}
    )

    def __post_init__(self) -> None:
        """Refuse what could move nothing, or the wrong thing."""
        if not any(LEVEL in part for part in self.set):
            raise PolicyError(f"set: {LEVEL} stands nowhere in it")
        if self.pointer is not None:
            parse(self.pointer)
        found = names(self.knob, self.knobs)
        get = (*self.get, self.pointer or "")
        check_templates(found, {"get": get, "set": self.set})


class Command(Absolute):
    """What two programs read and move."""

    Options = CommandOptions

    def __init__(self, options: CommandOptions, _pool: str) -> None:
        """Nothing is run yet."""
        knobs = names(options.knob, options.knobs)
        super().__init__(knobs, f"command {' '.join(options.get)}", options.confirm_timeout)
        self._options = options
        self._program = Program(options.env)

    async def _look(self) -> tuple[Mapping[str, int], str]:
        epoch = await self._epoch()
        return {knob: await self._level(knob) for knob in self.knobs}, epoch

    async def _level(self, knob: str) -> int:
        options = self._options
        said = await self._program.output(_filled(options.get, knob), options.get_timeout)
        try:
            if options.pointer is None:
                return level_of(said.decode("utf-8", "replace"))
            tokens = parse(options.pointer.replace(KNOB, knob))
            return level_of(resolve(decode(said), tokens))
        except PlantFault as fault:
            raise PlantFault(f"what it prints: {fault}") from fault

    async def _set(self, knob: str, level: int) -> None:
        options = self._options
        argv = _filled(options.set, knob, level)
        try:
            ended = await self._program.run(argv, options.set_timeout)
        except PermissionError as error:
            raise Refusal(f"{argv[0]}: {error.strerror}: allow poolwright to run it") from error
        if ended.status == _EX_NOPERM:
            raise Refusal(f"{ended}: it may not be done")
        if ended.status:
            raise PlantFault(str(ended))

    async def _epoch(self) -> str:
        options = self._options
        if not options.epoch:
            return UNTOLD
        said = await self._program.output(options.epoch, options.get_timeout)
        text = " ".join(said.decode("utf-8", "replace").split())[:200]
        if not text:
            raise PlantFault(f"epoch: {options.epoch[0]} prints nothing")
        return text


def _filled(template: tuple[str, ...], knob: str, level: int | None = None) -> tuple[str, ...]:
    argv = (part.replace(KNOB, knob) for part in template)
    return tuple(argv if level is None else (part.replace(LEVEL, str(level)) for part in argv))
