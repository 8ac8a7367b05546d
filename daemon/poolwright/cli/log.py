"""Where the log goes and how a line looks: text or JSON, to standard error.

Under systemd each line begins with its priority (sd-daemon(3): `<4>` is a warning), which the
journal takes off. What a line says of the world is escaped: no service can begin a line of its own.
"""

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


def start(form: str, *, verbose: bool) -> None:
    """Log to standard error from now on, as `form` says: "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    journald = to_journald(os.environ, sys.stderr.fileno())
    handler.setFormatter(JsonLines(journald) if form == "json" else TextLines(journald))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def to_journald(environ: Mapping[str, str], file: int) -> bool:
    """Whether what is written to `file` goes to the journal of systemd (systemd.exec(5)).

    The variable alone does not say so: it is inherited by who has redirected the stream.
    """
    seen = os.fstat(file)
    return environ.get("JOURNAL_STREAM") == f"{seen.st_dev}:{seen.st_ino}"


class _Lines(logging.Formatter):
    """What both forms share."""

    def __init__(self, journald: bool) -> None:
        super().__init__()
        self._journald = journald

    def lines(self, record: logging.LogRecord) -> list[str]:
        """The lines of a record, without their priority."""
        raise NotImplementedError

    def format(self, record: logging.LogRecord) -> str:
        """The record, each line with its priority where the journal reads it."""
        prefix = f"<{_PRIORITIES.get(record.levelno, 2)}>" if self._journald else ""
        return "\n".join(prefix + line for line in self.lines(record))

    def exception(self, record: logging.LogRecord) -> str:
        """The traceback of a record, empty when it has none."""
        return self.formatException(record.exc_info) if record.exc_info else ""


class TextLines(_Lines):
    """For people: a line, and under it the traceback of a fault of our own."""

    def lines(self, record: logging.LogRecord) -> list[str]:
        """With time and level, unless the journal has both."""
        said = "".join(_shown(c) for c in record.getMessage())
        head = "" if self._journald else f"{self.formatTime(record)} {record.levelname} "
        return [head + said, *self.exception(record).splitlines()]


class JsonLines(_Lines):
    """For programs: one object a line, a traceback in it. docs/logs.md names the fields."""

    def lines(self, record: logging.LogRecord) -> list[str]:
        """One line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if traceback := self.exception(record):
            found["exception"] = traceback
        return [msgspec.json.encode(found).decode()]


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()
