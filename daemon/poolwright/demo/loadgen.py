"""An open-loop load generator: requests set out when they are due, not when others came back.

Latency is measured from the moment at which a request was *intended* to be sent, so that a stall
of the service (or of the generator) is felt by every request that it delayed. (Generators that
wait for answers send less while the service is slow, and so do not see what clients would: Tene,
"How NOT to measure latency", calls it coordinated omission.) The generator also tells its own
lateness, so that a starved generator is seen rather than believed.

    python -m poolwright.demo.loadgen --url http://127.0.0.1:8000/ --rps 80 --seconds 60 --seed 1

prints a JSON line a second and a last one with `"final": true`. Arrivals are drawn in
advance from the seed; request i asks for `?n=i` over a connection of its own and carries
`X-Request-Start: t=<intended unix seconds>`. Only loopback addresses are accepted.
"""

import argparse
import asyncio
import ipaddress
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

import msgspec

from poolwright.core.errors import PolicyError
from poolwright.core.sketch import Sketch, SketchBuilder

_LONGEST_S = 3600.0
_MOST_RPS = 2000.0
_MOST_AT_ONCE = 6
_LARGEST_ANSWER = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be sent, where."""

    host: str
    port: int
    path: str = "/"
    rps: float
    seconds: float
    seed: int = 0
    timeout_s: float = 10.0
    most_in_flight: int = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened in one second, or (`final`) over the whole run. Times in seconds.

    `intended` requests were due, `sent` had a connection, `completed` were answered 2xx in full,
    `errors` counts the others by kind. `latency` is of the completed and of those that timed out
    (as long as they waited). A request counts in the second in which it ended.
    """

    elapsed_s: float
    intended: int
    sent: int
    completed: int
    errors: dict[str, int]
    in_flight: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    mean_s: float | None
    jitter_s: float | None
    lateness_mean_s: float | None
    lateness_max_s: float | None
    latency: Sketch
    final: bool = False


def arrivals(rps: float, seconds: float, seed: int) -> list[float]:
    """The seconds, from the start, at which requests are due; drawn from `seed`, ascending.

    Clients come at random and ask for one to six things at once, as a page does. Every second has
    the same number of requests but for rounding, and clients are independent and uniform within it
    (as in a Poisson process, given their number): bursts are kept, the drift of the mean is not,
    so that two settings measured one after the other were asked the same.
    """
    draw = Random(seed)
    due: list[float] = []
    for second in range(math.ceil(seconds)):
        count = math.floor(rps * (second + 1)) - math.floor(rps * second)
        asked: list[float] = []
        while len(asked) < count:
            asked += [second + draw.random()] * draw.randint(1, _MOST_AT_ONCE)
        due += sorted(asked[:count])
    return [at for at in due if at < seconds]


def load_of(url: str, **rest: float) -> Load:
    """A Load on `url`; PolicyError unless it is http on a loopback address and within bounds."""
    parts = urlsplit(url)
    try:
        address = ipaddress.ip_address(parts.hostname or "")
        port = parts.port
    except ValueError:
        raise PolicyError(f"{url}: not an address and a port, such as 127.0.0.1:8000") from None
    if parts.scheme != "http" or port is None or not address.is_loopback:
        raise PolicyError(f"{url}: the load generator sends only http, only to loopback")
    load = Load(host=str(address), port=port, path=parts.path or "/", **rest)  # type: ignore[arg-type]
    if not (0.0 < load.rps <= _MOST_RPS and 0.0 < load.seconds <= _LONGEST_S):
        raise PolicyError(f"at most {_MOST_RPS:g} requests a second for {_LONGEST_S:g} s")
    if load.timeout_s <= 0.0 or load.most_in_flight < 1:
        raise PolicyError("a timeout and a bound of requests in flight are above zero")
    return load


class Tally:
    """Counts of one second or of the whole run."""

    __slots__ = ("completed", "errors", "intended", "late_max", "late_total", "latency", "sent")

    def __init__(self) -> None:
        """Start at nothing."""
        self.intended = self.sent = self.completed = 0
        self.errors: Counter[str] = Counter()
        self.late_total = self.late_max = 0.0
        self.latency = SketchBuilder()

    def report(self, elapsed_s: float, in_flight: int, *, final: bool = False) -> Report:
        """The tally so far."""
        seen = self.latency.freeze()
        some = seen.count > 0
        return Report(
            elapsed_s=round(elapsed_s, 3),
            intended=self.intended,
            sent=self.sent,
            completed=self.completed,
            errors=dict(self.errors),
            in_flight=in_flight,
            p50_s=seen.quantile(0.50) if some else None,
            p95_s=seen.quantile(0.95) if some else None,
            p99_s=seen.quantile(0.99) if some else None,
            mean_s=seen.mean if some else None,
            jitter_s=seen.std if some else None,
            lateness_mean_s=self.late_total / self.sent if self.sent else None,
            lateness_max_s=self.late_max if self.sent else None,
            latency=seen,
            final=final,
        )


class _Request(asyncio.Protocol):
    """One request on its own connection; `ended(kind)` once, kind empty for a full 2xx answer."""

    def __init__(self, head: bytes, on_sent: Callable[[], None]) -> None:
        self._head = head
        self._on_sent = on_sent
        self._answer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._head)
        self._on_sent()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if len(self._answer) > _LARGEST_ANSWER:
            self._end("oversized")
        elif (kind := answer_kind(self._answer)) is not None:
            self._end(kind)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("reset" if exc is not None else "truncated")

    def _end(self, kind: str) -> None:
        if not self.ended.done():
            self.ended.set_result(kind)
        if self.transport is not None:
            self.transport.close()


def answer_kind(answer: bytes | bytearray) -> str | None:
    """The kind of a whole HTTP answer: "" for 2xx, else "status_404"; None while it is not whole.

    An answer without Content-Length is "malformed": the demo service always sends one.
    """
    head, found, body = bytes(answer).partition(b"\r\n\r\n")
    if not found:
        return None
    lines = head.split(b"\r\n")
    first = lines[0].split(b" ", 2)
    if len(first) < 2 or not first[0].startswith(b"HTTP/1.") or not first[1].isdigit():
        return "malformed"
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            if len(body) < int(value):
                return None
            return "" if first[1].startswith(b"2") else f"status_{first[1].decode()}"
    return "malformed"


class Generator:
    """Sends a Load and reports each second to `emit`."""

    def __init__(self, load: Load, emit: Callable[[Report], None]) -> None:
        """Nothing is sent before `run`."""
        self._load = load
        self._emit = emit
        self._second = Tally()
        self._all = Tally()
        self._in_flight = 0
        self._began = self._began_wall = 0.0

    async def run(self, alive: Callable[[], bool] = lambda: True) -> Report:
        """Send all of it, or stop when `alive` says no; the final report, also emitted.

        Requests still under way at the end are waited for, up to the time limit of each.
        """
        self._began_wall, self._began = time.time(), time.monotonic()
        sender = asyncio.create_task(self._send_all())
        slot = 1
        try:
            while not sender.done() and alive():
                await asyncio.wait((sender,), timeout=self._began + slot - time.monotonic())
                if time.monotonic() >= self._began + slot:
                    slot += 1
                    self._emit(self._second.report(self._elapsed(), self._in_flight))
                    self._second = Tally()
        finally:
            sender.cancel()
            await asyncio.wait((sender,))
        if not sender.cancelled():
            sender.result()  # a fault of ours is raised, not counted
        final = self._all.report(self._elapsed(), self._in_flight, final=True)
        self._emit(final)
        return final

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    async def _send_all(self) -> None:
        load = self._load
        async with asyncio.TaskGroup() as group:
            for number, due in enumerate(arrivals(load.rps, load.seconds, load.seed)):
                await asyncio.sleep(max(0.0, due - self._elapsed()))
                for tally in (self._second, self._all):
                    tally.intended += 1
                if self._in_flight >= load.most_in_flight:
                    self._failed("over_limit")
                    continue
                self._in_flight += 1
                group.create_task(self._send(number, due))

    async def _send(self, number: int, due: float) -> None:
        load, loop = self._load, asyncio.get_running_loop()
        head = (
            f"GET {load.path}?n={number} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\n"
            f"X-Request-Start: t={self._began_wall + due:.6f}\r\nConnection: close\r\n\r\n"
        ).encode()
        request = _Request(head, lambda: self._was_sent(due))
        try:
            async with asyncio.timeout(due + load.timeout_s - self._elapsed()):
                await loop.create_connection(lambda: request, load.host, load.port)
                kind = await request.ended
        except TimeoutError:
            kind = "timeout"
        except OSError as error:
            kind = "refused" if isinstance(error, ConnectionRefusedError) else "connect"
        finally:
            self._in_flight -= 1
            if request.transport is not None:
                request.transport.abort()
        if kind:
            self._failed(kind)
        latency = max(0.0, self._elapsed() - due)
        for tally in (self._second, self._all):
            tally.completed += not kind
            if kind in ("", "timeout"):
                tally.latency.add(latency)

    def _was_sent(self, due: float) -> None:
        late = max(0.0, time.monotonic() - self._began - due)
        for tally in (self._second, self._all):
            tally.sent += 1
            tally.late_total += late
            tally.late_max = max(tally.late_max, late)

    def _failed(self, kind: str) -> None:
        for tally in (self._second, self._all):
            tally.errors[kind] += 1


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when the load was sent, 2 for a wrong argument, 1 for a lost parent."""
    parser = argparse.ArgumentParser(prog="loadgen", description=__doc__.partition("\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--rps", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="end when it dies")
    chosen = parser.parse_args(arguments)
    encoder = msgspec.json.Encoder()

    def emit(report: Report) -> None:
        sys.stdout.buffer.write(encoder.encode(report) + b"\n")
        sys.stdout.buffer.flush()

    try:
        load = load_of(
            chosen.url,
            rps=chosen.rps,
            seconds=chosen.seconds,
            seed=chosen.seed,
            timeout_s=chosen.timeout,
        )
        asyncio.run(Generator(load, emit).run(lambda: os.getppid() == chosen.parent))
    except PolicyError as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads: the parent is gone
        return 1
    return 0 if os.getppid() == chosen.parent else 1


if __name__ == "__main__":
    sys.exit(main())
