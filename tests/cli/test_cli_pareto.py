"""`poolwright pareto` and `poolwright prior` on a real journal file."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from snapshots import POLICY

from poolwright.cli import pareto
from poolwright.cli.main import EXIT_PLANT, main
from poolwright.core.model import Tick

GOLDEN = Path(__file__).parents[1] / "golden" / "journals" / "v2.db"


@pytest.fixture
def journal(tmp_path):
    return shutil.copy(GOLDEN, tmp_path / "journal.db")


def told(capsys, journal, *args, pool="api", status=0):
    assert main(["pareto", pool, "--journal", str(journal), *args]) == status
    return capsys.readouterr()


def test_it_lists_what_nothing_beats_and_the_room_there_is(capsys, journal):
    out = told(capsys, journal).out
    assert "requests/s, from 1 windows at" in out
    assert "latency p99" in out
    assert "memory" in out
    assert "the SLOs can be held up to" in out
    assert "with workers=" in out
    assert "? is far from anything that was tried" in out


def test_more_load_and_everything(capsys, journal):
    once = json.loads(told(capsys, journal, "--json").out)
    twice = json.loads(told(capsys, journal, "--json", "--times", "2").out)
    named = json.loads(told(capsys, journal, "--json", "--load", "12.5").out)
    assert twice["load_rps"] == pytest.approx(2 * once["load_rps"], rel=1e-5)
    assert named["load_rps"] == 12.5
    levels = [o["setting"]["levels"][0][1] for o in once["outlooks"]]
    assert levels == sorted(levels)
    lines = told(capsys, journal, "--all").out.splitlines()
    assert sum("±" in line for line in lines) == len(levels)


def test_it_is_drawn(capsys, journal, tmp_path):
    plot = tmp_path / "out.png"
    told(capsys, journal, "--plot", str(plot))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.stat().st_size > 20_000
    missing = told(capsys, journal, "--plot", str(tmp_path / "no" / "x.png"), status=EXIT_PLANT)
    assert "x.png: cannot be written" in missing.err


def test_what_is_not_there_is_said(capsys, journal, tmp_path):
    assert (
        "no pool 'nope' (pools: api, web)"
        in told(capsys, journal, pool="nope", status=EXIT_PLANT).err
    )
    absent = told(capsys, tmp_path / "none.db", status=EXIT_PLANT)
    assert "none.db" in absent.err
    for wrong in ("0", "-1", "nan", "inf", "abc"):
        with pytest.raises(SystemExit) as refused:
            main(["pareto", "api", f"--times={wrong}"])
        assert refused.value.code == 2
        assert f"'{wrong}' is not a number above 0" in capsys.readouterr().err


def test_memory_that_was_not_seen_is_no_permission_in_silence(capsys, journal, monkeypatch):
    assert "memory was not seen" not in told(capsys, journal).out
    blind = Tick(index=0, mono_ns=0, wall_ns=0)
    unseen = pareto._memory_limit(blind, POLICY)
    assert unseen is None
    monkeypatch.setattr(pareto, "_memory_limit", lambda *_: unseen)
    assert "the host's memory was not seen last" in told(capsys, journal).out


def test_what_was_learned_is_written_for_another_host(capsys, journal, tmp_path):
    out = tmp_path / "prior.json"
    assert main(["prior", "api", "--journal", str(journal), "--out", str(out)]) == 0
    assert "windows of api" in capsys.readouterr().err
    assert json.loads(out.read_text())["knobs"] == ["workers"]
    assert main(["prior", "api", "--journal", str(journal)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert main(["prior", "nope", "--journal", str(journal)]) == EXIT_PLANT
    assert "no pool 'nope' (pools: api, web)" in capsys.readouterr().err
    lost = ["prior", "api", "--journal", str(journal), "--out", str(tmp_path / "no" / "x.json")]
    assert main(lost) == EXIT_PLANT
    assert "x.json: cannot be written" in capsys.readouterr().err
