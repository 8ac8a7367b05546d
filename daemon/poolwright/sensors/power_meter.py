"""Meters of power that may take their time: a thread reads one again and again, beside the ticks.

A management controller answers after seconds, an ACPI meter after some hundred milliseconds, and
both may hang in the kernel where nothing can interrupt them. So a meter is read in a thread of its
own that nobody waits for, not even at exit, and a tick takes the newest answer, with its age.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from poolwright.core.errors import PlantFault

_LATE = 3.0  # times its interval: an answer older than that is of another time


class Meter(Protocol):
    """Something that measures power when it is asked, and may block while it does."""

    @property
    def name(self) -> str:
        """The source of its readings: bmc, hwmon, nvml."""

    @property
    def text(self) -> str:
        """For people: what is measured, and how."""

    @property
    def std_ratio(self) -> float:
        """Standard error as a share of the watts."""

    @property
    def every_s(self) -> float:
        """How often it is worth asking."""

    def watts(self) -> float:
        """Above zero. Raises PlantFault naming the endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a meter said: watts, or why none; at monotonic ns."""

    at_ns: int
    watts: float | None = None
    why: str = ""


class Watched:
    """Asks a meter every `every_s`, in a thread. Use from one thread."""

    def __init__(self, meter: Meter, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Nothing is asked yet."""
        self.meter = meter
        self._clock = clock
        self._ended = threading.Event()
        self._answered = threading.Event()
        self._answer: Answer | None = None
        self._thread: threading.Thread | None = None
        self._began_ns = 0

    def start(self) -> None:
        """Begin to ask. Nothing happens when it is begun already."""
        if self._thread is None:
            self._ended.clear()
            self._began_ns = self._clock()
            # A daemon: a meter that hangs for ever must not keep the process from ending.
            self._thread = threading.Thread(
                target=self._ask, args=(self._ended,), name=f"power-{self.meter.name}", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Ask no more. A meter that hangs is left to itself."""
        self._ended.set()
        self._ended = threading.Event()
        self._thread, self._answer = None, None
        self._answered.clear()

    def first(self, within_s: float) -> Answer:
        """The first answer; blocks up to `within_s`."""
        self._answered.wait(within_s)
        return self.newest()

    def newest(self) -> Answer:
        """The newest answer; one that is too old is none."""
        now_ns, last = self._clock(), self._answer
        since_ns = self._began_ns if last is None else last.at_ns
        age_s = (now_ns - since_ns) / 1e9
        if age_s > _LATE * self.meter.every_s:
            return Answer(at_ns=now_ns, why=f"{self.meter.text}: no answer for {age_s:.0f} s")
        return last or Answer(at_ns=now_ns, why=f"{self.meter.text}: has not answered yet")

    def _ask(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                power = self.meter.watts()
                answer = Answer(at_ns=self._clock(), watts=power)
            except PlantFault as fault:
                answer = Answer(at_ns=self._clock(), why=str(fault))
            except Exception as error:  # noqa: BLE001 - a driver's library may raise anything
                said = f"{self.meter.text}: {type(error).__name__}: {error}"[:200]
                answer = Answer(at_ns=self._clock(), why=said)
            if not ended.is_set():
                self._answer = answer
                self._answered.set()
            ended.wait(self.meter.every_s)
