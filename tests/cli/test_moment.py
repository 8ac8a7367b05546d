"""Times as people write them."""

import argparse
import time
from datetime import UTC, datetime

import pytest

from poolwright.cli.moment import when

NOW = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    """A machine whose clock is an hour ahead of UTC in winter."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def understood(written, now=NOW):
    found_ns = when(written)(round(now.timestamp() * 1e9))
    return datetime.fromtimestamp(found_ns / 1e9, UTC).isoformat(timespec="seconds")[:19]


@pytest.mark.parametrize(
    ("written", "utc"),
    [
        ("03:12", "2026-11-22T02:12:00"),  # local time
        ("04:29:59", "2026-11-22T03:29:59"),
        ("04:31", "2026-11-21T03:31:00"),  # not come yet today
        ("03:12Z", "2026-11-22T03:12:00"),
        ("3:12 UTC", "2026-11-22T03:12:00"),
        ("12:00 Asia/Tokyo", "2026-11-22T03:00:00"),
        ("03:12 America/New_York", "2026-11-21T08:12:00"),
        ("2026-11-21T07:00", "2026-11-21T06:00:00"),
        ("2026-11-21 07:00 UTC", "2026-11-21T07:00:00"),
        ("2026-11-21T07:00:00+05:30", "2026-11-21T01:30:00"),
        ("2026-11-21T07:00:00Z", "2026-11-21T07:00:00"),
        ("2026-07-01", "2026-06-30T22:00:00"),
        ("-10m", "2026-11-22T03:20:00"),
        ("-2h", "2026-11-22T01:30:00"),
        ("-1d", "2026-11-21T03:30:00"),
    ],
)
def test_times(written, utc):
    assert understood(written) == utc


def test_an_hour_that_comes_twice_is_the_later_one():
    day = datetime(2026, 10, 25, tzinfo=UTC)  # 03:00 summer time becomes 02:00
    assert understood("02:30", day.replace(hour=12)) == "2026-10-25T01:30:00"
    assert understood("02:30", day.replace(hour=1)) == "2026-10-25T00:30:00"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("yesterday", "is not a time such as 03:12"),
        ("25:00", "is not a time"),
        ("10m", "is not a time"),
        ("-10y", "is not a time"),
        ("", "is not a time"),
        ("03:12 Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("03:12 CET+1", "names the time zone 'CET+1', which does not exist"),
        ("99999-01-01", "is not a time"),
    ],
)
def test_what_is_no_time(written, said):
    with pytest.raises(argparse.ArgumentTypeError, match="time") as refused:
        when(written)
    assert said in str(refused.value)
