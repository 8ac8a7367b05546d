"""Replay: the journalled ticks of a run through a fresh controller, compared with the journal.

The core is deterministic, so the decisions must come out the same, to the last bit. Where they do
not, the code has changed, or the journal has. Of another policy `engine.what_if` tells.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Protocol

from poolwright.core.errors import PlantFault
from poolwright.core.model import Decision, Resume, Tick
from poolwright.core.policy import Policy
from poolwright.journal import record
from poolwright.journal.query import Gap, JournalReader
from poolwright.journal.record import Step


class Stepper(Protocol):
    """What replay needs of a controller."""

    def step(self, tick: Tick) -> Decision:
        """The decision of a tick."""


Make = Callable[[Policy, Resume], Stepper]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that differs: its dotted path, as journalled and as decided now."""

    path: str
    journalled: object
    replayed: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first tick at which the decisions differ."""

    tick: Tick
    journalled: Decision
    replayed: Decision  # without its FitRequest, as journalled
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of replaying one run. `identical` covers the ticks before the first gap."""

    run: int
    ticks: int  # compared
    difference: Difference | None
    gap: Gap | None  # replay stopped here: what follows rests on ticks that were never written

    @property
    def identical(self) -> bool:
        """Whether every compared decision was the same."""
        return self.difference is None


def replay(reader: JournalReader, run: int, make: Make) -> Outcome:
    """Replay a run under its own policy up to its end, a gap or the first difference.

    PlantFault when the run is not there, its beginning was dropped by retention, or a record
    cannot be read; the message says which tick.
    """
    policy, resume = run_start(reader, run)
    controller = make(policy, resume)
    ticks = 0
    gap = first_gap(reader, run)
    for step in steps_before(reader, run, gap):
        decision = controller.step(step.tick)
        ticks += 1
        difference = _compare(step, decision)
        if difference is not None:
            return Outcome(run=run, ticks=ticks, difference=difference, gap=None)
    return Outcome(run=run, ticks=ticks, difference=None, gap=gap)


def diff(journalled: object, replayed: object, path: str = "") -> Iterator[Change]:
    """The leaves in which two values differ, by dotted path."""
    if _same(journalled, replayed):
        return
    if type(journalled) is type(replayed) and is_dataclass(journalled):
        for field in fields(journalled):
            pair = (getattr(journalled, field.name), getattr(replayed, field.name))
            yield from diff(*pair, f"{path}.{field.name}" if path else field.name)
    elif (
        isinstance(journalled, tuple)
        and isinstance(replayed, tuple)
        and len(journalled) == len(replayed)
    ):
        for i, pair in enumerate(zip(journalled, replayed, strict=True)):
            yield from diff(*pair, f"{path}[{i}]")
    else:
        yield Change(path=path, journalled=journalled, replayed=replayed)


def _same(one: object, other: object) -> bool:
    """Equal to the last bit: NaN is itself, and 0.0 is not -0.0."""
    return repr(one) == repr(other)


def _compare(step: Step, decision: Decision) -> Difference | None:
    replayed = record.without_fit(decision)
    changes = tuple(diff(step.decision, replayed))
    digest = record.fit_digest(decision.fit_request)
    if digest != step.fit_digest:
        changes += (Change(path="fit_request", journalled=step.fit_digest, replayed=digest),)
    if not changes:
        return None
    return Difference(tick=step.tick, journalled=step.decision, replayed=replayed, changes=changes)


def run_start(reader: JournalReader, run: int) -> tuple[Policy, Resume]:
    """The policy of a run and what it began with. PlantFault when its beginning was dropped."""
    row = reader.run(run)
    policy, resume = reader.start_of(run)
    if row.kept_seq or resume is None:
        raise PlantFault(
            f"{reader.path}: run {run} cannot be replayed: its first {row.kept_seq} batches of"
            " ticks were dropped by retention, and what follows rests on them"
        )
    return policy, resume


def first_gap(reader: JournalReader, run: int) -> Gap | None:
    """Where replay has to stop; None: nowhere."""
    gaps = reader.gaps(run)
    return gaps[0] if gaps else None


def steps_before(reader: JournalReader, run: int, gap: Gap | None) -> Iterator[Step]:
    """The steps of a run up to its first gap."""
    for step in reader.steps(run):
        if gap is not None and step.tick.index >= gap.first_tick:
            return
        yield step
