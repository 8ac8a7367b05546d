"""The test stand: the demo service under load, and poolwright's own sensors looking at it.

The demo puts a daemon beside it; the convergence bench also does without. Everything that is
started here is ended here, by its process id: on leaving the stand, on a signal (run.py), and,
should this process be killed outright, by the kernel (PR_SET_PDEATHSIG, prctl(2)).
"""

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Reading
from poolwright.demo.loadgen import Report
from poolwright.demo.stats import Second, second_of
from poolwright.ports import Sensor
from poolwright.sensors.access_log import gunicorn_flags

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_GRACE_S = 4.0  # gunicorn gives its workers two
_START_S = 15.0
_TAIL = 12


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nobody had a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Child:
    """A process that the stand started, in a process group of its own."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        """Use `start`."""
        self.name = name
        self.log = log
        self.process = process

    @classmethod
    async def start(cls, name: str, log: Path, *command: str, piped: bool = False) -> Self:
        """Start `command`; its stderr, and its stdout unless `piped`, go to `log`."""
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else out,
                stderr=out,
                # Ctrl-C at the terminal is ours to pass on, in order. Not a session of its own:
                # with sched(7) autogroup each would compete for CPU as if it were one process.
                process_group=0,
                preexec_fn=_die_with_parent,  # one prctl(2), and there are no threads here
            )
        return cls(name, log, process)

    def check(self) -> None:
        """Raise PlantFault, with the last lines of its log, when it is gone."""
        if self.process.returncode is not None:
            raise PlantFault(self.obituary())

    def obituary(self) -> str:
        """Who ended, how, and the last lines it wrote."""
        code = self.process.returncode
        how = "is still running"
        if code is not None:
            how = f"ended with status {code}" if code >= 0 else f"was killed by signal {-code}"
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL:]
        return "\n".join([f"{self.name} {how}; its log ends:", *(f"    {ln}" for ln in lines)])

    async def stop(self) -> None:
        """SIGTERM, and after a grace SIGKILL to its whole group. May be called twice."""
        if self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), _GRACE_S)
            except TimeoutError:
                os.killpg(self.process.pid, signal.SIGKILL)
                await self.process.wait()


@asynccontextmanager
async def scratch(keep: Path | None) -> AsyncIterator[Path]:
    """A folder for everything; of a temporary one only the journal is left.

    Raises PolicyError when `keep` holds something already.
    """
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise PolicyError(f"--keep: {keep} is not empty")
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="poolwright-demo-"))
    try:
        yield folder
    except BaseException:
        _clear(folder)
        if folder.exists():  # at a good end the outcome says it
            print(f"poolwright: the journal is kept in {folder}", file=sys.stderr)
        raise
    _clear(folder)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith("journal.db"):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """What a stand is to be."""

    workers: int
    rps: float = 80.0
    seconds: float
    seed: int = 0


class Stand:
    """A service under load in `folder`: `async with`, then `add_load`, then `seconds`."""

    def __init__(self, folder: Path, rig: Rig) -> None:
        """Nothing is started before `async with`."""
        self.folder = folder
        self.rig = rig
        self.pidfile = folder / "gunicorn.pid"
        self.control = folder / "gunicorn.ctl"
        self.port = free_port()
        self.syslog = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
        self.children: list[Child] = []
        self.final: Report | None = None  # of the whole load, once it has ended
        self._sensors: tuple[Sensor, ...] = ()
        self._load: Child | None = None

    async def __aenter__(self) -> Self:
        """Start the service and wait until it answers. Raises PlantFault when it does not."""
        try:
            await self._start_service()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything."""
        await self._close()

    async def add_child(self, name: str, *command: str, piped: bool = False) -> Child:
        """Start one more process, to be ended with the stand."""
        child = await Child.start(name, self.folder / f"{name}.log", *command, piped=piped)
        self.children.append(child)
        return child

    async def add_load(self, sensors: tuple[Sensor, ...]) -> None:
        """Start the load, watched by `sensors`."""
        for sensor in sensors:
            await sensor.start()
            self._sensors = (*self._sensors, sensor)
        rig = self.rig
        self._load = await self.add_child(
            "loadgen",
            *(sys.executable, "-m", "poolwright.demo.loadgen"),
            *("--url", f"http://127.0.0.1:{self.port}/", "--rps", str(rig.rps)),
            *("--seconds", str(rig.seconds), "--seed", str(rig.seed), "--parent", str(os.getpid())),
            piped=True,
        )

    async def seconds(self) -> AsyncIterator[Second]:
        """Each second of the load as it ends. Raises PlantFault when something of ours dies."""
        load = self._load
        assert load is not None, "add_load comes first"
        assert load.process.stdout is not None, "the load generator is piped"
        while True:
            try:
                line = await asyncio.wait_for(load.process.stdout.readline(), 15.0)
            except TimeoutError:
                raise PlantFault("the load generator has said nothing for 15 s") from None
            if not line:
                await load.process.wait()
                raise PlantFault(load.obituary())
            report = msgspec.json.decode(line, type=Report)
            if report.final:
                self.final = report
                return
            for child in self.children:
                if child is not load:
                    child.check()
            ended = time.monotonic_ns()
            yield second_of(report, ended, self.workers(), await self._read())

    def workers(self) -> int | None:
        """The worker processes that there are, None when that cannot be seen."""
        try:
            pid = int(self.pidfile.read_text())
            return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except (OSError, ValueError):
            return None

    async def _read(self) -> list[Reading]:
        """What the sensors see now; one that fails is told by the absence of its signals."""
        now = time.monotonic_ns()
        found: list[Reading] = []
        for sensor in self._sensors:
            try:
                found.extend(await asyncio.wait_for(sensor.read(now), sensor.deadline_s))
            except (PlantFault, TimeoutError):
                continue  # unknown in this second: None in the Second, never a number
        return found

    async def _start_service(self) -> None:
        gunicorn = await self.add_child(
            "gunicorn",
            *(sys.executable, "-m", "gunicorn", "--workers", str(self.rig.workers)),
            *("--bind", f"127.0.0.1:{self.port}", "--pid", str(self.pidfile)),
            *("--control-socket", str(self.control), "--graceful-timeout", "2"),
            *("--worker-tmp-dir", str(self.folder), *gunicorn_flags(self.syslog)),
            "poolwright.demo.service:application()",
        )
        deadline = time.monotonic() + _START_S
        while not await self._answers():
            gunicorn.check()
            if time.monotonic() > deadline:
                raise PlantFault(f"no answer in {_START_S:g} s; {gunicorn.obituary()}")
            await asyncio.sleep(0.05)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
            return (await asyncio.wait_for(reader.read(64), 2.0)).startswith(b"HTTP/1.1 200")
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()

    async def _close(self) -> None:
        """The load first, so that nobody is refused by a service that is being stopped."""
        for child in reversed(self.children):
            await child.stop()
        for sensor in self._sensors:
            await sensor.close()
