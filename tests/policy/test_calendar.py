"""Quiet windows and overrides in time: zones, midnight, and the hours that come twice or never."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.policy import ExploreRule, Override, Policy
from poolwright.policy.calendar import (
    DAYS,
    PATTERN,
    Calendar,
    Quiet,
    calendar_at,
    expired,
    parse_quiet,
    spans,
    zone_of,
)

BERLIN = ZoneInfo("Europe/Berlin")


def ns(text, zone=None):
    """UTC nanoseconds of an ISO text, in `zone` where it has no offset."""
    moment = datetime.fromisoformat(text)
    moment = moment if zone is None else moment.replace(tzinfo=zone)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def is_quiet(window, wall_ns):
    return Calendar((window,), ()).at(wall_ns)[0] == window


def policy(quiet=(), overrides=()):
    return Policy(
        name="p", knobs=(), objective=(), explore=ExploreRule(quiet=quiet), overrides=overrides
    )


@pytest.mark.parametrize(
    ("at", "quiet"),
    [
        ("2026-11-20T08:59:59", False),  # a Friday
        ("2026-11-20T09:00:00", True),
        ("2026-11-20T09:59:59", True),
        ("2026-11-20T10:00:00", False),
        ("2026-11-21T09:30:00", False),  # a Saturday
    ],
)
def test_a_window_is_what_a_clock_on_the_wall_shows(at, quiet):
    assert is_quiet("Mon-Fri 09:00-10:00 Europe/Berlin", ns(at, BERLIN)) is quiet


def test_the_same_window_is_an_hour_earlier_in_summer_for_the_universe():
    window = "daily 09:00-10:00 Europe/Berlin"
    assert is_quiet(window, ns("2026-01-15T08:30:00+00:00"))
    assert not is_quiet(window, ns("2026-01-15T07:30:00+00:00"))
    assert is_quiet(window, ns("2026-07-15T07:30:00+00:00"))
    assert not is_quiet(window, ns("2026-07-15T08:30:00+00:00"))


def test_a_window_over_midnight_belongs_to_the_day_it_opens():
    window = "Fri 22:00-02:00 UTC"
    times = ("20T01:30", "20T22:30", "21T01:30", "21T02:30", "21T22:30")
    found = [is_quiet(window, ns(f"2026-11-{time}:00+00:00")) for time in times]
    assert found == [False, True, True, False, False]


def test_a_day_that_ends_at_24_meets_the_next_without_a_gap():
    window = "daily 00:00-24:00 Europe/Berlin"
    start = ns("2026-03-27T00:00:00+00:00")
    assert all(is_quiet(window, start + i * 977 * 10**9) for i in range(500))


@pytest.mark.parametrize(
    ("window", "opens", "closes"),
    [
        # Set back on 2026-10-25 at 03:00 to 02:00: 02:30 comes twice.
        ("02:30-03:30", "2026-10-25T00:30:00+00:00", "2026-10-25T02:30:00+00:00"),
        ("01:30-02:30", "2026-10-24T23:30:00+00:00", "2026-10-25T01:30:00+00:00"),
        ("02:10-02:20", "2026-10-25T00:10:00+00:00", "2026-10-25T01:20:00+00:00"),
        # Set forward on 2026-03-29 at 02:00 to 03:00: 02:30 is never shown.
        ("02:30-03:15", "2026-03-29T01:00:00+00:00", "2026-03-29T01:15:00+00:00"),
        ("01:30-02:30", "2026-03-29T00:30:00+00:00", "2026-03-29T01:30:00+00:00"),
        ("02:10-02:50", "2026-03-29T01:00:00+00:00", "2026-03-29T01:50:00+00:00"),
    ],
)
def test_hours_that_come_twice_or_never(window, opens, closes):
    text = f"Sun {window} Europe/Berlin"
    first, last = ns(opens), ns(closes)
    assert (first, last) in list(spans(parse_quiet(text), BERLIN, first))
    assert not is_quiet(text, first - 1)
    assert is_quiet(text, first)
    assert is_quiet(text, last - 1)
    assert not is_quiet(text, last)


def test_a_whole_day_that_a_zone_skipped():
    """Samoa had no 30 December 2011: what would open on it opens at the jump."""
    apia = ZoneInfo("Pacific/Apia")
    found = spans(
        parse_quiet("Fri 12:00-13:00 Pacific/Apia"), apia, ns("2011-12-30T10:00:00+00:00")
    )
    assert (ns("2011-12-30T10:00:00+00:00"), ns("2011-12-30T23:00:00+00:00")) in list(found)


ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu",
     "Africa/Casablanca", "Pacific/Apia"]
)  # fmt: skip
WINDOWS = st.builds(
    lambda days, opens, length, zone: Quiet(
        days=frozenset(days), opens_min=opens, closes_min=opens + length, zone=zone
    ),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1439),
    ZONES,
)
MOMENTS = st.integers(ns("2011-01-01T00:00:00+00:00"), ns("2036-01-01T00:00:00+00:00"))


@given(WINDOWS)
def test_windows_come_back_from_their_text(window):
    import re

    assert parse_quiet(str(window)) == window
    assert re.search(PATTERN, str(window))


@given(WINDOWS, MOMENTS)
def test_it_is_quiet_whenever_the_clock_shows_a_time_within(window, wall_ns):
    shown = datetime.fromtimestamp(wall_ns // 10**9, UTC).astimezone(zone_of(window.zone))
    minute = shown.hour * 60 + shown.minute
    within = any(
        (shown.weekday() - back) % 7 in window.days
        and window.opens_min <= minute + back * 1440 < window.closes_min
        for back in (0, 1)
    )
    if within:
        assert is_quiet(str(window), wall_ns)


@given(WINDOWS, MOMENTS)
def test_no_window_is_lost(window, wall_ns):
    for opens, closes in spans(window, zone_of(window.zone), wall_ns):
        assert opens < closes


@given(WINDOWS, st.lists(MOMENTS, min_size=1, max_size=8), st.integers(0, 86400))
def test_the_answer_that_is_kept_is_the_answer(window, moments, step_s):
    """Whatever was asked before, and though the clock goes backwards."""
    kept = Calendar((str(window),), ())
    for moment in moments:
        for wall_ns in (moment, moment + step_s * 10**9, moment - step_s * 10**9):
            assert kept.at(wall_ns) == Calendar((str(window),), ()).at(wall_ns)


def test_the_first_of_several_open_windows_is_named_as_it_was_written():
    quiet = ("Sat  09:00-10:00 UTC", "daily 00:00-24:00 UTC")
    assert calendar_at(policy(quiet), ns("2026-11-21T09:30:00+00:00"))[0] == quiet[0]
    assert calendar_at(policy(quiet), ns("2026-11-22T09:30:00+00:00"))[0] == quiet[1]


def test_overrides_are_in_force_from_since_and_before_until():
    since, until = ns("2027-01-01T00:00:00+00:00"), ns("2027-01-02T00:00:00+00:00")
    bounded = Override(reason="a", freeze=True, since_wall_ns=since, until_wall_ns=until)
    always = Override(reason="b", freeze=True)
    made = policy(overrides=(bounded, always))
    assert calendar_at(made, since - 1)[1] == (always,)
    assert calendar_at(made, since)[1] == (bounded, always)
    assert calendar_at(made, until - 1)[1] == (bounded, always)
    assert calendar_at(made, until)[1] == (always,)
    assert expired(made, until - 1) == ()
    assert expired(made, until) == (bounded,)
    assert calendar_at(replace(made, overrides=()), since) == ("", ())


def test_a_window_that_closes_within_the_horizon_is_not_kept_beyond_it():
    calendar = Calendar(("Sat 09:00-09:01 UTC",), ())
    start = ns("2026-11-21T08:59:59+00:00")
    said = [calendar.at(start + second * 10**9)[0] != "" for second in range(63)]
    assert said == [False] + [True] * 60 + [False] * 2


def test_without_quiet_windows_no_time_zones_are_loaded():
    code = (
        "import sys; from poolwright.policy.load import load_policy, find_policy;"
        "from poolwright.policy.calendar import calendar_at;"
        "calendar_at(load_policy(find_policy('balanced', None)), 1);"
        "sys.exit('zoneinfo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_utc_needs_no_database_and_other_zones_say_that_they_do(monkeypatch):
    import zoneinfo

    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    assert parse_quiet("daily 01:00-02:00 UTC").zone == "UTC"
    with pytest.raises(ValueError, match="no time zones: install tzdata"):
        parse_quiet("daily 01:00-02:00 Europe/Nowhere")


@given(st.text(max_size=60) | st.lists(
    st.sampled_from([*DAYS, "-", ",", " ", "09:00", "24:00", "daily", "UTC", "Europe/Berlin", "/"]),
    max_size=9).map("".join))  # fmt: skip
def test_any_text_is_a_window_or_refused(text):
    try:
        window = parse_quiet(text)
    except ValueError:
        return
    assert parse_quiet(str(window)) == window
