"""The policies of a host: the operator's folder of policies and layers, and the shipped ones."""

import os
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.policy import Policy
from poolwright.policy.bind import bind, suggestion
from poolwright.policy.layers import Source, for_pool, globs_of, lay_over
from poolwright.policy.schema import PolicyFile
from poolwright.policy.translate import to_core
from poolwright.policy.tree import Listing, Mapping, Mark, Problems, read_document


class Effective:
    """The policy that one pool has, with the tree it was made of."""

    __slots__ = ("policy", "root")

    def __init__(self, policy: Policy, root: Mapping) -> None:
        self.policy = policy
        self.root = root

    def overrides(self) -> tuple[Mark, ...]:
        """Where each override of the policy stands, in their order."""
        listing = self.root.get("override")
        return tuple(i.mark for i in listing.items) if isinstance(listing, Listing) else ()


class Library:
    """All files are read once; what is wrong is collected, and told by `check` all at once."""

    def __init__(self, folder: Path | None) -> None:
        """Read the operator's folder. PlantFault when it, or a file in it, cannot be read."""
        self._problems = Problems()
        self._folder_problems = Problems()  # why a file of the folder cannot be used
        self._of_pools: dict[tuple[Mark, str], list[str]] = {}  # wrong in what several files make
        self._sources: dict[Path, Source | None] = {}
        self._looked_over: set[Path] = set()
        self._policies: dict[str, Source] = {}  # the operator's, by name
        self._layers: list[Source] = []
        for path in yaml_files(folder) if folder is not None else ():
            self._take(path)

    def effective(
        self, ref: str, pool: str, suit: Callable[[Mapping], Mapping] | None = None
    ) -> Effective | None:
        """The policy called `ref`, or in the file `ref`, as it is for `pool`.

        One that is shipped is made to `suit` the pool; the operator's own is taken as written. None
        after noting what is wrong.
        """
        try:
            source = self.find(ref)
        except PolicyError as error:
            self._problems.note(f"pool {pool}: {error}")
            return None
        if source is None:
            return None
        is_shipped = source.path.absolute().parent == shipped_policies()
        layers = self._for(pool)
        return self._made(self._chain(source), pool, layers, suit if is_shipped else None)

    def find(self, ref: str) -> Source | None:
        """What a name or a path leads to; None after noting that it is no YAML.

        Raises PolicyError, with a suggestion, when it leads nowhere.
        """
        if is_path(ref):
            if not os.path.lexists(ref):
                raise PolicyError(f"policy {ref!r}: there is no such file")
            return self._read(Path(ref), self._problems)
        if ref in self._policies:
            return self._policies[ref]
        shipped = self._shipped()
        if ref not in shipped:
            hint = suggestion(ref, {**shipped, **self._policies})
            raise PolicyError(f"policy {ref!r} does not exist{hint}")
        return self._read(shipped[ref], self._problems)

    def alone(self, source: Source) -> Effective | None:
        """A policy as its file and what it extends say, whatever the pool; None as `effective`."""
        return self._made(self._chain(source), "")

    def look_over(self, source: Source) -> None:
        """Note what is wrong with one file by itself."""
        if source.path not in self._looked_over:
            self._looked_over.add(source.path)
            source.look_over()
            self._problems.absorb(source.problems)

    def look_over_folder(self) -> None:
        """Note what is wrong with any file of the operator's folder."""
        self._problems.absorb(self._folder_problems)
        for source in (*self._policies.values(), *self._layers):
            self.look_over(source)

    def check(self) -> None:
        """Raise PolicyError with everything noted; else do nothing."""
        for (mark, message), pools in self._of_pools.items():
            self._problems.add(mark, f"{message} (pool{'s' * (len(pools) > 1)} {', '.join(pools)})")
        self._problems.check()

    def unmatched(self, pools: tuple[str, ...]) -> tuple[str, ...]:
        """Layers and overrides that are for none of `pools`, each with its place."""
        found = [
            f"{layer.mark('pools')}: this layer is for no pool of this configuration"
            for layer in self._layers
            if not any(map(layer.is_for, pools))
        ]
        for source in (*self._policies.values(), *self._layers):
            listing = source.root.get("override") if isinstance(source.root, Mapping) else None
            for item in listing.items if isinstance(listing, Listing) else ():
                if isinstance(item, Mapping) and item.get("pools") is not None:
                    probe = Source(path=source.path, root=item, problems=source.problems)
                    if not any(map(probe.is_for, pools)):
                        words = f"for {', '.join(globs_of(item))}: no pool of this configuration"
                        found.append(f"{item.mark}: an override {words}")
        return tuple(found)

    def _take(self, path: Path) -> None:
        """Sort a file of the folder in by what it is."""
        source = self._read(path, self._folder_problems)
        if source is None or source.is_daemons:
            return
        if source.is_layer:
            self._layers.append(source)
            return
        name = source.text("name")
        if not name:
            message = "has neither a `name`, as a policy has, nor `pools`, as a layer has"
            self._folder_problems.add(source.root.mark, message)
        elif name in self._policies:
            first = self._policies[name].mark("name")
            message = f"name: {name!r} is the name of another policy, {first}"
            self._folder_problems.add(source.mark("name"), message)
        else:
            self._policies[name] = source

    def _read(self, path: Path, problems: Problems) -> Source | None:
        path = path.absolute() if path.absolute() in self._sources else path
        if path not in self._sources:
            try:
                self._sources[path] = Source.of(read_document(path), path)
            except PolicyError as error:
                problems.note(str(error))
                self._sources[path] = None
        return self._sources[path]

    def _chain(self, source: Source) -> list[Source]:
        """The source behind all that it extends, the furthest first; empty after a problem."""
        chain = [source]
        while name := chain[0].text("extends"):
            parent = self._parent(chain[0], name)
            seen = [found.path.absolute() for found in chain]
            if parent is None or parent.path.absolute() in seen:
                names = " extends ".join([*(s.text("name") for s in reversed(chain)), name])
                if parent is not None:
                    self._problems.add(chain[0].mark("extends"), f"extends: a circle: {names}")
                for found in chain:
                    self.look_over(found)
                return []
            chain.insert(0, parent)
        return chain

    def _parent(self, source: Source, name: str) -> Source | None:
        """What `source` extends. By its own name a policy means the shipped one of that name; what
        is shipped extends what is shipped, whatever the operator calls his own.
        """
        here, shipped = source.path.absolute(), self._shipped()
        own = {} if here.parent == shipped_policies() else self._policies
        if name in own and own[name].path.absolute() != here:
            return own[name]
        if name in shipped and shipped[name] != here:
            return self._read(shipped[name], self._problems)
        if name == source.text("name"):
            message = f"extends: {name!r} is this policy, and none of that name is shipped"
        else:
            known = [known for known in {**shipped, **own} if known != source.text("name")]
            message = f"extends: policy {name!r} does not exist{suggestion(name, known)}"
        self._problems.add(source.mark("extends"), message)
        return None

    def _for(self, pool: str) -> list[Source]:
        return [layer for layer in self._layers if layer.is_for(pool)]

    def _made(
        self,
        chain: list[Source],
        pool: str,
        layers: Sequence[Source] = (),
        suit: Callable[[Mapping], Mapping] | None = None,
    ) -> Effective | None:
        """Chain and layers laid on one another and bound; None after noting what is wrong."""
        problems = Problems()
        for source in (*chain, *layers):
            self.look_over(source)
            problems.ignore(source.problems)
        if not chain or not all(isinstance(s.root, Mapping) for s in (*chain, *layers)):
            return None
        root = reduce(lay_over, (source.policy_keys() for source in chain))
        root = suit(root) if suit else root
        root = reduce(lay_over, (source.policy_keys() for source in layers), root)
        chain = [*chain, *layers]
        root = for_pool(root, pool) if pool else root
        written = bind(root, PolicyFile, problems, chain[0].path.parent, null_removes=True)
        for mark, message in problems:
            if pool and len(chain) > 1:
                self._of_pools.setdefault((mark, message), []).append(pool)
            else:
                self._problems.add(mark, message)
        if written is None:
            return None
        sources = tuple(str(source.path) for source in chain)
        return Effective(to_core(written, sources), root)

    @staticmethod
    def _shipped() -> dict[str, Path]:
        return {path.stem: path for path in yaml_files(shipped_policies())}


def yaml_files(folder: Path) -> list[Path]:
    """The *.yaml files of a folder, sorted; none when it does not exist.

    Raises PlantFault when it cannot be listed (`Path.glob` would call it empty).
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".yaml")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PlantFault(f"{folder}: cannot be listed: {error.strerror}") from error


def is_path(name_or_path: str) -> bool:
    """Whether a policy is given by its file rather than by its name."""
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def shipped_policies() -> Path:
    """The folder of the policies that come with poolwright.

    In an installed package it lies within the package; in a source tree it is `policies/`.
    """
    # Not importlib.resources: it costs memory in the daemon, and a wheel is always unpacked.
    packaged = Path(__file__).parent / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "policies"
