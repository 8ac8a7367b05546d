"""Moves a level through an HTTP API: GET tells it, PUT, POST or PATCH changes it.

    actuator:
      kind: http
      url: http://127.0.0.1:8080/pool
      pointer: /workers/size
      method: PATCH
      body: '{"workers": {"size": {level}}}'

`{level}` and `{knob}` are replaced in what they stand in. Redirects are not followed, certificates
are checked, a secret goes only over https or to this host, and only to the server of `url`. What a
status of 2xx promises is not believed: the level that GET tells decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.units import Seconds
from poolwright.wire.endpoint import Access, Denied, Endpoint
from poolwright.wire.http import Url
from poolwright.wire.pointer import Tokens, decode, parse, resolve, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions(Access):
    """What an `http` actuator may be told."""

    url: str = field(metadata={"doc": "where GET tells the level, as JSON"})
    pointer: str = field(
        default="", metadata={"doc": "where the level is in it (RFC 6901); default: it is all"}
    )
    set_url: str | None = field(
        default=None, metadata={"doc": "where it is changed, on the same server; default: `url`"}
    )
    method: Literal["PUT", "POST", "PATCH"] = field(
        default="PUT", metadata={"doc": "how it is changed"}
    )
    body: str = field(default="{level}", metadata={"doc": "what is sent"})
    content_type: str = field(default="application/json", metadata={"doc": "of `body`"})
    epoch: str | None = field(
        default=None,
        metadata={"doc": "pointer to what changes at `url` when the service restarts"},
    )
    knob: str = field(default="workers", metadata={"doc": "what the level is called"})
    knobs: tuple[str, ...] = field(
        default=(), metadata={"doc": "several, each got and set by itself with {knob}"}
    )
    timeout: Seconds = field(default=0.8, metadata={"doc": "for a whole GET", "above": 0})
    set_timeout: Seconds = field(default=10.0, metadata={"doc": "for the whole change", "above": 0})
    confirm_timeout: Seconds = field(
        default=10.0, metadata={"doc": "until GET tells the new level", "above": 0}
    )

    def __post_init__(self) -> None:
        """Refuse what could move nothing, or the wrong thing, or tell a secret to others."""
        found = names(self.knob, self.knobs)
        get, put = _url(self.url, found[0]), _url(self.set_url or self.url, found[0])
        if (get.secure, get.host, get.port) != (put.secure, put.host, put.port):
            raise PolicyError(f"set_url: {self.set_url!r} is on another server than url")
        self.check(get)
        if not any(LEVEL in text for text in (self.body, self.set_url or "")):
            raise PolicyError(f"body: {LEVEL} stands nowhere in it, nor in set_url")
        if self.content_type == "application/json" and self.body:
            try:
                decode(_filled(self.body, found[0], 1).encode())
            except PlantFault as fault:
                raise PolicyError(f"body: {fault}") from fault
        if not all(" " <= letter <= "~" for letter in self.content_type):
            raise PolicyError("content_type: holds what no header may hold")
        for pointer in (self.pointer, self.epoch or ""):
            parse(pointer)
        put_parts = (self.body, self.set_url or self.url)
        check_templates(found, {"url": (self.url, self.pointer), "body": put_parts})


class Http(Absolute):
    """What an HTTP API reads and moves."""

    Options = HttpOptions

    def __init__(self, options: HttpOptions, _pool: str) -> None:
        """Nothing is asked yet."""
        knobs = names(options.knob, options.knobs)
        super().__init__(knobs, f"http {options.url}", options.confirm_timeout)
        self._options = options
        self._endpoint = Endpoint(_url(options.url, knobs[0]), options)

    async def _look(self) -> tuple[Mapping[str, int], str]:
        levels, epoch = {}, UNTOLD
        for knob in self.knobs:
            said = await self._document(knob)
            pointer = parse(self._options.pointer.replace(KNOB, knob))
            levels[knob] = level_of(resolve(said, pointer))
            if self._options.epoch is not None:
                epoch = self._epoch(said, parse(self._options.epoch))
        return levels, epoch

    async def _document(self, knob: str) -> Any:
        options = self._options
        return await self._endpoint.json(options.timeout, _url(options.url, knob).target)

    @staticmethod
    def _epoch(said: Any, pointer: Tokens) -> str:
        found = resolve(said, pointer)
        if not isinstance(found, str | int | float) or found == "":
            raise PlantFault(f"epoch: {shown(pointer)} leads to no text or number")
        return str(found)[:200]

    async def _set(self, knob: str, level: int) -> None:
        options = self._options
        target = _url(options.set_url or options.url, knob, level).target
        try:
            await self._endpoint.ask(
                options.method,
                options.set_timeout,
                target=target,
                body=_filled(options.body, knob, level).encode(),
                content_type=options.content_type,
            )
        except Denied as denied:
            raise Refusal(f"{denied}; give an auth_file that may change it") from denied


def _filled(template: str, knob: str, level: int) -> str:
    return template.replace(KNOB, knob).replace(LEVEL, str(level))


def _url(template: str, knob: str, level: int = 1) -> Url:
    """Raises PolicyError."""
    return Url.parse(_filled(template, knob, level), secure=True)
