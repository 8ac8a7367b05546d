"""`poolwright journal` and `poolwright replay`, on real journal files."""

import json
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import journal_life

from poolwright.cli.main import main
from poolwright.core.model import (
    Advice,
    Command,
    CommandKind,
    Estimate,
    Holdout,
    Reason,
    Resume,
    setting,
)
from poolwright.journal import record
from poolwright.journal.sqlite import SqliteJournal


@pytest.fixture(scope="module")
def bench():
    """One life, for all tests."""
    return journal_life.lived()


@pytest.fixture
def path(tmp_path, bench):
    """A journal of two pools."""
    journal = SqliteJournal(tmp_path / "journal.db")
    journal_life.write(journal, bench)
    journal_life.write(journal, bench, pool="api")
    journal.close()
    return tmp_path / "journal.db"


def told(capsys, *args, status=0):
    assert main([str(a) for a in args]) == status
    return capsys.readouterr().out


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def edit(path, statement):
    db = sqlite3.connect(path)
    assert db.execute(statement).rowcount > 0
    db.commit()
    db.close()


def test_list_shows_every_notable_decision(capsys, path, bench):
    moves = [d for d in bench.decisions if d.moves]
    text = told(capsys, "journal", "list", "--journal", path, "--pool", "web")
    assert text.count("(moves)") == len(moves)
    rows = lines(told(capsys, "journal", "list", "--journal", path, "--json"))
    assert {row["pool"] for row in rows} == {"web", "api"}
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    last = lines(told(capsys, "journal", "list", "--journal", path, "--json", "--limit", "1"))
    assert last == rows[-1:]
    since = "2096-01-01"
    assert told(capsys, "journal", "list", "--journal", path, "--since", since) == "no decisions\n"


def told_life(path, bench):
    """A journal in which an operator asked, advice was given, and a comparison ended; its pool."""
    journal = SqliteJournal(path)
    run = journal.begin_run("db", bench.policy, Resume(baseline=setting(workers=4)), 1)
    tick, decision = next(journal_life.steps(bench))
    plain = replace(decision, moves=False, events=(), kept=None)
    pin = Command(
        kind=CommandKind.PIN, who="ana", why="launch day", setting=setting(workers=9)
    )  # fmt: skip
    yes = Command(kind=CommandKind.APPROVE, who="bob", advice_id="a1b2")
    advice = Advice(
        id="a1b2", setting=setting(workers=5), replaces=setting(workers=4),
        gain=Estimate(mean=0.041, std=0.01), p_safe=0.99, reason=Reason.BEST_KNOWN,
    )  # fmt: skip
    ended = Holdout(
        baseline=setting(workers=4), tuned=setting(workers=5), load_rps=50.4, gain_ratio=0.123,
        breached=False, closed_tick=5,
    )  # fmt: skip
    life = [
        (tick, plain),
        (replace(tick, commands=(pin,)), plain),
        (tick, replace(plain, advice=advice)),
        (replace(tick, commands=(yes,)), replace(plain, events=("approved by bob",))),
        (tick, replace(plain, holdout=ended)),
        (tick, replace(plain, guard_trips=(Reason.SLO_BREACH,), events=("it is hot",))),
    ]
    for i, (seen, decided) in enumerate(life):
        wall_ns = journal_life.WALL_NS + i * 10**9
        journal.append(run, replace(seen, index=i, wall_ns=wall_ns), replace(decided, tick=i))
    journal.note(run, journal_life.WALL_NS + 10**9, "policy", "reloaded: knobs.workers.max 9 -> 8")
    journal.note(run, journal_life.WALL_NS + 3 * 10**9, "core_fault", "tick 3: odd")
    journal.end_run(run, "stopped", 1)
    journal.close()


def test_list_tells_who_asked_for_what_and_why(capsys, path, bench):
    told_life(path, bench)
    text = told(capsys, "journal", "list", "--journal", path, "--pool", "db").splitlines()
    ends = [
        "",
        "pin workers=9 by ana: launch day",
        "reloaded: knobs.workers.max 9 -> 8",
        "advice a1b2: workers=5 instead of workers=4, 4.1% better",
        "approve advice a1b2 by bob",
        "tick 3: odd",
        "workers=5 is 12.3% better than the baseline workers=4 at 50 rps",
        "tripped: slo_breach; it is hot",
    ]
    assert len(text) == 1 + len(ends)
    for line, end in zip(text[1:], ends, strict=True):
        assert line.rstrip().endswith(end), (line, end)


def test_list_filters_by_kind(capsys, path, bench):
    told_life(path, bench)

    def ticks_of(kind, *more):
        rows = lines(told(capsys, "journal", "list", "--journal", path, "--json", "--kind", kind,
                          "--pool", "db", *more))  # fmt: skip
        return [row.get("tick", row.get("text")) for row in rows]

    assert ticks_of("command") == [1, 3]
    assert ticks_of("command", "--limit", "1") == [3]
    assert ticks_of("advice") == [2]
    assert ticks_of("holdout") == [4]
    assert ticks_of("guard") == [5]
    assert ticks_of("phase") == [0]
    assert ticks_of("move") == []
    assert ticks_of("policy") == ["reloaded: knobs.workers.max 9 -> 8"]
    assert ticks_of("note") == ["reloaded: knobs.workers.max 9 -> 8", "tick 3: odd"]
    assert ticks_of("note", "--limit", "1") == ["tick 3: odd"]
    rows = lines(told(capsys, "journal", "list", "--journal", path, "--json", "--pool", "db"))
    assert rows[1]["commands"] == [
        {"kind": "pin", "who": "ana", "why": "launch day", "advice_id": "",
         "setting": {"levels": [["workers", 9]]}, "until_wall_ns": None}
    ]  # fmt: skip
    assert [r["advice"]["id"] for r in rows if "advice" in r] == ["a1b2"]
    assert [r["holdout"]["gain_ratio"] for r in rows if "holdout" in r] == [0.123]
    none = told(capsys, "journal", "list", "--journal", path, "--pool", "db", "--kind", "move")
    assert none == "nothing of that kind\n"
    with pytest.raises(SystemExit, match="2"):
        main(["journal", "list", "--journal", str(path), "--kind", "gossip"])
    assert "command" in capsys.readouterr().err


def test_list_goes_on_past_a_decision_that_cannot_be_read(capsys, path):
    edit(path, "UPDATE decisions SET body = x'00' WHERE id = 2")
    text = told(capsys, "journal", "list", "--journal", path)
    assert text.count("unreadable: a damaged record") == 1
    rows = lines(told(capsys, "journal", "list", "--journal", path, "--json"))
    assert "unreadable" in rows[1]["events"][0]


def test_show_by_id_and_by_tick_gives_the_whole_decision(capsys, path, bench):
    rows = lines(told(capsys, "journal", "list", "--journal", path, "--json", "--pool", "web"))
    row = next(r for r in rows if r["moves"])
    by_id = json.loads(told(capsys, "journal", "show", row["id"], "--journal", path))
    assert by_id["decision"]["state_digest"] == bench.decisions[row["tick"]].state_digest
    assert by_id["tick"]["readings"]
    assert by_id["intents"][0]["status"] == "applied"
    by_tick = json.loads(
        told(capsys, "journal", "show", "--tick", row["tick"], "--pool", "web", "--journal", path)
    )
    assert by_tick["decision"] == by_id["decision"]
    quiet = next(t.index for t in bench.ticks if t.index not in {r["tick"] for r in rows})
    shown = json.loads(told(capsys, "journal", "show", "--tick", quiet, "--journal", path))
    assert shown["decision"]["tick"] == quiet


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["show", "9999"], "no decision 9999"),
        (["show", "--tick", "9999"], "no tick 9999"),
        (["show", "--tick", "1", "--pool", "nobody"], "no run of pool nobody"),
        (["show", "--tick", "1", "--run", "77"], "no run 77"),
    ],
)
def test_what_is_not_there_is_said(capsys, path, args, said):
    assert main(["journal", *args, "--journal", str(path)]) == 3
    assert said in capsys.readouterr().err


def test_wrong_arguments_are_said(capsys, path):
    for wrong in (["--since", "yesterday"], ["--limit", "0"], ["--limit", "-3"]):
        with pytest.raises(SystemExit, match="2"):
            main(["journal", "list", "--journal", str(path), *wrong])
        assert wrong[1] in capsys.readouterr().err


def test_export_gives_every_tick_as_a_json_line(capsys, path, bench):
    found = lines(told(capsys, "journal", "export", "--journal", path, "--pool", "api"))
    ticks = [item for item in found if item["kind"] == "tick"]
    assert [item["tick"]["index"] for item in ticks] == [t.index for t in bench.ticks]
    assert [item["decision"]["state_digest"] for item in ticks] == [
        d.state_digest for d in bench.decisions
    ]
    assert {item["kind"] for item in found} == {"run", "intent", "tick"}
    arrived = [t.index for t in bench.ticks if t.plan is not None]
    assert [i["tick"]["index"] for i in ticks if i["tick"]["plan"]] == arrived
    few = lines(told(capsys, "journal", "export", "--journal", path, "--limit", "7"))
    indices = [i["tick"]["index"] for i in few if i["kind"] == "tick"]
    assert indices == [t.index for t in bench.ticks][-7:] * 2


def test_verify_says_whole_damaged_or_with_gaps(capsys, path):
    assert "whole" in told(capsys, "journal", "verify", "--journal", path)
    edit(path, "INSERT INTO gaps VALUES (1, 900, 909, 10, 'the journal could not be written')")
    text = told(capsys, "journal", "verify", "--journal", path, status=4)
    assert "gap: run 1: 10 ticks from 900 to 909 are missing" in text
    edit(path, "DELETE FROM batches WHERE seq = 1 AND run = 2")
    text = told(capsys, "journal", "verify", "--journal", path, status=1)
    assert "damaged: run 2 (api): batches 1 to 1 are missing" in text
    report = json.loads(told(capsys, "journal", "verify", "--journal", path, "--json", status=1))
    assert report["damage"]


def test_a_live_journal_can_be_read(capsys, tmp_path, bench):
    journal = SqliteJournal(tmp_path / "journal.db")
    journal_life.write(journal, bench, end=False)
    journal.flush()
    where = ("--journal", tmp_path / "journal.db")
    assert "whole" in told(capsys, "journal", "verify", *where)
    assert told(capsys, "journal", "list", *where)
    assert "identical" in told(capsys, "replay", tmp_path / "journal.db")
    journal.close()


def test_a_record_of_a_later_release_is_exported_raw(capsys, tmp_path, bench, monkeypatch):
    encode = record.encode_line
    monkeypatch.setattr(
        record, "encode_line", lambda *a: encode(*a).replace(b"warming_up", b"mooncycles")
    )
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    run = journal.begin_run("web", bench.policy, Resume(baseline=setting(workers=4)), 1)
    tick, decision = next(journal_life.steps(bench))
    journal.append(run, tick, replace(decision, moves=False))
    journal.close()
    found = lines(told(capsys, "journal", "export", "--journal", path))
    assert found[-1]["kind"] == "unreadable"
    assert "mooncycle" in json.dumps(found[-1]["raw"])
    assert main(["replay", str(path)]) == 3
    assert "mooncycle" in capsys.readouterr().err


def test_replay_says_identical_or_what_differs(capsys, path, bench):
    text = told(capsys, "replay", path)
    assert text.splitlines() == [
        f"run 1: {len(bench.ticks)} decisions, identical",
        f"run 2: {len(bench.ticks)} decisions, identical",
    ]
    result = lines(told(capsys, "replay", path, "--run", "2", "--json"))
    assert [(r["run"], r["identical"]) for r in result] == [(2, True)]
    edit(path, "UPDATE runs SET resume = (SELECT policy FROM runs WHERE id = 1) WHERE id = 1")
    edit(path, "UPDATE runs SET policy = (SELECT policy FROM runs WHERE id = 2) WHERE id = 1")
    assert "identical" in told(capsys, "replay", path, "--pool", "api")


def test_replay_shows_the_first_difference(capsys, path, monkeypatch):
    from poolwright.core.controller import Controller

    step = Controller.step

    def changed(self, tick):
        made = step(self, tick)
        return replace(made, detail="another version") if tick.index == 5 else made

    monkeypatch.setattr(Controller, "step", changed)
    text = told(capsys, "replay", path, "--run", "1", status=1)
    assert "decision 6, of tick 5, is the first that differs" in text
    assert "-> another version" in text


def test_replay_under_another_policy(capsys, path, tmp_path):
    policy = tmp_path / "other.yaml"
    policy.write_text(
        "version: 1\nname: other\nmode: observe\nknobs:\n  workers: {min: 1, max: 16}\n"
        "objective: {latency_p99: 1.0}\nslo:\n  latency_p99: {below: 500ms}\n"
    )
    text = told(capsys, "replay", path, "--run", "1", "--policy", policy)
    assert "recorded under policy" in text.splitlines()[0]
    assert "decisions would differ; 0 moves instead of" in text
    assert "RECORDED  while the setting was the same" in text
    assert "ESTIMATED while it was another" in text
    assert "      otherwise: " in text
    (found,) = lines(
        told(capsys, "replay", path, "--run", "1", "--policy", policy, "--json", "--auto")
    )
    assert (found["policy"], found["pool"]) == ("other", "web")
    assert found["stretches"][0].keys() >= {"recorded", "otherwise", "estimates", "untried"}
    assert main(["replay", str(path), "--auto"]) == 2
    assert "say which with --policy FILE" in capsys.readouterr().err
    assert main(["replay", str(path), "--run", "1", "--pool", "api"]) == 3
    assert "run 1 is of pool web" in capsys.readouterr().err
