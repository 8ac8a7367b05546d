"""Requests through an nginx: its `stub_status` page.

    Active connections: 3
    server accepts handled requests
     12 12 345
    Reading: 0 Writing: 2 Waiting: 1

A request counts when nginx has read its head, so those still waiting for the service behind nginx
are in throughput_rps; in_flight is what nginx is writing, or waiting for the service to answer. The
page itself is in both, once, and is taken off. What nginx dropped is in the detail.
"""

import re
from dataclasses import dataclass, field
from functools import partial

from poolwright.core.errors import PlantFault
from poolwright.core.model import Reading, Status
from poolwright.core.units import Seconds
from poolwright.sensors.prometheus_page import Counters, Growth, Series
from poolwright.sensors.scrape import Terms, Url, scrape

_PAGE = re.compile(
    rb"Active connections: (\d{1,15}) *\n"
    rb"server accepts handled requests *\n"
    rb" *(\d{1,15}) +(\d{1,15}) +(\d{1,15}) *\n"
    rb"Reading: (\d{1,15}) Writing: (\d{1,15}) Waiting: (\d{1,15}) *\n"
)
_MOST_BYTES = 4096


class Nginx:
    """Signals: throughput_rps, in_flight. A new connection is made for each look."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where the page is."""

        url: str = field(metadata={"doc": "the location with `stub_status`, over http"})
        timeout: Seconds = field(default=0.5, metadata={"doc": "for the whole answer", "above": 0})

        def __post_init__(self) -> None:
            """Refuse what is no URL."""
            Url.parse(self.url)

    signals = ("throughput_rps", "in_flight")
    deadline_s: float | None

    def __init__(self, options: Options, _pool: str) -> None:
        self._url = Url.parse(options.url)
        self.source = f"nginx {options.url}"
        self.deadline_s = options.timeout + 0.1
        self._terms = Terms(
            accept={"text/plain": ""}, timeout_s=options.timeout, most_bytes=_MOST_BYTES
        )
        self._counters = Counters()

    async def start(self) -> None:
        """Open nothing: a dead page shows at the first read."""

    async def close(self) -> None:
        """Nothing is kept open."""

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal; both an error when the page cannot be believed."""
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        try:
            found = await self._page()
        except PlantFault as fault:
            failed = partial(tell, status=Status.ERROR, detail=str(fault))
            return tuple(failed(signal=name) for name in self.signals)
        active, accepted, handled, requests, _, writing, _ = (int(n) for n in found.groups())
        now = Series(counts=(float(requests), float(accepted), float(handled)))
        growth = self._counters.advance({(): now}, now_ns)
        return (
            _throughput(growth, partial(tell, signal="throughput_rps")),
            tell(
                signal="in_flight",
                value=float(max(0, writing - 1)),
                detail=f"{active} connections are open",
            ),
        )

    async def _page(self) -> re.Match[bytes]:
        """Raises PlantFault naming the url."""
        body = bytearray()
        await scrape(self._url, self._terms, body.extend)
        found = _PAGE.fullmatch(bytes(body))
        if found is None:
            raise PlantFault(f"{self._url.text}: not the page of stub_status")
        return found


def _throughput(growth: Growth | None, tell: "partial[Reading]") -> Reading:
    if growth is None:
        return tell(status=Status.NO_DATA, detail="a difference needs two looks")
    requests, accepted, handled = (sum(s.counts[i] for s in growth.series) for i in range(3))
    told = ["counted from zero again: a lower bound"] if growth.restarted else []
    if accepted > handled:
        told.append(f"{accepted - handled:.0f} connections were dropped (worker_connections)")
    value = max(0.0, requests - 1.0) / growth.elapsed_s
    return tell(value=value, estimated=growth.restarted, detail="; ".join(told))
