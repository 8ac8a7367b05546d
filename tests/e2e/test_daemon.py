"""The whole daemon against a real gunicorn: moves, crashes, reloads, other hands, bad starts."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import running_daemon
from gunicorn_service import http_get, until
from initialised import free_udp_port
from running_daemon import WITHIN_S, command_line

from poolwright.journal.query import JournalReader

pytestmark = pytest.mark.e2e

POLICY = """\
version: 1
name: mine
mode: {mode}
knobs:
  workers: {{min: {low}, max: {high}, slew: 4, settle: 1s}}
objective: {{latency_p99: 1.0, memory: 0.2}}
slo:
  error_ratio: {{below: 1%}}
explore: {{window: 4s, warmup: 2}}
exit: {exit}
cadence: 200ms
"""
POOL = """\
  - name: web
    policy: mine
    actuator: {{kind: gunicorn, pidfile: {pidfile}}}
    sensors:
      - {{kind: access_log, listen: "127.0.0.1:{syslog}"}}
      - {{kind: process_tree, pidfile: {pidfile}}}
      - {{kind: host}}
      - {{kind: listen_queue, pidfile: {pidfile}}}
      - {{kind: power}}
"""
ASK = "import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/sleep?s=4', timeout=30)"


class Daemon(running_daemon.Daemon):
    """Over one gunicorn.

    `syslog`: the port to which the gunicorn was told to send its access log; 0: it sends none.
    """

    def __init__(self, folder, service, *, syslog=0, **policy):
        self.syslog = syslog or free_udp_port()
        pool = POOL.format(pidfile=service.pidfile, syslog=self.syslog)
        super().__init__(folder, pool, policy_text(**policy))

    def write_policy(self, **policy):
        self.set_policy(policy_text(**policy))


def policy_text(*, mode="auto", low=1, high=16, stopping="keep"):
    return POLICY.format(mode=mode, low=low, high=high, exit=stopping)


def workers(service):
    return len(service.children())


@pytest.fixture
def daemon_of(tmp_path):
    made = []

    def make(service, name="daemon", **policy):
        made.append(Daemon(tmp_path / name, service, **policy))
        return made[-1]

    yield make
    for daemon in made:
        daemon.kill()


@pytest.fixture
def service(gunicorn_service):
    return gunicorn_service(workers=3)


def test_it_moves_within_bounds_and_the_run_replays(service, daemon_of):
    daemon = daemon_of(service, low=6).start()
    until(lambda: workers(service) == 6, WITHIN_S, "six workers")
    daemon.until(lambda s: s["decision"]["reason"] != "out_of_bounds", "it settles")
    daemon.stop()
    assert workers(service) == 6, "exit: keep"
    verified = command_line("journal", "verify", "--journal", daemon.journal)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    replayed = command_line("replay", daemon.journal)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "identical" in replayed.stdout
    told = command_line("explain", "web", "--journal", daemon.journal)
    assert "outside the policy's bounds" in told.stdout, told.stdout + told.stderr


def test_killed_in_the_middle_of_a_resize_it_continues_from_what_is_there(
    gunicorn_service, daemon_of
):
    service = gunicorn_service(workers=6)
    long = [
        subprocess.Popen(
            [sys.executable, "-c", ASK.format(port=service.port)],
            stdout=subprocess.DEVNULL,
        )
        for _ in range(6)
    ]  # fmt: skip
    until(lambda: busy(service) == 6, WITHIN_S, "six requests are being served")
    daemon = daemon_of(service, high=2).start()
    until(lambda: JournalReader(daemon.journal).intents(1), WITHIN_S, "an intent is durable")
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()
    until(lambda: workers(service) == 2, WITHIN_S, "two workers")
    daemon.stop()
    assert {p.wait(30) for p in long} == {0}, "no request was lost"
    reader = JournalReader(daemon.journal)
    notes = [n.text for run in reader.runs() for n in reader.notes(run.id)]
    assert any("while moving to workers=2" in text for text in notes), notes
    assert all(str(i.status) != "open" for i in reader.intents(1))
    replayed = command_line("replay", daemon.journal)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def busy(service):
    """How many connections of clients are established at the service's port."""
    port = f":{service.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[1].endswith(port) and row[3] == "01")


def test_a_service_that_dies_and_comes_back_is_taken_up_again(service, daemon_of):
    daemon = daemon_of(service, low=5).start()
    until(lambda: workers(service) == 5, WITHIN_S, "five workers")
    service.kill()
    daemon.until(lambda s: s["decision"]["reason"] == "read_back_failed", "it sees the loss")
    detail = daemon.status()["decision"]["detail"]
    assert str(service.pidfile) in detail
    service.start()
    until(lambda: workers(service) == 5, WITHIN_S, "five workers again")
    daemon.stop()


def test_another_hand_is_respected_until_resume(service, daemon_of):
    daemon = daemon_of(service).start()
    daemon.until(lambda s: s["tick"]["applied"], "the pool is seen")
    service.signal(signal.SIGTTIN)
    daemon.until(lambda s: s["decision"]["phase"] == "manual", "it stands back")
    assert workers(service) == 4
    asked = command_line("resume", "web", "--why", "done", "--config", daemon.config)
    assert asked.returncode == 0, asked.stderr
    daemon.until(lambda s: s["decision"]["phase"] == "warmup", "it is back")
    assert command_line("pause", "wob", "--config", daemon.config).returncode == 2
    assert command_line("pause", "web", "--config", daemon.config).returncode == 0
    daemon.until(lambda s: s["decision"]["phase"] == "paused", "it pauses")
    daemon.stop()


def test_a_broken_policy_changes_nothing_and_a_good_one_does_at_once(service, daemon_of):
    daemon = daemon_of(service).start()
    daemon.until(lambda s: s["tick"]["applied"], "the pool is seen")
    daemon.write_policy(low=9, high=4)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.said("reload refused"), WITHIN_S, "the reload is refused")
    assert "mine.yaml:5:" in daemon.log.read_text()
    assert daemon.status()["policy"]["knobs"][0]["upper"] == 16
    daemon.write_policy(low=5, high=8)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: workers(service) == 5, WITHIN_S, "the new bounds are kept")
    daemon.stop()


def test_exit_restore_puts_the_baseline_back(service, daemon_of):
    daemon = daemon_of(service, low=5, stopping="restore").start()
    until(lambda: workers(service) == 5, WITHIN_S, "five workers")
    daemon.until(lambda s: s["tick"]["applied"]["setting"]["levels"] == [["workers", 5]], "5")
    daemon.process.terminate()
    daemon.process.wait(WITHIN_S)
    # the baseline, 3, is below the policy's least: what is restored stays in bounds
    assert workers(service) == 5
    daemon.write_policy(low=1, stopping="restore")
    daemon.start()
    daemon.until(lambda s: s["tick"]["applied"], "the pool is seen")
    daemon.process.terminate()
    daemon.process.wait(WITHIN_S)
    until(lambda: workers(service) == 3, WITHIN_S, "the baseline of the first run")


def test_exit_restore_leaves_a_level_that_a_person_has(service, daemon_of):
    daemon = daemon_of(service, stopping="restore").start()
    daemon.until(lambda s: s["tick"]["applied"], "the pool is seen")
    pin = ("pin", "web", "workers=5", "--why", "launch", "--config", daemon.config)
    assert command_line(*pin).returncode == 0
    until(lambda: workers(service) == 5, WITHIN_S, "five workers")
    daemon.until(lambda s: s["tick"]["applied"]["setting"]["levels"] == [["workers", 5]], "5")
    daemon.process.terminate()
    daemon.process.wait(WITHIN_S)
    assert workers(service) == 5
    assert "web: the baseline is not restored: it is pinned to workers=5" in daemon.log.read_text()
    daemon.start()
    assert command_line("unpin", "web", "--why", "done", "--config", daemon.config).returncode == 0
    daemon.until(lambda s: s["kept"]["pin"] is None, "it is not pinned any more")
    service.signal(signal.SIGTTIN)
    daemon.until(lambda s: s["decision"]["phase"] == "manual", "another hand has it")
    daemon.process.terminate()
    daemon.process.wait(WITHIN_S)
    assert workers(service) == 6
    assert "web: the baseline is not restored: it is manual" in daemon.log.read_text()


def test_after_a_crash_restore_puts_the_baseline_back(service, daemon_of):
    daemon = daemon_of(service, low=5, stopping="restore").start()
    until(lambda: workers(service) == 5, WITHIN_S, "five workers")
    daemon.until(lambda s: s["decision"]["reason"] != "actuation_pending", "it is done")
    refused = command_line("restore", "--config", daemon.config)
    assert refused.returncode == 3, "the daemon is still there"
    daemon.process.kill()
    daemon.process.wait()
    daemon.write_policy(low=1, stopping="keep")
    assert command_line("restore", "--config", daemon.config).returncode == 0
    assert workers(service) == 5, "exit: keep"
    daemon.write_policy(low=1, stopping="restore")
    restored = command_line("restore", "--config", daemon.config)
    assert restored.returncode == 0, restored.stderr
    until(lambda: workers(service) == 3, WITHIN_S, "the baseline")
    service.signal(signal.SIGTTIN)
    until(lambda: workers(service) == 4, WITHIN_S, "another hand")
    assert command_line("restore", "--config", daemon.config).returncode == 0
    assert workers(service) == 4, "a run that was closed is not restored twice"


def test_recommend_moves_nothing(service, daemon_of):
    daemon = daemon_of(service, mode="recommend", low=6).start()
    daemon.until(lambda s: s["decision"]["advice"], "it has an advice")
    assert daemon.status()["decision"]["advice"]["setting"]["levels"] == [["workers", 6]]
    assert workers(service) == 3
    daemon.stop()


def test_the_metrics_of_a_live_daemon_are_clean(service, daemon_of):
    daemon = daemon_of(service).start()
    daemon.until(lambda s: s["tick"]["index"] > 3, "some ticks")
    page = http_get(daemon.http, "/metrics")
    assert page[0] == 200
    linted = subprocess.run(
        ["promtool", "check", "metrics"], input=page[1], capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")
    assert http_get(daemon.http, "/healthz")[0] == 200
    assert http_get(daemon.http, "/readyz")[0] == 200
    daemon.stop()


def test_a_second_daemon_on_the_journal_is_refused(service, daemon_of):
    daemon = daemon_of(service).start()
    other = daemon_of(service, "other")
    other.config.write_text(
        other.config.read_text().replace(f"{other.folder}/journal", f"{daemon.folder}/journal")
    )
    refused = command_line("run", "--config", other.config)
    assert refused.returncode == 3
    assert str(daemon.process.pid) in refused.stderr
    assert "Traceback" not in refused.stderr
    daemon.stop()


def test_bad_starts_say_what_is_wrong_and_where(service, daemon_of):
    daemon = daemon_of(service)
    good = daemon.config.read_text()
    cases = [
        (
            good.replace("actuator:", "acutator:"),
            2,
            ["poolwright.yaml:9:5", "did you mean 'actuator'"],
        ),
        (good.replace("kind: power", "kind: pwoer"), 2, ["poolwright.yaml:15", "power"]),
        (good.replace("policy: mine", "policy: mien"), 2, ["mien", "mine"]),
        (good.replace("      - {kind: host}\n", ""), 2, ["host"]),
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        cases.append((good.replace(f":{daemon.syslog}", f":{port}"), 3, [f"127.0.0.1:{port}"]))
        for text, code, words in cases:
            daemon.config.write_text(text)
            refused = command_line("run", "--config", daemon.config)
            assert refused.returncode == code, refused.stderr
            assert all(word in refused.stderr for word in words), refused.stderr
            assert "Traceback" not in refused.stderr
    assert workers(service) == 3


def test_nothing_is_left_running(service, daemon_of):
    daemon = daemon_of(service).start()
    pid = daemon.process.pid
    daemon.stop()
    assert not Path(f"/proc/{pid}/task").exists()
