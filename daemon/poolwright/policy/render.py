"""A policy as YAML, with the place that each key comes from. Read again it is the same policy.

And what a preset stands for, likewise.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from poolwright.policy.library import Effective
from poolwright.policy.scalars import is_plain
from poolwright.policy.translate import as_written
from poolwright.policy.tree import Listing, Mapping, Node, Scalar

# What stands in no YAML text as it is, or breaks a line of it (YAML 1.1, sections 5.1 and 5.4).
_HIDDEN = re.compile(
    "[^ -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_COLUMN = 44  # where comments begin


def policy_text(effective: Effective) -> str:
    """The effective policy, defaults included."""
    return _text(_mapping(as_written(effective.policy), effective.root, ""))


def parts_text(preset: Mapping, actuator: Mapping, sensors: Sequence[Mapping]) -> str:
    """What a pool's preset stands for, as it would be written, and where each of it comes from."""
    lines = [("actuator:", ""), *_adapter(actuator, preset, "  ")]
    lines += [("sensors:", "")]
    for sensor in sensors:
        (first, note), *rest = _adapter(sensor, preset, "    ")
        lines += [(f"  - {first.lstrip()}", note), *rest]
    return _text(lines)


def _adapter(node: Mapping, preset: Mapping, indent: str) -> Iterator[tuple[str, str]]:
    for key, below in node.entries:
        if isinstance(below, Mapping):
            yield f"{indent}{key.text}:", ""
            yield from _adapter(below, preset, indent + "  ")
            continue
        note = "of the preset" if below.mark == preset.mark else _place(below)
        yield f"{indent}{key.text}: {as_text(below)}", note


def as_text(node: Node) -> str:
    """A value as it may be written in one line."""
    if isinstance(node, Scalar):
        return node.text if node.plain else _leaf(node.text)
    if isinstance(node, Listing):
        return f"[{', '.join(map(as_text, node.items))}]"
    return "{" + ", ".join(f"{key.text}: {as_text(below)}" for key, below in node.entries) + "}"


def flow(value: object) -> str:
    """Plain data (dictionaries and lists of text, numbers, truth and null) in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    return "null" if value is None else _leaf(value)


def _text(lines: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{text:{_COLUMN}} # {note}".rstrip(" #") + "\n" for text, note in lines)


def _mapping(written: dict[str, Any], node: Node | None, indent: str) -> Iterator[tuple[str, str]]:
    """Lines of text, each with the comment behind it."""
    for name, below in written.items():
        under = node.get(name) if isinstance(node, Mapping) else None
        if isinstance(under, Scalar) and under.is_null:
            under = None
        head = f"{indent}{name}:"
        if isinstance(below, dict) and below:
            yield head, ""
            yield from _mapping(below, under, indent + "  ")
        elif isinstance(below, list) and below:
            yield head, ""
            yield from _items(below, under, indent + "  ")
        else:
            yield f"{head} {_leaf(below)}", _place(under)


def _items(written: list[Any], node: Node | None, indent: str) -> Iterator[tuple[str, str]]:
    items = node.items if isinstance(node, Listing) else ()
    for index, below in enumerate(written):
        under = items[index] if index < len(items) else None
        if not isinstance(below, dict):
            yield f"{indent}- {_leaf(below)}", _place(under)
            continue
        for number, (text, note) in enumerate(_mapping(below, under, indent + "  ")):
            yield (f"{indent}- {text.lstrip()}" if number == 0 else text), note


def _leaf(below: Any) -> str:
    if isinstance(below, bool):
        return "true" if below else "false"
    if isinstance(below, str):
        if is_plain(below):
            return below
        text = json.dumps(below, ensure_ascii=False)
        return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if isinstance(below, dict | list):
        return "{}" if isinstance(below, dict) else "[]"
    return repr(below)


def _place(node: Node | None) -> str:
    return "default" if node is None else f"{node.mark.file}:{node.mark.line}"
