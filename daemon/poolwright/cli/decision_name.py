"""What names a decision on the command line: its number, or RUN/TICK as in logs and metrics."""

import argparse
import re

from poolwright.journal.query import DecisionRow, JournalReader

_FORM = re.compile(r"(?:(\d{1,18})/)?(\d{1,18})", re.ASCII)


def decision_name(text: str) -> str:
    """For argparse: `text` when it is a name."""
    if _FORM.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor RUN/TICK")
    return text


def named(reader: JournalReader, name: str) -> DecisionRow | None:
    """The decision; of a tick that went on holding, the one that it went on with."""
    found = _FORM.fullmatch(name)
    assert found is not None
    run, number = found.groups()
    if run is None:
        return reader.decision(int(number))
    return reader.decision_until(int(run), int(number))
