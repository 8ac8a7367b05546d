"""The bounds that a first policy gives a pool, with the arithmetic that they come from."""

from dataclasses import dataclass

from poolwright.presets.facts import Facts
from poolwright.presets.found import Found

_CEILING = 0.85  # of memory; the guard's own
_PER_CORE = 4
_TIMES = 4  # as many as now, where the cores do not matter


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`lower` to `upper`, and why, in lines."""

    lower: int
    upper: int
    why: tuple[str, ...]


def bounds(found: Found, facts: Facts) -> Bounds:
    """From what runs now, the cores, the memory that each worker takes and the server's limit."""
    now = max(1, found.level)
    lower = 2 if now > 1 else 1
    why = [f"min {lower}: " + ("one crash leaves another" if now > 1 else "one is what runs now")]
    if found.worker_bytes:
        wished = max(2 * now, round(_PER_CORE * facts.cores))
        text = f"max({now} now * 2, {facts.cores:g} cores * {_PER_CORE}) = {wished}"
    else:
        wished, text = _TIMES * now, f"{now} now * {_TIMES} = {_TIMES * now}"
    upper, terms = wished, [text]
    if found.worker_bytes and facts.memory_bytes:
        free = int(_CEILING * facts.memory_bytes) - facts.used_bytes
        more = max(0, free // found.worker_bytes)
        upper = min(upper, now + more)
        terms.append(
            f"memory: {now} now + ({_CEILING:.0%} of {_size(facts.memory_bytes)} - "
            f"{_size(facts.used_bytes)} used) / {_size(found.worker_bytes)} a worker = {now + more}"
        )
    if found.most:
        upper = min(upper, found.most)
        terms.append(f"{found.why_most} = {found.most}")
    upper = max(upper, now, lower)
    why += [f"max {upper}: the least of", *(f"  {term}" for term in terms)]
    return Bounds(lower=lower, upper=upper, why=tuple(why))


def _size(amount: int) -> str:
    return f"{amount / 2**20:.0f} MiB" if amount < 2**30 else f"{amount / 2**30:.1f} GiB"
