"""A real systemd as PID 1 of its own namespaces, for tests of the unit. Needs root.

The machine's root is a throw-away overlay of the host's /, mounted in a private mount namespace:
nothing that happens inside is written to the host. Loopback is shared with the host.
Debian packages: systemd, systemd-container, util-linux.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from itertools import count
from pathlib import Path
from typing import Self

NEEDED = ("systemd-nspawn", "nsenter", "unshare", "mount")
PACKAGES = "apt-get install -y --no-install-recommends systemd systemd-container"

_NUMBERS = count(1)  # several machines may be up at once
_CGROUPS = Path("/sys/fs/cgroup")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Units that wait for hardware or for a network, or that keep themselves busy.
_MASKED = (
    "systemd-timesyncd", "systemd-networkd", "systemd-resolved", "systemd-logind",
    "systemd-binfmt", "keyboard-setup", "console-setup", "e2scrub_reap", "prometheus",
    "prometheus-node-exporter", "prometheus-ipmi-exporter",
)  # fmt: skip

# Mounts the overlay and becomes systemd-nspawn. $1 the state folder, $2 the machine's name, the
# rest: arguments for nspawn. The unset keeps our own manager's socket from it.
_BOOT = """
set -eu
state=$1 name=$2; shift 2
mount -t tmpfs -o mode=755,size=1g machine "$state/upper"
mkdir "$state/upper/up" "$state/upper/work"
mount -t overlay overlay \
    -o "lowerdir=/,upperdir=$state/upper/up,workdir=$state/upper/work" "$state/root"
rm -f "$state/root/etc/fstab" "$state/root/etc/systemd/system/sysinit.target.wants"/* \
    "$state/root/etc/systemd/system/multi-user.target.wants"/* \
    "$state/root/etc/systemd/system/timers.target.wants"/*
: >"$state/root/etc/machine-id"
cp -a "$state/files/." "$state/root/"
unset NOTIFY_SOCKET
exec systemd-nspawn --quiet --settings=no -D "$state/root" --machine="$name" --register=no \
    --keep-unit --resolv-conf=off --timezone=off --link-journal=no \
    --kill-signal=SIGRTMIN+3 "$@" -b --console=pipe systemd.unit=machine.target
"""


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent():
    """SIGTERM makes systemd-nspawn power its machine off."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def missing() -> list[str]:
    """The programs that are needed and not there."""
    return [name for name in NEEDED if shutil.which(name) is None]


class Machine:
    """A booted machine. Use as a context manager: leaving it takes everything down."""

    def __init__(
        self,
        state: Path,
        binds: dict[Path, str],
        files: dict[str, tuple[int, str]],
        *,
        own_network: bool = False,
    ):
        """`binds`: host path -> read-only path inside; `files`: path inside -> (mode, text).

        With `own_network` there is a loopback of its own and nothing else, and IPAddressDeny= of
        units is enforced, which takes bpf(2).
        """
        self.name = f"poolwright-{os.getpid()}-{next(_NUMBERS)}"
        self._state = state
        self._binds = [f"--bind-ro={host}:{inside}" for host, inside in binds.items()]
        if own_network:
            self._binds += [
                "--private-network",
                "--capability=CAP_BPF",
                "--system-call-filter=bpf",
            ]
        self._cgroups: list[Path] = []
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        for folder in ("upper", "root", "files"):
            (state / folder).mkdir()
        for path, (mode, text) in {**files, **_boot_files()}.items():
            target = state / "files" / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            target.chmod(mode)
        for unit in _MASKED:
            link = state / "files/etc/systemd/system" / f"{unit}.service"
            link.symlink_to("/dev/null")

    def __enter__(self) -> Self:
        """Boot; RuntimeError with the console's text when it does not come up."""
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take the machine down."""
        self.close()

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """The output of a command inside; CalledProcessError with its stderr when it fails."""
        namespaces = ("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")
        enter = ("nsenter", "-t", str(self._leader), *namespaces, "--")
        env = ("env", "-i", f"PATH={_PATH}", "LANG=C.UTF-8", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
        done = subprocess.run(
            [*enter, *env, *command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        if check and done.returncode:
            said = f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
            raise RuntimeError(said)
        return done.stdout + ("" if check else done.stderr)

    def shown(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def path(self, inside: str) -> Path:
        """A path inside, as the host may open it."""
        return Path(f"/proc/{self._leader}/root{inside}")

    def close(self) -> None:
        """Power off and remove what was made on the host. May be called twice."""
        if self._nspawn is not None:
            if self._leader and self._nspawn.poll() is None:
                os.kill(self._leader, signal.SIGRTMIN + 3)
            try:
                self._nspawn.wait(10)
            except subprocess.TimeoutExpired:
                if self._leader:
                    os.kill(self._leader, signal.SIGKILL)
                self._nspawn.kill()
                self._nspawn.wait(10)
            self._nspawn = None
        for folder in reversed(self._cgroups):
            for child in sorted(folder.rglob("*/"), reverse=True):
                child.rmdir()
            folder.rmdir()
        self._cgroups.clear()

    def console(self) -> str:
        """What the machine wrote while booting."""
        return (self._state / "console").read_text(errors="replace")

    def _boot(self) -> None:
        self._cgroups = list(_own_cgroups(self.name))
        for folder in self._cgroups:
            folder.mkdir()
        procs = " ".join(f'"{folder}/cgroup.procs"' for folder in self._cgroups)
        join = f'for f in {procs or ""}; do echo $$ >"$f"; done; exec "$@"'
        unshare = ("unshare", "--mount", "--propagation", "private")
        boot = ("bash", "-c", _BOOT, "boot", str(self._state), self.name, *self._binds)
        with (self._state / "console").open("wb") as console:
            self._nspawn = subprocess.Popen(
                ["bash", "-c", join, "join", *unshare, *boot],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  one prctl(2)
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        self._leader = self._until(self._find_leader, "no systemd")
        self._until(self._is_up, "not running")

    def _find_leader(self) -> int:
        assert self._nspawn is not None
        pid = self._nspawn.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        return 0

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).split()[:1] in (
            ["running"],
            ["degraded"],
        )

    def _until(self, found, what: str):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self._nspawn is not None
            if self._nspawn.poll() is not None:
                break
            if answer := found():
                return answer
            time.sleep(0.05)
        raise RuntimeError(f"the machine did not boot ({what}):\n{self.console()}")


def _boot_files() -> dict[str, tuple[int, str]]:
    target = (
        "[Unit]\nDescription=a machine for a test\nRequires=basic.target\nAfter=basic.target\n"
        "Wants=dbus.socket\nAllowIsolate=yes\n"
    )
    return {"/etc/systemd/system/machine.target": (0o644, target)}


def _own_cgroups(name: str):
    """A fresh child of our own group in the hierarchies that nspawn must not share with us."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = _CGROUPS if (_CGROUPS / "cgroup.controllers").exists() else _CGROUPS / "unified"
        elif controllers == "name=systemd":
            root = _CGROUPS / "systemd"
        else:
            continue
        if root.is_dir():
            yield root / path.lstrip("/") / name
