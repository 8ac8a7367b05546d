"""A YAML file as a tree that knows where everything was written.

PyYAML parses (with libyaml where it is built in); the tree is made here from its events, because
three things are wanted that `yaml.safe_load` and `yaml.compose` do not give: every key and value
with its line and column; text told from numbers by how it was written (YAML 1.1 reads `no` as
false, 010 as 8 and 1:30 as 90); and a refusal of aliases and tags, which can hide what a file says.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from poolwright.core.errors import PlantFault, PolicyError

_LARGEST = 1 << 20  # bytes of a file; a policy is a page long
_DEEPEST = 16  # levels of nesting; the schema needs seven
# YAML 1.1, section 5.1: what a YAML text may consist of.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something stands, counted from 1 as editors do."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        """`FILE:LINE:COL`, which editors and terminals turn into a link."""
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as it was written; `plain` when it stood without quotes."""

    mark: Mark
    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        """Whether it says that there is nothing."""
        return self.plain and self.text in ("null", "~")


@dataclass(frozen=True, slots=True)
class Listing:
    """`- a` or `[a, b]`; `fresh` when it replaces what it is laid over (`policy.layers`)."""

    mark: Mark
    items: tuple["Node", ...]
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Mapping:
    """`key: value` pairs in the order of the file; keys are distinct; `fresh` as of a Listing."""

    mark: Mark
    entries: tuple[tuple[Scalar, "Node"], ...]
    fresh: bool = False

    def key(self, name: str) -> Scalar | None:
        """The key of that name as it stands in the file."""
        return next((key for key, _ in self.entries if key.text == name), None)

    def get(self, name: str) -> "Node | None":
        """The value under `name`."""
        return next((node for key, node in self.entries if key.text == name), None)


Node = Scalar | Listing | Mapping


class Problems:
    """What is wrong with a file, collected so that its author sees all of it at once."""

    def __init__(self) -> None:
        self._found: dict[tuple[Mark, str], None] = {}  # a dictionary: in order, nothing twice
        self._sealed: set[Mark] = set()
        self.notes: dict[str, None] = {}  # what has no place of its own here

    def add(self, mark: Mark, message: str) -> None:
        """Note one thing that is wrong."""
        if mark not in self._sealed:
            self._found[mark, message] = None

    def seal(self) -> None:
        """What is noted by now is the whole truth of its places: hear nothing more of them."""
        self._sealed.update(mark for mark, _ in self._found)

    def note(self, message: str) -> None:
        """Note something that has no place in a file, or names its own."""
        self.notes[message] = None

    def absorb(self, other: "Problems") -> None:
        """Note all that `other` holds."""
        self.notes.update(other.notes)
        for mark, message in other:
            self.add(mark, message)

    def ignore(self, other: "Problems") -> None:
        """Hear nothing of the places of which `other` tells."""
        self._sealed.update(mark for mark, _ in other)

    def __iter__(self) -> Iterator[tuple[Mark, str]]:
        """What has a place, in the order in which it was noted."""
        return iter(self._found)

    def __bool__(self) -> bool:
        """Whether anything was noted."""
        return bool(self._found or self.notes)

    def check(self) -> None:
        """Raise PolicyError with everything noted, in the order of the files; else do nothing."""
        if self:
            ordered = sorted(self._found, key=lambda p: (p[0].file, p[0].line, p[0].column))
            placed = [f"{mark}: {message}" for mark, message in ordered]
            raise PolicyError("\n".join([*self.notes, *placed]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file: its tree, what is wrong with it as YAML, the SHA-256 of its bytes (hexadecimal)."""

    root: Node
    problems: Problems
    sha256: str


def read_document(path: Path) -> Document:
    """The tree of a YAML file.

    Raises PlantFault when it cannot be read and PolicyError, with a position, when it is not one
    YAML document in UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise PlantFault(f"{path}: cannot be read: {error.strerror}") from error
    return parse_document(raw, str(path))


def parse_document(raw: bytes, file: str) -> Document:
    """The tree of the bytes of a YAML file; PolicyError with a position when they are not YAML.

    What is YAML and still not wanted (an alias, a key twice) is noted in `problems`, so that it is
    reported together with what the schema finds.
    """
    if len(raw) > _LARGEST:
        raise PolicyError(f"{file}:1:1: the file is larger than {_LARGEST} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = _mark_at(raw[: error.start].decode("utf-8-sig", "replace"), file)
        raise PolicyError(f"{mark}: byte 0x{raw[error.start]:02x} is not UTF-8 text") from error
    if (found := _UNPRINTABLE.search(text)) is not None:
        mark = _mark_at(text[: found.start()], file)
        raise PolicyError(f"{mark}: {found[0]!a} is a control character; YAML allows none")
    problems = Problems()
    try:
        root = _Composer(yaml.parse(text, Loader=_LOADER), file, problems).document()
    except yaml.MarkedYAMLError as error:
        raise PolicyError(_syntax_error(error, text, file)) from error
    problems.seal()
    return Document(root=root, problems=problems, sha256=hashlib.sha256(raw).hexdigest())


def _mark_at(before: str, file: str) -> Mark:
    return Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> str:
    where = error.problem_mark or error.context_mark
    mark = Mark(file, where.line + 1, where.column + 1) if where else Mark(file, 1, 1)
    line = "".join(text.split("\n")[mark.line - 1 : mark.line])
    if "\t" in line[: len(line) - len(line.lstrip())]:
        at = Mark(file, mark.line, line.index("\t") + 1)
        return f"{at}: a tab; YAML is indented with spaces"
    parts = [part for part in (error.context, error.problem) if part]
    return f"{mark}: not YAML: {', '.join(parts)}: {line.strip()!r}"


class _Composer:
    """Makes the tree out of the parser's events."""

    def __init__(self, events: Iterator[Any], file: str, problems: Problems) -> None:
        self._events = events
        self._file = file
        self._problems = problems

    def document(self) -> Node:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise PolicyError(f"{self._file}:1:1: the file is empty")
        root = self._node(next(self._events), 1)
        next(self._events)  # the end of the document
        further = next(self._events)
        if not isinstance(further, yaml.StreamEndEvent):
            self._problems.add(self._mark(further), "a second document; a file holds one")
        return root

    def _mark(self, event: Any) -> Mark:
        return Mark(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _node(self, event: Any, depth: int) -> Node:
        mark = self._mark(event)
        if depth > _DEEPEST:
            raise PolicyError(f"{mark}: nested more than {_DEEPEST} deep")
        if isinstance(event, yaml.AliasEvent):
            self._problems.add(mark, f"an alias, *{event.anchor}; write the value out")
            return Scalar(mark, "", plain=True)
        if event.tag is not None and event.tag != "!":
            self._problems.add(mark, f"a tag, {event.tag}; tags have no meaning here")
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(mark, event.value, plain=event.style in (None, ""))
        if isinstance(event, yaml.SequenceStartEvent):
            return Listing(mark, tuple(self._items(depth)))
        return Mapping(mark, tuple(self._entries(depth)))

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _entries(self, depth: int) -> Iterator[tuple[Scalar, Node]]:
        seen: dict[str, Mark] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key, Scalar):
                self._problems.add(key.mark, "a key is a plain name")
            elif key.text in seen:
                first = seen[key.text]
                self._problems.add(
                    key.mark, f"{key.text!r} stands twice, first in line {first.line}"
                )
            else:
                seen[key.text] = key.mark
                yield key, value
