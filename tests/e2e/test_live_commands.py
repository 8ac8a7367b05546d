"""What operators ask of the whole daemon on a real gunicorn, and what is told of it afterwards."""

import json
import os
import pwd

import pytest
from gunicorn_service import http_get, until
from running_daemon import WITHIN_S, command_line
from test_daemon import daemon_of, service, workers

from poolwright.core.model import CommandKind
from poolwright.journal.query import JournalReader

pytestmark = pytest.mark.e2e
__all__ = ["daemon_of", "service"]  # fixtures

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def live(service, daemon_of):
    """A daemon over three workers that only recommends: nothing moves unless it is asked to."""
    daemon = daemon_of(service, mode="recommend").start()
    daemon.until(lambda s: s["tick"]["applied"], "the pool is seen")
    yield daemon
    daemon.stop()


def ask(daemon, *words, status=0):
    """A command line at the daemon's socket; its output."""
    done = command_line(*words, "--config", daemon.config)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def commands(daemon):
    """(kind, who without its pid, why) of every command in the journal, oldest first."""
    with JournalReader(daemon.journal) as reader:
        return [
            (str(c.kind), c.who.split(" (pid ")[0], c.why)
            for run in reader.runs()
            for step in reader.steps(run.id)
            for c in step.tick.commands
        ]


def replays(daemon):
    done = command_line("replay", daemon.journal)
    assert done.returncode == 0, done.stdout + done.stderr


def advised(status):
    return status["decision"]["advice"]


def pinned(status):
    return status["kept"]["pin"]


def test_a_pin_is_held_told_survives_a_crash_and_is_let_go(service, live):
    said = ask(live, "pin", "web", "workers=5", "--why", "launch day", "--for", "1h")
    assert said.startswith("web: asked to pin workers=5 until ")
    until(lambda: workers(service) == 5, WITHIN_S, "five workers")
    live.until(pinned, "the pin is told")
    told = command_line("status", "web", "--config", live.config).stdout
    assert f"by {ME} (pid " in told
    assert ": launch day (`poolwright unpin web`)" in told
    assert 'poolwright_pinned{pool="web"} 1.0' in http_get(live.http, "/metrics")[1]
    live.process.kill()
    live.process.wait()
    live.start()
    live.until(pinned, "still pinned")
    assert workers(service) == 5
    ask(live, "unpin", "web")
    live.until(lambda s: not pinned(s), "unpinned")
    assert workers(service) == 5, "unpin moves nothing"
    assert commands(live)[:2] == [
        ("pin", ME, "launch day"),
        ("unpin", ME, "asked at the command line"),
    ]
    told = command_line("explain", "web", "--journal", live.journal).stdout
    assert "because an operator has pinned this setting" in told
    assert f"{ME} (pid " in told
    live.stop()
    replays(live)


def test_a_pin_for_a_time_ends_by_itself(service, live):
    ask(live, "pin", "web", "workers=4", "--why", "a while", "--for", "3s")
    live.until(pinned, "pinned")
    live.until(lambda s: not pinned(s), "unpinned in time")
    assert [kind for kind, _, _ in commands_when_written(live, 2)] == ["pin", "unpin"]


def commands_when_written(daemon, count):
    return until(
        lambda: found if len(found := commands(daemon)) >= count else None,
        WITHIN_S,
        f"{count} commands in the journal",
    )


def test_advice_is_done_when_approved_and_can_be_rolled_back(service, daemon_of):
    daemon = daemon_of(service, mode="recommend", low=6).start()
    advice = daemon.until(advised, "it has an advice")
    wrong = ask(daemon, "approve", "web", "00000000", status=2)
    assert "refused" in wrong
    assert workers(service) == 3
    said = ask(daemon, "approve", "web", "--why", "looks right")
    assert f"web: advice {advice['id']}: workers=3 -> workers=6, expected gain " in said
    until(lambda: workers(service) == 6, WITHIN_S, "six workers")
    daemon.until(lambda s: not advised(s), "nothing more to advise")
    assert "there is no advice now" in ask(daemon, "approve", "web", status=2)
    told = command_line("explain", "web", "--journal", daemon.journal).stdout
    assert "because an operator approved this advice" in told, told
    daemon.stop()
    replays(daemon)


def test_advice_that_was_rejected_is_not_given_again(service, daemon_of):
    daemon = daemon_of(service, mode="recommend", low=6).start()
    daemon.until(advised, "it has an advice")
    assert "required: --why" in ask(daemon, "reject", "web", status=2)
    ask(daemon, "reject", "web", "--why", "the database cannot take it")
    daemon.until(lambda s: not advised(s), "the advice is gone")
    daemon.stop()
    daemon.start()
    daemon.until(lambda s: s["tick"]["index"] > 10, "it had time to advise")
    assert not advised(daemon.status())
    assert daemon.status()["kept"]["rejected"]
    daemon.stop()
    replays(daemon)


def test_rollback_goes_back_and_pauses(service, live):
    assert "nothing" in ask(live, "rollback", "web", "--why", "slow", status=2)
    ask(live, "pin", "web", "workers=5", "--why", "try")
    until(lambda: workers(service) == 5, WITHIN_S, "five workers")
    live.until(lambda s: s["decision"]["reason"] == "pinned" and not s["tick"]["actuation"], "done")
    said = ask(live, "rollback", "web", "--why", "slow")
    assert said.startswith("web: asked to roll back to workers=3, and to pause;")
    until(lambda: workers(service) == 3, WITHIN_S, "three workers")
    live.until(lambda s: s["decision"]["phase"] == "paused" and not pinned(s), "paused")
    ask(live, "rollback", "web", "--to", "workers=4", "--why", "rather this")
    until(lambda: workers(service) == 4, WITHIN_S, "four workers")
    ask(live, "rollback", "web", "--to", "baseline", "--why", "as it was")
    until(lambda: workers(service) == 3, WITHIN_S, "the baseline")
    ask(live, "resume", "web")
    live.until(lambda s: s["decision"]["phase"] != "paused", "resumed")
    live.stop()
    replays(live)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pin", "web", "workers=99", "--why", "x"), "workers=99 is outside 1..16"),
        (("pin", "web", "threads=2", "--why", "x"), "threads"),
        (("pin", "web", "workers=2", "--until", "2020-01-01", "--why", "x"), "has passed"),
        (("pin", "wob", "workers=2", "--why", "x"), "no pool 'wob'"),
        (("unpin", "web"), "nothing is pinned"),
        (("approve", "web"), "there is no advice now"),
        (("reject", "web", "00000000", "--why", "x"), "there is no advice now"),
        (("rollback", "web", "--to", "workers=99", "--why", "x"), "workers=99 is outside 1..16"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_moves(service, live, words, said):
    assert said in ask(live, *words, status=2)
    assert workers(service) == 3
    assert not pinned(live.status())


def test_in_mode_observe_nothing_is_moved_for_anybody(service, daemon_of):
    daemon = daemon_of(service, mode="observe").start()
    daemon.until(lambda s: s["tick"]["applied"], "the pool is seen")
    assert "observe" in ask(daemon, "pin", "web", "workers=5", "--why", "x", status=2)
    assert workers(service) == 3
    daemon.stop()


def test_over_tcp_everything_can_be_read_and_nothing_asked(live):
    assert http_get(live.http, "/")[0] == 200
    assert json.loads(http_get(live.http, "/api/v1/status")[1])["pools"][0]["pool"] == "web"
    for kind in CommandKind:
        assert http_get(live.http, f"/v1/pools/web/{kind}")[0] == 404
    assert commands(live) == []
