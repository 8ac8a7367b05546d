"""What the journal knows of the last day, made into histories by a child process.

A day of a pool is 86,400 ticks and some seconds of work; the control process has other things to
do. The child answers in frames, what is newest of every pool first.
"""

import asyncio
import contextlib
import logging
import os
import struct
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from poolwright.core.derive import Deriver
from poolwright.core.errors import PlantFault
from poolwright.core.model import Decision, Tick
from poolwright.core.policy import Policy
from poolwright.core.sample import Sample
from poolwright.engine.snapshot import Recent, RecentLatency
from poolwright.journal.query import JournalReader
from poolwright.surface.book import Book
from poolwright.surface.history import STEPS, History, row_of
from poolwright.surface.point import point

_LATENCY_EVERY_S = 5.0  # it looks back ten seconds: no request is missed
_LENGTH = struct.Struct("<I")
_FRAME_MOST = 16 << 20
_LOG = logging.getLogger("poolwright")


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """The buckets of one level of one pool, as machine values: both ends are of one host."""

    pool: str
    level: int  # of `history.STEPS`
    buckets: bytes
    columns: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class _Past:
    """A tick out of the journal, as `point` wants it."""

    pool: str
    policy: Policy
    tick: Tick
    sample: Sample
    recent: Recent
    decision: Decision


async def refill(book: Book, journal: Path, pools: list[str]) -> None:
    """Add to the histories what the journal knows. Logs what goes wrong; nothing depends on it."""
    command = (sys.executable, "-P", "-m", "poolwright.surface.past", str(journal), *pools)
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        while frame := await _next(child.stdout):
            found = book.histories.setdefault(frame.pool, History()).levels[frame.level]
            buckets = array("q")
            buckets.frombytes(frame.buckets)
            columns = {name: array("f") for name in frame.columns}
            for name, column in columns.items():
                column.frombytes(frame.columns[name])
            found.fill(buckets, columns)
        said = (await child.stderr.read(4096)).decode(errors="replace").strip()
        if await child.wait():
            _LOG.warning("the charts begin now: %s", said.rpartition("\n")[2])
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


async def _next(stream: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end, also in the middle of one."""
    try:
        (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
        if length > _FRAME_MOST:
            return None
        return msgspec.msgpack.decode(await stream.readexactly(length), type=Frame)
    except (asyncio.IncompleteReadError, msgspec.DecodeError):
        return None


def histories(reader: JournalReader, pool: str, since_s: float) -> History:
    """One pool's history from a time on."""
    found = History()
    wall_ns = int(since_s * 1e9)
    for run in reader.runs(pool):
        if run.ended_wall_ns is not None and run.ended_wall_ns < wall_ns:
            continue
        policy, _ = reader.start_of(run.id)
        derive, recent, told_s = Deriver(), RecentLatency(), 0.0
        fine_s = time.time() - STEPS[0][0] * STEPS[0][1]
        for step in reader.steps_since(run.id, wall_ns):
            sample = derive.derive(step.tick)
            recent.see(sample)
            at_s = step.tick.wall_ns / 1e9
            latency = Recent()
            if at_s >= fine_s or at_s - told_s >= _LATENCY_EVERY_S or at_s < told_s:
                latency, told_s = recent.summary(), at_s
            past = _Past(pool, policy, step.tick, sample, latency, step.decision)
            found.put(at_s, row_of(point(past)))
    return found


def frames(reader: JournalReader, pools: list[str], now_s: float) -> Iterator[Frame]:
    """The last minutes of all pools, then the rest of the day."""
    for levels in (STEPS[:1], STEPS):
        since_s = now_s - max(step_s * slots for step_s, slots in levels)
        for pool in pools:
            for index, level in enumerate(histories(reader, pool, since_s).levels[: len(levels)]):
                buckets = level.kept(since_s, now_s)
                columns = {name: array("f", level.column(name, buckets)) for name in level.columns}
                yield Frame(
                    pool=pool,
                    level=index,
                    buckets=array("q", buckets).tobytes(),
                    columns={name: column.tobytes() for name, column in columns.items()},
                )


def main(out: BinaryIO) -> None:
    """Answer `python -m poolwright.surface.past JOURNAL POOL...`."""
    os.nice(19)
    path, *pools = sys.argv[1:]
    try:
        with JournalReader(Path(path)) as reader:
            for frame in frames(reader, pools, time.time()):
                data = msgspec.msgpack.encode(frame)
                out.write(_LENGTH.pack(len(data)) + data)
                out.flush()
    except PlantFault as fault:
        raise SystemExit(str(fault)) from fault


if __name__ == "__main__":
    main(sys.stdout.buffer)
