"""Which algorithm sizes a uWSGI, as its command line and files tell. A /proc made of files."""

import pytest

from poolwright.actuators.uwsgi_config import refusal

PID = 7


def told(folder, *words):
    """`refusal` for a master with this command line, whose folder is `folder`."""
    place = folder / "proc" / str(PID)
    place.mkdir(parents=True)
    (place / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in ("uwsgi", *words)))
    return refusal(PID, str(folder), proc=str(folder / "proc"))


@pytest.mark.parametrize(
    "words",
    [
        ("--cheaper", "2", "--cheaper-algo", "manual"),
        ("--cheaper=2", "--cheaper-algo=manual"),
        ("--cheaper-algo=busyness", "--cheaper-algo=manual"),  # the last one counts
        ("--processes", "4"),
        ("--cheaper-initial", "4", "--processes", "8"),
    ],
)
def test_nothing_speaks_against_it(tmp_path, words):
    assert told(tmp_path, *words) == ""


@pytest.mark.parametrize(
    ("words", "algorithm"),
    [
        (("--cheaper", "2"), "spare"),
        (("--cheaper=2", "--cheaper-algo=spare2"), "spare2"),
        (("--cheaper", "2", "--cheaper-algo", "busyness"), "busyness"),
    ],
)
def test_the_command_line(tmp_path, words, algorithm):
    assert f"cheaper-algo {algorithm})" in told(tmp_path, *words)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("web.ini", "[uwsgi]\ncheaper = 2\n# cheaper-algo = manual\ncheaper-algo = backlog\n"),
        ("web.yaml", "uwsgi:\n  cheaper: 2\n  cheaper-algo: backlog\n"),
        ("web.json", '{"uwsgi": {"cheaper": 2, "cheaper-algo": "backlog"}}'),
        ("web.xml", "<uwsgi><cheaper>2</cheaper><cheaper-algo>backlog</cheaper-algo></uwsgi>"),
    ],
)
def test_files_that_it_names(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    for number, words in enumerate([(name,), (f"--ini={name}",), ("--ini", f"{name}:uwsgi")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text(text)
        assert "cheaper-algo backlog)" in told(folder, *words)


def test_what_cannot_be_read_is_not_guessed(tmp_path):
    assert refusal(PID, str(tmp_path), proc=str(tmp_path / "none")) == ""
    (tmp_path / "web.ini").mkdir()
    assert told(tmp_path, "--ini", "web.ini", "--yaml", "gone.yaml") == ""
