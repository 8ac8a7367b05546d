"""`poolwright top` on a terminal: looks at the daemon from a thread, waits for keys, draws."""

import io
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from poolwright.cli.status import latest
from poolwright.cli.top_view import View, picture
from poolwright.core.errors import PlantFault
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.journal.query import DecisionRow, JournalReader
from poolwright.surface.account import Story
from poolwright.surface.explain import explain, text
from poolwright.surface.story import tell

_SEQUENCES = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}
_EXIT_GONE = 3
_STILL_S = 5.0  # a look that takes longer than this and two intervals: what is shown is old


class Screen:
    """One terminal, for as long as the person looks."""

    def __init__(self, url: str, journal: Path, interval_s: float, count: int | None) -> None:
        """Watch the daemon at `url`; explanations come from `journal`."""
        self._view = View(url=url)
        self._journal = journal
        self._interval_s = interval_s
        self._count = count
        self._seen: deque[tuple[Snapshot | None, str]] = deque()
        self._stop = threading.Event()
        self._woken, self._wake = os.pipe()
        self._live_s = time.monotonic()  # when the daemon was last seen

    def run(self) -> int:
        """Until `q`, or the count is reached. 3 when the daemon could not be seen last."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode
        console = Console()
        signal.signal(signal.SIGWINCH, lambda *_: self._rouse())
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        looking = threading.Thread(target=self._look, name="look", daemon=True)
        with (
            _keys_one_by_one(sys.stdin.fileno()),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            looking.start()
            try:
                while self._step(console, live):
                    pass
            finally:
                self._stop.set()
        return 0 if self._view.snapshot is not None else _EXIT_GONE

    def _look(self) -> None:
        """Ask the daemon again and again; runs in its own thread, so that keys never wait."""
        looks = 0
        while not self._stop.is_set():
            try:
                snapshot, _, stale = latest(self._view.url)
                found = (None, stale) if stale else (snapshot, "")
            except PlantFault as fault:
                found = (None, str(fault))
            self._seen.append(found)
            self._rouse()
            looks += 1
            if looks == self._count:
                self._stop.set()
                self._rouse()
                return
            self._stop.wait(self._interval_s)

    def _rouse(self) -> None:
        os.write(self._wake, b"x")

    def _step(self, console: Console, live: Live) -> bool:
        """Draw, wait for a key, a look or a new size, and obey; False: leave."""
        # rich would believe an exported COLUMNS, which no new size of the terminal changes
        console.size = width, height = os.get_terminal_size(sys.stdout.fileno())
        blocks = "utf" in console.encoding.lower()
        live.update(picture(self._view, width, height, blocks=blocks), refresh=True)
        ready, _, _ = select.select([sys.stdin, self._woken], [], [], self._interval_s)
        if self._woken in ready:
            os.read(self._woken, 4096)
        while self._seen:
            self._view.see(*self._seen.popleft())
            if self._view.snapshot is not None:
                self._live_s = time.monotonic()
        self._view.gone_s = time.monotonic() - self._live_s
        if self._view.gone_s > _STILL_S + 2 * self._interval_s and self._view.snapshot is not None:
            self._view.see(None, "no answer yet")
        if self._stop.is_set():
            return False
        keys = os.read(sys.stdin.fileno(), 1024) if sys.stdin in ready else b"\0"
        return bool(keys) and all(self._pressed(key, height) for key in _named(keys))

    def _pressed(self, key: str, height: int) -> bool:
        if key in {"d", "enter"} and self._view.pool is not None:
            explaining = self._view.page == "explain"
            self._view.page = "pools" if explaining else "explain"
            if not explaining:
                self._view.lines, self._view.top = self._why(self._view.pool), 0
            return True
        return self._view.press(key, height)

    def _why(self, name: str) -> tuple[str, ...]:
        """The last move of the journal explained; without a journal, what is decided now."""
        try:
            with JournalReader(self._journal) as reader, reader.one_moment():
                return tuple(text(explain(tell(reader, _last(reader, name)))).splitlines())
        except PlantFault as fault:
            pools = self._view.snapshot.pools if self._view.snapshot else ()
            pool = next((pool for pool in pools if pool.pool == name), None)
            why = f"The journal cannot be asked ({fault}; see --journal)"
            if pool is None:
                return (f"{why}, and the daemon is not there.",)
            return (f"{why}; this is of the newest tick alone.", "", *_now(pool))


def _last(reader: JournalReader, name: str) -> DecisionRow:
    """The last decision that moved something, else the last notable one."""
    row = reader.newest_decision(name, moves=True) or reader.newest_decision(name)
    if row is None:
        raise PlantFault(f"{reader.path}: it has no decision of pool {name!r}")
    return row


def _now(pool: PoolSnapshot) -> list[str]:
    story = Story(
        pool=pool.pool,
        wall_ns=pool.tick.wall_ns,
        decision=pool.decision,
        policy=pool.policy,
        tick=pool.tick,
        plan=pool.plan,
    )
    return text(explain(story)).splitlines()


def _named(keys: bytes) -> Iterator[str]:
    """Keys by name; what is not known is passed over."""
    while keys:
        sequence = keys[:3]
        if sequence in _SEQUENCES:
            yield _SEQUENCES[sequence]
            keys = keys[3:]
            continue
        first, keys = keys[:1], keys[1:]
        if first == b"\x1b":
            if keys[:1] in {b"[", b"O"}:  # of a key that means nothing here
                keys = keys[1:].lstrip(b"0123456789;")[1:]
                continue
            yield "esc"
        elif first in {b"\r", b"\n"}:
            yield "enter"
        else:
            yield first.decode(errors="ignore")


@contextmanager
def _keys_one_by_one(descriptor: int) -> Iterator[None]:
    """No echo, no waiting for Enter, no stopping in the middle of a picture; put back after."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        now = termios.tcgetattr(descriptor)
        now[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(descriptor, termios.TCSANOW, now)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
