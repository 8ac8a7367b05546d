"""What the plan says of settings: looked up, never fitted."""

from poolwright.core.model import Candidate, Plan, Setting
from poolwright.core.state import State

_SAME_LOAD = 0.10
_DOUBTS = 3.0  # standard deviations that a prediction of memory is taken for too low
_SHORT = 0.98  # of the load completed, and less: a queue grows


def candidate_at(plan: Plan | None, setting: Setting | None) -> Candidate | None:
    """How the plan judged a setting; None when it did not."""
    return (
        None if plan is None else next((c for c in plan.candidates if c.setting == setting), None)
    )


def same_load(state: State) -> bool:
    """Whether the plan judged its candidates at (nearly) the present load."""
    if state.plan is None:
        return False
    load, fitted = state.schedule.load_rps, state.plan.context.load_rps
    known = load is not None and fitted is not None
    return known and abs((load or 0.0) / max(fitted or 0.0, 1e-9) - 1.0) <= _SAME_LOAD


def best_tried(state: State) -> Setting | None:
    """What the plan would hold at this load, where that was tried; else what was held before."""
    entry = state.schedule.entry(state.plan)
    visited = {e.observation.setting for e in state.evidence.items}
    if entry is not None and entry.setting in visited and entry.setting not in state.tabu:
        return entry.setting
    return state.previous


def memory_bytes(state: State, setting: Setting) -> float | None:
    """What the pool took at `setting`, else the most that the plan expects; None: not known."""
    seen = state.evidence.memory_bytes(setting)
    candidate = candidate_at(state.plan, setting) if seen is None else None
    expected = dict(candidate.predictions).get("memory_bytes") if candidate is not None else None
    return seen if expected is None else expected.mean + _DOUBTS * expected.std


def overloaded_share(state: State, wanted: Setting) -> tuple[float, float] | None:
    """What the plan expects `wanted` to complete, over what the present setting does: mean and
    standard deviation. None: it does not know, or not of a load that is too much for both.
    """
    here, there = candidate_at(state.plan, state.commanded), candidate_at(state.plan, wanted)
    if here is None or there is None or not same_load(state):
        return None
    now = dict(here.predictions).get("throughput_rps")
    then = dict(there.predictions).get("throughput_rps")
    load = state.schedule.load_rps
    if now is None or then is None or load is None or not 0.0 < now.mean < _SHORT * load:
        return None
    return then.mean / now.mean, then.std / now.mean
