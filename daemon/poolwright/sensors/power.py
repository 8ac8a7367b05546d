"""Watts: measured by RAPL where it can be read, else modelled from the host's CPU use.

The watts are those of the whole host, with its idle share and with what others run on it; not a
share of them that is the pool's. RAPL sees the CPU packages and memory, not fans, disks and the
power supply's loss. Reading.source says which: `rapl` or `model`, and a run never changes it
silently, since the two are not one scale.

The model is a curve through four knots, at 0, 10, 50 and 100 % of CPU, straight in between. Of 619
published SPECpower_ssj2008 results (2004-2022; data of green-coding-solutions/spec-power-model
9739f29c), a curve through each machine's own four knots is off by 1.4 % of peak power on average
and by at most 5.6 % in 95 of 100 cases; the median shape between known idle and peak is off by 3.9
and 10.6 %. The 95th percentiles over 1.96 give the standard errors below. CPU % of the operating
system is not quite SPEC's load %, so a model stays an estimate however good its knots.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.sensors.host import CpuTimes, busy_share, cpu_times
from poolwright.sensors.rapl import Zone, discover, read_zones, watts

KNOTS = (0.0, 0.1, 0.5, 1.0)  # share of CPU busy
# (P - idle) / (peak - idle) at the knots: medians of the 93 results for hardware of 2020-22.
SHAPE = (0.0, 0.16, 0.44, 1.0)
# Wall watts a logical CPU, idle and flat out: means over eight server generations of 2019-25 in
# cloud-carbon-footprint/ccf-coefficients (output/coefficients-aws-use.csv, 2026; Apache-2.0), which
# spread by 30 and 40 %.
IDLE_W_PER_CPU = 0.67
PEAK_W_PER_CPU = 2.82
PRIOR_STD_RATIO = 0.40  # of the watts, when nothing is known of the machine
ENDS_STD_RATIO = 0.06  # of peak: idle and peak known, shape the median's (10.6 / 1.96)
KNOTS_STD_RATIO = 0.03  # of peak: all four known (5.6 / 1.96)
RAPL_STD_RATIO = 0.02
# For telling a reset from a wrap when no peak was stated: well above any machine for its CPUs.
_BOUND_W, _BOUND_W_PER_CPU = 100.0, 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Watts at the four knots, with the standard error as shares of the watts and of the peak."""

    watts: tuple[float, float, float, float]
    std_ratio: float
    peak_std_ratio: float
    text: str

    def at(self, share: float) -> tuple[float, float]:
        """Watts and their standard error at a share of CPU, which is bounded to 0..1."""
        u = min(1.0, max(0.0, share))
        i = next(i for i in range(1, len(KNOTS)) if u <= KNOTS[i])
        part = (u - KNOTS[i - 1]) / (KNOTS[i] - KNOTS[i - 1])
        power = self.watts[i - 1] + part * (self.watts[i] - self.watts[i - 1])
        return power, self.std_ratio * power + self.peak_std_ratio * self.watts[-1]


def shaped(idle_w: float, peak_w: float) -> tuple[float, float, float, float]:
    """The median shape between two ends."""
    a, b, c, d = (idle_w + share * (peak_w - idle_w) for share in SHAPE)
    return a, b, c, d


class Power:
    """Signal: power_w, of the whole host. See the module."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """The source, and what is known of the machine: nothing, idle and peak, or all four."""

        source: Literal["auto", "rapl", "model"] = field(
            default="auto", metadata={"doc": "auto: RAPL when it can be read at start, else model"}
        )
        idle_w: float | None = field(default=None, metadata={"doc": "watts with no load"})
        at_10_w: float | None = field(default=None, metadata={"doc": "watts at 10 % CPU"})
        at_50_w: float | None = field(default=None, metadata={"doc": "watts at 50 % CPU"})
        peak_w: float | None = field(default=None, metadata={"doc": "watts at 100 % CPU"})

        def __post_init__(self) -> None:
            """Refuse half a curve and one that falls (PolicyError)."""
            ends = (self.idle_w, self.peak_w)
            inner = (self.at_10_w, self.at_50_w)
            if (None in ends and ends != (None, None)) or (None in inner and inner != (None, None)):
                raise PolicyError("power: give idle_w with peak_w, and at_10_w with at_50_w")
            if ends == (None, None) and inner != (None, None):
                raise PolicyError("power: at_10_w and at_50_w need idle_w and peak_w")
            known = [w for w in (self.idle_w, *inner, self.peak_w) if w is not None]
            if known != sorted(known) or not all(0.0 < w < math.inf for w in known):
                raise PolicyError("power: watts are more than zero and do not fall with load")

        def curve(self, cpus: int) -> Curve:
            """The model of a machine with so many logical CPUs."""
            idle, ten, half, peak = self.idle_w, self.at_10_w, self.at_50_w, self.peak_w
            if idle is None or peak is None:
                return Curve(
                    watts=shaped(IDLE_W_PER_CPU * cpus, PEAK_W_PER_CPU * cpus),
                    std_ratio=PRIOR_STD_RATIO,
                    peak_std_ratio=0.0,
                    text=f"four-knot curve, typical server of {cpus} logical CPUs",
                )
            if ten is None or half is None:
                return Curve(
                    watts=shaped(idle, peak),
                    std_ratio=0.0,
                    peak_std_ratio=ENDS_STD_RATIO,
                    text="four-knot curve, typical shape between the stated idle_w and peak_w",
                )
            return Curve(
                watts=(idle, ten, half, peak),
                std_ratio=0.0,
                peak_std_ratio=KNOTS_STD_RATIO,
                text="four-knot curve as stated",
            )

    signals = ("power_w",)
    deadline_s: float | None = None

    def __init__(
        self,
        options: Options,
        _pool: str,
        *,
        root: Path = Path("/"),
        cpus: int | None = None,
    ) -> None:
        count = cpus or os.cpu_count() or 1
        self._wanted = options.source
        self._root = root
        self._curve = options.curve(count)
        self._peak_w = options.peak_w or _BOUND_W + _BOUND_W_PER_CPU * count
        self._zones: tuple[Zone, ...] = ()
        self._why_model = ""
        self._energy: tuple[int, tuple[int, ...]] | None = None  # at ns, counters
        self._cpu: CpuTimes | None = None
        self.source = "rapl" if options.source == "rapl" else "model"

    async def start(self) -> None:
        """Choose the source. Never raises: with `source: rapl` and none, every read says so."""
        self._why_model = ""
        if self._wanted == "model":
            return
        try:
            self._find_zones()
            self.source = "rapl"
        except PlantFault as fault:
            if self._wanted == "auto":
                self.source, self._zones, self._why_model = "model", (), f"; no RAPL: {fault}"

    async def close(self) -> None:
        """Forget what was seen."""
        self._energy, self._cpu = None, None

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """Mean watts since the last read; the first has none."""
        try:
            return (self._rapl(now_ns) if self.source == "rapl" else self._model(now_ns),)
        except PlantFault as fault:
            self._energy, self._cpu = None, None
            return (self._none(now_ns, str(fault), Status.ERROR),)

    def _find_zones(self) -> None:
        """Raises PlantFault when RAPL is not there or may not be read."""
        self._zones = ()
        zones = discover(self._root)
        if not zones:
            raise PlantFault(f"{self._root / 'sys/class/powercap'}: no RAPL energy counters")
        read_zones(zones)
        self._zones = zones

    def _rapl(self, now_ns: int) -> Reading:
        if not self._zones:
            self._find_zones()
        last, now = self._energy, read_zones(self._zones)
        self._energy = now_ns, now
        names = "+".join(sorted(zone.name for zone in self._zones))
        if last is None:
            return self._none(now_ns, "first look: no difference yet")
        power = watts(self._zones, last[1], now, (now_ns - last[0]) / 1e9, self._peak_w)
        if power is None:
            return self._none(now_ns, f"{names}: reset, stuck, or read too late to know its wraps")
        return Reading(
            signal="power_w",
            source=self.source,
            value=power,
            taken_mono_ns=now_ns,
            std=RAPL_STD_RATIO * power,
            detail=f"whole host: {names}",
        )

    def _model(self, now_ns: int) -> Reading:
        last, self._cpu = self._cpu, cpu_times()
        share = None if last is None else busy_share(last, self._cpu, stolen=False)
        if share is None:
            return self._none(now_ns, "no difference of CPU times yet" + self._why_model)
        power, std = self._curve.at(share)
        return Reading(
            signal="power_w",
            source=self.source,
            value=power,
            taken_mono_ns=now_ns,
            std=std,
            estimated=True,
            detail=f"whole host: {self._curve.text}{self._why_model}",
        )

    def _none(self, now_ns: int, detail: str, status: Status = Status.NO_DATA) -> Reading:
        return Reading(
            signal="power_w",
            source=self.source,
            status=status,
            taken_mono_ns=now_ns,
            detail=detail,
        )
