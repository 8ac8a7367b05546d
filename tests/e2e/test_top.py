"""`poolwright top` in a real terminal, on a real daemon over a real gunicorn and a file."""

import re
import subprocess
import sys

import pytest
from gunicorn_service import until
from terminal import Terminal
from test_daemon import WITHIN_S, command_line, daemon_of, service, workers

pytestmark = pytest.mark.e2e
__all__ = ["daemon_of", "service"]  # fixtures

JOBS = """\
  - name: jobs
    policy: mine
    actuator: {{kind: file, path: {folder}/jobs.conf, key: workers}}
    sensors: [{{kind: host}}, {{kind: access_log, listen: "127.0.0.1:0"}}]
"""
HIDDEN, SHOWN = b"\x1b[?1049h", b"\x1b[?1049l"
COLOUR = re.compile(rb"\x1b\[[0-9;]*\b(?:3[0-7]|9[0-7]|38;[25][0-9;]*)m")


@pytest.fixture
def daemon(service, daemon_of):
    """Two pools: `web` on the gunicorn, and `jobs`, a number in a file."""
    made = daemon_of(service, mode="recommend")
    (made.folder / "jobs.conf").write_text("workers 5\n")
    made.config.write_text(made.config.read_text() + JOBS.format(folder=made.folder))
    made.start()
    made.until(lambda s: s["tick"]["applied"], "the pool is seen")
    yield made
    made.stop()


def top(daemon, *args, **options):
    argv = [sys.executable, "-m", "poolwright", "top", "--config", str(daemon.config), *args]
    return Terminal(argv, **options)


def row(text, pool):
    """The pool's row of the table."""
    return next((line for line in text.splitlines() if re.match(rf"[> ]  {pool} ", line)), "")


def selected(pool):
    return lambda text: row(text, pool).startswith(">")


def test_all_pools_live_and_the_keys(service, daemon):
    with top(daemon, "--interval", "0.2") as terminal:
        before = terminal.attributes()
        text = terminal.until(lambda t: row(t, "web") and row(t, "jobs"))
        assert text.startswith("poolwright  20")
        assert "2 pools" in text
        assert re.search(r"\w+ \(recommend\) +3 ", row(text, "web"))
        assert re.search(r" 5 ", row(text, "jobs"))
        terminal.until(selected("web"))
        terminal.until(lambda t: re.search(r"level +█+ most 3", t))  # a mark a look
        pin = command_line("pin", "web", "workers=6", "--why", "day", "--config", daemon.config)
        assert pin.returncode == 0, pin.stderr
        until(lambda: workers(service) == 6, WITHIN_S, "six workers")
        text = terminal.until(lambda t: re.search(r"\) +6 ", row(t, "web")))
        assert "pinned" in terminal.until("(`poolwright unpin web`)")
        terminal.until(lambda t: re.search(r"level .*▅.*█ most 6", t))
        terminal.press("j")
        terminal.until(selected("jobs"))
        terminal.press("\x1b[A")
        terminal.until(selected("web"))
        terminal.press("\x1bOB\x1b[3~")  # an arrow as some terminals say it; a key of no meaning
        terminal.until(selected("jobs"))
        terminal.press("k")
        terminal.until(selected("web"))
        terminal.press("?")
        terminal.until("leave; the daemon goes on")
        terminal.press("\x1b")
        terminal.until(selected("web"))
        terminal.press("q")
        assert terminal.ends() == 0
        assert terminal.attributes()[3] == before[3], "echo and lines are back"
        assert terminal.raw.count(HIDDEN) == terminal.raw.count(SHOWN) == 1
    assert daemon.process.poll() is None


def test_the_last_decision_is_explained_as_explain_does(service, daemon):
    command_line("pin", "web", "workers=4", "--why", "launch day", "--config", daemon.config)
    until(lambda: workers(service) == 4, WITHIN_S, "four workers")

    def told():
        done = command_line("explain", "web", "--config", daemon.config)
        return done.stdout if "an operator has pinned this setting" in done.stdout else ""

    first = until(told, WITHIN_S, "it is in the journal").splitlines()[0]
    with top(daemon, columns=100, rows=20) as terminal:
        terminal.until(selected("web"))
        terminal.press("d")
        text = terminal.until("web moved to workers=4")
        assert first in text
        assert "launch day" in text
        assert "more lines: space, j" in text
        for _ in range(40):
            terminal.press(" ")
        text = terminal.until("-- the end")
        assert "What came of it" in text
        assert first not in text
        terminal.press("\r")
        terminal.until(selected("web"))
        terminal.press("\x03")
        assert terminal.ends() == 130
        assert terminal.raw.count(HIDDEN) == terminal.raw.count(SHOWN) == 1


def test_a_daemon_that_is_gone_is_never_shown_as_live(daemon):
    with top(daemon, "--interval", "0.2") as terminal:
        terminal.until(lambda t: re.search(r"\) +3 ", row(t, "web")))
        daemon.process.kill()
        daemon.process.wait()
        text = terminal.until("NOT LIVE for ")
        assert "Connection refused" in text
        assert re.fullmatch(r">  web   -[- ]+not seen now", row(text, "web"))
        assert "benefit" not in text, "nothing of what was known"
        daemon.start()
        text = terminal.until(lambda t: re.search(r"\) +3 ", row(t, "web")))
        assert "NOT LIVE" not in text
        assert re.search(r"level .*█ +█", text), "the gap is in the sparkline"
        terminal.process.terminate()
        assert terminal.ends() == 143
        assert terminal.raw.count(HIDDEN) == terminal.raw.count(SHOWN) == 1


def test_a_loop_that_stands_still_is_not_live(daemon):
    with top(daemon, "--interval", "0.2") as terminal:
        terminal.until(lambda t: re.search(r"\) +3 ", row(t, "web")))
        daemon.process.send_signal(19)  # SIGSTOP: it accepts connections, and answers nobody
        try:
            text = terminal.until("NOT LIVE for ", within_s=30)
            assert re.search(r"web +-", row(text, "web"))
        finally:
            daemon.process.send_signal(18)
        terminal.until(lambda t: re.search(r"\) +3 ", row(t, "web")), within_s=30)


def test_sizes(daemon):
    with top(daemon, "--interval", "0.2", columns=160, rows=40) as terminal:
        wide = terminal.until(lambda t: "█" in row(t, "web"))
        assert "power" in wide
        terminal.resize(50, 10)
        narrow = terminal.until(lambda t: row(t, "web") and "power" not in t)
        assert "█" not in row(narrow, "web")
        assert len(narrow.splitlines()) <= 10
        terminal.resize(120, 36)
        terminal.until(lambda t: "power" in t and "why" in t)
        terminal.press("q")
        assert terminal.ends() == 0


@pytest.mark.parametrize(
    ("env", "coloured"), [({"NO_COLOR": None}, True), ({"NO_COLOR": "1"}, False)]
)
def test_colour_only_where_it_is_wanted(daemon, env, coloured):
    with top(daemon, "--interval", "0.2", "--count", "3", env=env) as terminal:
        assert terminal.ends() == 0
        assert bool(COLOUR.search(terminal.raw)) == coloured


def test_a_terminal_without_unicode_gets_ascii(daemon):
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    with top(daemon, "--interval", "0.2", env=ascii_only) as terminal:
        terminal.until(lambda t: re.search(r"level +#+ most 3", t))
        assert terminal.raw.isascii()


def test_into_a_pipe(daemon):
    where = ("--config", daemon.config)
    once = command_line("top", *where)
    assert (once.returncode, once.stderr) == (0, "")
    web, jobs = once.stdout.splitlines()
    assert re.match(r"20\S+ \S+ UTC  web  \w+ \(recommend\)  applied workers=3  wanted", web)
    assert "  jobs  " in jobs
    assert "\x1b" not in once.stdout
    thrice = command_line("top", *where, "--count", "3", "--interval", "0.1")
    assert len(thrice.stdout.splitlines()) == 6
    dumb = {"TERM": "dumb"}
    with top(daemon, env=dumb) as terminal:
        assert terminal.ends() == 0
        assert HIDDEN not in terminal.raw
        assert b"  jobs  " in terminal.raw
    daemon.stop()
    gone = command_line("top", *where)
    assert (gone.returncode, gone.stdout) == (3, "")
    assert "Connection refused. Is poolwright running?" in gone.stderr


def test_a_pipe_goes_on_until_it_is_ended(daemon):
    argv = [sys.executable, "-m", "poolwright", "top", "--config", str(daemon.config)]
    with subprocess.Popen(
        [*argv, "--interval", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        lines = [running.stdout.readline() for _ in range(10)]
        running.terminate()
    assert all("web" in line or "jobs" in line for line in lines)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--interval", "0"], "'0' is not between 0.1 and 3600 seconds"),
        (["--interval", "soon"], "'soon' is not between"),
        (["--count", "0"], "a count is at least 1, not '0'"),
        (["--url", "nowhere"], "nowhere: not a URL such as"),
    ],
)
def test_wrong_arguments_are_said(wrong, said):
    done = command_line("top", *wrong)
    assert done.returncode == 2
    assert said in done.stderr
