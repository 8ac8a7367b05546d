"""A moment as a person writes it on the command line."""

import argparse
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo

# A moment that is only known when there is something to count from (nanoseconds since 1970).
When = Callable[[int], int]

AGO = re.compile(r"-(\d+)([smhd])")
_AGO_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?")


def moment(written: str) -> int:
    """Nanoseconds since 1970; UTC unless it says otherwise. argparse's error when it is none."""
    try:
        found = datetime.fromisoformat(written)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{written!r} is not a time such as 2026-11-21T07:00:00+01:00"
        ) from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return round(found.timestamp() * 1_000_000_000)


def when(written: str) -> When:
    """`03:12`, `03:12 Europe/Berlin`, `2026-11-21T07:00`, `-10m`; argparse's error when it is none.

    A clock time is the newest such one. This machine's time zone unless it names another.
    """
    ago = AGO.fullmatch(written)
    if ago is not None:
        back_ns = int(ago[1]) * _AGO_S[ago[2]] * 10**9
        return lambda now_ns: now_ns - back_ns
    bare, zone = _zoned(written)
    clock = _CLOCK.fullmatch(bare)
    try:
        if clock is not None:
            at = time(int(clock[1]), int(clock[2]), int(clock[3] or 0))
            return lambda now_ns: _newest(at, zone, now_ns)
        found = datetime.fromisoformat(bare)
        found = found if found.tzinfo is not None else found.replace(tzinfo=zone)
        there_ns = round(found.timestamp() * 1e9)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"{written!r} is not a time such as 03:12, '03:12 Europe/Berlin', -10m or "
            "2026-11-21T07:00:00+01:00"
        ) from error
    return lambda _: there_ns


def _zoned(written: str) -> tuple[str, tzinfo | None]:
    """What stands before a named time zone, and the zone; None: this machine's."""
    bare, _, name = written.rpartition(" ")
    if not bare or not name[:1].isalpha():
        utc = written.endswith("Z") and _CLOCK.fullmatch(written[:-1])
        return (written[:-1], UTC) if utc else (written, None)
    from poolwright.policy.calendar import zone_of  # noqa: PLC0415 - not for every command

    try:
        return bare, zone_of(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{written!r}: {error}") from error


def _newest(at: time, zone: tzinfo | None, now_ns: int) -> int:
    """The newest moment at which clocks showed `at`; in the hour that comes twice, the second."""
    now_s = now_ns / 1e9
    today: date = datetime.fromtimestamp(now_s, zone).date()
    found = [
        datetime.combine(day, at, zone).replace(fold=fold).timestamp()
        for day in (today, today - timedelta(days=1))
        for fold in (1, 0)
    ]
    return round(next(second for second in found if second <= now_s) * 1e9)
