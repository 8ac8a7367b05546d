"""A signal to the process that a pidfile names, to no other, and only if it handles it."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from poolwright.actuators.gunicorn_proc import Proc, read_pidfile
from poolwright.actuators.outcome import Refusal
from poolwright.core.errors import PlantFault


class Signalled:
    """Whom to tell that a file has changed."""

    def __init__(self, pidfile: str, name: str, proc: str = "/proc") -> None:
        """`name` is that of a signal without SIG."""
        self._pidfile = pidfile
        self._number = signal.Signals[f"SIG{name}"]
        self._root = proc
        self._proc = Proc(proc)

    def epoch(self) -> str:
        """Who it is, also when the kernel has used its number again. Raises PlantFault."""
        pid = read_pidfile(self._pidfile).pid
        return f"{pid}:{self._start_of(pid)}"

    @contextmanager
    def ready(self) -> Iterator[Callable[[], None]]:
        """Look up and check the process, pin it by a handle; gives what sends the signal.

        Raises PlantFault, and Refusal when we may not; so does what is given.
        """
        pid = read_pidfile(self._pidfile).pid
        try:
            handle = os.pidfd_open(pid)
        except OSError as error:
            raise PlantFault(f"pidfile {self._pidfile}: process {pid}: {error.strerror}") from error

        def send(number: int = self._number) -> None:
            try:
                signal.pidfd_send_signal(handle, number)
            except PermissionError as error:
                raise Refusal(
                    f"{self._number.name} to process {pid}: {error.strerror}; to allow it, give "
                    "poolwright CAP_KILL or the service's user"
                ) from error
            except OSError as error:
                raise PlantFault(f"process {pid}: {error.strerror}") from error

        try:
            # The handle pins the process: what is true of it now is true of whom is signalled.
            if read_pidfile(self._pidfile).pid != pid:
                raise PlantFault(f"pidfile {self._pidfile} is just being written: not signalled")
            if not self._handles(pid):  # the default action would end it: signal(7)
                raise PlantFault(
                    f"process {pid} of pidfile {self._pidfile} does not handle "
                    f"{self._number.name}: not signalled"
                )
            send(0)  # may we?
            yield send
        finally:
            os.close(handle)

    def _start_of(self, pid: int) -> int:
        start = self._proc.start_of(pid)
        if start is None:
            raise PlantFault(f"pidfile {self._pidfile}: process {pid} is not running")
        return start

    def _handles(self, pid: int) -> bool:
        """Whether it catches the signal, or blocks it and reads it (signalfd, sigwait)."""
        try:
            text = Path(f"{self._root}/{pid}/status").read_text(errors="replace")
        except OSError as error:
            raise PlantFault(f"process {pid}: {error.strerror}") from error
        masks = (line.split() for line in text.splitlines() if line[:7] in {"SigCgt:", "SigBlk:"})
        return any(int(words[1], 16) >> (self._number - 1) & 1 for words in masks)
