"""A policy as YAML, with the place that each key comes from. Read again it is the same policy."""

import json
import re
from collections.abc import Iterator
from typing import Any

from poolwright.policy.library import Effective
from poolwright.policy.translate import as_written
from poolwright.policy.tree import Listing, Mapping, Node, Scalar

# Text that YAML and `policy.bind` read as text without quotes; a number with a unit is such a text.
_PLAIN = re.compile(r"[a-z][a-z0-9_-]*|[0-9]+(?:\.[0-9]+)?(?:us|ms|s|m|h|d|%)")
# What stands in no YAML text as it is, or breaks a line of it (YAML 1.1, sections 5.1 and 5.4).
_HIDDEN = re.compile(
    "[^ -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
_COLUMN = 44  # where comments begin


def policy_text(effective: Effective) -> str:
    """The effective policy, defaults included."""
    lines = _mapping(as_written(effective.policy), effective.root, "")
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
        if _PLAIN.fullmatch(below) and below not in _WORDS:
            return below
        text = json.dumps(below, ensure_ascii=False)
        return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if isinstance(below, dict | list):
        return "{}" if isinstance(below, dict) else "[]"
    return repr(below)


def _place(node: Node | None) -> str:
    return "default" if node is None else f"{node.mark.file}:{node.mark.line}"
