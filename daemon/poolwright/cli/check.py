"""`poolwright check [PATH...] [--probe]`: whether configurations and policies are right.

Every problem of every file is printed as FILE:LINE:COL: message. With --probe each sensor and each
actuator of a configuration is opened and read once; nothing is moved.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.core.policy import Policy
from poolwright.engine.build import build_actuator, build_sensor, unsatisfied
from poolwright.policy.bind import field_specs
from poolwright.policy.config import AdapterConfig, DaemonConfig, PoolConfig, bind_config
from poolwright.policy.load import bind_policy, find_policy, load_policy, yaml_files
from poolwright.policy.schema import PolicyFile
from poolwright.policy.tree import Document, Mapping, read_document

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
            bad |= not _good(file, probe=args.probe)
    return int(bad)


def _good(path: Path, *, probe: bool) -> bool:
    """Check one file and say so; with `probe` also the world that it describes."""
    try:
        config = check_file(path)
    except (PolicyError, PlantFault) as error:
        print(error, file=sys.stderr)
        return False
    print(f"{path}: ok")
    return config is None or not probe or asyncio.run(_probe(config))


def check_file(path: Path) -> DaemonConfig | None:
    """The configuration in a file, checked with its adapters and policies; None for a good policy.

    Raises PolicyError with everything that is wrong, PlantFault when the file cannot be read.
    """
    document = read_document(path)
    if not _is_config(document):
        bind_policy(document, path.parent)
        return None
    config = bind_config(document, path.parent)
    wrong = list(_wrong_in_pools(config))
    if wrong:
        raise PolicyError("\n".join(wrong))
    return config


def _files(path: Path) -> list[Path]:
    if not os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises where it may not look
        return [path]
    found = yaml_files(path)
    if not found:
        raise PolicyError(f"{path}: holds no *.yaml")
    return found


def _is_config(document: Document) -> bool:
    """Told by what it says: `pools`, or else more keys of a configuration than of a policy."""
    if not isinstance(document.root, Mapping):
        return False
    keys = {key.text for key, _ in document.root.entries}
    if "pools" in keys:
        return True
    of_config = keys & {spec.name for spec in field_specs(DaemonConfig)}
    of_policy = keys & {spec.name for spec in field_specs(PolicyFile)}
    return len(of_config) > len(of_policy)


def _wrong_in_pools(config: DaemonConfig) -> Iterator[str]:
    """Everything that `engine.build` would refuse, of all pools, not only the first."""
    for pool in config.pools:
        wrong: list[str] = []
        policy = _attempt(partial(_policy_of, pool, config), wrong)
        actuator = _attempt(partial(build_actuator, pool.actuator, pool.name), wrong)
        sensors = [
            _attempt(partial(build_sensor, sensor, pool.name), wrong) for sensor in pool.sensors
        ]
        if policy is not None and actuator is not None and not wrong:
            seen = tuple(sensor for sensor in sensors if sensor is not None)
            wrong = unsatisfied(pool.name, policy, seen, actuator)
        yield from wrong


def _policy_of(pool: PoolConfig, config: DaemonConfig) -> Policy:
    return load_policy(find_policy(pool.policy, config.policies_dir()))


def _attempt(build: Callable[[], T], wrong: list[str]) -> T | None:
    """What `build` gives; None after adding why it gives nothing to `wrong`."""
    try:
        return build()
    except (PolicyError, PlantFault) as error:
        wrong.append(str(error))
        return None


async def _probe(config: DaemonConfig) -> bool:
    """Read everything once and say what it says; whether all of it can be read."""
    good = True
    for pool in config.pools:
        print(f"pool {pool.name}")
        good &= await _probe_actuator(pool)
        for sensor in pool.sensors:
            good &= await _probe_sensor(sensor, pool.name)
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


async def _probe_sensor(config: AdapterConfig, pool: str) -> bool:
    try:
        sensor = build_sensor(config, pool)
        try:
            await asyncio.wait_for(sensor.start(), _PATIENCE_S)
            # Twice: what is counted since the last read needs one.
            await asyncio.wait_for(sensor.read(time.monotonic_ns()), sensor.deadline_s)
            await asyncio.sleep(1.0)
            readings = await asyncio.wait_for(sensor.read(time.monotonic_ns()), sensor.deadline_s)
        finally:
            await sensor.close()
    except PlantFault as error:
        print(f"  sensor {config.kind}: FAILED: {error}")
        return False
    except TimeoutError:
        print(f"  sensor {config.kind}: FAILED: no answer in time")
        return False
    print(f"  sensor {config.kind}: {sensor.source}")
    for reading in readings:
        print(f"    {_shown(reading)}")
    return all(reading.status is not Status.ERROR for reading in readings)


def _shown(reading: Reading) -> str:
    value = "-" if reading.value is None else f"{reading.value:.6g}"
    notes = [reading.status.value if reading.status is not Status.OK else ""]
    notes += ["estimated" if reading.estimated else "", reading.detail]
    return f"{reading.signal:24} {value:>14}  {', '.join(filter(None, notes))}".rstrip()
