"""From core types to bytes and back.

Two forms. What there is much of, a tick with its decision (a *line*), is MessagePack: smaller, and
it keeps every float exactly (JSON has no infinity). Everything else (notable decisions, plans,
policies, what a run resumed from) is JSON, in which a number that JSON cannot say is
written as the text "inf", "-inf" or "nan". Both are deterministic: equal values, equal bytes.

Rule between releases. A field that a reader does not know is ignored; one that is absent takes its
default. So a release may add fields with defaults and members of enumerations, and nothing else. A
member that a reader does not know makes that one record unreadable (`UnknownRecord`), never the
others and never something else in its place: `list` and `show` fall back to the raw text, replay
stops and says so, a resume leaves it out and says so.

A line holds a plan as the digest of its blob (the plan is kept once, in its own table), and a
FitRequest as its digest: it repeats all the evidence, and replay makes it again. A reading's value
that is the mean of its sketch is left out.

Lines are compressed ten at a time, which is too few to learn their words in: each run gives one of
its own lines as the dictionary of all later batches (RFC 1950, FDICT). Decisions share `_SAMPLE`.
"""

import bz2
import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from poolwright.core.errors import PlantFault
from poolwright.core.model import Decision, FitRequest, Observation, Plan, Reading, Status, Tick
from poolwright.core.sketch import Sketch

T = TypeVar("T")


class UnknownRecord(PlantFault):
    """A record that this release cannot read: damaged, or written by a later one."""


def encode(value: object) -> bytes:
    """A core value as JSON. Non-finite floats become text, which `decode` reads back."""
    data = _JSON.encode(value)
    # msgspec writes a non-finite float as null; a None may be meant, so look before spelling out.
    return data if b"null" not in data else _JSON.encode(_spelled(msgspec.to_builtins(value)))


def decode(data: bytes | str, kind: type[T]) -> T:
    """The value of type `kind` that `encode` wrote; UnknownRecord when it cannot be read."""
    try:
        return msgspec.json.decode(data, type=kind, strict=False)  # lax: reads "inf" as a float
    except (msgspec.DecodeError, ValueError) as error:
        raise UnknownRecord(f"a {kind.__name__} that this release cannot read: {error}") from error


def squeeze(value: object) -> bytes:
    """`encode`, compressed."""
    return _deflate(encode(value), _SAMPLE)


def unsqueezed(blob: bytes) -> bytes:
    """The JSON of `squeeze`; UnknownRecord when the blob is damaged."""
    try:
        return _inflate(blob, _SAMPLE)
    except zlib.error as error:
        raise UnknownRecord(f"a damaged record: {error}") from error


def unsqueeze(blob: bytes, kind: type[T]) -> T:
    """The value that `squeeze` wrote."""
    return decode(unsqueezed(blob), kind)


def digest(data: bytes) -> str:
    """A short hash for finding changes (16 bytes of BLAKE2b, as hex)."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def observation_key(observation: Observation) -> str:
    """What tells one observation from another."""
    return digest(encode(observation))


def fit_digest(request: FitRequest | None) -> str:
    """The digest that stands for a FitRequest in a line; empty for none."""
    return "" if request is None else digest(_PACK.encode(request))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One tick and its decision as journalled: `decision.fit_request` is None, its digest kept.

    `plan_digest` is not empty when a plan arrived in this tick; `tick.plan` is None until the
    reader has put it back.
    """

    tick: Tick
    decision: Decision
    fit_digest: str = ""
    plan_digest: str = ""


def without_fit(decision: Decision) -> Decision:
    """The decision as it is kept."""
    return decision if decision.fit_request is None else replace(decision, fit_request=None)


def encode_line(tick: Tick, decision: Decision, plan_digest: str) -> bytes:
    """A tick and its decision, as one line."""
    readings = tuple(_reading_out(reading, tick.mono_ns) for reading in tick.readings)
    return _PACK.encode(
        _LineOut(
            _TickRecord(*_tick_rest(tick), readings),
            msgspec.convert(decision, _DecisionRecord, from_attributes=True),
            fit_digest(decision.fit_request),
            plan_digest,
        )
    )


def decode_line(line: bytes) -> Step:
    """The step of one line; UnknownRecord when this release cannot read it."""
    try:
        found: Any = _LINE.decode(line)
        rest: dict[str, Any] = {name: getattr(found.tick, name) for name in _TICK_REST}
        readings = tuple(_reading_in(r, rest["mono_ns"]) for r in found.tick.readings)
        tick = Tick(**rest, readings=readings)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise UnknownRecord(f"a tick that this release cannot read: {error}") from error
    return Step(
        tick=tick,
        decision=found.decision,
        fit_digest=found.fit_digest,
        plan_digest=found.plan_digest,
    )


def raw_line(line: bytes) -> Any:
    """A line as plain data, for showing what cannot be read otherwise."""
    return _spelled(msgspec.msgpack.decode(line))


def pack(lines: Sequence[bytes], dictionary: bytes | None = None) -> bytes:
    """Lines as one compressed blob."""
    return _deflate(_PACK.encode(lines), dictionary)


def unpack(blob: bytes, dictionary: bytes | None = None) -> list[bytes]:
    """The lines of a blob; UnknownRecord when it, or its dictionary, is damaged."""
    try:
        return _LINES.decode(_inflate(blob, dictionary))
    except (zlib.error, msgspec.DecodeError) as error:
        raise UnknownRecord(f"a damaged batch: {error}") from error


def _deflate(data: bytes, dictionary: bytes | None) -> bytes:
    if dictionary is None:
        return zlib.compress(data, 6)
    squeezer = zlib.compressobj(6, zdict=dictionary)
    return squeezer.compress(data) + squeezer.flush()


def _inflate(blob: bytes, dictionary: bytes | None) -> bytes:
    """Also what was written without a dictionary."""
    opener = zlib.decompressobj(zdict=dictionary or b"")
    data = opener.decompress(blob)
    if not opener.eof or opener.unused_data:
        raise zlib.error("it is cut short, or goes on after its end")
    return data


def chain(previous: str, header: Sequence[int], blob: bytes) -> str:
    """The hash of a batch: over the hash before it, its header columns and its blob."""
    return digest(previous.encode() + repr(tuple(header)).encode() + blob)


def genesis(pool: str, wall_ns: int, policy: bytes, resume: bytes) -> str:
    """The hash that a run's first batch is chained to."""
    return digest(f"{pool}\0{wall_ns}\0{len(policy)}\0".encode() + policy + resume)


def _spelled(value: Any) -> Any:
    """Plain data with every non-finite float as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelled(item) for item in value]
    return value


def _column(field: "Field[Any]", types: dict[str, Any]) -> tuple[Any, ...]:
    kind = types.get(field.name, field.type)
    if field.default is not MISSING:
        return (field.name, kind, field.default)
    return (field.name, kind)


def _record(core: type, names: Sequence[str], **types: Any) -> type[msgspec.Struct]:
    """A twin of a core type that leaves defaults out when written (a dataclass cannot)."""
    known = {field.name: field for field in fields(core)}
    columns = [_column(known[name], types) for name in names]
    return msgspec.defstruct(f"_{core.__name__}Record", columns, omit_defaults=True)


class _SketchRecord(msgspec.Struct, array_like=True):
    """A sketch with its bins as steps: index minus the index before, count, and so on."""

    total: float
    total_squares: float
    zeros: int
    steps: list[int]


def _sketch_out(sketch: Sketch) -> _SketchRecord:
    steps: list[int] = []
    before = 0
    for index, count in sketch.bins:
        steps += (index - before, count)
        before = index
    return _SketchRecord(sketch.total, sketch.total_squares, sketch.zeros, steps)


def _sketch_in(record: _SketchRecord) -> Sketch:
    bins: list[tuple[int, int]] = []
    index = 0
    for step, count in zip(record.steps[::2], record.steps[1::2], strict=True):
        index += step
        bins.append((index, count))
    return Sketch(
        bins=tuple(bins),
        zeros=record.zeros,
        total=record.total,
        total_squares=record.total_squares,
    )


def _reading_out(reading: Reading, mono_ns: int) -> msgspec.Struct:
    sketch, value = None, reading.value
    if reading.sketch is not None:
        sketch, count = _sketch_out(reading.sketch), reading.sketch.count
        if value and count > 0 and value == sketch.total / count:
            value = None
    return _ReadingRecord(*_reading_rest(reading), value, reading.taken_mono_ns - mono_ns, sketch)


def _reading_in(record: Any, mono_ns: int) -> Reading:
    rest: dict[str, Any] = {name: getattr(record, name) for name in _READING_REST}
    value, sketch = record.value, None
    if record.sketch is not None:
        sketch = _sketch_in(record.sketch)
        if value is None and record.status is Status.OK:
            value = sketch.mean
    taken = record.taken_mono_ns + mono_ns
    return Reading(**rest, value=value, taken_mono_ns=taken, sketch=sketch)


def _names(core: type, *but: str) -> list[str]:
    return [field.name for field in fields(core) if field.name not in but]


# The twins follow the core types, so that a field added there is journalled without a word here.
_READING_REST = _names(Reading, "value", "taken_mono_ns", "sketch")
_reading_rest = attrgetter(*_READING_REST)
_ReadingRecord = _record(
    Reading, [*_READING_REST, "value", "taken_mono_ns", "sketch"], sketch=_SketchRecord | None
)
_TICK_REST = _names(Tick, "readings", "plan")
_tick_rest = attrgetter(*_TICK_REST)
_TickRecord = _record(
    Tick,
    [*_TICK_REST, "readings"],
    readings=tuple[_ReadingRecord, ...],  # type: ignore[valid-type]
)
_DECISION_NAMES = sorted(
    _names(Decision, "fit_request"),
    key=lambda name: {f.name: f.default is not MISSING for f in fields(Decision)}[name],
)
_DecisionRecord = _record(Decision, _DECISION_NAMES)


class _LineOut(msgspec.Struct, array_like=True):
    tick: _TickRecord  # type: ignore[valid-type]
    decision: _DecisionRecord  # type: ignore[valid-type]
    fit_digest: str
    plan_digest: str


class _LineIn(msgspec.Struct, array_like=True):
    tick: _TickRecord  # type: ignore[valid-type]
    decision: Decision
    fit_digest: str = ""
    plan_digest: str = ""


# A typical decision, with which every one is compressed (to half of what it would take without).
# Never edited: what was written with it can only be read with it.
_SAMPLE = (
    b'"clamps":[{"kind":"slew","knob":"workers","wanted":8,"allowed":6}],"explore -> converged: '
    b'{"tick":1,"phase":"converged","action":"hold","setting":{"levels":[["workers",4]]},'
    b'"moves":false,"advice":null,"reason":"waiting_for_plan","detail":"","clamps":[],"evidence":'
    b'[["load_rps",50.0],["latency_p99_s",0.2],["queue_length",0.0],["in_flight",4.0],'
    b'["host_cpu_ratio",0.5],["probes_left",20.0],["probe_seconds_left",180.0],'
    b'["slo_seconds_left",36.0],["trust_octaves",0.5]],"observation":{"setting":{"levels":'
    b'[["workers",4]]},"opened_tick":1,"closed_tick":31,"span_s":30.0,"sample_count":30,'
    b'"context":{"load_rps":50.0,"foreign_cpu_ratio":0.0},"responses":['
    b'["cpu_cores",{"mean":1.0,"std":0.0,"count":30}],["error_ratio",{"mean":0.0,"std":0.0,'
    b'"count":30}],["jitter_s",{"mean":0.0'
    b'}],["latency_p50_s",{"mean":0.1}],["latency_p95_s",{"mean":0.2}],["latency_p99_s",{"mean":0.2'
    b'}],["memory_bytes",{"mean":1'
    b'}],["power_w",{"mean":1'
    b'}],["throughput_rps",{"mean":50.0,"std":0.0,"count":30}]],"app_limited":false,"estimated":["'
    b'power_w"],"breached":false},"fit_request":null,"guard_trips":["slo_breach"],"events":[],'
    b'"observation":null,"fit_request":null,"guard_trips":[],"events":[],"probing":false,'
    b'"asks_probe":false,"reserved_bytes":0.0,"reserved_cores":0.0,"holdout":null,"kept":null,'
    b'"state_digest":"'
)
_JSON = msgspec.json.Encoder()
_PACK = msgspec.msgpack.Encoder()
_LINE = msgspec.msgpack.Decoder(_LineIn)
_PLAN = msgspec.msgpack.Decoder(Plan)  # schemas 1 and 2
_BZIP2 = b"BZh"
_LINES = msgspec.msgpack.Decoder(list[bytes])


def encode_plan(plan: Plan) -> tuple[str, bytes]:
    """The digest and the blob of a plan: JSON, whose short numbers bzip2 halves once more."""
    blob = bz2.compress(encode(plan), 1)
    return digest(blob), blob


def decode_plan(blob: bytes) -> Plan:
    """The plan that `encode_plan` wrote, of any schema; UnknownRecord when it cannot be read."""
    try:
        if blob.startswith(_BZIP2):
            return decode(bz2.decompress(blob), Plan)
        return _PLAN.decode(zlib.decompress(blob))
    except (OSError, zlib.error, msgspec.DecodeError, ValueError) as error:
        raise UnknownRecord(f"a Plan that this release cannot read: {error}") from error
