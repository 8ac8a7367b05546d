"""What is seen, done and expected of each pool, as Prometheus families."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric

from poolwright.core.model import Phase, Reason, Setting, Status
from poolwright.engine.snapshot import LearnerState, PoolSnapshot
from poolwright.surface.counted import WELL, Counted, sensor_states
from poolwright.surface.family import Number, Rows, family
from poolwright.surface.words import seen_once


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
    ("in_flight_requests", "Requests in a worker: counted, else by Little's law.",
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
    ("throttled_ratio", "Share of the periods of a CPU quota in which it was used up.",
     lambda p: p.sample.throttled_ratio),
    ("last_move_timestamp_seconds", "When poolwright last moved a level.",
     lambda p: None if p.last_move_wall_ns is None else p.last_move_wall_ns / 1e9),
    ("plan_version", "Version of the plan in force.", lambda p: p.plan.version if p.plan else None),
    ("regret_bound_ratio",
     "Regret bound: what the best safe probe is expected to gain, as a share of the objective.",
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
    ("holdouts", "Finished comparisons with the baseline."),
    ("retreats", "Retreats to a safe setting."),
    ("windows", "Observation windows closed."),
    ("fits", "Fits of the surrogate that gave a plan."),
    ("fit_failures", "Fits that ended in a death or a kill."),
    ("actuation_failures", "Actuations that failed."),
)

_TRIPS = (
    Reason.SLO_BREACH,
    Reason.ERROR_BREACH,
    Reason.MEMORY_BREACH,
    Reason.CPU_BREACH,
    Reason.PRESSURE_BREACH,
)


def families(pools: tuple[PoolSnapshot, ...], counted: Mapping[str, Counted]) -> Iterator[Metric]:
    """All of them; one without a sample says nothing."""
    for name, text, find in _GAUGES:
        yield family("gauge", name, text, [({"pool": p.pool}, find(p)) for p in pools])
    for name, text in _COUNTERS:
        # A counter that is not there has not counted anything yet: 0, so that the first is seen.
        rows = [({"pool": p.pool}, dict(p.counters).get(name, 0)) for p in pools]
        yield family("counter", name, text, rows, "_total")
    yield from _by_reason(pools, counted)
    yield from _states(pools)
    yield from _levels(pools)
    yield from _seen(pools)
    yield from _sensors(pools)


def _by_reason(pools: tuple[PoolSnapshot, ...], counted: Mapping[str, Counted]) -> Iterator[Metric]:
    trips: list[tuple[dict[str, str], Number]] = []
    decisions = family("counter", "decisions", "Decisions, by what they do and why.", ())
    for pool in pools:
        happened = dict(pool.counters)
        for cause in _TRIPS:  # 0 until the first, so that the first is seen
            labels = {"pool": pool.pool, "reason": cause.value}
            trips.append((labels, happened.get(f"guard_trips:{cause}", 0)))
        examples = counted[pool.pool].decisions if pool.pool in counted else {}
        for counter, count in pool.counters:
            kind, _, words = counter.partition(":")
            if kind == "decisions" and words:
                action, reason = words.split(":")
                decisions.add_sample(
                    "poolwright_decisions_total",
                    {"pool": pool.pool, "action": action, "reason": reason},
                    count,
                    exemplar=examples.get((action, reason)),
                )
    yield family("counter", "guard_trips", "Guard trips, by their cause.", trips, "_total")
    yield decisions
    tripped: Rows = [
        ({"pool": p.pool, "reason": reason.value}, reason in p.decision.guard_trips)
        for p in pools
        for reason in _TRIPS
    ]
    yield family("gauge", "guard_tripped", "1 while the guard is tripped by that.", tripped)


def _states(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    phases = [
        ({"pool": p.pool, "phase": phase.value}, p.decision.phase is phase)
        for p in pools
        for phase in Phase
    ]
    yield family("gauge", "pool_phase", "1 for the phase that the pool is in.", phases)
    learner = [
        ({"pool": p.pool, "state": state.value}, p.learner is state)
        for p in pools
        for state in LearnerState
    ]
    yield family("gauge", "learner_state", "1 for what the learner process does.", learner)


def _levels(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    def levels(find: Callable[[PoolSnapshot], Setting | None]) -> Rows:
        for pool in pools:
            where = find(pool)
            for knob, level in where.levels if where else ():
                yield {"pool": pool.pool, "knob": knob}, level

    yield family("gauge", "knob_wanted", "Level commanded.", levels(lambda p: p.decision.setting))
    yield family(
        "gauge",
        "knob_applied",
        "Level read back.",
        levels(lambda p: p.tick.applied.setting if p.tick.applied else None),
    )
    yield family(
        "gauge", "knob_baseline", "Level before poolwright came.", levels(lambda p: p.baseline)
    )
    bounds = [(p, knob) for p in pools for knob in p.policy.knobs]
    for name, text, pick in (
        ("knob_lower", "Lowest level that the policy allows.", "lower"),
        ("knob_upper", "Highest level that the policy allows.", "upper"),
    ):
        rows = [({"pool": p.pool, "knob": k.name}, getattr(k, pick)) for p, k in bounds]
        yield family("gauge", name, text, rows)


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
    yield family("summary", "latency_seconds", text, quantiles)
    sources = [({"pool": p.pool, "source": p.sample.power_source}, p) for p in pools]
    watts = [(labels, p.sample.power_w) for labels, p in sources]
    yield family("gauge", "power_watts", "Power, and where the figure is from.", watts)
    errors = [(labels, p.sample.power_std_w) for labels, p in sources]
    yield family("gauge", "power_error_watts", "Standard error of the power.", errors)


def _sensors(pools: tuple[PoolSnapshot, ...]) -> Iterator[Metric]:
    durations = [
        ({"pool": p.pool, "sensor": source}, seconds)
        for p in pools
        for source, seconds in p.sensor_durations_s
    ]
    text = "How long the newest read took."
    yield family("gauge", "sensor_read_duration_seconds", text, durations)
    states = [(p.pool, sensor, state) for p in pools for sensor, state in sensor_states(p).items()]
    outcomes = [({"pool": p, "sensor": sensor}, state in WELL) for p, sensor, state in states]
    text = "Whether the newest read gave nothing broken or stale."
    yield family("gauge", "sensor_success", text, outcomes)
    told = [
        ({"pool": pool, "sensor": sensor, "status": status.value}, state is status)
        for pool, sensor, state in states
        for status in Status
    ]
    text = "1 for the worst of what the newest read gave; stale may be silence without traffic."
    yield family("gauge", "sensor_status", text, told)
