"""`poolwright check [PATH...]`: whether configurations and policies are right.

Every problem of every file is printed as FILE:LINE:COL: message. Of a configuration its adapters,
and the policy of each pool with all layers over it, are checked; what is not wrong but surely not
meant (an override that is over, a layer for no pool, connections without their cap) is a warning.
With --effective it is printed what each preset stands for, and the policy of each pool as it is in
force, with the place of each key.
With --probe each sensor and each actuator of a configuration is opened and read once; nothing is
moved.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.policy import Policy
from poolwright.engine.arbiter import unmeasured
from poolwright.engine.build import (
    at_one_cadence,
    build_actuator,
    build_sensor,
    uncapped,
    unheeded,
    unpressed,
    unsatisfied,
)
from poolwright.policy.bind import field_specs
from poolwright.policy.calendar import expired
from poolwright.policy.config import AdapterConfig, DaemonConfig, PoolConfig, bind_config
from poolwright.policy.layers import Source
from poolwright.policy.library import Effective, Library
from poolwright.policy.load import check_layer, effective_policy, yaml_files
from poolwright.policy.quantities import render
from poolwright.policy.render import parts_text, policy_text
from poolwright.policy.schema import PolicyFile
from poolwright.policy.tree import Listing, Mapping, read_document
from poolwright.ports import Sensor

T = TypeVar("T")

_PATIENCE_S = 10.0
DEFAULT_PATH = Path("/etc/poolwright/poolwright.yaml")


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "check", help="validate configurations and policies", description=__doc__
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help=f"files, or folders of *.yaml (default: {DEFAULT_PATH})",
    )
    parser.add_argument(
        "--probe", action="store_true", help="also read every sensor and actuator once"
    )
    parser.add_argument(
        "--effective", action="store_true", help="also print the policies as they are in force"
    )


def run(args: argparse.Namespace) -> int:
    """Check everything; 1 when anything is wrong."""
    bad = False
    for path in args.paths or [DEFAULT_PATH]:
        try:
            files = _files(path)
        except (PolicyError, PlantFault) as error:
            bad = True
            print(error, file=sys.stderr)
            continue
        for file in files:
            bad |= not _good(file, probe=args.probe, effective=args.effective)
    return int(bad)


def _good(path: Path, *, probe: bool, effective: bool) -> bool:
    """Check one file and say so; with `probe` also the world that it describes."""
    try:
        checked = check_file(path, time.time_ns())
    except (PolicyError, PlantFault) as error:
        print(error, file=sys.stderr)
        return False
    _warn(checked.warnings)
    print(f"{path}: ok")
    if effective:
        for sized in checked.config.pools if checked.config else ():
            _tell_preset(sized)
        for pool, made in checked.policies.items():
            whose = f"pool {pool}: " if pool else ""
            print(f"---\n# {whose}policy {made.policy.name}, sha256 {made.policy.sha256}")
            print(policy_text(made), end="")
    return checked.config is None or not probe or asyncio.run(_probe(checked))


def _tell_preset(pool: PoolConfig) -> None:
    """What the preset of a pool stands for, if it has one."""
    if pool.preset is not None:
        print(f"---\n# pool {pool.name}: preset {pool.preset.kind}, {pool.preset.node.mark}")
        sensors = [sensor.node for sensor in pool.sensors]
        print(parts_text(pool.preset.node, pool.actuator.node, sensors), end="")


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"{warning} (warning)", file=sys.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A file that is right."""

    config: DaemonConfig | None = None  # None: it is a policy or a layer
    policies: dict[str, Effective] = field(default_factory=dict)  # by pool; of none: ""
    warnings: tuple[str, ...] = ()


def check_file(path: Path, wall_ns: int) -> Checked:
    """What stands in a file, checked with all that belongs to it.

    Raises PolicyError with everything that is wrong, PlantFault when a file cannot be read.
    """
    document = read_document(path)
    source = Source.of(document, path)
    if _is_config(source):
        return _checked_config(bind_config(document, path.parent), wall_ns)
    if source.is_layer:
        check_layer(document)
        return Checked()
    made = effective_policy(document, path.parent)
    return Checked(policies={"": made}, warnings=tuple(_over(made, wall_ns)))


def _files(path: Path) -> list[Path]:
    if not os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises where it may not look
        return [path]
    found = yaml_files(path)
    if not found:
        raise PolicyError(f"{path}: holds no *.yaml")
    return found


def _is_config(source: Source) -> bool:
    """Told by what it says: `pools` that are more than globs, else more of its keys than others."""
    pools = source.root.get("pools") if isinstance(source.root, Mapping) else None
    if pools is not None:
        items = pools.items if isinstance(pools, Listing) else ()
        return source.is_daemons or any(isinstance(item, Mapping) for item in items)
    of_config = [spec.name for spec in field_specs(DaemonConfig) if source.has(spec.name)]
    of_policy = [spec.name for spec in field_specs(PolicyFile) if source.has(spec.name)]
    return len(of_config) > len(of_policy)


def _checked_config(config: DaemonConfig, wall_ns: int) -> Checked:
    """A configuration with its adapters and policies; PolicyError with all that is wrong."""
    wrong: list[str] = []
    library = Library(config.policies_dir())
    library.look_over_folder()
    made = {
        pool.name: library.effective(pool.policy, pool.name, pool.suit) for pool in config.pools
    }
    _attempt(library.check, wrong)
    found = {name: policy for name, policy in made.items() if policy is not None}
    _attempt(partial(at_one_cadence, config, {n: e.policy for n, e in found.items()}), wrong)
    warnings = list(library.unmatched(tuple(made)))
    seeing: list[tuple[str, tuple[Sensor, ...]]] = []
    for pool in config.pools:
        effective = found.get(pool.name)
        sensors, unseen = _adapters(pool, None if effective is None else effective.policy, wrong)
        if sensors is not None:
            seeing.append((pool.name, sensors))
        warnings += unseen
        warnings += _over(effective, wall_ns) if effective is not None else ()
    _attempt(partial(unmeasured, config.budget, seeing), wrong)
    if wrong:
        raise PolicyError("\n".join(wrong))
    return Checked(config=config, policies=found, warnings=tuple(dict.fromkeys(warnings)))


def _adapters(
    pool: PoolConfig, policy: Policy | None, wrong: list[str]
) -> tuple[tuple[Sensor, ...] | None, list[str]]:
    """The pool's sensors, None when one cannot be built, and what is asked of them in vain.

    All that `engine.build` would refuse of the pool is added to `wrong`.
    """
    actuator = _attempt(partial(build_actuator, pool.actuator, pool.name), wrong)
    built = [_attempt(partial(build_sensor, sensor, pool.name), wrong) for sensor in pool.sensors]
    sensors = tuple(sensor for sensor in built if sensor is not None)
    if len(sensors) < len(built):
        return None, []
    vain = uncapped(pool.name, sensors)
    if policy is None or actuator is None:
        return sensors, vain
    wrong += unsatisfied(pool.name, policy, sensors, actuator)
    return sensors, [*unheeded(pool.name, policy, sensors), *vain]


def _over(made: Effective, wall_ns: int) -> Iterator[str]:
    """Overrides that will never be in force again."""
    places = dict(zip(made.policy.overrides, made.overrides(), strict=True))
    for override in expired(made.policy, wall_ns):
        assert override.until_wall_ns is not None, "what is over has an end"
        until = render("instant", override.until_wall_ns)
        yield f"{places[override]}: this override ({override.reason}) was over at {until}"


def _attempt(build: Callable[[], T], wrong: list[str]) -> T | None:
    """What `build` gives; None after adding why it gives nothing to `wrong`."""
    try:
        return build()
    except (PolicyError, PlantFault) as error:
        wrong.append(str(error))
        return None


async def _probe(checked: Checked) -> bool:
    """Read everything once and say what it says; whether all of it can be read."""
    assert checked.config is not None
    good = True
    for pool in checked.config.pools:
        print(f"pool {pool.name}")
        good &= await _probe_actuator(pool)
        seen: list[Reading] = []
        for sensor in pool.sensors:
            readings = await _probe_sensor(sensor, pool.name)
            good &= bool(readings) and all(r.status is not Status.ERROR for r in readings)
            seen += readings
        _warn(unpressed(pool.name, checked.policies[pool.name].policy, seen))
    return good


async def _probe_actuator(pool: PoolConfig) -> bool:
    try:
        actuator = build_actuator(pool.actuator, pool.name)
        try:
            applied = await asyncio.wait_for(actuator.read(), _PATIENCE_S)
        finally:
            await actuator.close()
    except PlantFault as error:
        print(f"  actuator {pool.actuator.kind}: FAILED: {error}")
        return False
    except TimeoutError:
        print(f"  actuator {pool.actuator.kind}: FAILED: no answer in {_PATIENCE_S} s")
        return False
    print(f"  actuator {pool.actuator.kind}: {actuator.endpoint}: {applied.setting}")
    return True


async def _probe_sensor(config: AdapterConfig, pool: str) -> tuple[Reading, ...]:
    """What a sensor says; nothing when it cannot be read."""
    try:
        sensor = build_sensor(config, pool)
        try:
            await asyncio.wait_for(sensor.start(), _PATIENCE_S)
            # Twice: what is counted since the last read needs one.
            await _read(sensor)
            await asyncio.sleep(1.0)
            readings = await _read(sensor)
        finally:
            await sensor.close()
    except PlantFault as error:
        print(f"  sensor {config.kind}: FAILED: {error}")
        return ()
    except TimeoutError:
        print(f"  sensor {config.kind}: FAILED: no answer in time")
        return ()
    print(f"  sensor {config.kind}: {sensor.source}")
    for reading in readings:
        print(f"    {_shown(reading)}")
    return readings


async def _read(sensor: Sensor) -> tuple[Reading, ...]:
    """What it says; asked again when it cannot: a busy host is late, and a tick may be without."""
    for left in (2, 1, 0):
        try:
            return await asyncio.wait_for(sensor.read(time.monotonic_ns()), sensor.deadline_s)
        except (PlantFault, TimeoutError):
            if not left:
                raise
    raise AssertionError("it was read, or it was raised why not")


def _shown(reading: Reading) -> str:
    value = "-" if reading.value is None else f"{reading.value:.6g}"
    notes = [reading.status.value if reading.status is not Status.OK else ""]
    notes += ["estimated" if reading.estimated else "", reading.detail]
    return f"{reading.signal:24} {value:>14}  {', '.join(filter(None, notes))}".rstrip()
