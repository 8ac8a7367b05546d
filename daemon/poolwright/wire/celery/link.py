"""The daemon's end of the pipe to a child. Nothing here imports kombu."""

import asyncio
import contextlib
import os
import sys
import time
from importlib.util import find_spec
from typing import ClassVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import msgspec

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.wire.celery.messages import Answer, Ask, Place, decode, encode

_SCHEMES = ("redis", "rediss", "amqp", "amqps")
_LINE_LIMIT = 1 << 20
_STDERR_KEPT = 4096
_END_S = 4.0  # grace between end of input and the kill: it may have to resume a worker
_PAUSE_S = 0.5
_PAUSE_MOST_S = 30.0
_HUNG_S = 20.0
_START_S = 5.0


def place_of(broker: str, password_file: str | None, node: str) -> Place:
    """Where a worker is. Raises PolicyError for what cannot be meant, and when kombu is missing."""
    try:
        parts = urlsplit(broker)
        password = parts.password
    except ValueError as error:
        raise PolicyError("broker: is not a url such as redis://127.0.0.1:6379/0") from error
    if password is not None or "password=" in parts.query:
        raise PolicyError(
            "broker: a password is not taken here, name a password_file that holds it"
        )
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise PolicyError(
            f"broker: {broker!r} is not a url such as redis://127.0.0.1:6379/0; remote control, "
            f"which this needs, works through {', '.join(_SCHEMES)}"
        )
    if "@" not in node or any(letter.isspace() for letter in node):
        raise PolicyError(f"node: {node!r} is not a worker's name, such as celery@host (-n)")
    return Place(broker=broker, password_file=password_file, node=node)


class Link:
    """A child for one worker, shared by those who ask for the same one on the same event loop.

    It is started when first asked and after it died, then after a pause that doubles.
    """

    _shared: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Place, "Link"]]] = (
        WeakKeyDictionary()
    )

    def __init__(self, place: Place, beside: dict[Place, "Link"]) -> None:
        self._place = place
        self._beside = beside
        self._users = 0
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._stderr = b""
        self._listener: asyncio.Task[None] | None = None
        self._asked = 0
        self._answered = False  # by the child that is there
        self._open_since_s: float | None = None  # when an answer began to be due
        self._deaths = 0
        self._resume_at_s = 0.0
        self._fault = ""

    @classmethod
    def to(cls, place: Place) -> "Link":
        """The link to `place`; each who got it closes it once. Call it within the event loop."""
        beside = cls._shared.setdefault(asyncio.get_running_loop(), {})
        return beside.setdefault(place, cls(place, beside))._used()  # noqa: SLF001 - its own class

    def _used(self) -> "Link":
        self._users += 1
        return self

    @property
    def pid(self) -> int | None:
        """The child, None when there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def ask(self, ask: Ask, within_s: float) -> Answer:
        """The answer. Raises PlantFault when there is none within `within_s`; the first may be late
        by as much as a child needs to start.
        """
        patience_s = within_s if self._answered else within_s + _START_S
        try:
            async with asyncio.timeout(patience_s), self._lock:
                return await self._exchange(ask)
        except TimeoutError as error:
            raise PlantFault(f"{self._name}: no answer within {patience_s:g} s") from error

    async def close(self) -> None:
        """Let go; the last one ends the child."""
        self._users -= 1
        if self._users == 0:
            self._beside.pop(self._place, None)
            await self._end()

    @property
    def _name(self) -> str:
        return f"celery worker {self._place.node} through {self._place.broker}"

    async def _exchange(self, ask: Ask) -> Answer:
        if self._process is None and time.monotonic() < self._resume_at_s:
            raise PlantFault(self._fault)
        try:
            process = await self._running()
            assert process.stdin is not None
            if self._open_since_s is not None:  # to one who would not wait; it comes first
                await self._answer(process)
            self._asked += 1
            process.stdin.write(encode(msgspec.structs.replace(ask, id=self._asked)))
            self._open_since_s = time.monotonic()
            await process.stdin.drain()
            answer = await self._answer(process)
        except (OSError, ValueError, PlantFault) as error:
            self._fault = f"{self._name}: {error}"
            self._resume_at_s = time.monotonic() + min(_PAUSE_MOST_S, _PAUSE_S * 2**self._deaths)
            self._deaths = min(self._deaths + 1, 16)
            await self._end()
            raise PlantFault(self._fault) from error
        self._deaths = 0
        return answer

    async def _answer(self, process: asyncio.subprocess.Process) -> Answer:
        """The answer to what was asked last."""
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            raise PlantFault(await self._epitaph(process))
        answer = decode(line, Answer)
        if answer.id != self._asked:
            raise PlantFault(f"its child answered {answer.id} in place of {self._asked}")
        self._open_since_s, self._answered = None, True
        return answer

    async def _running(self) -> asyncio.subprocess.Process:
        """The child, started when there is none. Raises PlantFault when it is dead or hangs."""
        process, since_s = self._process, self._open_since_s
        if process is not None and process.returncode is not None:
            raise PlantFault(await self._epitaph(process))
        if process is not None:
            if since_s is not None and time.monotonic() - since_s > _HUNG_S:
                raise PlantFault(f"its child was silent for {_HUNG_S:g} s, and was ended")
            return process
        self._stderr, self._open_since_s, self._answered = b"", None, False
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "poolwright.wire.celery", str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        assert self._process.stderr is not None
        assert self._process.stdin is not None
        self._listener = asyncio.create_task(self._listen(self._process.stderr))
        self._process.stdin.write(encode(self._place))
        return self._process

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        """Keep the last of what it says on standard error."""
        while said := await stream.read(_STDERR_KEPT):
            self._stderr = (self._stderr + said)[-_STDERR_KEPT:]

    async def _epitaph(self, process: asyncio.subprocess.Process) -> str:
        """Why it is dead, which it is afterwards."""
        await self._end()
        said = self._stderr.decode(errors="replace").strip().splitlines()
        last = f" ({said[-1].strip()})" if said else ""
        return f"its child ended with {process.returncode}{last}"

    async def _end(self) -> None:
        """End the child and reap it."""
        process, listener = self._process, self._listener
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if listener is not None:
            await asyncio.wait([listener], timeout=_END_S)
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
        self._process = self._listener = None


def require_kombu(kind: str) -> None:
    """Raises PolicyError when what the child needs is not installed."""
    if "kombu" not in sys.modules and find_spec("kombu") is None:
        raise PolicyError(f"{kind} needs kombu: pip install 'poolwright[celery]'")
