"""Binds a tree of YAML to a frozen dataclass by its annotations, and collects all that is wrong.

Fields may be str, int, float, bool, the quantities of `core.units`, Literal, StrEnum,
tuple[X, ...], dict[str, X], X | None, another dataclass, or a class with a `bind_node` of its own.
Metadata of a field: `doc` (for the JSON Schema), `min` and `max` (inclusive), `above` and `below`
(exclusive), `pattern` (a regular expression for a str; `says` words its failure), `keys` (the
names a dictionary may have), `nonempty`.

A dataclass may have `contradictions()`, which yields what its fields together get wrong, with
places (a PolicyError or ValueError of its `__post_init__` points at the whole), and `REFUSED`, a
dictionary of keys that deserve an explanation rather than "unknown".
"""

import dataclasses
import difflib
import functools
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable
from collections.abc import Mapping as Named
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

from poolwright.core.errors import PolicyError
from poolwright.core.units import Quantity
from poolwright.policy import quantities
from poolwright.policy.tree import Listing, Mapping, Mark, Node, Problems, Scalar

T = TypeVar("T")

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_TEXT = re.compile(r"~|null|true|false|yes|no|on|off|[-+]?\.(?:inf|nan)", re.IGNORECASE)
_RANGES: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "min": (operator.ge, "less than"),
    "max": (operator.le, "more than"),
    "above": (operator.gt, "not more than"),
    "below": (operator.lt, "not less than"),
}
_UNBOUND: Any = object()  # what a node gives that could not be bound


@dataclasses.dataclass(frozen=True, slots=True)
class Contradiction:
    """Fields that are each well formed and together make no sense.

    `at` leads from the dataclass to the node to point at; `uses` names the fields it rests on: when
    one of them could not be bound, nothing is said.
    """

    at: tuple[str | int, ...]
    uses: tuple[str, ...]
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class FieldSpec:
    """A field of a dataclass with its annotation resolved."""

    name: str
    annotation: Any
    metadata: Named[str, Any]
    required: bool
    default: Any


@functools.cache
def field_specs(kind: type) -> tuple[FieldSpec, ...]:
    """The fields of a dataclass, in order. TypeError when `kind` is not a dataclass."""
    hints = typing.get_type_hints(kind, include_extras=True)
    specs = []
    for field in dataclasses.fields(kind):
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        required = default is dataclasses.MISSING
        specs.append(FieldSpec(field.name, hints[field.name], field.metadata, required, default))
    return tuple(specs)


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` when a known word is near, else the list of what there is."""
    words = list(known)
    near = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(words)}"


def bind(node: Node, kind: type[T], problems: Problems, base: Path, skip: str = "") -> T | None:
    """`node` as an instance of the dataclass `kind`; None when `problems` has grown.

    Relative paths are resolved against `base`. The key `skip` is not looked at.
    """
    bound = Binder(problems, base).dataclass(node, kind, "", skip)
    return None if bound is _UNBOUND else typing.cast("T", bound)


class Binder:
    """One pass over one tree. Methods give the value, or `_UNBOUND` after noting a problem."""

    def __init__(self, problems: Problems, base: Path) -> None:
        self.problems = problems
        self.base = base

    def refuse(self, mark: Mark, where: str, message: str) -> Any:
        """Note a problem of the key path `where`."""
        self.problems.add(mark, f"{where}: {message}" if where else message)
        return _UNBOUND

    def dataclass(self, node: Node, kind: type, where: str, skip: str = "") -> Any:
        """Bind a mapping to a dataclass, unknown and missing keys and contradictions included."""
        if not isinstance(node, Mapping):
            return self._no_mapping(node, where)
        specs = field_specs(kind)
        self._unknown_keys(node, kind, where, skip)
        values: dict[str, Any] = {}
        unbound: set[str] = set()
        for spec in specs:
            below = node.get(spec.name)
            if below is not None:
                values[spec.name] = self.value(
                    below, spec.annotation, _join(where, spec.name), spec
                )
            elif spec.required:
                values[spec.name] = self.refuse(node.mark, where, f"{spec.name!r} is missing")
            if values.get(spec.name) is _UNBOUND:
                unbound.add(spec.name)
                values[spec.name] = None if spec.required else spec.default
        if any(spec.required and spec.name in unbound for spec in specs):
            return _UNBOUND
        try:
            made = kind(**values)
        except (PolicyError, ValueError) as error:  # a `__post_init__` that refuses
            return _UNBOUND if unbound else self.refuse(node.mark, where, str(error))
        sound = not unbound
        for wrong in _contradictions(made):
            if not unbound.intersection(wrong.uses):
                self.refuse(_mark_of(node, wrong.at), _join(where, *wrong.at), wrong.message)
                sound = False
        return made if sound else _UNBOUND

    def value(self, node: Node, annotation: Any, where: str, spec: FieldSpec) -> Any:
        """Bind a node by an annotation. TypeError for an annotation that is not supported."""
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (types.UnionType, typing.Union):
            return self._optional(node, args, where, spec)
        if hasattr(annotation, "bind_node"):
            return annotation.bind_node(node, self, where) or _UNBOUND
        if dataclasses.is_dataclass(annotation):
            return self.dataclass(node, typing.cast("type", annotation), where)
        if origin is tuple:
            return self._tuple(node, args, where, spec)
        if origin is dict:
            return self._dict(node, args[1], where, spec)
        if not isinstance(node, Scalar):
            kind = "a list" if isinstance(node, Listing) else "a mapping"
            return self.refuse(node.mark, where, f"is {kind}; one value is wanted")
        return self._scalar(node, annotation, where, spec)

    def _no_mapping(self, node: Node, where: str) -> Any:
        if isinstance(node, Scalar) and node.plain and not node.text:
            return self.refuse(node.mark, where, "is empty; write its keys, or leave it out")
        return self.refuse(node.mark, where, f"{_shown(node)} is not a mapping of keys")

    def _optional(self, node: Node, args: tuple[Any, ...], where: str, spec: FieldSpec) -> Any:
        inner = [arg for arg in args if arg is not types.NoneType]
        if len(inner) != 1 or len(args) != 2:
            raise TypeError(f"{where}: a union may only be X | None, not {args}")
        if isinstance(node, Scalar) and node.plain and node.text in ("null", "~"):
            return None
        return self.value(node, inner[0], where, spec)

    def _tuple(self, node: Node, args: tuple[Any, ...], where: str, spec: FieldSpec) -> Any:
        if not isinstance(node, Listing):
            return self.refuse(node.mark, where, f"{_shown(node)} is not a list")
        if spec.metadata.get("nonempty") and not node.items:
            return self.refuse(node.mark, where, "is empty; at least one is wanted")
        items = [
            self.value(item, args[0], _join(where, index), spec)
            for index, item in enumerate(node.items)
        ]
        return _UNBOUND if _UNBOUND in items else tuple(items)

    def _dict(self, node: Node, annotation: Any, where: str, spec: FieldSpec) -> Any:
        if not isinstance(node, Mapping):
            return self._no_mapping(node, where)
        if spec.metadata.get("nonempty") and not node.entries:
            return self.refuse(node.mark, where, "is empty; at least one is wanted")
        known = spec.metadata.get("keys")
        bound = {}
        for key, below in node.entries:
            if known is not None and key.text not in known:
                bound[key.text] = self.refuse(
                    key.mark, where, f"unknown key {key.text!r}{suggestion(key.text, known)}"
                )
            else:
                bound[key.text] = self.value(below, annotation, _join(where, key.text), spec)
        return _UNBOUND if _UNBOUND in bound.values() else bound

    def _scalar(self, node: Scalar, annotation: Any, where: str, spec: FieldSpec) -> Any:
        try:
            value = self._read(node, annotation)
            _check_range(value, spec.metadata, annotation)
        except ValueError as error:
            return self.refuse(node.mark, where, f"{_shown(node)} {error}")
        return value

    def _read(self, node: Scalar, annotation: Any) -> Any:
        quantity = quantity_of(annotation)
        if quantity is not None:
            return self._quantity(node, quantity)
        if typing.get_origin(annotation) is Literal:
            return _one_of(node, typing.get_args(annotation))
        if isinstance(annotation, type) and issubclass(annotation, StrEnum):
            return annotation(_one_of(node, [str(member) for member in annotation]))
        reader = _READERS.get(annotation)
        if reader is None:
            raise TypeError(f"no binding for fields of type {annotation}")
        return reader(node)

    def _quantity(self, node: Scalar, kind: str) -> Any:
        if not node.text and node.plain:
            raise ValueError(f"is not {quantities.EXAMPLES[kind]}")
        if not node.plain and kind in quantities.BARE and _FLOAT.fullmatch(node.text):
            raise ValueError("is text; a number stands without quotes")
        value = quantities.parse(kind, node.text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("is not a finite number")
        return self._resolved(str(value)) if kind == "path" else value

    def _resolved(self, path: str) -> str:
        scheme, bare = ("unix:", path[5:]) if path.startswith("unix:") else ("", path)
        if bare.startswith("@"):  # an abstract socket has no folder
            return path
        return f"{scheme}{self.base / bare}"

    def _unknown_keys(self, node: Mapping, kind: type, where: str, skip: str) -> None:
        known = [spec.name for spec in field_specs(kind)]
        refused: dict[str, str] = getattr(kind, "REFUSED", {})
        for key, _ in node.entries:
            if key.text in refused:
                self.refuse(key.mark, _join(where, key.text), refused[key.text])
            elif key.text == "<<":
                self.refuse(key.mark, where, "a merge key, <<; write the keys out")
            elif key.text not in known and key.text != skip:
                hint = suggestion(key.text, known)
                self.refuse(key.mark, where, f"unknown key {key.text!r}{hint}")


def quantity_of(annotation: Any) -> str | None:
    """The kind of quantity of an annotation of `core.units`, else None."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Quantity):
            return extra.kind
    return None


def _contradictions(made: Any) -> Iterable[Contradiction]:
    found: Callable[[], Iterable[Contradiction]] | None = getattr(made, "contradictions", None)
    return () if found is None else found()


def _mark_of(node: Mapping, at: tuple[str | int, ...]) -> Mark:
    """Where the value under the keys and indices `at` stands, or the nearest thing above it."""
    reached: Node = node
    for key in at:
        below: Node | None = None
        if isinstance(reached, Mapping):
            below = reached.get(str(key))
        elif isinstance(reached, Listing) and isinstance(key, int):
            below = reached.items[key]
        if below is None:
            break
        reached = below
    return reached.mark


def _join(where: str, *keys: str | int) -> str:
    for key in keys:
        where += f"[{key}]" if isinstance(key, int) else f".{key}" if where else key
    return where


def _shown(node: Node) -> str:
    if isinstance(node, Scalar):
        text = node.text if len(node.text) <= 60 else node.text[:57] + "..."
        return repr(text) if node.text or not node.plain else "nothing"
    return "a list" if isinstance(node, Listing) else "a mapping"


def _check_range(value: Any, metadata: Named[str, Any], annotation: Any) -> None:
    pattern = metadata.get("pattern")
    if pattern is not None and not re.fullmatch(pattern, str(value)):
        raise ValueError(metadata.get("says", f"does not match {pattern}"))
    if not isinstance(value, int | float):
        return
    kind = quantity_of(annotation)
    for name, (holds, words) in _RANGES.items():
        bound = metadata.get(name)
        if bound is not None and not holds(value, bound):
            shown = quantities.render(kind, bound) if kind else bound
            raise ValueError(f"is {words} {shown}")


def _one_of(node: Scalar, known: Iterable[Any]) -> Any:
    for word in known:
        if node.text == str(word) and (node.plain or isinstance(word, str)):
            return word
    raise ValueError(f"is not known here{suggestion(node.text, [str(word) for word in known])}")


def _read_text(node: Scalar) -> str:
    if not node.plain:
        return node.text
    if not node.text:
        raise ValueError("is not a text")
    if _FLOAT.fullmatch(node.text) or _NOT_TEXT.fullmatch(node.text):
        raise ValueError(f'is not a text; in quotes it is: "{node.text}"')
    return node.text


def _read_int(node: Scalar) -> int:
    if node.plain and _INT.fullmatch(node.text):
        return int(node.text)
    if not node.plain and _INT.fullmatch(node.text):
        raise ValueError("is text; a number stands without quotes")
    raise ValueError("is not a whole number")


def _read_float(node: Scalar) -> float:
    if not _FLOAT.fullmatch(node.text):
        raise ValueError("is not a number")
    if not node.plain:
        raise ValueError("is text; a number stands without quotes")
    value = float(node.text)
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    return value


def _read_bool(node: Scalar) -> bool:
    if node.plain and node.text in ("true", "false"):
        return node.text == "true"
    raise ValueError("is neither true nor false")


_READERS: dict[Any, Any] = {
    str: _read_text,
    int: _read_int,
    float: _read_float,
    bool: _read_bool,
}
