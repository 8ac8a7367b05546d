"""What goes through a PgBouncer, and who waits, from its admin console: SHOW STATS, SHOW POOLS.

A user of stats_users is enough. A request is a transaction (in statement pooling a query).
PgBouncer counts it when its client has asked for it; those that wait or run have not ended yet, and
are taken off. Else an overload would look as if all of it were served.

PgBouncer knows sums of times, no distribution. Quantiles cannot be made from them, so no time is
given as a signal: it would stand where a latency is needed, and say nothing of it. The means, and
how long the first in the queue has waited, are in the readings' details; what transactions take for
their clients comes from the application (sensor `prometheus`, `statsd` or `access_log`).
"""

from dataclasses import dataclass, field
from functools import partial

from poolwright.core.errors import PlantFault
from poolwright.core.model import Reading, Status
from poolwright.core.units import Seconds
from poolwright.sensors.prometheus_page import Counters, Growth, Labels, Series
from poolwright.wire.pg_console import (
    Access,
    Console,
    Row,
    is_real,
    naming,
    server_connections,
    whole,
)

_COUNTS = (
    "total_xact_count",
    "total_xact_time",
    "total_wait_time",
)  # microseconds; the first includes the second


class PgBouncerSensor:
    """Signals: throughput_rps, queue_length, in_flight; worker_count: connections to the server."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(Access):
        """Where the admin console is, and which databases are meant."""

        databases: tuple[str, ...] = field(
            default=(), metadata={"doc": "only these, as PgBouncer calls them; default: all"}
        )
        timeout: Seconds = field(default=0.5, metadata={"doc": "for the whole answer", "above": 0})

    signals = ("throughput_rps", "queue_length", "in_flight", "worker_count")
    deadline_s: float | None

    def __init__(self, options: Options, _pool: str) -> None:
        self.source = f"pgbouncer {options.address}"
        self.deadline_s = options.timeout + 0.1
        self._databases = frozenset(options.databases)
        self._address = options.address
        self._console = Console(options, options.timeout)
        self._counters = Counters()
        self._incarnation = ""
        self._begun = 0  # transactions that waited or ran at the last look

    async def start(self) -> None:
        """Open nothing: a dead console shows at the first read."""

    async def close(self) -> None:
        """Hang up."""
        self._console.close()

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal; every one an error when the console does not answer."""
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        try:
            stats, pools = await self._console.ask("SHOW STATS", "SHOW POOLS")
            if self._console.incarnation != self._incarnation:
                await self._meet()
            with naming(self._address):
                return self._readings(stats, pools, now_ns, tell)
        except PlantFault as fault:
            failed = partial(tell, status=Status.ERROR, detail=str(fault))
            return tuple(failed(signal=name) for name in self.signals)

    async def _meet(self) -> None:
        """Another process than before, or the first: its counts have nothing to do with the last.

        Raises PlantFault when others share its port, which see the rest of the traffic.
        """
        (config,) = await self._console.ask("SHOW CONFIG")
        shared = any(r.get("key") == "so_reuseport" and str(r.get("value")) == "1" for r in config)
        if shared and not self._address.startswith("unix"):
            raise PlantFault(
                f"{self._address}: with so_reuseport several processes share the port, and each "
                "sees a part of the traffic: name the UNIX socket of one"
            )
        self._counters = Counters()
        self._incarnation = self._console.incarnation

    def _readings(
        self, stats: list[Row], pools: list[Row], now_ns: int, tell: "partial[Reading]"
    ) -> tuple[Reading, ...]:
        """Raises Malformed; PlantFault when a database is not there: a part is not the whole."""
        unknown = self._databases - {row.get("database") for row in stats}
        if unknown:
            names = ", ".join(sorted(unknown))
            raise PlantFault(f"{self._address}: no statistics of database {names}")
        series: dict[Labels, Series] = {
            (("database", str(row.get("database"))),): Series(
                counts=tuple(float(whole(row, name)) for name in _COUNTS)
            )
            for row in stats
            if self._is_meant(row)
        }
        meant = [row for row in pools if self._is_meant(row)]
        now = _now(meant, tell)
        before, self._begun = self._begun, sum(_begun(row) for row in meant)
        more = self._begun - before
        return self._throughput(self._counters.advance(series, now_ns), more, tell), *now

    def _is_meant(self, row: Row) -> bool:
        return is_real(row) and (not self._databases or row.get("database") in self._databases)

    def _throughput(
        self, growth: Growth | None, more_begun: int, tell: "partial[Reading]"
    ) -> Reading:
        tell = partial(tell, signal="throughput_rps")
        if growth is None:
            return tell(status=Status.NO_DATA, detail="a difference needs two looks")
        asked, felt_us, waited_us = (sum(s.counts[i] for s in growth.series) for i in range(3))
        done = max(0.0, asked - more_begun)
        told = []
        if done:
            felt = f"mean: {felt_us / done / 1e3:.3g} ms as its client felt it"
            told.append(f"{felt}, {waited_us / done / 1e3:.3g} ms of that waiting")
        told += ["counted from zero again: a lower bound"] if growth.restarted else []
        return tell(
            value=done / growth.elapsed_s, estimated=growth.restarted, detail="; ".join(told)
        )


def _begun(pool: Row) -> int:
    """Transactions of a pool that wait or run. Raises Malformed.

    In session pooling a client may hold its connection between two, so those that run are unknown.
    """
    runs = 0 if pool.get("pool_mode") == "session" else whole(pool, "sv_active")
    return whole(pool, "cl_waiting") + runs


def _now(pools: list[Row], tell: "partial[Reading]") -> tuple[Reading, ...]:
    """What is waiting and busy now. Raises Malformed."""
    waiting = sum(whole(row, "cl_waiting") for row in pools)
    longest_s = max(
        (whole(row, "maxwait") + whole(row, "maxwait_us") / 1e6 for row in pools), default=0.0
    )
    busy = sum(whole(row, "sv_active") for row in pools)
    connections = sum(server_connections(row) for row in pools)
    first = f"the first has waited for {longest_s:.3g} s" if waiting else ""
    if any(row.get("pool_mode") == "session" for row in pools):
        detail = "session pooling: a connection that a client holds may be idle"
        in_flight = tell(signal="in_flight", status=Status.NO_DATA, detail=detail)
    else:
        in_flight = tell(signal="in_flight", value=float(busy))
    return (
        tell(signal="queue_length", value=float(waiting), detail=first),
        in_flight,
        tell(signal="worker_count", value=float(connections)),
    )
