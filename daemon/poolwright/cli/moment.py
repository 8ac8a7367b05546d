"""A moment as a person writes it on the command line."""

import argparse
from datetime import UTC, datetime


def moment(written: str) -> int:
    """Nanoseconds since 1970; UTC unless it says otherwise. argparse's error when it is none."""
    try:
        found = datetime.fromisoformat(written)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{written!r} is not a time such as 2026-11-21T07:00:00+01:00"
        ) from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return round(found.timestamp() * 1_000_000_000)
