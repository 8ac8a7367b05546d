"""The demo: a real service under real load, and the daemon that tunes it; before and after.

The daemon is the one that `poolwright run` starts, with a configuration and a policy in YAML. This
module only starts things, watches, and adds up; what it shows of the daemon is what any client of
its API can see.
"""

import asyncio
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Phase
from poolwright.core.policy import Policy
from poolwright.core.reasons import REASONS
from poolwright.core.sketch import Sketch, merged
from poolwright.demo.service import shape_from
from poolwright.demo.stand import Rig, Stand, free_port, scratch
from poolwright.demo.stats import (
    Second,
    Summary,
    objective,
    p99_bound,
    references,
    summarise,
)
from poolwright.engine.build import build_sensor
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.policy.config import load_config
from poolwright.policy.load import load_policy
from poolwright.ports import Sensor
from poolwright.sensors.scrape import Terms, Url, scrape
from poolwright.surface.words import ACTIONS

POOL = "demo"
SHORTEST_S, LONGEST_S = 20, 3600
_POLL_S = 0.5
_STATUS = Terms(accept={"application/json": ""}, timeout_s=3.0, most_bytes=64 << 20)
_READY_S = 20.0
_FRESH_S = 3.0  # of the load, before caches are warm
_AFTER_S = 40.0
_EVENTS = 200

_POLICY = """\
version: 1
name: demo
mode: auto
knobs:
  workers: {{min: 2, max: 24, slew: 4, settle: 2s, baseline: {baseline}}}
objective: {{latency_p99: 1.0, jitter: 0.2, power: 0.3, memory: 0.2}}
slo:
  latency_p99: {{below: 350ms, confidence: 0.9}}
  error_ratio: {{below: 1%, confidence: 0.9}}
explore: {{probes_per_hour: 1000, budget: 100%, window: 8s, warmup: 2, patience: 2, epsilon: 2%}}
seed: {seed}
"""

_CONFIG = """\
version: 1
listen: {listen}
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}
pools:
  - name: demo
    policy: demo
    actuator: {{kind: gunicorn, pidfile: {pidfile}, control: {control}}}
    sensors:
      - {{kind: access_log, listen: "{syslog}"}}
      - {{kind: listen_queue, pidfile: {pidfile}}}
      - {{kind: process_tree, pidfile: {pidfile}}}
      - {{kind: host}}
      - {{kind: power}}
"""
_METER = ("process_tree", "power")  # what the demo reads with its own sensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the demo was asked."""

    seconds: int = 170
    seed: int = 0
    rps: float = 80.0
    keep: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a run too short to show anything."""
        if not SHORTEST_S <= self.seconds <= LONGEST_S:
            raise PolicyError(f"--seconds: {SHORTEST_S} to {LONGEST_S}, not {self.seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one tick of the daemon said."""

    mono_ns: int
    phase: Phase
    workers: int | None
    moved: bool
    latency: Sketch | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """p99 of the same span as the daemon and as the load generator saw it, in seconds."""

    daemon_s: float
    generator_s: float

    @property
    def ratio(self) -> float:
        """Daemon's over generator's."""
        return self.daemon_s / self.generator_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the demo showed. `None`: did not happen, or was not seen.

    `objective_*` are the policy's objective with `divide_by`; less is better. `converged_s` counts
    from the daemon's first tick, `settled_s` until the last move that changed the setting.
    """

    cpus: int
    seconds: int
    seed: int
    baseline: int
    final: int | None
    before: Summary
    after: Summary
    whole: Summary
    objective_before: float
    objective_after: float
    divide_by: dict[str, float]
    p99_bound_s: float | None
    agreement_before: Agreement | None
    agreement_after: Agreement | None
    probes: int
    moves: int
    guard_trips: int
    converged_s: float | None
    settled_s: float | None
    ticks_seen: int
    ticks_missed: int
    daemon_rss_bytes: int | None
    journal: str
    explain: str


@dataclass(slots=True, kw_only=True)
class State:
    """What a view may show, each second."""

    options: Options
    policy: Policy
    seconds: list[Second] = field(default_factory=list)
    watch: "Watch"

    def recent(self, n: int = 10) -> Summary:
        """The last `n` seconds."""
        return summarise(self.seconds[-n:], p99_bound(self.policy))


class Watch:
    """Follows the daemon through its read-only API."""

    def __init__(self, listen: str) -> None:
        """Nothing is asked before `poll`."""
        self._url = Url.parse(f"http://{listen}/api/v1/status")
        self.pool: PoolSnapshot | None = None
        self.ticks: dict[int, Seen] = {}
        self.events: list[tuple[float, str]] = []  # seconds since the first tick, what happened

    async def follow(self) -> None:
        """Poll until cancelled. The daemon's death is the stand's to notice."""
        while True:
            body = await self._ask()
            if body is not None:
                self.take(body)
            await asyncio.sleep(_POLL_S)

    async def _ask(self) -> bytes | None:
        """The daemon's answer; None while it is not listening, or has had no tick."""
        body: list[bytes] = []
        try:
            await scrape(self._url, _STATUS, body.append)
        except PlantFault:
            return None
        return b"".join(body)

    def take(self, body: bytes) -> None:
        """Note what an answer says. Raises PlantFault when it is no status."""
        try:
            snapshot = msgspec.json.decode(body, type=Snapshot)
        except (msgspec.DecodeError, ValueError) as error:
            raise PlantFault(f"{self._url}: no status of poolwright: {error}") from error
        for pool in snapshot.pools:
            if pool.tick.index not in self.ticks:
                self._note(pool)

    def _note(self, pool: PoolSnapshot) -> None:
        tick, decision = pool.tick, pool.decision
        self.ticks[tick.index] = Seen(
            mono_ns=tick.mono_ns,
            phase=decision.phase,
            workers=tick.applied.setting.levels[0][1] if tick.applied else None,
            moved=decision.moves,
            latency=pool.sample.latency,
        )
        last = self.pool.decision if self.pool else None
        told = list(decision.events)
        if decision.moves:
            told.append(
                f"{ACTIONS[decision.action]} {decision.setting}: {REASONS[decision.reason]}"
            )
        known = last.guard_trips if last else ()
        told += [f"guard: {REASONS[trip]}" for trip in decision.guard_trips if trip not in known]
        self.events += [(self.since_first_s(tick.mono_ns), text) for text in told]
        del self.events[:-_EVENTS]
        self.pool = pool

    def since_first_s(self, mono_ns: int) -> float:
        """Seconds from the first tick that was seen."""
        return (mono_ns - next(iter(self.ticks.values())).mono_ns) / 1e9

    def count(self, counter: str) -> int:
        """One of the daemon's counters; 0 before the first tick."""
        return dict(self.pool.counters).get(counter, 0) if self.pool else 0

    def first(self, wanted: Callable[[Seen], bool]) -> Seen | None:
        """The first tick of which `wanted` holds."""
        return next((seen for seen in self.ticks.values() if wanted(seen)), None)


def baseline_workers() -> int:
    """The folk rule for gunicorn: 2 * cores + 1."""
    return 2 * (os.cpu_count() or 1) + 1


def write_files(folder: Path, stand: Stand, listen: str, seed: int) -> Path:
    """Write the daemon's configuration and the demo's policy; the configuration's path."""
    policy = _POLICY.format(baseline=stand.rig.workers, seed=seed)
    (folder / "demo.yaml").write_text(policy)
    config = folder / "poolwright.yaml"
    config.write_text(
        _CONFIG.format(
            listen=listen,
            folder=folder,
            pidfile=stand.pidfile,
            control=stand.control,
            syslog=stand.syslog,
        )
    )
    return config


def meter(config: Path) -> tuple[Sensor, ...]:
    """Sensors for CPU, memory and power, as in `config` but of this process."""
    adapters = load_config(config).pools[0].sensors
    return tuple(build_sensor(a, POOL) for a in adapters if a.kind in _METER)


async def run_demo(options: Options, show: Callable[[State], None]) -> Outcome:
    """Run the demo; `show` is called each second.

    Raises PlantFault when something that it started dies, PolicyError for a wrong override of the
    service's Shape. Cancelled, it ends everything first.
    """
    shape_from(os.environ)  # refused here, in plain words, rather than by every worker
    rig = Rig(
        workers=baseline_workers(), rps=options.rps, seconds=options.seconds, seed=options.seed
    )
    async with scratch(options.keep) as folder, Stand(folder, rig) as stand:
        listen = f"127.0.0.1:{free_port()}"
        config = write_files(folder, stand, listen, options.seed)
        watch = Watch(listen)
        state = State(options=options, policy=load_policy(folder / "demo.yaml"), watch=watch)
        daemon = await stand.add_child(
            "daemon", sys.executable, "-m", "poolwright", "run", "--config", str(config)
        )
        follower = asyncio.create_task(watch.follow())
        try:
            await _first_tick(watch, daemon.check)
            await stand.add_load(meter(config))
            async for second in stand.seconds():
                if follower.done():
                    follower.result()
                state.seconds.append(second)
                show(state)
                if len(state.seconds) >= options.seconds:
                    break  # what is still under way then belongs to no whole second of load
        finally:
            follower.cancel()
            await asyncio.wait((follower,))
        return outcome(state, folder / "journal.db", _rss(daemon.process.pid))


async def _first_tick(watch: Watch, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + _READY_S
    while watch.pool is None:
        check()
        if time.monotonic() > deadline:
            raise PlantFault(f"the daemon has shown no tick in {_READY_S:g} s")
        await asyncio.sleep(0.05)


def outcome(state: State, journal: Path, daemon_rss: int | None) -> Outcome:
    """Before and after. Raises PlantFault when the daemon moved before anything was measured."""
    watch, policy, seconds = state.watch, state.policy, state.seconds
    bound = p99_bound(policy)
    move = watch.first(lambda seen: seen.moved)
    moved_ns = move.mono_ns if move else None
    before = [
        s
        for s in seconds
        if s.report.elapsed_s > _FRESH_S and (moved_ns is None or s.ended_mono_ns < moved_ns)
    ]
    if not before:
        raise PlantFault("the daemon moved before the baseline was measured: nothing to compare")
    after = seconds[-min(math.ceil(_AFTER_S), len(seconds) // 3) :]
    summary_before, summary_after = summarise(before, bound), summarise(after, bound)
    divide_by = references(policy, summary_before)
    converged = watch.first(lambda seen: seen.phase is Phase.CONVERGED)
    held = Counter(s.workers for s in after if s.workers is not None)
    moves = [seen for seen in watch.ticks.values() if seen.moved]
    return Outcome(
        cpus=os.cpu_count() or 1,
        seconds=state.options.seconds,
        seed=state.options.seed,
        baseline=baseline_workers(),
        final=held.most_common(1)[0][0] if held else None,
        before=summary_before,
        after=summary_after,
        whole=summarise(seconds, bound),
        objective_before=objective(policy, summary_before, divide_by),
        objective_after=objective(policy, summary_after, divide_by),
        divide_by=divide_by,
        p99_bound_s=bound,
        agreement_before=_agreement(watch, before),
        agreement_after=_agreement(watch, after),
        probes=watch.count("probes"),
        moves=watch.count("moves"),
        guard_trips=watch.count("guard_trips"),
        converged_s=watch.since_first_s(converged.mono_ns) if converged else None,
        settled_s=watch.since_first_s(moves[-1].mono_ns) if moves else None,
        ticks_seen=len(watch.ticks),
        ticks_missed=max(watch.ticks) - min(watch.ticks) + 1 - len(watch.ticks),
        daemon_rss_bytes=daemon_rss,
        journal=str(journal),
        explain=f"poolwright explain {POOL} --journal {journal}",
    )


def _agreement(watch: Watch, seconds: Sequence[Second]) -> Agreement | None:
    """Both p99 over one span; None where either saw nothing."""
    begin, end = seconds[0].ended_mono_ns - 1_000_000_000, seconds[-1].ended_mono_ns
    ours = merged(s.report.latency for s in seconds)
    theirs = merged(
        t.latency for t in watch.ticks.values() if t.latency and begin < t.mono_ns <= end
    )
    if not ours.count or not theirs.count:
        return None
    return Agreement(daemon_s=theirs.quantile(0.99), generator_s=ours.quantile(0.99))


def _rss(pid: int) -> int | None:
    """Resident bytes of a process, None when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
