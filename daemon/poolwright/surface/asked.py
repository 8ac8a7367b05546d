"""What an operator may ask at the control socket: the bodies of the requests, made Commands.

Strict: a field that is not known is refused, and so is what would not be clean in the journal or in
a terminal.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec

from poolwright.core.model import Command, CommandKind, Setting

WHY_LIMIT = 500
NAME_LIMIT = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_NS = 2**63 - 1  # in the year 2262: what the journal's integers hold

Level = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class UnknownBaseline(Exception):
    """The baseline was asked for, and nothing has been seen yet."""


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A request that needs nothing but a reason."""

    why: str


class PinAsked(Asked, forbid_unknown_fields=True):
    """Hold a setting, for ever or until a moment."""

    setting: dict[str, Level]
    until: Moment | None = None


class AdviceAsked(Asked, forbid_unknown_fields=True):
    """Approve or reject the advice of an id."""

    advice: str


class RollbackAsked(Asked, forbid_unknown_fields=True):
    """Go back to a setting, to the baseline, or to what was held before the last move."""

    setting: dict[str, Level] | None = None
    to: Literal["baseline"] | None = None


BODIES: dict[CommandKind, type[Asked]] = {
    CommandKind.PAUSE: Asked,
    CommandKind.RESUME: Asked,
    CommandKind.PIN: PinAsked,
    CommandKind.UNPIN: Asked,
    CommandKind.APPROVE: AdviceAsked,
    CommandKind.REJECT: AdviceAsked,
    CommandKind.ROLLBACK: RollbackAsked,
}
assert set(CommandKind) - set(BODIES) == {CommandKind.RESTORE}, "restore is the daemon's own"


def command_of(kind: CommandKind, body: bytes, who: str, baseline: Setting | None) -> Command:
    """The Command that `body` asks for. Whether it can be obeyed is for the engine to say.

    ValueError (msgspec's is one) with a line for the asker; UnknownBaseline.
    """
    asked = msgspec.json.decode(body, type=BODIES[kind])
    _check_line("why", asked.why, WHY_LIMIT)
    plain = Command(kind=kind, who=who, why=asked.why.strip())
    match asked:
        case PinAsked(setting=levels, until=until):
            until_ns = None if until is None else _wall_ns(until)
            return replace(plain, setting=_setting(levels), until_wall_ns=until_ns)
        case AdviceAsked(advice=advice):
            _check_line("advice", advice, NAME_LIMIT)
            return replace(plain, advice_id=advice)
        case RollbackAsked(setting=None, to="baseline"):
            if baseline is None:
                raise UnknownBaseline
            return replace(plain, setting=baseline)
        case RollbackAsked(setting=None):
            return plain
        case RollbackAsked(setting=dict(levels), to=to):
            if to is not None:
                raise ValueError("`setting` and `to` are both given; one is enough")
            return replace(plain, setting=_setting(levels))
        case _:
            return plain


def _setting(levels: dict[str, int]) -> Setting:
    if not levels:
        raise ValueError("`setting` names no knob")
    for knob in levels:
        _check_line("setting", knob, NAME_LIMIT)
    return Setting(levels=tuple(sorted(levels.items())))


def _check_line(field: str, text: str, most: int) -> None:
    if not (text.strip() and text.isprintable() and len(text) <= most):
        raise ValueError(f"`{field}` is one line of 1 to {most} printable characters")


def _wall_ns(moment: datetime) -> int:
    """Exact: a float of seconds since 1970 is not."""
    found = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    if not -_LATEST_NS <= found <= _LATEST_NS:
        raise ValueError("`until` is further away than the year 2262")
    return found
