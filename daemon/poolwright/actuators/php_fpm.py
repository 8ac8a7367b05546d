"""Moves `pm.max_children` of a php-fpm pool: writes its file, checks it, reloads gracefully.

php-fpm has no other way. The file is replaced as a whole, all but the digits stays; `php-fpm -t`
must accept it, else the old file is put back; then SIGUSR2 to the master that the pidfile names.
A reload lets requests be finished for `process_control_timeout` of php-fpm.conf; it is 0 unless
somebody has set it, and then a reload cuts them off (clients get a 502), so that is refused. What
takes longer than it is ended by php-fpm: set it above the longest request. **From the signal until
the slowest request of the moment has ended, new ones wait in the accept queue.**

**The level** with `pm = static` is the number of workers that there are. With dynamic and ondemand,
where php-fpm starts as many as it needs, it is the limit in force: that of the file as it was at
the last reload. php-fpm writes its pidfile anew at each, so a file that is newer is not in force.
Such edits of somebody else would be put in force by our reload as well: moves are refused until
somebody reloads.

Beside the file there is, from before it is written until the signal is sent, its old self (a hard
link, `.www.conf.poolwright-before`): should we be killed in between, the next daemon knows by it
what is in force.

**The epoch** names the master, and how often it was reloaded by others while we looked. Another
hand on the size is an edit and a reload: taken over as any reload.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from poolwright.actuators.gunicorn_proc import Pidfile, Proc, read_pidfile
from poolwright.actuators.outcome import Refusal, outcome
from poolwright.actuators.php_fpm_pool import Pool, has_grace, parse_pool
from poolwright.actuators.replace_file import Held, read_file, replaced
from poolwright.actuators.run import Program
from poolwright.actuators.signalled import Signalled
from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, Applied, Setting, setting
from poolwright.core.units import PathText, Seconds

_KNOB = "workers"
_SETTLE_S = 0.6  # a read waits so long for a reload to be over; the engine waits for 1 s
_POLL_S = 0.02
_CHECK_S = 10.0  # `php-fpm -t` takes 0.07 s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """One look."""

    pid: int
    start: int
    stamp: tuple[int, int]  # of the pidfile
    held: Held  # the pool's file now
    loaded: bytes | None  # the pool's file as it is in force; None: cannot be told
    workers: int

    @property
    def incarnation(self) -> tuple[int, int, tuple[int, int]]:
        """Another one after every reload."""
        return self.pid, self.start, self.stamp


class PhpFpm:
    """One pool of a php-fpm. Knob: workers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where php-fpm, its pidfile and its files are."""

        config: PathText = field(
            metadata={"doc": "the pool's file, such as /etc/php/8.2/fpm/pool.d/www.conf; written"}
        )
        main_config: PathText = field(
            metadata={"doc": "the file that includes it: /etc/php/8.2/fpm/php-fpm.conf; only read"}
        )
        pidfile: PathText = field(metadata={"doc": "`pid` of php-fpm.conf"})
        binary: PathText = field(
            metadata={"doc": "/usr/sbin/php-fpm8.2: checks the files (-t) before a reload"}
        )
        pool: str = field(default="www", metadata={"doc": "its section in the file"})
        reload_timeout: Seconds = field(
            default=60.0,
            metadata={
                "doc": "how long a reload may take; above process_control_timeout",
                "above": 0,
            },
        )

    knobs = (_KNOB,)

    def __init__(self, options: Options, _pool: str, *, proc: str = "/proc") -> None:
        """Nothing is opened or looked at yet."""
        self._options = options
        self._root = proc
        self._proc = Proc(proc)
        self._signalled = Signalled(options.pidfile, "USR2", proc)
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        self._last: _Scene | None = None
        self._written: bytes | None = None  # by us, with a reload under way
        self._generation = 0
        self._short_since_s: float | None = None
        self.endpoint = f"php-fpm pool {options.pool}, {options.config}, pidfile {options.pidfile}"

    async def read(self) -> Applied:
        """The workers, or their limit. Raises PlantFault naming the file and the reason."""
        try:
            scene, news = self._look()
        except PlantFault:
            await asyncio.sleep(_POLL_S)  # a reload writes the pidfile anew
            scene, news = self._look()
        end = time.monotonic() + _SETTLE_S
        while (short := self._short(scene)) and time.monotonic() < end:
            await asyncio.sleep(_POLL_S)
            scene, more = self._look()
            news += more
        self._bear(short)
        pool = self._in_force(scene)
        if scene.loaded != scene.held.text:
            news.append(f"{scene.held.path} was edited after the last reload, and is not in force")
        return Applied(
            setting=setting(**{_KNOB: scene.workers if pool.static else pool.size}),
            epoch=f"{scene.pid}:{scene.start}:{self._generation}",
            detail="; ".join([*news, short] if short else news),
        )

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Write and reload. Applied when php-fpm has reloaded and its workers are there.

        Failed when that takes longer than `reload_timeout`. Refused, with all as it was, when it is
        not allowed, would lose requests, or is not what `php-fpm -t` accepts.
        """
        async with self._lock:
            return await outcome(self.endpoint, decision_tick, self._move(wanted[_KNOB]))

    async def close(self) -> None:
        """Nothing is kept open."""

    # What is there

    def _look(self) -> tuple[_Scene, list[str]]:
        """The pool now, and what has happened since the last look. Raises PlantFault."""
        options = self._options
        noted = read_pidfile(options.pidfile)
        start = self._proc.start_of(noted.pid)
        if start is None:
            raise PlantFault(f"pidfile {options.pidfile}: process {noted.pid} is not running")
        held = read_file(options.config)
        last, news = self._last, []
        if last is not None and last.incarnation == (noted.pid, start, noted.stamp):
            loaded = last.loaded
        else:
            loaded = self._loaded(held, noted)
            if last is None or (last.pid, last.start) != (noted.pid, start):
                self._generation = 0
                news += ["php-fpm was restarted"] if last is not None else []
            elif self._written is None or loaded != self._written:
                self._generation += 1
                news.append("php-fpm was reloaded")
            self._written = None
        self._last = _Scene(
            pid=noted.pid,
            start=start,
            stamp=noted.stamp,
            held=held,
            loaded=loaded,
            workers=self._workers(noted.pid),
        )
        return self._last, news

    def _loaded(self, held: Held, noted: Pidfile) -> bytes | None:
        """The file as php-fpm last read it, which it does before it writes its pidfile."""
        _, reloaded_ns = noted.stamp
        if held.seen.st_mtime_ns <= reloaded_ns:
            return held.text
        with contextlib.suppress(PlantFault):
            before = read_file(str(_before(held)))
            if before.seen.st_mtime_ns <= reloaded_ns:
                return before.text
        return None

    def _workers(self, master: int) -> int:
        """The pool's processes, which name themselves. Raises PlantFault."""
        path = Path(f"{self._root}/{master}/task/{master}/children")
        title = f"php-fpm: pool {self._options.pool}".encode()
        count = 0
        try:
            for pid in path.read_text(encoding="ascii").split():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    said = Path(f"{self._root}/{pid}/cmdline").read_bytes()
                    count += said.rstrip(b"\0 ") == title
        except OSError as error:
            raise PlantFault(f"{path}: {error.strerror}") from error
        return count

    def _in_force(self, scene: _Scene) -> Pool:
        """Raises PlantFault when it cannot be told, or when there is no such pool."""
        options = self._options
        pool = parse_pool(scene.loaded or scene.held.text, options.config, options.pool)
        if scene.loaded is None and not pool.static:
            raise PlantFault(
                f"{options.config} was edited after the last reload, and what was in force before "
                "is not known: reload php-fpm"
            )
        return pool

    def _short(self, scene: _Scene) -> str:
        """What is missing of the workers that there should be, in words."""
        pool = self._in_force(scene)
        if pool.static and scene.loaded is not None and scene.workers != pool.size:
            return f"{scene.workers} of {pool.size} workers are there"
        return ""

    def _bear(self, short: str) -> None:
        """Raises PlantFault while a reload may be under way: nobody takes requests meanwhile."""
        now = time.monotonic()
        if not short:
            self._short_since_s = None
            return
        self._short_since_s = self._short_since_s or now
        if now - self._short_since_s < self._options.reload_timeout or short.startswith("0 "):
            raise PlantFault(f"{self.endpoint}: {short}: a reload is under way, or it cannot fork")

    # Moving

    async def _move(self, goal: int) -> None:
        if goal < 1:
            raise Refusal(f"{goal} workers: a service keeps at least one")
        scene = self._recovered(await self._until_there())
        if scene.loaded != scene.held.text == self._written:
            await self._until_reloaded(scene)  # of a move that was broken off once it had signalled
            scene = await self._until_there()
        pool = self._in_force(scene)
        if pool.size != goal:
            self._check(scene)
            await self._write(scene.held, pool, goal)
            await self._until_reloaded(scene)
        scene = await self._until_there()
        if self._in_force(scene).size != goal:
            raise PlantFault(f"{self._in_force(scene).size} workers after the reload: another hand")

    def _check(self, scene: _Scene) -> None:
        """Refuse what would lose requests, or put others' edits in force."""
        options = self._options
        main = read_file(options.main_config)
        if not has_grace(main.text):
            raise Refusal(
                f"not reloading: {options.main_config} has no process_control_timeout above 0 in "
                "[global], so a reload would cut off what is being served (502): set it to more "
                "than the longest request takes, and reload php-fpm"
            )
        _, reloaded_ns = scene.stamp
        beside = sorted(scene.held.path.parent.glob("*.conf"))
        edited = [
            str(path)
            for path in (main.path, *beside)
            if path != scene.held.path and path.stat().st_mtime_ns > reloaded_ns
        ]
        if scene.loaded != scene.held.text:
            edited.append(str(scene.held.path))
        if edited:
            raise Refusal(
                f"not reloading: {', '.join(edited)} was edited after the last reload, which would "
                "put that in force as well: reload php-fpm when it is meant"
            )

    async def _write(self, held: Held, pool: Pool, goal: int) -> None:
        """Write, check, signal: all of it, or the old file is back."""
        before, text = _before(held), pool.resized(goal)
        with self._signalled.ready() as send:
            try:
                before.unlink(missing_ok=True)  # of a move that was cut short; no longer in force
                before.hardlink_to(held.path)
            except OSError as error:
                raise Refusal(
                    f"{before}: {error.strerror}: poolwright must own the file, or have "
                    "CAP_FOWNER, and be allowed to write in its folder"
                ) from error
            try:
                replaced(held, text)
                await self._accepted()
                self._written = text
                send()
            except BaseException:  # also when cancelled
                self._written = None
                with contextlib.suppress(OSError):
                    before.replace(held.path)  # the same inode: not even its time has changed
                raise
            finally:
                with contextlib.suppress(OSError):
                    before.unlink(missing_ok=True)

    def _recovered(self, scene: _Scene) -> _Scene:
        """Take back what a daemon that was killed had written and not yet signalled.

        Only if nobody has edited the file since: but for the digits it is still its old self.
        """
        before, held = _before(scene.held), scene.held
        if scene.loaded in {None, held.text} or not before.exists():
            return scene
        assert scene.loaded is not None
        old = parse_pool(scene.loaded, str(before), self._options.pool)
        now = parse_pool(held.text, str(held.path), self._options.pool)
        if old.resized(now.size) == held.text and read_file(str(before)).text == scene.loaded:
            try:
                before.replace(held.path)
            except OSError as error:
                raise Refusal(f"{held.path}: cannot be put back: {error.strerror}") from error
        return self._look()[0]

    async def _accepted(self) -> None:
        """Raises Refusal with php-fpm's own words unless it accepts its files."""
        options = self._options
        argv = (options.binary, "-t", "-y", options.main_config)
        try:
            ended = await Program({}).run(argv, _CHECK_S)
        except PermissionError as error:
            raise Refusal(f"{options.binary}: {error.strerror}") from error
        if ended.status:
            raise Refusal(f"not reloading, the old file is back: {ended}")

    async def _until_reloaded(self, before: _Scene) -> None:
        """Wait for another pidfile of the same master. Raises PlantFault."""
        end = time.monotonic() + self._options.reload_timeout
        while True:
            late = "it has not reloaded"
            try:
                scene, _ = self._look()
            except PlantFault as fault:  # it takes its pidfile away for a moment
                late = str(fault)
            else:
                if (scene.pid, scene.start) != (before.pid, before.start):
                    raise PlantFault("php-fpm was restarted during the move")
                if scene.stamp != before.stamp:
                    return
            if time.monotonic() > end or self._proc.start_of(before.pid) is None:
                raise PlantFault(f"after SIGUSR2 to process {before.pid}: {late}")
            await asyncio.sleep(_POLL_S)

    async def _until_there(self) -> _Scene:
        """Wait until a reload is over. Raises PlantFault when it does not come to an end."""
        end = time.monotonic() + self._options.reload_timeout
        while True:
            scene, _ = self._look()
            short = self._short(scene)
            if not short:
                return scene
            if time.monotonic() > end:
                raise PlantFault(f"{short} after {self._options.reload_timeout:g} s")
            await asyncio.sleep(_POLL_S)


def _before(held: Held) -> Path:
    """Where the file's old self is during a move; no `*.conf` of an include matches it."""
    return held.path.with_name(f".{held.path.name}.poolwright-before")
