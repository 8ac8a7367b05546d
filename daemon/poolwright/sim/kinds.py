"""Parts of a scenario that come in kinds: loads and faults, bound by what `kind` says."""

from types import SimpleNamespace
from typing import Any, Literal


def bind_kind(node: Any, binder: Any, where: str, table: dict[str, Any]) -> Any:
    """Bind a mapping to the dataclass that its `kind` names in `table`, with the binder's errors.

    `binder` is `policy.bind.Binder`; this layer knows only what it is given.
    """
    if not hasattr(node, "entries"):
        return binder.refuse(node.mark, where, "is not a mapping such as {kind: ...}")
    found = node.get("kind")
    if found is None:
        return binder.refuse(node.mark, where, f"'kind' is missing; there are: {', '.join(table)}")
    known: Any = Literal.__getitem__(tuple(table))
    kind = binder.value(found, known, f"{where}.kind", SimpleNamespace(metadata={}))
    if kind not in table:
        return kind  # the binder's mark of what could not be bound
    return binder.dataclass(node, table[kind], where, "kind")
