"""`core.sketch` sketches of many values at once."""

import math
from collections import Counter

import numpy as np

from poolwright.core.sketch import GAMMA, Sketch, sketch_of

_FEW = 32  # below, the plain builder is as fast
_SMALLEST = 1e-9  # as in core.sketch: below it a value counts as zero
_LOG_GAMMA = np.log(GAMMA)


def sketch_array(values: list[float]) -> Sketch:
    """What `core.sketch.sketch_of` gives, sums included to the last bit; and as ValueErrors."""
    if len(values) < _FEW:
        return sketch_of(values)
    low, high = min(values), max(values)
    if not (low >= 0.0 and high < math.inf) or math.isnan(sum(values)):
        raise ValueError("a sketch holds finite values of at least zero")
    array = np.array(values)
    if low < _SMALLEST:
        array = array[array >= _SMALLEST]
        if not len(array):
            return Sketch(zeros=len(values))
    index = np.ceil(np.log(array) / _LOG_GAMMA).astype(np.int64)
    return Sketch(
        bins=tuple(sorted(Counter(index.tolist()).items())),
        zeros=len(values) - len(array),
        total=float(array.cumsum()[-1]),  # one after the other: sum() adds in pairs
        total_squares=float((array * array).cumsum()[-1]),
    )
