"""All responses of one pool, fitted: the dependency graph, and back to natural units.

(levels, load, foreign CPU) -> capacity -> throughput, latency quantiles -> jitter as a ratio of
latency; cpu_cores, power_w, error_ratio and memory_bytes from levels and load. The belief about
capacity is handed on: throughput's posterior is the primary latency's prior, and the primary
latency's is that of the other quantiles, so what overload showed of capacity serves all.
"""

from dataclasses import dataclass

import numpy as np

from poolwright.core.model import Estimate
from poolwright.core.policy import Policy
from poolwright.core.signals import quantile_of
from poolwright.learn.linear import linear_spec, memory_spec
from poolwright.learn.points import Array, Mask, Points, Table
from poolwright.learn.queueing import CapacityPrior, capacity, latency_spec, throughput_spec
from poolwright.learn.residual import Node, Posterior, Rows, fit

_DISCOUNT = 2.0  # on the standard deviations of a belief about capacity that is handed on
_ERROR_SHARE = 0.1  # of an error-ratio bound: below it one error ratio is as good as another
_LOG_RANGE = 8.0  # e^8 times the largest value seen is as bad as anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """Fitted nodes by response, and the constants of their transforms."""

    nodes: dict[str, Node]
    rows: dict[str, Rows]
    primary: str | None  # the latency quantile that jitter is a ratio of
    memory_unit: float
    error_floor: float
    ceiling: dict[str, float]  # in natural units, for what is extrapolated wildly

    def predict(self, points: Points, responses: tuple[str, ...]) -> dict[str, Posterior]:
        """Posteriors in transformed space of `responses` and of what they depend on."""
        wanted = set(responses)
        if "jitter_s" in wanted and self.primary is not None:
            wanted.add(self.primary)
        return {name: self.nodes[name].predict(points) for name in self.nodes if name in wanted}

    def natural(self, response: str, values: Array, load: Array, latency: Array | None) -> Array:
        """Transformed values (..., n) in natural units; jitter needs the primary latency."""
        if response == "memory_bytes":
            return np.asarray(values * self.memory_unit)
        top = np.log(self.ceiling[response])
        if response == "error_ratio":
            clipped = np.clip(np.exp(np.minimum(values, 0.0)) - self.error_floor, 0.0, 1.0)
            return np.asarray(clipped)
        if response == "throughput_rps":
            return np.asarray(load * np.exp(np.minimum(values, 0.5)))
        if response == "jitter_s":
            assert latency is not None
            return np.asarray(
                np.minimum(latency * np.exp(np.clip(values, -20.0, 3.0)), np.exp(top))
            )
        return np.asarray(np.exp(np.minimum(values, top)))

    def bound(self, response: str, below: float) -> float:
        """An SLO's bound in transformed space. ValueError for a response that cannot have one."""
        if response == "jitter_s" or quantile_of(response) is not None:
            return float(np.log(below))
        if response == "error_ratio":
            return float(np.log(below + self.error_floor))
        raise ValueError(
            f"an SLO is on a latency quantile, jitter or the error ratio, not on {response}"
        )

    def estimates(
        self, points: Points, posteriors: dict[str, Posterior]
    ) -> list[tuple[tuple[str, Estimate], ...]]:
        """What a fresh window would show at each point: median, and std without its own
        sampling error, in natural units.
        """
        columns: dict[str, tuple[Array, Array]] = {}
        for name, posterior in posteriors.items():
            std = np.sqrt(posterior.std**2 + self.nodes[name].noise ** 2)
            middle, latency = posterior.mean, None
            if name == "jitter_s" and self.primary is not None:
                base = posteriors[self.primary]
                latency = self.natural(self.primary, base.mean, points.load, None)
                std = np.sqrt(std**2 + base.std**2)
            value = self.natural(name, middle, points.load, latency)
            if name == "memory_bytes":
                columns[name] = value, std * self.memory_unit
            else:
                shifted = value + (self.error_floor if name == "error_ratio" else 0.0)
                columns[name] = value, shifted * np.expm1(np.minimum(std, 3.0))
        return [
            tuple(
                (name, Estimate(mean=short(value[row]), std=short(std[row])))
                for name, (value, std) in sorted(columns.items())
            )
            for row in range(len(points))
        ]


def short(value: float) -> float:
    """Six significant digits: a plan is journalled, and knows no more than that."""
    return float(f"{float(value):.6g}")


def latencies(table: Table) -> list[str]:
    """The latency quantiles that were seen, ascending."""
    known = {name: q for name in table.mean if (q := quantile_of(name)) and table.seen(name)}
    return sorted(known, key=lambda name: known[name])


def primary_latency(policy: Policy, table: Table) -> str | None:
    """The quantile under an SLO, else the one in the objective, else the highest that was seen."""
    slos = [slo.response for slo in policy.slo]
    weighted = [name for name, weight in policy.objective if weight > 0.0]
    known = latencies(table)
    for names in (slos, weighted, known):
        seen = [name for name in known if name in names]
        if seen:
            return seen[-1]
    return None


def oldest_median(table: Table, response: str) -> float | None:
    """The median of `response` at the oldest setting that has it; None when nothing has."""
    if not table.seen(response):
        return None
    values = table.mean[response]
    levels = table.points.levels
    first = levels[int(np.argmax(np.isfinite(values)))]
    return float(np.nanmedian(values[np.all(levels == first, axis=1)]))


def _rows(table: Table, value: Array, error: Array, use: Mask) -> Rows:
    return Rows(
        points=table.points[use],
        value=value[use],
        error=error[use],
        weight=table.weight[use],
        idle=table.idle[use],
    )


def _log_rows(table: Table, name: str, floor: float = 0.0) -> Rows | None:
    """Rows of log(value + floor) by the delta method; None when there is none."""
    if name not in table.mean:
        return None
    value, std = table.mean[name] + floor, table.std[name]
    use = np.isfinite(value) & (value > 0.0)
    if not use.any():
        return None
    safe = np.where(use, value, 1.0)
    return _rows(table, np.log(safe), np.where(use, std / safe, 0.0), use)


def _capacity_prior(table: Table, upper: float) -> CapacityPrior:
    """Gamma from the lower quartile of the lowest quantile seen and from what was completed."""
    c0 = float(table.points[:1].concurrency[0])
    guesses = [float(np.log(np.max(table.points.load / table.points.concurrency)))]
    for name, tail in (("latency_p50_s", 0.0), ("latency_p95_s", 0.5), ("latency_p99_s", 0.7)):
        rows = _log_rows(table, name)
        if rows is not None:
            guesses = [float(tail - np.quantile(rows.value, 0.25))]
            break
    if table.seen("throughput_rps"):
        done = np.nanmax(table.mean["throughput_rps"] / table.points.concurrency)
        guesses.append(float(np.log(max(done, 1e-9))))
    peak = max(min(upper, max(2.0 * c0, 0.4 * upper)), 2.0)
    return CapacityPrior(
        mean=np.array([max(guesses), np.log(0.02), np.log(peak)]),
        cov=np.diag([0.6, 1.0, 0.7]) ** 2,
    )


def _service_guess(table: Table, latency: Rows, quantile: float) -> float:
    """Log of a quantile of the service time: no more than the lower quartile of the latencies.

    Nor more than what the workers had to spare: utilisation is at most 1, so the mean service
    time is at most c / throughput; its quantile is taken as if it were exponential. That bound
    is what tells a slow service from a queue when every window was in overload.
    """
    guess = float(np.quantile(latency.value, 0.25))
    done = table.mean.get("throughput_rps", np.full(len(table.points), np.nan))
    busy = np.isfinite(done) & (done > 0.0)
    if busy.any():
        spare = float(np.min(np.log(table.points.concurrency[busy] / done[busy])))
        guess = min(guess, spare + float(np.log(max(-np.log(1.0 - quantile), 1.0))))
    return guess


def _handed_on(node: Node) -> CapacityPrior:
    return CapacityPrior(mean=node.theta[:3], cov=node.theta_cov[:3, :3] * _DISCOUNT**2)


def _throughput_rows(table: Table) -> Rows | None:
    """log(throughput / load). A window that was idle says nothing: its capacity was not used."""
    if not table.seen("throughput_rps"):
        return None
    done, std = table.mean["throughput_rps"], table.std["throughput_rps"]
    use = np.isfinite(done) & (table.points.load > table.load_floor)
    if not use.any():
        return None
    floor = np.maximum(np.where(use, done, 1.0), 1e-3 * table.points.load)
    value = np.log(floor / table.points.load)
    return _rows(table, value, np.where(use, std / floor, 0.0), use)


def _fit_flow(
    table: Table, policy: Policy, primary: str | None, nodes: dict[str, Node], rows: dict[str, Rows]
) -> None:
    """Throughput and latency: everything that hangs on capacity."""
    c0 = float(table.points[:1].concurrency[0])
    upper = float(np.prod([max(knob.upper, 1) for knob in policy.knobs]))
    prior = _capacity_prior(table, upper)
    through = _throughput_rows(table)
    if through is not None:
        rows["throughput_rps"] = through
        nodes["throughput_rps"] = node = fit(throughput_spec(prior), through)
        prior = CapacityPrior(mean=node.theta, cov=node.theta_cov)
    first = [] if primary is None else [primary]
    for name in (*first, *(n for n in latencies(table) if n != primary)):
        latency = _log_rows(table, name)
        if latency is None:
            continue
        quantile = quantile_of(name)
        assert quantile is not None
        service = _service_guess(table, latency, quantile)
        rows[name] = latency
        nodes[name] = node = fit(latency_spec(prior, service, quantile, c0), latency)
        if name == primary:
            prior = _handed_on(node)


def _fit_rest(
    table: Table,
    primary: str | None,
    floor: float,
    unit: float,
    nodes: dict[str, Node],
    rows: dict[str, Rows],
) -> None:
    """Jitter, power, CPU, errors and memory."""
    origin, load = table.points.levels[0], float(table.points.load[0])
    for name in ("jitter_s", "power_w", "cpu_cores", "error_ratio", "cost_per_hour"):
        seen = _log_rows(table, name, floor if name == "error_ratio" else 0.0)
        if seen is not None and name == "jitter_s":
            seen = _jitter_rows(table, primary)
        if seen is None:
            continue
        rows[name] = seen
        nodes[name] = fit(linear_spec(name, float(seen.value[0]), origin, load), seen)
    if table.seen("memory_bytes"):
        value, std = table.mean["memory_bytes"] / unit, table.std["memory_bytes"] / unit
        rows["memory_bytes"] = seen = _rows(table, value, std, np.isfinite(value))
        nodes["memory_bytes"] = fit(memory_spec(origin), seen)


def _jitter_rows(table: Table, primary: str | None) -> Rows | None:
    """log(jitter / primary latency), where both were seen."""
    if primary is None:
        return None
    jitter, latency = table.mean["jitter_s"], table.mean[primary]
    use = np.isfinite(jitter) & (jitter > 0.0) & np.isfinite(latency) & (latency > 0.0)
    if not use.any():
        return None
    top, bottom = np.where(use, jitter, 1.0), np.where(use, latency, 1.0)
    error = np.where(use, table.std["jitter_s"] / top, 0.0)
    return _rows(table, np.log(top / bottom), error, use)


def build(table: Table, policy: Policy) -> Surrogate:
    """Fit every response that was seen."""
    primary = primary_latency(policy, table)
    bounds = [slo.below for slo in policy.slo if slo.response == "error_ratio"]
    floor = _ERROR_SHARE * min(bounds, default=0.01)
    unit = max(oldest_median(table, "memory_bytes") or 1.0, 1.0)
    nodes: dict[str, Node] = {}
    rows: dict[str, Rows] = {}
    _fit_flow(table, policy, primary, nodes, rows)
    _fit_rest(table, primary, floor, unit, nodes, rows)
    return Surrogate(
        nodes=nodes,
        rows=rows,
        primary=primary,
        memory_unit=unit,
        error_floor=floor,
        ceiling={
            name: float(np.nanmax(table.mean[name])) * float(np.exp(_LOG_RANGE)) + 1e-9
            for name in nodes
        },
    )


def beliefs(surrogate: Surrogate, now: Points) -> tuple[tuple[str, float], ...]:
    """Named parameters in natural units; `now` is the incumbent at the present load."""
    found: dict[str, float] = {}
    source = surrogate.primary or "throughput_rps"
    if source in surrogate.nodes:
        node = surrogate.nodes[source]
        room = float(capacity(node.theta[None, :], now)[0, 0])
        found["capacity_per_worker_rps"] = float(np.exp(node.belief("log_gamma")))
        found["contention_alpha"] = float(np.exp(node.belief("log_alpha")))
        found["peak_workers"] = float(np.exp(node.belief("log_peak")))
        found["capacity_rps"] = room
        found["utilisation"] = float(now.load[0]) / room
    for name in surrogate.nodes:
        if quantile_of(name) is not None:
            node = surrogate.nodes[name]
            found[f"service_{name.removeprefix('latency_')}"] = float(
                np.exp(node.belief("log_service"))
            )
    for name, node in surrogate.nodes.items():
        found[f"noise_{name}"] = node.noise
    return tuple((name, short(value)) for name, value in sorted(found.items()))


def calibration(surrogate: Surrogate) -> tuple[tuple[str, float], ...]:
    """Share of each response's evidence inside its 90 % predictive interval (nothing left out)."""
    shares = []
    for name, rows in sorted(surrogate.rows.items()):
        node = surrogate.nodes[name]
        seen = node.predict(rows.points)
        std = np.sqrt(seen.std**2 + node.noise**2 + rows.error**2)
        inside = np.abs(rows.value - seen.mean) <= 1.6449 * std
        shares.append((name, short(float(np.mean(inside)))))
    return tuple(shares)
