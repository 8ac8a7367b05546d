"""What the service gives, promises and is expected to give, under the same names three times."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric

from poolwright.core.model import Estimate, Responses
from poolwright.core.signals import quantile_of
from poolwright.engine.snapshot import PoolSnapshot
from poolwright.surface.counted import Counted
from poolwright.surface.family import Number, family

# response -> metric stem with the base unit; latency has its quantile as a label
_STEMS: dict[str, str] = {
    "throughput_rps": "throughput_requests_per_second",
    "jitter_s": "jitter_seconds",
    "power_w": "power_watts",
    "cpu_cores": "cpu_cores",
    "memory_bytes": "memory_bytes",
    "error_ratio": "error_ratio",
    "cost_per_hour": "cost_per_hour",
}


def families(pools: tuple[PoolSnapshot, ...], counted: Mapping[str, Counted]) -> Iterator[Metric]:
    """All of them; one without a sample says nothing."""
    expected = [(pool.pool, predictions(pool)) for pool in pools]
    text = "by the plan in force at the applied setting and the present load."
    yield from _told("predicted", f"Expected {text}", expected, lambda e: e.mean)
    text = f"Standard error of what is expected {text}"
    yield from _told("prediction_error", text, expected, lambda e: e.std)
    seen = [(pool, counts.observation) for pool, counts in counted.items()]
    windows = [(pool, window.responses) for pool, window in seen if window is not None]
    text = "in the newest window that has closed."
    yield from _told("measured", f"Measured {text}", windows, lambda e: e.mean)
    text = f"Standard error of what was measured {text}"
    yield from _told("measurement_error", text, windows, lambda e: e.std)
    bounds = [
        (p.pool, tuple((s.response, Estimate(mean=s.below, std=0.0)) for s in p.policy.slo))
        for p in pools
    ]
    yield from _told("slo", "What the policy promises it is below.", bounds, lambda e: e.mean)
    calibration = [
        ({"pool": p.pool, "response": response}, share)
        for p in pools
        if p.plan is not None
        for response, share in p.plan.calibration
    ]
    text = "Share of the evidence that lies in the 90 % interval of the plan: 0.9 is right."
    yield family("gauge", "calibration_ratio", text, calibration)


def predictions(pool: PoolSnapshot) -> Responses:
    """What the plan expects at the applied setting; empty when it says nothing about it.

    The schedule's bin of the present load comes first, for it was judged at that load; else the
    candidate, judged at the load of the fit.
    """
    if pool.plan is None or pool.tick.applied is None:
        return ()
    here, load = pool.tick.applied.setting, pool.sample.load_rps
    for row in pool.plan.schedule:
        inside = load is not None and row.load_lower_rps <= load < row.load_upper_rps
        if inside and row.setting == here:
            return row.predictions
    return next((c.predictions for c in pool.plan.candidates if c.setting == here), ())


def _told(
    what: str,
    text: str,
    found: list[tuple[str, Responses]],
    number: Callable[[Estimate], float],
) -> Iterator[Metric]:
    """A family for each response: `poolwright_<what>_<stem>`."""
    rows: dict[str, list[tuple[dict[str, str], Number]]] = {}
    for pool, responses in found:
        for response, estimate in responses:
            stem, labels = _named(response)
            if stem:
                rows.setdefault(stem, []).append(({"pool": pool, **labels}, number(estimate)))
    for stem, numbers in rows.items():
        yield family("gauge", f"{what}_{stem}", text, numbers)


def _named(response: str) -> tuple[str, dict[str, str]]:
    """Metric stem and further labels; an empty stem for a response that has no metric.

    `quantile` is a label that belongs to summaries, hence `percentile`.
    """
    quantile = quantile_of(response)
    if quantile is not None:
        return "latency_seconds", {"percentile": f"{quantile * 100:.6g}"}
    return _STEMS.get(response, ""), {}
