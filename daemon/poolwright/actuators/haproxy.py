"""Moves how many connections HAProxy lets a server have at once (`maxconn`), and its `weight`.

    actuator: {kind: haproxy, socket: /run/haproxy/admin.sock, backend: app, servers: [s1, s2]}

The knobs are `maxconn` (each server's limit) and, when `moves` says so, `weight` (1 to 256). All
`servers` get the same. What is above a limit that shrinks is finished by HAProxy, and what comes
waits in the queue: no request is cut. It waits at most `timeout queue` (which is `timeout connect`
where it is not given), then HAProxy answers 503.

Two ways to move:

- **socket**: `set maxconn server`, `set weight`, at once; it needs a socket of `level admin`.
- **agent**: HAProxy asks us (`agent-check agent-addr 127.0.0.1 agent-port 9900` on the server
  lines) and we answer `maxconn:N`; we need no right to anything but reading, by a socket of level
  user or by the statistics page. We only say something while a move is under way, so that what
  another hand sets stays; what we set stays when we are gone, stopped or dead.

A level is applied once HAProxy's statistics show it for every server. Nothing of it outlives a
reload: the new process begins with its configuration, which is another epoch.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from poolwright.actuators.haproxy_agent import Agent
from poolwright.actuators.outcome import Refusal, outcome
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Actuation, Applied, Setting
from poolwright.core.units import HostPort, PathText, Seconds
from poolwright.wire.haproxy import Row, SocketDenied, Source, Stats, checked_name, whole

_READ_S = 0.8  # patience of a read-back; the engine waits for 1 s
_POLL_S = 0.02
_POLL_MOST_S = 0.2
_MOST = {"maxconn": 1_000_000, "weight": 256}
_COLUMN = {"maxconn": "slim", "weight": "uweight"}
_COMMAND = {"maxconn": "set maxconn server {}/{} {}", "weight": "set weight {}/{} {}"}
_FALLS = ("stot", "bin", "bout")  # columns that only fall when HAProxy begins anew
_ALLOW = (
    "give poolwright a socket of its own that may (`stats socket PATH mode 660 group poolwright "
    "level admin`), or let HAProxy ask (`agent`), which needs no right"
)
_STATIC = (
    "its balance algorithm is static; use roundrobin, leastconn or `hash-type consistent`, or "
    "do not move weight"
)


class Haproxy:
    """Servers of one HAProxy backend."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which servers, and how they are reached."""

        backend: str = field(metadata={"doc": "the backend, or listen section"})
        servers: tuple[str, ...] = field(
            metadata={"doc": "the servers of it that are moved, all to one level", "nonempty": True}
        )
        moves: tuple[Literal["maxconn", "weight"], ...] = field(
            default=("maxconn",),
            metadata={"doc": "the knobs, as the policy names them", "nonempty": True},
        )
        socket: PathText | None = field(
            default=None,
            metadata={"doc": "stats socket: level admin to move; level user is enough with agent"},
        )
        url: str | None = field(
            default=None,
            metadata={"doc": "with agent, in place of a socket: http://host:port/stats;csv"},
        )
        agent: HostPort | None = field(
            default=None, metadata={"doc": "where HAProxy's agent-check asks us; moves that way"}
        )
        step_timeout: Seconds = field(
            default=10.0,
            metadata={
                "doc": "how long until HAProxy shows a level; more than agent-inter",
                "above": 0,
            },
        )

        def __post_init__(self) -> None:
            """Refuse what cannot work together."""
            Source(self.backend, self.socket, self.url)
            for name in self.servers:
                checked_name(name, "servers")
            if not self.servers or len(set(self.servers)) < len(self.servers):
                raise PolicyError("servers: name each server once, and at least one")
            if not self.moves or len(set(self.moves)) < len(self.moves):
                raise PolicyError("moves: name each knob once, and at least one")
            if self.socket is None and self.agent is None:
                raise PolicyError("a page can only be read: to move, give `agent`, or `socket`")
            if self.socket is None and "weight" in self.moves:
                raise PolicyError(
                    "weight through an agent is per cent of the initial weight, which only a "
                    "`socket` tells (level user is enough)"
                )

    def __init__(self, options: Options, _pool: str) -> None:
        """Nothing is opened yet."""
        self._options = options
        self._from = Source(options.backend, options.socket, options.url)
        self._agent = None if options.agent is None else Agent(options.agent)
        self.knobs: tuple[str, ...] = tuple(sorted(options.moves))
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        self._agreed: dict[str, int] = {}  # the last levels that all servers had ...
        self._agreed_in = ""  # ... in this epoch
        self._counted: dict[str, int] = {}
        self._generation = 0
        way = f", agent {options.agent}" if options.agent else ""
        what = ",".join(options.servers)
        self.endpoint = f"haproxy {self._from.name}, {options.backend}/{what}{way}"

    async def read(self) -> Applied:
        """The levels that HAProxy goes by. Raises PlantFault naming the socket or page."""
        notes = await self._listen()
        stats = await self._from.stats(_READ_S)
        epoch = self._epoch(stats)
        if epoch != self._agreed_in:
            self._agreed, self._agreed_in = {}, epoch
        found: dict[str, int] = {}
        for knob in self.knobs:
            levels = self._levels(stats, knob)
            if len(set(levels.values())) == 1:
                self._agreed[knob] = next(iter(levels.values()))
            else:
                notes.append(f"the servers differ: {_told(levels, knob)}")
            found[knob] = _one(levels, self._agreed.get(knob))
        return Applied(setting=_setting(found), epoch=epoch, detail="; ".join(notes))

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Say the levels, and wait until HAProxy shows them for every server.

        Failed when it does not within `step_timeout`, or when it begins anew meanwhile. Refused
        below 1, without the right, and where HAProxy cannot (weights of a static algorithm).
        """
        levels = {knob: wanted[knob] for knob in self.knobs}
        async with self._lock:
            return await outcome(self.endpoint, decision_tick, self._move(levels))

    async def close(self) -> None:
        """Stop answering HAProxy, which keeps what it has."""
        if self._agent is not None:
            await self._agent.close()

    # What is there

    async def _listen(self) -> list[str]:
        """Be there for HAProxy; what is to be told when that cannot be."""
        try:
            if self._agent is not None:
                await self._agent.open()
        except PlantFault as fault:  # reading goes on; a move would fail by it
            return [str(fault)]
        return []

    def _row(self, stats: Stats, server: str) -> Row:
        row = stats.rows.get(server)
        if row is None:
            raise PlantFault(f"{self._from.name}: no server {self._options.backend}/{server}")
        return row

    def _levels(self, stats: Stats, knob: str) -> dict[str, int]:
        """Each server's level. Raises PlantFault where there is none."""
        found = {}
        for server in self._options.servers:
            row = self._row(stats, server)
            if knob == "maxconn" and row.get("slim", "") in ("", "0"):
                raise PlantFault(
                    f"{self._from.name}: server {self._options.backend}/{server} has no maxconn, "
                    "so no limit that could be moved: give it one in HAProxy's configuration"
                )
            found[server] = whole(row, _COLUMN[knob], self._from.name)
        return found

    def _epoch(self, stats: Stats) -> str:
        """Which HAProxy it is: its process, or how often its counters began anew on the page."""
        if stats.info:
            return f"{stats.info['Pid']}:{stats.info.get('Start_time_sec', '')}"
        counted = {
            f"{server} {column}": whole(self._row(stats, server), column, self._from.name)
            for server in self._options.servers
            for column in _FALLS
        }
        self._generation += any(n < self._counted.get(key, 0) for key, n in counted.items())
        self._counted = counted
        return f"page:{self._generation}"

    # Moving

    async def _move(self, wanted: dict[str, int]) -> str:
        """Raises PlantFault, Refusal."""
        for knob, level in wanted.items():
            if not 1 <= level <= _MOST[knob]:
                raise Refusal(f"{knob} {level}: HAProxy is given 1 to {_MOST[knob]}, 0 is off")
        try:
            stats = await self._from.stats(self._options.step_timeout)
        except SocketDenied as denied:
            raise Refusal(f"{denied}; {_ALLOW}") from denied
        epoch = self._epoch(stats)
        if self._agent is None:
            await self._command(stats, wanted)
            return await self._until(wanted, epoch)
        await self._agent.open()
        with self._saying(await self._answer(wanted)) as agent:
            try:
                return await self._until(wanted, epoch)
            except PlantFault as fault:
                if agent.asked:
                    raise
                raise PlantFault(
                    f"{fault}; HAProxy did not ask the agent: is agent-check on the server lines?"
                ) from fault

    async def _command(self, stats: Stats, wanted: dict[str, int]) -> None:
        """Server by server, what differs."""
        options = self._options
        for knob, level in wanted.items():
            for server, now in self._levels(stats, knob).items():
                if now == level:
                    continue
                text = _COMMAND[knob].format(options.backend, server, level)
                try:
                    await self._from.command(text, options.step_timeout)
                except SocketDenied as denied:
                    raise Refusal(f"{denied}; {_ALLOW}") from denied
                except PlantFault as fault:
                    if "static LB algorithm" in str(fault):
                        raise Refusal(f"{fault}; {_STATIC}") from fault
                    raise

    @contextmanager
    def _saying(self, words: str) -> Iterator[Agent]:
        """Answer HAProxy with `words` meanwhile, and with nothing afterwards."""
        assert self._agent is not None
        self._agent.say(words)
        try:
            yield self._agent
        finally:
            self._agent.say("")

    async def _answer(self, wanted: dict[str, int]) -> str:
        """What the agent shall say. Raises Refusal for a weight that per cent cannot say."""
        words = [f"maxconn:{wanted['maxconn']}"] if "maxconn" in wanted else []
        if "weight" in wanted:
            words.append(f"{await self._per_cent(wanted['weight'])}%")
        return " ".join(words)

    async def _per_cent(self, weight: int) -> int:
        """Of the initial weight; HAProxy rounds down, and 0 would turn the server off."""
        options = self._options
        initial = set()
        for server in options.servers:
            told = await self._from.ask(
                f"get weight {options.backend}/{server}", options.step_timeout
            )
            text = told.partition("(initial ")[2].partition(")")[0]
            if not text.isdigit():
                raise PlantFault(f"{self._from.name}: 'get weight' of {server}: {told!r:.80}")
            initial.add(int(text))
        share = _exact(weight, initial)
        if share is None:
            told = " and ".join(str(one) for one in sorted(initial))
            raise Refusal(
                f"weight {weight} is no per cent of the initial weight {told}: give all servers "
                "`weight 100` in HAProxy's configuration"
            )
        return share

    async def _until(self, wanted: dict[str, int], epoch: str) -> str:
        """Look until HAProxy shows what is wanted; what else is to be told."""
        began, pause_s = time.monotonic(), _POLL_S
        while True:
            stats = await self._from.stats(self._options.step_timeout)
            if self._epoch(stats) != epoch:
                raise PlantFault("HAProxy began anew during the move (a reload)")
            rows = {knob: self._levels(stats, knob) for knob in wanted}
            if all(set(levels.values()) == {wanted[knob]} for knob, levels in rows.items()):
                self._agreed, self._agreed_in = dict(wanted), epoch
                return self._above(stats, wanted)
            spent_s = time.monotonic() - began
            if spent_s > self._options.step_timeout:
                seen = "; ".join(_told(levels, knob) for knob, levels in rows.items())
                raise PlantFault(f"after {spent_s:.1f} s HAProxy shows {seen}")
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, 1.3 * pause_s)

    def _above(self, stats: Stats, wanted: dict[str, int]) -> str:
        """What a shrink leaves to be finished, for people."""
        if "maxconn" not in wanted:
            return ""
        rows = (self._row(stats, server) for server in self._options.servers)
        over = sum(max(0, whole(r, "scur", self._from.name) - wanted["maxconn"]) for r in rows)
        return f"{over} connections above the limit are finished, none is cut" if over else ""


def _exact(weight: int, initial: set[int]) -> int | None:
    """The per cent that makes `weight` of every initial weight, as HAProxy rounds; None: none."""
    shares = {-(-100 * weight // one) if one else 0 for one in initial}
    share = shares.pop()
    if shares or any(min(256, one * share // 100) != weight for one in initial):
        return None
    return share


def _one(levels: dict[str, int], agreed: int | None) -> int:
    """One level for servers that may differ: what somebody changed since they were at one."""
    if agreed is None:
        return min(levels.values())
    return next((level for level in levels.values() if level != agreed), agreed)


def _told(levels: dict[str, int], knob: str) -> str:
    return ", ".join(f"{knob} {level} of {server}" for server, level in levels.items())


def _setting(found: dict[str, int]) -> Setting:
    return Setting(levels=tuple(sorted(found.items())))
