"""The whole daemon on a real gunicorn while its policies are edited: a good edit is in force in the
next tick, a broken one changes nothing and is shown wherever people look.
"""

import json
import signal
from pathlib import Path

import pytest
from gunicorn_service import http_get, until
from running_daemon import WITHIN_S, command_line
from test_daemon import daemon_of, service, workers

from poolwright.journal.query import JournalReader

pytestmark = pytest.mark.e2e
__all__ = ["daemon_of", "service"]  # fixtures


def snapshot(daemon):
    return json.loads(daemon.get("/api/v1/status"))


def reloads(daemon):
    return dict(snapshot(daemon)["reloads"])


def runs(daemon):
    with JournalReader(daemon.journal) as reader:
        return reader.runs("web")


def notes(daemon, kind):
    with JournalReader(daemon.journal) as reader:
        return [n for n in reader.notes() if n.kind == kind]


@pytest.fixture
def live(service, daemon_of):
    daemon = daemon_of(service).start()
    daemon.until(lambda s: s["tick"]["applied"], "the pool is seen")
    return daemon


def test_an_edit_is_in_force_in_the_next_tick(live, service):
    old = live.status()["policy"]["sha256"]
    live.write_policy(low=5, high=8)
    until(lambda: workers(service) == 5, WITHIN_S, "the new bounds are kept")
    live.until(lambda s: s["decision"]["reason"] != "actuation_pending", "it is done")
    new = live.status()["policy"]["sha256"]
    assert snapshot(live)["policy_error"] == ""
    assert reloads(live) == {"applied": 1, "refused": 0, "unchanged": 0}
    (note,) = notes(live, "policy")
    assert note.text.splitlines() == [
        f"policy mine sha256 {old} -> mine sha256 {new}",
        "knobs.workers.min: 1 -> 5",
        "knobs.workers.max: 16 -> 8",
    ]
    live.stop()
    before, after = runs(live)
    assert before.end_reason == "policy changed"
    with JournalReader(live.journal) as reader:
        last = list(reader.steps(before.id))[-1].tick
        first = next(iter(reader.steps(after.id)))
    assert last.wall_ns < after.began_wall_ns < first.tick.wall_ns
    assert (str(first.decision.reason), first.decision.moves) == ("out_of_bounds", True)
    replayed = command_line("replay", live.journal)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def test_a_broken_edit_changes_nothing_and_is_shown_until_it_is_mended(live, service):
    run = runs(live)[-1].id
    good = (live.folder / "policies.d" / "mine.yaml").read_text()
    live.write_policy(low=9, high=4)
    until(lambda: snapshot(live)["policy_error"], WITHIN_S, "the refusal is seen")
    where = f"{live.folder}/policies.d/mine.yaml:5:"
    assert where in snapshot(live)["policy_error"]
    shown = command_line("status", "--config", live.config)
    assert shown.returncode == 1, shown.stdout
    assert where in shown.stdout
    assert "\npoolwright_policy_valid 0.0\n" in http_get(live.http, "/metrics")[1]
    assert (
        'poolwright_policy_reloads_total{result="refused"} 1.0'
        in http_get(live.http, "/metrics")[1]
    )
    assert where in notes(live, "policy_refused")[0].text
    seen = live.status()
    assert (seen["run_id"], seen["policy"]["knobs"][0]["upper"]) == (run, 16)
    assert workers(service) == 3
    new = live.folder / "policies.d" / ".mine.yaml.new"
    new.write_text(good.replace("max: 16", "max: 12"))
    new.rename(live.folder / "policies.d" / "mine.yaml")
    live.until(lambda s: s["policy"]["knobs"][0]["upper"] == 12, "it is mended")
    assert snapshot(live)["policy_error"] == ""
    assert "\npoolwright_policy_valid 1.0\n" in http_get(live.http, "/metrics")[1]
    assert workers(service) == 3
    live.stop()


def test_a_new_layer_and_a_change_of_the_configuration_are_noticed(live):
    layer = live.folder / "policies.d" / "90-night.yaml"
    layer.write_text("version: 1\npools: [web]\nknobs: {workers: {max: 9}}\n")
    live.until(lambda s: s["policy"]["knobs"][0]["upper"] == 9, "the layer is in force")
    layer.unlink()
    live.until(lambda s: s["policy"]["knobs"][0]["upper"] == 16, "and is not any more")
    text = live.config.read_text()
    live.config.write_text(text.replace("policy: mine", "policy: autoscale"))
    live.until(lambda s: s["policy"]["name"] == "autoscale", "another policy is in force")
    live.config.write_text(text.replace("kind: power", "kind: pwoer"))
    live.until(lambda s: s["policy"]["name"] == "mine", "and the old one")
    assert live.said("the sensors of pool web have changed: that takes a restart")
    live.stop()


def test_without_watching_only_a_signal_reloads(service, daemon_of):
    daemon = daemon_of(service)
    daemon.config.write_text(daemon.config.read_text() + "watch: false\n")
    daemon.start()
    daemon.write_policy(low=5, high=8)
    # Three seconds of ticks: longer than a change stays unseen where it is watched for.
    daemon.until(lambda s: s["tick"]["index"] > 15, "some ticks")
    assert daemon.status()["policy"]["knobs"][0]["upper"] == 16
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda s: s["policy"]["knobs"][0]["upper"] == 8, "it is in force")
    loaded = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "watchfiles" not in loaded, "what is not used is not loaded"
    daemon.stop()


def test_what_an_operator_said_is_kept_and_a_policy_edited_while_it_was_down_is_told(live):
    pinned = command_line(
        "pin", "web", "workers=4", "--why", "test", "--config", live.config
    )  # fmt: skip
    assert pinned.returncode == 0, pinned.stdout + pinned.stderr
    live.until(lambda s: s["decision"]["reason"] == "pinned", "it is pinned")
    live.process.kill()
    live.process.wait()
    live.write_policy(low=2, high=9)
    live.start()
    live.until(lambda s: s["decision"]["reason"] == "pinned", "it is still pinned")
    assert live.said("web: still pinned to workers=4")
    assert live.status()["policy"]["knobs"][0]["upper"] == 9
    assert "knobs.workers.max: 16 -> 9" in notes(live, "policy")[0].text
    live.stop()
