"""The read-only API under /api/v1: one table of routes, from which OpenAPI is made as well."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from poolwright.core.model import Plan
from poolwright.core.reasons import REASONS
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.journal.notable import Notable, notable, windows
from poolwright.journal.query import JournalReader
from poolwright.surface.account import Explanation
from poolwright.surface.book import Book
from poolwright.surface.events import Events
from poolwright.surface.history import History, HistoryAnswer
from poolwright.surface.message import Handler, Request, Response
from poolwright.surface.pictures import Bin, SurrogateAnswer, schedule, surrogate
from poolwright.surface.point import UnixSeconds
from poolwright.surface.problem import problem
from poolwright.surface.query import BadQuery, read_query
from poolwright.surface.records import Busy, Records
from poolwright.surface.story import explanation, tell

T = TypeVar("T")

API = "/api/v1"
MOST_POINTS = 2000
MOST_DECISIONS = 1000
_DEFAULT_SPAN_S = 900.0

_REASONS = {str(reason): said for reason, said in REASONS.items()}  # a later release knows more

Moment = Annotated[
    float, Meta(ge=0.0, le=1e11, description="seconds since 1970 UTC", examples=[1795244400.0])
]


class NoQuery(msgspec.Struct, frozen=True):
    """Nothing can be asked for."""


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which span, and how fine."""

    from_s: Moment | UnsetType = UNSET  # left out: 15 minutes before `to_s`
    to_s: Moment | UnsetType = UNSET  # left out: now
    points: Annotated[int, Meta(ge=1, le=MOST_POINTS, description="rows at most")] = 1000


class DecisionsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which span, and how many of the newest."""

    from_s: Moment | UnsetType = UNSET  # left out: 15 minutes before `to_s`
    to_s: Moment | UnsetType = UNSET  # left out: now
    limit: Annotated[int, Meta(ge=1, le=MOST_DECISIONS, description="decisions at most")] = 100


class DecisionLine(msgspec.Struct, kw_only=True, rename={"before": "from"}):
    """A decision that matters. Settings are written `workers=5`; null: not known."""

    id: int
    time_s: UnixSeconds
    tick: int
    phase: str
    action: str
    setting: str | None  # commanded from then on
    before: str | None  # ... and until then
    advised: str | None
    reason: str
    reason_text: str
    detail: str
    kinds: tuple[str, ...]  # what makes it matter


class Refused(Exception):
    """There is no such thing, or not now."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


Find = Callable[["Api", Request, Any], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What is asked where, and what comes of it. `find` gives an `answers`, or raises Refused."""

    path: str
    about: str
    find: Find
    answers: Any
    query: type[msgspec.Struct] = NoQuery
    refusals: tuple[int, ...] = ()


class Api:
    """Answers from the newest snapshot, the histories and the journal."""

    def __init__(
        self,
        latest: Callable[[], Snapshot | None],
        book: Book,
        events: Events,
        records: Records | None,
    ) -> None:
        """`latest`: the newest Snapshot, None before the first; `records` None: no journal."""
        self.latest = latest
        self.book = book
        self.events = events
        self._records = records

    def handlers(self) -> dict[str, Handler]:
        """By path."""
        served: dict[str, Handler] = {
            f"{API}{route.path}": _handler(self, route) for route in ROUTES
        }
        return served | {f"{API}/events": self._events}

    def snapshot(self) -> Snapshot:
        """The newest one; Refused before the first."""
        found = self.latest()
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

    def _events(self, request: Request) -> Any:
        try:
            read_query(request.query, NoQuery)
        except BadQuery as error:
            return problem(400, str(error))
        return self.events.answer(request)


def _handler(api: Api, route: Route) -> Handler:
    def handle(request: Request) -> Response | Awaitable[Response]:
        try:
            found = route.find(api, request, read_query(request.query, route.query))
        except BadQuery as error:
            return problem(400, str(error))
        except Refused as error:
            return problem(error.status, error.detail)
        return _later(found) if isinstance(found, Awaitable) else _json(found)

    return handle


async def _later(found: Awaitable[object]) -> Response:
    try:
        return _json(await found)
    except Refused as error:
        return problem(error.status, error.detail)


def _json(found: object) -> Response:
    body = msgspec.json.encode(found)
    return Response(status=200, body=body, content_type="application/json")


def _history(api: Api, request: Request, query: HistoryQuery) -> HistoryAnswer:
    pool = api.pool(request.pool)
    from_s, to_s = span(query.from_s, query.to_s, pool.tick.wall_ns / 1e9)
    history = api.book.histories.get(pool.pool) or History()
    knobs = [knob.name for knob in pool.policy.knobs]
    return history.answer(pool.pool, knobs, from_s, to_s, query.points)


def span(from_s: float | UnsetType, to_s: float | UnsetType, now_s: float) -> tuple[float, float]:
    """What is asked for, else the last 15 minutes; BadQuery when it ends before it begins."""
    end = now_s if to_s is UNSET else to_s
    begin = max(0.0, end - _DEFAULT_SPAN_S) if from_s is UNSET else from_s
    if begin > end:
        raise BadQuery(f"`from_s` {begin:.3f} is later than `to_s` {end:.3f}")
    return begin, end


async def _decisions(api: Api, request: Request, query: DecisionsQuery) -> list[DecisionLine]:
    name = api.pool(request.pool).pool
    from_s, to_s = span(query.from_s, query.to_s, api.snapshot().wall_ns / 1e9)
    begin, end = int(from_s * 1e9), int(to_s * 1e9)
    found = await api.ask(lambda reader: notable(reader.db, name, begin, end, query.limit))
    return [_line(one) for one in found]


def _line(found: Notable) -> DecisionLine:
    return DecisionLine(
        id=found.id,
        time_s=found.wall_ns / 1e9,
        tick=found.tick,
        phase=found.phase,
        action=found.action,
        setting=found.setting,
        before=found.before,
        advised=found.advised,
        reason=found.reason,
        reason_text=_REASONS.get(found.reason, found.reason),
        detail=found.detail,
        kinds=found.kinds,
    )


async def _decision(api: Api, request: Request, _query: NoQuery) -> Explanation:
    name, asked = api.pool(request.pool).pool, request.named["id"]
    # SQLite counts to 2^63 - 1
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 19 else -1

    def told(reader: JournalReader) -> Explanation | None:
        row = reader.decision(number)
        return None if row is None or row.pool != name else explanation(row, tell(reader, row))

    found = await api.ask(told)
    if found is None:
        raise Refused(404, f"pool {name!r} has no decision {asked!r}, or it is no longer kept")
    return found


async def _surrogate(api: Api, request: Request, _query: NoQuery) -> SurrogateAnswer:
    pool, plan = api.plan(request.pool)
    return surrogate(pool, plan, await api.ask(lambda reader: windows(reader.db, pool.pool)))


ROUTES: tuple[Route, ...] = (
    Route(
        path="/status",
        about="The newest snapshot of the whole daemon",
        find=lambda api, _request, _query: api.snapshot(),
        answers=Snapshot,
        refusals=(503,),
    ),
    Route(
        path="/status/{pool}",
        about="The newest snapshot of one pool",
        find=lambda api, request, _query: api.pool(request.pool),
        answers=PoolSnapshot,
        refusals=(404, 503),
    ),
    Route(
        path="/pools/{pool}/history",
        about="What was seen and set, at most a day back, in columns",
        find=_history,
        answers=HistoryAnswer,
        query=HistoryQuery,
        refusals=(404, 503),
    ),
    Route(
        path="/pools/{pool}/decisions",
        about="Decisions that matter (moves, phases, trips of the guard, advice), newest first",
        find=_decisions,
        answers=list[DecisionLine],
        query=DecisionsQuery,
        refusals=(404, 503),
    ),
    Route(
        path="/pools/{pool}/decisions/{id}",
        about="Why a decision was made, and what came of it; `text` is for people",
        find=_decision,
        answers=Explanation,
        refusals=(404, 503),
    ),
    Route(
        path="/pools/{pool}/surrogate",
        about="What the surrogate says of each level at the load of the last fit",
        find=_surrogate,
        answers=SurrogateAnswer,
        refusals=(404, 503),
    ),
    Route(
        path="/pools/{pool}/schedule",
        about="What is held at which load, ascending",
        find=lambda api, request, _query: schedule(api.plan(request.pool)[1]),
        answers=list[Bin],
        refusals=(404, 503),
    ),
)
