"""Numbers with units as a person writes them, and back.

`parse(kind, text)` gives the number in the base unit of `core.units`; `render(kind, value)` gives a
text that parses to the same number. Decimal units are converted by their exponent, so that `250ms`
is the float nearest to 0.25 and `85%` the float nearest to 0.85.
"""

import math
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

from poolwright.core.units import Quantity
from poolwright.policy import calendar
from poolwright.policy.relations import parse_relation

Instant = Annotated[int, Quantity("instant")]  # UTC nanoseconds: 2027-01-01T00:00:00Z
QuietText = Annotated[str, Quantity("quiet")]  # Mon-Fri 09:00-10:00 Europe/Berlin
RelationText = Annotated[str, Quantity("relation")]  # workers * threads <= 200

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")
_BYTES = re.compile(r"([0-9]+)(?:\.([0-9]+))?(B|[kKMGT]B|[KMGT]iB)")
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(s|m|h)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_INSTANT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.([0-9]{1,9}))?"
    r" ?(Z|z|[-+][0-9]{2}:[0-9]{2})?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_S = 2**63 // 10**9 - 86400  # what 64 bits of nanoseconds can hold
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_-]+)*"
)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DECIMAL = {"us": "e-6", "ms": "e-3", "s": ""}
_BYTE_UNITS: dict[str, int] = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_LONGEST = 40  # characters; a longer number is a slip, and int() of it would be slow

# Regular expressions of the spellings, for the JSON Schema. A kind that takes bare numbers as well
# says so in BARE.
PATTERNS = {
    "duration": r"^[0-9]+(\.[0-9]+)?(us|ms|s|m|h|d)$",
    "ratio": r"^[0-9]+(\.[0-9]+)?%$",
    "bytes": r"^[0-9]+(\.[0-9]+)?(B|[kKMGT]B|[KMGT]iB)$",
    "rate": r"^[0-9]+(\.[0-9]+)?/(s|m|h)$",
    "host_port": r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}$",
    "path": r"^.+$",
    "instant": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)? ?"
    r"(Z|z|[-+][0-9]{2}:[0-9]{2})$",
    "quiet": calendar.PATTERN,
    "relation": r"^[a-z0-9_ ()*+-]+(<=|>=|<|>)[a-z0-9_ ()*+-]+$",
}
BARE = {"ratio": "number", "bytes": "integer", "rate": "number"}
EXAMPLES = {
    "duration": "a duration such as 250ms, 3s, 5m, 1h or 2d",
    "ratio": "a share such as 85% or 0.85",
    "bytes": "a size such as 512MiB, 2GB or 4096",
    "rate": "a rate such as 100/s or 6000/m",
    "host_port": "an address such as 127.0.0.1:8125 or [::1]:9817",
    "path": "a path",
    "instant": "a time such as 2027-01-01T00:00:00Z or 2027-01-01T09:00:00+01:00",
    "quiet": calendar.EXAMPLE,
    "relation": "a relation such as workers * threads <= 200",
}


def parse(kind: str, text: str) -> float | int | str:
    """The value of `text` in the base unit of `kind`.

    Raises ValueError with a text for the author of the file when it is not one, and KeyError for a
    kind that does not exist.
    """
    if len(text) > _LONGEST and kind in BARE.keys() | {"duration"}:
        raise ValueError(f"is not {EXAMPLES[kind]}")
    return _PARSERS[kind](text)


def parse_duration(text: str) -> float:
    """Seconds. A number without a unit is refused: nobody can know what it means."""
    found = _DURATION.fullmatch(text)
    if found is None:
        if _NUMBER.fullmatch(text):
            raise ValueError(f"has no unit; did you mean {text}ms or {text}s?")
        if text.startswith("-"):
            raise ValueError("is negative; a duration is not")
        raise ValueError(f"is not {EXAMPLES['duration']}")
    number, unit = found.groups()
    if unit in _DECIMAL:
        return float(number + _DECIMAL[unit])
    return float(number) * _SECONDS[unit]


def parse_ratio(text: str) -> float:
    """A share in 0..1, from a percentage or a bare number."""
    found = _PERCENT.fullmatch(text)
    if found is not None:
        value = float(found[1] + "e-2")
    elif _NUMBER.fullmatch(text):
        value = float(text)
        if 1.0 < value <= 100.0:
            raise ValueError(f"is more than 1; did you mean {text}%?")
    else:
        raise ValueError(f"is not {EXAMPLES['ratio']}")
    if value > 1.0:
        raise ValueError("is more than 100%")
    return value


def parse_bytes(text: str) -> int:
    """Whole bytes, from a size with a unit or a bare whole number."""
    if text.isascii() and text.isdigit():
        return int(text)
    found = _BYTES.fullmatch(text)
    if found is None:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?[KMGT]", text):
            raise ValueError(f"is ambiguous; did you mean {text}iB or {text}B?")
        raise ValueError(f"is not {EXAMPLES['bytes']}")
    whole, fraction, unit = found.groups(default="")
    scale: int = 10 ** len(fraction)
    size, rest = divmod(int(whole + fraction) * _BYTE_UNITS[unit], scale)
    if rest:
        raise ValueError("is not a whole number of bytes")
    return size


def parse_rate(text: str) -> float:
    """Per second; a bare number is a rate a second already."""
    found = _RATE.fullmatch(text)
    if found is not None:
        return float(found[1]) / _SECONDS[found[2]]
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    raise ValueError(f"is not {EXAMPLES['rate']}")


def parse_host_port(text: str) -> str:
    """The same text, checked: a name or address, a colon, a port of 0..65535 (0: any free one)."""
    split_host_port(text)
    return text


def split_host_port(text: str) -> tuple[str, int]:
    """Host (an IPv6 address without its brackets) and port of `host:port`; ValueError if neither.

    The empty host is refused: whoever wants every interface says 0.0.0.0.
    """
    host, colon, port_text = text.rpartition(":")
    if not colon or not host or not (port_text.isascii() and port_text.isdigit()):
        raise ValueError(f"is not {EXAMPLES['host_port']}")
    if len(port_text) > 5 or int(port_text) > 65535:
        raise ValueError("has a port beyond 65535")
    if host.startswith("[") and host.endswith("]"):
        if not _is_address(socket.AF_INET6, host[1:-1]):
            raise ValueError(f"holds no IPv6 address between the brackets: {host[1:-1]}")
        return host[1:-1], int(port_text)
    if ":" in host:
        raise ValueError(f"needs brackets round an IPv6 address: [{host}]:{port_text}")
    numeric = host.replace(".", "").isdigit()
    if not (_is_address(socket.AF_INET, host) if numeric else _HOST.fullmatch(host)):
        raise ValueError(f"has no valid host: {host}")
    return host, int(port_text)


def is_loopback(text: str) -> bool:
    """Whether `host:port` can be reached from this host only."""
    host, _ = split_host_port(text)
    return host in {"localhost", "::1"} or (
        _is_address(socket.AF_INET, host) and host[:4] == "127."
    )


def parse_path(text: str) -> str:
    """The same text: not empty, no NUL."""
    if not text.strip() or "\0" in text:
        raise ValueError("is not a path")
    return text


def parse_instant(text: str) -> int:
    """Nanoseconds since 1970 UTC, of an ISO 8601 date and time with its offset from UTC."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError(f"has no time of day; did you mean {text}T00:00:00Z?")
        raise ValueError(f"is not {EXAMPLES['instant']}")
    day, clock, fraction, offset = found.groups()
    if offset is None:
        raise ValueError("does not say where: add Z for UTC, or an offset such as +01:00")
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{offset.upper()}")
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
    except ValueError as error:
        raise ValueError(f"is no time that exists: {error}") from error
    if not 0 <= seconds < _LAST_S:
        raise ValueError("is not between the years 1970 and 2261")
    return seconds * 10**9 + int((fraction or "0").ljust(9, "0"))


def parse_quiet_text(text: str) -> str:
    """The same text, checked: a quiet window (`policy.calendar`)."""
    calendar.parse_quiet(text)
    return text


def parse_relation_text(text: str) -> str:
    """The same text, checked: a relation between knobs (`policy.relations`)."""
    parse_relation(text)
    return text


def render(kind: str, value: float | str) -> str:
    """How `value` is written; `parse` gives it back. KeyError for a kind that does not exist."""
    if isinstance(value, str):
        return value
    return _RENDERERS[kind](value)


def _is_address(family: int, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except OSError:
        return False
    return True


def _duration(value: float) -> str:
    for unit in ("d", "h", "m", "s", "ms", "us"):
        size = {"ms": 1e-3, "us": 1e-6}.get(unit) or _SECONDS[unit]
        text = f"{round(value / size)}{unit}"
        if value >= size and len(text) <= _LONGEST and parse_duration(text) == value:
            return text
    return f"{_plain(value)}s"


def _ratio(value: float) -> str:
    text = f"{value * 100:.6g}%"
    return text if _PERCENT.fullmatch(text) and parse_ratio(text) == value else repr(value)


def _bytes(value: float) -> str:
    for unit in ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB"):
        if value and value % _BYTE_UNITS[unit] == 0:
            return f"{int(value) // _BYTE_UNITS[unit]}{unit}"
    return str(int(value))


def _rate(value: float) -> str:
    return f"{_plain(value)}/s"


def _plain(value: float) -> str:
    """All digits, without an exponent."""
    text = repr(float(value)).removesuffix(".0")
    if "e" not in text:
        return text
    from decimal import Decimal  # noqa: PLC0415  rare: only for very small and very large numbers

    return f"{Decimal(text):f}"


def _instant(value: float) -> str:
    seconds, fraction = divmod(int(value), 10**9)
    text = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    return text + (f".{fraction:09}".rstrip("0") if fraction else "") + "Z"


_RENDERERS: dict[str, Callable[[float], str]] = {
    "duration": _duration,
    "ratio": _ratio,
    "bytes": _bytes,
    "rate": _rate,
    "instant": _instant,
}
_PARSERS: dict[str, Callable[[str], float | int | str]] = {
    "duration": parse_duration,
    "ratio": parse_ratio,
    "bytes": parse_bytes,
    "rate": parse_rate,
    "host_port": parse_host_port,
    "path": parse_path,
    "instant": parse_instant,
    "quiet": parse_quiet_text,
    "relation": parse_relation_text,
}
