"""The read-only API under /api/v1: one table of routes, from which OpenAPI is made as well."""

from collections.abc import Awaitable
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from poolwright.core.reasons import REASONS
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.journal.notable import Notable, notable, windows
from poolwright.journal.query import JournalReader
from poolwright.surface.account import Explanation
from poolwright.surface.events import Events
from poolwright.surface.history import History, HistoryAnswer
from poolwright.surface.message import Handler, Request, Response, Stream
from poolwright.surface.openapi import describe_api
from poolwright.surface.pictures import Bin, SurrogateAnswer, schedule, surrogate
from poolwright.surface.point import UnixSeconds
from poolwright.surface.problem import problem
from poolwright.surface.query import BadQuery, read_query
from poolwright.surface.route import API, NoQuery, Refused, Route, Sources
from poolwright.surface.story import explanation, tell

MOST_POINTS = 2000
MOST_DECISIONS = 1000
_DEFAULT_SPAN_S = 900.0
_LATEST_NS = 2**63 - 1  # SQLite's integers

_REASONS = {str(reason): said for reason, said in REASONS.items()}  # a later release knows more

Moment = Annotated[
    float, Meta(ge=0.0, le=1e11, description="seconds since 1970 UTC", examples=[1795244400.0])
]


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


class Api:
    """Serves `ROUTES`, their description, and the events."""

    def __init__(self, sources: Sources, events: Events) -> None:
        """Both are somebody else's to feed."""
        self._sources = sources
        self._events = events
        self._described = b""

    def handlers(self) -> dict[str, Handler]:
        """By path."""
        served = {f"{API}{route.path}": self._handler(route) for route in ROUTES}
        return served | {f"{API}/events": self._stream, f"{API}/openapi.json": self._description}

    def _handler(self, route: Route) -> Handler:
        def handle(request: Request) -> Response | Awaitable[Response]:
            try:
                asked = read_query(request.query, route.query)
                found = route.find(self._sources, request, asked)
            except (BadQuery, Refused) as error:
                return _refusal(error)
            return _later(found) if isinstance(found, Awaitable) else _json(found)

        return handle

    def _stream(self, request: Request) -> Stream | Response:
        try:
            read_query(request.query, NoQuery)
        except BadQuery as error:
            return _refusal(error)
        return self._events.answer(request)

    def _description(self, request: Request) -> Response:
        try:
            read_query(request.query, NoQuery)
        except BadQuery as error:
            return _refusal(error)
        if not self._described:
            self._described = msgspec.json.encode(describe_api(ROUTES))
        return Response(status=200, body=self._described, content_type="application/json")


async def _later(found: Awaitable[object]) -> Response:
    try:
        return _json(await found)
    except (BadQuery, Refused) as error:
        return _refusal(error)


def _refusal(error: BadQuery | Refused) -> Response:
    return problem(error.status if isinstance(error, Refused) else 400, str(error))


def _json(found: object) -> Response:
    body = msgspec.json.encode(found)
    return Response(status=200, body=body, content_type="application/json")


def _history(sources: Sources, request: Request, query: HistoryQuery) -> HistoryAnswer:
    pool = sources.pool(request.pool)
    from_s, to_s = span(query, pool.tick.wall_ns / 1e9)
    history = sources.book.histories.get(pool.pool) or History()
    knobs = [knob.name for knob in pool.policy.knobs]
    return history.answer(pool.pool, knobs, from_s, to_s, query.points)


def span(query: HistoryQuery | DecisionsQuery, now_s: float) -> tuple[float, float]:
    """What is asked for, else the last 15 minutes. One that ends before it begins is empty."""
    end = now_s if query.to_s is UNSET else query.to_s
    begin = max(0.0, end - _DEFAULT_SPAN_S) if query.from_s is UNSET else query.from_s
    return begin, end


async def _decisions(
    sources: Sources, request: Request, query: DecisionsQuery
) -> list[DecisionLine]:
    name = sources.pool(request.pool).pool
    asked = span(query, sources.snapshot().wall_ns / 1e9)
    begin, end = (min(int(at_s * 1e9), _LATEST_NS) for at_s in asked)
    found = await sources.ask(lambda reader: notable(reader.db, name, begin, end, query.limit))
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


async def _decision(sources: Sources, request: Request, _query: NoQuery) -> Explanation:
    name, asked = sources.pool(request.pool).pool, request.named["id"]
    # SQLite counts to 2^63 - 1
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 19 else -1

    def told(reader: JournalReader) -> Explanation | None:
        row = reader.decision(number)
        return None if row is None or row.pool != name else explanation(row, tell(reader, row))

    found = await sources.ask(told)
    if found is None:
        raise Refused(404, f"pool {name!r} has no decision {asked!r}, or it is no longer kept")
    return found


async def _surrogate(sources: Sources, request: Request, _query: NoQuery) -> SurrogateAnswer:
    pool, plan = sources.plan(request.pool)
    return surrogate(pool, plan, await sources.ask(lambda reader: windows(reader.db, pool.pool)))


ROUTES: tuple[Route, ...] = (
    Route(
        path="/status",
        about="The newest snapshot of the whole daemon",
        find=lambda sources, _request, _query: sources.snapshot(),
        answers=Snapshot,
        refusals=(503,),
    ),
    Route(
        path="/status/{pool}",
        about="The newest snapshot of one pool",
        find=lambda sources, request, _query: sources.pool(request.pool),
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
        find=lambda sources, request, _query: schedule(sources.plan(request.pool)[1]),
        answers=list[Bin],
        refusals=(404, 503),
    ),
)
