"""One server under load, with or without a daemon that moves it."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from converge.servers import Server, Site
from poolwright.core.errors import PlantFault
from poolwright.core.model import Action, Phase
from poolwright.core.policy import Policy
from poolwright.demo.loadgen import Report
from poolwright.demo.run import Watch, meter
from poolwright.demo.stand import Rig, Stand, free_port
from poolwright.demo.stats import Second
from poolwright.journal.query import JournalReader
from poolwright.policy.load import load_policy

_POLICY = """\
version: 1
name: converge
mode: auto
knobs:
  {knob}: {{min: {low}, max: {high}, slew: {slew}, settle: {settle_s:g}s}}
objective: {{latency_p99: 1.0, jitter: 0.2, power: 0.3, memory: 0.2}}
slo:
  latency_p99: {{below: {p99_ms}ms, confidence: 0.9}}
explore: {{probes_per_hour: 1000, budget: 100%, window: 5s, warmup: 2, patience: 2, epsilon: 3%}}
seed: {seed}
"""
_CONFIG = """\
version: 1
listen: {listen}
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}/policies.d
pools:
  - name: {name}
    policy: converge
    actuator: {actuator}
    sensors:
"""
_READY_S = 30.0
LAST_S = 20  # of a run: what it came to
_END_S = 90.0  # for what is still under way when the last request was sent


def write_policy(server: Server, folder: Path, seed: int = 0) -> Policy:
    """Write the server's policy into `folder`; it."""
    folder.mkdir()
    text = _POLICY.format(
        knob=server.knob,
        low=server.levels[0],
        high=server.levels[-1],
        slew=server.slew,
        settle_s=server.settle_s,
        p99_ms=server.p99_ms,
        seed=seed,
    )
    (folder / "converge.yaml").write_text(text)
    return load_policy(folder / "converge.yaml")


class Plant(Stand):
    """The demo's stand with any of the five servers in it, found at `rig.workers`."""

    def __init__(self, server: Server, folder: Path, rig: Rig):
        super().__init__(folder, rig)
        self.server = server
        self.site: Site | None = None
        self.watch: Watch | None = None
        self.config = folder / "poolwright.yaml"

    async def _start_service(self):
        """Not in another thread: who is started there dies with that thread (prctl(2))."""
        log = int(self.syslog.rpartition(":")[2])
        own = self.folder / "server"
        own.mkdir()
        most = self.server.levels[-1]
        self.site = self.server.start(own, self.rig.workers, most, log)
        self._write()

    async def _close(self):
        await super()._close()
        if self.site is not None:
            self.site.stop()

    def _write(self):
        server, self.listen = self.server, f"127.0.0.1:{free_port()}"
        write_policy(server, self.folder / "policies.d", self.rig.seed)
        config = _CONFIG.format(
            listen=self.listen,
            folder=self.folder,
            name=server.name,
            actuator=json.dumps(self.site.actuator),
        )
        sensors = (*self.site.sensors, {"kind": "host"}, {"kind": "power"})
        lines = (f"      - {json.dumps(sensor)}\n" for sensor in sensors)
        self.config.write_text(config + "".join(lines))

    def workers(self):
        """The level as the daemon reads it; the one that it was started at without a daemon."""
        if self.watch is None:
            return self.rig.workers
        last = next(reversed(self.watch.ticks.values()), None)
        return last.workers if last else None

    async def add_load(self):
        """As the demo's, with the client that this server needs."""
        for sensor in meter(self.config):
            await sensor.start()
            self._sensors = (*self._sensors, sensor)
        rig = self.rig
        self._load = await self.add_child(
            "client",
            *(*self.site.client, "--rps", str(rig.rps), "--seconds", str(rig.seconds)),
            *("--seed", str(rig.seed), "--parent", str(os.getpid())),
            piped=True,
        )

    @asynccontextmanager
    async def daemon(self):
        """`poolwright run` beside the server; its Watch."""
        self.watch = Watch(self.listen)
        daemon = await self.add_child(
            "daemon", sys.executable, "-m", "poolwright", "run", "--config", str(self.config)
        )
        following = asyncio.create_task(self.watch.follow())
        try:
            end = time.monotonic() + _READY_S
            while self.watch.pool is None:
                daemon.check()
                if time.monotonic() > end:
                    raise PlantFault(f"no tick in {_READY_S:g} s; {daemon.obituary()}")
                await asyncio.sleep(0.05)
            yield self.watch
        finally:
            following.cancel()
            await asyncio.wait((following,))

    async def load(self) -> list[Second]:
        """All seconds of the load, those included in which only what is late was answered."""
        await self.add_load()
        async with asyncio.timeout(self.rig.seconds + _END_S):
            return [second async for second in self.seconds()]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one start came to. `None`: did not happen. Times are from the daemon's first tick."""

    began: int
    held: int | None
    levels: list[int]  # in the order in which they were tried
    converged_s: float | None
    windows: int | None  # until it had converged
    settled_s: float | None  # the last move
    moves: int
    retreats: int
    seconds: list[Second]
    final: Report
    references: dict[str, float]  # what the objective's responses are divided by: Plan.references
    journal: str


def lost(report: Report) -> int:
    """Requests that were due and were not answered, or not well."""
    return report.intended - report.completed


async def measure(server, level, seed, settle, span) -> tuple[list[Second], int]:
    """`span` seconds of a fresh server at `level`, after `settle`; and how many were lost."""
    rig = Rig(workers=level, rps=server.rps, seconds=settle + span, seed=seed)
    with tempfile.TemporaryDirectory(prefix="pw-c-", dir="/tmp") as name:  # short: for sockets
        async with Plant(server, Path(name), rig) as plant:
            seconds = await plant.load()
            return seconds[settle : settle + span], lost(plant.final)


async def converge(server, level, seed, span, journal: Path) -> Run:
    """A run of `span` seconds that begins at `level`; its journal is kept as `journal`."""
    rig = Rig(workers=level, rps=server.rps, seconds=span, seed=seed)
    with tempfile.TemporaryDirectory(prefix="pw-c-", dir="/tmp") as name:
        async with Plant(server, Path(name), rig) as plant, plant.daemon() as watch:
            seconds = await plant.load()
            plan = watch.pool.plan
        for part in Path(name).glob("journal.db*"):
            shutil.copy(part, f"{journal}{part.name.removeprefix('journal.db')}")
    if plan is None:
        raise PlantFault(f"{server.title} from {level}: no plan in {span} s; {journal}")
    return _told(level, seconds[:span], plant.final, dict(plan.references), journal)


def _told(began, seconds, final, divided_by, journal) -> Run:
    """A Run, of what the clients and the journal say."""
    with JournalReader(journal) as reader:
        steps = [step for run in reader.runs() for step in reader.steps(run.id)]
    first = steps[0].tick.mono_ns

    def since_first_s(step):
        return (step.tick.mono_ns - first) / 1e9

    converged = next((s for s in steps if s.decision.phase is Phase.CONVERGED), None)
    moved = [s for s in steps if s.decision.moves and s.tick.mono_ns < seconds[-1].ended_mono_ns]
    held = Counter(s.workers for s in seconds[-LAST_S:] if s.workers is not None)
    levels = [began, *(s.decision.setting.levels[0][1] for s in moved)]
    return Run(
        began=began,
        held=held.most_common(1)[0][0] if held else None,
        levels=levels,
        converged_s=since_first_s(converged) if converged else None,
        windows=(
            sum(s.decision.observation is not None for s in steps[: steps.index(converged) + 1])
            if converged
            else None
        ),
        settled_s=since_first_s(moved[-1]) if moved else None,
        moves=len(moved),
        retreats=sum(s.decision.action is Action.RETREAT for s in moved),
        seconds=seconds,
        final=final,
        references=divided_by,
        journal=str(journal),
    )
