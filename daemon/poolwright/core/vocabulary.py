"""The fixed words of the core: enumerations. Members are added, never removed: journals outlive
releases.
"""

from enum import StrEnum


class Status(StrEnum):
    """What became of one attempt to see something."""

    OK = "ok"
    NO_DATA = "no_data"  # the source works and has nothing to say (no request in this tick)
    STALE = "stale"  # the source has not said anything new for too long
    ERROR = "error"  # the source is broken; `detail` says how


class ActuationStatus(StrEnum):
    """How the last actuation went."""

    APPLIED = "applied"
    PENDING = "pending"
    FAILED = "failed"
    REFUSED = "refused"


class CommandKind(StrEnum):
    """What an operator may ask at the control socket."""

    PAUSE = "pause"
    RESUME = "resume"
    RESTORE = "restore"  # back to the baseline: the daemon is stopping and the policy says so
    PIN = "pin"  # hold one setting until UNPIN
    UNPIN = "unpin"
    APPROVE = "approve"  # do what the advice of this id says
    REJECT = "reject"  # do not give this advice again
    ROLLBACK = "rollback"  # back to an earlier setting, and pause


class Verdict(StrEnum):
    """Why a candidate setting was, or was not, taken."""

    RECOMMENDED = "recommended"  # the best posterior mean among safe settings
    PROBE = "probe"  # the most to be learned or gained
    WORSE = "worse"  # safe, but expected to cost more
    UNSAFE_SLO = "unsafe_slo"
    UNSAFE_MEMORY = "unsafe_memory"
    OUTSIDE_TRUST_REGION = "outside_trust_region"
    TABU = "tabu"  # the guard saw it breach lately, or there was no room for it


class Phase(StrEnum):
    """What poolwright is about. Transitions: `core.phase`."""

    WARMUP = "warmup"  # watching the baseline
    EXPLORE = "explore"  # learning by small safe moves
    CONVERGED = "converged"  # holding; a rare probe keeps the model honest
    COOLDOWN = "cooldown"  # a guard tripped; no probe for a while
    BLIND = "blind"  # what the guard needs cannot be seen
    MANUAL = "manual"  # another hand has the knob
    PAUSED = "paused"  # an operator said so
    STOOD_DOWN = "stood_down"  # proven to be of no use here: the baseline is held


class Action(StrEnum):
    """What the Decision does."""

    HOLD = "hold"
    TRACK = "track"  # follow the schedule
    DITHER = "dither"
    PROBE = "probe"
    RETREAT = "retreat"
    RESTORE = "restore"
    COMPARE = "compare"  # to the baseline or back, to see what tuning is worth


class Reason(StrEnum):
    """Why; the text for people is in `core.reasons`."""

    WARMING_UP = "warming_up"
    SETTLING = "settling"
    MEASURING = "measuring"
    WAITING_FOR_PLAN = "waiting_for_plan"
    SCHEDULE = "schedule"
    BEST_KNOWN = "best_known"
    NO_PROBE_WORTH_IT = "no_probe_worth_it"
    BUDGET_SPENT = "budget_spent"
    EXPECTED_GAIN = "expected_gain"
    LEVERAGE = "leverage"
    SLO_BREACH = "slo_breach"
    MEMORY_BREACH = "memory_breach"
    ERROR_BREACH = "error_breach"
    CPU_BREACH = "cpu_breach"
    QUEUEING = "queueing"
    COOLING_DOWN = "cooling_down"
    NO_DATA = "no_data"
    BLIND_TOO_LONG = "blind_too_long"
    OTHER_HAND = "other_hand"
    REASSERT = "reassert"
    PLANT_RESTARTED = "plant_restarted"
    PAUSED_BY_OPERATOR = "paused_by_operator"
    ACTUATION_PENDING = "actuation_pending"
    ACTUATION_FAILED = "actuation_failed"
    READ_BACK_FAILED = "read_back_failed"
    OUT_OF_BOUNDS = "out_of_bounds"
    CLOCK_GAP = "clock_gap"
    PINNED = "pinned"
    FROZEN = "frozen"
    APPROVED = "approved"
    ROLLED_BACK = "rolled_back"
    RELIEF = "relief"
    QUIET_TIME = "quiet_time"
    HOST_BUSY = "host_busy"
    BUDGET_BURNS = "budget_burns"
    SLOW_DEPENDENCY = "slow_dependency"
    PRESSURE_BREACH = "pressure_breach"
    LOAD_FELL = "load_fell"
    HOLDOUT = "holdout"
    NO_BENEFIT = "no_benefit"


class ClampKind(StrEnum):
    """Which rule of the envelope changed what was wanted."""

    BOUND = "bound"
    SLEW = "slew"
    DWELL = "dwell"
    SETTLE = "settle"
    LATTICE = "lattice"
    MEMORY = "memory"  # the forecast for the added workers passes the guard
    CPU = "cpu"  # ... passes the CPU that all pools share
    CONNECTIONS = "connections"  # ... passes the cap on connections
    RELATION = "relation"  # knobs against each other
