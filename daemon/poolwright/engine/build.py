"""The only place where configuration, policies and the adapter tables meet."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poolwright.actuators import ACTUATORS
from poolwright.core.errors import PolicyError
from poolwright.core.model import Evidence, Reading, Status
from poolwright.core.policy import Mode, Policy
from poolwright.journal.prior import read_prior
from poolwright.policy.config import AdapterConfig, DaemonConfig, bind_options, unknown_kind
from poolwright.policy.library import Library
from poolwright.policy.load import unseen
from poolwright.ports import Actuator, Sensor
from poolwright.sensors import SENSORS

_ALWAYS_NEEDED = {
    "throughput_rps": "access_log, statsd, prometheus, promql or the server's own",
    "host_memory_used_bytes": "host",
    "memory_limit_bytes": "host",
}
_TO_MOVE = {"memory_bytes": "process_tree"}  # the forecast of the memory that a worker adds
_PRESSURE = ("psi_cpu_ratio", "psi_memory_ratio", "psi_io_ratio")
_CONNECTIONS = ("connections", "connections_limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What one pool is made of, before anything is started."""

    name: str
    policy: Policy
    sensors: tuple[Sensor, ...]
    actuator: Actuator
    prior: tuple[Evidence, ...] = ()


def build_sensor(adapter: AdapterConfig, pool: str) -> Sensor:
    """The sensor that `adapter` describes. Raises PolicyError with its place in the file."""
    sensor: Sensor = _build(adapter, pool, "sensor", SENSORS)
    return sensor


def build_actuator(adapter: AdapterConfig, pool: str) -> Actuator:
    """The actuator that `adapter` describes. Raises PolicyError with its place in the file."""
    actuator: Actuator = _build(adapter, pool, "actuator", ACTUATORS)
    return actuator


def options_types(table: Mapping[str, str]) -> dict[str, type]:
    """The Options of every kind in an adapter table, for the JSON Schema."""
    return {kind: _load(place).Options for kind, place in table.items()}


def build_policies(config: DaemonConfig) -> dict[str, Policy]:
    """The policy of each pool, at the cadence of the daemon: one loop ticks them all.

    Raises PolicyError with all that is wrong in any file of the policies' folder and for any pool,
    PlantFault when a file cannot be read.
    """
    library = Library(config.policies_dir())
    library.look_over_folder()
    made = {
        pool.name: library.effective(pool.policy, pool.name, pool.suit) for pool in config.pools
    }
    library.check()
    found = {name: effective.policy for name, effective in made.items() if effective is not None}
    assert len(found) == len(made), "what cannot be bound is a problem"
    return at_one_cadence(config, found)


def at_one_cadence(config: DaemonConfig, policies: Mapping[str, Policy]) -> dict[str, Policy]:
    """The policies at the daemon's cadence. PolicyError when a window is too short for it."""
    cadence_s = config.cadence or min((p.cadence_s for p in policies.values()), default=1.0)
    problems = [
        f"pool {name}: policy {policy.name} has a window of less than two ticks of {cadence_s:g} s"
        for name, policy in policies.items()
        if policy.explore.window_s * (1.0 - policy.explore.window_jitter) < 2.0 * cadence_s
    ]
    if problems:
        raise PolicyError("\n".join(problems))
    return {name: replace(policy, cadence_s=cadence_s) for name, policy in policies.items()}


def build_parts(config: DaemonConfig) -> tuple[Parts, ...]:
    """All pools of a configuration. Raises PolicyError with all that is wrong."""
    policies = build_policies(config)
    parts: list[Parts] = []
    problems: list[str] = []
    for pool in config.pools:
        try:
            sensors = tuple(build_sensor(adapter, pool.name) for adapter in pool.sensors)
            actuator = build_actuator(pool.actuator, pool.name)
            policy = policies[pool.name]
            problems.extend(unsatisfied(pool.name, policy, sensors, actuator))
            prior = () if pool.prior is None else read_prior(Path(pool.prior), policy)
        except PolicyError as error:
            problems.append(str(error))
            continue
        made = Parts(name=pool.name, policy=policy, sensors=sensors, actuator=actuator, prior=prior)
        parts.append(made)
    if problems:
        raise PolicyError("\n".join(problems))
    return tuple(parts)


def unsatisfied(
    pool: str, policy: Policy, sensors: tuple[Sensor, ...], actuator: Actuator
) -> list[str]:
    """What the policy needs and the pool's sensors or actuator do not give, in words."""
    signals = {signal for sensor in sensors for signal in sensor.signals}
    needed = dict(_ALWAYS_NEEDED)
    if policy.mode is Mode.AUTO:
        needed |= _TO_MOVE
    needed |= {signal: "host" for signal in _PRESSURE if getattr(policy.guard, signal) is not None}
    found = [
        f"pool {pool}: no sensor gives {signal}, which the guard needs: add a sensor of kind {kind}"
        for signal, kind in needed.items()
        if signal not in signals
    ]
    promised = [slo.response for slo in policy.slo]
    found += [
        f"pool {pool}: policy {policy.name} has an SLO on {response}, which no sensor gives"
        for response in unseen(policy, promised, signals)
    ]
    weighed = [response for response, weight in policy.objective if weight]
    blind = unseen(policy, weighed, signals)
    if "cost_per_hour" in blind:
        found.append(
            f"pool {pool}: policy {policy.name} gives cost a weight, and no sensor gives all that "
            f"has a price: {', '.join(what for what, _ in policy.prices)}"
        )
    elif len(blind) == len(weighed):
        found.append(
            f"pool {pool}: policy {policy.name} has an objective of which no sensor gives anything"
        )
    knobs = {knob.name for knob in policy.knobs}
    if knobs != set(actuator.knobs):
        found.append(
            f"pool {pool}: policy {policy.name} has the knobs {', '.join(sorted(knobs))}, "
            f"the actuator moves {', '.join(actuator.knobs)}"
        )
    return found


def unheeded(pool: str, policy: Policy, sensors: tuple[Sensor, ...]) -> list[str]:
    """The weights of the policy that count for nothing, because no sensor of the pool sees what
    they weigh. Not wrong: one policy may serve hosts that can measure watts and others.
    """
    signals = {signal for sensor in sensors for signal in sensor.signals}
    weighed = [response for response, weight in policy.objective if weight]
    return [
        f"pool {pool}: policy {policy.name} gives {response} a weight, and no sensor sees it"
        for response in unseen(policy, weighed, signals)
    ]


def uncapped(pool: str, sensors: tuple[Sensor, ...]) -> list[str]:
    """Connections of which only the use or only the cap is seen: what is not known allows no
    growth, so the pool would never grow.
    """
    signals = {signal for sensor in sensors for signal in sensor.signals}
    seen = [name for name in _CONNECTIONS if name in signals]
    if len(seen) != 1:
        return []
    other = next(name for name in _CONNECTIONS if name not in signals)
    lacks = f"pool {pool}: a sensor gives {seen[0]}, and none gives {other}"
    return [f"{lacks}: nothing grows without both; map {other} too, or neither"]


def unpressed(pool: str, policy: Policy, readings: Sequence[Reading]) -> list[str]:
    """The limits on pressure that this host cannot be held to, by what was read of it: it has no
    such thing, and the guard would be blind for good.
    """
    good = {reading.signal for reading in readings if reading.status is Status.OK}
    asked = f"pool {pool}: policy {policy.name} limits"
    return [
        f"{asked} {r.signal}, which this host does not tell, so the guard is blind: {r.detail}"
        for r in readings
        if r.status is Status.NO_DATA and r.signal in _PRESSURE and r.signal not in good
        if getattr(policy.guard, r.signal) is not None
    ]


def _build(adapter: AdapterConfig, pool: str, what: str, table: Mapping[str, str]) -> Any:
    place = table.get(adapter.kind) or _third_party(adapter, what, table)
    kind = _load(place)
    return kind(bind_options(adapter, kind.Options), pool)


def _third_party(adapter: AdapterConfig, what: str, table: Mapping[str, str]) -> str:
    """An adapter from another package, found by its entry point."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - 2 MB that few need

    group = f"poolwright.{what}s"
    for entry in entry_points(group=group, name=adapter.kind):
        return entry.value
    raise unknown_kind(adapter, what, table)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
