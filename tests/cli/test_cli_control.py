"""`pause`, `pin`, `approve` and their like, against a real control socket."""

import asyncio
import json
import shlex
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from poolwright.cli.main import main
from poolwright.core.model import CommandKind, setting
from poolwright.surface.control import ControlServer

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import snapshots as make

pytestmark = pytest.mark.e2e

YEAR_2027_NS = 1_798_761_600_000_000_000


class Asked:
    """A ControlServer in a thread of its own, for the commands block."""

    def __init__(self, path):
        self.path = path
        self.snapshot = make.snapshot(make.busy_pool(previous=make.at(7)))
        self.refusal = ""
        self.commands = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server = ControlServer(str(path), self.command, lambda: self.snapshot)
        self.call(self.server.start())

    def command(self, pool, command):
        if pool != "web":
            raise KeyError(pool)
        self.commands.append(command)
        return self.refusal

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def close(self):
        self.call(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def asked(tmp_path):
    made = Asked(tmp_path / "c.sock")
    yield made
    made.close()


def ask(asked, line, status=0):
    """Run a command line at the socket; the one Command that came of it."""
    before = len(asked.commands)
    assert main([*shlex.split(line), "--socket", str(asked.path)]) == status
    new = asked.commands[before:]
    return new[0] if new else None


@pytest.mark.parametrize(
    ("line", "kind", "why", "more"),
    [
        ("pause web", "pause", "asked at the command line", {}),
        ("resume web --why 'deploy is over'", "resume", "deploy is over", {}),
        ("unpin web", "unpin", "asked at the command line", {}),
        (
            "pin web workers=12 threads=4 --why launch",
            "pin",
            "launch",
            {"setting": setting(threads=4, workers=12)},
        ),
        (
            "pin web workers=12 --until 2027-01-01T01:00:00+01:00 --why launch",
            "pin",
            "launch",
            {"setting": make.at(12), "until_wall_ns": YEAR_2027_NS},
        ),
        (
            "approve web 5fbb3e2a",
            "approve",
            "asked at the command line",
            {"advice_id": "5fbb3e2a"},
        ),
        ("reject web 1234 --why no", "reject", "no", {"advice_id": "1234"}),
        ("rollback web --why slow", "rollback", "slow", {"setting": None}),
        ("rollback web --why slow --to workers=3", "rollback", "slow", {"setting": make.at(3)}),
        ("rollback web --why slow --to baseline", "rollback", "slow", {"setting": make.at(5)}),
    ],
)
def test_a_command_line_becomes_a_command(asked, line, kind, why, more):
    made = ask(asked, line)
    assert (made.kind, made.why) == (CommandKind(kind), why)
    assert made.who
    assert {name: getattr(made, name) for name in more} == more


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pause web", "web: asked to pause; undo: poolwright resume web"),
        ("resume web", "web: asked to resume; undo: poolwright pause web"),
        ("unpin web", "web: asked to unpin; undo: poolwright pin web KNOB=LEVEL --why TEXT"),
        (
            "pin web workers=12 --until 2027-01-01 --why x",
            (
                "web: asked to pin workers=12 until 2027-01-01 00:00:00 UTC; "
                "undo: poolwright unpin web"
            ),
        ),
        (
            "approve web 5fbb3e2a",
            "web: asked to do advice 5fbb3e2a; undo: poolwright rollback web --why TEXT",
        ),
        (
            "rollback web --why x",
            "web: asked to roll back to workers=7, and to pause; undo: poolwright resume web",
        ),
    ],
)
def test_what_was_asked_is_told_with_the_way_back(asked, capsys, line, said):
    ask(asked, line)
    assert capsys.readouterr().out == f"{said} --socket {asked.path}\n"


def test_a_span_ends_a_pin_so_much_later(asked):
    before = time.time_ns()
    made = ask(asked, "pin web workers=12 --for 90m --why launch")
    late = time.time_ns()
    assert before <= made.until_wall_ns + 1000 - 5400 * 10**9  # microseconds are what is sent
    assert made.until_wall_ns - 5400 * 10**9 <= late


@pytest.mark.parametrize("command", ["approve", "reject"])
def test_without_an_id_it_is_the_advice_given_now_and_it_is_shown(asked, capsys, command):
    made = ask(asked, f"{command} web --why ok")
    assert (made.kind, made.advice_id) == (CommandKind(command), "5fbb3e2a")
    assert capsys.readouterr().out.startswith(
        "web: advice 5fbb3e2a: workers=5 -> workers=4, expected gain 12 % ± 7.8 % (95 %), "
        "P(safe) 0.97\nweb: asked to "
    )


@pytest.mark.parametrize("command", ["approve", "reject"])
def test_without_an_advice_nothing_is_asked(asked, capsys, command):
    asked.snapshot = make.snapshot()
    assert ask(asked, f"{command} web --why ok", status=2) is None
    assert capsys.readouterr().err == "web: there is no advice now\n"


def test_a_refusal_is_told_and_the_status_is_not_zero(asked, capsys):
    asked.refusal = "workers=99 is outside 2..64"
    ask(asked, "pin web workers=99 --why x", status=2)
    assert capsys.readouterr().err == "web: refused: workers=99 is outside 2..64\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pause mail", "mail: refused: no pool 'mail'"),
        ("approve mail", "mail: refused: no pool 'mail' has been seen"),
        ("pause 'a/b'", "a/b: refused: no pool 'a/b'"),
        ("pause web --why ''", "web: refused: `why` is one line of 1 to 500 printable characters"),
        ("pin web workers --why x", "workers: not of the form workers=12"),
        ("pin web workers=-1 --why x", "workers=-1: not of the form workers=12"),
        ("pin web w=1 w=2 --why x", "w=1 w=2: not of the form workers=12"),
        ("rollback web --to start --why x", "start: not of the form workers=12"),
        ("pin web w=1 --for 9000000d --why x", "the pin would end beyond the calendar"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(asked, capsys, line, said):
    assert ask(asked, line, status=2) is None
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pin web workers=12", "required: --why"),
        ("rollback web", "required: --why"),
        ("reject web", "required: --why"),
        ("pin web --why x", "required: KNOB=LEVEL"),
        ("pin web w=1 --until soon --why x", "'soon' is not a time such as"),
        ("pin web w=1 --for 2 --why x", "'2' has no unit; did you mean 2ms or 2s?"),
        ("pin web w=1 --for 2h --until 2027-01-01 --why x", "not allowed with"),
    ],
)
def test_what_is_missing_or_odd_on_the_line_is_told(asked, capsys, line, said):
    with pytest.raises(SystemExit, match="2"):
        ask(asked, line)
    assert said in capsys.readouterr().err
    assert asked.commands == []


def test_the_configuration_says_where(asked, capsys, tmp_path):
    config = tmp_path / "poolwright.yaml"
    config.write_text(
        f"version: 1\ncontrol: {asked.path}\npools:\n"
        "  - {name: web, actuator: {kind: gunicorn, pidfile: /x}, sensors: [{kind: host}]}\n"
    )
    assert main(["pause", "web", "--config", str(config)]) == 0
    told = f"web: asked to pause; undo: poolwright resume web --config {config}\n"
    assert capsys.readouterr().out == told


def test_nobody_at_the_socket_is_said(tmp_path, capsys):
    path = tmp_path / "nobody.sock"
    assert main(["pause", "web", "--socket", str(path)]) == 3
    assert f"{path}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'HTTP/1.1 403 Forbidden\r\nContent-Length: 15\r\n\r\n{"error":"no!"}', "no!"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nbroken"[:-2], "brok"),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n[]", "no answer of poolwright"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "no reason given"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is the daemon running?"),
    ],
)
def test_somebody_else_at_the_socket_is_told_apart(tmp_path, capsys, answer, said):
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=_answer_once, args=(server, answer, []))
        thread.start()
        assert main(["pause", "web", "--socket", str(path)]) == 3
        thread.join(10)
    err = capsys.readouterr().err
    assert str(path) in err
    assert said in err


def _answer_once(server, answer, seen):
    """Take one whole request into `seen`, and answer it."""
    client, _ = server.accept()
    with client, client.makefile("rb") as lines:
        head = b"".join(iter(lines.readline, b"\r\n"))
        length = next(int(x[15:]) for x in head.splitlines() if x.startswith(b"Content-Length:"))
        seen += [head, lines.read(length)]
        client.sendall(answer)


def test_the_body_on_the_wire_is_what_the_reference_says(tmp_path):
    path, seen = tmp_path / "wire.sock", []
    accepted = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=_answer_once, args=(server, accepted, seen))
        thread.start()
        line = ["pin", "web", "workers=12", "--until", "2027-01-01", "--why", "launch"]
        assert main([*line, "--socket", str(path)]) == 0
        thread.join(10)
    head, body = seen
    assert head.startswith(b"POST /v1/pools/web/pin HTTP/1.1\r\n")
    assert json.loads(body) == {
        "why": "launch",
        "setting": {"workers": 12},
        "until": "2027-01-01T00:00:00+00:00",
    }
