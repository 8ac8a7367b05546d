"""The graph of declared responses, fitted: posteriors at any points, and back to natural units.

Nodes are fitted one by one, parents first, each to what was measured of it and of its parents.
Predictions go the same way: a parent's posterior mean enters its child's mean, and by the slope
there its deviations enter the child's draws, so that one draw is one consistent world.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from poolwright.core.model import Estimate
from poolwright.core.policy import Policy
from poolwright.learn.declare import (
    At,
    Graph,
    Model,
    Scale,
    Seen,
    Values,
    installed,
    ordered,
)
from poolwright.learn.flow import capacity
from poolwright.learn.points import Array, Mask, Points, Table
from poolwright.learn.residual import Fit, Prior, Rows, fit, kernel, linearise, whiten
from poolwright.learn.responses import primary_latency, shipped

DRAWS = 64
_STEP = 1e-3  # of a parent's deviation, for its slope


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """A response at some points, in model space: what is its own, and what its parents bring.

    `std` is of the whole, `own` of the node's own part; `slopes` say how the mean follows parents.
    """

    points: Points
    mean: Array
    std: Array
    own: Array
    slopes: dict[str, Array]
    power: float  # the kernel's amplitude, squared
    white: Array
    rest: Array
    carried: Array

    def covariance(self, row: int) -> Array:
        """(n,) of the own part, with that of one of the points."""
        prior = self.power * kernel(self.points, self.points[np.array([row])])[:, 0]
        return np.asarray(prior - self.white.T @ self.white[:, row] + self.carried @ self.rest[row])


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A model, its fit, and the rows that it was fitted to."""

    model: Model
    scale: Scale
    fit: Fit
    rows: Rows
    used: Mask  # of the table's rows
    most: float  # the largest value seen, natural units
    origins: dict[str, float]  # of its parents

    def values(self, theta: Array) -> Values:
        """Parameters by name, (m, 1) each."""
        names = self.fit.prior.names
        return Values(**{name: theta[:, k : k + 1] for k, name in enumerate(names)})

    def belief(self, name: str) -> float | None:
        """The MAP value of one parameter."""
        names = self.fit.prior.names
        return float(self.fit.theta[names.index(name)]) if name in names else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """Fitted nodes by response, parents first."""

    table: Table
    nodes: dict[str, Node]
    primary: str | None  # the latency quantile that stands for latency

    def family(self, responses: Iterable[str]) -> tuple[str, ...]:
        """`responses` and what they depend on, parents first; those never seen are left out."""
        wanted = set(responses)
        for name in reversed(self.nodes):
            if name in wanted:
                wanted |= set(self.nodes[name].model.parents)
        return tuple(name for name in self.nodes if name in wanted)

    def means(self, points: Points, responses: Iterable[str]) -> dict[str, Array]:
        """Posterior means alone, in model space: cheap."""
        cross = kernel(self.table.points, points)
        found: dict[str, Array] = {}
        for name in self.family(responses):
            node = self.nodes[name]
            at = self.at(node, points, found)
            mean = node.model.mean(node.values(node.fit.theta[None, :]), at)[0]
            found[name] = mean + node.fit.amplitude**2 * node.fit.pull @ cross[node.used]
        return found

    def predict(self, points: Points, responses: Iterable[str]) -> dict[str, Posterior]:
        """Posteriors of `responses` and of what they depend on."""
        cross = kernel(self.table.points, points)
        found: dict[str, Posterior] = {}
        for name in self.family(responses):
            found[name] = self._posterior(self.nodes[name], points, cross, found)
        return found

    def _posterior(
        self, node: Node, points: Points, cross: Array, parents: dict[str, Posterior]
    ) -> Posterior:
        known = {name: parents[name].mean for name in node.origins}
        at = self.at(node, points, known)
        made = node.fit
        mean, jacobian = linearise(
            lambda theta, _: node.model.mean(node.values(theta), at), made.theta, points
        )
        power = made.amplitude**2
        mine = power * cross[node.used]
        white = whiten(made.factor, mine)
        rest = jacobian - white.T @ made.slope
        carried = rest @ made.cov
        own = power - np.sum(white * white, axis=0) + np.sum(carried * rest, axis=1)
        own = np.maximum(own, 1e-10)
        slopes = {name: self._slope(node, points, known, name) for name in known}
        total = own + sum((slope * parents[name].std) ** 2 for name, slope in slopes.items())
        return Posterior(
            points=points,
            mean=mean + made.pull @ mine,
            std=np.sqrt(total),
            own=np.sqrt(own),
            slopes=slopes,
            power=power,
            white=white,
            rest=rest,
            carried=carried,
        )

    def _slope(self, node: Node, points: Points, known: dict[str, Array], name: str) -> Array:
        """How the mean follows one parent."""
        theta = node.values(node.fit.theta[None, :])
        up = self.at(node, points, {**known, name: known[name] + _STEP})
        down = self.at(node, points, {**known, name: known[name] - _STEP})
        found = node.model.mean(theta, up)[0] - node.model.mean(theta, down)[0]
        return np.asarray(found / (2.0 * _STEP))

    def at(self, node: Node, points: Points, parents: dict[str, Array]) -> At:
        """Where a node's mean is asked for."""
        return At(
            points=points,
            first=self.table.points[:1],
            parents={name: parents[name] for name in node.origins},
            origins=node.origins,
        )

    def natural(self, response: str, values: Array) -> Array:
        """Values in model space (..., n) to natural units."""
        node = self.nodes[response]
        return node.scale.natural(values, node.most)

    def draws(self, posteriors: dict[str, Posterior], anchor: int) -> dict[str, Array]:
        """(DRAWS, n) worlds in model space, each joint with the anchor point's."""
        normals = _fixed_normals(tuple(self.nodes))
        found: dict[str, Array] = {}
        for name, seen in posteriors.items():
            common, own = normals[name]
            scale = seen.covariance(anchor) / seen.own[anchor]
            rest = np.sqrt(np.maximum(seen.own**2 - scale**2, 0.0))
            drawn = np.outer(common, scale) + np.outer(own, rest)
            drawn[:, anchor] = common * seen.own[anchor]
            for parent, slope in seen.slopes.items():
                drawn += slope * (found[parent] - posteriors[parent].mean)
            found[name] = seen.mean + drawn
        return found

    def estimates(self, posteriors: dict[str, Posterior]) -> list[tuple[tuple[str, Estimate], ...]]:
        """What a fresh window would show at each point: median, and std without its own
        sampling error, in natural units.
        """
        columns = {}
        for name, seen in sorted(posteriors.items()):
            node = self.nodes[name]
            tail = node.fit.tail
            std = np.hypot(max(tail, 1.0) * seen.std, tail * self.noise(name, seen))
            value = self.natural(name, seen.mean)
            columns[name] = value, node.scale.spread(value, std)
        size = len(next(iter(posteriors.values())).mean)
        return [
            tuple(
                (name, Estimate(mean=short(value[row]), std=short(std[row])))
                for name, (value, std) in columns.items()
            )
            for row in range(size)
        ]

    def noise(self, name: str, seen: Posterior) -> Array:
        """Between windows, its parents' noise included."""
        total = np.full(len(seen.mean), self._variance(name))
        for parent, slope in seen.slopes.items():
            total += slope**2 * self._variance(parent)
        return np.asarray(np.sqrt(total))

    def _variance(self, name: str) -> float:
        """Of a window round the posterior: its own, and what strays with another response's."""
        node = self.nodes[name]
        own, together = node.fit.noise**2, node.belief("together")
        if together is None or node.model.strays_with is None:
            return own
        return own + (together * self.nodes[node.model.strays_with].fit.noise) ** 2


@lru_cache(maxsize=8)
def _fixed_normals(names: tuple[str, ...]) -> dict[str, tuple[Array, Array]]:
    """Two columns of normal quantiles for each response, permuted and made uncorrelated."""
    quantiles = ndtri((np.arange(DRAWS) + 0.5) / DRAWS)
    rng = np.random.default_rng(20261121)
    table = np.column_stack([rng.permutation(quantiles) for _ in range(2 * len(names))])
    if 2 * len(names) < DRAWS // 2:
        table = table @ np.linalg.inv(np.linalg.cholesky(table.T @ table / DRAWS)).T
    return {name: (table[:, 2 * k], table[:, 2 * k + 1]) for k, name in enumerate(names)}


def short(value: float) -> float:
    """Six significant digits: a plan is journalled, and knows no more than that."""
    return float(f"{float(value):.6g}")


def _models(table: Table, policy: Policy, graph: Graph | None) -> tuple[Model, ...]:
    """The graph for what was seen, parents first."""
    own, more = (graph, ()) if graph is not None else installed()
    seen = [name for name in table.mean if table.seen(name)]
    made = {model.response: model for model in (own or shipped)(seen, policy)}
    made |= {model.response: model for model in more}
    return ordered(model for model in made.values() if model.response in seen)


def _prior(model: Model, seen: Seen, handed: dict[tuple[str, ...], Prior]) -> Prior:
    """The declared prior; of what is shared, the posterior of the node that was fitted before."""
    declared = model.priors(seen)
    names = tuple(declared)
    mean = np.array([prior.mean for prior in declared.values()])
    cov = np.diag([prior.std**2 for prior in declared.values()])
    if model.shared and model.shared in handed:
        given = handed[model.shared]
        rows = np.array([names.index(name) for name in model.shared])
        mean[rows] = given.mean
        cov[np.ix_(rows, rows)] = given.cov
    return Prior(names=names, mean=mean, cov=cov)


def _hand_on(model: Model, made: Fit, handed: dict[tuple[str, ...], Prior]) -> None:
    """What the others may take from this fit."""
    rows = np.array([made.prior.names.index(name) for name in model.shared])
    handed[model.shared] = Prior(
        names=model.shared,
        mean=made.theta[rows],
        cov=made.cov[np.ix_(rows, rows)] * model.discount**2,
    )


def build(table: Table, policy: Policy, graph: Graph | None = None) -> Surrogate:
    """Fit every response that was seen and has a model."""
    unit = kernel(table.points, table.points)
    surrogate = Surrogate(table=table, nodes={}, primary=primary_latency(_seen(table), policy))
    handed: dict[tuple[str, ...], Prior] = {}
    full: dict[str, Array] = {}  # model space over all rows: measured, else predicted
    for model in _models(table, policy, graph):
        node = _fit_node(surrogate, model, policy, unit, full, handed)
        if node is None:
            continue
        surrogate.nodes[model.response] = node
        value, _ = node.scale.forward(*model.observed(table))
        predicted = surrogate.means(table.points, (model.response,))[model.response]
        full[model.response] = np.where(np.isfinite(value), value, predicted)
    return surrogate


def _seen(table: Table) -> list[str]:
    return [name for name in table.mean if table.seen(name)]


def _fit_node(
    surrogate: Surrogate,
    model: Model,
    policy: Policy,
    unit: Array,
    full: dict[str, Array],
    handed: dict[tuple[str, ...], Prior],
) -> Node | None:
    """None when nothing of it can be used."""
    table, scale = surrogate.table, model.scale_of(surrogate.table)
    natural, error = model.observed(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        value, std = scale.forward(natural, error)
    used = np.isfinite(value) & np.isfinite(std)
    if not used.any():
        return None
    first = int(np.argmax(used))
    origins = {name: float(full[name][first]) for name in model.parents if name in full}
    points = table.points[used]
    strayed, unsure = _strayed(surrogate, model, used)
    at = At(
        points=points,
        first=table.points[:1],
        parents={name: full[name][used] for name in origins},
        origins=origins,
        strayed=strayed,
    )
    prior = _prior(model, Seen(table=table, policy=policy, at=at, value=value[used]), handed)
    rows = Rows(
        points=points,
        value=value[used],
        error=np.hypot(std[used], unsure),
        weight=table.weight[used],
        bound=model.bounds(table)[used],
        idle=table.idle[used],
        kernel=unit[np.ix_(used, used)],
        shared=tuple(prior.names.index(name) for name in model.shared),
        blame=model.blame,
    )

    def mean(theta: Array, _: Points) -> Array:
        values = {name: theta[:, k : k + 1] for k, name in enumerate(prior.names)}
        return model.mean(Values(**values), at)

    made = fit(mean, prior, rows, model.amplitudes, model.noises)
    teaches = model.response == surrogate.primary or model.strays_with is None
    if model.shared and (model.shared not in handed or teaches):
        _hand_on(model, made, handed)
    return Node(
        model=model,
        scale=scale,
        fit=made,
        rows=rows,
        used=used,
        most=float(np.nanmax(natural[used])),
        origins=origins,
    )


def _strayed(surrogate: Surrogate, model: Model, used: Mask) -> tuple[Array | None, Array]:
    """By how much the rows' windows strayed in the response it strays with, and its std."""
    node = surrogate.nodes.get(model.strays_with or "")
    if node is None:
        return None, np.zeros(int(used.sum()))
    strayed, unsure = np.zeros(len(used)), np.full(len(used), node.fit.noise)
    strayed[node.used], unsure[node.used] = node.fit.strayed, node.fit.strayed_std
    return strayed[used], unsure[used]


def beliefs(surrogate: Surrogate, now: Points) -> tuple[tuple[str, float], ...]:
    """Named parameters in natural units; `now` is the incumbent at the present load."""
    found: dict[str, float] = {}
    source = surrogate.nodes.get(surrogate.primary or "throughput_rps")
    if source is not None and "gamma" in source.fit.prior.names:
        values = source.values(source.fit.theta[None, :])
        at = At(points=now, first=surrogate.table.points[:1])
        room = float(capacity(values, at)[0, 0])
        found["capacity_per_worker_rps"] = float(np.exp(values.gamma[0, 0]))
        found["contention_alpha"] = float(np.exp(values.alpha[0, 0]))
        found["peak_workers"] = float(np.exp(values.peak[0, 0]))
        found["foreign_share"] = float(np.clip(values.foreign[0, 0], 0.0, 0.95))
        found["capacity_rps"] = room
        found["utilisation"] = float(now.load[0]) / room
    for name, node in surrogate.nodes.items():
        service = node.belief("service")
        if service is not None:
            found[f"service_{name.removeprefix('latency_')}"] = float(np.exp(service))
        found[f"noise_{name}"] = node.fit.noise
    return tuple((name, short(value)) for name, value in sorted(found.items()))


def calibration(surrogate: Surrogate) -> tuple[tuple[str, float], ...]:
    """Share of each response's evidence inside its 90 % predictive interval (nothing left out)."""
    table = surrogate.table
    seen = surrogate.predict(table.points, surrogate.nodes)
    shares = []
    for name, node in sorted(surrogate.nodes.items()):
        posterior = seen[name]
        spread = np.sqrt(posterior.std**2 + surrogate.noise(name, posterior) ** 2)[node.used]
        away = np.abs(node.rows.value - posterior.mean[node.used])
        inside = away <= 1.6449 * np.hypot(spread, node.rows.error)
        shares.append((name, short(float(np.mean(inside)))))
    return tuple(shares)
