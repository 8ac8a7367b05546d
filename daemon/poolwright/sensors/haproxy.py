r"""What HAProxy counts for one backend: requests, failures, and those that wait for a server.

    - {kind: haproxy, socket: /run/haproxy/stats.sock, backend: app}       level user is enough
    - {kind: haproxy, url: "http://127.0.0.1:8404/stats;csv", backend: app}

In mode http a request is counted when its answer has ended, and a failure is an answer of 5xx,
HAProxy's own 502 to 504 included. In mode tcp a session is counted when a server gets it, and a
failure is a connection that was not made or broke. `queue_length` is what waits in the backend's
queue and in its servers'. `in_flight` is the mean over the servers that are up of what each serves,
for that is what `maxconn` limits.

Latency: HAProxy has averages over the last 1024 requests and no distribution. Quantiles cannot be
made from them, so by default none are given (`averages` gives the means, for people). HAProxy's own
log can tell each request's latency to an `access_log` sensor, and its time in the server (%Tr, in
milliseconds; -1 when none had it):

    log 127.0.0.1:8126 format raw local0
    http-request set-var(txn.t) date(0,us)
    log-format "<14>gunicorn.h.access: [%pid] poolwright %ST %Tr%[str(000)] %[var(txn.t)]"
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.units import PathText, Seconds
from poolwright.sensors.prometheus_page import Counters, Growth, Labels, Series
from poolwright.wire.haproxy import BACKEND, Row, Source, Stats, whole

_AVERAGED = "an average over HAProxy's last 1024 requests: no quantiles"
_SIGNALS = ("throughput_rps", "errors_rps", "queue_length", "in_flight")
_MEANS = ("service_time_s", "latency_s")
# per mode: the columns of BACKEND that add up to what is done, and to what has failed
_HTTP = (("hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other"), ("hrsp_5xx",))
_TCP_FAILED = ("econ", "eresp")


@dataclass(frozen=True, slots=True, kw_only=True)
class HaproxyOptions:
    """Where HAProxy tells its statistics, and of what."""

    backend: str = field(metadata={"doc": "the backend (or listen section) whose requests count"})
    socket: PathText | None = field(
        default=None, metadata={"doc": "HAProxy's stats socket; level user is enough"}
    )
    url: str | None = field(
        default=None,
        metadata={"doc": "in place of a socket: http://host:port/stats;csv of `stats uri /stats`"},
    )
    averages: bool = field(
        default=False,
        metadata={
            "doc": "also give HAProxy's averages over 1024 requests as service_time_s and"
            " latency_s: means for people, from which no SLO on a quantile can be judged"
        },
    )
    timeout: Seconds = field(
        default=0.5, metadata={"doc": "for one look at the statistics", "above": 0}
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be a place."""
        Source(self.backend, self.socket, self.url)
        if not self.timeout > 0.0:
            raise PolicyError("timeout must be above 0")


class Haproxy:
    """One backend's requests, failures and queue."""

    Options = HaproxyOptions

    def __init__(self, options: HaproxyOptions, _pool: str) -> None:
        """Nothing is opened yet."""
        self._from = Source(options.backend, options.socket, options.url)
        self._timeout_s = options.timeout
        self.deadline_s: float | None = options.timeout + 0.1
        self.source = f"haproxy {self._from.name} {options.backend}"
        self.signals = (*_SIGNALS, *_MEANS) if options.averages else _SIGNALS
        self._counters = Counters()

    async def start(self) -> None:
        """Open nothing: each look has a connection of its own."""

    async def close(self) -> None:
        """Nothing is kept open."""

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One look; every signal an error when it cannot be believed."""
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        try:
            stats = await self._from.stats(self._timeout_s)
            return self._readings(stats, now_ns, tell)
        except PlantFault as fault:
            failed = partial(tell, status=Status.ERROR, detail=str(fault))
            return tuple(failed(signal=name) for name in self.signals)

    def _readings(self, stats: Stats, now_ns: int, tell: "partial[Reading]") -> tuple[Reading, ...]:
        """What the statistics say. Raises PlantFault for what is no number."""
        waiting = sum(whole(row, "qcur", self._from.name) for row in stats.rows.values())
        growth = self._counters.advance(self._counts(stats), now_ns)
        found = [
            *self._rates(growth, tell),
            tell(signal="queue_length", value=float(waiting)),
            tell(signal="in_flight", value=self._busy(stats.rows)),
        ]
        if len(self.signals) > len(_SIGNALS):
            found += self._means(stats.rows[BACKEND], tell)
        return tuple(found)

    def _busy(self, rows: Mapping[str, Row]) -> float:
        """Connections that a server serves, the mean over those that are up."""
        servers = [row for key, row in rows.items() if key != BACKEND]
        busy = sum(whole(row, "scur", self._from.name) for row in servers)
        up = sum(not row.get("status", "").startswith(("DOWN", "MAINT")) for row in servers)
        return busy / max(1, up)

    def _counts(self, stats: Stats) -> dict[Labels, Series]:
        """Counters since HAProxy began: what has failed, then the parts of what is done."""
        row, name = stats.rows[BACKEND], self._from.name
        if row.get("mode") == "http":
            done, failed = (sum(whole(row, column, name) for column in part) for part in _HTTP)
            parts = {BACKEND: done}
        else:  # each server for itself: one that is taken away is no restart
            parts = {k: whole(r, "stot", name) for k, r in stats.rows.items() if k != BACKEND}
            failed = sum(whole(row, column, name) for column in _TCP_FAILED)
        began = _began(stats.info)
        counts = {(("failed", BACKEND),): failed}
        counts |= {(("done", key),): count for key, count in parts.items()}
        return {key: Series(counts=(count,), created=began) for key, count in counts.items()}

    def _rates(self, growth: Growth | None, tell: "partial[Reading]") -> tuple[Reading, Reading]:
        if growth is None:
            none = partial(tell, status=Status.NO_DATA, detail="a difference needs two looks")
            return none(signal="throughput_rps"), none(signal="errors_rps")
        if self._counters.flapping:
            raise PlantFault(
                f"{self._from.name}: the counts fall again and again: several processes answer"
            )
        if growth.restarted:
            note = "HAProxy counts from zero again (reload): a lower bound"
            tell = partial(tell, estimated=True, detail=note)
        failed, *done = (one.counts[0] / growth.elapsed_s for one in growth.series)
        throughput = tell(signal="throughput_rps", value=sum(done))
        return throughput, tell(signal="errors_rps", value=failed)

    def _means(self, row: Row, tell: "partial[Reading]") -> tuple[Reading, Reading]:
        """`ttime` is all of a request, `qtime` its time in the queue; both in milliseconds."""
        queued, total = (whole(row, column, self._from.name) for column in ("qtime", "ttime"))
        none = partial(tell, status=Status.NO_DATA, detail="no average yet")
        mean = partial(tell, estimated=True, detail=_AVERAGED)
        if total == 0 or queued > total:
            return none(signal="service_time_s"), none(signal="latency_s")
        served = mean(signal="service_time_s", value=(total - queued) / 1e3)
        return served, mean(signal="latency_s", value=total / 1e3)


def _began(info: Mapping[str, str]) -> float | None:
    """When the process that answers began, and which it is, as one number; None when not told."""
    start, pid = info.get("Start_time_sec", "0"), info.get("Pid", "")
    if not (start.isascii() and start.isdigit() and pid.isascii() and pid.isdigit()):
        return None
    return float(start) + int(pid) / (1 << 22)  # process ids go up to 2**22
