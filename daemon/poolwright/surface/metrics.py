"""The newest Snapshot as Prometheus metrics. What is not known is an absent sample."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from poolwright.core.model import Phase, Responses, Setting, Status
from poolwright.engine.snapshot import LearnerState, PoolSnapshot, Snapshot
from poolwright.surface.words import ready, seen_once

Number = float | int | bool | None
Rows = Iterable[tuple[dict[str, str], Number]]

# Upper bounds of the tick histogram's buckets, in seconds.
TICK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def error_ratio(pool: PoolSnapshot) -> float | None:
    """Failed over completed requests in the newest tick; None when nothing completed."""
    failed, completed = pool.sample.errors_rps, pool.sample.throughput_rps
    return None if failed is None or not completed else failed / completed


# One number a pool: name, help, how to find it.
_GAUGES: tuple[tuple[str, str, Callable[[PoolSnapshot], Number]], ...] = (
    ("pool_up", "Whether the pool's real level was read back in the newest tick.",
     lambda p: p.tick.applied is not None),
    ("pool_ready", "Whether the pool's plant was seen at least once in this run.", seen_once),
    ("load_requests_per_second", "Offered load: completions plus growth of the queue.",
     lambda p: p.sample.load_rps),
    ("throughput_requests_per_second", "Requests completed a second.",
     lambda p: p.sample.throughput_rps),
    ("error_ratio", "Share of the completed requests that failed.", error_ratio),
    ("jitter_seconds", "Standard deviation of latency over the last seconds.",
     lambda p: p.recent.jitter_s),
    ("latency_window_seconds", "Span over which poolwright_latency_seconds is taken.",
     lambda p: p.recent.span_s or None),
    ("latency_estimated", "Whether latency is composed from service time and queue delay.",
     lambda p: p.recent.estimated if p.recent.count else None),
    ("queue_length", "Connections that wait to be accepted.", lambda p: p.sample.queue_length),
    ("queue_delay_seconds", "Time that a request waits for a worker.",
     lambda p: p.sample.queue_delay_s),
    ("in_flight_requests", "Requests in a worker, by Little's law.",
     lambda p: p.sample.in_flight),
    ("cpu_cores", "CPU used by the pool, in cores.", lambda p: p.sample.cpu_cores),
    ("memory_bytes", "Memory used by the pool.", lambda p: p.sample.memory_bytes),
    ("memory_limit_bytes", "Memory that may be used on this host or in this cgroup.",
     lambda p: p.sample.memory_limit_bytes),
    ("host_cpu_ratio", "Share of the usable CPU that is in use.",
     lambda p: p.sample.host_cpu_ratio),
    ("foreign_cpu_ratio", "Share of the usable CPU that others than the pool use.",
     lambda p: p.sample.foreign_cpu_ratio),
    ("cpu_pressure_ratio", "Share of time in which some task waited for CPU.",
     lambda p: p.sample.psi_cpu_ratio),
    ("memory_pressure_ratio", "Share of time in which some task waited for memory.",
     lambda p: p.sample.psi_memory_ratio),
    ("last_move_timestamp_seconds", "When poolwright last moved a level.",
     lambda p: None if p.last_move_wall_ns is None else p.last_move_wall_ns / 1e9),
    ("plan_version", "Version of the plan in force.", lambda p: p.plan.version if p.plan else None),
    ("plan_best_gain_ratio", "Gain expected of the best safe probe, as a share of the objective.",
     lambda p: p.plan.best_gain_ratio if p.plan else None),
    ("fit_duration_seconds", "How long the newest fit took.",
     lambda p: p.plan.fit_s if p.plan else None),
    ("learner_resident_memory_bytes", "Memory of the learner process while it runs.",
     lambda p: p.learner_rss_bytes),
)  # fmt: skip

# Counter of the Snapshot, and of that name with _total here; help.
_COUNTERS: tuple[tuple[str, str], ...] = (
    ("ticks", "Ticks made."),
    ("late_ticks", "Ticks that began after their slot."),
    ("moves", "Moves commanded."),
    ("probes", "Probes begun."),
    ("retreats", "Retreats to a safe setting."),
    ("windows", "Observation windows closed."),
    ("fits", "Fits of the surrogate that gave a plan."),
    ("fit_failures", "Fits that ended in a death or a kill."),
    ("sensor_failures", "Reads of a sensor that failed."),
    ("actuation_failures", "Actuations that failed."),
)

# response -> metric stem with the base unit, further labels
_PREDICTED: dict[str, tuple[str, dict[str, str]]] = {
    "throughput_rps": ("throughput_requests_per_second", {}),
    "latency_p50_s": ("latency_seconds", {"percentile": "50"}),
    "latency_p95_s": ("latency_seconds", {"percentile": "95"}),
    "latency_p99_s": ("latency_seconds", {"percentile": "99"}),
    "jitter_s": ("jitter_seconds", {}),
    "power_w": ("power_watts", {}),
    "cpu_cores": ("cpu_cores", {}),
    "memory_bytes": ("memory_bytes", {}),
    "error_ratio": ("error_ratio", {}),
}


class TickHistogram:
    """Durations of all ticks of one pool, not only of those that a scrape happens to see."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        """Start empty."""
        self.counts = [0] * (len(TICK_BUCKETS) + 1)
        self.total_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one tick."""
        self.counts[bisect_left(TICK_BUCKETS, duration_s)] += 1
        self.total_s += duration_s

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, ticks at or below it), as the exposition format wants it."""
        bounds = [*map(str, TICK_BUCKETS), "+Inf"]
        return [(bound, sum(self.counts[: i + 1])) for i, bound in enumerate(bounds)]


class SnapshotCollector(Collector):
    """Renders what `latest` gives; `published` is called once a slot, `collect` once a scrape."""

    def __init__(self, version: str, latest: Callable[[], Snapshot | None]) -> None:
        """`latest` gives None until the first slot is over."""
        self._version = version
        self._latest = latest
        self._ticks: dict[str, TickHistogram] = {}

    def published(self, snapshot: Snapshot) -> None:
        """Count the durations of a slot's ticks."""
        for pool in snapshot.pools:
            self._ticks.setdefault(pool.pool, TickHistogram()).add(pool.tick_duration_s)

    def collect(self) -> Iterator[Metric]:
        """Every metric family that has a sample."""
        yield InfoMetricFamily(
            "poolwright_build", "The running version.", value={"version": self._version}
        )
        snapshot = self._latest()
        is_ready = snapshot is not None and ready(snapshot)
        yield _family("gauge", "ready", "Whether every pool has seen its plant.", [({}, is_ready)])
        if snapshot is None:
            return
        for family in (*_daemon(snapshot), *_pools(snapshot.pools), *self._tick_durations()):
            if family.samples:
                yield family

    def _tick_durations(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "poolwright_tick_duration_seconds",
            "Time from the start of a tick until its snapshot.",
            labels=["pool"],
        )
        for pool, ticks in self._ticks.items():
            family.add_metric([pool], buckets=ticks.cumulative(), sum_value=ticks.total_s)
        yield family


class Exposition:
    """The collector in a registry of its own, beside the metrics of this process."""

    def __init__(self, version: str, latest: Callable[[], Snapshot | None]) -> None:
        """`version` is poolwright's own."""
        self.collector = SnapshotCollector(version, latest)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self.collector)
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, in the format that `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def predictions(pool: PoolSnapshot) -> Responses:
    """What the plan expects at the applied setting; empty when it says nothing about it.

    The schedule's bin of the present load comes first, for it was judged at that load; else the
    candidate, judged at the load of the fit.
    """
    if pool.plan is None or pool.tick.applied is None:
        return ()
    here, load = pool.tick.applied.setting, pool.sample.load_rps
    for row in pool.plan.schedule:
        inside = load is not None and row.load_lower_rps <= load < row.load_upper_rps
        if inside and row.setting == here:
            return row.predictions
    return next((c.predictions for c in pool.plan.candidates if c.setting == here), ())


def _family(kind: str, name: str, text: str, rows: Rows, suffix: str = "") -> Metric:
    """A family with a sample for every row whose number is known."""
    full = f"poolwright_{name}"
    family = Metric(full, text, kind)
    for labels, value in rows:
        if value is not None:
            family.add_sample(full + suffix, labels, float(value))
    return family


def _daemon(snapshot: Snapshot) -> Iterator[Metric]:
    yield _family(
        "gauge",
        "snapshot_timestamp_seconds",
        "When the newest slot ended.",
        [({}, snapshot.wall_ns / 1e9)],
    )
    yield _family(
        "gauge",
        "journal_ok",
        "Whether the journal can be written.",
        [({}, not snapshot.journal_error)],
    )


def _pools(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    for name, text, find in _GAUGES:
        yield _family("gauge", name, text, [({"pool": p.pool}, find(p)) for p in pools])
    for name, text in _COUNTERS:
        rows = [({"pool": p.pool}, dict(p.counters).get(name)) for p in pools]
        yield _family("counter", name, text, rows, "_total")
    yield from _by_reason(pools)
    yield from _states(pools)
    yield from _levels(pools)
    yield from _seen(pools)
    yield from _sensors(pools)
    yield from _predicted(pools)


def _by_reason(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    trips: list[tuple[dict[str, str], Number]] = []
    decisions: list[tuple[dict[str, str], Number]] = []
    for pool in pools:
        for counter, count in pool.counters:
            match counter.split(":"):
                case ["guard_trips", reason]:
                    trips.append(({"pool": pool.pool, "reason": reason}, count))
                case ["decisions", action, reason]:
                    labels = {"pool": pool.pool, "action": action, "reason": reason}
                    decisions.append((labels, count))
    yield _family("counter", "guard_trips", "Guard trips, by their cause.", trips, "_total")
    text = "Decisions, by what they do and why."
    yield _family("counter", "decisions", text, decisions, "_total")


def _states(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    phases = [
        ({"pool": p.pool, "phase": phase.value}, p.decision.phase is phase)
        for p in pools
        for phase in Phase
    ]
    yield _family("gauge", "pool_phase", "1 for the phase that the pool is in.", phases)
    learner = [
        ({"pool": p.pool, "state": state.value}, p.learner is state)
        for p in pools
        for state in LearnerState
    ]
    yield _family("gauge", "learner_state", "1 for what the learner process does.", learner)
    policies = [
        (
            {
                "pool": p.pool,
                "policy": p.policy.name,
                "sha256": p.policy.sha256,
                "mode": p.policy.mode.value,
                "actuator": p.endpoint,
            },
            1,
        )
        for p in pools
    ]
    yield _family("gauge", "policy_info", "The policy in force.", policies)


def _levels(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    def levels(find: Callable[[PoolSnapshot], Setting | None]) -> Rows:
        for pool in pools:
            where = find(pool)
            for knob, level in where.levels if where else ():
                yield {"pool": pool.pool, "knob": knob}, level

    yield _family("gauge", "knob_wanted", "Level commanded.", levels(lambda p: p.decision.setting))
    yield _family(
        "gauge",
        "knob_applied",
        "Level read back.",
        levels(lambda p: p.tick.applied.setting if p.tick.applied else None),
    )
    yield _family(
        "gauge", "knob_baseline", "Level before poolwright came.", levels(lambda p: p.baseline)
    )
    yield _family(
        "gauge",
        "knob_advised",
        "Level that would be set if the mode allowed it.",
        levels(lambda p: None if p.decision.advice is None else p.decision.advice.setting),
    )
    bounds = [(p, knob) for p in pools for knob in p.policy.knobs]
    for name, text, pick in (
        ("knob_lower", "Lowest level that the policy allows.", "lower"),
        ("knob_upper", "Highest level that the policy allows.", "upper"),
    ):
        rows = [({"pool": p.pool, "knob": k.name}, getattr(k, pick)) for p, k in bounds]
        yield _family("gauge", name, text, rows)


def _seen(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    quantiles = [
        ({"pool": p.pool, "quantile": quantile}, value)
        for p in pools
        for quantile, value in (
            ("0.5", p.recent.p50_s),
            ("0.95", p.recent.p95_s),
            ("0.99", p.recent.p99_s),
        )
    ]
    text = "What clients waited, queue included, over the last seconds."
    yield _family("summary", "latency_seconds", text, quantiles)
    sources = [({"pool": p.pool, "source": p.sample.power_source}, p) for p in pools]
    watts = [(labels, p.sample.power_w) for labels, p in sources]
    yield _family("gauge", "power_watts", "Power, and where the figure is from.", watts)
    errors = [(labels, p.sample.power_std_w) for labels, p in sources]
    yield _family("gauge", "power_error_watts", "Standard error of the power.", errors)


def _sensors(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    durations = [
        ({"pool": p.pool, "sensor": source}, seconds)
        for p in pools
        for source, seconds in p.sensor_durations_s
    ]
    text = "How long the newest read took."
    yield _family("gauge", "sensor_read_duration_seconds", text, durations)
    outcomes: list[tuple[dict[str, str], Number]] = []
    for pool in pools:
        good: dict[str, bool] = {}
        for reading in pool.tick.readings:
            well = reading.status in (Status.OK, Status.NO_DATA)
            good[reading.source] = good.get(reading.source, True) and well
        outcomes += [({"pool": pool.pool, "sensor": s}, ok) for s, ok in good.items()]
    text = "Whether the newest read gave nothing broken or stale."
    yield _family("gauge", "sensor_success", text, outcomes)


def _predicted(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    means: dict[str, list[tuple[dict[str, str], Number]]] = {}
    errors: dict[str, list[tuple[dict[str, str], Number]]] = {}
    for pool in pools:
        for response, estimate in predictions(pool):
            if response in _PREDICTED:
                stem, more = _PREDICTED[response]
                labels = {"pool": pool.pool, **more}
                means.setdefault(stem, []).append((labels, estimate.mean))
                errors.setdefault(stem, []).append((labels, estimate.std))
    for stem, rows in means.items():
        text = "Expected by the plan at the applied setting."
        yield _family("gauge", f"predicted_{stem}", text, rows)
        text = "Standard error of what the plan expects at the applied setting."
        yield _family("gauge", f"prediction_error_{stem}", text, errors[stem])
