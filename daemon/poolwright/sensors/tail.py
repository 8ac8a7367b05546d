"""Follows a log file through rotations, line by line, within a budget of time and memory.

By rename (logrotate's default): the old file is read on until nothing more comes to it, for its
writers change over one by one. By copytruncate: a file that has become shorter, or does not hold
any more what was read last, is read from its beginning; what was written between copy and cut is
lost, which the tick says. What comes faster than it can be read is skipped and counted, so that a
tick is never late and numbers are never of some time ago.
"""

import asyncio
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from poolwright.core.errors import PlantFault

MOST_LINE_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_MARK_BYTES = 64  # of what was read last, to notice a file that was cut and has grown again
_LINGER_S = 5.0  # a file that was renamed and has not grown for so long is done with
_MOST_FILES = 3

Take = Callable[[bytes], None]


@dataclass(slots=True)
class Look:
    """What happened besides lines."""

    skipped_bytes: int = 0  # came faster than they could be read
    long_lines: int = 0  # over MOST_LINE_BYTES; not given
    cut: bool = False  # the file was truncated: some lines may be lost


@dataclass(slots=True, eq=False)
class _Followed:
    """One file that is open."""

    handle: int
    identity: tuple[int, int]
    offset: int = 0
    rest: bytes = b""  # of a line that has no end yet
    inside: bool = False  # within a line that is not given, until its end
    mark: bytes = b""
    grown_s: float = 0.0


class Tail:
    """One path. `budget_s`: how long a `read` may work."""

    def __init__(self, path: str, budget_s: float) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._budget_s = budget_s
        self._files: list[_Followed] = []  # the present one last

    def start(self) -> None:
        """Open the file at its end; one that is not there yet will be read from its beginning.

        Raises PlantFault naming it when it cannot be read.
        """
        opened = self._open()
        if opened is not None:
            opened.offset = os.fstat(opened.handle).st_size
            opened.mark = _mark(opened)
            opened.inside = not opened.mark.endswith(b"\n") and opened.offset > 0
            opened.grown_s = time.monotonic()
            self._files = [opened]

    def close(self) -> None:
        """Let go of all files. May be called twice."""
        for one in self._files:
            os.close(one.handle)
        self._files = []

    async def read(self, take: Take) -> Look:
        """Give every whole line since the last read to `take`, which must not raise.

        Raises PlantFault when the path cannot be read; not there for a moment is no fault while
        a file that was there is still open.
        """
        look = Look()
        until_s = time.perf_counter() + self._budget_s
        now_s = time.monotonic()
        opened = self._open()
        if opened is not None:
            self._files.append(opened)
            for one in self._files[-2:]:  # whoever writes may go on for a moment in the old one
                one.grown_s = now_s
        if not self._files:
            raise PlantFault(f"{self._path}: is not there")
        try:
            for one in self._files:
                await self._follow(one, take, look, until_s, now_s)
        except OSError as error:
            raise PlantFault(f"{self._path}: {error.strerror}") from error
        self._let_go(now_s)
        return look

    def _open(self) -> _Followed | None:
        """The file at the path when it is not followed yet. Raises PlantFault."""
        try:
            seen = os.stat(self._path)  # noqa: PTH116
            if any(one.identity == (seen.st_dev, seen.st_ino) for one in self._files):
                return None
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            cure = ": add poolwright to its group" if isinstance(error, PermissionError) else ""
            raise PlantFault(f"{self._path}: {error.strerror}{cure}") from error
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode):
            os.close(handle)
            raise PlantFault(f"{self._path}: is no regular file")
        return _Followed(handle=handle, identity=(seen.st_dev, seen.st_ino))

    async def _follow(
        self, one: _Followed, take: Take, look: Look, until_s: float, now_s: float
    ) -> None:
        size = os.fstat(one.handle).st_size
        if size < one.offset or _mark(one) != one.mark:
            look.cut = True
            one.offset, one.rest, one.inside = 0, b"", False
        began = one.offset
        while chunk := os.pread(one.handle, _CHUNK_BYTES, one.offset):
            if time.perf_counter() > until_s:
                end = os.fstat(one.handle).st_size
                look.skipped_bytes += max(0, end - one.offset)
                one.offset, one.rest, one.inside = end, b"", True
                break
            one.offset += len(chunk)
            _split(one, chunk, take, look)
            await asyncio.sleep(0)  # the rest of the tick goes on
        if one.offset != began:
            one.grown_s = now_s
        one.mark = _mark(one)

    def _let_go(self, now_s: float) -> None:
        """Close what was renamed or deleted and has ended; a deleted file takes up the disk."""
        *old, present = self._files
        if os.fstat(present.handle).st_nlink == 0:
            old.append(present)
        kept = [one for one in old if now_s - one.grown_s <= _LINGER_S][-_MOST_FILES:]
        for one in old:
            if one not in kept:
                os.close(one.handle)
        self._files = kept if present in old else [*kept, present]


def _split(one: _Followed, chunk: bytes, take: Take, look: Look) -> None:
    if one.inside:
        _, newline, chunk = chunk.partition(b"\n")
        if not newline:
            return
        one.inside = False
    lines = (one.rest + chunk).split(b"\n")
    one.rest = lines.pop()
    for line in lines:
        if len(line) > MOST_LINE_BYTES:
            look.long_lines += 1
        else:
            take(line.lstrip(b"\0"))  # a writer without O_APPEND leaves a hole after a truncation
    if len(one.rest) > MOST_LINE_BYTES:
        look.long_lines += 1
        one.rest, one.inside = b"", True


def _mark(one: _Followed) -> bytes:
    """What stands right before where we have got to."""
    length = min(_MARK_BYTES, one.offset)
    return os.pread(one.handle, length, one.offset - length)
