"""Questions to the journal, answered in a thread of their own: no tick waits for a disk."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from poolwright.core.errors import PlantFault
from poolwright.journal import schema
from poolwright.journal.query import JournalReader

T = TypeVar("T")

LIMIT_S = 5.0  # an answer that takes longer is given up
MOST_WAITING = 16
_OPS = 2000  # of SQLite between two looks at the clock
_CACHE_KIB = 512


class Busy(Exception):
    """The journal cannot answer now; says why, in a line."""


class Records:
    """One question at a time, each on a read-only connection of its own, at one moment."""

    def __init__(self, path: Path) -> None:
        """`path`: the journal. Nothing is opened yet."""
        self.path = path
        self._waiting = 0
        self._thread: ThreadPoolExecutor | None = None

    async def ask(self, question: Callable[[JournalReader], T]) -> T:
        """The answer. Raises Busy: too many ask, it takes too long, or it cannot be read."""
        if self._waiting >= MOST_WAITING:
            raise Busy(f"{MOST_WAITING} questions to the journal wait already")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="records")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._answer, question
            )
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let go of the thread; what it is at ends within LIMIT_S."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    def _answer(self, question: Callable[[JournalReader], T]) -> T:
        until = time.monotonic() + LIMIT_S
        try:
            db = schema.connect_read_only(self.path)
            try:
                db.set_progress_handler(lambda: time.monotonic() > until, _OPS)
                db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                db.execute("BEGIN")  # one moment, whatever is written meanwhile
                return question(JournalReader(self.path, db))
            finally:
                db.close()
        except (PlantFault, sqlite3.Error) as error:
            late = time.monotonic() > until
            why = f"the journal did not answer within {LIMIT_S:g} s" if late else str(error)
            raise Busy(why) from error
