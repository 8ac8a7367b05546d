"""What the calendar says: quiet windows, in which nothing is tried, and overrides in force.

A quiet window is what a clock on the wall of its time zone shows: `Mon-Fri 09:00-10:00
Europe/Berlin`. An end before the start is on the day after. Where the clock is set back and shows a
time twice, the window opens at the first and closes at the second. Where the clock is set forward
and skips its start, it opens at the jump; a skipped end comes as much later as was skipped (PEP
495, fold=0). So no window is lost and none is closed while the clock shows a time within it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

from poolwright.core.policy import Override, Policy

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = f"(?:{'|'.join(DAYS)})"
# For the JSON Schema as well; what it cannot say (that a zone exists) is said by `parse_quiet`.
PATTERN = (
    rf"^(daily|{_DAY}(-{_DAY})?(,{_DAY}(-{_DAY})?)*)"
    r" +([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)"
    r" +[A-Za-z][A-Za-z0-9_+/-]*$"
)
EXAMPLE = "a quiet window such as Mon-Fri 09:00-10:00 Europe/Berlin"
_SHAPE = re.compile(r"(\S+) +([0-9]{1,2}:[0-9]{2})-([0-9]{1,2}:[0-9]{2})(?: +(\S+))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HORIZON_NS = 6 * 3_600 * 10**9  # how long an answer is kept at most
_DAY_MIN = 1440

State = tuple[str, tuple[Override, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """A window that comes back every week. Minutes count from midnight of the day it opens."""

    days: frozenset[int]  # 0 is Monday
    opens_min: int
    closes_min: int  # more than a day: it closes on the day after
    zone: str

    def __str__(self) -> str:
        """One text for all ways to write the same window."""
        end = self.closes_min if self.closes_min <= _DAY_MIN else self.closes_min - _DAY_MIN
        return f"{_days_text(self.days)} {_clock(self.opens_min)}-{_clock(end)} {self.zone}"


def parse_quiet(text: str) -> Quiet:
    """The window that `text` says. Raises ValueError with a text for the author of the file."""
    found = _SHAPE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"is not {EXAMPLE}")
    days_text, opens_text, closes_text, zone = found.groups()
    days = frozenset(range(7)) if days_text == "daily" else frozenset(_days(days_text))
    opens, closes = _minutes(opens_text), _minutes(closes_text)
    if opens == _DAY_MIN:
        raise ValueError("opens at 24:00; that is 00:00 of the day after")
    if opens == closes:
        raise ValueError("lasts no time; a whole day is 00:00-24:00")
    if zone is None:
        raise ValueError("has no time zone; add one such as UTC or Europe/Berlin")
    zone_of(zone)
    closes += _DAY_MIN if closes < opens else 0
    return Quiet(days=days, opens_min=opens, closes_min=closes, zone=zone)


def zone_of(name: str) -> tzinfo:
    """The time zone of that name; ValueError, with a suggestion, when this host knows none."""
    if name == "UTC":  # also where no database is installed
        return UTC
    from zoneinfo import ZoneInfo, available_timezones  # noqa: PLC0415 - few policies need it

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        import difflib  # noqa: PLC0415 - only for mistakes

        known = sorted(available_timezones())
        if not known:
            message = f"names {name!r}, but this host has no time zones: install tzdata"
            raise ValueError(message) from error
        near = difflib.get_close_matches(name.title(), known, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else "; `timedatectl list-timezones`"
        raise ValueError(f"names the time zone {name!r}, which does not exist{hint}") from error


def spans(window: Quiet, zone: tzinfo, wall_ns: int) -> Iterator[tuple[int, int]]:
    """When the window opens and closes, as UTC nanoseconds, in the days round `wall_ns`."""
    today = (_EPOCH + timedelta(microseconds=wall_ns // 1000)).astimezone(zone).date()
    for offset in range(-2, 3):  # two: a zone may skip a whole day
        day = today + timedelta(days=offset)
        if day.weekday() in window.days:
            opens, _ = _instants_ns(day, window.opens_min, zone)
            _, closes = _instants_ns(day, window.closes_min, zone)
            yield opens, closes


class Calendar:
    """Quiet windows and overrides. The last answer is kept for as long as it stays right."""

    __slots__ = ("_from_ns", "_overrides", "_state", "_until_ns", "_windows")

    def __init__(self, quiet: tuple[str, ...], overrides: tuple[Override, ...]) -> None:
        """Raises ValueError for a window that `parse_quiet` refuses."""
        parsed = [(text, parse_quiet(text)) for text in quiet]
        self._windows = [(text, window, zone_of(window.zone)) for text, window in parsed]
        self._overrides = overrides
        self._from_ns, self._until_ns = 0, 0  # the answer is right from, and before
        self._state: State = ("", ())

    def at(self, wall_ns: int) -> State:
        """The first quiet window that is open, as written, and the overrides in force."""
        if not self._from_ns <= wall_ns < self._until_ns:
            self._look(wall_ns)
        return self._state

    def _look(self, wall_ns: int) -> None:
        changes = [wall_ns + _HORIZON_NS]
        quiet = ""
        for text, window, zone in self._windows:
            for opens, closes in spans(window, zone, wall_ns):
                changes += (opens, closes)
                if opens <= wall_ns < closes:
                    quiet = quiet or text
        for override in self._overrides:
            times = (override.since_wall_ns, override.until_wall_ns)
            changes += (moment for moment in times if moment is not None)
        in_force = tuple(o for o in self._overrides if _in_force(o, wall_ns))
        self._from_ns = wall_ns
        self._until_ns = min(change for change in changes if change > wall_ns)
        self._state = (quiet, in_force)


def calendar_at(policy: Policy, wall_ns: int) -> State:
    """The quiet window of `policy` that is open at `wall_ns`, as written ("" for none), and its
    overrides in force then.
    """
    if not policy.explore.quiet and not policy.overrides:
        return "", ()
    return _calendar(policy.explore.quiet, policy.overrides).at(wall_ns)


def expired(policy: Policy, wall_ns: int) -> tuple[Override, ...]:
    """The overrides that are over at `wall_ns` and will never be in force again."""
    return tuple(
        override
        for override in policy.overrides
        if override.until_wall_ns is not None and override.until_wall_ns <= wall_ns
    )


@lru_cache(maxsize=512)
def _calendar(quiet: tuple[str, ...], overrides: tuple[Override, ...]) -> Calendar:
    return Calendar(quiet, overrides)


def _in_force(override: Override, wall_ns: int) -> bool:
    since, until = override.since_wall_ns, override.until_wall_ns
    return (since is None or since <= wall_ns) and (until is None or wall_ns < until)


def _instants_ns(day: date, minutes: int, zone: tzinfo) -> tuple[int, int]:
    """The first and the last instant at which the clock shows so many minutes of `day`."""
    shown = datetime.combine(day, time()) + timedelta(minutes=minutes)
    one = _seconds(shown.replace(tzinfo=zone, fold=0))
    other = _seconds(shown.replace(tzinfo=zone, fold=1))
    first = one if one <= other else _jump(other, one, zone)  # one > other: it is never shown
    return first * 10**9, max(one, other) * 10**9


def _jump(before_s: int, after_s: int, zone: tzinfo) -> int:
    """The second between the two at which the clock jumps, by bisection."""
    new = _offset(after_s, zone)
    while after_s - before_s > 1:
        middle = (before_s + after_s) // 2
        if _offset(middle, zone) == new:
            after_s = middle
        else:
            before_s = middle
    return after_s


def _offset(second: int, zone: tzinfo) -> timedelta | None:
    return (_EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _minutes(text: str) -> int:
    hour, minute = map(int, text.split(":"))
    if len(text) != 5 or minute > 59 or hour * 60 + minute > _DAY_MIN:
        raise ValueError(f"has the time {text}; times are 00:00 to 24:00")
    return hour * 60 + minute


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _days(text: str) -> Iterator[int]:
    for part in text.split(","):
        names = part.split("-")
        for name in names:
            if name not in DAYS:
                raise ValueError(f"names the day {name!r}; days are {', '.join(DAYS)} or daily")
        if len(names) > 2:
            raise ValueError(f"has the days {part!r}; a range has two ends")
        first, last = DAYS.index(names[0]), DAYS.index(names[-1])
        yield from (day % 7 for day in range(first, first + (last - first) % 7 + 1))


def _days_text(days: frozenset[int]) -> str:
    """Runs of three days and more as ranges; a run may go over the end of the week."""
    if len(days) == 7:
        return "daily"
    parts = []
    for first in sorted(day for day in days if (day - 1) % 7 not in days):
        run = next(n for n in range(1, 8) if (first + n) % 7 not in days)
        names = [DAYS[(first + n) % 7] for n in range(run)]
        parts.append(",".join(names) if run < 3 else f"{names[0]}-{names[-1]}")
    return ",".join(parts)
