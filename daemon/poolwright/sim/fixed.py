"""The best fixed size in hindsight: what somebody who knew the day to come would have chosen."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from poolwright.core.policy import Knob, Policy
from poolwright.sim.faults import Faults, OtherHand
from poolwright.sim.report import Tally
from poolwright.sim.scenario import Scenario
from poolwright.sim.shape import PlantShape
from poolwright.sim.world import KNOB, Plant, Service, SimClock, World

_COARSE = 1.5  # ratio of two neighbouring sizes of the first pass
_WORSE = 0.02  # of the time, outside the SLO: what is smaller still is not looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """One size, held for the whole scenario."""

    level: int
    minutes_outside_slo: int
    requests_failed: int
    worker_hours: float
    joules_per_request: float | None


def best_fixed(
    scenario: Scenario,
    pool: str,
    policy: Policy,
    make_plant: Callable[[PlantShape, int, int], Plant],
    seed: int,
) -> Fixed:
    """The size within the policy's bounds with the fewest minutes outside the SLO, and of those
    the one with the fewest worker-hours.

    Sizes a factor of 1.5 apart first, from the largest down until one is clearly worse, then by
    halves below the best. A size between two of the first ones that beats both is not looked for.
    """
    seen: dict[int, Fixed] = {}

    def outside(level: int) -> int:
        if level not in seen:
            seen[level] = held(scenario, pool, policy, make_plant, seed, level)
        return seen[level].minutes_outside_slo

    def best() -> int:
        return min(seen, key=lambda n: (seen[n].minutes_outside_slo, seen[n].worker_hours))

    knob = policy.knob(KNOB)
    for level in reversed(list(_coarse(knob))):
        if outside(level) > outside(best()) + _WORSE * scenario.duration / 60.0:
            break
    lower, upper = max((n for n in seen if n < best()), default=knob.lower), best()
    while upper - lower > knob.step:
        middle = lower + (upper - lower) // (2 * knob.step) * knob.step
        if outside(middle) > outside(upper):
            lower = middle
        else:
            upper = middle
    return seen[best()]


def held(
    scenario: Scenario,
    pool: str,
    policy: Policy,
    make_plant: Callable[[PlantShape, int, int], Plant],
    seed: int,
    level: int,
) -> Fixed:
    """What becomes of a service of the scenario at one size. Nobody else sets its level."""
    part = next(part for part in scenario.services() if part.name == pool)
    faults = Faults((f for f in scenario.faults if not isinstance(f, OtherHand)), seed)
    plant = make_plant(part.plant, level, seed)
    clock = SimClock()
    world = World([Service(pool, plant, part.load, faults)], faults, clock)
    tally = Tally(pool=pool, policy=policy, duration_s=scenario.duration)
    for _ in range(int(scenario.duration / policy.cadence_s)):
        clock.pass_ns(round(policy.cadence_s * 1e9))
        for truth in world.advance(policy.cadence_s):
            tally.saw(truth)
    report = tally.report()
    return Fixed(
        level=level,
        minutes_outside_slo=report.minutes_outside_slo,
        requests_failed=report.requests_failed,
        worker_hours=report.worker_hours,
        joules_per_request=report.joules_per_request,
    )


def _coarse(knob: Knob) -> Iterator[int]:
    level = knob.lower
    while level < knob.upper:
        yield level
        further = max(knob.step, round(level * (_COARSE - 1.0)))
        level += further - further % knob.step
    yield knob.upper
