"""Pressure stall information of the host or of one control group: admin-guide/accounting/psi."""

from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.sensors.cgroup import slurp

_DIGITS = 20  # of a 64-bit counter


class Stalls:
    """The growth of one file's `total=` of the `some` line over the time between two reads."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._last: tuple[int, int] | None = None  # stall in us, at ns

    def ratio(self, path: Path, now_ns: int) -> float | None:
        """The share of time in which some task waited, 0..1; None without a difference.

        Raises OSError where the kernel does not tell it, PlantFault where the file makes no sense.
        """
        last, self._last = self._last, None
        text = slurp(str(path))
        line = next((x for x in text.splitlines() if x.startswith(b"some ")), b"")
        total = line.rpartition(b" total=")[2]
        if not total.isdigit() or len(total) > _DIGITS:
            raise PlantFault(f"{path}: has no total of `some`")
        self._last = int(total), now_ns
        if last is None or now_ns <= last[1] or int(total) < last[0]:
            return None
        return min(1.0, (int(total) - last[0]) * 1e3 / (now_ns - last[1]))
