"""Where in a file a level stands: the whole of it, a `key = value`, a JSON pointer, a pattern.

Only the digits are ever replaced; every other byte of the file stays as it is.
"""

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from poolwright.actuators.absolute import KNOB, level_of
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.wire.pattern import Match, Pattern, compiled, literal
from poolwright.wire.pointer import parse, span

# name = 8, name: 8, export NAME="8", name 8; then at most a semicolon and a comment
_KEY = r"(?m)^[ \t]*(?:export[ \t]+)?%s(?:[ \t]*[=:][ \t]*|[ \t]+)[\"']?([0-9]{1,9})[\"']?"
_REST = r"[ \t]*(?:;[ \t]*)?(?:[#;].*)?\r?$"  # blanks match in one way only: linear


@dataclass(frozen=True, slots=True)
class Place:
    """How the level of each knob is found; at most one of the three is given."""

    key: str | None
    pointer: str | None
    pattern: str | None

    def check(self, knob: str) -> None:
        """Raises PolicyError."""
        if sum(one is not None for one in (self.key, self.pointer, self.pattern)) > 1:
            raise PolicyError("key, pointer and pattern: at most one of them tells the place")
        if self.pointer is not None:
            parse(self.pointer)
        if self.pattern is not None:
            self._compiled(knob)

    def span(self, text: bytes, knob: str) -> tuple[int, int]:
        """From where to where the digits stand. Raises PlantFault: none, several, no number."""
        if self.pointer is not None:
            found = _in_json(text, self.pointer.replace(KNOB, knob))
        elif self.key is not None:
            name = literal(self.key.replace(KNOB, knob))
            lines = re.compile((_KEY % name + _REST).encode())
            found = _only(lines.finditer(text), f"line `{self.key.replace(KNOB, knob)} = NUMBER`")
        elif self.pattern is not None:
            what = f"match of {self.pattern.replace(KNOB, knob)!r}"
            found = _only(self._compiled(knob).finditer(text), what)
        else:
            found = _trimmed(text)
        level_of(text[slice(*found)].decode("latin-1"))
        return found

    def _compiled(self, knob: str) -> Pattern:
        assert self.pattern is not None
        pattern = compiled(self.pattern.replace(KNOB, literal(knob)), "file")
        if pattern.groups != 1:
            raise PolicyError("pattern: exactly one group, around the level, is wanted: ([0-9]+)")
        return pattern


def _only(matches: Any, what: str) -> tuple[int, int]:
    found: list[Match] = list(islice(matches, 2))
    if len(found) != 1:
        raise PlantFault(f"has {'no' if not found else 'more than one'} {what}")
    return found[0].span(1)


def _in_json(text: bytes, pointer: str) -> tuple[int, int]:
    try:
        words = text.decode()
    except UnicodeDecodeError as error:
        raise PlantFault(f"is no JSON: {error}") from error
    start, end = span(words, parse(pointer))
    if words[start] == '"':  # a number in quotes stays in quotes
        start, end = start + 1, end - 1
    return len(words[:start].encode()), len(words[:end].encode())


def _trimmed(text: bytes) -> tuple[int, int]:
    body = text.strip()
    start = text.find(body)
    return start, start + len(body)
