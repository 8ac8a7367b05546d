"""From readings to samples to observations, held against a plant that keeps the truth."""

import pytest
from ticks import policy, readings

from poolwright.core.derive import Deriver
from poolwright.core.model import Reading, Status, Tick, setting
from poolwright.core.sketch import merged, sketch_of
from poolwright.core.window import Window
from poolwright.sim.plant import Plant, PlantShape


def samples_of(plant, seconds, load_rps, *, hide=()):
    """Samples of a plant, without the signals in `hide`; and the true latencies it measured."""
    deriver, found, truth = Deriver(), [], []
    for index in range(seconds):
        seen = plant.tick(load_rps)
        truth += [r.sketch for r in seen if r.signal == "latency_s" and r.sketch]
        kept = tuple(r for r in seen if r.signal not in hide)
        tick = Tick(index=index, mono_ns=round(plant.now_s * 1e9), wall_ns=0, readings=kept)
        found.append(deriver.derive(tick))
    return found, truth


@pytest.mark.parametrize("workers", [4, 5, 6, 9])
def test_estimated_latency_agrees_with_the_truth_also_while_the_pool_is_too_small(workers):
    plant = Plant(PlantShape(), workers, seed=3)
    found, truth = samples_of(plant, 60, 66.0, hide={"latency_s"})
    assert all(s.latency_estimated for s in found if s.latency)
    estimated, true = merged(s.latency for s in found[10:] if s.latency), merged(truth[10:])
    assert estimated.mean == pytest.approx(true.mean, rel=0.12)
    assert estimated.quantile(0.99) == pytest.approx(true.quantile(0.99), rel=0.15)


def test_measured_latency_is_preferred_to_the_estimate():
    found, truth = samples_of(Plant(PlantShape(), 5, seed=3), 20, 60.0)
    assert not any(s.latency_estimated for s in found)
    assert merged(s.latency for s in found if s.latency).count == merged(truth).count


def test_offered_load_counts_the_growing_queue():
    found, _ = samples_of(Plant(PlantShape(), 2, seed=1), 30, 60.0)
    offered = sum(s.load_rps for s in found[1:]) / 29
    done = sum(s.throughput_rps for s in found[1:]) / 29
    assert offered == pytest.approx(60.0, rel=0.1)
    assert done < 40.0


def test_offered_load_is_unknown_while_the_queue_cannot_be_seen():
    broken = Reading(signal="queue_length", source="a", status=Status.ERROR, detail="gone")
    seen = (Reading(signal="throughput_rps", source="a", value=9.0), broken)
    sample = Deriver().derive(Tick(index=0, mono_ns=0, wall_ns=0, readings=seen))
    assert sample.throughput_rps == 9.0
    assert sample.load_rps is None


def test_a_broken_signal_is_missing_and_a_silent_one_is_not_zero():
    tick = Tick(
        index=0,
        mono_ns=0,
        wall_ns=0,
        readings=(
            Reading(signal="throughput_rps", source="a", status=Status.NO_DATA),
            Reading(signal="cpu_cores", source="a", status=Status.ERROR, detail="gone"),
            Reading(signal="memory_bytes", source="a", status=Status.STALE),
            Reading(signal="memory_bytes", source="b", value=5.0),
        ),
    )
    sample = Deriver().derive(tick)
    assert sample.throughput_rps is None
    assert sample.load_rps is None
    assert sample.cpu_cores is None
    assert sample.foreign_cpu_ratio is None
    assert sample.memory_bytes == 5.0
    assert sample.missing == ("cpu_cores",)


def test_a_reading_cannot_claim_to_be_good_and_be_nothing():
    for value in (None, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="reading cpu_cores"):
            Reading(signal="cpu_cores", source="a", value=value)
    with pytest.raises(ValueError, match="reading cpu_cores"):
        Reading(signal="cpu_cores", source="a", value=1.0, status=Status.ERROR)


def test_a_window_gives_quantiles_with_honest_errors():
    """Ninety per cent of windows lie within 1.645 of their own standard errors of the truth."""
    rule = policy()
    _, truth = samples_of(Plant(PlantShape(), 12, seed=100), 600, 60.0)
    true = merged(truth).quantile(0.95)
    within = 0
    for seed in range(80):
        found, _ = samples_of(Plant(PlantShape(), 12, seed=seed), 12, 60.0)
        window = Window(rule, setting(workers=12), 0)
        seen = next(seen for sample in found[5:] if (seen := window.add(sample)) is not None)
        estimate = seen.response("latency_p95_s")
        within += abs(estimate.mean - true) <= 1.645 * estimate.std + 0.02 * true
    assert within >= 66


def test_a_window_without_requests_says_nothing_of_latency_or_errors():
    window = Window(policy(), setting(workers=4), 0)
    seen, deriver = None, Deriver()
    for index in range(60):
        tick = Tick(index=index, mono_ns=index * 10**9, wall_ns=0, readings=readings(rps=0.0))
        seen = window.add(deriver.derive(tick)) or seen
    assert seen is not None
    assert seen.response("latency_p99_s") is None
    assert seen.response("error_ratio") is None
    assert seen.response("throughput_rps").mean == 0.0


def test_a_pool_with_idle_workers_is_app_limited():
    for workers, limited in ((24, True), (4, False)):
        plant = Plant(PlantShape(), workers, seed=1)
        found, _ = samples_of(plant, 30, 60.0)
        window, seen = Window(policy(), setting(workers=workers), 0), None
        for sample in found[1:]:
            seen = seen or window.add(sample)
        assert seen.app_limited is limited


def test_an_empty_sketch_has_no_quantile():
    with pytest.raises(ValueError, match="no quantile"):
        sketch_of([]).quantile(0.5)


def test_busy_workers_that_are_counted_are_preferred_to_littles_law():
    seen = Plant(PlantShape(), 5, seed=3).tick(60.0)
    counted = Reading(signal="in_flight", source="t", value=3.5)
    by_law, by_count = (
        Deriver().derive(Tick(index=0, mono_ns=0, wall_ns=0, readings=found)).in_flight
        for found in (seen, (*seen, counted))
    )
    assert by_law not in {None, 3.5}
    assert by_count == 3.5


@pytest.mark.parametrize("first", [0, 1], ids=["the mean first", "the distribution first"])
def test_a_distribution_goes_before_a_mean(first):
    sketch = sketch_of([0.1, 0.2, 0.3])
    both = (
        Reading(signal="service_time_s", source="mean", value=0.9),
        Reading(signal="service_time_s", source="log", value=sketch.mean, sketch=sketch),
    )
    seen = (*readings(latency_s=None), *(both if first == 0 else both[::-1]))
    found = Deriver().derive(Tick(index=0, mono_ns=1, wall_ns=0, readings=seen))
    assert found.service_time == sketch
