"""`poolwright restore` after a crash, on a real gunicorn and a real journal."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import journal_life
import pytest
import ticks as make
from gunicorn_service import until

from poolwright.core.model import Kept, Phase, Resume, setting
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal

pytestmark = pytest.mark.e2e

POLICY = """\
version: 1
name: mine
mode: auto
knobs:
  workers: {{min: 1, max: 8, slew: 4, settle: 1s}}
objective: {{latency_p99: 1.0, memory: 0.2}}
slo:
  error_ratio: {{below: 1%}}
exit: restore
{override}
"""
CONFIG = """\
version: 1
listen: 127.0.0.1:0
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}/policies.d
pools:
  - name: web
    policy: mine
    actuator: {{kind: gunicorn, pidfile: {pidfile}}}
    sensors:
      - {{kind: access_log, listen: "127.0.0.1:8125"}}
      - {{kind: process_tree, pidfile: {pidfile}}}
      - {{kind: host}}
"""
HOUR_NS = 3600 * 10**9
PIN = Kept(pin=setting(workers=4), pin_why="launch")
LAUNCH = 'override:\n  - {pools: ["web"], freeze: true, reason: "launch day"}'


@pytest.fixture
def crashed(tmp_path, gunicorn_service):
    """A pool of 4 whose baseline is 2, and whose daemon died: `config = crashed(kept)`."""
    service = gunicorn_service(workers=4)

    def made(kept, override=""):
        (tmp_path / "policies.d").mkdir()
        (tmp_path / "policies.d" / "mine.yaml").write_text(POLICY.format(override=override))
        config = tmp_path / "poolwright.yaml"
        config.write_text(CONFIG.format(folder=tmp_path, pidfile=service.pidfile))
        journal = SqliteJournal(tmp_path / "journal.db")
        bench = make.Bench()
        bench.run(1)
        (tick, decision) = next(journal_life.steps(bench))
        run = journal.begin_run(
            "web", bench.policy, Resume(baseline=setting(workers=2)), time.time_ns()
        )
        journal.append(run, tick, replace(decision, moves=False, kept=kept))
        journal.close()
        return config, service

    return made


def restore(config):
    return subprocess.run(
        [sys.executable, "-m", "poolwright", "restore", "--config", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("kept", "override", "said"),
    [
        (Kept(phase=Phase.MANUAL), "", "manual"),
        (Kept(phase=Phase.PAUSED), "", "paused"),
        (PIN, "", "pinned to workers=4"),
        (replace(PIN, pin_until_wall_ns=time.time_ns() + HOUR_NS), "", "launch"),
        (None, LAUNCH, "launch day"),
    ],
    ids=["another hand", "paused", "pinned", "pinned for an hour", "frozen by the policy"],
)
def test_a_level_that_is_a_persons_is_left_alone_and_said(crashed, kept, override, said):
    config, service = crashed(kept, override)
    done = restore(config)
    assert done.returncode == 0, done.stderr
    assert "web: nothing is restored" in done.stderr
    assert said in done.stderr
    assert len(service.children()) == 4
    with JournalReader(config.parent / "journal.db") as reader:
        assert [run.ended_wall_ns for run in reader.runs()] == [None], "nothing was begun"
    journal = SqliteJournal(config.parent / "journal.db")
    assert journal.last_resume("web").kept == (kept or Kept())
    journal.close()


@pytest.mark.parametrize(
    "kept",
    [
        None,
        Kept(phase=Phase.STOOD_DOWN, rejected=("a1",)),
        replace(PIN, pin_until_wall_ns=time.time_ns() - HOUR_NS),
    ],
    ids=["nothing was settled", "stood down", "a pin whose time has passed"],
)
def test_else_the_baseline_is_put_back_and_what_was_kept_stays(crashed, kept):
    config, service = crashed(kept)
    done = restore(config)
    assert done.returncode == 0, done.stderr
    until(lambda: len(service.children()) == 2, 20.0, "the baseline")
    with JournalReader(Path(config).parent / "journal.db") as reader:
        assert [run.end_reason for run in reader.runs()] == ["", "restored"]
        assert [i.status for i in reader.intents(2)] == ["applied"]
    journal = SqliteJournal(config.parent / "journal.db")
    found = journal.last_resume("web").kept
    journal.close()
    assert found.rejected == (kept or Kept()).rejected
