"""What an operator asks, against what is known: refused in a line, or made whole for the core."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from poolwright.core.envelope import violations
from poolwright.core.model import Command, CommandKind, Kept, Phase, Setting
from poolwright.core.override import narrowed
from poolwright.core.policy import Mode, Override
from poolwright.engine.snapshot import PoolSnapshot

_ALWAYS = (CommandKind.PAUSE, CommandKind.RESUME, CommandKind.RESTORE)
_MOVING = (CommandKind.PIN, CommandKind.APPROVE, CommandKind.ROLLBACK)
_BY_HAND = (Phase.MANUAL, Phase.PAUSED)
_NOTHING_BEFORE = "nothing was moved since the daemon started; name the setting to go back to"


def refusal(
    command: Command, snapshot: PoolSnapshot | None, waiting: Sequence[Command] = ()
) -> str:
    """Why `command` cannot be obeyed, in one line; empty when it can.

    `waiting` are the commands that the next tick will bring before it.
    """
    if command.kind in _ALWAYS:
        return ""
    if snapshot is None or snapshot.decision.setting is None:
        return "the pool has not been seen yet"
    if command.kind is CommandKind.UNPIN:
        return _refused_unpin(snapshot, waiting)
    if command.kind in _MOVING:
        why = _fixed(command.kind, snapshot)
        if why:
            return why
    if command.kind in (CommandKind.APPROVE, CommandKind.REJECT):
        return _refused_advice(command, snapshot)
    if command.kind is CommandKind.PIN:
        return _refused_pin(command, snapshot)
    if command.setting is None:
        return "" if snapshot.previous is not None else _NOTHING_BEFORE
    return _impossible(command.setting, snapshot)


def completed(command: Command, snapshot: PoolSnapshot | None) -> Command:
    """The command with every knob of its setting named, and a ROLLBACK's way back written out.

    So the tick that brings it says all there is to know, and replays.
    """
    if snapshot is None or snapshot.decision.setting is None:
        return command
    if command.kind is CommandKind.ROLLBACK and command.setting is None:
        return replace(command, setting=snapshot.previous)
    if command.setting is None:
        return command
    return replace(command, setting=_whole(command.setting, snapshot.decision.setting))


def expiry(kept: Kept, wall_ns: int) -> Command | None:
    """The UNPIN of a pin whose time has passed; None when there is none."""
    until = kept.pin_until_wall_ns
    if kept.pin is None or until is None or wall_ns < until:
        return None
    return Command(kind=CommandKind.UNPIN, who="poolwright", why="its time has passed")


def hands_off(kept: Kept, overrides: Iterable[Override]) -> str:
    """Why the level is a person's and not ours to restore, in words; empty when it is ours."""
    if kept.phase in _BY_HAND:
        return f"it is {kept.phase}"
    if kept.pin is not None:
        return f"it is pinned to {kept.pin}{_why(kept.pin_why)}"
    for override in overrides:
        if override.pin or override.freeze:
            return f"the policy {_verb(override)}: {override.reason}"
    return ""


def standing(kept: Kept, wall_ns: int) -> tuple[str, ...]:
    """What an operator or a proof settled before a restart, in words."""
    found: list[str] = []
    if kept.phase is not Phase.WARMUP:
        found.append(f"still {str(kept.phase).replace('_', ' ')}")
    until = kept.pin_until_wall_ns
    if kept.pin is not None and until is not None and until <= wall_ns:
        found.append(f"the pin to {kept.pin} ended at {moment(until)}")
    elif kept.pin is not None:
        ends = "" if until is None else f" until {moment(until)}"
        found.append(f"still pinned to {kept.pin}{ends}{_why(kept.pin_why)}")
    if kept.rejected:
        found.append(f"{len(kept.rejected)} rejected advices are remembered")
    return tuple(found)


def moment(wall_ns: int) -> str:
    """A time for people: `2027-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _refused_unpin(snapshot: PoolSnapshot, waiting: Sequence[Command]) -> str:
    pins = (CommandKind.PIN, CommandKind.UNPIN)
    newest = next((c for c in reversed(waiting) if c.kind in pins), None)
    pinned = snapshot.kept.pin is not None if newest is None else newest.kind is CommandKind.PIN
    if pinned:
        return ""
    for override in snapshot.tick.overrides:
        if override.pin:
            return f"the policy {_verb(override)} ({override.reason}); change the policy"
    return "nothing is pinned"


def _fixed(kind: CommandKind, snapshot: PoolSnapshot) -> str:
    """Why an operator's word cannot move anything now."""
    if snapshot.policy.mode is Mode.OBSERVE:
        return f"policy {snapshot.policy.name} is in mode observe: poolwright moves nothing"
    for override in snapshot.tick.overrides:
        if override.freeze or (override.pin and kind is CommandKind.APPROVE):
            return f"the policy {_verb(override)} ({override.reason}); {kind} cannot change that"
    if kind is CommandKind.APPROVE and snapshot.kept.pin is not None:
        return f"it is pinned to {snapshot.kept.pin}; unpin first"
    return ""


def _refused_advice(command: Command, snapshot: PoolSnapshot) -> str:
    advice = snapshot.decision.advice
    if advice is None:
        return "there is no advice now"
    if command.advice_id != advice.id:
        return f"advice {command.advice_id!r} is not current; {advice.id!r} is"
    return ""


def _refused_pin(command: Command, snapshot: PoolSnapshot) -> str:
    if command.setting is None:
        return "pin needs a setting, such as workers=12"
    until = command.until_wall_ns
    if until is not None and until <= snapshot.tick.wall_ns:
        return f"{moment(until)} has passed"
    return _impossible(command.setting, snapshot)


def _impossible(wanted: Setting, snapshot: PoolSnapshot) -> str:
    """What keeps `wanted` from being held, in words."""
    policy, now = snapshot.policy, snapshot.decision.setting
    assert now is not None
    known = [knob.name for knob in policy.knobs]
    unknown = [name for name, _ in wanted.levels if name not in known]
    if unknown:
        return f"there is no knob {', '.join(unknown)}; there is {', '.join(known)}"
    whole, overrides = _whole(wanted, now), snapshot.tick.overrides
    wrong = violations(whole, policy)
    if wrong:
        return "; ".join(wrong)
    narrow = violations(whole, narrowed(policy, overrides))
    if not narrow:
        return ""
    why = "; ".join(override.reason for override in overrides if override.bounds)
    return f"{'; '.join(narrow)}, to which the policy is narrowed now ({why})"


def _whole(wanted: Setting, now: Setting) -> Setting:
    """`wanted`, and the present level of the knobs that it leaves out."""
    return Setting(levels=tuple(sorted({**dict(now.levels), **dict(wanted.levels)}.items())))


def _verb(override: Override) -> str:
    if not override.pin:
        return "freezes every move"
    return "pins " + " ".join(f"{name}={level}" for name, level in override.pin)


def _why(text: str) -> str:
    return f": {text}" if text else ""
