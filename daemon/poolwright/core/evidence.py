"""What has been observed, bounded: the newest observations, and the older ones merged.

At most `CAPACITY` items are kept, so that a year costs a fit no more than a day. When there is one
too many, the oldest that can be is merged with another that saw the same (setting, load within
10 %, foreign CPU within 0.1, breach, idleness, responses): they become one, which weighs as much
as they did together. Where none can be merged the oldest goes, but never the only one of its
setting while another setting has several: the edge of the safe set must not be forgotten. The
newest `RECENT` stay as they are.
"""

import hashlib
import math
from collections.abc import Hashable, Iterable
from dataclasses import replace

from poolwright.core.model import Context, Estimate, Evidence, Observation, Setting

CAPACITY = 96
RECENT = 32
_WEIGHT_MOST = 8.0  # of what was merged: newer windows must still be able to move it
_LOAD_BIN = 1.1
_FOREIGN_BIN = 0.1
_HEADROOM = 1.2  # and this is more than enough
_LOAD_SLACK = 0.9  # a setting that held 90 % of this load counts as having held it
_SAFE_WITHIN = 12  # the newest observations of a setting that must be free of breaches


def _kind(seen: Observation) -> Hashable:
    """What two observations must share to be merged."""
    load, foreign = seen.context.load_rps, seen.context.foreign_cpu_ratio
    return (
        seen.setting,
        load and math.floor(math.log(load) / math.log(_LOAD_BIN)),
        None if foreign is None else round(foreign / _FOREIGN_BIN),
        seen.breached,
        seen.app_limited,
        seen.estimated,
        tuple(name for name, _ in seen.responses),
    )


def _merged(old: Evidence, new: Evidence) -> Evidence:
    """Both as one: means by weight, the newer one's ticks, the weights' sum up to a limit."""
    share = new.weight / (old.weight + new.weight)
    before, after = old.observation, new.observation

    def between(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + share * (b - a)

    def estimate(a: Estimate, b: Estimate) -> Estimate:
        variance = (1.0 - share) * a.std**2 + share * b.std**2
        return Estimate(
            mean=a.mean + share * (b.mean - a.mean),
            std=math.sqrt(variance),
            count=a.count + b.count,
        )

    responses = zip(before.responses, after.responses, strict=True)
    was, now = before.context, after.context
    return Evidence(
        observation=replace(
            after,
            sample_count=before.sample_count + after.sample_count,
            context=Context(
                load_rps=between(was.load_rps, now.load_rps),
                foreign_cpu_ratio=between(was.foreign_cpu_ratio, now.foreign_cpu_ratio),
            ),
            responses=tuple((name, estimate(a, b)) for (name, a), (_, b) in responses),
        ),
        weight=max(old.weight, new.weight, min(_WEIGHT_MOST, old.weight + new.weight)),
    )


class EvidenceStore:
    """Evidence, oldest first, and a digest of all that ever went in."""

    __slots__ = ("_digest", "_items")

    def __init__(self, items: Iterable[Evidence] = ()) -> None:
        """Start from what an earlier run left."""
        self._items: list[Evidence] = []
        self._digest = hashlib.blake2b(digest_size=8)
        for item in items:
            self.add(item.observation, item.weight)

    @property
    def items(self) -> tuple[Evidence, ...]:
        """The evidence, oldest first."""
        return tuple(self._items)

    @property
    def digest(self) -> str:
        """A chained hash of everything added or discounted, in order."""
        return self._digest.hexdigest()

    def __len__(self) -> int:
        """How many observations are held."""
        return len(self._items)

    def add(self, observation: Observation, weight: float = 1.0) -> None:
        """Add one observation; may merge two old ones, or drop one."""
        self._items.append(Evidence(observation=observation, weight=weight))
        self._digest.update(repr((observation, weight)).encode())
        if len(self._items) > CAPACITY and not self._merge():
            del self._items[self._oldest_spare()]

    def _merge(self) -> bool:
        """Merge the oldest item that has another of its kind into that one's place."""
        first: dict[Hashable, int] = {}
        pairs: list[tuple[int, int]] = []
        for i, item in enumerate(self._items[:-RECENT]):
            kind = _kind(item.observation)
            if kind in first:
                pairs.append((first[kind], i))
            first[kind] = i
        if not pairs:
            return False
        old, new = min(pairs)
        self._items[new] = _merged(self._items[old], self._items[new])
        del self._items[old]
        return True

    def discount(self, factor: float, *, keep_newest: int = 0) -> None:
        """Multiply all weights but the newest ones by `factor`: the plant is not what it was."""
        self._digest.update(repr(("discount", factor, keep_newest)).encode())
        old = len(self._items) - keep_newest
        for i in range(max(0, old)):
            item = self._items[i]
            weight = max(0.01, item.weight * factor)
            self._items[i] = Evidence(observation=item.observation, weight=weight)

    def held(self, setting: Setting) -> bool | None:
        """Whether the newest observation of `setting` is free of a breach; None: never seen."""
        for item in reversed(self._items):
            if item.observation.setting == setting:
                return not item.observation.breached
        return None

    def memory_bytes(self, setting: Setting) -> float | None:
        """What the pool took when `setting` was last observed; None: never seen."""
        seen = (e.observation for e in reversed(self._items) if e.observation.setting == setting)
        known = (observation.response("memory_bytes") for observation in seen)
        return next((estimate.mean for estimate in known if estimate is not None), None)

    def last_safe(self, load_rps: float | None, bounds: Iterable[Setting] = ()) -> Setting | None:
        """The setting to fall back to at this load; None when none was ever seen to be safe.

        The newest observation without a breach at (nearly) this load or more, whose setting has
        not breached since; where none held that much, the one that held the most.
        """
        refused = set(bounds)
        best: tuple[float, Setting] | None = None
        for i, item in reversed(list(enumerate(self._items))):
            seen = item.observation
            if seen.breached or seen.setting in refused or self._breached_since(i, seen.setting):
                continue
            held = seen.context.load_rps
            if held is None:
                continue
            if load_rps is None or held >= _LOAD_SLACK * load_rps:
                return seen.setting
            if best is None or held > best[0]:
                best = (held, seen.setting)
        return None if best is None else best[1]

    def next_safe(self, load_rps: float | None, above: Setting) -> Setting | None:
        """The nearest setting no smaller than `above` in any knob that held this load and a fifth
        more, without a breach since: what breaches is often a load that goes on rising.

        Enough is enough: a larger one costs for as long as it takes to come down from it again.
        None: there is none.
        """
        nearest: tuple[int, Setting] | None = None
        for i, item in reversed(list(enumerate(self._items))):
            seen = item.observation
            held = seen.context.load_rps
            if seen.breached or held is None or held < _HEADROOM * (load_rps or math.inf):
                continue
            more = [seen.setting[name] - level for name, level in above.levels]
            if min(more) < 0 or not any(more) or self._breached_since(i, seen.setting):
                continue
            if nearest is None or sum(more) < nearest[0]:
                nearest = sum(more), seen.setting
        return None if nearest is None else nearest[1]

    def _breached_since(self, index: int, setting: Setting) -> bool:
        newer = [e.observation for e in self._items[index + 1 :]]
        mine = [o for o in newer if o.setting == setting][-_SAFE_WITHIN:]
        return any(o.breached for o in mine)

    def _oldest_spare(self) -> int:
        """The index of the oldest item whose setting has a newer observation."""
        counts: dict[Setting, int] = {}
        for item in self._items:
            counts[item.observation.setting] = counts.get(item.observation.setting, 0) + 1
        for i, item in enumerate(self._items):
            if counts[item.observation.setting] > 1:
                return i
        return 0
