"""What a route of the API is, and what its answers are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from poolwright.core.model import Plan
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.journal.query import JournalReader
from poolwright.surface.book import Book
from poolwright.surface.message import Request
from poolwright.surface.records import Busy, Records

T = TypeVar("T")

API = "/api/v1"


class NoQuery(msgspec.Struct, frozen=True):
    """Nothing can be asked for."""


class Refused(Exception):
    """There is no such thing, or not now."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Sources:
    """What answers are made of: the newest snapshot, the histories and the journal."""

    def __init__(
        self,
        latest: Callable[[], Snapshot | None],
        book: Book,
        records: Records | None,
    ) -> None:
        """`latest`: the newest Snapshot, None before the first; `records` None: no journal."""
        self._latest = latest
        self.book = book
        self._records = records

    def snapshot(self) -> Snapshot:
        """The newest one; Refused before the first."""
        found = self._latest()
        if found is None:
            raise Refused(503, "no tick has been made yet")
        return found

    def pool(self, name: str) -> PoolSnapshot:
        """One pool of it; Refused when there is none of that name."""
        pools = self.snapshot().pools
        for pool in pools:
            if pool.pool == name:
                return pool
        raise Refused(404, f"no pool {name!r}; there is {', '.join(p.pool for p in pools)}")

    def plan(self, name: str) -> tuple[PoolSnapshot, Plan]:
        """A pool, and the plan in force of it; Refused before the first."""
        pool = self.pool(name)
        if pool.plan is None:
            raise Refused(404, f"nothing is learned of {name!r} yet: its first plan is to come")
        return pool, pool.plan

    async def ask(self, question: Callable[[JournalReader], T]) -> T:
        """What the journal says; Refused when it cannot say it now."""
        if self._records is None:
            raise Refused(503, "there is no journal")
        try:
            return await self._records.ask(question)
        except Busy as error:
            raise Refused(503, str(error)) from error


Find = Callable[[Sources, Request, Any], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What is asked where, and what comes of it. `find` gives an `answers`, or raises Refused."""

    path: str
    about: str
    find: Find
    answers: Any
    query: type[msgspec.Struct] = NoQuery
    refusals: tuple[int, ...] = ()
