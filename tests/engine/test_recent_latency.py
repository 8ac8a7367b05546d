"""What is published: latency over the last ten seconds."""

from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.sample import Sample
from poolwright.core.sketch import merged, sketch_of
from poolwright.engine.snapshot import RecentLatency

TICKS = st.lists(
    st.tuples(st.floats(0.1, 4.0), st.lists(st.floats(1e-4, 10.0), max_size=8)),
    min_size=1,
    max_size=40,
)


@given(TICKS)
def test_the_last_ten_seconds_are_those_of_the_ticks_that_are_kept(ticks):
    recent = RecentLatency()
    kept = []
    for n, (dt_s, values) in enumerate(ticks):
        sketch = sketch_of(values) if values else None
        recent.see(Sample(tick=n, dt_s=dt_s, latency=sketch))
        seen = recent.summary()
        kept.append((dt_s, sketch))
        while sum(dt for dt, _ in kept) > 10.0 + 1e-9 and len(kept) > 1:
            kept.pop(0)
        whole = merged(s for _, s in kept if s is not None)
        assert seen.count == whole.count
        if whole.count:
            assert seen.p99_s == whole.quantile(0.99)
            assert abs(seen.jitter_s - whole.std) <= 1e-9 + 1e-6 * whole.std
