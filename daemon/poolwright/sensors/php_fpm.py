"""What a php-fpm pool tells of itself: its status page (`pm.status_path`), over FastCGI or HTTP.

    - {kind: php_fpm, listen: "unix:/run/php/status.sock", path: /status}      # pm.status_listen
    - {kind: php_fpm, url: "http://127.0.0.1/status"}

Name `pm.status_listen` (PHP 8.0 and later): at the pool's own socket the page waits behind the
requests, and takes a worker. A page that shows itself among the requests is not counted.

**No times.** The page tells of each process the request that it last served, once it is idle. That
is a fair sample while some are idle, and none when all are busy, which is when latency matters: who
went by it would be blind in an overload. nginx's log has the times (sensor `access_log`).

php-fpm looks at its accept queue once a second, and at that of a UNIX socket never: take the sensor
`listen_queue` for that, which samples five times a second.
"""

from dataclasses import dataclass, field
from functools import partial

import msgspec

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.units import Seconds
from poolwright.sensors.fastcgi import fetch
from poolwright.sensors.prometheus_page import Counters, Series
from poolwright.sensors.scrape import Terms, Url, scrape
from poolwright.wire.address import parse_address

_QUERY = "json&full"
_MOST_BYTES = 4 << 20  # about 400 a process
_JSON = {"application/json": ""}


class _Process(msgspec.Struct, rename=lambda name: name.replace("_", " ")):
    """One worker, as the page has it."""

    state: str
    request_uri: str  # being served, or served last


class _Page(msgspec.Struct, rename=lambda name: name.replace("_", " ")):
    """The page of one pool."""

    pool: str
    start_time: int
    accepted_conn: int  # requests begun
    listen_queue: int
    listen_queue_len: int  # 0 where php-fpm cannot tell its queue
    active_processes: int
    total_processes: int
    max_children_reached: int
    processes: list[_Process]


_DECODER = msgspec.json.Decoder(_Page)


class PhpFpmSensor:
    """Signals: throughput_rps, queue_length, in_flight, worker_count."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where the status page is: exactly one of listen and url (else PolicyError)."""

        listen: str | None = field(
            default=None,
            metadata={"doc": "pm.status_listen, or listen: unix:/run/php/x.sock, 127.0.0.1:9000"},
        )
        path: str = field(default="/status", metadata={"doc": "pm.status_path, with `listen`"})
        url: str | None = field(
            default=None, metadata={"doc": "the page at a web server, without its query"}
        )
        timeout: Seconds = field(default=0.5, metadata={"doc": "for the whole answer", "above": 0})

        def __post_init__(self) -> None:
            """Refuse both, neither, and what is no address."""
            if (self.listen is None) == (self.url is None):
                raise PolicyError("php_fpm needs either listen or a url")
            if self.listen is not None:
                parse_address(self.listen)
            if self.url is not None:
                Url.parse(self.url)
            if not self.path.startswith("/"):
                raise PolicyError(f"path: {self.path!r} does not begin with a slash")

    signals = ("throughput_rps", "queue_length", "in_flight", "worker_count")
    deadline_s: float | None

    def __init__(self, options: Options, _pool: str) -> None:
        self.source = f"php_fpm {options.listen or options.url}"
        self.deadline_s = options.timeout + 0.1
        self._options = options
        path = options.path if options.url is None else Url.parse(options.url).target
        self._path, self._own = path, f"{path}?{_QUERY}"  # the page's request, as it shows itself
        self._counters = Counters()

    async def start(self) -> None:
        """Open nothing: a dead page shows at the first read."""

    async def close(self) -> None:
        """Nothing is kept open."""

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal; every one an error when the page cannot be believed."""
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        try:
            page = await self._page()
        except PlantFault as fault:
            failed = partial(tell, status=Status.ERROR, detail=str(fault))
            return tuple(failed(signal=name) for name in self.signals)
        own = sum(p.request_uri == self._own and p.state != "Idle" for p in page.processes)
        at_limit = f"max_children was reached {page.max_children_reached} times since the start"
        return (
            self._throughput(page, own, now_ns, tell),
            _queue(page, tell),
            tell(signal="in_flight", value=float(max(0, page.active_processes - own))),
            tell(
                signal="worker_count",
                value=float(page.total_processes),
                detail=at_limit if page.max_children_reached else "",
            ),
        )

    async def _page(self) -> _Page:
        """Raises PlantFault naming the address."""
        options = self._options
        if options.url is not None:
            body = bytearray()
            url = Url.parse(f"{options.url}?{_QUERY}")
            terms = Terms(accept=_JSON, timeout_s=options.timeout, most_bytes=_MOST_BYTES)
            await scrape(url, terms, body.extend)
            return self._decoded(bytes(body))
        assert options.listen is not None
        try:
            found = await fetch(
                parse_address(options.listen),
                self._path,
                _QUERY,
                within_s=options.timeout,
                most_bytes=_MOST_BYTES,
            )
        except PlantFault as fault:
            raise PlantFault(f"{options.listen}: {fault}") from fault
        return self._decoded(found)

    def _decoded(self, body: bytes) -> _Page:
        where = self._options.listen or self._options.url
        try:
            page = _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PlantFault(f"{where}: not the status of a php-fpm pool: {error}") from error
        counts = (page.accepted_conn, page.listen_queue, page.listen_queue_len)
        if min(*counts, page.active_processes, page.total_processes) < 0:
            raise PlantFault(f"{where}: a count below zero: not the status of a php-fpm pool")
        return page

    def _throughput(self, page: _Page, own: int, now_ns: int, tell: "partial[Reading]") -> Reading:
        tell = partial(tell, signal="throughput_rps")
        now = Series(counts=(float(page.accepted_conn),), created=float(page.start_time))
        growth = self._counters.advance({(("pool", page.pool),): now}, now_ns)
        if growth is None:
            return tell(status=Status.NO_DATA, detail="a difference needs two looks")
        begun = sum(one.counts[0] for one in growth.series)
        note = "counted from zero again: a lower bound" if growth.restarted else ""
        value = max(0.0, begun - own) / growth.elapsed_s
        return tell(value=value, estimated=growth.restarted, detail=note)


def _queue(page: _Page, tell: "partial[Reading]") -> Reading:
    tell = partial(tell, signal="queue_length")
    if page.listen_queue_len == 0:
        detail = "php-fpm does not tell the queue of a UNIX socket: add the sensor listen_queue"
        return tell(status=Status.NO_DATA, detail=detail)
    return tell(value=float(page.listen_queue))
