"""`core.sketch` sketches of many values at once."""

import numpy as np

from poolwright.core.sketch import GAMMA, Sketch, sketch_of

_FEW = 32  # below, the plain builder is as fast
_SMALLEST = 1e-9  # as in core.sketch: below it a value counts as zero
_LOG_GAMMA = np.log(GAMMA)


def sketch_array(values: list[float]) -> Sketch:
    """What `core.sketch.sketch_of` gives, sums included to the last bit; and as ValueErrors."""
    if len(values) < _FEW:
        return sketch_of(values)
    array = np.array(values)
    if not (array.min() >= 0.0 and array.max() < np.inf):
        raise ValueError("a sketch holds finite values of at least zero")
    positive = array[array >= _SMALLEST]
    if not len(positive):
        return Sketch(zeros=len(values))
    index = np.ceil(np.log(positive) / _LOG_GAMMA).astype(np.int64)
    lowest = int(index.min())
    counts = np.bincount(index - lowest)
    used = np.flatnonzero(counts)
    return Sketch(
        bins=tuple(zip((used + lowest).tolist(), counts[used].tolist(), strict=True)),
        zeros=len(values) - len(positive),
        total=float(positive.cumsum()[-1]),  # one after the other: sum() adds in pairs
        total_squares=float((positive * positive).cumsum()[-1]),
    )
