"""Reading the configuration and the policies again: all of it is put in force, or nothing.

What is on disk and what is in force are told apart: a refusal changes nothing and says why, in the
log, in the journal and in the snapshot, until what is on disk is in force again.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.policy import Policy
from poolwright.engine.build import Parts, build_policies, unsatisfied
from poolwright.engine.tick import Pool, Prepared
from poolwright.engine.watch import stamps
from poolwright.policy.config import AdapterConfig, DaemonConfig, load_config
from poolwright.policy.difference import changes
from poolwright.policy.load import is_path
from poolwright.policy.tree import Listing, Node, Scalar
from poolwright.policy.tree import Mapping as Written

_AT_ONCE = ("version", "policies", "cadence", "pools")  # the pools' adapters are compared apart
_LOG = logging.getLogger("poolwright")


class Reload:
    """What is on disk, against what is in force."""

    def __init__(self, path: Path, config: DaemonConfig, notice: Callable[[], None]) -> None:
        """Before the policies are read for the first time. `notice` tells the loop of `asked`."""
        self.asked = False
        self.error = ""  # why the last reload was refused
        self._path = path.absolute()
        self._notice = notice
        self._started = config
        self._read = config  # the newest that could be read
        self._sources: frozenset[Path] = frozenset()
        self._counts = dict.fromkeys(("applied", "refused", "unchanged"), 0)
        self._stamps = stamps(self.places())

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """How often what became of a reload."""
        return tuple(self._counts.items())

    def ask(self) -> None:
        """A reload is wanted: a signal came, or a file has changed."""
        self.asked = True
        self._notice()

    def places(self) -> frozenset[Path]:
        """The files and folders that say what is in force, whether they exist or not."""
        named = {Path(p.policy).absolute() for p in self._read.pools if is_path(p.policy)}
        return frozenset({self._path, self._read.policies_dir().absolute(), *named, *self._sources})

    def follow(self, policies: Iterable[Policy]) -> None:
        """Note of which files the policies in force were made."""
        self._sources = frozenset(Path(s).absolute() for p in policies for s in p.sources)
        self._restamp()

    def _restamp(self) -> None:
        """Compare from now on what matters from now on, with what was read of it."""
        places = self.places()
        known = {**stamps(places), **self._stamps}
        self._stamps = {p: s for p, s in known.items() if p in places or p.parent in places}

    def look(self) -> None:
        """Ask for a reload when what is on disk is not what was read last."""
        if stamps(self.places()) != self._stamps:
            self.ask()

    async def act(self, pools: Mapping[str, Pool], parts: Sequence[Parts]) -> None:
        """Read it all, and put it in force or say why not."""
        self.asked = False
        self._stamps = stamps(self.places())  # of before: what changes meanwhile is seen again
        try:
            policies = self._written(parts)
            old = {n: pools[n].policy for n, p in policies.items() if not same(p, pools[n].policy)}
            await _enter([(pools[name], policies[name]) for name in old])
        except (PolicyError, PlantFault) as error:
            self._refuse(str(error), pools)
            self._restamp()
            return
        self._applied(old, pools)
        for text in restart_needed(self._started, self._read):
            _LOG.warning("%s: that takes a restart", text)
        self.follow(policies.values())

    def _written(self, parts: Sequence[Parts]) -> dict[str, Policy]:
        """What is on disk for each running pool. PolicyError, PlantFault: it cannot be used."""
        try:
            self._read = load_config(self._path)
            return _suitable(self._read, parts)
        except (PolicyError, PlantFault):
            raise
        except Exception as error:  # a bug of ours in reading must not end the guarding
            _LOG.exception("the policies cannot be read")
            raise PolicyError(f"{self._path}: {type(error).__name__}: {error}") from error

    def _refuse(self, why: str, pools: Mapping[str, Pool]) -> None:
        self.error = why
        self._counts["refused"] += 1
        _LOG.error("reload refused, the old policies stay:")
        for problem in why.splitlines():
            _LOG.error("  %s", problem)
        for pool in pools.values():
            pool.note("policy_refused", why)

    def _applied(self, old: Mapping[str, Policy], pools: Mapping[str, Pool]) -> None:
        self.error = ""
        self._counts["applied" if old else "unchanged"] += 1
        if not old:
            _LOG.info("reloaded: unchanged")
        for name, before in old.items():
            tell_change(pools[name], before)


def tell_change(pool: Pool, before: Policy) -> None:
    """Log and journal what is in force now that was not `before`."""
    now = pool.policy
    lines = changes(before, now)
    head = f"policy {before.name} sha256 {before.sha256} -> {now.name} sha256 {now.sha256}"
    _LOG.info("%s: policy %s is in force, sha256 %s", pool.name, now.name, now.sha256[:12])
    for line in lines:
        _LOG.info("%s:   %s", pool.name, line)
    pool.note("policy", "\n".join((head, *lines)))


def restart_needed(old: DaemonConfig, new: DaemonConfig) -> list[str]:
    """What differs and is not looked at again while the daemon runs, in words."""
    found = [
        f"{field.name} has changed"
        for field in fields(DaemonConfig)
        if field.name not in _AT_ONCE and getattr(old, field.name) != getattr(new, field.name)
    ]
    before = {pool.name: pool for pool in old.pools}
    after = {pool.name: pool for pool in new.pools}
    found += [f"pool {name} is new" for name in after if name not in before]
    for name, pool in before.items():
        if name not in after:
            found.append(f"pool {name} is gone, and goes on as it is")
        elif _adapters([pool.actuator]) != _adapters([after[name].actuator]):
            found.append(f"the actuator of pool {name} has changed")
        elif _adapters(pool.sensors) != _adapters(after[name].sensors):
            found.append(f"the sensors of pool {name} have changed")
        elif pool.prior != after[name].prior:
            found.append(f"the prior of pool {name} has changed")
    return found


def _suitable(config: DaemonConfig, parts: Sequence[Parts]) -> dict[str, Policy]:
    """The policy of each running pool. PolicyError when one does not suit what the pool has."""
    written = build_policies(config)
    cadence_s = next(iter(written.values())).cadence_s
    policies: dict[str, Policy] = {}
    problems: list[str] = []
    for part in parts:
        # One that has gone from the configuration runs on, in step with the others.
        policy = written.get(part.name)
        if policy is not None:
            problems += unsatisfied(part.name, policy, part.sensors, part.actuator)
            policies[part.name] = policy
        elif part.policy.cadence_s != cadence_s:
            policies[part.name] = replace(part.policy, cadence_s=cadence_s)
    if problems:
        raise PolicyError("\n".join(problems))
    return policies


async def _enter(pools: Sequence[tuple[Pool, Policy]]) -> None:
    """All pools under their new policies, or none: PlantFault when the journal refuses one."""
    prepared: list[tuple[Pool, Prepared]] = []
    try:
        for pool, policy in pools:
            prepared.append((pool, pool.prepare(policy)))
    except PlantFault:
        for pool, run in prepared:
            pool.abandon(run)
        raise
    await asyncio.gather(*(pool.enter(run, "policy changed") for pool, run in prepared))


def same(a: Policy, b: Policy) -> bool:
    """Whether two policies say the same, however they are written."""
    return replace(a, sha256="") == replace(b, sha256="")


def _adapters(adapters: Iterable[AdapterConfig]) -> list[object]:
    """Adapters as they were written, wherever in the file that was."""
    return [(a.kind, _plain(a.node), a.base) for a in adapters]


def _plain(node: Node) -> object:
    match node:
        case Scalar(text=text, plain=plain):
            return (text, plain)
        case Listing(items=items):
            return [_plain(item) for item in items]
        case Written(entries=entries):
            return {key.text: _plain(value) for key, value in entries}
