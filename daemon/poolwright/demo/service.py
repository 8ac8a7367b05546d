"""The service that the demo tunes: a WSGI application for gunicorn's sync workers.

Each request waits on I/O, burns CPU, and reads one of a few hot entries that every worker process
caches for itself. An entry holds memory and costs CPU to make again when it has expired. So the
size of the pool matters for the reasons for which it matters in real services:

- few workers: requests wait in the accept queue while workers wait on I/O;
- many workers: each must keep its own cache warm and gets fewer requests to do it with. With
  `load` requests a second spread over `n` workers of `k` entries, each living `ttl` seconds after
  it was made, load * x / (load + x) entries a second are made, x = n * k / ttl. Memory grows
  with n, and where CPU saturates, latency rises again.

CPU is measured in seconds of the thread, so that the shape does not depend on the machine's speed.
Everything random about a request follows from its number, `GET /?n=17`.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from random import Random
from urllib.parse import parse_qs

from poolwright.core.errors import PolicyError

_ENVIRONMENT = "POOLWRIGHT_DEMO_"

StartResponse = Callable[[str, list[tuple[str, str]]], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a request costs. Each may be overridden: POOLWRIGHT_DEMO_CPU_S=0.01."""

    cpu_s: float = 0.004  # CPU of every request
    io_s: float = 0.047  # mean wait; uniform in half to one and a half times that
    miss_cpu_s: float = 0.035  # CPU to make an entry again
    entries: int = 6  # in each worker's cache, asked for evenly
    ttl_s: float = 2.5  # an entry's life after it was made
    entry_bytes: int = 3 << 20

    def __post_init__(self) -> None:
        """Refuse what no service can have."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not (0 <= value < 1 << 40) or (field.name == "entries" and value < 1):
                raise PolicyError(f"{_ENVIRONMENT}{field.name.upper()}: {value} is out of range")


def shape_from(environment: Mapping[str, str]) -> Shape:
    """The Shape with the overrides in `environment`; PolicyError for one that is not a number."""
    overrides: dict[str, float] = {}
    for field in fields(Shape):
        text = environment.get(_ENVIRONMENT + field.name.upper())
        if text is None:
            continue
        try:
            overrides[field.name] = int(text) if field.type is int else float(text)
        except ValueError:
            raise PolicyError(
                f"{_ENVIRONMENT}{field.name.upper()}: {text!r} is not a number"
            ) from None
    return Shape(**overrides)  # type: ignore[arg-type]


def burn(cpu_s: float) -> int:
    """Use `cpu_s` seconds of this thread's CPU; how many rounds that took."""
    until = time.thread_time() + cpu_s
    rounds = 0
    block = bytes(4096)
    while time.thread_time() < until:
        hash(block + rounds.to_bytes(8, "big"))
        rounds += 1
    return rounds


class Cache:
    """One worker's entries by key, each with the monotonic second at which it expires."""

    __slots__ = ("_clock", "_entries", "_shape", "hits", "misses")

    def __init__(self, shape: Shape, clock: Callable[[], float] = time.monotonic) -> None:
        """Start cold."""
        self._shape = shape
        self._clock = clock
        self._entries: dict[int, tuple[float, bytearray]] = {}
        self.hits = 0
        self.misses = 0

    @property
    def held_bytes(self) -> int:
        """The memory that the entries hold."""
        return sum(len(entry) for _, entry in self._entries.values())

    def get(self, key: int) -> tuple[bytearray, bool]:
        """The entry of `key`, and whether it was there and alive."""
        now = self._clock()
        expires, entry = self._entries.get(key, (now, bytearray()))
        if now < expires:
            self.hits += 1
            return entry, True
        self.misses += 1
        started = time.thread_time()
        # Written, not merely reserved: pages of zeros would not be resident.
        entry = bytearray(b"\x01") * self._shape.entry_bytes
        burn(self._shape.miss_cpu_s - (time.thread_time() - started))
        self._entries[key] = (self._clock() + self._shape.ttl_s, entry)
        return entry, False


class Service:
    """The application: `/?n=NUMBER` does the work, `/healthz` answers at once."""

    def __init__(self, shape: Shape) -> None:
        """Start with a cold cache."""
        self._shape = shape
        self.cache = Cache(shape)

    def __call__(
        self, environ: Mapping[str, object], start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request (PEP 3333). Never 5xx by intent."""
        path = str(environ.get("PATH_INFO", ""))
        if path == "/healthz":
            return _answer(start_response, "200 OK", {"status": "ok"})
        if path != "/":
            return _answer(start_response, "404 Not Found", {"error": "try / or /healthz"})
        text = parse_qs(str(environ.get("QUERY_STRING", ""))).get("n", ["0"])[0]
        if not (text.isascii() and text.isdecimal() and len(text) <= 18):
            return _answer(start_response, "400 Bad Request", {"error": "n is not a number"})
        return _answer(start_response, "200 OK", self._work(int(text)))

    def _work(self, number: int) -> dict[str, object]:
        draw = Random(number)
        key = draw.randrange(self._shape.entries)
        wait_s = self._shape.io_s * draw.uniform(0.5, 1.5)
        started = time.thread_time()
        time.sleep(wait_s)  # the downstream call
        entry, hit = self.cache.get(key)
        burn(self._shape.cpu_s)
        return {
            "n": number,
            "key": key,
            "hit": hit,
            "entry_bytes": len(entry),
            "wait_s": round(wait_s, 6),
            "cpu_s": round(time.thread_time() - started, 6),
        }


def _answer(start_response: StartResponse, status: str, body: dict[str, object]) -> list[bytes]:
    encoded = json.dumps(body).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(encoded)))]
    start_response(status, headers)
    return [encoded]


def application() -> Service:
    """What gunicorn loads: `gunicorn 'poolwright.demo.service:application()'`."""
    return Service(shape_from(os.environ))
