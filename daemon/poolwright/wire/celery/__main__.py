"""The child: an Ask a line on standard input, an Answer a line on standard output.

Its first line is a Place. It ends at the end of its input, and with its parent, whose process id is
the one argument. However it ends, short of SIGKILL, it lets a worker that it has stopped from
taking tasks take them again (`quiet`).
"""

import ctypes
import os
import resource
import select
import signal
import sys
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_MOST_BYTES = 512 * 2**20  # of memory: what a broker sends is not ours to bound


def _bind_to(parent: int) -> None:
    """End when `parent` ends."""
    signal.signal(signal.SIGTERM, _end)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(f"celery: parent {parent} is gone")
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))


def _end(_number: int, _frame: Any) -> NoReturn:
    raise SystemExit(0)


class _Input:
    """Lines of standard input, waited for with patience."""

    def __init__(self) -> None:
        self._left = b""

    def line(self, within_s: float | None) -> bytes | None:
        """The next line; empty at the end of input, None when it is late."""
        while b"\n" not in self._left:
            if not select.select([0], [], [], within_s)[0]:
                return None
            read = os.read(0, 65_536)
            if not read:
                return b""
            self._left += read
        line, _, self._left = self._left.partition(b"\n")
        return line


def main() -> None:
    """Serve until end of input."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        raise SystemExit("usage: python -m poolwright.wire.celery PARENT_PID (by poolwright)")
    _bind_to(int(sys.argv[1]))
    try:
        from poolwright.wire.celery.serve import Server  # noqa: PLC0415  kombu takes its time
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is missing: pip install 'poolwright[celery]'") from error
    from poolwright.wire.celery.messages import Ask, Place, decode, encode  # noqa: PLC0415

    lines = _Input()
    server = Server(decode(lines.line(None) or b"", Place))
    try:
        while True:
            line = lines.line(server.patience_s())
            if line is None:
                server.tire()
            elif not line:
                break
            else:
                sys.stdout.buffer.write(encode(server.answer(decode(line, Ask))))
                sys.stdout.buffer.flush()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        server.close()


if __name__ == "__main__":
    main()
