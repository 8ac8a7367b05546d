"""The fit of one response: what outliers may do to its noise, and what its tail says."""

import numpy as np
import pytest

from poolwright.learn.points import Points
from poolwright.learn.residual import Prior, Rows, fit, kernel

AMPLITUDES, NOISES = (0.1, 0.2, 0.35), (0.02, 0.04, 0.07, 0.11, 0.17, 0.26)


def fitted(values):
    """A constant, seen at one setting again and again."""
    n = len(values)
    octaves = np.full((n, 1), 5.0)
    points = Points(
        levels=np.exp2(octaves), places=octaves, load=np.full(n, 50.0), foreign=np.zeros(n)
    )
    rows = Rows(
        points=points,
        value=np.asarray(values, dtype=float),
        error=np.full(n, 0.01),
        weight=np.ones(n),
        bound=np.zeros(n),
        idle=np.zeros(n, dtype=bool),
        kernel=kernel(points, points),
    )
    prior = Prior(names=("level",), mean=np.zeros(1), cov=np.eye(1))
    return fit(
        lambda theta, at: np.repeat(theta[:, :1], len(at), axis=1), prior, rows, AMPLITUDES, NOISES
    )


def draws(noise, n=24, seed=0):
    return np.random.default_rng(seed).normal(0.0, noise, n)


def test_one_outlier_of_ten_is_no_noise_of_all():
    values = draws(0.07, 10)
    assert fitted(values).noise <= 0.11
    values[4] += 1.0
    assert fitted(values).noise <= 0.11


def test_noise_that_all_have_is_not_taken_for_outliers():
    assert fitted(draws(0.25)).noise >= 0.17


@pytest.mark.parametrize("heavy", [True, False], ids=["Student's t", "normal"])
@pytest.mark.parametrize("seed", range(3))
def test_the_interval_holds_nine_of_ten_of_fresh_windows(seed, heavy):
    """What is believed of the level itself is next to exact after sixty windows."""
    rng = np.random.default_rng([5, seed])

    def windows(n):
        return 0.07 * (rng.standard_t(3, n) if heavy else rng.normal(size=n))

    made = fitted(windows(60))
    inside = np.mean(np.abs(windows(4000) - made.theta[0]) <= 1.645 * made.tail * made.noise)
    assert 0.85 <= inside <= 0.95
