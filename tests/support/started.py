"""Real servers of tests: started in a folder, waited for, and ended by their process id."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from gunicorn_service import until

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_START_S = 20.0
_STOP_S = 5.0


def _die_with_parent():
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def free_port():
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def program(*names):
    """The first of these programs that is there; Debian has some in /usr/sbin. Fails by name."""
    folders = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"
    found = (shutil.which(name, path=folders) for name in names)
    path = next(filter(None, found), None)
    assert path is not None, f"{names[0]} is missing: apt-get install it (make servers)"
    return path


class Started:
    """One process and what it forked, in a session of its own; its output is in `log`."""

    def __init__(self, argv, folder, ready, *, env=None):
        self.argv = argv
        self.folder = Path(folder)
        self.log = self.folder / f"{Path(argv[0]).name}.log"
        self.process = None
        self._ready = ready
        self._env = env or {}

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        """Start and wait until `ready()`."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.argv,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | self._env,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  one prctl(2)
            )
        try:
            until(self._up, _START_S, f"{self.argv[0]} is ready")
        except BaseException:
            self.kill()
            print(self.log.read_text(errors="replace"))
            raise
        return self

    def _up(self):
        assert self.process.poll() is None, self.log.read_text(errors="replace")
        return self._ready()

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """SIGKILL to all of the session. May be called twice."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self):
        """SIGTERM, and what is left is killed."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_S)
        self.kill()
