"""Pressure stall information of the host or of one control group: admin-guide/accounting/psi."""

from functools import partial
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.core.model import Reading, Status
from poolwright.sensors.cgroup import slurp, why

RESOURCES = ("cpu", "memory", "io")

_DIGITS = 20  # of a 64-bit counter


class Stalls:
    """The growth of one file's `total=` of the `some` line over the time between two reads."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._last: tuple[int, int] | None = None  # stall in us, at ns

    def reading(self, signal: str, source: str, path: Path, now_ns: int) -> Reading:
        """The share of time in which some task waited, 0..1.

        Absent (kernel < 4.20 or psi=0) is no data; a file that makes no sense is an error.
        """
        tell = partial(Reading, signal=signal, source=source, taken_mono_ns=now_ns)
        none = partial(tell, status=Status.NO_DATA)
        try:
            ratio = self._ratio(path, now_ns)
        except OSError as error:
            return none(detail=f"{path}: {why(error)} (kernel without PSI?)")
        except PlantFault as fault:
            return tell(status=Status.ERROR, detail=str(fault))
        if ratio is None:
            return none(detail="no difference yet, or a counter went back")
        return tell(value=ratio)

    def _ratio(self, path: Path, now_ns: int) -> float | None:
        """None without a difference. Raises OSError, and PlantFault for what makes no sense."""
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
