"""Query strings, read as strictly as a policy: nothing unknown, nothing twice, nothing adjusted."""

import math
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from poolwright.policy.bind import suggestion

T = TypeVar("T", bound=msgspec.Struct)
_MOST = 16


class BadQuery(ValueError):
    """Says what is allowed, in a line."""


def read_query(query: str, kind: type[T]) -> T:
    """The query as a `kind`. BadQuery when it is anything else."""
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    try:
        pairs = parse_qsl(
            query,
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=_MOST,
        )
    except ValueError as error:
        raise BadQuery(f"the query cannot be read: {error}") from error
    names = [name for name, _ in pairs]
    for name in names:
        if name not in known:
            more = suggestion(name, known) if known else "; none is allowed here"
            raise BadQuery(f"unknown key {name!r}{more}")
        if names.count(name) > 1:
            raise BadQuery(f"{name} is given {names.count(name)} times; once is enough")
    try:
        found = msgspec.convert(dict(pairs), kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadQuery(str(error).replace("`$.", "`")) from error
    for name in names:
        value = getattr(found, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise BadQuery(f"`{name}` is a finite number")
    return found
