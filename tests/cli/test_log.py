"""How a line of the log looks: text, JSON, and what the journal of systemd wants before it."""

import json
import logging
import os
import sys

import pytest

from poolwright.cli.log import JsonLines, TextLines, to_journald


def record(message="web: %s", *args, level=logging.INFO, exc_info=None, **extra):
    made = logging.LogRecord("poolwright", level, "x.py", 1, message, args, exc_info)
    made.created, made.msecs = 1_795_244_400.25, 250.0
    vars(made).update(extra)
    return made


def raised():
    try:
        raise ValueError("no <3>such\nthing")
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
    ],
)
@pytest.mark.parametrize("form", [TextLines, JsonLines])
def test_for_the_journal_every_line_begins_with_its_priority(form, level, priority):
    text = form(journald=True).format(record("web: %s", "held", level=level, exc_info=raised()))
    assert all(line.startswith(f"<{priority}>") for line in text.split("\n"))


def test_text_has_time_and_level_where_nobody_else_knows_them():
    text = TextLines(journald=False).format(record("web: %s", "held"))
    assert text.endswith(",250 INFO web: held")
    assert TextLines(journald=True).format(record("web: %s", "held")) == "<6>web: held"


def test_what_is_quoted_cannot_begin_a_line_of_its_own():
    text = TextLines(journald=True).format(record("web: %s", "x\n<0>root logged in\x1b[2J\r"))
    assert text == "<6>web: x\\n<0>root logged in\\x1b[2J\\r"
    assert "\n" not in JsonLines(journald=True).format(record("web: %s", "x\n<0>y"))


def test_a_traceback_is_under_the_line_as_text_and_within_it_as_json():
    text = TextLines(journald=False).format(record("web: failed", exc_info=raised()))
    assert "Traceback" in text.split("\n")[1]
    found = json.loads(JsonLines(journald=False).format(record("failed", exc_info=raised())))
    assert "ValueError: no <3>such\nthing" in found["exception"]


def test_json_is_one_object_with_the_fields_of_the_record():
    fields = {"event": "decision", "pool": "web", "setting": {"workers": 6}}
    found = json.loads(JsonLines(journald=False).format(record("web: %s", "held", fields=fields)))
    assert found == {
        "time": "2026-11-21T07:00:00.250Z",
        "level": "info",
        "message": "web: held",
        **fields,
    }


def test_the_journal_reads_only_the_stream_that_its_variable_names(tmp_path):
    with (tmp_path / "a").open("w") as mine, (tmp_path / "b").open("w") as other:
        seen = os.fstat(mine.fileno())
        environ = {"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"}
        assert to_journald(environ, mine.fileno())
        assert not to_journald(environ, other.fileno())
        assert not to_journald({}, mine.fileno())
