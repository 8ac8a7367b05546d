"""Latencies of one window stray together: a slow window is told from a slow setting."""

from dataclasses import replace

import numpy as np
import pytest
from learn_loop import policy, request
from test_make_plan import windows

from poolwright.core.model import Estimate, setting
from poolwright.learn.points import tabulate
from poolwright.learn.surrogate import build

LEVELS = [6, 7, 8, 9, 8, 7, 10, 8, 9, 7, 8, 6]
LATENCIES = ("latency_p50_s", "latency_p95_s", "latency_p99_s", "jitter_s")


def slowed(evidence, factors, names=LATENCIES):
    """The same windows, with what `names` showed multiplied by one factor each."""
    return [
        replace(
            item,
            observation=replace(
                item.observation,
                responses=tuple(
                    (name, Estimate(mean=f * seen.mean, std=f * seen.std, count=seen.count))
                    if name in names
                    else (name, seen)
                    for name, seen in item.observation.responses
                ),
            ),
        )
        for item, f in zip(evidence, factors, strict=True)
    ]


def fitted(evidence):
    asked = request(evidence, setting(workers=8), policy=policy())
    return build(tabulate(asked), asked.policy)


def p99_at(surrogate, workers):
    points = surrogate.table.context_points(np.array([[float(workers)]]), 80.0, 0.0)
    seen = surrogate.predict(points, ("latency_p99_s",))["latency_p99_s"]
    return float(np.exp(seen.mean[0])), float(seen.std[0])


@pytest.mark.parametrize("seed", range(4))
def test_noise_that_all_quantiles_share_is_not_the_tails_own(seed):
    rng = np.random.default_rng(seed)
    plain = windows(LEVELS, seed=seed)
    noisy = fitted(slowed(plain, np.exp(0.15 * rng.normal(size=len(LEVELS)))))
    tail, median = noisy.nodes["latency_p99_s"], noisy.nodes["latency_p50_s"]
    assert tail.fit.noise < median.fit.noise
    assert tail.belief("together") == pytest.approx(1.0, abs=0.3)


def test_a_window_in_which_all_was_slow_hardly_moves_the_tail():
    plain = windows(LEVELS)
    slow = [2.0 if k == 8 else 1.0 for k in range(len(LEVELS))]  # one of two windows of 9 workers
    before, _ = p99_at(fitted(plain), 9)
    together, _ = p99_at(fitted(slowed(plain, slow)), 9)
    assert together == pytest.approx(before, rel=0.15)


def test_a_tail_that_is_slow_at_one_setting_alone_is_the_settings():
    plain = windows(LEVELS)
    slow = [1.6 if workers == 9 else 1.0 for workers in LEVELS]
    before, _ = p99_at(fitted(plain), 9)
    alone, _ = p99_at(fitted(slowed(plain, slow, LATENCIES[2:])), 9)
    assert alone > 1.2 * before


def test_what_a_fresh_window_may_show_counts_the_shared_noise():
    rng = np.random.default_rng(3)
    noisy = fitted(slowed(windows(LEVELS), np.exp(0.15 * rng.normal(size=len(LEVELS)))))
    points = noisy.table.points[:1]
    posterior = noisy.predict(points, ("latency_p99_s",))["latency_p99_s"]
    own = noisy.nodes["latency_p99_s"].fit.noise
    shared = noisy.nodes["latency_p50_s"].fit.noise
    assert noisy.noise("latency_p99_s", posterior)[0] > np.hypot(own, 0.7 * shared)


def test_where_the_median_was_not_measured_the_tail_stands_alone():
    rows = windows(LEVELS)
    half = [
        replace(
            item,
            observation=replace(
                item.observation,
                responses=tuple(
                    r for r in item.observation.responses if k % 2 or r[0] != "latency_p50_s"
                ),
            ),
        )
        for k, item in enumerate(rows)
    ]
    known, unknown = p99_at(fitted(rows), 8), p99_at(fitted(half), 8)
    assert unknown[0] == pytest.approx(known[0], rel=0.15)
    assert unknown[1] >= known[1]
