"""Watts of all NVIDIA graphics cards of the host, by NVML. Needs the package nvidia-ml-py.

By the counter of energy since the driver was loaded (Volta and later), else by the present power
that each card has averaged or sampled itself. NVML's reference: 5 W either way.
"""

import math
import time
from typing import Any

from poolwright.core.errors import PlantFault, PolicyError


class Gpus:
    """All cards. A sum without one of them is none."""

    name = "nvml"
    text = "graphics cards: NVML"
    std_ratio = 0.05
    every_s = 1.0

    def __init__(self) -> None:
        """Nothing is opened yet. Raises PolicyError when the package is not installed."""
        try:
            import pynvml  # noqa: PLC0415 - 3.5 MB that few hosts need
        except ImportError as error:
            raise PolicyError(
                "power: gpus needs the package nvidia-ml-py: pip install 'poolwright[nvml]'"
            ) from error
        self._nvml: Any = pynvml
        self._cards: list[Any] | None = None
        self._last: tuple[float, list[int]] | None = None  # at s, millijoules

    def watts(self) -> float:
        """Mean power since the last call, or now where cards do not count energy.

        Raises PlantFault.
        """
        try:
            return self._watts()
        except self._nvml.NVMLError as error:
            self._cards = self._last = None  # the driver may have been loaded anew
            raise PlantFault(f"NVML: {error}") from error

    def _watts(self) -> float:
        nvml = self._nvml
        if self._cards is None:
            nvml.nvmlInit()
            count = nvml.nvmlDeviceGetCount()
            self._cards = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            if not self._cards:
                raise PlantFault("NVML: no graphics card")
        try:
            now_s = time.monotonic()
            now = [nvml.nvmlDeviceGetTotalEnergyConsumption(card) for card in self._cards]
        except nvml.NVMLError_NotSupported:
            return self._checked(sum(map(nvml.nvmlDeviceGetPowerUsage, self._cards)) / 1e3)
        last, self._last = self._last, (now_s, now)
        if last is None or now_s <= last[0]:
            return self._checked(sum(map(nvml.nvmlDeviceGetPowerUsage, self._cards)) / 1e3)
        grown = [a - b for a, b in zip(now, last[1], strict=True)]
        if min(grown) < 0:
            raise PlantFault("NVML: a counter of energy went back: the driver was loaded anew")
        return self._checked(sum(grown) / 1e3 / (now_s - last[0]))

    @staticmethod
    def _checked(power: float) -> float:
        if not 0.0 < power < math.inf:
            raise PlantFault(f"NVML: {power:g} watts")
        return power
