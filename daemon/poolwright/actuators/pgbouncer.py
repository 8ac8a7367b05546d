"""Moves PgBouncer's `default_pool_size` over its admin console; no transaction is lost.

The level is the size in force, as SHOW CONFIG tells it. It is the most connections to the server of
each pool, a pair of database and user; every database without a `pool_size` of its own in
pgbouncer.ini has it. A size of its own can be changed in the file alone, and RELOAD would put
whatever else was edited there in force as well: those databases are left alone.

**Growing** takes effect at once; connections are opened as clients wait for them.

**Shrinking**: PgBouncer's janitor closes idle connections above the size (three times a second,
`check_pool_size` in janitor.c). While clients wait none is ever idle, and all would stay for
`server_lifetime`, an hour. So where some are left after that, `RECONNECT database` is sent: each
connection of it is closed when its transaction (in session pooling: its client) is done with it,
and made anew within the new size. Nothing that is busy is ended.

**Another hand or a reload.** RELOAD and SIGHUP forget what was SET, and PgBouncer does not tell
that they happened. A size that changed without us to the one in pgbouncer.ini was put back by a
reload, and begins a new epoch; any other is another hand. Where the file may not be read, every
change is another hand. A restart is told by the process at the other end of a UNIX socket, over TCP
by a connection that was cut.
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from poolwright.actuators.outcome import Refusal, outcome
from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, Applied, Setting, setting
from poolwright.core.units import PathText, Seconds
from poolwright.wire.pg_console import (
    Access,
    Console,
    ConsoleDenied,
    Malformed,
    Row,
    is_real,
    naming,
    server_connections,
    whole,
)

_KNOB = "pool_size"
_ASK_S = 0.8  # the engine waits for 1 s
_JANITOR_S = 0.5  # it comes every third of a second
_POLL_S = 0.05
_SIZE = re.compile(r"\s*default_pool_size\s*=\s*(\d+)\s*")
_INI_MOST = 1 << 20
_TOLD_MOST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """One look at a PgBouncer."""

    incarnation: str
    size: int
    config: dict[str, str]
    default: str  # what the size is when pgbouncer.ini has none
    databases: tuple[str, ...]  # all that there are now
    caps: dict[str, int]  # of those that follow the size: the most connections, 0 for no cap
    above: dict[str, int]  # connections beyond the size by database, where there are some


class PgBouncer:
    """One PgBouncer process. Knob: pool_size."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(Access):
        """Where the admin console is."""

        config: PathText | None = field(
            default=None,
            metadata={
                "doc": "pgbouncer.ini, if it is elsewhere for us than for PgBouncer; only read"
            },
        )
        drain_timeout: Seconds = field(
            default=30.0,
            metadata={
                "doc": "how long transactions may keep a connection to be closed",
                "above": 0,
            },
        )

    knobs = (_KNOB,)

    def __init__(self, options: Options, _pool: str) -> None:
        """Nothing is opened yet."""
        self._options = options
        self._console = Console(options, _ASK_S)
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        self._incarnation = ""
        self._generation = 0
        self._expected: frozenset[int] = frozenset()  # sizes that are ours; empty: any is
        self.endpoint = f"pgbouncer {options.address}"

    async def read(self) -> Applied:
        """The size in force. Raises PlantFault naming the address."""
        scene = await self._look()
        news = [*self._see(scene), *_leftover(scene)]
        return Applied(
            setting=setting(**{_KNOB: scene.size}),
            epoch=f"{scene.incarnation}:{self._generation}",
            detail="; ".join(news),
        )

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Set the size, and drain. Applied when no pool has more connections than it.

        Failed when a transaction keeps a connection for longer than `drain_timeout`, or somebody
        else sets the size meanwhile. Refused when it is not allowed, or would move nothing.
        """

        def forget() -> None:
            self._expected = frozenset()  # whatever came of it, it was not another hand

        async with self._lock:
            move = self._move(wanted[_KNOB])
            return await outcome(
                self.endpoint, decision_tick, move, denied=ConsoleDenied, undone=forget
            )

    async def close(self) -> None:
        """Hang up."""
        self._console.close()

    # What is there

    async def _look(self) -> _Scene:
        config, databases, pools = await self._console.ask(
            "SHOW CONFIG", "SHOW DATABASES", "SHOW POOLS"
        )
        with naming(self._options.address):
            return self._scene(config, databases, pools)

    def _scene(self, config: list[Row], databases: list[Row], pools: list[Row]) -> _Scene:
        """Raises Malformed."""
        told = {str(row.get("key")): row for row in config}
        if "default_pool_size" not in told:
            raise Malformed("no default_pool_size")
        size = whole(told["default_pool_size"], "value")
        if size < 1:
            raise Malformed("default_pool_size is 0, which is no limit")
        real = [row for row in databases if is_real(row)]
        following = {str(row.get("name")): row for row in real if whole(row, "pool_size") == size}
        above: dict[str, int] = {}
        for pool in pools:
            database = following.get(str(pool.get("database")))
            if database is not None:
                more = server_connections(pool) - size - _reserve(database, told)
                above[str(pool.get("database"))] = max(
                    more, above.get(str(pool.get("database")), 0)
                )
        return _Scene(
            incarnation=self._console.incarnation,
            size=size,
            config={key: str(row.get("value")) for key, row in told.items()},
            default=str(told["default_pool_size"].get("default", "")),
            databases=tuple(str(row.get("name")) for row in real),
            caps={name: whole(row, "max_connections") for name, row in following.items()},
            above={name: more for name, more in above.items() if more > 0},
        )

    def _see(self, scene: _Scene) -> list[str]:
        """Take a look into account, and say what has happened since the last one."""
        if scene.incarnation != self._incarnation:
            first = not self._incarnation
            self._incarnation, self._generation = scene.incarnation, 0
            self._expected = frozenset((scene.size,))
            return [] if first else ["PgBouncer was restarted"]
        if not self._expected:
            self._expected = frozenset((scene.size,))
        if scene.size in self._expected:
            return []
        path = self._options.config or scene.config.get("conffile", "")
        try:
            written = _written_size(path, scene.default)
            doubt = ""
        except PlantFault as fault:
            written, doubt = None, f" (or a reload, which cannot be told: {fault})"
        if written == scene.size:
            self._generation += 1
            self._expected = frozenset((scene.size,))
            return [f"reloaded: the size is {path}'s again, {scene.size}"]
        was = " or ".join(map(str, sorted(self._expected)))
        return [f"the size is {scene.size}, {was} expected: another hand{doubt}"]

    # Moving

    async def _move(self, goal: int) -> None:
        if goal < 1:
            raise Refusal(f"{goal} connections: a pool keeps at least one")
        scene = await self._look()
        self._see(scene)
        self._check(scene, goal)
        self._expected = frozenset((scene.size, goal))
        if scene.size != goal:
            await self._console.ask(f"SET default_pool_size = {goal}")
        try:
            await self._until(goal, lambda now: not now.above, _JANITOR_S)
        except TimeoutError:
            scene = await self._look()
            for database in scene.above:
                quoted = database.replace('"', '""')
                await self._console.ask(f'RECONNECT "{quoted}"')
            try:
                await self._until(goal, lambda now: not now.above, self._options.drain_timeout)
            except TimeoutError:
                left = "; ".join(_leftover(await self._look()))
                within = f"after {self._options.drain_timeout:g} s"
                raise PlantFault(f"{within}: {left}; nothing busy was ended") from None
        self._expected = frozenset((goal,))

    def _check(self, scene: _Scene, goal: int) -> None:
        """Refuse what would move nothing, or another one."""
        if scene.config.get("so_reuseport") == "1" and not self._options.address.startswith("unix"):
            raise Refusal(
                "with so_reuseport several processes share the port, and which of them answers is "
                "left to chance: name the UNIX socket of one"
            )
        if scene.databases and not scene.caps:
            raise Refusal(
                f"no database follows default_pool_size: each of {', '.join(scene.databases)} has "
                "a pool_size of its own in pgbouncer.ini; take it out there, and RELOAD"
            )
        user_cap = int(scene.config.get("max_user_connections", "0"))
        for name, cap in scene.caps.items():
            most = min((c for c in (cap, user_cap) if c > 0), default=goal)
            if scene.size < goal and goal > most:
                raise Refusal(
                    f"database {name}: max_db_connections or max_user_connections allows {most}: "
                    "raise it in pgbouncer.ini, or lower the policy's max"
                )

    async def _until(self, goal: int, done: Callable[[_Scene], bool], within_s: float) -> None:
        """Look until `done`. Raises TimeoutError; PlantFault when the size is not `goal`."""
        end = time.monotonic() + within_s
        while True:
            scene = await self._look()
            if scene.incarnation != self._incarnation:
                raise PlantFault("PgBouncer was restarted during the move")
            if scene.size != goal:
                raise PlantFault(f"another hand or a reload: we set {goal}, it is {scene.size}")
            if done(scene):
                return
            if time.monotonic() > end:
                raise TimeoutError
            await asyncio.sleep(_POLL_S)


def _reserve(database: Row, config: dict[str, Row]) -> int:
    """How many connections beyond its size a database may open for clients that wait long."""
    for name in ("reserve_pool", "reserve_pool_size"):
        if name in database:
            return whole(database, name)
    return whole(config["reserve_pool_size"], "value")


def _leftover(scene: _Scene) -> list[str]:
    """What is still open beyond the size, in words."""
    named = [f"{name} {more}" for name, more in list(scene.above.items())[:_TOLD_MOST]]
    named += ["..."] if len(scene.above) > _TOLD_MOST else []
    return [f"connections beyond the size: {', '.join(named)}"] if named else []


def _written_size(path: str, default: str) -> int | None:
    """The default_pool_size in a pgbouncer.ini; None when it cannot be told from this file alone.

    Raises PlantFault when it cannot be read.
    """
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            text = file.read(_INI_MOST)
    except OSError as error:
        raise PlantFault(f"{path}: {error.strerror}") from error
    section, size, whole_file = "", default, True
    for line in text.splitlines():
        if line.startswith("%include"):
            whole_file = False
        elif line.startswith("["):
            section = line.strip().strip("[]")
        elif section == "pgbouncer" and (found := _SIZE.fullmatch(line)) is not None:
            size = found[1]
    if not size.isdigit() or (not whole_file and size == default):
        return None
    return int(size)
