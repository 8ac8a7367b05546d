"""`poolwright explain` on a real journal file."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import snapshots as make

from poolwright.cli.main import main
from poolwright.core.model import Action, Reason, Resume
from poolwright.journal.sqlite import SqliteJournal
from poolwright.surface.account import Explanation

ROOT = Path(__file__).parents[2]


@pytest.fixture
def journal(tmp_path):
    """A run: hold, a plan arrives with a probe, its window closes, the guard retreats, hold."""
    path = tmp_path / "journal.db"
    writer = SqliteJournal(path)
    run = writer.begin_run("web", make.POLICY, Resume(), make.WALL_NS)
    writer.append(run, make.tick(410), make.hold(410))
    writer.append(run, make.tick(411, plan=make.plan()), make.hold(411))
    writer.append(run, make.tick(412), make.probe(412))
    writer.close_intent(run, make.applied(412), make.WALL_NS)
    four = replace(make.tick().applied, setting=make.at(4))
    closed = make.hold(
        446,
        setting=make.at(4),
        reason=Reason.WAITING_FOR_PLAN,
        observation=make.observation(4, 0.189, opened=416, closed=446),
    )
    writer.append(run, make.tick(446, applied=four), closed)
    writer.append(run, make.tick(450, applied=four), make.retreat(450))
    writer.close_intent(run, make.applied(450), make.WALL_NS)
    eight = replace(four, setting=make.at(8))
    back = make.hold(
        470, action=Action.TRACK, setting=make.at(5), moves=True, reason=Reason.SCHEDULE
    )
    writer.append(run, make.tick(470, applied=eight), back)
    writer.end_run(run, "stopped", make.WALL_NS)
    writer.close()
    return path


def told(capsys, journal, *args, status=0):
    assert main(["explain", "web", "--journal", str(journal), *args]) == status
    return capsys.readouterr()


def ids(capsys, journal):
    """Tick -> id, as the JSON form tells them."""
    found = {}
    for number in range(1, 10):
        if main(["explain", "web", "--journal", str(journal), "--decision", str(number), "--json"]):
            break
        account = json.loads(capsys.readouterr().out)
        found[account["account"]["tick"]] = account["id"]
    capsys.readouterr()
    return found


def test_the_last_move_is_explained(journal, capsys):
    out = told(capsys, journal).out
    assert out.startswith("2026-11-21 07:07:50 UTC, tick 470: web followed the plan to workers=5 ")
    assert "no window has closed at this setting yet" in out
    assert out.endswith(f" of run 1 in {journal})\n")


def test_a_decision_is_found_by_its_id_with_all_that_came_of_it(journal, capsys):
    number = ids(capsys, journal)[412]
    out = told(capsys, journal, "--decision", str(number), "--why-not", "3").out
    assert "tick 412: web probed workers=4 (from workers=5)" in out
    assert "Why not workers=3\n  workers=3: too likely to breach an objective" in out
    assert "plan 7, fitted in tick 380" in out
    assert "the move was made after 310 ms: worker 4719 ended" in out
    assert "latency p99 189 ms ± 4 ms, above (142 ms ± 9 ms, z +4.8)" in out


def test_a_decision_is_found_by_its_time(journal, capsys):
    out = told(capsys, journal, "--at", "2026-11-21T08:07:00+01:00").out
    assert "tick 412: web probed workers=4" in out
    out = told(capsys, journal, "--at", "2026-11-21 07:07:31").out
    assert "tick 450: web retreated to workers=8" in out
    assert "before a window closed, in tick 470, poolwright followed the plan to workers=5" in out


def test_a_time_before_the_journal_is_refused(journal, capsys):
    err = told(capsys, journal, "--at", "2020-01-01", status=3).err
    assert "nothing is known of 2020-01-01 00:00:00 UTC; the first decision of pool" in err


def test_json_holds_the_account_with_its_text(journal, capsys):
    number = ids(capsys, journal)[412]
    found = json.loads(
        told(capsys, journal, "--decision", str(number), "--why-not", "3", "--json").out
    )
    assert (found["version"], found["id"], found["run"]) == (1, number, 1)
    account = found["account"]
    assert (account["action"], account["setting"], account["was"]) == (
        "probe", {"workers": 4}, {"workers": 5},
    )  # fmt: skip
    assert account["expectation"]["setting"] == {"workers": 4}
    assert [a["setting"]["workers"] for a in account["alternatives"] if a["taken"]] == [4]
    assert account["outcome"]["actuation"]["status"] == "applied"
    assert account["outcome"]["left_by"]["setting"] == {"workers": 8}
    assert found["why_not"]["setting"] == {"workers": 3}
    assert found["text"].startswith("2026-11-21 07:06:52 UTC, tick 412: web probed workers=4")


def test_the_json_is_what_its_schema_says(journal, capsys):
    found = json.loads(told(capsys, journal, "--json").out)
    assert main(["schema", "explanation"]) == 0
    schema = capsys.readouterr().out
    assert schema == (ROOT / "config/schema/explanation.schema.json").read_text()
    kinds = json.loads(schema)["$defs"]
    assert set(found) == set(kinds["Explanation"]["properties"])
    assert set(found["account"]) == set(kinds["Account"]["properties"])
    assert set(found["account"]["outcome"]) == set(kinds["Outcome"]["properties"])
    msgspec.convert(found, Explanation, strict=True)


def test_the_time_that_was_understood_is_told(journal, capsys):
    asked = told(capsys, journal, "--at", "08:07 Europe/Berlin").out
    assert "tick 412: web probed workers=4" in asked
    assert "asked about 2026-11-21 07:07:00 UTC: this decision was 8 s old then" in asked
    ago = told(capsys, journal, "--at", "-1s").out  # before the last decision
    assert "asked about 2026-11-21 07:07:49 UTC" in ago


@pytest.mark.parametrize("level", ["workers=3", "3"])
def test_why_not_takes_a_level_with_or_without_its_knob(journal, capsys, level):
    assert "Why not workers=3" in told(capsys, journal, "--why-not", level).out


@pytest.mark.parametrize(
    "level", ["three", "threads=3", "workers=", "workers=3 threads=2", "", "="]
)
def test_why_not_something_else_is_refused(journal, capsys, level):
    assert "--why-not" in told(capsys, journal, "--why-not", level, status=2).err


def test_what_is_not_there_is_named(journal, capsys, tmp_path):
    assert main(["explain", "mail", "--journal", str(journal)]) == 3
    assert "no notable decision of pool 'mail' yet (pools: web)" in capsys.readouterr().err
    assert "has no decision 999" in told(capsys, journal, "--decision", "999", status=3).err
    missing = tmp_path / "nowhere.db"
    assert main(["explain", "web", "--journal", str(missing)]) == 3
    assert str(missing) in capsys.readouterr().err
    assert not missing.exists()
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a journal" * 100)
    assert main(["explain", "web", "--journal", str(garbage)]) == 3
    assert str(garbage) in capsys.readouterr().err


def test_a_time_that_is_none_is_refused(journal, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["explain", "web", "--journal", str(journal), "--at", "yesterday"])
    assert "not a time such as" in capsys.readouterr().err


def test_the_configuration_says_which_journal(journal, capsys, tmp_path):
    config = tmp_path / "poolwright.yaml"
    config.write_text(
        f"version: 1\njournal: {journal}\npools:\n"
        "  - {name: web, actuator: {kind: gunicorn, pidfile: /x}, sensors: [{kind: host}]}\n"
    )
    assert main(["explain", "web", "--config", str(config)]) == 0
    assert "tick 470" in capsys.readouterr().out
