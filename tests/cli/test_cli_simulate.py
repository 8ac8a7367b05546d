"""`poolwright simulate`: deterministic to the byte, and what it prints, draws and keeps."""

import json
import os
import subprocess
import sys

import pytest
from playing import PLANT, POLICY, faults

from poolwright.cli.main import EXIT_PLANT, EXIT_POLICY, main
from poolwright.journal.query import JournalReader

SCENARIO = (
    "version: 1\nname: short\nduration: 2m\n"
    + POLICY
    + PLANT
    + faults(
        "kind: daemon-killed, before: mid-apply, at: 20s",
        "kind: sensor, does: scaled, at: 50s, lasts: 10s",
        "kind: learner, does: absurd, at: 60s, lasts: 30s",
        "kind: plant, does: reload, at: 90s",
    )
)

BRIEF = (
    "version: 1\nname: brief\nduration: 1m\n"
    + POLICY
    + PLANT
    + faults("kind: daemon-killed, before: mid-apply, at: 20s")
)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture
def brief(tmp_path):
    path = tmp_path / "brief.yaml"
    path.write_text(BRIEF)
    return path


def fresh(*words):
    """A process of its own, in which hashes are those of seed 1: here they are of another."""
    return subprocess.run(
        [sys.executable, "-m", "poolwright", "simulate", *words],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "1"},
    )


def test_the_same_seed_gives_the_same_bytes_in_any_process(written, tmp_path, capsys):
    def words(seed, journal):
        return str(written), "--seed", seed, "--json", "--journal", str(tmp_path / journal)

    there = fresh(*words("7", "there.db"))
    assert "real time" in there.stderr  # how fast it went is nobody's result
    assert main(["simulate", *words("7", "here.db")]) == 0
    assert capsys.readouterr().out == there.stdout
    heads = []
    for journal in ("there.db", "here.db"):
        with JournalReader(tmp_path / journal) as reader:
            heads.append([list(reader.steps(row.id)) for row in reader.runs()])
    assert heads[0] == heads[1]
    assert len(heads[0]) == 2  # it was killed once
    assert main(["simulate", *words("8", "other.db")]) == 0
    assert capsys.readouterr().out != there.stdout


def test_the_report_names_what_matters(written, capsys):
    assert main(["simulate", str(written)]) == 0
    out = capsys.readouterr().out
    for words in (
        "scenario short, seed 0: 2 min",
        "poolwright was started 2 times",
        "learner absurd once",
        "minutes outside the SLO",
        "requests failed",
        "worker-hours",
        "energy a request",
        "probes",
        "converged",
        "guard trips",
    ):
        assert words in out, words


def test_json_has_the_same(brief, capsys):
    assert main(["simulate", str(brief), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (pool,) = report["pools"]
    assert report["lives"] == 2
    assert pool["minutes"] == 1
    assert sum(count for _, count in pool["decisions"]) <= 60
    assert pool["levels"][0] <= pool["final_level"] <= pool["levels"][1]


def test_compare_finds_the_best_fixed_size(brief, capsys):
    assert main(["simulate", str(brief), "--json", "--compare", "fixed"]) == 0
    best = json.loads(capsys.readouterr().out)["fixed"]["web"]
    assert 2 <= best["level"] <= 16
    assert best["minutes_outside_slo"] == 0
    assert best["worker_hours"] == pytest.approx(best["level"] / 60, rel=0.01)


def test_a_journal_is_kept_and_never_written_over(brief, tmp_path, capsys):
    kept = tmp_path / "kept.db"
    assert main(["simulate", str(brief), "--journal", str(kept)]) == 0
    assert main(["replay", str(kept)]) == 0
    assert capsys.readouterr().out.count("identical") == 2
    assert main(["simulate", str(brief), "--journal", str(kept)]) == EXIT_PLANT
    assert "is there already" in capsys.readouterr().err


def test_a_plot_is_drawn(written, tmp_path):
    plot = tmp_path / "out.png"
    assert main(["simulate", str(written), "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.stat().st_size > 20_000


def test_list_names_the_shipped_ones(capsys):
    assert main(["simulate", "--list"]) == 0
    out = capsys.readouterr().out
    assert "chaos" in out
    assert "retry-storm" in out


def test_what_cannot_be_played_is_told(tmp_path, capsys):
    assert main(["simulate"]) == EXIT_POLICY
    assert main(["simulate", "stedy"]) == EXIT_POLICY
    assert "did you mean 'steady'?" in capsys.readouterr().err
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nname: x\nduration: 5\npolicy: balanced\n")
    assert main(["simulate", str(bad)]) == EXIT_POLICY
    assert f"{bad}:3:11: duration: '5' has no unit" in capsys.readouterr().err
