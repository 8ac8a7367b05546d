"""The daemon's configuration: where things are, and what is attached to what.

The options of sensors and actuators stay as written (`AdapterConfig`), because this layer does not
know the adapters; `engine.build`, which does, binds them with `bind_options`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from poolwright.core.errors import PolicyError
from poolwright.core.units import Bytes, HostPort, PathText, Seconds
from poolwright.policy.bind import Binder, Contradiction, bind, suggestion
from poolwright.policy.expand import Suit, with_parts
from poolwright.policy.load import is_path
from poolwright.policy.quantities import is_loopback
from poolwright.policy.schema import NAME
from poolwright.policy.tree import Document, Mapping, Node, Problems, Scalar, read_document

T = TypeVar("T")

_HEARERS = ("access_log", "statsd")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A sensor or actuator as written: its kind, and its options with their places in the file."""

    kind: str
    node: Mapping
    base: Path  # relative paths among the options start here

    @classmethod
    def bind_node(cls, node: Node, binder: Binder, where: str) -> "AdapterConfig | None":
        """Take a mapping with a `kind`; None after noting why it is none."""
        if not isinstance(node, Mapping):
            binder.refuse(node.mark, where, "is not a mapping such as {kind: host}")
            return None
        kind = node.get("kind")
        if not isinstance(kind, Scalar) or not kind.text:
            mark = node.mark if kind is None else kind.mark
            binder.refuse(mark, where, "'kind' is missing" if kind is None else "kind: is no name")
            return None
        return cls(kind.text, node, binder.base)


def _doc(text: str, **metadata: Any) -> dict[str, Any]:
    return {"doc": text, **metadata}


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedBudget:
    """What all pools of this daemon together may use; None: no such bound."""

    memory: Bytes | None = field(
        default=None,
        metadata=_doc("no pool grows when all of them would then use more", min=2**20),
    )
    cpu: float | None = field(
        default=None, metadata=_doc("CPUs; no pool grows when all would then use more", above=0)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """One pool: what moves it, what sees it, and by which policy."""

    name: str = field(metadata=_doc("in metrics, journal and commands", **NAME))
    policy: str = field(
        default="balanced",
        metadata=_doc("name of a policy in `policies` or of a shipped one, or a path to a file"),
    )
    preset: AdapterConfig | None = field(
        default=None,
        metadata=_doc("a kind of server: the actuator and the sensors that it stands for"),
    )
    actuator: AdapterConfig = field(metadata=_doc("what moves the pool", unless="preset"))
    sensors: tuple[AdapterConfig, ...] = field(
        metadata=_doc(
            "what sees the pool; beside a preset added to its own, in place of the same kind",
            nonempty=True,
            unless="preset",
        )
    )
    prior: PathText | None = field(
        default=None,
        metadata=_doc("what another host has learned, as `poolwright prior` has written it"),
    )

    @classmethod
    def bind_node(cls, node: Node, binder: Binder, where: str) -> "PoolConfig | None":
        """Take a pool with a preset as what the preset stands for; None after noting problems."""
        is_right = True
        if isinstance(node, Mapping):
            node, is_right = with_parts(node, binder, where)
        bound: PoolConfig = binder.dataclass(node, cls, where)
        return bound if is_right else None

    @property
    def suit(self) -> Suit | None:
        """What makes a shipped policy suit the preset; without a preset None."""
        if self.preset is None:
            return None
        return Suit.of(self.preset.kind, [sensor.node for sensor in self.sensors])


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """What `poolwright run --config FILE` runs."""

    version: Literal[1] = field(metadata=_doc("of the configuration language"))
    listen: HostPort | None = field(
        default="127.0.0.1:9817",
        metadata=_doc("metrics, read-only API and dashboard; null: none"),
    )
    listen_public: bool = field(
        default=False,
        metadata=_doc(
            "allow `listen` to be reached from other hosts: whoever can connect can read"
        ),
    )
    allowed_hosts: tuple[str, ...] = field(
        default=(),
        metadata=_doc(
            "names by which browsers and Prometheus may ask, beside localhost and addresses"
        ),
    )
    control: PathText = field(
        default="/run/poolwright/control.sock",
        metadata=_doc("the UNIX socket for commands that change something"),
    )
    control_group: str | None = field(
        default=None,
        metadata=_doc("a group whose members may command, beside root and the daemon's own user"),
    )
    journal: PathText = field(
        default="/var/lib/poolwright/journal.db", metadata=_doc("the SQLite file of what happened")
    )
    journal_max_bytes: Bytes = field(
        default=360 * 2**20, metadata=_doc("when it is larger, the oldest is dropped", min=2**20)
    )
    journal_max_age: Seconds = field(
        default=30 * 86400.0, metadata=_doc("what is older is dropped", min=3600)
    )
    policies: PathText = field(
        default="/etc/poolwright/policies.d", metadata=_doc("the folder of your own policies")
    )
    watch: bool = field(
        default=True,
        metadata=_doc("read this file and the policies again when they change; false: on SIGHUP"),
    )
    cadence: Seconds | None = field(
        default=None,
        metadata=_doc("time from tick to tick; left out: as the policies say", min=0.1, max=60),
    )
    log_format: Literal["text", "json"] = field(
        default="text", metadata=_doc("of the log; `run --log-format` goes before it")
    )
    budget: SharedBudget = field(
        default_factory=SharedBudget, metadata=_doc("what all pools together may use")
    )
    experiment_lock: PathText | None = field(
        default=None,
        metadata=_doc("a file, the same for all daemons of a host: one of them tries at a time"),
    )
    pools: tuple[PoolConfig, ...] = field(metadata=_doc("what is sized", nonempty=True))

    def contradictions(self) -> Iterator[Contradiction]:
        """Pools of the same name; an address that other hosts can reach without saying so."""
        names = [pool.name for pool in self.pools]
        for index, name in enumerate(names):
            if name in names[:index]:
                message = f"{name!r} is the name of an earlier pool"
                yield Contradiction(("pools", index, "name"), ("pools",), message)
        heard: dict[str, str] = {}
        for index, pool in enumerate(self.pools):
            for at in _hears(pool):
                if at in heard:
                    message = f"{at} is where pool {heard[at]} is told of its requests"
                    part = "sensors" if pool.preset is None else "preset"
                    yield Contradiction(("pools", index, part), ("pools",), message)
                heard[at] = pool.name
        if self.listen is not None and not self.listen_public and not is_loopback(self.listen):
            message = (
                f"{self.listen} can be reached from other hosts and shows how this one is doing; "
                "if that is wanted, add `listen_public: true`"
            )
            yield Contradiction(("listen",), ("listen", "listen_public"), message)

    def policies_dir(self) -> Path:
        """The folder of the operator's policies."""
        return Path(self.policies)


def _hears(pool: PoolConfig) -> Iterator[str]:
    """Where its sensors receive datagrams, which is nobody else's; port 0 is any free one."""
    for sensor in pool.sensors:
        at = sensor.node.get("listen")
        if sensor.kind in _HEARERS and isinstance(at, Scalar) and not at.text.endswith(":0"):
            yield at.text


def load_config(path: Path) -> DaemonConfig:
    """The configuration in a YAML file; relative paths in it start at the file's folder.

    Raises PolicyError with every problem of the file, each as `FILE:LINE:COL: message`, and
    PlantFault when it cannot be read. The options of adapters are not looked at (`bind_options`).
    """
    return bind_config(read_document(path), path.parent)


def bind_config(document: Document, base: Path) -> DaemonConfig:
    """The configuration in a document already read; PolicyError as `load_config`."""
    config = bind(document.root, DaemonConfig, document.problems, base.absolute())
    document.problems.check()
    assert config is not None, "what cannot be bound is a problem"
    pools = tuple(
        replace(pool, policy=str(base.absolute() / pool.policy)) if is_path(pool.policy) else pool
        for pool in config.pools
    )
    return replace(config, pools=pools)


def bind_options(adapter: AdapterConfig, options_type: type[T]) -> T:
    """The options of an adapter as its `Options`; PolicyError with every problem of them."""
    problems = Problems()
    options = bind(adapter.node, options_type, problems, adapter.base, skip="kind")
    problems.check()
    assert options is not None, "what cannot be bound is a problem"
    return options


def unknown_kind(adapter: AdapterConfig, what: str, known: Iterable[str]) -> PolicyError:
    """The error for a kind of `what` (sensor, actuator) that is not among `known`."""
    node = adapter.node.get("kind")
    mark = adapter.node.mark if node is None else node.mark
    return PolicyError(
        f"{mark}: unknown {what} kind {adapter.kind!r}{suggestion(adapter.kind, sorted(known))}"
    )
