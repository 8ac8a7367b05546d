"""Patterns of operators: linear in time, and a clear word when RE2 is not installed."""

import sys
import time

import pytest

from poolwright.actuators.file import File
from poolwright.core.errors import PolicyError
from poolwright.sensors.access_log import AccessLog
from poolwright.wire.pattern import compiled, literal

# Each takes a backtracking engine longer than anybody waits.
TERRIBLE = ["(a+)+$", "(a|aa)+$", "(a|a?)+$", "(.*a){20}$", "([a-zA-Z]+)*!", "^(([a-z])+.)+[A-Z]$"]


@pytest.mark.parametrize("pattern", TERRIBLE)
def test_no_pattern_takes_long(pattern):
    began = time.thread_time()
    compiled(pattern, "file").search(b"a" * 60_000 + b"?")
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize("pattern", ["(", r"(a)\1", "a(?=b)", "(?:a{1000}){1000}"])
def test_what_re2_does_not_do_is_said(pattern, capfd):
    with pytest.raises(PolicyError, match=r"pattern: .* \(RE2's syntax\)"):
        compiled(pattern, "file")
    assert capfd.readouterr().err == "", "said once, by us"


def test_any_bytes_match_in_bytes():
    found = compiled(r"x(.)=(\d+)", "file").search("é".encode() + b"\xff x\xfe=12")
    assert found[1] == b"\xfe"
    assert found.span(2) == (7, 9)
    assert compiled(literal("a.b{k}[x"), "file").search(b"a.b{k}[x") is not None


def test_without_re2_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(PolicyError, match=r"pip install 'poolwright\[file\]'"):
        File.Options(path="/x", pattern="(x)")
    with pytest.raises(PolicyError, match=r"pip install 'poolwright\[access_log\]'"):
        AccessLog.Options(file="/x", pattern="(?P<seconds>x)")
