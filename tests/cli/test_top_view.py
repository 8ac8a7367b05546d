"""The picture of `poolwright top`, without a terminal and without a daemon."""

from dataclasses import replace

import pytest
import snapshots as make
from rich.console import Console

from poolwright.cli.top import line
from poolwright.cli.top_view import KEPT, View, picture, sparkline


def seen(count=1, second=0):
    """A snapshot of so many pools."""
    pools = tuple(replace(make.pool_snapshot(), pool=f"pool{i:02d}") for i in range(count))
    snapshot = make.snapshot()
    return replace(snapshot, wall_ns=snapshot.wall_ns + second * 10**9, pools=pools)


def drawn(view, width=100, height=30):
    console = Console(width=width, height=height, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(picture(view, width, height, blocks=True))
    return capture.get()


def looked(count=1):
    view = View(url="http://127.0.0.1:1")
    view.see(seen(count), "")
    return view


def test_a_sparkline_goes_from_nought_to_its_largest_and_shows_gaps():
    assert sparkline([0.0, 3.5, None, 7.0], 6, blocks=True) == "  ▁▅ █"
    assert sparkline([1.0] * 9, 3, blocks=True) == "███"
    assert sparkline([0.0, 0.0], 2, blocks=True) == "▁▁"
    assert sparkline([], 2, blocks=False) == "  "
    assert sparkline([0.0, 7.0], 2, blocks=False) == "_#"


def test_the_selected_pool_is_in_sight_however_many_there_are():
    view = looked(40)
    assert "pool00" in drawn(view)
    assert "more pools" in drawn(view)
    for _ in range(60):
        assert view.press("down", 30)
    text = drawn(view)
    assert any(row.startswith(">  pool39") for row in text.splitlines())
    assert view.pool == "pool39"
    for _ in range(60):
        view.press("up", 30)
    assert view.pool == "pool00"


@pytest.mark.parametrize("width", [20, 40, 79, 80, 130, 300])
@pytest.mark.parametrize("page", ["pools", "explain", "help"])
def test_every_width_is_kept_to(width, page):
    view = looked(3)
    view.page, view.lines = page, tuple("word " * 50 for _ in range(30))
    assert max(map(len, drawn(view, width, 12).splitlines())) <= width


def test_the_selection_follows_its_pool_when_others_come_and_go():
    view = looked(3)
    view.press("j", 30)
    assert view.pool == "pool01"
    fewer = seen(3, second=1)
    view.see(replace(fewer, pools=fewer.pools[1:]), "")
    assert view.pool == "pool01"
    view.see(replace(seen(3, second=2), pools=()), "")
    assert view.pool is None
    assert "no pools" in drawn(view)


def test_the_same_snapshot_seen_twice_is_one_mark_and_a_loss_is_a_gap():
    view = looked()
    view.see(seen(), "")
    assert len(view.history["pool00"].level) == 1
    view.see(None, "connection refused")
    view.see(seen(second=9), "")
    level = make.pool_snapshot().tick.applied.setting["workers"]
    assert list(view.history["pool00"].level) == [level, None, level]
    for second in range(KEPT + 20):
        view.see(seen(second=10 + second), "")
    assert len(view.history["pool00"].level) == KEPT


def test_figures_of_a_daemon_that_is_gone_are_not_shown():
    view = looked()
    figures = drawn(view)
    view.see(None, "connection refused")
    view.gone_s = 75.0
    text = drawn(view)
    assert text.startswith("NOT LIVE for 75 s, trying again: connection refused")
    assert "pool00" in text
    assert "not seen now" in text
    for figure in ("48/s", "cores", " W "):
        assert figure in figures
        assert figure not in text


def test_a_p99_above_the_objective_is_marked_without_colour_too():
    view = looked()
    snapshot = seen(second=1)
    slow = replace(snapshot.pools[0].recent, p99_s=0.5)
    view.see(replace(snapshot, pools=(replace(snapshot.pools[0], recent=slow),)), "")
    assert "!500 ms" in drawn(view)


def test_an_explanation_is_scrolled_within_its_ends():
    view = looked()
    view.page, view.lines = "explain", tuple(f"line {i}" for i in range(50))
    assert "line 0" in drawn(view, 80, 20)
    view.press("k", 20)
    assert view.top == 0
    for _ in range(9):
        view.press(" ", 20)
    text = drawn(view, 80, 20)
    assert "line 49" in text
    assert "the end" in text
    view.press("b", 20)
    assert "line 49" not in drawn(view, 80, 20)
    assert view.press("esc", 20)
    assert view.page == "pools"
    assert not view.press("q", 20)


def test_a_line_for_a_pipe():
    told = line(make.pool_snapshot())
    assert told.startswith("web  ")
    assert "  load 48/s  " in told
