"""systemd template instances: as many as run, seen by the log of the proxy in front of them."""

from pathlib import PurePosixPath

from poolwright.policy.preset import SystemdUnits
from poolwright.presets.facts import Facts, Process
from poolwright.presets.found import Advice, Asked, Found, Options, given
from poolwright.presets.units import Unit


class SystemdUnitsPreset:
    """Templates of which worker@1.service and perhaps worker@2.service, ... run."""

    def find(self, facts: Facts) -> list[Process]:
        """The main process of the first instance of each."""
        first = [unit.pid for unit in facts.units if unit.number == 1]
        return [facts.processes[pid] for pid in first if pid in facts.processes]

    def describe(self, master: Process, facts: Facts, asked: Asked) -> list[Found]:
        """One pool: the instances of its template."""
        template = next(unit.template for unit in facts.units if unit.pid == master.pid)
        units = [unit for unit in facts.units if unit.template == template]
        name = template.removesuffix("@.service")
        where = _slice(template, units[0], facts)
        missing, better = [], []
        if where == {"cgroup": None}:
            what = "their control group tells no memory"
            better.append(Advice(what=what, add="MemoryAccounting=yes, in the [Service] of each"))
        if not asked.access_log:
            what = "systemd tells nobody of requests: name the log of nginx in front of them"
            add = "poolwright init --access-log FILE, or another sensor: docs/systemd-units.md"
            missing.append(Advice(what=what, add=add))
        what = "an instance that the proxy does not know gets no requests: name the last"
        better.append(Advice(what=what, add="last: N, in the preset"))
        needs = "unless it runs as root, polkit must let it start and stop these units"
        options = given(template=template, access_log=asked.access_log) | where
        return [
            Found(
                preset={"kind": "systemd_units", **options},
                pid=master.pid,
                name=asked.pool or name,
                own_name=name,
                level=len(units),
                worker_bytes=sum(_rss(unit, facts) for unit in units) // len(units),
                missing=tuple(missing),
                better=tuple(better),
                rights=(Advice(what=needs, add="deploy/polkit/50-poolwright-units.rules"),),
            )
        ]


def _slice(template: str, unit: Unit, facts: Facts) -> Options:
    """The control group of all instances, where it is not systemd's own; null: no memory in it."""
    path = str(PurePosixPath(unit.cgroup).parent)
    files = (f"{path}/memory.current", f"/memory{path}/memory.usage_in_bytes")
    if all(facts.files.read(f"/sys/fs/cgroup{file}") is None for file in files):
        return {"cgroup": None}
    return {} if path == SystemdUnits(template=template).derived()["cgroup"] else {"cgroup": path}


def _rss(unit: Unit, facts: Facts) -> int:
    """Of its main process and that one's children."""
    main = facts.processes.get(unit.pid)
    whole = [*([main] if main else []), *facts.children(unit.pid)]
    return sum(process.rss_bytes for process in whole)
