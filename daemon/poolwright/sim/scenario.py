"""A scenario as it is written in YAML: services and their load, policies, and what happens.

Bound by `policy.bind`, which this layer may not know; `engine.stage` does that, and makes of a
Scenario a simulation. Policies stay as written (`Written`) until then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from poolwright.core.units import Seconds
from poolwright.sim.faults import DiskFull, Fault, Suspend, WallJump
from poolwright.sim.load import Constant, Load
from poolwright.sim.shape import PlantShape

_NAME = {"pattern": r"[a-z0-9][a-z0-9-]{0,62}", "says": "is no name: a name is of a-z, 0-9 and -"}
ONLY = "web"  # what the one service of a scenario is called
_OF_THE_HOST = (DiskFull, Suspend, WallJump)


def _doc(text: str, **rules: Any) -> dict[str, Any]:
    return {"doc": text, **rules}


@dataclass(frozen=True, slots=True)
class Written:
    """A part of the file that another layer reads: its tree, and where relative paths start."""

    node: Any
    base: Path

    @classmethod
    def bind_node(cls, node: Any, binder: Any, where: str) -> "Written":  # noqa: ARG003
        """Take it as it is."""
        return cls(node, binder.base)


@dataclass(frozen=True, slots=True)
class Wrong:
    """Fields that make no sense together, as `policy.bind` wants it told."""

    at: tuple[str | int, ...]
    uses: tuple[str, ...]
    message: str
    other: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPart:
    """One service, the load on it, and the policy it is sized by."""

    name: str = field(default=ONLY, metadata=_doc("of the pool", **_NAME))
    policy: Written = field(metadata=_doc("name of a shipped policy, a path, or a policy in full"))
    plant: PlantShape = field(default=PlantShape(), metadata=_doc("what service it is"))
    workers: int = field(default=4, metadata=_doc("at the start", min=1, max=10_000))
    load: Load = field(default=Constant(), metadata=_doc("requests a second over time"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPart:
    """What an operator types at a moment."""

    at: Seconds = field(metadata=_doc("when, since the start"))
    command: Literal["pause", "resume", "pin", "unpin", "approve", "reject", "rollback"] = field(
        metadata=_doc("as the commands of the same names; approve, reject: the newest advice")
    )
    pool: str = field(default="", metadata=_doc("which; left out: all"))
    workers: int | None = field(default=None, metadata=_doc("of pin and rollback", min=1))
    who: str = field(default="operator", metadata=_doc("who asks"))
    why: str = field(default="", metadata=_doc("and why"))

    def contradictions(self) -> Iterator[Wrong]:
        """A pin needs a level."""
        if self.command == "pin" and self.workers is None:
            yield Wrong(("command",), ("command", "workers"), "pin what? write `workers`")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadPart:
    """Another policy on disk, and a reload."""

    at: Seconds = field(metadata=_doc("when, since the start"))
    policy: Written = field(metadata=_doc("the new policy"))
    pool: str = field(default="", metadata=_doc("whose; left out: of all"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerPart:
    """How fast the learner process is."""

    start: Seconds = field(default=1.0, metadata=_doc("from asleep to ready", max=3600))
    fit: Seconds = field(default=0.2, metadata=_doc("for one plan", above=0, max=3600))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What `poolwright simulate` plays."""

    version: Literal[1] = field(metadata=_doc("of the scenario language"))
    name: str = field(metadata=_doc("of the scenario", **_NAME))
    describe: str = field(default="", metadata=_doc("what happens, and what is to be seen"))
    duration: Seconds = field(metadata=_doc("simulated time", above=0, max=366 * 86400.0))
    cadence: Seconds | None = field(
        default=None,
        metadata=_doc("time from tick to tick; left out: as the policies say", min=0.1, max=60),
    )
    policy: Written | None = field(
        default=None, metadata=_doc("of the one service: a name, a path, or a policy in full")
    )
    plant: PlantShape = field(default=PlantShape(), metadata=_doc("what service it is"))
    workers: int = field(default=4, metadata=_doc("of it at the start", min=1, max=10_000))
    load: Load = field(default=Constant(), metadata=_doc("on it: requests a second over time"))
    pools: tuple[PoolPart, ...] = field(
        default=(), metadata=_doc("several services, on one host, in place of the four keys above")
    )
    budget: Written | None = field(
        default=None, metadata=_doc("CPU and memory that all pools share, as in a configuration")
    )
    learner: LearnerPart = field(default=LearnerPart(), metadata=_doc("how fast it is"))
    faults: tuple[Fault, ...] = field(default=(), metadata=_doc("what goes wrong"))
    commands: tuple[CommandPart, ...] = field(default=(), metadata=_doc("what operators ask"))
    reload: tuple[ReloadPart, ...] = field(default=(), metadata=_doc("policies that change"))

    def services(self) -> tuple[PoolPart, ...]:
        """All services, however they are written."""
        if self.pools:
            return self.pools
        assert self.policy is not None
        return (
            PoolPart(policy=self.policy, plant=self.plant, workers=self.workers, load=self.load),
        )

    def contradictions(self) -> Iterator[Wrong]:
        """Two ways of naming services; names that nobody has; things after the end."""
        if (self.policy is None) == (not self.pools):
            message = "write either one `policy` (with plant, workers, load) or `pools`"
            yield Wrong(("policy",), ("policy", "pools"), message)
        names = [pool.name for pool in self.pools] or [ONLY]
        for index, name in enumerate(names):
            if name in names[:index]:
                message = f"{name!r} is the name of an earlier pool"
                yield Wrong(("pools", index, "name"), ("pools",), message)
        for part in ("faults", "commands", "reload"):
            for index, item in enumerate(getattr(self, part)):
                if item.pool and item.pool not in names:
                    message = f"there is no pool {item.pool!r}; there are: {', '.join(names)}"
                    yield Wrong((part, index, "pool"), ("pools", part), message)
                if item.at >= self.duration:
                    message = f"{item.at:g} s is not before the end, {self.duration:g} s"
                    yield Wrong((part, index, "at"), ("duration", part), message)
        for index, fault in enumerate(self.faults):
            if fault.pool and isinstance(fault, _OF_THE_HOST):
                message = f"{fault} strikes the whole host, not one pool"
                yield Wrong(("faults", index, "pool"), ("faults",), message)
