"""Binds a tree of YAML to a frozen dataclass by its annotations, and collects all that is wrong.

Fields may be str, int, float, bool, the quantities of `core.units`, Literal, StrEnum,
tuple[X, ...], dict[str, X], X | None, another dataclass, or a class with a `bind_node` of its own.
Metadata of a field: `doc` (for the JSON Schema), `min` and `max` (inclusive), `above` and `below`
(exclusive), `pattern` (a regular expression for a str; `says` words its failure), `keys` (the
names a dictionary may have), `keys_like` (a regular expression of further names; on a field of a
dataclass without `keys`: the field is a dictionary of the keys that look like it, of which
`examples` names some), `nonempty`, `unless` (the field
that it may be left out with, for the JSON Schema).

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
from poolwright.policy import quantities, scalars
from poolwright.policy.tree import Listing, Mapping, Mark, Node, Problems, Scalar

T = TypeVar("T")

_RANGES: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "min": (operator.ge, "less than"),
    "max": (operator.le, "more than"),
    "above": (operator.gt, "not more than"),
    "below": (operator.lt, "not less than"),
}
_UNBOUND: Any = object()  # what a node gives that could not be bound
_ABSENT: Any = object()  # what a field is given that is not written


@dataclasses.dataclass(frozen=True, slots=True)
class Contradiction:
    """Fields that are each well formed and together make no sense.

    `at` leads from the dataclass to the node to point at; `uses` names the fields it rests on: when
    one of them could not be bound, nothing is said. `{other}` in the message stands for the place
    of the node at `other`.
    """

    at: tuple[str | int, ...]
    uses: tuple[str, ...]
    message: str
    other: tuple[str | int, ...] = ()


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


def bind(
    node: Node,
    kind: type[T],
    problems: Problems,
    base: Path,
    skip: str = "",
    *,
    null_removes: bool = False,
) -> T | None:
    """`node` as an instance of the dataclass `kind`; None when `problems` has grown.

    Relative paths are resolved against `base`. The key `skip` is not looked at. With `null_removes`
    a key given as null counts as not given.
    """
    bound = Binder(problems, base, null_removes=null_removes).dataclass(node, kind, "", skip)
    return None if bound is _UNBOUND else typing.cast("T", bound)


def look_over(
    node: Node, kind: type, problems: Problems, base: Path, *, null_removes: bool
) -> None:
    """Note what is wrong with a part of a `kind` whose other parts stand in other files."""
    Binder(problems, base, null_removes=null_removes, partial=True).dataclass(node, kind, "")


class Binder:
    """One pass over one tree. Methods give the value, or `_UNBOUND` after noting a problem."""

    def __init__(
        self, problems: Problems, base: Path, *, null_removes: bool = False, partial: bool = False
    ) -> None:
        """With `partial` what is missing is not wrong, and the whole is not judged."""
        self.problems = problems
        self.base = base
        self._null_removes = null_removes
        self._partial = partial

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
            values[spec.name] = self._field(node, spec, where)
            if values[spec.name] is _ABSENT:
                del values[spec.name]
            elif values[spec.name] is _UNBOUND:
                unbound.add(spec.name)
                values[spec.name] = None if spec.required else spec.default
        if any(spec.required and spec.name in unbound for spec in specs):
            return _UNBOUND
        try:
            made = kind(**values)
        except (PolicyError, ValueError) as error:  # a `__post_init__` that refuses
            return _UNBOUND if unbound else self.refuse(node.mark, where, str(error))
        if self._partial and not where:
            return _UNBOUND
        sound = not unbound
        for wrong in _contradictions(made):
            elsewhere = self._partial and any(node.get(use) is None for use in wrong.uses)
            if not elsewhere and not unbound.intersection(wrong.uses):
                self._contradiction(node, wrong, where)
                sound = False
        return made if sound else _UNBOUND

    def _contradiction(self, node: Mapping, wrong: Contradiction, where: str) -> None:
        """Note it, with the places of what it rests on in other files."""
        mark = _mark_of(node, wrong.at)
        message = wrong.message.replace("{other}", str(_mark_of(node, wrong.other)))
        uses = [node.get(use) for use in wrong.uses if use not in wrong.at[:1]]
        elsewhere = [
            str(use.mark) for use in uses if use is not None and use.mark.file != mark.file
        ]
        if elsewhere and not wrong.other:
            message += f"; see {' and '.join(dict.fromkeys(elsewhere))}"
        self.refuse(mark, _join(where, *wrong.at), message)

    def _field(self, node: Mapping, spec: FieldSpec, where: str) -> Any:
        """What a field is given; `_ABSENT` when its default is wanted."""
        if collects(spec):
            like = re.compile(spec.metadata["keys_like"])
            found = tuple(entry for entry in node.entries if like.fullmatch(entry[0].text))
            return self.value(Mapping(node.mark, found), spec.annotation, where, spec)
        below = node.get(spec.name)
        if below is not None and not self._removed(below):
            return self.value(below, spec.annotation, _join(where, spec.name), spec)
        if not spec.required:
            return _ABSENT
        if self._partial:
            return _UNBOUND
        mark = node.mark if below is None else below.mark
        removed = "" if below is None else "; null removes it here"
        return self.refuse(mark, where, f"{spec.name!r} is missing{removed}")

    def _removed(self, node: Node) -> bool:
        return self._null_removes and isinstance(node, Scalar) and node.is_null

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
        whole = Binder(self.problems, self.base)  # items are not merged: each is complete
        items = [
            whole.value(item, args[0], _join(where, index), spec)
            for index, item in enumerate(node.items)
        ]
        return _UNBOUND if _UNBOUND in items else tuple(items)

    def _dict(self, node: Node, annotation: Any, where: str, spec: FieldSpec) -> Any:
        if not isinstance(node, Mapping):
            return self._no_mapping(node, where)
        if spec.metadata.get("nonempty") and not node.entries:
            return self.refuse(node.mark, where, "is empty; at least one is wanted")
        known = spec.metadata.get("keys")
        like = spec.metadata.get("keys_like", "")
        bound = {}
        for key, below in node.entries:
            if known and key.text not in known and not re.fullmatch(like, key.text):
                bound[key.text] = self.refuse(
                    key.mark, where, f"unknown key {key.text!r}{suggestion(key.text, known)}"
                )
            elif not self._removed(below):
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
        reader = scalars.READERS.get(annotation)
        if reader is None:
            raise TypeError(f"no binding for fields of type {annotation}")
        return reader(node)

    def _quantity(self, node: Scalar, kind: str) -> Any:
        if not node.text and node.plain:
            raise ValueError(f"is not {quantities.EXAMPLES[kind]}")
        if not node.plain and kind in quantities.BARE and scalars.FLOAT.fullmatch(node.text):
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
        specs = field_specs(kind)
        known = [spec.name for spec in specs if not collects(spec)]
        like = "|".join(spec.metadata["keys_like"] for spec in specs if collects(spec))
        for spec in specs:
            known += spec.metadata.get("examples", ())
        refused: dict[str, str] = getattr(kind, "REFUSED", {})
        for key, _ in node.entries:
            if key.text in refused:
                self.refuse(key.mark, _join(where, key.text), refused[key.text])
            elif key.text == "<<":
                self.refuse(key.mark, where, "a merge key, <<; write the keys out")
            elif key.text not in {*known, skip} and not re.fullmatch(like, key.text):
                hint = suggestion(key.text, known)
                self.refuse(key.mark, where, f"unknown key {key.text!r}{hint}")


def quantity_of(annotation: Any) -> str | None:
    """The kind of quantity of an annotation of `core.units`, else None."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Quantity):
            return extra.kind
    return None


def collects(spec: FieldSpec) -> bool:
    """Whether a field is no key but collects the keys of its mapping that look alike."""
    return "keys_like" in spec.metadata and "keys" not in spec.metadata


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
