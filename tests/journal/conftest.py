"""A journal in a temporary folder, and lives to write in it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import journal_life

from poolwright.journal.sqlite import SqliteJournal


@pytest.fixture
def path(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path):
    """An open journal; closed with the test."""
    writer = SqliteJournal(path)
    yield writer
    writer.close()


@pytest.fixture(scope="session")
def bench():
    """A life of the real core, with two plans and a probe."""
    return journal_life.lived()
