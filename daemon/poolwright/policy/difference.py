"""What is different between two policies, in the words of the policy file."""

from collections.abc import Iterator
from typing import Any

from poolwright.core.policy import Policy
from poolwright.policy.translate import canonical


def changes(old: Policy, new: Policy) -> tuple[str, ...]:
    """Lines such as `knobs.workers.max: 64 -> 32`, in the order of the policy file.

    What is in a list (`relations`, `override`, `explore.quiet`) is `+` added or `-` removed. Empty
    when both policies say the same, however it is written.
    """
    before, after = canonical(old), canonical(new)
    return tuple(_changes("", before, after))


def _changes(where: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            below = f"{where}.{name}" if where else name
            yield from _changes(below, old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list):
        yield from (f"{where}: - {_shown(item)}" for item in old if item not in new)
        yield from (f"{where}: + {_shown(item)}" for item in new if item not in old)
    elif isinstance(old, dict) or isinstance(new, dict):  # a knob or a bound came or went
        if old is None:
            yield f"{where}: added, {_shown(new)}"
        else:
            yield f"{where}: removed, was {_shown(old)}"
    elif old != new:
        yield f"{where}: {_shown(old)} -> {_shown(new)}"


def _shown(leaf: Any) -> str:
    if leaf is None:
        return "none"
    if isinstance(leaf, dict):
        return f"{{{', '.join(f'{name}: {_shown(below)}' for name, below in leaf.items())}}}"
    return str(leaf).lower() if isinstance(leaf, bool) else str(leaf)
