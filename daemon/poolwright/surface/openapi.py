"""The API's description (OpenAPI 3.1), made from the same table and the same types that answer."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from poolwright import __version__
from poolwright.surface.events import TickEvent
from poolwright.surface.message import REASONS
from poolwright.surface.problem import Problem
from poolwright.surface.route import API, Route

_REF = "#/components/schemas/{name}"
_PROBLEM = {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_NAMED: dict[str, dict[str, Any]] = {
    "pool": {"schema": {"type": "string", "minLength": 1}, "description": "a pool's name"},
    "id": {
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
        "description": "of a decision, as the list of decisions gives it",
    },
}
_ABOUT = (
    "Read-only. Nothing that is asked here changes anything; commands go through the UNIX socket. "
    "Names end in their unit, null means not known, and times are seconds since 1970 UTC. "
    "A query that holds anything but the keys named here is refused."
)


def describe_api(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole description."""
    routes = tuple(routes)
    kinds: list[Any] = [Problem, TickEvent]
    kinds += [route.answers for route in routes] + [route.query for route in routes]
    (_, _, *found), components = msgspec.json.schema_components(kinds, ref_template=_REF)
    answers, queries = found[: len(routes)], found[len(routes) :]
    paths: dict[str, Any] = {}
    for route, answer, query in zip(routes, answers, queries, strict=True):
        asked = components[query["$ref"].rpartition("/")[2]]
        paths[f"{API}{route.path}"] = {"get": _operation(route, answer, asked)}
    paths[f"{API}/events"] = {"get": _events()}
    paths[f"{API}/openapi.json"] = {"get": _itself()}
    for page, about in _PAGES.items():
        paths[page] = {"get": _page(page, about)}
    used = _reached(paths, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "poolwright", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": {name: components[name] for name in sorted(used)}},
    }


_PAGES = {
    "/healthz": "Whether ticks are being made; 503 says why not",
    "/readyz": "Whether every pool was seen once; 503 says which was not",
    "/metrics": "For Prometheus, as text or as OpenMetrics",
}


def _operation(route: Route, answer: dict[str, Any], query: dict[str, Any]) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", route.path)
    named = [{"name": n, "in": "path", "required": True, **_NAMED[n]} for n in names]
    asked = [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in query.get("properties", {}).items()
    ]
    return {
        "operationId": "_".join(re.findall(r"\w+", route.path)),
        "summary": route.about,
        "parameters": [*named, *asked],
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": answer}}},
            **_refusals(400, 403, *route.refusals),
        },
    }


def _events() -> dict[str, Any]:
    said = (
        "Server-sent events. One `tick` for every snapshot, whose data is a TickEvent; a comment "
        "when there was nothing to tell for a while. At most eight clients; one that does not keep "
        "up is hung up on."
    )
    event = {"$ref": _REF.format(name="TickEvent")}
    content = {"text/event-stream": {"schema": {"type": "string"}, "x-event-data": event}}
    return {
        "operationId": "events",
        "summary": "What happens, as it happens",
        "description": said,
        "parameters": [],
        "responses": {
            "200": {"description": "OK", "content": content},
            **_refusals(400, 403, 503),
        },
    }


def _itself() -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    said = {"200": {"description": "OK", "content": content}, **_refusals(400, 403)}
    return {"operationId": "openapi", "summary": "This", "parameters": [], "responses": said}


def _page(path: str, about: str) -> dict[str, Any]:
    content = dict(_TEXT)
    if path == "/metrics":
        content["application/openmetrics-text"] = {"schema": {"type": "string"}}
    said = {"200": {"description": "OK", "content": content}, **_refusals(403)}
    if path != "/metrics":
        said["503"] = {"description": REASONS[503], "content": _TEXT}
    return {"operationId": path[1:], "summary": about, "parameters": [], "responses": said}


def _refusals(*statuses: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        str(status): {"description": REASONS[status], "content": _PROBLEM} for status in statuses
    }
    return found | {"4XX": {"description": "no request that is served", "content": _TEXT}}


def _reached(found: object, components: dict[str, Any]) -> set[str]:
    """The names of the components that something refers to, directly or not."""
    reached: set[str] = set()
    left: list[object] = [found]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            name = str(one.get("$ref", "")).rpartition("/")[2]
            if name and name not in reached:
                reached.add(name)
                left.append(components[name])
            left += [value for key, value in one.items() if key != "$ref"]
        elif isinstance(one, list):
            left += one
    return reached
