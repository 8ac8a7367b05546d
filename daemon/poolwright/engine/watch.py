"""Noticing that the configuration or a policy has changed on disk.

Folders are watched, not files: editors and configuration management put a new file in the place of
the old one, and Kubernetes turns a symbolic link. Whatever is reported, what counts is whether the
content differs, which is also looked at now and then, for filesystems that report nothing.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_CALM_MS = 100  # so long without a further change, and the editor has done
_CALM_MOST_MS = 1000
_LOOK_S = 2.0
_LINKS_MOST = 40  # as the kernel
_SUFFIXES = (".yaml", ".yml")
_LOG = logging.getLogger("poolwright")


async def watch(
    places: Callable[[], Iterable[Path]], look: Callable[[], None], stop: asyncio.Event
) -> None:
    """Call `look` after every change near `places`, and at least every two seconds, until `stop`.

    `places` may change meanwhile. It never raises: what cannot be watched is looked at.
    """
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    told = ""
    while not stop.is_set():
        near = folders(places())
        try:
            await _changes(near, places, look, stop)
            told = ""
        except (OSError, RuntimeError) as error:  # no inotify instance left, a folder that vanished
            if str(error) != told:
                _LOG.warning("policies are looked at every %g s: %s", _LOOK_S, error)
            told = str(error)
            look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await stop.wait()


async def _changes(
    near: frozenset[Path],
    places: Callable[[], Iterable[Path]],
    look: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    """Until `stop`, or until other folders are to be watched.

    In a thread of our own: watchfiles' own way with asyncio costs 1.4 MB more, of anyio.
    """
    from watchfiles import watch as changes_of  # noqa: PLC0415 - 1 MB, for those who want it

    ended = _Ended(stop)
    changes = changes_of(
        *sorted(near),
        watch_filter=None,
        recursive=False,
        step=_CALM_MS,
        debounce=_CALM_MOST_MS,
        rust_timeout=round(_LOOK_S * 1e3),
        yield_on_timeout=True,
        raise_interrupt=False,
        stop_event=ended,
    )
    thread = ThreadPoolExecutor(1, "watch")
    try:
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(thread, next, changes, None) is not None:
            look()
            if folders(places()) != near:
                return
    finally:
        ended.early = True
        thread.submit(changes.close)
        thread.shutdown(wait=False)


class _Ended:
    """What the thread asks every `_CALM_MS`: whether it is over, or we have gone `early`."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.early = False
        self._stop = stop

    def is_set(self) -> bool:
        """As an Event's."""
        return self.early or self._stop.is_set()


def folders(places: Iterable[Path]) -> frozenset[Path]:
    """The folders in which something happens when one of `places` changes, that may be read.

    Of a symbolic link both ends; of what does not exist, the nearest folder that does.
    """
    found: set[Path] = set()
    for place in places:
        found |= _trail(place)
    return frozenset(folder for folder in found if os.access(folder, os.R_OK))


def stamps(places: Iterable[Path]) -> dict[Path, str]:
    """A digest of each file's content, also of the YAML files of each folder."""
    found: dict[Path, str] = {}
    for place in places:
        found[place] = _stamp(place)
        if found[place] != "folder":
            continue
        with contextlib.suppress(OSError):  # it went away: the next look says so
            found |= {p: _stamp(p) for p in place.iterdir() if p.suffix in _SUFFIXES}
    return found


def _stamp(path: Path) -> str:
    """Of a file its digest; of anything else what it is, and why it cannot be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return "folder"
        if not stat.S_ISREG(mode):
            return "no file"  # to read a pipe would wait for ever
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        return error.strerror or str(error)


def _trail(place: Path) -> set[Path]:
    """The folders on the way to `place` whose entries decide what it is."""
    found: set[Path] = set()
    here, rest, links = Path(place.anchor), deque(place.parts[1:]), 0
    while rest:
        part = rest.popleft()
        step = here.parent if part == ".." else here / part
        if stat.S_ISLNK(_mode(step, follow=False)):
            found.add(here)
            links += 1
            goal = _goal(step)
            if goal is None or links > _LINKS_MOST:
                break
            rest.extendleft(reversed(goal.parts[1:] if goal.is_absolute() else goal.parts))
            here = Path(goal.anchor) if goal.is_absolute() else here
            continue
        mode = _mode(step, follow=True)
        if not rest or not mode:
            found.add(here)
            if stat.S_ISDIR(mode):
                found.add(step)
            break
        here = step
    return found


def _mode(path: Path, *, follow: bool) -> int:
    """What `path` is; 0 for what is not there, or may not be seen."""
    try:
        return path.stat(follow_symlinks=follow).st_mode
    except OSError:
        return 0


def _goal(link: Path) -> Path | None:
    """Where a symbolic link leads; None when it has gone meanwhile."""
    try:
        return link.readlink()
    except OSError:
        return None
