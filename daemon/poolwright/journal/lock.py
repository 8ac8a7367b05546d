"""One writer a journal: an exclusive lock on a side file, which names its holder."""

import fcntl
import os
from pathlib import Path

from poolwright.core.errors import PlantFault


class WriterLock:
    """Held from construction until `release` or the death of the process, however it dies.

    The side file stays: removing it would let two processes lock two files of one name.
    """

    def __init__(self, journal: Path) -> None:
        """Take the lock. PlantFault, naming the holder, when another process has it."""
        self.path = journal.with_name(journal.name + ".lock")
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise PlantFault(f"{self.path}: cannot open the lock file: {error}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            self._fd = -1
            if not isinstance(error, BlockingIOError):
                raise PlantFault(f"{self.path}: cannot lock: {error}") from error
            raise PlantFault(
                f"{journal}: in use by another poolwright (process {holder}); "
                "stop it, or give this one its own journal"
            ) from error
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise PlantFault(f"{self.path}: cannot write the lock file: {error}") from error

    def release(self) -> None:
        """Let another have it. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
