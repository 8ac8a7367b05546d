"""Replaces a file so that whoever reads it sees the old one or the new one, whole, also after a
power cut; owner, mode and extended attributes (ACLs, labels) stay.
"""

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from poolwright.actuators.outcome import Refusal
from poolwright.core.errors import PlantFault

_MOST_BYTES = 1024 * 1024
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A file as it was read."""

    path: Path  # where it really is, behind symbolic links
    text: bytes
    seen: os.stat_result

    @property
    def stamp(self) -> tuple[int, int, int]:
        """Another one for every way of writing the file."""
        return self.seen.st_ino, self.seen.st_mtime_ns, self.seen.st_size


def read_file(path: str) -> Held:
    """The regular file at `path`, of at most 1 MiB. Raises PlantFault naming it."""
    real = os.path.realpath(path)
    try:
        file = os.open(real, os.O_RDONLY | os.O_NONBLOCK | _FLAGS)
        try:
            seen = os.fstat(file)
            regular = stat.S_ISREG(seen.st_mode)
            text = _all(file) if regular else b""
        finally:
            os.close(file)
    except OSError as error:
        raise PlantFault(f"{path}: {error.strerror}") from error
    if not regular:
        raise PlantFault(f"{path}: is no regular file")
    if len(text) > _MOST_BYTES:
        raise PlantFault(f"{path}: is longer than {_MOST_BYTES} bytes")
    return Held(path=Path(real), text=text, seen=seen)


def replaced(held: Held, text: bytes) -> Held:
    """Put `text` in the place of `held`; what is there now.

    Raises Refusal when that is not allowed, PlantFault when it fails or when the file is not the
    one that was read any more. In both cases the file is as it was.
    """
    path = held.path
    beside = path.with_name(f".{path.name}.poolwright")  # no `*.conf` of an include matches it
    try:
        beside.unlink(missing_ok=True)  # of a daemon that was killed; an own name, so ours
        try:
            _write(beside, text, held)
            _unwritten(held)
            beside.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except PermissionError as error:
        raise Refusal(
            f"{path}: {error.strerror}: allow poolwright to write in {path.parent} "
            "(ReadWritePaths= of its unit), and to give the file its owner (CAP_CHOWN)"
        ) from error
    except OSError as error:
        raise PlantFault(f"{path}: {error.strerror}; left as it was") from error
    return read_file(str(path))


def _unwritten(held: Held) -> None:
    """Raises PlantFault when the file is not the one that was read any more."""
    if read_file(str(held.path)).stamp != held.stamp:
        raise PlantFault(f"{held.path}: somebody else has just written it; left alone")


def _write(beside: Path, text: bytes, held: Held) -> None:
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    try:
        now = os.fstat(file)
        if (now.st_uid, now.st_gid) != (held.seen.st_uid, held.seen.st_gid):
            os.fchown(file, held.seen.st_uid, held.seen.st_gid)
        for name in os.listxattr(held.path):
            # a label of SELinux is the kernel's to give where it is not ours
            allowed = (OSError,) if name.startswith("security.") else ()
            with contextlib.suppress(*allowed):
                os.setxattr(file, name, os.getxattr(held.path, name))
        os.fchmod(file, stat.S_IMODE(held.seen.st_mode))  # last: chown takes set-user-id away
        left = memoryview(text)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    """The rename itself outlives a power cut."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _all(file: int) -> bytes:
    text = bytearray()
    while len(text) <= _MOST_BYTES and (piece := os.read(file, 65536)):
        text += piece
    return bytes(text)
