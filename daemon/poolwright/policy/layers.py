"""Files laid over files: the trees of policies and layers merged into one.

Mappings are merged key by key, anything else is replaced, the lists `override` and `relations` are
added to. A key given as null takes away what lies below it, and its default holds. Every node keeps
the place where it was written, so that whatever is wrong with the whole still points into a file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from poolwright.policy.bind import look_over
from poolwright.policy.schema import PolicyFile
from poolwright.policy.tree import Document, Listing, Mapping, Mark, Node, Problems, Scalar

_GROWING = ("override", "relations")  # lists that are added to
_OF_FILES = ("extends", "pools")  # say how a file is used, not what the policy is
_OF_DAEMONS = ("listen", "control", "journal", "policies")  # keys of the daemon's configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that was read: a policy, which has a name, or a layer, which has pools instead."""

    path: Path
    root: Node
    problems: Problems

    @classmethod
    def of(cls, document: Document, path: Path) -> "Source":
        """The source that a document is."""
        return cls(path=path, root=document.root, problems=document.problems)

    def has(self, key: str) -> bool:
        """Whether the file has that key."""
        return isinstance(self.root, Mapping) and self.root.get(key) is not None

    def text(self, key: str) -> str:
        """The text under a key, when it is one value; else nothing."""
        node = self.root.get(key) if isinstance(self.root, Mapping) else None
        return node.text if isinstance(node, Scalar) and not node.is_null else ""

    def mark(self, key: str) -> Mark:
        """Where the value under a key stands; without one, the file's beginning."""
        node = self.root.get(key) if isinstance(self.root, Mapping) else None
        return self.root.mark if node is None else node.mark

    @property
    def is_layer(self) -> bool:
        """Whether it is for the pools it names, whatever their policy."""
        return self.has("pools") and not self.has("name")

    @property
    def is_daemons(self) -> bool:
        """Whether it is the configuration of a daemon, which may lie in the same folder."""
        pools = self.root.get("pools") if isinstance(self.root, Mapping) else None
        if isinstance(pools, Listing) and pools.items:
            adapters = ("actuator", "sensors", "preset")
            return any(
                isinstance(item, Mapping) and any(map(item.get, adapters)) for item in pools.items
            )
        return not self.has("name") and any(map(self.has, _OF_DAEMONS))

    def is_for(self, pool: str) -> bool:
        """Whether a layer lies over the policy of `pool`."""
        return isinstance(self.root, Mapping) and _matches(self.root, pool, default=False)

    def look_over(self) -> None:
        """Note what is wrong with the file by itself."""
        removes = self.is_layer or self.has("extends")
        look_over(self.root, PolicyFile, self.problems, self.path.parent, null_removes=removes)
        if removes and not self.has("version"):
            self.problems.add(self.root.mark, "'version' is missing")
        if self.has("name") and self.has("pools"):
            message = "pools: a file is a policy, which has a name, or a layer, which has pools"
            self.problems.add(self.mark("pools"), message)
        elif self.is_layer and self.has("extends"):
            message = "extends: a layer extends nothing; it lies over the policy that a pool names"
            self.problems.add(self.mark("extends"), message)

    def policy_keys(self) -> Mapping:
        """The tree without the keys that say how the file is used. TypeError when it has none."""
        if not isinstance(self.root, Mapping):
            raise TypeError(f"{self.root.mark}: no mapping")
        return _without(self.root, *_OF_FILES)


def lay_over(lower: Mapping, upper: Mapping) -> Mapping:
    """`upper` laid over `lower`. Associative."""
    return _merged(lower, upper, _GROWING)


def for_pool(root: Mapping, pool: str) -> Mapping:
    """The tree with those overrides only that are for `pool`, which then need no `pools`."""
    listing = root.get("override")
    if not isinstance(listing, Listing):
        return root
    items = tuple(
        _without(item, "pools") if isinstance(item, Mapping) else item
        for item in listing.items
        if not isinstance(item, Mapping) or _matches(item, pool, default=True)
    )
    entries = (
        (key, replace(listing, items=items) if below is listing else below)
        for key, below in root.entries
    )
    return replace(root, entries=tuple(entries))


def globs_of(node: Mapping) -> tuple[str, ...]:
    """The globs under `pools`."""
    listing = node.get("pools")
    items = listing.items if isinstance(listing, Listing) else ()
    return tuple(item.text for item in items if isinstance(item, Scalar))


def _matches(node: Mapping, pool: str, *, default: bool) -> bool:
    if node.get("pools") is None:
        return default
    return any(fnmatchcase(pool, glob) for glob in globs_of(node))


def _without(node: Mapping, *keys: str) -> Mapping:
    return replace(node, entries=tuple(e for e in node.entries if e[0].text not in keys))


def _merged(lower: Mapping, upper: Mapping, growing: tuple[str, ...]) -> Mapping:
    entries = dict(_by_name(lower))
    for name, (key, above) in _by_name(upper):
        if name not in entries:
            entries[name] = (key, above)
            continue
        lower_key, below = entries[name]
        laid = _laid(below, above, grows=name in growing)
        entries[name] = (lower_key if laid.mark == below.mark else key, laid)
    return replace(lower, entries=tuple(entries.values()))


def _laid(below: Node, above: Node, *, grows: bool) -> Node:
    """One value over another. What replaces is marked `fresh`: over a third it replaces too."""
    if isinstance(above, Scalar) or above.fresh:
        return above
    if isinstance(above, Mapping) and isinstance(below, Mapping):
        return _merged(below, above, ())
    if grows and isinstance(above, Listing) and isinstance(below, Listing):
        return replace(below, items=below.items + above.items)
    return replace(above, fresh=True)


def _by_name(node: Mapping) -> Iterator[tuple[str, tuple[Scalar, Node]]]:
    return ((key.text, (key, below)) for key, below in node.entries)
