"""A day of every pool in memory: buckets, their resolutions, what is folded and what is missing."""

import math
from dataclasses import replace

import msgspec
import pytest
import snapshots as make

from poolwright.core.model import setting
from poolwright.core.policy import Knob
from poolwright.surface.book import Book
from poolwright.surface.history import STEPS, History, HistoryAnswer, Level, row_of
from poolwright.surface.point import LEVELS, QUANTITIES, point

T = 1_795_244_400  # a whole minute


def asked(history, from_s, to_s, most=2000, knobs=("workers",)):
    """The answer as a client sees it."""
    sent = msgspec.json.encode(history.answer("web", knobs, from_s, to_s, most))
    return msgspec.json.decode(sent, type=HistoryAnswer)


def filled(seconds, start=T, **columns):
    """A history of one tick a second; each column is a function of the second."""
    history = History()
    for i in range(seconds):
        history.put(start + i + 0.4, {name: of(i) for name, of in columns.items()})
    return history


def test_the_last_minutes_are_there_second_by_second():
    history = filled(60, load_rps=float, latency_p99_s=lambda i: i / 1000)
    found = asked(history, T + 50, T + 100)
    assert found.step_s == 1.0
    assert found.time_s == [T + i for i in range(50, 60)]
    assert found.load_rps == [float(i) for i in range(50, 60)]
    assert found.latency_p99_s == [i / 1000 for i in range(50, 60)]
    assert found.power_w == found.wanted == [None] * 10


@pytest.mark.parametrize(("back_s", "step_s"), [(900, 1), (3600, 10), (86_000, 60)])
def test_what_is_further_back_is_coarser(back_s, step_s):
    history = filled(90_000, load_rps=lambda i: i % 7)
    found = asked(history, T + 90_000 - back_s, T + 90_000)
    assert found.step_s == step_s
    assert len(found.time_s) == back_s // step_s + (step_s == 60)
    assert all(value is not None for value in found.load_rps)


def test_of_a_bucket_the_worst_the_last_or_the_mean_is_kept():
    history = History()
    for i, (p99, level) in enumerate([(0.1, 4), (0.9, 5), (0.2, 6)]):
        values = {"latency_p99_s": p99, "latency_p50_s": p99, ".applied": level}
        history.put(T + i, values)
    level = history.levels[2]
    assert level.column("latency_p99_s", [T // 60]) == [0.9]
    assert level.column("latency_p50_s", [T // 60]) == [0.4]
    assert level.column(".applied", [T // 60]) == [6.0]


def test_fewer_points_keep_the_peak():
    history = filled(900, latency_p99_s=lambda i: 2.0 if i == 431 else 0.1, load_rps=float)
    found = asked(history, T, T + 900, most=10)
    assert len(found.time_s) == 10
    assert found.step_s == 90.0
    assert found.latency_p99_s.count(2.0) == 1
    assert found.load_rps[0] == sum(range(90)) / 90


@pytest.mark.parametrize("most", [1, 2, 3, 7, 1999, 2000])
def test_there_are_never_more_rows_than_asked_for(most):
    history = filled(100, load_rps=float)
    for at in range(T + 200, T + 900, 100):  # with gaps
        history.put(at, {"load_rps": 1.0})
    assert 0 < len(asked(history, T, T + 900, most=most).time_s) <= most


def test_a_time_without_ticks_is_a_gap():
    history = filled(5, load_rps=float)
    history.put(T + 60, {"load_rps": 9.0})
    found = asked(history, T, T + 60)
    assert found.time_s == [T, T + 1, T + 2, T + 3, T + 4, T + 5, T + 60]
    assert found.load_rps == [0.0, 1.0, 2.0, 3.0, 4.0, None, 9.0]


def test_ticks_far_apart_are_no_gap():
    history = History()
    history.cadence_s = 10.0
    for i in range(5):
        history.put(T + 10 * i, {"load_rps": float(i)})
    assert asked(history, T, T + 60).load_rps == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_an_empty_history_and_a_span_of_nothing_are_empty():
    for history in (History(), filled(10, load_rps=float)):
        for from_s, to_s in ((0.0, 1.0), (T + 5.0, T + 1.0), (1e11, 1e11)):
            assert asked(history, from_s, to_s).time_s == []


def test_an_old_turn_of_a_slot_is_not_shown():
    level = Level(1, 10)
    level.put(T, {"load_rps": 1.0, "power_w": 5.0})
    level.put(T + 10, {"load_rps": 2.0})  # the same slot
    assert level.kept(T - 100, T + 100) == [T + 10]
    assert level.column("load_rps", [T + 10]) == [2.0]
    assert math.isnan(level.column("power_w", [T + 10])[0])


def test_a_clock_that_is_set_back_costs_no_more_than_what_it_writes_over():
    history = filled(100, load_rps=float)
    history.put(T + 50.4, {"load_rps": 7.0})
    assert asked(history, T + 49, T + 51).load_rps == [49.0, 7.0, 51.0]


def test_the_past_fills_what_is_empty_and_leaves_what_is_live():
    live, past = filled(3, start=T + 5, load_rps=lambda i: 100.0 + i), filled(8, load_rps=float)
    for level, known in zip(live.levels, past.levels, strict=True):
        buckets = known.kept(0, 1e11)
        level.fill(buckets, {name: known.column(name, buckets) for name in known.columns})
    found = asked(live, T, T + 20)
    assert found.load_rps == [0.0, 1.0, 2.0, 3.0, 4.0, 100.0, 101.0, 102.0]


def test_a_pool_of_several_knobs_has_columns_for_each():
    policy = replace(
        make.POLICY, knobs=(*make.POLICY.knobs, Knob(name="threads", lower=1, upper=8))
    )
    at = setting(threads=2, workers=5)
    seen = make.pool_snapshot(
        policy=policy,
        tick=make.tick(applied=replace(make.tick().applied, setting=at)),
        decision=make.hold(setting=setting(threads=3, workers=5)),
    )
    history = History()
    history.put(T, row_of(point(seen)))
    found = asked(history, T, T + 1, knobs=("workers", "threads"))
    assert (found.commanded, found.applied) == ([5.0], [5.0])
    assert found.knobs["threads"].commanded == [3.0]
    assert found.knobs["threads"].applied == [2.0]
    assert found.knobs["workers"].applied == [5.0]


def test_what_a_snapshot_says_is_what_is_kept():
    told = []
    book = Book(lambda *said: told.append(said))
    snapshot = make.snapshot(make.busy_pool(), make.blind_pool("mail"))
    book.published(snapshot)
    book.published(snapshot)  # the same tick again, because the core failed in the next one
    (time_s, cadence_s, points), _ = told
    assert (time_s, cadence_s) == (snapshot.wall_ns / 1e9, 1.0)
    web, mail = points
    found = asked(book.histories["web"], 0.0, 1e11)
    for name in (*LEVELS, *QUANTITIES):
        assert getattr(found, name) == [pytest.approx(getattr(web, name), abs=1e-6)], name
    assert found.error_ratio == [pytest.approx(0.5 / 47.5, abs=1e-6)]
    assert all(getattr(mail, name) is None for name in (*LEVELS, *QUANTITIES))
    assert asked(book.histories["mail"], 0.0, 1e11).load_rps == [None]


def test_memory_does_not_grow_with_time():
    history = filled(10, load_rps=float)
    before = [len(column) for level in history.levels for column in level.columns.values()]
    for i in range(100_000, 200_000, 7):
        history.put(T + i, {"load_rps": 1.0})
    after = [len(column) for level in history.levels for column in level.columns.values()]
    assert before == after == [slots for _, slots in STEPS]
