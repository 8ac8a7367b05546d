"""Plain values as they stand in YAML: text, whole numbers, numbers, true and false.

A reader gives the value, or raises ValueError with a text for the author of the file. What only
looks right is refused: YAML 1.1 reads `no` as false, 010 as 8 and 1:30 as 90.
"""

import math
import re
from collections.abc import Callable
from typing import Any

from poolwright.policy.tree import Scalar

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_TEXT = re.compile(r"~|null|true|false|yes|no|on|off|[-+]?\.(?:inf|nan)", re.IGNORECASE)

# Text that YAML and this module read as text without quotes; a number with a unit is such a text.
_PLAIN = re.compile(r"[a-z][a-z0-9_.@-]*|/[\w./@-]*[\w/]|[0-9]+(?:\.[0-9]+)?(?:us|ms|s|m|h|d|%)")
_NOT_PLAIN = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")


def is_plain(text: str) -> bool:
    """Whether a text may stand without quotes."""
    return _PLAIN.fullmatch(text) is not None and text not in _NOT_PLAIN


def _read_text(node: Scalar) -> str:
    if not node.plain:
        return node.text
    if not node.text:
        raise ValueError("is not a text")
    if FLOAT.fullmatch(node.text) or _NOT_TEXT.fullmatch(node.text):
        raise ValueError(f'is not a text; in quotes it is: "{node.text}"')
    return node.text


def _read_int(node: Scalar) -> int:
    if node.plain and _INT.fullmatch(node.text):
        return int(node.text)
    if not node.plain and _INT.fullmatch(node.text):
        raise ValueError("is text; a number stands without quotes")
    raise ValueError("is not a whole number")


def _read_float(node: Scalar) -> float:
    if not FLOAT.fullmatch(node.text):
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


READERS: dict[Any, Callable[[Scalar], Any]] = {
    str: _read_text,
    int: _read_int,
    float: _read_float,
    bool: _read_bool,
}
