"""JSON from strangers, and RFC 6901 pointers into it."""

import json
from typing import Any

import msgspec

from poolwright.core.errors import PlantFault, PolicyError

Tokens = tuple[str, ...]
_INDEX_DIGITS = 9


def parse(pointer: str) -> Tokens:
    """The tokens of a pointer: `/a/b~1c/0` is a, b/c, 0. Raises PolicyError for what is none."""
    if not pointer:
        return ()
    tilde = pointer.replace("~0", "").replace("~1", "")
    if not pointer.startswith("/") or "~" in tilde:
        raise PolicyError(
            f"pointer: {pointer!r} is no JSON pointer such as /pool/size (RFC 6901; "
            "~1 stands for a slash in a name, ~0 for a tilde)"
        )
    return tuple(t.replace("~1", "/").replace("~0", "~") for t in pointer[1:].split("/"))


def decode(text: bytes) -> Any:
    """A whole JSON document. Raises PlantFault saying what is wrong with it."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlantFault(f"is no JSON: {error}") from error


def resolve(document: Any, tokens: Tokens) -> Any:
    """What is at `tokens`. Raises PlantFault naming how far they lead."""
    for depth, token in enumerate(tokens):
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list) and _is_index(token) and int(token) < len(document):
            document = document[int(token)]
        else:
            raise PlantFault(f"has nothing at {shown(tokens[: depth + 1])}")
    return document


def shown(tokens: Tokens) -> str:
    """The pointer of `tokens`, for people and for `parse`."""
    return "".join("/" + t.replace("~", "~0").replace("/", "~1") for t in tokens) or "the top"


def span(text: str, tokens: Tokens) -> tuple[int, int]:
    """Where in the JSON document `text` the value at `tokens` stands.

    So a value is changed and every other byte is left. Raises PlantFault: no JSON, nothing there.
    """
    decode(text.encode())
    json_at = json.JSONDecoder()
    at = _blank(text, 0)
    for depth, token in enumerate(tokens):
        found: int | None = None  # of a key that is there twice the last counts, as for readers
        members, is_object = text[at] in "{[", text[at] == "{"
        at, index = _blank(text, at + 1), 0
        while members and text[at] not in "}]":
            name: Any = str(index)
            if is_object:
                name, at = json_at.raw_decode(text, at)
                at = _blank(text, _blank(text, at) + 1)  # past the colon
            if name == token:
                found = at
            at = _blank(text, json_at.raw_decode(text, at)[1])
            at, index = _blank(text, at + (text[at] == ",")), index + 1
        if found is None:
            raise PlantFault(f"has nothing at {shown(tokens[: depth + 1])}")
        at = found
    return at, json_at.raw_decode(text, at)[1]


def _is_index(word: str) -> bool:
    plain = word.isascii() and word.isdigit() and len(word) <= _INDEX_DIGITS
    return plain and str(int(word)) == word


def _blank(text: str, at: int) -> int:
    while text[at : at + 1] in {" ", "\t", "\n", "\r"}:
        at += 1
    return at
