"""The convergence bench: how it judges a sweep and a run, and its table."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from converge import run, table
from converge.servers import SERVERS
from converge.stand import write_policy


def row(**known):
    usual = {
        "server": "gunicorn",
        "version": "27.0.1",
        "rps": 40.0,
        "began": 3,
        "held": 6,
        "best": 6,
        "best_j": 1.3,
        "best_low": 1.2,
        "best_high": 1.4,
        "began_over_best": 4.0,
        "over_best": 1.0,
        "run_over_best": 1.02,
        "converged_s": 61.0,
        "windows": 9,
        "settled_s": 40.0,
        "levels": 5,
        "breach_ratio": 0.2,
        "last_breach_ratio": 0.0,
        "requests": 4000,
        "lost": 0,
        "power_source": "model",
    }
    return table.Row(**usual | known)


def test_the_fit_finds_the_bottom_that_one_lucky_value_hides():
    levels = [2, 3, 4, 5, 6, 8, 10, 12, 16, 24]
    js = [math.exp(0.5 * math.log2(n / 6) ** 2) for n in levels]
    js[7] *= 0.75  # measured in a lucky moment, and now the least of all but one
    fit = run.smooth(levels, js)
    assert levels[fit.index(min(fit))] in (5, 6, 8)
    assert fit[7] > 1.1


def test_a_level_between_those_of_the_sweep_is_judged_by_its_neighbours():
    made = run.Curve(
        levels=[2, 4, 8], raw=[4.0, 1.0, 4.0], fit=[4.0, 1.0, 4.0], spread=[(1, 1)] * 3
    )
    assert made.over_best(4) == pytest.approx(1.0)
    assert 1.0 < made.over_best(5) < made.over_best(6) < 4.0


def test_the_table_says_what_did_not_happen_and_replaces_only_itself(tmp_path, monkeypatch):
    page = tmp_path / "measurements.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "_DOC", page)
    made = table.text([row(), row(held=None, converged_s=None, windows=None, lost=7)])
    table.write(made, ["--servers", "all"], 2)
    text = page.read_text()
    assert text.startswith(
        f"before\n{table.BEGIN}\n`.venv/bin/python bench/converge/run.py --servers all`, "
    )
    assert text.endswith(f"{table.END}\nafter\n")
    assert "old" not in text
    assert "| **-** |" in text
    assert "| not | - |" in text
    assert "| 7 |" in text


def test_a_page_without_its_place_is_refused(tmp_path, monkeypatch):
    page = tmp_path / "measurements.md"
    page.write_text("nothing\n")
    monkeypatch.setattr(table, "_DOC", page)
    with pytest.raises(SystemExit, match="are not there"):
        table.write("table", [], 2)


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_every_servers_policy_is_one_and_its_bad_levels_are_within(server, tmp_path):
    policy = write_policy(server, tmp_path / "policies.d")
    (knob,) = policy.knobs
    assert (knob.lower, knob.upper) == (server.levels[0], server.levels[-1])
    assert all(knob.lower <= level <= knob.upper for level in server.bad)
    assert list(server.levels) == sorted(server.levels)
