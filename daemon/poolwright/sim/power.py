"""Watts of a simulated host, from measured power curves (SPECpower_ssj2008).

A curve through a machine's own four knots is off by 1.4 % of peak on average; between two only, by
5 % (619 published results). The step between rest and the first work is what saves power.
"""

import csv
import functools
from dataclasses import dataclass, field
from importlib import resources

from poolwright.core.errors import PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCurve:
    """Watts of the whole host at 0, 10, 50 and 100 % of its CPU, straight in between.

    The defaults are those of an HP DL360 G7 with two X5675 (May 2011).
    """

    idle_w: float = field(default=55.6, metadata={"doc": "watts at rest", "min": 0})
    at_10_w: float = field(default=95.4, metadata={"doc": "watts at 10 %", "min": 0})
    at_50_w: float = field(default=133.0, metadata={"doc": "watts at 50 %", "min": 0})
    full_w: float = field(default=216.0, metadata={"doc": "watts at 100 %", "min": 0})
    server: str = field(
        default="",
        metadata={"doc": "in place of the watts: a part of the name of a machine of sim/curves"},
    )

    def __post_init__(self) -> None:
        """Refuse a server that is not known. PolicyError."""
        if self.server:
            measured(self.server)

    def watts(self, share: float) -> float:
        """Watts at a share of the host's CPU (bounded to 0..1)."""
        u = min(1.0, max(0.0, share))
        idle, ten, fifty, full = self.knots
        if u <= 0.1:
            return idle + (ten - idle) * u / 0.1
        if u <= 0.5:
            return ten + (fifty - ten) * (u - 0.1) / 0.4
        return fifty + (full - fifty) * (u - 0.5) / 0.5

    @property
    def knots(self) -> tuple[float, float, float, float]:
        """Watts at 0, 10, 50 and 100 %."""
        if not self.server:
            return self.idle_w, self.at_10_w, self.at_50_w, self.full_w
        points = measured(self.server)
        return points[0], points[1], points[5], points[10]


@functools.lru_cache(maxsize=64)
def measured(server: str) -> tuple[float, ...]:
    """Watts at 0, 10, 20 ... 100 % of the one machine whose name has `server` in it.

    PolicyError when there is none, or more than one.
    """
    found = {name: w for name, w in machines().items() if server.lower() in name.lower()}
    if len(found) != 1:
        known = ", ".join(found or machines())
        raise PolicyError(f"{server!r} names no one machine; there are: {known}")
    return next(iter(found.values()))


@functools.cache
def machines() -> dict[str, tuple[float, ...]]:
    """The measured curves, by vendor, model and processor."""
    file = resources.files("poolwright.sim") / "curves" / "specpower_curves.csv"
    with file.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    steps = ("w_idle", *(f"w_{load}" for load in range(10, 101, 10)))
    return {
        f"{row['vendor']} {row['model']} {row['cpu']}": tuple(float(row[step]) for step in steps)
        for row in rows
    }
