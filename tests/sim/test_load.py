"""Loads: what they give over time, and the real traces behind some of them."""

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

from poolwright.core.errors import PolicyError
from poolwright.policy.bind import bind
from poolwright.policy.tree import parse_document
from poolwright.sim import load as sim_load
from poolwright.sim.load import (
    LOADS,
    TRACES,
    Burst,
    Constant,
    Diurnal,
    Load,
    Noise,
    Ramp,
    Step,
    Sum,
    Trace,
)
from poolwright.sim.plant import Plant
from poolwright.sim.shape import PlantShape

HOUR, DAY = 3600.0, 86_400.0


@dataclass(frozen=True)
class Holder:
    load: Load


def bound(text, base="/"):
    """The load that a scenario's YAML means; PolicyError with all that is wrong in it."""
    document = parse_document(f"load: {text}".encode(), "s.yaml")
    held = bind(document.root, Holder, document.problems, Path(base))
    document.problems.check()
    return held.load


def rates(load, *times):
    return [load.rate(at) for at in times]


def test_steps_ramps_bursts_and_days():
    assert rates(Constant(rps=7.0), 0.0, 1e6) == [7.0, 7.0]
    step = Step(before=10.0, after=30.0, at=60.0)
    assert rates(step, 0.0, 59.9, 60.0, 1e6) == [10.0, 10.0, 30.0, 30.0]
    ramp = Ramp(before=10.0, after=30.0, at=60.0, lasts=20.0)
    assert rates(ramp, 0.0, 60.0, 65.0, 80.0, 1e6) == [10.0, 10.0, 15.0, 30.0, 30.0]
    once = Burst(base=5.0, peak=50.0, at=10.0, lasts=2.0)
    assert rates(once, 9.9, 10.0, 11.9, 12.0, 110.0) == [5.0, 50.0, 50.0, 5.0, 5.0]
    often = Burst(base=5.0, peak=50.0, at=10.0, lasts=2.0, every=100.0)
    assert rates(often, 0.0, 11.0, 13.0, 111.0, 113.0) == [5.0, 50.0, 5.0, 50.0, 5.0]
    day = Diurnal(low=20.0, high=100.0)
    assert rates(day, 0.0, 6 * HOUR, 12 * HOUR, DAY) == pytest.approx([20.0, 60.0, 100.0, 20.0])


def test_parts_add_up_and_costs_are_weighted_by_requests():
    dear = Trace(name="azure_llm", peak=19.0, costs=True)
    both = Sum(parts=(Constant(rps=10.0), dear))
    for at in (100.0, 1000.0, 3000.0):
        rate = dear.rate(at)
        assert both.rate(at) == pytest.approx(10.0 + rate)
        assert both.cost(at) == pytest.approx((10.0 + rate * dear.cost(at)) / (10.0 + rate))
    assert Sum(parts=(Constant(rps=0.0),)).cost(5.0) == 1.0


def test_noise_has_mean_one_its_spread_and_a_seed():
    noise = Noise(of=Constant(rps=100.0), cv=0.3, every=10.0, seed=4)
    drawn = [noise.rate(10.0 * k) for k in range(20_000)]
    assert statistics.mean(drawn) == pytest.approx(100.0, rel=0.01)
    assert statistics.stdev(drawn) == pytest.approx(30.0, rel=0.03)
    assert noise.rate(15.0) == pytest.approx((drawn[1] + drawn[2]) / 2)
    assert noise.rate(10.0) == Noise(of=Constant(rps=100.0), cv=0.3, seed=4).rate(10.0)
    assert noise.rate(10.0) != Noise(of=Constant(rps=100.0), cv=0.3, seed=5).rate(10.0)
    assert Noise(of=Constant(rps=100.0), cv=0.0).rate(3.0) == pytest.approx(100.0)


# rows, span [s], peak and mean [rps], as the traces' README states them
STATED = {
    "worldcup98": (20_160, 14 * DAY - 60.0, 3752.0, 454.1),
    "aws_elb": (4_032, 14 * DAY + 2100.0, 2.2, 0.21),
    "azure_llm": (3_503, 3502.0, 19.0, 5.5),
}


@pytest.mark.parametrize("name", TRACES)
def test_shipped_traces_are_what_their_readme_says(name):
    rows, span_s, peak, mean = STATED[name]
    series = sim_load._shipped(name)
    assert (len(series.times), series.times[-1]) == (rows, span_s)
    assert series.peak == pytest.approx(peak, rel=0.01)
    assert statistics.mean(series.rates) == pytest.approx(mean, rel=0.02)


def test_the_shipped_folder_carries_its_terms():
    folder = Path(sim_load.__file__).parent / "traces"
    text = (folder / "README.md").read_text()
    assert all(file in text for file in TRACES.values())
    assert "Copyright and Disclaimer" in text
    assert "Hewlett-Packard" in (folder / "LICENSE-WorldCup98.txt").read_text()
    assert "Numenta" in (folder / "LICENSE-NAB-MIT.txt").read_text()
    assert "CC-BY" in text


def test_a_trace_is_scaled_sped_up_shifted_and_begins_again():
    folder = Path(sim_load.__file__).parent / "traces"
    with (folder / TRACES["worldcup98"]).open() as lines:
        rows = [float(row["rps"]) for row in csv.DictReader(lines)]
    scale = 200.0 / max(rows)
    plain = Trace(name="worldcup98", peak=200.0)
    assert max(plain.rate(60.0 * i) for i in range(len(rows) - 1)) == pytest.approx(200.0)
    assert plain.rate(600.0) == pytest.approx(rows[10] * scale)
    assert plain.rate(630.0) == pytest.approx((rows[10] + rows[11]) / 2 * scale)
    assert plain.cost(600.0) == 1.0
    fast = Trace(name="worldcup98", peak=200.0, speed=60.0, start=5 * DAY)
    assert fast.rate(HOUR) == pytest.approx(plain.rate(5 * DAY + 60 * HOUR))
    span_s = 60.0 * (len(rows) - 1)
    assert plain.rate(span_s + 630.0) == pytest.approx(plain.rate(630.0))


def test_requests_of_the_llm_trace_cost_their_tokens():
    trace = Trace(name="azure_llm", peak=19.0, costs=True)
    spent = sum(trace.cost(float(at)) * trace.rate(float(at)) for at in range(3502))
    asked = sum(trace.rate(float(at)) for at in range(3502))
    assert spent / asked == pytest.approx(1.0, rel=0.01), "the mean request costs one"
    costs = [trace.cost(float(at)) for at in range(3502)]
    assert max(costs) > 2.0
    assert min(costs) < 0.5
    with pytest.raises(PolicyError, match="does not say what requests cost"):
        Trace(name="aws_elb", costs=True)


def test_the_rate_is_what_comes_and_the_cost_is_what_burns():
    plant, load = Plant(PlantShape(), 40, 1), Diurnal(low=20.0, high=100.0, period=400.0)
    for second in range(800):
        plant.tick(load.rate(float(second)))
    assert plant.totals.arrived == pytest.approx(60 * 800, rel=0.02)
    cheap, dear = Plant(PlantShape(cores=8.0), 40, 1), Plant(PlantShape(cores=8.0), 40, 1)
    for _ in range(60):
        cheap.tick(20.0, cost=0.0)
        dear.tick(20.0, cost=5.0)
    assert dear.totals.cpu_s - cheap.totals.cpu_s == pytest.approx(60 * 20 * 5 * 0.006, rel=0.1)


def test_a_scenario_writes_a_load_by_its_kind(tmp_path):
    (tmp_path / "mine.csv").write_text("second,rps\n0,1\n60,3\n120,2\n")
    written = (
        "{kind: sum, parts: [{kind: noise, of: {kind: constant, rps: 600/m}, cv: 0.0},"
        " {kind: trace, path: mine.csv, peak: 30/s, speed: 2},"
        " {kind: burst, peak: 5/s, at: 1m, lasts: 10s, every: 1h}]}"
    )
    load = bound(written, tmp_path)
    assert rates(load, 0.0, 30.0, 65.0) == pytest.approx([20.0, 40.0, 28.0 + 1 / 3])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("7", "is not a mapping such as"),
        ("{rps: 5/s}", "'kind' is missing"),
        ("{kind: stepp, before: 1/s}", "did you mean 'step'"),
        ("{kind: step, before: 1/s, after: 2/s}", "'at' is missing"),
        ("{kind: constant, rps: -1/s}", "rps"),
        ("{kind: constant, rpm: 1/s}", "unknown key 'rpm'"),
        ("{kind: trace}", "either a name or a path"),
        ("{kind: trace, name: worldcup98, path: a.csv}", "either a name or a path"),
        ("{kind: trace, name: worldcup}", "no trace 'worldcup'; there are: worldcup98"),
        ("{kind: trace, path: none.csv}", "none.csv: No such file"),
        ("{kind: sum, parts: []}", "at least one is wanted"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused_with_its_place(text, says):
    with pytest.raises(PolicyError, match=r"s\.yaml:1:[0-9]+") as refused:
        bound(text)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "two rows"),
        ("second,rps\n0,1\n", "two rows"),
        ("second,rps\n0,1\n0,2\n", "does not ascend"),
        ("second,rps\n0,1\n1,nan\n", "not a rate"),
        ("second,rps\n0,-1\n1,2\n", "not a rate"),
        ("second,rps\n0,0\n1,0\n", "not a rate"),
        ("second,rps\n0,1\n1\n", "is no trace"),
        ("second,hits\n0,1\n1,2\n", "is no trace: 'requests'"),
        ("when,rps\nnoon,1\none,2\n", "is no trace"),
        ("\xff", "is no trace"),
    ],
)
def test_a_file_that_holds_no_trace_is_refused_when_it_is_named(tmp_path, text, says):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(PolicyError, match=says):
        Trace(path=str(path))


def test_every_kind_of_load_is_in_the_table():
    assert set(LOADS) == {kind.kind for kind in Load.__subclasses__()}
