"""What a simulation came to: told from the world as it was, never from what the sensors said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from poolwright.core.model import Action, Decision, Phase, Tick
from poolwright.core.policy import Policy, Slo
from poolwright.core.signals import quantile_of
from poolwright.core.sketch import Sketch, SketchBuilder
from poolwright.sim.world import Truth

MINUTE_S = 60.0
LONG_S = 6 * 3600.0
_POINTS = 720  # of a line that is plotted of a shorter run


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time of one pool. None: there was no request to tell it from."""

    ends_s: float
    span_s: float
    load_rps: float
    arrived: float  # attempts
    failed: float  # attempts that ended badly for the client
    p99_s: float | None
    level: float  # mean
    outside: bool  # an SLO of the policy did not hold


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """One pool over the whole run."""

    pool: str
    policy: str
    minutes: int  # of which each is judged as a whole
    minutes_outside_slo: int
    requests: int  # attempts: a retry is another
    requests_failed: int
    worker_hours: float
    energy_wh: float
    joules_per_request: float | None
    moves: int  # commanded by poolwright
    resizes: int  # of the service, whoever did it
    probes: int
    retreats: int
    windows: int
    plans: int
    learner_faults: int
    converged_at_s: float | None
    levels: tuple[int, int]  # lowest and highest
    final_level: int
    final_phase: str
    phases_s: tuple[tuple[str, float], ...]
    decisions: tuple[tuple[str, int], ...]  # "action reason", the most frequent first
    moves_by: tuple[tuple[str, int], ...]
    guard_trips: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole run. Two runs with the same arguments have the same report."""

    scenario: str
    seed: int
    duration_s: float
    lives: int  # of the daemon
    failed_starts: int
    refusals: tuple[str, ...]  # commands that were refused
    decisions_checked: int
    faults: tuple[tuple[str, int], ...]
    pools: tuple[PoolReport, ...]


class _Bucket:
    """Adds up ticks until it is asked for the span."""

    def __init__(self) -> None:
        self.latency = SketchBuilder()
        self.waiting = 0
        self.span_s = self.load = self.arrived = self.failed = self.level_s = 0.0

    def add(self, truth: Truth) -> None:
        """One tick."""
        dt = truth.dt_s
        self.span_s += dt
        self.load += truth.load_rps * dt
        self.arrived += truth.arrived
        self.failed += truth.failed
        self.waiting = truth.waiting
        self.level_s += truth.level * dt
        self.latency.merge(truth.latency)

    def close(self, at_s: float, slos: Sequence[Slo]) -> Span:
        """The span that ends now."""
        sketch = self.latency.freeze()
        return Span(
            ends_s=at_s,
            span_s=self.span_s,
            load_rps=self.load / self.span_s,
            arrived=self.arrived,
            failed=self.failed,
            p99_s=sketch.quantile(0.99) if sketch.count else None,
            level=self.level_s / self.span_s,
            outside=any(self._broken(slo, sketch) for slo in slos),
        )

    def _broken(self, slo: Slo, sketch: Sketch) -> bool:
        if slo.response == "error_ratio":
            return self.failed > slo.below * self.arrived
        quantile = quantile_of(slo.response)
        if not sketch.count:  # nobody was answered: who waits, or failed, was within no bound
            return quantile is not None and (self.waiting > 0 or self.failed > 0.0)
        if quantile is not None:
            return sketch.quantile(quantile) > slo.below
        return slo.response == "jitter_s" and sketch.std > slo.below


@dataclass(slots=True, kw_only=True)
class Tally:
    """Adds up one pool. `saw` every tick of the world, `decided` every decision of the daemon."""

    pool: str
    policy: Policy
    duration_s: float
    fine: list[Span] = field(default_factory=list)
    minutes: list[Span] = field(default_factory=list)
    level_changes: list[tuple[float, int]] = field(default_factory=list)
    wanted_changes: list[tuple[float, int]] = field(default_factory=list)
    decisions: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    moves_by: Counter[str] = field(default_factory=Counter)
    trips: Counter[str] = field(default_factory=Counter)
    phases_s: dict[str, float] = field(default_factory=dict)
    worker_s: float = 0.0
    joules: float = 0.0
    converged_at_s: float | None = None
    _fine: _Bucket = field(default_factory=_Bucket)
    _minute: _Bucket = field(default_factory=_Bucket)
    _trips: tuple[Any, ...] = ()
    _last: Decision | None = None

    def saw(self, truth: Truth) -> None:
        """One tick of the world."""
        self.worker_s += truth.level * truth.dt_s
        self.joules += truth.joules
        if not self.level_changes or self.level_changes[-1][1] != truth.level:
            self.level_changes.append((truth.at_s - truth.dt_s, truth.level))
        self._minute.add(truth)
        if self._minute.span_s >= MINUTE_S - 1e-9:
            self.minutes.append(self._minute.close(truth.at_s, self.policy.slo))
            self._minute = _Bucket()
        if self.duration_s > LONG_S:
            return
        self._fine.add(truth)
        if self._fine.span_s >= max(truth.dt_s, self.duration_s / _POINTS) - 1e-9:
            self.fine.append(self._fine.close(truth.at_s, ()))
            self._fine = _Bucket()

    @property
    def spans(self) -> Sequence[Span]:
        """What to plot: short stretches of a short run, the minutes of a long one."""
        return self.minutes if self.duration_s > LONG_S else self.fine

    def decided(self, tick: Tick, decision: Decision, at_s: float, dt_s: float) -> None:
        """One decision."""
        counts = self.counts
        counts["ticks"] += 1
        self.decisions[f"{decision.action} {decision.reason}"] += 1
        self.phases_s[decision.phase] = self.phases_s.get(decision.phase, 0.0) + dt_s
        if decision.moves:
            counts["moves"] += 1
            self.moves_by[f"{decision.action} {decision.reason}"] += 1
            counts["probes"] += decision.action in (Action.PROBE, Action.DITHER)
            counts["retreats"] += decision.action is Action.RETREAT
        counts["windows"] += decision.observation is not None
        counts["plans"] += tick.plan is not None
        counts["learner_faults"] += bool(tick.learner_fault)
        for reason in decision.guard_trips:
            self.trips[str(reason)] += reason not in self._trips
        self._trips = decision.guard_trips
        if decision.phase is Phase.CONVERGED and self.converged_at_s is None:
            self.converged_at_s = at_s
        wanted = decision.wanted
        if wanted is not None:
            level = wanted[self.policy.knobs[0].name]
            if not self.wanted_changes or self.wanted_changes[-1][1] != level:
                self.wanted_changes.append((at_s, level))
        self._last = decision

    def report(self) -> PoolReport:
        """What it came to."""
        counts = self.counts
        requests = sum(m.arrived for m in self.minutes) + self._minute.arrived
        levels = [level for _, level in self.level_changes] or [0]
        return PoolReport(
            pool=self.pool,
            policy=self.policy.name,
            minutes=len(self.minutes),
            minutes_outside_slo=sum(m.outside for m in self.minutes),
            requests=round(requests),
            requests_failed=round(sum(m.failed for m in self.minutes) + self._minute.failed),
            worker_hours=self.worker_s / 3600.0,
            energy_wh=self.joules / 3600.0,
            joules_per_request=self.joules / requests if requests else None,
            moves=counts["moves"],
            resizes=len(levels) - 1,
            probes=counts["probes"],
            retreats=counts["retreats"],
            windows=counts["windows"],
            plans=counts["plans"],
            learner_faults=counts["learner_faults"],
            converged_at_s=self.converged_at_s,
            levels=(min(levels), max(levels)),
            final_level=levels[-1],
            final_phase="" if self._last is None else str(self._last.phase),
            phases_s=_ranked(self.phases_s),
            decisions=_ranked(self.decisions),
            moves_by=_ranked(self.moves_by),
            guard_trips=_ranked(+self.trips),
        )


def told(report: Report) -> list[str]:
    """The report for people."""
    lines = [f"scenario {report.scenario}, seed {report.seed}: {span(report.duration_s)}"]
    if report.lives > 1:
        lines.append(f"  poolwright was started {report.lives} times")
    if report.failed_starts:
        lines.append(f"  {report.failed_starts} starts failed")
    if report.faults:
        lines.append("  faults: " + "; ".join(_times(what, n) for what, n in report.faults))
    lines += [f"  refused: {text}" for text in report.refusals]
    if report.decisions_checked:
        lines.append(f"  {report.decisions_checked} decisions kept every invariant")
    for pool in report.pools:
        lines += ["", *_pool(pool)]
    return lines


def _pool(pool: PoolReport) -> list[str]:
    share = pool.minutes_outside_slo / pool.minutes if pool.minutes else 0.0
    joules = "no request" if pool.joules_per_request is None else f"{pool.joules_per_request:.3g} J"
    converged = "never" if pool.converged_at_s is None else f"after {span(pool.converged_at_s)}"
    rows = [
        ("minutes outside the SLO", f"{pool.minutes_outside_slo} of {pool.minutes} ({share:.2%})"),
        ("requests failed", f"{pool.requests_failed:,} of {pool.requests:,}"),
        ("worker-hours", f"{pool.worker_hours:.2f}"),
        ("energy a request", joules),
        ("workers", f"{pool.levels[0]} to {pool.levels[1]}, {pool.final_level} at the end"),
        ("moves", f"{pool.moves}, of them {pool.probes} probes and {pool.retreats} retreats"),
        ("windows, plans", f"{pool.windows}, {pool.plans}; fits failed: {pool.learner_faults}"),
        ("converged", converged),
        ("phases", ", ".join(f"{name} {span(s)}" for name, s in pool.phases_s)),
        ("guard trips", ", ".join(_times(what, n) for what, n in pool.guard_trips) or "none"),
        ("moved because", ", ".join(_times(what, n) for what, n in pool.moves_by) or "never"),
        ("decided", ", ".join(f"{what} {n}" for what, n in pool.decisions)),
    ]  # fmt: skip
    return [f"pool {pool.pool}, policy {pool.policy}"] + [f"  {a:25}{b}" for a, b in rows]


def span(seconds: float) -> str:
    """`1 d 2 h`, `3 min 20 s`: the two largest parts."""
    left = round(seconds)
    parts: list[str] = []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {name}")
            left %= size
    return " ".join(parts) or f"{seconds:.3g} s"


def _times(what: str, count: int) -> str:
    words = "once" if count == 1 else "never" if count == 0 else f"{count} times"
    return f"{what} {words}".strip()


def _ranked(counts: Mapping[str, float]) -> tuple[tuple[str, Any], ...]:
    """The most frequent first, then by name."""
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
