"""Regular expressions of operators, run by RE2: in linear time whatever they are held against.

Python's own `re` backtracks: `(a+)+$` against thirty letters takes minutes, and whoever writes the
text (a client, in an access log) chooses the letters. RE2 has no look-around and no
back-references.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from poolwright.core.errors import PolicyError

_MOST_MEMORY = 8 * 1024 * 1024  # of a compiled pattern and its cache of states


class Match(Protocol):
    """What was found, in bytes."""

    def span(self, group: int) -> tuple[int, int]:
        """Where a group stands; (-1, -1) when it took no part."""

    def __getitem__(self, group: int) -> bytes | None:
        """What a group holds."""


class Pattern(Protocol):
    """A compiled pattern."""

    groups: int
    groupindex: Mapping[bytes, int]

    def search(self, text: bytes) -> Match | None:
        """The first match."""

    def finditer(self, text: bytes) -> Any:
        """All of them."""


def compiled(pattern: str, kind: str) -> Pattern:
    """Compile for matching bytes, whatever their encoding. `kind`: of the adapter, which has an
    extra of that name. Raises PolicyError: what is wrong with it, or what to install.
    """
    try:
        import re2  # noqa: PLC0415  an extra, and 3.6 MB
    except ImportError as error:
        raise PolicyError(
            f"pattern: needs google-re2: pip install 'poolwright[{kind}]' (Python's own regular"
            " expressions can take for ever)"
        ) from error
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = _MOST_MEMORY
    try:
        found: Pattern = re2.compile(pattern.encode(), options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        why = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise PolicyError(f"pattern: {why} (RE2's syntax)") from error
    return found


def literal(text: str) -> str:
    """`text` as a pattern that matches it and nothing else."""
    return re.escape(text)
