"""The learner process: a FitRequest a line on standard input, a Reply a line on standard output.

Ends at end of input. Dies with its parent, whose process id is the one argument.
"""

import ctypes
import os
import signal
import sys
import time
from dataclasses import replace

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_NICE = 10


def _bind_to(parent: int) -> None:
    """Die when `parent` dies, and give way to everything else on the host."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(f"learner: parent {parent} is gone")
    os.nice(_NICE)


def main() -> None:
    """Serve until end of input."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        raise SystemExit("usage: python -m poolwright.learn PARENT_PID  (started by poolwright)")
    _bind_to(int(sys.argv[1]))

    from poolwright.learn.plan import make_plan  # noqa: PLC0415  numpy and scipy take their time
    from poolwright.learn.wire import Reply, decode_request, encode  # noqa: PLC0415

    for line in sys.stdin.buffer:
        began = time.monotonic()
        try:
            plan = make_plan(decode_request(line))
            reply = Reply(plan=replace(plan, fit_s=time.monotonic() - began))
        except ValueError as error:
            reply = Reply(error=str(error) or type(error).__name__)
        sys.stdout.buffer.write(encode(reply))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
