"""The text of each Reason, for people. Stable: scripts and runbooks quote it."""

from poolwright.core.model import Reason

REASONS: dict[Reason, str] = {
    Reason.WARMING_UP: "watching the baseline before the first move",
    Reason.SETTLING: "letting the last move take effect before measuring",
    Reason.MEASURING: "measuring this setting",
    Reason.WAITING_FOR_PLAN: "a window has closed and the learner is thinking",
    Reason.SCHEDULE: "the plan holds another setting at this load",
    Reason.BEST_KNOWN: "this is the best safe setting known at this load",
    Reason.NO_PROBE_WORTH_IT: "no safe probe is expected to gain enough",
    Reason.BUDGET_SPENT: "a probe would gain, but the budget for probes is spent",
    Reason.EXPECTED_GAIN: "this setting is expected to be better, and safe",
    Reason.LEVERAGE: "this setting would teach most about the others, and is safe",
    Reason.SLO_BREACH: "the latency objective is breached",
    Reason.MEMORY_BREACH: "memory is above its limit",
    Reason.ERROR_BREACH: "too many requests fail",
    Reason.CPU_BREACH: "the host's CPU is above its limit",
    Reason.QUEUEING: "requests queue for a worker",
    Reason.COOLING_DOWN: "a guard tripped or clients queued a short time ago",
    Reason.NO_DATA: "what the guard needs cannot be seen",
    Reason.BLIND_TOO_LONG: "blind for too long: back to the last safe setting",
    Reason.OTHER_HAND: "another hand moved the level; standing back until `resume`",
    Reason.REASSERT: "another hand moved the level; the policy says to take it back",
    Reason.PLANT_RESTARTED: "the service restarted or reloaded",
    Reason.PAUSED_BY_OPERATOR: "an operator paused poolwright",
    Reason.ACTUATION_PENDING: "the last move is still being made",
    Reason.ACTUATION_FAILED: "the last move failed; waiting before another",
    Reason.READ_BACK_FAILED: "the real level cannot be read back",
    Reason.OUT_OF_BOUNDS: "the level is outside the policy's bounds",
    Reason.CLOCK_GAP: "time passed without ticks; what was being measured is dropped",
}

assert set(REASONS) == set(Reason), "every reason has a text"
