"""What an operator asks at the control socket: pause, pin, approve, roll back.

A command is an act of a person with authority, so it may move the level in every mode but observe;
the envelope and the forecasts of memory, CPU and connections hold for it as for everything else.
"""

from poolwright.core.envelope import violations
from poolwright.core.model import (
    Action,
    Clamp,
    ClampKind,
    Command,
    CommandKind,
    Phase,
    Reason,
    Setting,
    Tick,
)
from poolwright.core.phase import Event
from poolwright.core.policy import Mode
from poolwright.core.state import Errand, State

_REJECTED_MOST = 64
_PASSES = frozenset({ClampKind.SETTLE, ClampKind.DWELL, ClampKind.SLEW})


def obey(state: State, tick: Tick) -> bool:
    """Obey the commands of this tick; True when the baseline is to be restored."""
    stopping = False
    for command in tick.commands:
        by = f"{command.who}: {command.why}" if command.why else command.who
        if command.kind is CommandKind.RESTORE:
            stopping = True
            state.events.append(f"restore asked by {by}")
        else:
            _OBEYED[command.kind](state, command, by)
    return stopping


def _pause(state: State, _: Command, by: str) -> None:
    state.stop_trying()
    state.errand = None
    state.advance(Event.PAUSE, f"paused by {by}")


def _resume(state: State, _: Command, by: str) -> None:
    if state.phase is Phase.STOOD_DOWN:
        state.holdouts = ()  # another try, judged by what it will show
    state.errand = None
    state.unsettle()
    state.advance(Event.RESUME, f"resumed by {by}")


def _unpin(state: State, _: Command, by: str) -> None:
    state.pin = state.pin_until_wall_ns = None
    state.pin_why = ""
    state.events.append(f"unpinned by {by}")


def give_up(state: State, clamps: tuple[Clamp, ...]) -> None:
    """End an errand or a comparison that can go no further; time alone is waited for."""
    stops = [c for c in clamps if c.kind not in _PASSES]
    if stops and state.errand is None:
        state.stop_comparing()
    if stops and state.errand is not None:
        kinds = ", ".join(sorted({str(c.kind) for c in stops}))
        state.events.append(f"{state.errand.setting} cannot be reached: {kinds}")
        state.errand = None


def _refuse(state: State, command: Command, why: str) -> None:
    state.events.append(f"{command.kind} refused: {why}")


def _pin(state: State, command: Command, by: str) -> None:
    wanted = command.setting
    if wanted is None or (why := _unfit(state, wanted)):
        _refuse(state, command, "no setting" if wanted is None else why)
        return
    state.stop_trying()
    state.advance(Event.RESUME, f"pinned by {by}")
    state.pin, state.pin_why = wanted, by
    state.pin_until_wall_ns = command.until_wall_ns
    state.errand = None
    state.events.append(f"pinned to {wanted} by {by}")


def _approve(state: State, command: Command, by: str) -> None:
    advice = state.advice
    if advice is None or advice.id != command.advice_id:
        _refuse(state, command, f"advice {command.advice_id!r} is not given now")
        return
    state.errand = Errand(setting=advice.setting, action=Action.TRACK, reason=Reason.APPROVED)
    state.approved_from = advice.replaces
    state.events.append(f"advice {advice.id} ({advice.setting}) approved by {by}")
    state.advice = None


def _reject(state: State, command: Command, by: str) -> None:
    advice = state.advice
    if advice is None or advice.id != command.advice_id:
        _refuse(state, command, f"advice {command.advice_id!r} is not given now")
        return
    state.rejected = (*state.rejected, advice.id)[-_REJECTED_MOST:]
    state.events.append(f"advice {advice.id} ({advice.setting}) rejected by {by}")
    state.advice = None


def _roll_back(state: State, command: Command, by: str) -> None:
    wanted = command.setting or state.previous
    if wanted is None or (why := _unfit(state, wanted)):
        _refuse(state, command, "nothing to go back to" if wanted is None else why)
        return
    state.stop_trying()
    state.pin = state.pin_until_wall_ns = None
    state.pin_why = ""
    state.advance(Event.PAUSE, f"rolled back to {wanted} by {by}")
    state.errand = Errand(setting=wanted, action=Action.RETREAT, reason=Reason.ROLLED_BACK)
    state.events.append(f"rolling back to {wanted} by {by}; paused until resume")


def _unfit(state: State, wanted: Setting) -> str:
    """Why an operator's setting cannot be taken; empty when it can."""
    if state.policy.mode is Mode.OBSERVE:
        return "the mode is observe: nothing is ever moved"
    knobs = {knob.name for knob in state.policy.knobs}
    if {name for name, _ in wanted.levels} != knobs:
        return f"{wanted} does not name the knobs {', '.join(sorted(knobs))}"
    return "; ".join(violations(wanted, state.policy))


_OBEYED = {
    CommandKind.PAUSE: _pause,
    CommandKind.RESUME: _resume,
    CommandKind.PIN: _pin,
    CommandKind.UNPIN: _unpin,
    CommandKind.APPROVE: _approve,
    CommandKind.REJECT: _reject,
    CommandKind.ROLLBACK: _roll_back,
}
