"""Watts of the whole host: measured as near to its inlet as can be, else modelled.

    bmc     the management controller, by DCMI (`sensors.ipmi`): the machine, averaged, every 5 s
    hwmon   an ACPI power meter, or a chip that is named (`sensors.hwmon`): the machine
    rapl    energy counters (`sensors.rapl`): CPU packages and memory, or the platform
    model   the host's CPU use through a curve of four knots (`sensors.power_curve`)

`auto` takes the first of these that gives watts when the daemon starts, and keeps to it: they are
not one scale, so a run never changes its source. Reading.source says which it is, and the reading
carries its standard error. The watts are the host's, with its idle share and with what others run
on it; not a share of them that is the pool's. They decide what is better, never what is safe.

`gpus: nvml` adds the graphics cards (`sensors.nvml`) to rapl and model, which do not see them.
Exporters (Kepler, Scaphandre, node_exporter, ipmi_exporter) are read by `prometheus` with a preset.
"""

import asyncio
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading, Status
from poolwright.sensors import hwmon, ipmi
from poolwright.sensors.host import CpuTimes, busy_share, cpu_times
from poolwright.sensors.power_curve import curve_of
from poolwright.sensors.power_meter import Answer, Meter, Watched
from poolwright.sensors.rapl import Zone, discover, read_zones, watts

RAPL_STD_RATIO = 0.02
_TRIAL_S = 5.0  # a meter that has not answered by then is not chosen
# For telling a reset from a wrap when no peak was stated: well above any machine for its CPUs.
_BOUND_W, _BOUND_W_PER_CPU = 100.0, 15.0


class Power:
    """Signal: power_w, of the whole host. See the module."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """The source, and what is known of the machine: nothing, idle and peak, or all four."""

        source: Literal["auto", "bmc", "hwmon", "rapl", "model"] = field(
            default="auto",
            metadata={"doc": "auto: the first of the others that gives watts at start"},
        )
        hwmon: str | None = field(
            default=None,
            metadata={"doc": "chip that measures the whole machine: NAME or NAME/power2"},
        )
        gpus: Literal["off", "nvml"] = field(
            default="off", metadata={"doc": "nvml: add NVIDIA cards to rapl or model"}
        )
        idle_w: float | None = field(default=None, metadata={"doc": "watts with no load"})
        at_10_w: float | None = field(default=None, metadata={"doc": "watts at 10 % CPU"})
        at_50_w: float | None = field(default=None, metadata={"doc": "watts at 50 % CPU"})
        peak_w: float | None = field(default=None, metadata={"doc": "watts at 100 % CPU"})

        def __post_init__(self) -> None:
            """Refuse half a curve, one that falls, and cards counted twice (PolicyError)."""
            ends = (self.idle_w, self.peak_w)
            inner = (self.at_10_w, self.at_50_w)
            if (None in ends and ends != (None, None)) or (None in inner and inner != (None, None)):
                raise PolicyError("power: give idle_w with peak_w, and at_10_w with at_50_w")
            if ends == (None, None) and inner != (None, None):
                raise PolicyError("power: at_10_w and at_50_w need idle_w and peak_w")
            known = [w for w in (self.idle_w, *inner, self.peak_w) if w is not None]
            if known != sorted(known) or not all(0.0 < w < math.inf for w in known):
                raise PolicyError("power: watts are more than zero and do not fall with load")
            if self.gpus != "off" and self.source not in ("rapl", "model"):
                raise PolicyError("power: gpus needs source: rapl or model; bmc and hwmon see them")

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
        """Nothing is opened yet. Raises PolicyError when a package is missing."""
        count = cpus or os.cpu_count() or 1
        self._options = options
        self._root = root
        known = (options.idle_w, options.at_10_w, options.at_50_w, options.peak_w)
        self._curve = curve_of(count, *known)
        self._peak_w = options.peak_w or _BOUND_W + _BOUND_W_PER_CPU * count
        self._zones: tuple[Zone, ...] = ()
        self._why_not = ""  # a better source, told once and not in every tick
        self._energy: tuple[int, tuple[int, ...]] | None = None  # at ns, counters
        self._cpu: CpuTimes | None = None
        self._meter: Watched | None = None
        self._gpus = None if options.gpus == "off" else Watched(_gpus())
        self.source = "model" if options.source == "auto" else options.source

    async def start(self) -> None:
        """Choose the source. Never raises: with one asked for and missing, every read says so."""
        self._why_not = ""
        if self._gpus is not None:
            self._gpus.start()
        if self._options.source != "auto":
            return
        whys = []
        for name in ("bmc", "hwmon", "rapl"):
            try:
                await self._try(name)
            except PlantFault as fault:
                whys.append(f"no {name.upper()}: {fault}")
            else:
                self.source = name
                break
        else:
            self.source = "model"
        self._why_not = "".join(f"; {why}" for why in whys)

    async def close(self) -> None:
        """Forget what was seen, and ask no more."""
        self._energy, self._cpu = None, None
        for watched in filter(None, (self._meter, self._gpus)):
            watched.close()
        self._meter = None

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """Mean watts since the last read, or what the meter has said last."""
        kinds: dict[str, Callable[[int], Reading]] = {"rapl": self._rapl, "model": self._model}
        try:
            reading = kinds.get(self.source, self._measured)(now_ns)
        except PlantFault as fault:
            self._energy, self._cpu = None, None
            reading = self._none(now_ns, str(fault), Status.ERROR)
        if self._gpus is not None:
            reading = _with_cards(reading, self._gpus.newest(), self._gpus.meter)
        return (reading,)

    async def _try(self, name: str) -> None:
        """Whether a source gives watts now. Raises PlantFault when it does not."""
        if name == "rapl":
            self._find_zones()
            return
        meter = Watched(find_meter(name, self._root, self._options.hwmon))
        meter.start()
        first = await asyncio.to_thread(meter.first, _TRIAL_S)
        if first.watts is None:
            meter.close()
            raise PlantFault(first.why)
        self._meter = meter

    def _measured(self, now_ns: int) -> Reading:
        """The newest answer of the meter, as of when it came."""
        if self._meter is None:
            self._meter = Watched(find_meter(self.source, self._root, self._options.hwmon))
            self._meter.start()
        meter, answer = self._meter.meter, self._meter.newest()
        if answer.watts is None:
            return self._none(now_ns, answer.why, Status.ERROR)
        return Reading(
            signal="power_w",
            source=self.source,
            value=answer.watts,
            taken_mono_ns=answer.at_ns,
            std=meter.std_ratio * answer.watts,
            detail=meter.text,
        )

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
            return self._none(now_ns, "first look: no difference yet" + self._why_not)
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
            return self._none(now_ns, "no difference of CPU times yet" + self._why_not)
        power, std = self._curve.at(share)
        return Reading(
            signal="power_w",
            source=self.source,
            value=power,
            taken_mono_ns=now_ns,
            std=std,
            estimated=True,
            detail=f"whole host: {self._curve.text}",
        )

    def _none(self, now_ns: int, detail: str, status: Status = Status.NO_DATA) -> Reading:
        return Reading(
            signal="power_w",
            source=self.source,
            status=status,
            taken_mono_ns=now_ns,
            detail=detail,
        )


def find_meter(name: str, root: Path, chip: str | None) -> Meter:
    """The meter of that name. Raises PlantFault saying what is missing and how to mend it."""
    return ipmi.find(root) if name == "bmc" else hwmon.find(root, chip)


def _gpus() -> Meter:
    from poolwright.sensors.nvml import Gpus  # noqa: PLC0415 - it needs a package

    return Gpus()


def _with_cards(reading: Reading, cards: Answer, meter: Meter) -> Reading:
    """The host's watts and the cards'; without one of them there is no sum."""
    source = f"{reading.source}+{meter.name}"
    if reading.value is None:
        return replace(reading, source=source)
    if cards.watts is None:
        detail = f"{reading.detail}; {cards.why}"
        return replace(
            reading, source=source, value=None, status=Status.ERROR, std=None, detail=detail
        )
    return replace(
        reading,
        source=source,
        value=reading.value + cards.watts,
        std=math.hypot(reading.std or 0.0, meter.std_ratio * cards.watts),
        detail=f"{reading.detail}; {meter.text}",
    )
