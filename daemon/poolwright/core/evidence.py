"""What has been observed, bounded: the newest observations, and the edge of what was safe.

At most `CAPACITY` are kept. The oldest goes first, but never the only one of its setting while
another setting has several: the edge of the safe set must not be forgotten.
"""

import hashlib
import math
from collections.abc import Iterable

from poolwright.core.model import Evidence, Observation, Setting

CAPACITY = 96
_HEADROOM = 1.2  # and this is more than enough
_LOAD_SLACK = 0.9  # a setting that held 90 % of this load counts as having held it
_SAFE_WITHIN = 12  # the newest observations of a setting that must be free of breaches


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
        """Add one observation; may drop an old one."""
        self._items.append(Evidence(observation=observation, weight=weight))
        self._digest.update(repr((observation, weight)).encode())
        if len(self._items) > CAPACITY:
            del self._items[self._oldest_spare()]

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
