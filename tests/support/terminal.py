"""A program in a real pseudo-terminal, its screen read as a person would see it."""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time

import pyte

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Terminal:
    """`with Terminal(argv) as t: t.until("web"); t.press("j"); t.resize(60, 20)`."""

    def __init__(self, argv, *, columns=120, rows=36, env=None):
        self.screen = pyte.Screen(columns, rows)
        self.raw = b""  # everything that was written
        self._stream = pyte.ByteStream(self.screen)
        self._argv = argv
        self._env = os.environ | {"TERM": "xterm-256color"} | (env or {})
        self._env = {name: value for name, value in self._env.items() if value is not None}
        self.process = None

    def __enter__(self):
        self._ours, theirs = os.openpty()
        self.resize(self.screen.columns, self.screen.lines)
        self.process = subprocess.Popen(
            self._argv, stdin=theirs, stdout=theirs, stderr=theirs, env=self._env,
            start_new_session=True, preexec_fn=_own_terminal,  # noqa: PLW1509  two calls
        )  # fmt: skip
        os.close(theirs)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def press(self, keys):
        os.write(self._ours, keys.encode())

    def resize(self, columns, rows):
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)
        if self.process is not None:
            self.process.send_signal(signal.SIGWINCH)

    def attributes(self):
        """The terminal's modes, as `tcgetattr` gives them."""
        return termios.tcgetattr(self._ours)

    def read(self, within_s=0.05):
        """Take what has been written; False when the other end is closed."""
        ready, _, _ = select.select([self._ours], [], [], within_s)
        if not ready:
            return True
        with contextlib.suppress(OSError):  # EIO: the program has ended
            data = os.read(self._ours, 65536)
            self.raw += data
            self._stream.feed(data)
            return True
        return False

    def text(self):
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def until(self, wanted, within_s=20.0):
        """Read until `wanted`, a text or a function of the screen's text, is there; that text."""
        found = wanted if callable(wanted) else lambda text: wanted in text
        end = time.monotonic() + within_s
        while not found(self.text()):
            alive = self.read()
            assert alive or found(self.text()), f"it ended:\n{self.text()}"
            assert time.monotonic() < end, f"not within {within_s} s:\n{self.text()}"
        return self.text()

    def ends(self, within_s=20.0):
        """Read until the program has ended; its exit status."""
        end = time.monotonic() + within_s
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < end, f"it goes on:\n{self.text()}"
        while self.read(0.0) and select.select([self._ours], [], [], 0.0)[0]:
            pass
        return self.process.returncode


def _own_terminal():
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
