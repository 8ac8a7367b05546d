"""The part of `access_log` that reads a file: one request a line, told when it has ended."""

from dataclasses import dataclass
from functools import partial

from poolwright.core.model import Reading, Status
from poolwright.core.sketch import SketchBuilder
from poolwright.sensors.datagram import Pulse, requests_told
from poolwright.sensors.log_lines import Parse, Unreadable
from poolwright.sensors.tail import MOST_LINE_BYTES, Look, Tail

BUDGET_S = 0.2  # of work in a tick: some tens of thousands of lines
_TOLERATED_BAD = 0.01


class _Requests:
    """What lines say, added up since the last `clear`. Never raises on any bytes."""

    def __init__(self, parse: Parse) -> None:
        self._parse = parse
        self.clear()

    def clear(self) -> None:
        """Begin a new tick."""
        self.requests = self.errors = self.bad = self.other = 0
        self.first_bad = b""
        self.durations = SketchBuilder()

    def take(self, line: bytes) -> None:
        """Add one line."""
        if not line.strip():
            return
        try:
            found = self._parse(line)
        except Unreadable:
            self.bad += 1
            self.first_bad = self.first_bad or line[:80]
            return
        if found is None:
            self.other += 1
            return
        self.requests += 1
        self.errors += found.failed
        self.durations.add(found.took_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a file is read, and what its time is: latency_s or service_time_s."""

    parse: Parse
    has_status: bool
    time_signal: str


class AccessFile:
    """Requests, errors and their time from a log file that grows.

    Silence after the first line is zero load until `silence_s`, then stale: a dead source and an
    idle one look alike here.
    """

    def __init__(self, path: str, form: Form, silence_s: float, budget_s: float = BUDGET_S) -> None:
        """Nothing is opened yet."""
        self.source = f"access_log {path}"
        self.deadline_s = budget_s + 0.3
        status = ("errors_rps",) if form.has_status else ()
        self.signals = ("throughput_rps", *status, form.time_signal)
        self._path = path
        self._form = form
        self._tail = Tail(path, budget_s)
        self._lines = _Requests(form.parse)
        self._pulse = Pulse(silence_s)

    async def start(self) -> None:
        """Open the file at its end. Raises PlantFault naming it."""
        self._tail.start()

    async def close(self) -> None:
        """Let go of the file."""
        self._tail.close()

    async def read(self, now_ns: int) -> tuple[Reading, ...]:
        """One Reading a signal. Raises PlantFault when the file cannot be read."""
        lines = self._lines
        look = await self._tail.read(lines.take)
        elapsed_s = self._pulse.beat(now_ns, heard=lines.requests > 0)
        state, why = self._judged(look, now_ns)
        tell = partial(Reading, source=self.source, taken_mono_ns=now_ns)
        if state is Status.OK:
            # what was cut off is missing in the counts
            good = partial(tell, estimated=look.cut, detail=why)
            readings = self._told(good, elapsed_s)
        else:
            readings = tuple(tell(signal=name, status=state, detail=why) for name in self.signals)
        lines.clear()
        return readings

    def _judged(self, look: Look, now_ns: int) -> tuple[Status, str]:
        """The status of the tick, and why or what a person should know."""
        lines = self._lines
        if look.skipped_bytes:
            skipped = f"{self._path}: {look.skipped_bytes} bytes came faster than they can be read"
            return Status.ERROR, f"{skipped}, and were skipped"
        bad = lines.bad + look.long_lines
        told = [f"the first: {lines.first_bad!r}"] if lines.bad else []
        told += [f"{look.long_lines} over {MOST_LINE_BYTES} bytes"] if look.long_lines else []
        trouble = f"{self._path}: {bad} unreadable lines, {', '.join(told)}" if bad else ""
        if bad > _TOLERATED_BAD * (lines.requests + lines.other + bad):
            return Status.ERROR, trouble
        state = self._pulse.state(now_ns)
        if state is Status.STALE:
            silent_s = self._pulse.silent_s(now_ns)
            return state, f"{self._path}: no line for {silent_s:.0f} s: dead or without traffic"
        if state is Status.NO_DATA:
            return state, f"{self._path}: no request yet"
        cut = f"{self._path}: was truncated: lower bounds" if look.cut else ""
        return state, "; ".join(filter(None, (cut, trouble)))

    def _told(self, tell: "partial[Reading]", elapsed_s: float | None) -> tuple[Reading, ...]:
        lines = self._lines
        rate, errors, _ = requests_told(
            tell, lines.requests, lines.errors, elapsed_s, lines.durations
        )
        sketch = lines.durations.freeze()
        timed = partial(tell, signal=self._form.time_signal)
        took = (
            timed(value=sketch.mean, sketch=sketch)
            if sketch.count
            else timed(status=Status.NO_DATA, estimated=False, detail="no request in this tick")
        )
        return (rate, *((errors,) if self._form.has_status else ()), took)
