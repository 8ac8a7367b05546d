"""Policies: read from YAML, made into what the core obeys."""

from collections.abc import Collection
from pathlib import Path

from poolwright.core.errors import PolicyError
from poolwright.core.policy import Policy
from poolwright.core.signals import quantile_of
from poolwright.policy.layers import Source
from poolwright.policy.library import Effective, Library, is_path, shipped_policies, yaml_files
from poolwright.policy.tree import Document, read_document

__all__ = [
    "bind_policy",
    "check_layer",
    "effective_policy",
    "find_policy",
    "is_path",
    "load_policy",
    "resolve",
    "shipped_policies",
    "unseen",
    "yaml_files",
]

# A response can be seen when a sensor gives all signals of one of these sets (`core.derive`).
_TIMES = (frozenset({"latency_s"}), frozenset({"service_time_s"}))
_SEEN_THROUGH: dict[str, tuple[frozenset[str], ...]] = {
    "throughput_rps": (frozenset({"throughput_rps"}),),
    "jitter_s": _TIMES,
    "power_w": (frozenset({"power_w"}),),
    "cpu_cores": (frozenset({"cpu_cores"}),),
    "memory_bytes": (frozenset({"memory_bytes"}),),
    "error_ratio": (frozenset({"errors_rps", "throughput_rps"}),),
}
_PRICED = {"core_hour": "cpu_cores", "gib_hour": "memory_bytes", "kwh": "power_w"}


def load_policy(path: Path) -> Policy:
    """The policy in a YAML file, with what it extends (of the same folder, or shipped).

    Raises PolicyError with every problem, each as `FILE:LINE:COL: message`, and PlantFault when a
    file cannot be read. Layers are not looked at: they need a pool (`resolve`).
    """
    return bind_policy(read_document(path), path.parent)


def bind_policy(document: Document, base: Path) -> Policy:
    """The policy in a document already read; PolicyError as `load_policy`."""
    return effective_policy(document, base).policy


def effective_policy(document: Document, base: Path) -> Effective:
    """The policy in a document with the tree it is made of; PolicyError as `load_policy`."""
    source = Source.of(document, Path(document.root.mark.file))
    if source.is_layer:
        message = "this is a layer; a policy has a `name`"
        raise PolicyError(f"{source.root.mark}: {message}")
    library = Library(base if source.has("extends") else None)
    made = library.alone(source)
    library.check()
    assert made is not None, "what cannot be bound is a problem"
    return made


def find_policy(name_or_path: str, policies_dir: Path | None) -> Path:
    """The file of a policy.

    A text with a slash or ending in .yaml is a path, relative ones to the working directory. A name
    is looked for among the operator's policies (`policies_dir`), then among the shipped ones.
    Raises PolicyError, with a suggestion, when there is none, or when a file of the folder is
    wrong, and PlantFault when the folder exists and cannot be read: the shipped policy of the same
    name is then not what was meant.
    """
    library = Library(policies_dir)
    library.look_over_folder()
    source = library.find(name_or_path)
    library.check()
    assert source is not None, "what cannot be read is a problem"
    return source.path


def check_layer(document: Document) -> None:
    """Raise PolicyError with what is wrong with a layer by itself; else do nothing."""
    library = Library(None)
    library.look_over(Source.of(document, Path(document.root.mark.file)))
    library.check()


def resolve(pool: str, policy_ref: str, policies_dir: Path | None) -> Policy:
    """The policy of a pool: `policy_ref` (a name or a file), what it extends, and its layers.

    Raises PolicyError and PlantFault as `load_policy`, for all files of the folder.
    """
    library = Library(policies_dir)
    library.look_over_folder()
    made = library.effective(policy_ref, pool)
    library.check()
    assert made is not None, "what cannot be bound is a problem"
    return made.policy


def needs_of(response: str, policy: Policy) -> tuple[frozenset[str], ...]:
    """Sets of signals, each of which is enough to know a response."""
    if response == "cost_per_hour":
        priced = (_PRICED[what] for what, _ in policy.prices)
        return (frozenset(priced),)
    return _TIMES if quantile_of(response) is not None else _SEEN_THROUGH[response]


def unseen(policy: Policy, responses: Collection[str], signals: Collection[str]) -> tuple[str, ...]:
    """Those of `responses` that cannot be known from `signals` (`core.signals`)."""
    given = frozenset(signals)
    return tuple(
        response
        for response in responses
        if not any(needed <= given for needed in needs_of(response, policy))
    )
