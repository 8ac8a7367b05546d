"""Builders of realistic Snapshots, Decisions and Plans: one web pool on a 2-core host."""

from dataclasses import replace

from poolwright.core.model import (
    Action,
    Actuation,
    ActuationStatus,
    Advice,
    Applied,
    Benefit,
    Candidate,
    Clamp,
    ClampKind,
    Context,
    Decision,
    Estimate,
    Holdout,
    Kept,
    Observation,
    Phase,
    Plan,
    PlanBin,
    Reading,
    Reason,
    Responses,
    Setting,
    Status,
    Tick,
    Verdict,
    setting,
)
from poolwright.core.policy import Knob, Mode, Override, Policy, Slo
from poolwright.core.sample import Sample
from poolwright.core.sketch import sketch_of
from poolwright.engine.snapshot import LearnerState, PoolSnapshot, Recent, Snapshot

WALL_NS = 1_795_244_400_000_000_000  # 2026-11-21 07:00:00 UTC
MONO_NS = 90_000_000_000_000
STATSD = "statsd 127.0.0.1:8125"
TREE = "process_tree /run/web/gunicorn.pid"

POLICY = Policy(
    name="balanced",
    knobs=(Knob(name="workers", lower=2, upper=64, baseline=5),),
    objective=(("jitter_s", 0.2), ("latency_p99_s", 1.0), ("power_w", 0.3)),
    slo=(
        Slo(response="error_ratio", below=0.01),
        Slo(response="latency_p99_s", below=0.25),
    ),
    mode=Mode.AUTO,
    sha256="9f2c" * 16,
)


def responses(p99_s: float, std_s: float = 0.009, *, count: int = 1) -> Responses:
    """A whole set of responses in which everything follows the p99."""
    return (
        ("cpu_cores", Estimate(mean=1.12, std=0.04, count=count)),
        ("error_ratio", Estimate(mean=0.0004, std=0.0002, count=count)),
        ("jitter_s", Estimate(mean=p99_s / 4, std=std_s / 4, count=count)),
        ("latency_p50_s", Estimate(mean=p99_s / 3, std=std_s / 3, count=count)),
        ("latency_p95_s", Estimate(mean=p99_s * 0.8, std=std_s * 0.8, count=count)),
        ("latency_p99_s", Estimate(mean=p99_s, std=std_s, count=count)),
        ("memory_bytes", Estimate(mean=412e6, std=6e6, count=count)),
        ("power_w", Estimate(mean=31.0, std=1.5, count=count)),
        ("throughput_rps", Estimate(mean=48.2, std=0.8, count=count)),
    )


def candidate(
    workers: int,
    p99_s: float,
    verdict: Verdict,
    *,
    p_safe: float = 0.99,
    gain_ratio: float = 0.0,
    detail: str = "",
) -> Candidate:
    """A setting as the surrogate judged it; the objective follows the p99."""
    return Candidate(
        setting=setting(workers=workers),
        objective=Estimate(mean=p99_s * 8, std=0.06),
        p_safe=p_safe,
        gain_ratio=gain_ratio,
        verdict=verdict,
        predictions=responses(p99_s),
        detail=detail,
    )


CANDIDATES = (
    candidate(
        3,
        0.287,
        Verdict.UNSAFE_SLO,
        p_safe=0.11,
        detail="latency_p99_s below 0.25 with probability 0.11, 0.95 asked",
    ),
    candidate(4, 0.142, Verdict.PROBE, p_safe=0.97, gain_ratio=0.062),
    candidate(5, 0.160, Verdict.RECOMMENDED),
    candidate(6, 0.171, Verdict.WORSE, gain_ratio=0.004),
    candidate(7, 0.190, Verdict.TABU, detail="breached 240 s ago"),
    candidate(12, 0.236, Verdict.OUTSIDE_TRUST_REGION, p_safe=0.71),
    candidate(60, 0.240, Verdict.UNSAFE_MEMORY, p_safe=0.02),
)


def plan(version: int = 7) -> Plan:
    """A Plan of two load bins that would probe four workers."""
    low = PlanBin(
        load_lower_rps=0.0,
        load_upper_rps=40.0,
        setting=setting(workers=4),
        safe_lower=setting(workers=3),
        safe_upper=setting(workers=8),
        p_safe=0.99,
        predictions=responses(0.120),
    )
    high = PlanBin(
        load_lower_rps=40.0,
        load_upper_rps=80.0,
        setting=setting(workers=5),
        safe_lower=setting(workers=4),
        safe_upper=setting(workers=8),
        p_safe=0.98,
        predictions=responses(0.160),
    )
    return Plan(
        version=version,
        fitted_tick=380,
        evidence_digest="ab12",
        context=Context(load_rps=48.0, foreign_cpu_ratio=0.05),
        schedule=(low, high),
        candidates=CANDIDATES,
        probes=(CANDIDATES[1],),
        best_gain_ratio=0.062,
        calibration=(("latency_p99_s", 0.91),),
        fit_s=0.84,
    )


def tick(index: int = 412, **changes: object) -> Tick:
    """A tick in which everything was seen, at five workers."""
    at = MONO_NS + index * 1_000_000_000
    whole = Tick(
        index=index,
        mono_ns=at,
        wall_ns=WALL_NS + index * 1_000_000_000,
        readings=(
            Reading(signal="throughput_rps", source=STATSD, value=48.0, taken_mono_ns=at),
            Reading(
                signal="latency_s",
                source=STATSD,
                value=0.05,
                sketch=sketch_of([0.02, 0.05, 0.16]),
                taken_mono_ns=at,
            ),
            Reading(signal="cpu_cores", source=TREE, value=1.1, taken_mono_ns=at),
        ),
        applied=Applied(setting=setting(workers=5), epoch="4711"),
    )
    return replace(whole, **changes)


def broken_reading(source: str = TREE) -> Reading:
    """What a sensor says when its pidfile is gone."""
    return Reading(
        signal="cpu_cores",
        source=source,
        status=Status.ERROR,
        detail="/run/web/gunicorn.pid: No such file",
    )


def observation(workers: int, p99_s: float, *, opened: int = 383, closed: int = 412) -> Observation:
    """A closed window of thirty seconds."""
    return Observation(
        setting=setting(workers=workers),
        opened_tick=opened,
        closed_tick=closed,
        span_s=30.0,
        sample_count=1440,
        context=Context(load_rps=48.0, foreign_cpu_ratio=0.05),
        responses=responses(p99_s, 0.004, count=1440),
        app_limited=False,
    )


def hold(index: int = 411, **changes: object) -> Decision:
    """A decision that moves nothing."""
    whole = Decision(
        tick=index,
        phase=Phase.EXPLORE,
        action=Action.HOLD,
        setting=setting(workers=5),
        moves=False,
        reason=Reason.MEASURING,
    )
    return replace(whole, **changes)


def probe(index: int = 412, **changes: object) -> Decision:
    """The decision to try four workers."""
    whole = Decision(
        tick=index,
        phase=Phase.EXPLORE,
        action=Action.PROBE,
        setting=setting(workers=4),
        moves=True,
        reason=Reason.EXPECTED_GAIN,
        evidence=(("gain_ratio", 0.062), ("latency_p99_s", 0.161), ("load_rps", 48.0)),
        observation=observation(5, 0.161),
    )
    return replace(whole, **changes)


def retreat(index: int = 431, **changes: object) -> Decision:
    """The guard's answer to a breach at four workers, cut short by the envelope."""
    whole = Decision(
        tick=index,
        phase=Phase.COOLDOWN,
        action=Action.RETREAT,
        setting=setting(workers=8),
        moves=True,
        reason=Reason.SLO_BREACH,
        clamps=(Clamp(kind=ClampKind.SLEW, knob="workers", wanted=12, allowed=8),),
        evidence=(("breach_ticks", 3.0), ("latency_p99_s", 0.412), ("load_rps", 71.0)),
        guard_trips=(Reason.SLO_BREACH,),
        events=("probe of workers=4 given up",),
    )
    return replace(whole, **changes)


def applied(decision_tick: int = 412, **changes: object) -> Actuation:
    """The actuation that went well."""
    whole = Actuation(
        decision_tick=decision_tick,
        status=ActuationStatus.APPLIED,
        took_s=0.31,
        detail="worker 4719 ended",
    )
    return replace(whole, **changes)


def advice(**changes: object) -> Advice:
    """From five workers to four, for 12 % ± 8 %."""
    whole = Advice(
        id="5fbb3e2a",
        setting=setting(workers=4),
        replaces=setting(workers=5),
        gain=Estimate(mean=0.12, std=0.04),
        p_safe=0.97,
        reason=Reason.BEST_KNOWN,
    )
    return replace(whole, **changes)


def override(**changes: object) -> Override:
    """A pin that somebody wrote into the policy, until New Year."""
    whole = Override(
        reason="launch day", pin=(("workers", 12),), until_wall_ns=1_798_761_600_000_000_000
    )
    return replace(whole, **changes)


def holdout(**changes: object) -> Holdout:
    """A comparison that tuning has won."""
    whole = Holdout(
        baseline=setting(workers=5),
        tuned=setting(workers=4),
        load_rps=48.0,
        gain_ratio=0.08,
        breached=False,
        closed_tick=412,
    )
    return replace(whole, **changes)


# What the core says of its budgets in every decision.
BUDGETS = (
    ("probes_left", 12.3),
    ("probe_seconds_left", 90.0),
    ("slo_seconds_left", 700.0),
    ("burn_short", 0.4),
    ("burn_long", 0.1),
)


COUNTERS = (
    ("ticks", 412),
    ("late_ticks", 2),
    ("moves", 9),
    ("probes", 6),
    ("retreats", 1),
    ("holdouts", 2),
    ("windows", 12),
    ("fits", 7),
    ("fit_failures", 1),
    ("sensor_failures", 3),
    ("actuation_failures", 0),
    ("guard_trips", 1),
    ("guard_trips:slo_breach", 1),
    ("decisions:hold:measuring", 380),
    ("decisions:probe:expected_gain", 6),
    ("decisions:retreat:slo_breach", 1),
)


def pool_snapshot(pool: str = "web", **changes: object) -> PoolSnapshot:
    """A pool that explores and sees everything."""
    last_move = probe(380, setting=setting(workers=5))
    whole = PoolSnapshot(
        pool=pool,
        run_id=3,
        policy=POLICY,
        endpoint="gunicorn /run/web/gunicorn.pid",
        baseline=setting(workers=5),
        tick=tick(),
        sample=Sample(
            tick=412,
            dt_s=1.0,
            load_rps=48.0,
            throughput_rps=47.5,
            errors_rps=0.5,
            queue_length=1.0,
            queue_delay_s=0.002,
            in_flight=2.4,
            cpu_cores=1.1,
            memory_bytes=412e6,
            memory_limit_bytes=2e9,
            host_cpu_ratio=0.61,
            foreign_cpu_ratio=0.05,
            psi_cpu_ratio=0.02,
            power_w=31.0,
            power_std_w=4.0,
            power_source="model",
        ),
        recent=Recent(span_s=10.0, count=480, p50_s=0.051, p95_s=0.12, p99_s=0.158, jitter_s=0.03),
        decision=hold(412),
        plan=plan(),
        last_move=last_move,
        last_move_wall_ns=WALL_NS + 380 * 1_000_000_000,
        learner=LearnerState.IDLE,
        learner_rss_bytes=142_000_000,
        tick_duration_s=0.0031,
        sensor_durations_s=((TREE, 0.0012), (STATSD, 0.0002)),
        counters=COUNTERS,
    )
    return replace(whole, **changes)


def busy_pool(pool: str = "web", **changes: object) -> PoolSnapshot:
    """A pool of which everything that people can ask for stands at once."""
    decision = hold(
        412, advice=advice(), evidence=BUDGETS, phase=Phase.EXPLORE, reason=Reason.BEST_KNOWN
    )
    whole = pool_snapshot(
        pool,
        policy=replace(POLICY, mode=Mode.RECOMMEND, sources=("balanced.yaml", "10-site.yaml")),
        tick=tick(
            overrides=(
                override(),
                override(pin=(), freeze=True, until_wall_ns=None, reason="audit"),
                override(pin=(), bounds=(("workers", 4, 8),), reason="small host"),
            ),
            quiet="Mon-Fri 09:00-10:00 Europe/Berlin",
            may_probe=False,
            rival="mail",
            room_bytes=1.2e9,
            room_cores=0.7,
        ),
        decision=decision,
        benefit=Benefit(mean=0.08, lower=0.03, upper=0.13, count=6),
        kept=Kept(
            pin=setting(workers=5),
            pin_until_wall_ns=1_798_761_600_000_000_000,
            pin_why="ann (pid 7): launch day",
        ),
    )
    return replace(whole, **changes)


def blind_pool(pool: str = "web") -> PoolSnapshot:
    """A pool of which nothing was ever seen."""
    return pool_snapshot(
        pool,
        baseline=None,
        tick=tick(readings=(broken_reading(),), applied=None, fault="no such process 4711"),
        sample=Sample(tick=412, dt_s=1.0, missing=("latency_s",)),
        recent=Recent(),
        decision=hold(412, setting=None, phase=Phase.BLIND, reason=Reason.NO_DATA),
        plan=None,
        last_move=None,
        last_move_wall_ns=None,
        learner=LearnerState.ASLEEP,
        learner_rss_bytes=None,
    )


def snapshot(*pools: PoolSnapshot, journal_error: str = "", **changes: object) -> Snapshot:
    """The daemon after one slot; without pools: one that is well."""
    whole = Snapshot(
        version="0.1.0",
        started_wall_ns=WALL_NS,
        wall_ns=WALL_NS + 412 * 1_000_000_000,
        cadence_s=1.0,
        journal_error=journal_error,
        pools=pools or (pool_snapshot(),),
    )
    return replace(whole, **changes)


def at(workers: int) -> Setting:
    """Short for a setting of the one knob."""
    return setting(workers=workers)
