"""Relations between knobs: `workers * threads <= 200`, read into the core's form, and back.

A relation compares two sums of products of whole numbers and knobs. No product may hold a knob
twice, so that every relation is linear in each knob by itself: its least value in a box of levels
is then at a corner of the box, and whether any level satisfies it can be decided exactly.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence

from poolwright.core.policy import Relation

_TOKEN = re.compile(r"\s*([0-9]+|[a-z_][a-z0-9_]*|<=|>=|[<>+*()-])")
_COMPARISONS = ("<=", "<", ">=", ">")
_LONGEST = 200  # characters
_BRACKETS = 10
_LARGEST = 10**9  # of a number that is written
_BOXES = 4096  # looked into before giving up to prove that nothing satisfies

_Sum = dict[tuple[str, ...], int]  # knobs of a product, sorted -> its coefficient


def parse_relation(text: str) -> Relation:
    """The relation that `text` says. Raises ValueError with a text for the author of the file."""
    if len(text) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    if text.count("(") > _BRACKETS:
        raise ValueError(f"has more than {_BRACKETS} brackets")
    tokens = _tokens(text)
    found = [token for token in tokens if token in _COMPARISONS]
    if len(found) != 1:
        raise ValueError(
            "has more than one comparison; write two relations"
            if found
            else "compares nothing; a relation is such as workers * threads <= 200"
        )
    at = tokens.index(found[0])
    left, right = _Reader(tokens[:at]).all(), _Reader(tokens[at + 1 :]).all()
    lesser, greater = (left, right) if found[0][0] == "<" else (right, left)
    total = _plus(lesser, greater, -1)
    if found[0] in ("<", ">"):  # of whole numbers a < b is a + 1 <= b
        total = _plus(total, {(): 1}, 1)
    if not any(total):
        raise ValueError("leaves no knob; it is always so, or never")
    ordered = sorted(total.items(), key=lambda term: (-len(term[0]), term[0]))
    return Relation(text=text, terms=tuple((count, knobs) for knobs, count in ordered))


def render_relation(relation: Relation) -> str:
    """One text for all ways to write the same relation; `parse_relation` gives it back."""
    sides: tuple[list[str], list[str]] = ([], [])
    for count, knobs in relation.terms:
        factors = [str(abs(count))] if abs(count) != 1 or not knobs else []
        sides[count < 0].append(" * ".join([*factors, *knobs]))
    return " <= ".join(" + ".join(side) or "0" for side in sides)


def knobs_of(relation: Relation) -> tuple[str, ...]:
    """The knobs that a relation names, sorted."""
    return tuple(sorted({name for _, knobs in relation.terms for name in knobs}))


def satisfiable(relations: Sequence[Relation], levels: Mapping[str, range]) -> bool:
    """Whether some combination of `levels` satisfies all `relations`.

    Branch and bound over boxes of levels. False is proven; True may, after `_BOXES` boxes, mean
    that nothing was found against it. KeyError when a relation names a knob without levels.
    """
    boxes = [dict(levels)]
    for _ in range(_BOXES):
        if not boxes:
            return False
        box = boxes.pop()
        if any(_least(relation, box) > 0 for relation in relations):
            continue
        ends = [(name, sorted({some[0], some[-1]})) for name, some in box.items()]
        corners = (
            dict(zip(box, corner, strict=True))
            for corner in itertools.product(*(end for _, end in ends))
        )
        if any(all(relation.holds(corner) for relation in relations) for corner in corners):
            return True
        widest = max(box, key=lambda name: len(box[name]))
        middle = len(box[widest]) // 2
        if middle:
            boxes += [
                box | {widest: box[widest][:middle]},
                box | {widest: box[widest][middle:]},
            ]
    return True


def _least(relation: Relation, box: Mapping[str, range]) -> int:
    """The least value of the relation's sum in the box: at one of its corners."""
    names = knobs_of(relation)
    return min(
        sum(c * math.prod(map(dict(zip(names, at, strict=True)).__getitem__, knobs))
            for c, knobs in relation.terms)
        for at in itertools.product(*((box[name][0], box[name][-1]) for name in names))
    )  # fmt: skip


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            wrong = text[at:].lstrip()[0]
            raise ValueError(
                f"holds {wrong!r}; a relation is of whole numbers, knobs, + - * ( ) "
                "and one of <= < >= >"
            )
        tokens.append(found[1])
        at = found.end()
    return tokens


class _Reader:
    """Reads one side of a comparison: sums of products, by recursive descent."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._at = 0

    def all(self) -> _Sum:
        total = self._sum()
        if self._next:
            raise ValueError(f"has {self._next!r} where + - * or the end is wanted")
        return total

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, *wanted: str) -> str:
        token = self._next
        if token not in wanted:
            return ""
        self._at += 1
        return token

    def _sum(self) -> _Sum:
        total = self._product()
        while sign := self._take("+", "-"):
            total = _plus(total, self._product(), 1 if sign == "+" else -1)
        return total

    def _product(self) -> _Sum:
        total = self._factor()
        while self._take("*"):
            total = _times(total, self._factor())
        return total

    def _factor(self) -> _Sum:
        sign = 1
        while self._take("-"):
            sign = -sign
        if self._take("("):
            inner = self._sum()
            if not self._take(")"):
                raise ValueError("has a ( that is not closed")
            return _plus({}, inner, sign)
        token = self._next
        self._at += 1
        if token.isdigit():
            if len(token) > 10 or int(token) > _LARGEST:
                raise ValueError(f"holds a number beyond {_LARGEST}")
            return _plus({}, {(): int(token)}, sign)
        if not token or not (token[0].isalpha() or token[0] == "_"):
            where = f"has {token!r}" if token else "ends, or compares,"
            raise ValueError(f"{where} where a number, a knob or ( is wanted")
        return {(token,): sign}


def _plus(a: _Sum, b: _Sum, sign: int) -> _Sum:
    total = dict(a)
    for knobs, count in b.items():
        total[knobs] = total.get(knobs, 0) + sign * count
    return {knobs: count for knobs, count in total.items() if count}


def _times(a: _Sum, b: _Sum) -> _Sum:
    total: _Sum = {}
    for (left, m), (right, n) in itertools.product(a.items(), b.items()):
        twice = set(left) & set(right)
        if twice:
            raise ValueError(f"multiplies {min(twice)} by itself; each knob once in a product")
        if len(left) + len(right) > 5:
            raise ValueError("multiplies more than five knobs")
        total = _plus(total, {tuple(sorted(left + right)): m * n}, 1)
    return total
