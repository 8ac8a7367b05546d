"""Rows of a journal, as they are read."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One pool's life between a start and an end. `ended_wall_ns` None: running, or crashed."""

    id: int
    pool: str
    policy_name: str
    began_wall_ns: int
    ended_wall_ns: int | None
    end_reason: str
    head_seq: int  # batches ever written
    head_hash: str
    kept_seq: int  # batches before this one were dropped by retention
    kept_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """A notable decision, as the list shows it. Texts may be of a later release."""

    id: int
    run: int
    pool: str
    tick: int
    wall_ns: int
    phase: str
    action: str
    reason: str
    setting: str | None
    moves: bool
    observed: str | None  # the setting of the window that closed
    breached: bool
    plan_version: int | None
    kinds: tuple[str, ...]  # of `KINDS`; version 1 knew neither advice nor holdouts
    commands: tuple[dict[str, Any], ...]  # who asked for what, and why; not kept by version 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """Ticks as written, with what they are chained by."""

    id: int
    run: int
    seq: int
    ticks: int
    first_tick: int
    last_tick: int
    first_wall_ns: int
    last_wall_ns: int
    hash: str
    blob: bytes

    @property
    def header(self) -> tuple[int, ...]:
        """The columns that the hash covers."""
        return (
            self.run, self.seq, self.ticks, self.first_tick, self.last_tick,
            self.first_wall_ns, self.last_wall_ns,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Ticks that were given up because the journal could not be written."""

    run: int
    first_tick: int
    last_tick: int
    ticks: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentRow:
    """A move: what was intended, and what came of it. status `open`: nobody knows."""

    run: int
    tick: int
    wall_ns: int
    setting: str
    status: str
    closed_wall_ns: int | None
    took_s: float | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRow:
    """An event of the daemon itself."""

    run: int
    pool: str | None  # None: retention has dropped the run
    wall_ns: int
    kind: str
    text: str
