"""Quantities: what is read, what is refused, and that writing and reading agree."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolwright.policy.quantities import is_loopback, parse, render, split_host_port


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("duration", "250ms", 0.25),
        ("duration", "250us", 0.00025),
        ("duration", "3s", 3.0),
        ("duration", "1.5h", 5400.0),
        ("duration", "5m", 300.0),
        ("duration", "2d", 172800.0),
        ("ratio", "85%", 0.85),
        ("ratio", "0.5%", 0.005),
        ("ratio", "0.85", 0.85),
        ("ratio", "1", 1.0),
        ("bytes", "512MiB", 512 * 2**20),
        ("bytes", "2GB", 2 * 10**9),
        ("bytes", "1.5GiB", 3 * 2**29),
        ("bytes", "4096", 4096),
        ("bytes", "7B", 7),
        ("rate", "100/s", 100.0),
        ("rate", "6000/m", 100.0),
        ("rate", "100", 100.0),
        ("host_port", "[::1]:9817", "[::1]:9817"),
        ("path", "unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_reads(kind, text, value):
    assert parse(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("duration", "3", "3ms or 3s"),
        ("duration", "-3s", "negative"),
        ("duration", "1h30m", "duration such as"),
        ("duration", "3 s", "duration such as"),
        ("duration", "infs", "duration such as"),
        ("duration", "٣s", "duration such as"),
        ("duration", "9" * 50 + "s", "duration such as"),
        ("ratio", "85", "did you mean 85%"),
        ("ratio", "101%", "more than 100%"),
        ("ratio", "-1%", "share such as"),
        ("ratio", "nan", "share such as"),
        ("bytes", "512M", "512MiB or 512MB"),
        ("bytes", "0.3KiB", "whole number of bytes"),
        ("bytes", "-1", "size such as"),
        ("rate", "100/d", "rate such as"),
        ("rate", "1e999", "rate such as"),
        ("host_port", "9817", "address such as"),
        ("host_port", ":9817", "address such as"),
        ("host_port", "::1:9817", "brackets"),
        ("host_port", "[::g]:1", "IPv6"),
        ("host_port", "127.0.0.256:1", "valid host"),
        ("host_port", "local host:1", "valid host"),
        ("host_port", "localhost:65536", "65535"),
        ("path", "", "not a path"),
        ("path", "a\0b", "not a path"),
    ],
)
def test_refuses(kind, text, why):
    with pytest.raises(ValueError, match=why):
        parse(kind, text)


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_durations_come_back(value):
    assert parse("duration", render("duration", value)) == value


@given(st.integers(0, 10**9), st.sampled_from([1e-6, 1e-3, 1.0, 60.0, 3600.0]))
def test_written_durations_come_back_exactly(count, unit):
    value = count * unit
    assert parse("duration", render("duration", value)) == value


@given(st.floats(min_value=0, max_value=1))
def test_ratios_come_back(value):
    assert parse("ratio", render("ratio", value)) == value


@given(st.integers(0, 2**62))
def test_sizes_come_back(value):
    assert parse("bytes", render("bytes", value)) == value


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_rates_come_back(value):
    assert parse("rate", render("rate", value)) == value


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("duration", 0.25, "250ms"),
        ("duration", 3.0, "3s"),
        ("duration", 90.0, "90s"),
        ("duration", 300.0, "5m"),
        ("duration", 30 * 86400.0, "30d"),
        ("duration", 0.0, "0s"),
        ("ratio", 0.85, "85%"),
        ("bytes", 512 * 2**20, "512MiB"),
        ("bytes", 4097, "4097"),
        ("bytes", 0, "0"),
        ("rate", 100.0, "100/s"),
    ],
)
def test_writes_as_a_person_would(kind, value, text):
    assert render(kind, value) == text


@given(st.text(max_size=60), st.sampled_from(["duration", "ratio", "bytes", "rate", "host_port"]))
def test_any_text_is_read_or_refused(text, kind):
    try:
        value = parse(kind, text)
    except ValueError:
        return
    assert isinstance(value, str) or (math.isfinite(value) and value >= 0)


def test_host_and_port():
    assert split_host_port("[::1]:9817") == ("::1", 9817)
    assert split_host_port("db.example.org:80") == ("db.example.org", 80)
    assert [is_loopback(a) for a in ("127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1")] == [
        True
    ] * 4
    assert [is_loopback(a) for a in ("0.0.0.0:1", "[::]:1", "127.evil.org:1", "10.0.0.1:1")] == [
        False
    ] * 4
