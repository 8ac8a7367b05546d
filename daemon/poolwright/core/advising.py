"""Advice in mode recommend: what would be set, what it is expected to bring, under which name.

The name is made of the change itself, so the same advice has the same name tomorrow and after a
restart, and what was rejected stays rejected until the service drifts.
"""

import hashlib
import math

from poolwright.core.envelope import fit
from poolwright.core.model import Advice, Candidate, Estimate, Reason, Setting
from poolwright.core.planned import candidate_at, same_load
from poolwright.core.policy import Mode
from poolwright.core.room import room_allows
from poolwright.core.sample import Sample
from poolwright.core.state import Intent, State

# Ticks in which nothing new is known: what was advised still is.
_WAITING = frozenset(
    {Reason.WAITING_FOR_PLAN, Reason.MEASURING, Reason.SETTLING, Reason.NO_DATA, Reason.CLOCK_GAP}
)


def advice_id(replaces: Setting, wanted: Setting) -> str:
    """Eight hex digits that name the change from `replaces` to `wanted`."""
    return hashlib.blake2b(f"{replaces}>{wanted}".encode(), digest_size=4).hexdigest()


def now(state: State, intent: Intent) -> bool:
    """Whether the advice in force is what this intent says."""
    return state.advice is not None and intent.wanted is not None


def update(state: State, intent: Intent, sample: Sample) -> None:
    """Let the advice follow what would be done now."""
    if state.policy.mode is not Mode.RECOMMEND or intent.ordered or state.commanded is None:
        state.advice = None
    elif intent.wanted is not None:
        state.advice = _advice(state, intent, sample)
    elif intent.reason not in _WAITING:
        state.advice = None
    if state.advice is not None and state.advice.replaces != state.commanded:
        state.advice = None


def _advice(state: State, intent: Intent, sample: Sample) -> Advice | None:
    """The whole way, not its first step: slew and settling are the way's business."""
    current = state.commanded
    assert current is not None
    assert intent.wanted is not None
    fitted = fit(intent.wanted, current, state.policy, still_s=state.still_s, urgent=True)
    wanted, _ = room_allows(sample, state.policy, current, fitted.setting)
    name = advice_id(current, wanted)
    if wanted == current or name in state.rejected:
        return None
    there = candidate_at(state.plan, wanted) if same_load(state) else None
    return Advice(
        id=name,
        setting=wanted,
        replaces=current,
        gain=_gain(candidate_at(state.plan, current), there),
        p_safe=None if there is None else there.p_safe,
        reason=intent.reason,
    )


def _gain(here: Candidate | None, there: Candidate | None) -> Estimate | None:
    """The expected relative fall of the objective, by the delta method on the two posteriors.

    They are taken as independent, which they are not: what both share would make it narrower.
    """
    if here is None or there is None or here.objective.mean <= 0.0:
        return None
    ratio = there.objective.mean / here.objective.mean
    spread = math.hypot(
        there.objective.std / here.objective.mean, ratio * here.objective.std / here.objective.mean
    )
    return Estimate(mean=1.0 - ratio, std=spread)
