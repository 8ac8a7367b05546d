"""A real Prometheus with the shipped rules, scraping a real daemon while everything goes wrong.

Durations of the rules are cut short (`faster`), nothing else. One run gathers what the tests look
at: which alerts fire when their cause is made, and none before; exemplars; the log.

Not made to fire here, because the cause takes hours or a fault of ours: PoolwrightNotTicking (the
loop hangs and the server does not), PoolwrightJournalLarge (a write-ahead log that grew for hours),
PoolwrightLearnerLate (a fit between 10 and 20 s), PoolwrightCalibrationBad (twenty fits that are
wrong). Their rules are tested by promtool like all others.
"""

import json
import signal
import threading
from types import SimpleNamespace

import pytest
from alarming_daemon import AlarmingDaemon, Traffic, requests_told, told_service
from gunicorn_service import until
from prometheus_files import alerts, documented, faster
from prometheus_service import PrometheusService

from poolwright.cli.main import main
from poolwright.journal.query import JournalReader

pytestmark = pytest.mark.e2e

WITHIN_S = 150.0  # of a machine that does much else; it takes 45 s in all
NOT_LIVE = {
    "PoolwrightNotTicking",
    "PoolwrightJournalLarge",
    "PoolwrightLearnerLate",
    "PoolwrightCalibrationBad",
}
# (alert, pool) of what goes wrong while the daemon runs and can write.
TROUBLES = {
    ("PoolwrightSloBreached", "web"),
    ("PoolwrightAtUpperBound", "web"),
    ("PoolwrightErrorBudgetBurns", "web"),
    ("PoolwrightManual", "hand"),
    ("PoolwrightPaused", "still"),
    ("PoolwrightSensorCut", "cut"),
    ("PoolwrightBlind", "cut"),
    ("PoolwrightActuationFails", "stuck"),
    ("PoolwrightOscillates", "seesaw"),
    ("PoolwrightGuardTripsOften", "bursts"),
    ("PoolwrightLearnerFails", "*"),
    ("PoolwrightHarms", "lost"),
    ("PoolwrightStoodDown", "lost"),
    ("PoolwrightPolicyRefused", ""),
}
FILE = "{kind: file, path: {level}}"
STUCK = (
    "{kind: command, get: [cat, {level}], "
    'set: [sh, -c, "echo no right to set {level} >&2; exit 77"]}'
)
LOGS = ("still", "cut", "stuck", "seesaw", "bursts", "lost")


def pools(daemon, web, hand):
    """One pool for each trouble; nothing is wrong with them yet."""
    daemon.add_gunicorn("web", web, high=2, p99="50ms")
    daemon.add_gunicorn("hand", hand)
    for name in LOGS:
        mode = "observe" if name == "bursts" else "auto"
        daemon.add_log(name, STUCK if name == "stuck" else FILE, web.pidfile, mode=mode)
    daemon.settle_before("lost")


def swing(daemon, slow):
    """Slow until the guard has tripped, quick until it has not, and so on."""
    if daemon.status("bursts")["decision"]["guard_trips"]:
        slow.clear()
    else:
        slow.set()


def traffic_of_logs(daemon):
    """Twenty quick requests a fifth of a second for every pool; `bursts` can be made slow."""
    slow, cut = threading.Event(), threading.Event()

    def write(_):
        for name in LOGS:
            if not (name == "cut" and cut.is_set()):
                is_slow = name == "bursts" and slow.is_set()
                requests_told(daemon.folder / f"{name}.log", 20, 3.0 if is_slow else 0.01)

    daemon.repeat(0.2, write)
    return slow, cut


def make_troubles(daemon, web, hand, slow, cut):
    """Every cause at once."""
    traffic = Traffic(web.port, "/sleep?s=0.2")
    hand.signal(signal.SIGTTIN)
    daemon.repeat(0.1, lambda _: swing(daemon, slow))
    cut.set()
    (daemon.folder / "cut.log").unlink()
    daemon.command("pause", "still", "--why", "a test")
    daemon.repeat(0.2, lambda _: daemon.turn("seesaw"))
    daemon.kill_learners()
    policies = daemon.folder / "policies.d"
    stuck = policies / "stuck.yaml"
    stuck.write_text(stuck.read_text().replace("min: 1,", "min: 5,"))
    until(lambda: daemon.status("stuck")["policy"]["knobs"][0]["lower"] == 5, WITHIN_S, "read")
    (policies / "web.yaml").write_text("version: 1\nname: web\nknobs: {workers: {min: 9, max: 4}}")
    return traffic


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole run; what it showed."""
    folder = tmp_path_factory.mktemp("alerts")
    services = told_service(folder, "web", 2), told_service(folder, "hand", 1)
    web, hand = services
    daemon = AlarmingDaemon(folder)
    prometheus = PrometheusService(folder, faster(), daemon.http)
    traffic = None
    seen = SimpleNamespace(daemon=daemon, folder=folder)
    try:
        for service in services:
            service.start()
        pools(daemon, web, hand)
        slow, cut = traffic_of_logs(daemon)
        daemon.start()
        prometheus.start()
        until(lambda: prometheus.ask("poolwright_fits_total > 0"), WITHIN_S, "something is learned")
        up = (lambda: "PoolwrightAbsent" not in dict(prometheus.firing()), WITHIN_S)
        until(*up, "its first scrape is taken for the daemon")  # a busy host is late with it
        seen.before = prometheus.firing()
        traffic = make_troubles(daemon, web, hand, slow, cut)
        seen.troubles = prometheus.until_firing(TROUBLES, WITHIN_S)
        seen.exemplars = prometheus.get(
            "query_exemplars", query="poolwright_decisions_total", start=0, end=2**40
        )
        seen.metrics = set(prometheus.get("label/__name__/values"))
        seen.log = daemon.service.log.read_text().rpartition("\n")[0]
        hand.kill()
        daemon.stop_threads()
        daemon.repeat(0.2, daemon.stumble)
        late = {("PoolwrightPoolUnseen", "hand"), ("PoolwrightTicksLate", "*")}
        seen.late = prometheus.until_firing(late, WITHIN_S)
        daemon.stop_threads()
        daemon.cut_disk()
        seen.full = prometheus.until_firing({("PoolwrightJournalUnwritable", "")}, WITHIN_S)
        daemon.service.kill()
        seen.down = prometheus.until_firing({("PoolwrightDown", "")}, WITHIN_S)
        prometheus.forget_target()
        seen.absent = prometheus.until_firing({("PoolwrightAbsent", "")}, WITHIN_S)
        yield seen
    finally:
        daemon.close()
        if traffic is not None:
            traffic.stop()
        for started in (*services, prometheus):
            if started.process is not None:
                started.kill()


def test_nothing_fires_while_all_is_well(run):
    known = {("PoolwrightHarms", "lost"), ("PoolwrightStoodDown", "lost")}
    slow_host = {alert for alert in run.before if alert[0] == "PoolwrightTicksLate"}
    assert run.before - known - slow_host == set()


def test_every_alert_fires_when_its_cause_is_made(run):
    fired = run.troubles | run.late | run.full | run.down | run.absent
    assert {name for name, _ in fired} | NOT_LIVE == set(alerts())


def test_no_pool_is_blamed_for_another(run):
    mine = {"PoolwrightManual", "PoolwrightPaused", "PoolwrightActuationFails",
            "PoolwrightOscillates", "PoolwrightSensorCut", "PoolwrightHarms"}  # fmt: skip
    wrong = {(alert, pool) for alert, pool in run.troubles - TROUBLES if alert in mine}
    assert not wrong


def test_every_metric_of_the_daemon_is_in_the_page(run):
    told = {name for name in run.metrics if name.startswith("poolwright_")}
    assert len(told) > 80
    assert told <= documented()


def test_exemplars_lead_to_the_decision(run, capsys):
    ids = {
        (series["seriesLabels"]["pool"], example["labels"]["decision_id"])
        for series in run.exemplars
        for example in series["exemplars"]
        if series["seriesLabels"]["action"] == "track"
    }
    pool, name = min(ids)
    journal = str(run.folder / "journal.db")
    assert main(["explain", pool, "--decision", name, "--journal", journal]) == 0
    told = capsys.readouterr().out
    assert f"tick {name.partition('/')[2]}: {pool} " in told


def test_the_log_has_one_line_for_each_decision_that_moves(run):
    lines = [json.loads(line) for line in run.log.splitlines()]
    decisions = [line for line in lines if line.get("event") == "decision"]
    ids = [line["decision_id"] for line in decisions]
    assert len(ids) == len(set(ids)), "no decision is told twice"
    moved = {line["decision_id"] for line in decisions if line["moves"]}
    with JournalReader(run.folder / "journal.db") as reader:
        rows = [row for row in reader.decisions() if row.moves]
    assert moved <= {f"{row.run}/{row.tick}" for row in rows}
    assert len(moved) > 10
    broken = [line for line in lines if line.get("event") == "sensor_broken"]
    assert "cut" in {line["pool"] for line in broken}
    assert any("no right to set 5" in line.get("actuation_error", "") for line in decisions)
    assert any("web.yaml:3:" in line["message"] for line in lines if line["level"] == "error")
