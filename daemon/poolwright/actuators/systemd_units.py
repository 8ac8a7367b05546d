r"""Moves how many instances of a systemd template run: worker@1.service ... worker@N.service.

Over D-Bus, by StartUnit and StopUnit of one instance at a time, each confirmed by ActiveState and
SubState. Growing starts the lowest number that is free; shrinking stops the highest. Stopping is
the unit's own stop job (ExecStop=, SIGTERM, KillMode=): its worker must end what it has begun. It
is waited for, and nothing is killed by us; systemd itself kills after the unit's TimeoutStopSec,
which is then said. With Type=notify an instance counts when it says that it is ready; with
Type=simple as soon as it was forked.

What counts as serving, another hand and a new epoch: `systemd_watch`. An instance that is coming
(restarting, or started by somebody) is waited for before a level is told, within both timeouts.
Any user may look; to start and stop, a rule of polkit has to allow it (deploy/polkit).
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import count

from poolwright.actuators.outcome import Refusal, outcome
from poolwright.actuators.systemd_bus import Bus, Call, Denied, get
from poolwright.actuators.systemd_watch import Instance, View, Watch, limits_text
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Actuation, Applied, Setting, setting
from poolwright.core.units import PathText, Seconds

_KNOB = "workers"
_READ_S = 0.8  # the engine waits for 1 s
_POLL_S = 0.01
_POLL_MOST_S = 0.2
_MOST_FAILED = 3  # more instances are not started while so many have failed
_TEMPLATE = re.compile(r"[A-Za-z0-9:_.\\-]+@\.service")


class SystemdUnits:
    """The instances of one template. Knob: workers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which template, and where systemd is."""

        template: str = field(
            metadata={"doc": "the template, without an instance: worker@.service"}
        )
        last: int | None = field(
            default=None,
            metadata={"doc": "the highest instance number that may be started; none: any"},
        )
        bus: PathText = field(
            default="/run/dbus/system_bus_socket",
            metadata={"doc": "socket of the D-Bus; a user's systemd: /run/user/UID/bus"},
        )
        step_timeout: Seconds = field(
            default=10.0, metadata={"doc": "how long an instance may take to be up", "above": 0}
        )
        drain_timeout: Seconds = field(
            default=95.0,
            metadata={
                "doc": "how long a stopping instance may be busy; it is not killed",
                "above": 0,
            },
        )

        def __post_init__(self) -> None:
            """Refuse what is no template (PolicyError)."""
            if not _TEMPLATE.fullmatch(self.template):
                raise PolicyError(
                    f"systemd_units: {self.template!r} is no template: write worker@.service"
                )
            if self.last is not None and self.last < 1:
                raise PolicyError(f"systemd_units: last is {self.last}; numbers begin with 1")

    knobs = (_KNOB,)

    def __init__(self, options: Options, _pool: str) -> None:
        """Nothing is opened yet. Raises PolicyError when jeepney is not installed."""
        self._options = options
        self._stem = options.template.removesuffix(".service")
        self._named = re.compile(re.escape(self._stem) + r"([1-9][0-9]{0,5})\.service")
        self._bus = Bus(options.bus.removeprefix("unix:"))
        self._watch = Watch()
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        self._coming: dict[int, tuple[str, float]] = {}  # number -> what it does, since when
        self._limits: dict[int, tuple[int, int]] = {}
        self._turn = 0
        self.endpoint = f"{options.template} at {self._bus.path}"

    async def read(self) -> Applied:
        """The instances that serve. Raises PlantFault, also while one is about to."""
        view = await self._look(_READ_S, moving=self._lock.locked())
        if not self._lock.locked():
            self._wait_for(view)
        if not view.serving:
            why = "; ".join(view.news)
            raise PlantFault(
                f"{self.endpoint}: no instance is active" + (f": {why}" if why else "")
            )
        await self._read_limits(view.serving)
        detail = "; ".join(filter(None, (*view.news, limits_text(self._limits.values()))))
        return Applied(setting=setting(workers=len(view.serving)), epoch=view.epoch, detail=detail)

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Step to `wanted`. Applied when all new instances are up and all old ones have ended.

        Failed when an instance does not come up within `step_timeout` or fails, when one is busy
        after `drain_timeout` or was killed by systemd, or when somebody else moves meanwhile.
        Refused for fewer than one, without permission, or while several instances have failed.
        """
        async with self._lock:
            return await outcome(
                self.endpoint,
                decision_tick,
                self._move(wanted[_KNOB]),
                denied=Denied,
                allow=self._how_to_allow(),
                undone=self._watch.expects_anything,
            )

    async def close(self) -> None:
        """Hang up."""
        await self._bus.close()

    def _how_to_allow(self) -> str:
        return (
            "to allow it, put a rule for these units into /etc/polkit-1/rules.d: allow action "
            "org.freedesktop.systemd1.manage-units with verb start or stop, and a unit that "
            f"matches /^{re.escape(self._stem)}[0-9]+\\.service$/, to poolwright's user (an "
            "example is deploy/polkit/50-poolwright-units.rules)"
        )

    # What is there

    async def _look(self, within_s: float, *, moving: bool) -> View:
        """All instances now. Raises PlantFault."""
        began = time.monotonic()
        pattern = f"{self._stem}*.service"  # a backslash in it is one: systemd's FNM_NOESCAPE
        try:
            (rows,) = await self._bus.call(
                Call(method="ListUnitsByPatterns", signature="asas", body=([], [pattern])), within_s
            )
            left_s = max(0.05, within_s - (time.monotonic() - began))
            found = [self._instance(row) for row in rows if self._named.fullmatch(row[0])]
            found = await self._fill(found, left_s)
        except (IndexError, TypeError, ValueError) as error:
            raise PlantFault(f"{self.endpoint}: its answer is not systemd's: {error}") from error
        except PlantFault as fault:
            raise PlantFault(f"{self.endpoint}: {fault}") from fault
        return self._watch.see(found, moving=moving)

    def _instance(self, row: tuple[str, ...]) -> Instance:
        """One row of ListUnitsByPatterns: org.freedesktop.systemd1(5)."""
        name = str(row[0])
        numbered = self._named.fullmatch(name)
        assert numbered is not None
        return Instance(
            number=int(numbered[1]),
            name=name,
            active=str(row[3]),
            sub=str(row[4]),
            path=str(row[6]),
            job=str(row[8]),
        )

    async def _fill(self, found: list[Instance], within_s: float) -> list[Instance]:
        """Add what the list does not tell. An instance may be gone by now: it has nothing then."""
        up = [i for i in found if i.is_up]
        down = [i for i in found if i.has_failed]
        asked = [get(i.path, "Unit", "InvocationID") for i in up]
        asked += [get(i.path, "Service", "Result") for i in down]
        answers = await self._properties(asked, within_s)
        told = dict(zip((i.number for i in up), (_hex(a) for a in answers[: len(up)]), strict=True))
        results = dict(zip((i.number for i in down), map(str, answers[len(up) :]), strict=True))
        again = [i for i in up if self._watch.is_new(i.number, told[i.number])]
        answers = await self._properties(
            [get(i.path, "Service", "NRestarts") for i in again], within_s
        )
        restarts = dict(zip((i.number for i in again), map(_whole, answers), strict=True))
        return [
            replace(
                i,
                invocation=told.get(i.number, ""),
                restarts=restarts.get(i.number, 0),
                result=results.get(i.number, ""),
            )
            for i in found
            if told.get(i.number) != ""
        ]

    async def _properties(self, asked: list[Call], within_s: float) -> list[object]:
        """The values of properties; None of what is not there any more."""
        if not asked:
            return []
        answers = await self._bus.ask(asked, within_s)
        return [None if isinstance(a, PlantFault) else a[0][1] for a in answers]

    async def _read_limits(self, serving: tuple[Instance, ...]) -> None:
        """Read the limits of the instances that are new, and of one more each time: they can be
        changed while it runs. What cannot be read is not said; it decides nothing.
        """
        numbers = {i.number for i in serving}
        self._limits = {n: limit for n, limit in self._limits.items() if n in numbers}
        self._turn = (self._turn + 1) % len(serving)
        ask = [i for k, i in enumerate(serving) if k == self._turn or i.number not in self._limits]
        names = ("CPUQuotaPerSecUSec", "MemoryMax")
        calls = [get(i.path, "Service", name) for i in ask for name in names]
        try:
            found = await self._properties(calls, _READ_S / 4)
        except PlantFault:
            return
        for i, one in enumerate(ask):
            cpu, memory = found[2 * i : 2 * i + 2]
            if isinstance(cpu, int) and isinstance(memory, int):
                self._limits[one.number] = cpu, memory

    def _wait_for(self, view: View) -> None:
        """Raises PlantFault while instances are coming: a count in the middle of that is no level.

        Each may take `step_timeout` to start, and `drain_timeout` to stop when it is restarted; one
        that takes longer must not hide the others.
        """
        now = time.monotonic()
        known, self._coming = self._coming, {}
        for one in view.coming:
            before = known.get(one.number)
            if before is None or before[0] != one.active:
                before = one.active, now
            self._coming[one.number] = before
        options = self._options
        limits = {"deactivating": options.drain_timeout}
        awaited = [
            one
            for one in view.coming
            if now - self._coming[one.number][1] <= limits.get(one.active, options.step_timeout)
        ]
        if awaited:
            raise PlantFault(f"{self.endpoint}: {_all(awaited)}")

    # Moving

    async def _move(self, goal: int) -> None:
        if goal < 1:
            raise Refusal(f"{goal} workers: a service keeps at least one")
        view = await self._look(self._options.step_timeout, moving=True)
        generation, steps = self._watch.generation, abs(goal - len(view.there))
        while len(view.there) != goal:
            if steps == 0:
                raise PlantFault(f"another hand: {len(view.there)} instances, on the way to {goal}")
            steps -= 1
            if len(view.there) < goal:
                view = await self._start(self._free(view))
            else:
                view = await self._stop(view.there[-1].number)
            if self._watch.generation != generation:
                raise PlantFault("all instances were restarted during the move")
        await self._until(lambda v: not v.coming and not v.leaving and len(v.serving) == goal)

    def _free(self, view: View) -> int:
        """The number to start next: the lowest that is not used, one that failed last of all."""
        failed = {i.number for i in view.failed}
        if len(failed) >= _MOST_FAILED:
            told = ", ".join(f"{i.name} ({i.result})" for i in view.failed[:_MOST_FAILED])
            raise Refusal(f"{told} have failed: mend it, then systemctl reset-failed")
        used = {i.number for i in (*view.there, *view.leaving)}
        last = self._options.last
        for number in count(1) if last is None else range(1, last + 1):
            if number not in used and number not in failed:
                return number
        if not failed:
            raise Refusal(f"every number up to {last} (last) is in use")
        return min(failed)

    async def _start(self, number: int) -> View:
        name = f"{self._stem}{number}.service"
        self._watch.starts(number)
        await self._order("StartUnit", name, "fail")

        def done(view: View) -> bool:
            for one in view.failed:
                if one.number == number:
                    raise PlantFault(f"{name} failed to start: {one.result or one.sub}")
            if number not in {i.number for i in (*view.there, *view.leaving)}:
                raise PlantFault(f"{name} was started and has ended")
            return any(i.number == number for i in view.serving)

        return await self._until(done)

    async def _stop(self, number: int) -> View:
        name = f"{self._stem}{number}.service"
        self._watch.stops(number)
        await self._order("StopUnit", name, "replace")
        view = await self._until(
            lambda v: number not in {i.number for i in (*v.there, *v.leaving)},
        )
        result = await self._result(name)
        if result == "timeout":
            raise PlantFault(
                f"{name} was still busy after its TimeoutStopSec=, and systemd killed it: give the "
                "unit more time"
            )
        return view

    async def _order(self, method: str, name: str, mode: str) -> None:
        call = Call(method=method, signature="ss", body=(name, mode))
        await self._bus.call(call, self._options.step_timeout)

    async def _result(self, name: str) -> str:
        """How the last run of a unit ended; success when systemd has forgotten it."""
        patience_s = self._options.step_timeout
        try:
            load = Call(method="GetUnit", signature="s", body=(name,))
            (path,) = await self._bus.call(load, patience_s)
        except PlantFault:
            return "success"
        (result,) = await self._properties([get(path, "Service", "Result")], patience_s)
        return str(result or "success")

    async def _until(self, done: Callable[[View], bool]) -> View:
        """Look until `done`. Raises PlantFault when that takes too long."""
        began, pause_s = time.monotonic(), _POLL_S
        options = self._options
        while True:
            view = await self._look(options.step_timeout, moving=True)
            if done(view):
                return view
            limit_s, late = options.step_timeout, _all(view.coming) or "it is not up"
            if view.leaving:
                limit_s = options.drain_timeout
                late = f"{_all(view.leaving)}: still busy; its stop job goes on, none was killed"
            spent_s = time.monotonic() - began
            if spent_s > limit_s:
                raise PlantFault(f"after {spent_s:.1f} s: {late}")
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, 1.3 * pause_s)


def _all(instances: Iterable[Instance]) -> str:
    return ", ".join(map(str, instances))


def _whole(answer: object) -> int:
    return answer if isinstance(answer, int) else 0


def _hex(answer: object) -> str:
    """An invocation's id; empty when there is none."""
    return answer.hex() if isinstance(answer, bytes) else bytes(answer or ()).hex()  # type: ignore[call-overload]
