"""The tracking bench tells laws what really was, and plays everybody the same day."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import laws
import tracking
from poolwright.cli.simulate import makers
from poolwright.core.sketch import sketch_of
from traces import FOLK, Day, Plain, driven, known

SHORT = 300.0 / 86_400.0  # days


def a_look(took, **changes):
    """A tick in which requests took so long in a worker: its truth, and what sensors say."""
    truth = {
        "dt_s": 0.25, "cpu_s": 0.5, "foreign_s": 0.0, "done": len(took), "waiting": 0,
        "in_service": 3, **changes,
    }  # fmt: skip
    sketch = sketch_of(took) if took else None
    reading = SimpleNamespace(signal="service_time_s", sketch=sketch)
    other = SimpleNamespace(signal="latency_s", sketch=sketch_of([9.0]))
    return SimpleNamespace(**truth), (other, reading)


def test_looks_add_up_to_a_sample():
    watch = tracking.Watch()
    watch.look(*a_look([0.1, 0.3], in_service=4))
    watch.look(*a_look([], in_service=1, waiting=7, foreign_s=3.0))
    told = watch.sample()
    assert (told.span_s, told.done, told.throughput) == (0.5, 2, 4.0)
    assert told.service == pytest.approx(0.2)
    assert told.quantile(1.0) == pytest.approx(0.3, rel=0.02)
    assert told.busy == pytest.approx(0.8)  # 0.4 s of work in half a second
    assert (told.in_flight, told.queue, told.reserved) == (4, 7, 8)
    assert (told.cpu, told.foreign) == (2.0, 0.5)
    watch.forget(settled=False)
    watch.look(*a_look([], in_service=0))
    assert watch.sample().service == 0.0
    assert not watch.sample().settled


def test_a_law_speaks_when_its_sample_is_full_and_is_told_that_the_level_moved():
    heard = []

    class Louder(laws.Netflix):
        def next(self, n, sample):
            heard.append((sample.span_s, sample.done, sample.settled))
            return n + 1

    rule = tracking.Steered(Louder(4, 1, 9, None))
    truth, readings = a_look([0.1] * 5)
    plant = SimpleNamespace(truth=truth, workers=4)
    answers = [rule(0.0, plant, readings) for _ in range(8)]  # looks of 0.25 s
    assert answers == [None] * 3 + [5] + [None] * 3 + [5]
    assert heard == [(1.0, 20, True), (1.0, 20, False)]


def test_a_plain_plant_serves_as_the_whole_one_and_tells_the_time_in_a_worker():
    shape = Day(trace="aws_elb").scenario().services()[0].plant
    whole, plain = makers().plant(shape, 3, 5), Plain(shape, 3, 5)
    for _ in range(20):
        seen, (reading,) = whole.tick(40.0), plain.tick(40.0)
        assert plain.truth == whole.truth
        assert reading in seen


def test_everybody_meets_the_same_requests_and_watts_whatever_the_tick():
    day = Day(trace="worldcup98", days=SHORT)
    arrived = []

    def count(_at_s, plant, _readings):
        arrived[-1] += plant.truth.arrived

    rows = []
    for tick_s in (1.0, 0.1):
        arrived.append(0)
        rows.append(driven(day, "nobody", count, FOLK, tick_s))
    assert arrived[0] == pytest.approx(arrived[1], rel=0.002)
    assert rows[0].joules_per_request == pytest.approx(rows[1].joules_per_request, rel=0.005)
    assert rows[0].minutes == rows[1].minutes == 5
    assert rows[0].worker_hours_per_day == pytest.approx(24.0 * FOLK)
    other = driven(replace(day, seed=1), "nobody", lambda *_: None, FOLK)
    assert other.joules_per_request != rows[0].joules_per_request


@pytest.mark.parametrize("name", laws.LAWS)
def test_a_law_on_a_day_is_the_same_again_and_keeps_the_bounds(name):
    day = Day(trace="aws_elb", days=SHORT)
    one, two = (tracking.METHODS[name](day, name) for _ in range(2))
    assert replace(one, spent_s=0.0) == replace(two, spent_s=0.0)
    assert 2 <= one.levels[0] <= one.levels[1] <= 48


def test_threads_are_there_at_once_and_processes_boot():
    boots = {t: Day(trace="aws_elb", threads=t).scenario().plant.boot for t in (False, True)}
    assert (boots[True].lasts, boots[True].cpu) == (0.0, 0.0)
    assert boots[False].lasts == 1.0


def test_the_oracle_is_at_the_size_of_a_minutes_highest_load_before_it_begins():
    load = SimpleNamespace(rate=lambda at_s: 90.0 if 100.0 <= at_s < 110.0 else 10.0)
    rule, first = known(((20.0, 3, 0.5), (100.0, 8, 2.0)), load)
    assert first == 3
    said = {int(at): rule(at, None, ()) for at in (54.0, 55.0, 56.0, 115.0)}
    assert said == {54: None, 55: 8, 56: None, 115: 3}


def test_poolwright_plays_the_same_day():
    day = Day(trace="aws_elb", days=SHORT)
    row = tracking.METHODS["poolwright, autoscale"](day, "poolwright, autoscale")
    assert (row.minutes, row.who) == (5, "poolwright, autoscale")
    with day.staged("autoscale") as staged:
        assert staged.policies["web"].knobs[0].upper == 48
    assert makers().plant(day.scenario().plant, FOLK, 0).workers == FOLK


def test_what_was_measured_is_not_measured_again_and_is_told_with_its_spread(
    tmp_path, monkeypatch, capsys
):
    out = tmp_path / "rows.jsonl"
    asked = [
        "tracking.py", "--methods", "2[*]cores+1", "--traces", "aws_elb", "--days", str(SHORT),
        "--seeds", "2", "--out", str(out),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", asked)
    monkeypatch.setattr(tracking.gc, "freeze", lambda: None)
    monkeypatch.setattr(tracking.gc, "set_threshold", lambda *_: None)
    tracking.main()
    first = out.read_text()
    tracking.main()
    assert out.read_text() == first
    assert [json.loads(line)["seed"] for line in first.splitlines()] == [0, 1]
    assert "| 2*cores+1 | 0 | 0 | 600 |" in capsys.readouterr().out
    rows = tracking.load(out)
    rows[1] = replace(rows[1], moves_per_day=2.0)
    assert "| 1 [0, 2] | 25..25 |" in tracking.table(rows)
    out.write_text(first.replace('"version": 1', '"version": 0'))
    assert tracking.load(out) == []


def test_methods_are_chosen_by_pattern():
    assert tracking.chosen("laws") == list(laws.LAWS)
    assert tracking.chosen("Netflix*;oracle")[0] == "oracle"
    assert len(tracking.chosen("*")) == len(tracking.METHODS)
    with pytest.raises(SystemExit, match="none of"):
        tracking.chosen("thunder")
