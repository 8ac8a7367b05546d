"""Requests, and the three kinds of answers: at once, later, and one that does not end."""

import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

REASONS = {
    200: "OK",
    202: "Accepted",
    304: "Not Modified",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A whole request. Names of headers are in lower case; of one sent twice the last counts."""

    method: str
    path: str  # decoded, without the query
    named: Mapping[str, str] = field(default_factory=dict)  # what stands for {name} in the route
    query: str = ""  # as sent
    headers: Mapping[str, str]
    body: bytes
    connection: socket.socket

    @property
    def pool(self) -> str:
        """What stands for {pool} in the route, "" where nothing does."""
        return self.named.get("pool", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer. Its length, the date and the server's headers are added."""

    status: int
    body: bytes
    content_type: str
    headers: Headers = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """An answer that goes on until the client hangs up.

    `subscribe` is given what takes the pieces, and gives what is to be called at the end.
    """

    content_type: str
    subscribe: Callable[[Callable[[bytes], None]], Callable[[], None]]
    headers: Headers = ()


Handler = Callable[[Request], Response | Awaitable[Response] | Stream]


def text(status: int, said: str, *headers: tuple[str, str]) -> Response:
    """One line of plain text."""
    body = f"{said}\n".encode()
    kind = "text/plain; charset=utf-8"
    return Response(status=status, body=body, content_type=kind, headers=headers)
