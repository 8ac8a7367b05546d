"""Knobs that are told a level and obey by themselves: set once, then read until it is so.

What is read back is what the plant says, never what it was told. A level below one is refused and
is not believed either: to many servers 0 means "no limit".
"""

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from poolwright.actuators.outcome import Refusal, outcome
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Actuation, Applied, Setting

LEVEL, KNOB = "{level}", "{knob}"  # what stands for them in what a person configures
UNTOLD = "untold"  # the epoch of a plant that does not tell whether it is still the same
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_POLL_S = 0.02
_POLL_MOST_S = 0.5


class Absolute(ABC):
    """The part that is the same for all of them. Moves what shrinks first, then what grows."""

    def __init__(self, knobs: tuple[str, ...], endpoint: str, confirm_s: float) -> None:
        """`confirm_s`: how long the plant may take until it says what it was told."""
        self.knobs = tuple(sorted(knobs))
        self.endpoint = endpoint
        self._confirm_s = confirm_s
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next

    @abstractmethod
    async def _look(self) -> tuple[Mapping[str, int], str]:
        """The levels of all knobs as the plant tells them, and its epoch. Raises PlantFault.

        The epoch is another string once the plant was restarted; UNTOLD where it does not tell.
        """

    @abstractmethod
    async def _set(self, knob: str, level: int) -> None:
        """Tell the plant. Raises PlantFault, Refusal."""

    async def read(self) -> Applied:
        """What the plant says now. Raises PlantFault naming the endpoint."""
        try:
            levels, epoch = await self._seen()
        except PlantFault as fault:
            raise PlantFault(f"{self.endpoint}: {fault}") from fault
        return Applied(setting=Setting(levels=tuple(sorted(levels.items()))), epoch=epoch)

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Move to `wanted`. Applied when every level is read back.

        Failed when the plant does not say so within the time, or is another one than at the
        beginning. Refused below one, and where it is not allowed.
        """
        async with self._lock:
            return await outcome(self.endpoint, decision_tick, self._move(wanted))

    async def close(self) -> None:  # noqa: B027  for those who keep something
        """Nothing is kept open."""

    async def _seen(self) -> tuple[Mapping[str, int], str]:
        levels, epoch = await self._look()
        for knob, level in levels.items():
            if level < 1:
                raise PlantFault(f"{knob} is {level}, which is no level (it may mean: no limit)")
        return levels, epoch

    async def _move(self, wanted: Setting) -> None:
        for knob, level in wanted.levels:
            if level < 1:
                raise Refusal(f"{knob}={level}: a service keeps at least one")
        now, epoch = await self._seen()
        for knob, level in sorted(wanted.levels, key=lambda pair: pair[1] > now[pair[0]]):
            if now[knob] == level:
                continue
            try:
                await self._set(knob, level)
            except PlantFault:  # it may have been obeyed and the answer lost: what is read decides
                if not await self._is_at(knob, level):
                    raise
            await self._confirm(knob, level, epoch)

    async def _is_at(self, knob: str, level: int) -> bool:
        try:
            levels, _ = await self._seen()
        except PlantFault:
            return False
        return levels[knob] == level

    async def _confirm(self, knob: str, level: int, epoch: str) -> None:
        """Read until it is so. Raises PlantFault when it does not come to that."""
        until, pause_s = time.monotonic() + self._confirm_s, _POLL_S
        while True:
            seen, now = None, epoch
            try:
                levels, now = await self._seen()
                seen = levels[knob]
                late = f"told {level}, and reads {seen}"
            except PlantFault as fault:  # it may be between two configurations
                late = str(fault)
            if now != epoch:
                raise PlantFault(f"restarted during the move (epoch {epoch} before, now {now})")
            if seen == level:
                return
            if time.monotonic() + pause_s > until:
                raise PlantFault(f"{knob}: after {self._confirm_s:g} s {late}")
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, 1.5 * pause_s)


def level_of(said: Any) -> int:
    """A level of an answer: a whole number, or text that is one. Raises PlantFault."""
    text = str(said).strip() if isinstance(said, str | int) and not isinstance(said, bool) else ""
    if not _NUMBER.fullmatch(text):
        raise PlantFault(f"{_short(said)} is no level: a whole number of up to 9 digits is wanted")
    return int(text)


def names(knob: str, knobs: tuple[str, ...]) -> tuple[str, ...]:
    """The knobs of options that have both fields. Raises PolicyError."""
    found = knobs or (knob,)
    bad = [name for name in found if not _NAME.fullmatch(name)]
    if bad or len(set(found)) != len(found):
        raise PolicyError(
            f"knobs: {', '.join(found)}: names of a-z, 0-9 and _ are wanted, once each"
        )
    return found


def check_templates(found: tuple[str, ...], texts: Mapping[str, Iterable[str]]) -> None:
    """Several knobs need {knob} in each of what is configured, or all would move one thing.

    `texts`: option -> the texts of which one must hold it. Raises PolicyError.
    """
    for option, parts in texts.items():
        if len(found) > 1 and not any(KNOB in part for part in parts):
            raise PolicyError(f"{option}: of {len(found)} knobs each needs its own: write {KNOB}")


def _short(said: Any) -> str:
    if isinstance(said, str | bytes | bytearray):
        return repr(said[:40])
    if isinstance(said, bool | int | float | None):
        return repr(said)[:40]
    return "an object" if isinstance(said, dict) else "a list"
