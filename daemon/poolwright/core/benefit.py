"""What tuning is worth: the tuned setting against the baseline, measured and not believed.

One comparison holds the tuned setting, the baseline and the tuned setting again (A/B/A: the
reversal design of single-case experiments; Barlow and Hersen, "Single case experimental designs";
crossover in trials, Senn, "Cross-over trials in clinical research"; switchback in services,
Bojinov, Simchi-Levi and Zhao, Management Science 2023). With equal legs the mean of both ends is
what A would have cost in the middle, so a drift that is linear in time cancels (Cox, "Some
systematic experimental designs", Biometrika 1951).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from poolwright.core.model import Benefit, Holdout, Observation, Setting
from poolwright.core.policy import Policy

SHORTFALL = 2.0  # cost of losing all throughput, in units of the whole objective
SLACK = 0.02  # throughput this far below the load is noise of the window's edges

_SAME_LOAD = 0.10
_SAME_FOREIGN = 0.15  # of the host's CPU
_GAIN_LEAST = -1.0  # twice the baseline's cost is as bad as anything, as 1 is the most to gain
_ENOUGH = 3  # below: no interval; Student's t with one degree of freedom says nothing
_TRIMS_FROM = 6
_TRIM = 0.2  # of each end
_Z = 1.959963984540054  # the normal quantile of 0.975
_FIRST = 1 / 8  # of the policy's interval
_UNPROVEN = 1 / 4
_VAIN_MOST = 3  # doublings
_PROVEN = 4.0
_GOLDEN = 0.6180339887498949


def cost_of(
    observation: Observation, policy: Policy, references: Mapping[str, float]
) -> float | None:
    """The objective of one window: sum of weight * response / reference, as the learner has it.

    Throughput is not minimised: what is short of the load costs SHORTFALL times all weights
    together. None when a weighted response, its reference, the load or the throughput is missing:
    a shortfall that nobody saw is not none.
    """
    load = observation.context.load_rps
    done = observation.response("throughput_rps")
    if load is None or load <= 0.0 or done is None:
        return None
    total = weights = 0.0
    for name, weight in policy.objective:
        if weight <= 0.0:
            continue
        weights += weight
        if name == "throughput_rps":
            continue
        seen, reference = observation.response(name), references.get(name)
        if seen is None or reference is None or not reference > 0.0:
            return None
        total += weight * seen.mean / reference
    return total + SHORTFALL * weights * max(0.0, 1.0 - SLACK - done.mean / load)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leg:
    cost: float
    load_rps: float
    foreign_cpu_ratio: float


class Trial:
    """One comparison tuned / baseline / tuned. It holds nothing itself: see `wants`.

    It gives up as soon as the legs cannot be compared any more, best before the baseline is tried.
    `why` says in words what spoiled it; empty: nothing did.
    """

    __slots__ = ("_breached_gain", "_legs", "baseline", "tuned", "why")

    def __init__(self, tuned: Setting, baseline: Setting) -> None:
        """Begin. ValueError when there is nothing to compare."""
        if tuned == baseline:
            raise ValueError(f"{tuned} cannot be compared with itself")
        self.tuned = tuned
        self.baseline = baseline
        self.why = ""
        self._legs: list[_Leg] = []
        self._breached_gain: float | None = None

    @property
    def wants(self) -> Setting:
        """What should be held for the next window; the tuned setting when done."""
        return self.baseline if len(self._legs) == 1 and not self.done else self.tuned

    @property
    def done(self) -> bool:
        """Whether nothing more is wanted of it."""
        return bool(self.why) or self._breached_gain is not None or len(self._legs) == 3

    def take(self, observation: Observation, cost: float) -> None:
        """Take a finished window, if it is of the wanted setting."""
        if self.done or observation.setting != self.wants:
            return
        assert math.isfinite(cost), f"a window that cost {cost}"
        load, foreign = observation.context.load_rps, observation.context.foreign_cpu_ratio
        if not load or foreign is None:
            self.abandon("load, or CPU that others use, is not known")
            return
        leg = _Leg(cost=cost, load_rps=load, foreign_cpu_ratio=foreign)
        if self._legs:
            other = self._legs[-1]
            spoiled = _mismatch(other, leg) if len(self._legs) == 1 else _mismatch(leg, other)
            if spoiled:
                self.abandon(spoiled)
                return
        self._legs.append(leg)

    def breach(self, cost_so_far: float | None) -> None:
        """The guard tripped at the baseline: it ends here, and counts.

        The gain is censored: staying would have cost more than what was seen until then, so what
        was seen bounds it from below, and so does 0: a setting that holds the SLO is worth no
        less than one that does not, whatever else it costs. Before the first leg there is nothing
        to count, and the trial is abandoned.
        """
        if self.done:
            return
        if not self._legs:
            self.abandon("breached before it began")
            return
        cost = self._legs[1].cost if len(self._legs) > 1 else cost_so_far
        seen = 0.0 if cost is None else _gain(self._legs[0].cost, cost)
        self._breached_gain = max(0.0, seen)

    def abandon(self, why: str) -> None:
        """End it without a result: the world interfered, or an operator. Too late when done."""
        if not self.done:
            self.why = why or "abandoned"

    def result(self, closed_tick: int) -> Holdout | None:
        """The finished comparison; None when it has none (yet)."""
        if self.why or not self.done:
            return None
        legs, gain = self._legs, self._breached_gain
        breached = gain is not None
        if gain is None:
            gain = _gain((legs[0].cost + legs[2].cost) / 2.0, legs[1].cost)
        return Holdout(
            baseline=self.baseline,
            tuned=self.tuned,
            load_rps=sum(leg.load_rps for leg in legs) / len(legs),
            gain_ratio=gain,
            breached=breached,
            closed_tick=closed_tick,
        )


def _mismatch(tuned: _Leg, baseline: _Leg) -> str:
    """Why the two legs cannot be compared, in words; empty: they can."""
    if abs(tuned.load_rps / baseline.load_rps - 1.0) > _SAME_LOAD:
        return f"load {tuned.load_rps:.4g} rps tuned, {baseline.load_rps:.4g} at the baseline"
    theirs, then = tuned.foreign_cpu_ratio, baseline.foreign_cpu_ratio
    if abs(theirs - then) > _SAME_FOREIGN:
        return f"CPU that others use {theirs:.0%} tuned, {then:.0%} at the baseline"
    return ""


def _gain(tuned: float, baseline: float) -> float:
    """How much less `tuned` costs, as a share of `baseline`, in -1..1."""
    if baseline <= 0.0:
        return 0.0 if tuned <= 0.0 else _GAIN_LEAST
    return min(1.0, max(_GAIN_LEAST, 1.0 - tuned / baseline))


def t_quantile(df: int) -> float:
    """The 0.975 quantile of Student's t. Within 0.13 % of it.

    Exact for 1 and 2 degrees of freedom, above by the Cornish-Fisher expansion (Abramowitz and
    Stegun, "Handbook of mathematical functions", 26.7.5).
    """
    if df < 1:
        raise ValueError(f"{df} degrees of freedom")
    if df == 1:
        return math.tan(math.pi * 0.475)
    if df == 2:
        return 0.95 * math.sqrt(2.0 / (4.0 * 0.975 * 0.025))
    z = _Z
    g1 = (z**3 + z) / 4.0
    g2 = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    g3 = (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0
    g4 = (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0
    return z + g1 / df + g2 / df**2 + g3 / df**3 + g4 / df**4


def _interval(gains: Sequence[float], trim: float) -> tuple[float, float]:
    """Trimmed mean and half its 95 % interval, of two gains or more.

    Student's t on the winsorised variance (Tukey and McLaughlin, "Less vulnerable confidence and
    significance procedures for location", Sankhya 1963; Yuen, "The two-sample trimmed t for unequal
    population variances", Biometrika 1974). With nothing trimmed it is the usual interval.
    """
    n = len(gains)
    cut = int(trim * n)
    ordered = sorted(gains)
    inner = ordered[cut : n - cut]
    kept = len(inner)
    winsorised = [inner[0]] * cut + inner + [inner[-1]] * cut
    middle = math.fsum(winsorised) / n
    squares = math.fsum((gain - middle) ** 2 for gain in winsorised)
    half = t_quantile(kept - 1) * math.sqrt(squares / (kept * (kept - 1)))
    return math.fsum(inner) / kept, half


def benefit_of(holdouts: Sequence[Holdout]) -> Benefit | None:
    """What the comparisons with the newest one's baseline show; None without any.

    From six on, the mean is trimmed by a fifth at each end, so that one odd comparison does not
    decide; below six an odd one widens the interval, which settles nothing either way. A breached
    comparison bounds its gain from below only. So the mean and the lower end take it at that
    bound, and the upper end at 1, the most that can be gained, and untrimmed (the worst-case
    bounds of Manski, "Nonparametric bounds on treatment effects", AER 1990): a baseline that was
    seen to breach never passes for proof that tuning is useless.
    """
    if not holdouts:
        return None
    kept = [h for h in holdouts if h.baseline == holdouts[-1].baseline]
    gains = [h.gain_ratio for h in kept]
    count = len(kept)
    if count < _ENOUGH:
        return Benefit(mean=math.fsum(gains) / count, lower=None, upper=None, count=count)
    mean, half = _interval(gains, _TRIM if count >= _TRIMS_FROM else 0.0)
    upper = mean + half
    if any(h.breached for h in kept):
        most, spread = _interval([1.0 if h.breached else h.gain_ratio for h in kept], 0.0)
        upper = max(upper, most + spread)
    return Benefit(mean=mean, lower=mean - half, upper=min(1.0, upper), count=count)


def useless(benefit: Benefit | None, epsilon: float) -> bool:
    """Whether it is shown that tuning gains less than `epsilon`, what a move is worth."""
    return (
        benefit is not None
        and benefit.upper is not None
        and benefit.count >= _ENOUGH
        and benefit.upper < epsilon
    )


def due(since_last_s: float, every_s: float, holdouts: Sequence[Holdout], vain: int = 0) -> bool:
    """Whether it is time for a comparison, `since_last_s` after the last one ended.

    The first comes after an eighth of `every_s`; while the interval is missing or spans 0, one
    comes every quarter; when a gain is shown, every fourth. Otherwise `every_s`. Each wait is
    stretched by 0.75 to 1.25, by the golden ratio's sequence, so that comparisons do not always
    meet the same hour's traffic or cron job. After `vain` in a row that did not count (the load was
    not the same on both sides) the wait is as many times doubled. `every_s` 0: never.
    """
    if every_s <= 0.0:
        return False
    every_s *= 2.0 ** min(vain, _VAIN_MOST)
    found = benefit_of(holdouts)
    if found is None:
        return since_last_s >= _FIRST * every_s
    if found.lower is None or found.upper is None or found.lower <= 0.0 <= found.upper:
        pace = _UNPROVEN
    else:
        pace = _PROVEN if found.lower > 0.0 else 1.0
    stretch = 0.75 + 0.5 * (_GOLDEN * holdouts[-1].closed_tick % 1.0)
    return since_last_s >= pace * stretch * every_s
