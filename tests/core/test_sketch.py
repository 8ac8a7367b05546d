"""The two questions that are asked every tick have quick answers; these are the slow ones."""

from hypothesis import given
from hypothesis import strategies as st

from poolwright.core.sketch import bucket_value, sketch_of

VALUES = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e4)), max_size=80)
EDGES = st.one_of(st.floats(-1.0, 1e5), st.integers(-1100, 500).map(bucket_value))


@given(VALUES, EDGES)
def test_what_exceeds_a_threshold_is_counted_bucket_by_bucket(values, threshold):
    sketch = sketch_of(values)
    slowly = sum(n for index, n in sketch.bins if bucket_value(index) > threshold)
    assert sketch.above(threshold) == slowly


@given(VALUES.filter(bool), st.floats(0.0, 1.0))
def test_a_quantile_is_the_bucket_in_which_its_rank_falls(values, q):
    sketch = sketch_of(values)
    in_order = [0.0] * sketch.zeros
    for index, n in sketch.bins:
        in_order += [bucket_value(index)] * n
    assert sketch.quantile(q) == in_order[int(q * (sketch.count - 1))]
