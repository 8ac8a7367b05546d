r"""What a line of an access log says: nginx, Apache, Caddy, or a pattern of the operator's.

nginx (time as the pool's clients, of which nginx is one, feel it; with `$request_time` slow readers
count as well):

    log_format poolwright 'poolwright $status $upstream_response_time';
    access_log /var/log/nginx/poolwright.log poolwright;

Apache: `combined` and %D, `LogFormat "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\"
\"%{User-Agent}i\" %D"`. Caddy: its JSON as it is. A pattern has the groups `status` (or none) and
one of `seconds`, `milliseconds`, `microseconds`. A time of `-` is a request that never came to the
pool: it does not count.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from poolwright.core.errors import PolicyError
from poolwright.wire.pattern import Pattern, compiled

MOST_S = 3_600.0  # a longer request is a clock that was set, or a field of another meaning
_NGINX = re.compile(rb"poolwright (\d{3}) ([0-9., :-]{1,200})(?: |$)")
_QUOTED = rb'"(?:[^"\\]|\\.)*"'  # nothing matches two ways: linear
_APACHE = re.compile(
    rb"\S+ \S+ [^\[]*\[[^\]]*\] "
    + _QUOTED
    + rb" (\d{3}) (?:\d+|-) (?:"
    + _QUOTED
    + rb" ){2}(\d+|-)$"
)
_STATUS = re.compile(rb"\d{3}")
_PART = re.compile(rb"\d{1,15}(?:\.\d{0,15})?")
_BETWEEN = re.compile(rb"[,: ]+")
_SCALES = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6}


class Request(NamedTuple):
    """One request that the pool has served. `failed`: a status of 5xx."""

    failed: bool
    took_s: float


# None: the line says nothing of a request of the pool. Raises Unreadable.
Parse = Callable[[bytes], Request | None]


class Unreadable(Exception):
    """A line that is not of the format."""


class _Caddy(msgspec.Struct):
    """The members of Caddy's line that count."""

    logger: str = ""
    status: int | None = None
    duration: float | None = None


def parser(form: str | None, pattern: str | None) -> tuple[Parse, bool]:
    """How lines are read, and whether they tell a status. Raises PolicyError."""
    if (form is None) == (pattern is None):
        raise PolicyError("format and pattern: one of them tells how a line of the file is read")
    if pattern is None:
        return {"nginx": nginx, "apache": apache, "caddy": caddy}[str(form)], True
    made = compiled(pattern, "access_log")
    names = {name.decode() for name in made.groupindex}
    times = sorted(names & _SCALES.keys())
    if len(times) != 1 or names - {"status", *_SCALES}:
        wanted = ", ".join(f"(?P<{name}>...)" for name in _SCALES)
        raise PolicyError(f"pattern: needs one of {wanted}, and (?P<status>...) or no other group")
    return _by_pattern(made, times[0], has_status="status" in names), "status" in names


def nginx(line: bytes) -> Request | None:
    """`poolwright STATUS SECONDS`; a request that was tried several times has several times."""
    found = _NGINX.match(line)
    if found is None:
        raise Unreadable
    return _request(found[1], found[2], 1.0)


def apache(line: bytes) -> Request | None:
    """`combined` with microseconds at its end."""
    found = _APACHE.match(line)
    if found is None:
        raise Unreadable
    return _request(found[1], found[2], 1e-6)


def caddy(line: bytes) -> Request | None:
    """A JSON object of the logger http.log.access; lines of other loggers say nothing."""
    try:
        told = _CADDY.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable from error
    if not told.logger.startswith("http.log.access"):
        return None
    if told.status is None or told.duration is None or not 0.0 <= told.duration <= MOST_S:
        raise Unreadable
    return Request(told.status >= 500, told.duration)


_CADDY = msgspec.json.Decoder(_Caddy)


def _by_pattern(made: Pattern, time_group: str, *, has_status: bool) -> Parse:
    scale = _SCALES[time_group]
    took = made.groupindex[time_group.encode()]
    status = made.groupindex[b"status"] if has_status else None

    def parse(line: bytes) -> Request | None:
        found = made.search(line)
        if found is None:
            raise Unreadable
        return _request(b"200" if status is None else found[status], found[took], scale)

    return parse


def _request(status: bytes | None, took: bytes | None, scale: float) -> Request | None:
    if status is None or took is None or not _STATUS.fullmatch(status):
        raise Unreadable
    parts = [part for part in _BETWEEN.split(took.strip()) if part != b"-"]
    if not parts:
        return None
    if not all(_PART.fullmatch(part) for part in parts):
        raise Unreadable
    took_s = sum(float(part) for part in parts) * scale
    if took_s > MOST_S:
        raise Unreadable
    return Request(status[:1] == b"5", took_s)
