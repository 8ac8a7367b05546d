"""Overrides: what an operator writes above a policy for a time, and how they can clash."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import combinations

from poolwright.core.policy import Relation
from poolwright.policy.bind import Contradiction
from poolwright.policy.quantities import Instant, render
from poolwright.policy.relations import satisfiable
from poolwright.policy.rules import KNOB_NAMES, POOLS, doc

Levels = Mapping[str, range]  # of each knob of the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelBounds:
    """Narrower bounds of one knob."""

    min: int | None = field(default=None, metadata=doc("left out: the knob's own", min=1))
    max: int | None = field(default=None, metadata=doc("left out: the knob's own", min=1))

    def contradictions(self) -> Iterator[Contradiction]:
        """No bound at all; more below than above."""
        if self.min is None and self.max is None:
            yield Contradiction((), (), "has neither min nor max")
        elif self.min is not None and self.max is not None and self.min > self.max:
            message = f"{self.min} is more than max, {self.max}"
            yield Contradiction(("min",), ("min", "max"), message)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideRule:
    """One of pin, freeze and bounds, for a time, with the reason that people will be shown."""

    pools: tuple[str, ...] = field(
        default=("*",), metadata=doc("globs of the pools it is for", nonempty=True, **POOLS)
    )
    pin: dict[str, int] | None = field(
        default=None, metadata=doc("knobs held at a level", keys=KNOB_NAMES, nonempty=True)
    )
    freeze: bool = field(default=False, metadata=doc("true: nothing is moved"))
    bounds: dict[str, LevelBounds] | None = field(
        default=None, metadata=doc("knobs with narrower bounds", keys=KNOB_NAMES, nonempty=True)
    )
    since: Instant | None = field(
        default=None, metadata=doc("when it begins; left out: it has begun")
    )
    until: Instant | None = field(
        default=None, metadata=doc("when it is over; left out: never by itself")
    )
    reason: str = field(
        metadata=doc(
            "shown wherever the override is",
            pattern=r"\S|\S.{0,198}\S",
            says="is no reason: one line of up to 200 characters is",
        )
    )

    def contradictions(self) -> Iterator[Contradiction]:
        """None or several of pin, freeze and bounds; an end before the beginning."""
        said = [name for name in ("pin", "freeze", "bounds") if getattr(self, name)]
        if len(said) != 1:
            words = f"has {' and '.join(said)}" if said else "has none of pin, freeze and bounds"
            yield Contradiction((), ("pin", "freeze", "bounds"), f"{words}; one is wanted")
        if self.since is not None and self.until is not None and self.since >= self.until:
            message = f"{render('instant', self.until)} is not after since"
            yield Contradiction(("until",), ("since", "until"), message)

    def narrowed(self, levels: Levels) -> dict[str, range]:
        """The levels of each knob that it leaves."""
        left = dict(levels)
        for knob, level in (self.pin or {}).items():
            left[knob] = range(level, level + 1)
        for knob, bounds in (self.bounds or {}).items():
            lower = bounds.min or left[knob][0]
            upper = bounds.max or left[knob][-1]
            left[knob] = range(lower, upper + 1, levels[knob].step)
        return left

    def overlaps(self, other: "OverrideRule") -> bool:
        """Whether there is a time at which both are in force for the same pool.

        Without knowing the pools: False when two globs differ and neither matches the other.
        """
        since, until = max(self.since or 0, other.since or 0), (self.until, other.until)
        return all(end is None or since < end for end in until) and any(
            fnmatchcase(a, b) or fnmatchcase(b, a) for a in self.pools for b in other.pools
        )


def clashes(
    rules: Sequence[OverrideRule], levels: Levels, relations: Sequence[Relation]
) -> Iterator[Contradiction]:
    """What overrides get wrong against the knobs, the relations, and each other."""
    sound = []
    for index, rule in enumerate(rules):
        outside = list(_outside(rule, index, levels))
        yield from outside
        if outside:
            continue
        sound.append((index, rule))
        if not satisfiable(relations, rule.narrowed(levels)):
            key = "pin" if rule.pin else "bounds"
            at = ("override", index, key)
            yield _wrong(at, "leaves no setting that satisfies the relations")
    for (i, first), (j, second) in combinations(sound, 2):
        if first.overlaps(second):
            yield from _between(i, first, j, second, levels)


def _outside(rule: OverrideRule, index: int, levels: Levels) -> Iterator[Contradiction]:
    """Knobs that the policy does not have, and levels that they do not have."""
    wanted: list[tuple[tuple[str, ...], str, int]] = [
        (("pin", knob), knob, level) for knob, level in (rule.pin or {}).items()
    ]
    for knob, bounds in (rule.bounds or {}).items():
        ends = (("min", bounds.min), ("max", bounds.max))
        wanted += [(("bounds", knob, end), knob, n) for end, n in ends if n is not None]
    for key, knob, level in wanted:
        at: tuple[str | int, ...] = ("override", index, *key)
        if knob not in levels:
            known = ", ".join(levels)
            yield _wrong(at, f"{knob} is no knob of this policy; there are: {known}")
        elif level not in levels[knob]:
            yield _wrong(at, no_level(level, levels[knob]))


def no_level(level: int, levels: range) -> str:
    """Why `level` is not among `levels`, in words."""
    if not levels[0] <= level <= levels[-1]:
        return f"{level} is outside {levels[0]}..{levels[-1]}"
    return f"{level} is no level: levels are {levels[0]} plus multiples of {levels.step}"


def _between(
    i: int, first: OverrideRule, j: int, second: OverrideRule, levels: Levels
) -> Iterator[Contradiction]:
    """What two overrides that are in force together get wrong; pointed at where the later is."""
    if first.freeze or second.freeze:
        if first.pin or second.pin:
            key, words = ("freeze", "freezes what {other} pins")
            if second.pin:
                key, words = ("pin", "pins what {other} freezes")
            yield _wrong(("override", j, key), f"{words}, at the same time", i)
        return
    key = "pin" if second.pin else "bounds"
    ours, theirs = second.narrowed(levels), first.narrowed(levels)
    for knob in (second.pin or second.bounds or {}).keys() & (first.pin or first.bounds or {}):
        at = ("override", j, key, knob)
        if first.pin and second.pin:
            message = f"pins {knob} while {{other}} pins it to {theirs[knob][0]}"
        elif max(ours[knob][0], theirs[knob][0]) > min(ours[knob][-1], theirs[knob][-1]):
            message = (
                f"leaves {_shown(ours[knob])}, while {{other}} leaves {_shown(theirs[knob])}: "
                "no level is in both"
            )
        else:
            continue
        yield _wrong(at, message, i)


def _shown(levels: range) -> str:
    return str(levels[0]) if len(levels) == 1 else f"{levels[0]}..{levels[-1]}"


def _wrong(at: tuple[str | int, ...], message: str, other: int | None = None) -> Contradiction:
    place = () if other is None else ("override", other)
    return Contradiction(at, ("override", "knobs", "relations"), message, place)
