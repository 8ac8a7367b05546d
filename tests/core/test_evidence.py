"""Evidence stays small and keeps what matters; drift is found in latency and in CPU a request."""

from dataclasses import replace

import pytest
from ticks import plan

from poolwright.core.evidence import CAPACITY, RECENT, EvidenceStore
from poolwright.core.model import Context, Estimate, Observation, setting
from poolwright.core.regime import Regime


def seen(workers, tick, *, load=50.0, latency=0.1, breached=False, foreign=0.0, cpu=1.0):
    return Observation(
        setting=setting(workers=workers),
        opened_tick=tick,
        closed_tick=tick + 5,
        span_s=5.0,
        sample_count=100,
        context=Context(load_rps=load, foreign_cpu_ratio=foreign),
        responses=(
            ("cpu_cores", Estimate(mean=cpu, std=0.01)),
            ("latency_p99_s", Estimate(mean=latency, std=0.01)),
        ),
        app_limited=False,
        breached=breached,
    )


def test_thousands_of_windows_are_a_few_weighted_points():
    """Twelve loads at four settings, 6,000 windows: as many items as there are cells."""
    store = EvidenceStore()
    for k in range(6_000):
        store.add(seen(4 + k % 4, 5 * k, load=20.0 * 1.25 ** (k // 4 % 12)))
    assert len(store) == CAPACITY
    merged = store.items[: len(store) - RECENT]
    assert max(item.weight for item in merged) == 8.0
    assert {item.observation.setting["workers"] for item in merged} == {4, 5, 6, 7}


def test_what_fits_is_left_as_it_was():
    store = EvidenceStore()
    for k in range(CAPACITY):
        store.add(seen(4, 5 * k))
    assert [item.observation for item in store.items] == [seen(4, 5 * k) for k in range(CAPACITY)]


def test_merged_windows_weigh_as_much_as_they_did_together():
    store = EvidenceStore()
    for k, latency in enumerate([0.1, 0.2, 0.3] + [0.5] * (CAPACITY - 1)):
        loads = 50.0 if k < 3 else 20.0 * 1.3 ** (k % 40)
        store.add(seen(4, 5 * k, latency=latency, load=loads), weight=0.5 if k == 0 else 1.0)
    first, *rest = store.items
    assert len(store) == CAPACITY
    assert first.weight == 2.5
    assert first.observation.response("latency_p99_s").mean == pytest.approx(0.55 / 2.5)
    assert first.observation.sample_count == 300
    assert first.observation.closed_tick == 15
    assert [item.weight for item in rest] == [1.0] * (CAPACITY - 1)


@pytest.mark.parametrize("change", [{"load": 80.0}, {"foreign": 0.5}, {"breached": True}])
def test_what_differs_is_not_merged(change):
    store = EvidenceStore()
    for k in range(CAPACITY + 10):
        store.add(seen(4, 5 * k, **(change if k % 2 else {})))
    first = store.items[0].observation
    others = [item for item in store.items if item.observation.closed_tick > 100]
    assert sum(item.weight for item in store.items) == CAPACITY + 10
    assert {o.observation.context for o in others} == {
        seen(4, 0).context,
        seen(4, 0, **change).context,
    }
    assert first.response("latency_p99_s").mean == pytest.approx(0.1)


def test_the_edge_of_the_safe_set_outlives_everything_in_the_middle():
    """One breach at 2 workers and one calm window at 30, then months at 8 under every load."""
    store = EvidenceStore()
    store.add(seen(2, 0, breached=True))
    store.add(seen(30, 5, load=400.0))
    for k in range(6_000):
        store.add(seen(8, 10 + 5 * k, load=10.0 * 1.12 ** (k % 30), foreign=0.1 * (k % 7)))
    assert len(store) == CAPACITY
    kept = {item.observation.setting["workers"] for item in store.items}
    assert kept == {2, 8, 30}
    assert store.last_safe(400.0) == setting(workers=30)
    assert next(
        i for i in store.items if i.observation.setting["workers"] == 2
    ).observation.breached


def believed(cpu):
    """A plan that expects 150 ms and so many cores at 50 rps."""
    made = plan(1, 4)
    guesses = (
        ("cpu_cores", Estimate(mean=cpu, std=0.05 * cpu)),
        ("latency_p99_s", Estimate(mean=0.15, std=0.015)),
    )
    return replace(made, candidates=tuple(replace(c, predictions=guesses) for c in made.candidates))


def windows_until_drift(expects, **shown):
    regime = Regime()
    for k in range(40):
        found = regime.innovations(seen(4, 5 * k, **{"latency": 0.15, **shown}), expects)
        changed = regime.drifted(found)
        if changed:
            return k + 1, changed
    return None, ""


def test_drift_is_found_in_each_watched_response_and_named():
    windows, what = windows_until_drift(believed(1.0), cpu=1.5)
    assert what == "CPU per request"
    assert windows <= 6
    windows, what = windows_until_drift(believed(1.0), latency=0.3)
    assert what == "latency"
    assert windows <= 5


def test_cpu_follows_the_load_and_that_is_no_drift():
    assert windows_until_drift(believed(1.0), load=56.0, cpu=1.12) == (None, "")
    assert windows_until_drift(believed(1.0), load=90.0, cpu=3.0) == (None, ""), "another load"


def test_the_latency_of_a_growing_queue_is_no_drift():
    regime = Regime()
    expects = believed(1.0)
    for k in range(40):
        late = replace(
            seen(4, 5 * k, latency=0.1 * (k + 3)),
            responses=(
                ("latency_p99_s", Estimate(mean=0.1 * (k + 3), std=0.01)),
                ("throughput_rps", Estimate(mean=40.0, std=0.5)),
            ),
        )
        assert not regime.drifted(regime.innovations(late, expects))
