"""What the controller remembers between ticks, in one place, with a digest of it."""

import hashlib
from dataclasses import dataclass, field

from poolwright.core.benefit import Trial
from poolwright.core.budget import Budget
from poolwright.core.burn import ErrorBudget
from poolwright.core.derive import Deriver
from poolwright.core.evidence import EvidenceStore
from poolwright.core.fall import Fall
from poolwright.core.guard import Guard
from poolwright.core.model import (
    Action,
    Advice,
    Evidence,
    Holdout,
    Kept,
    Observation,
    Phase,
    Plan,
    Reason,
    Resume,
    Setting,
)
from poolwright.core.phase import Event, after
from poolwright.core.policy import Mode, Policy
from poolwright.core.regime import Regime
from poolwright.core.schedule import Schedule
from poolwright.core.window import Window

TRUST_START = 0.5  # octaves round the incumbent that may be tried
TRUST_MOST = 0.8
TRUST_LEAST = 0.2
_TABU_WINDOWS = 25
TRUST_AFTER_DRIFT = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a rule wants, before the envelope. `wanted` None: stay."""

    action: Action
    reason: Reason
    wanted: Setting | None = None
    urgent: bool = False
    ordered: bool = False  # by an operator: also in mode recommend
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A move that an operator asked for once, and that may take several steps."""

    setting: Setting
    action: Action
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A setting that is held whatever the model and the guard say, and why."""

    setting: Setting
    reason: Reason
    why: str
    ordered: bool = False


@dataclass(slots=True, kw_only=True)
class State:
    """Mutable, and touched only inside `Controller.step`."""

    policy: Policy  # with the bounds that overrides have narrowed for now
    written: Policy  # as it was loaded
    deriver: Deriver = field(default_factory=Deriver)
    regime: Regime = field(default_factory=Regime)
    schedule: Schedule = field(default_factory=Schedule)
    guard: Guard
    budget: Budget
    burn: ErrorBudget
    fall: Fall
    evidence: EvidenceStore
    prior: tuple[Evidence, ...]  # of another host; only the learner sees it
    phase: Phase = Phase.WARMUP
    phase_why: str = ""
    commanded: Setting | None = None
    baseline: Setting | None = None
    last_safe: Setting | None = None
    plan: Plan | None = None
    fresh_plan: bool = False
    plan_version: int = 0
    waiting_s: float | None = None  # for the plan that was asked for; None: none outstanding
    window: Window | None = None
    still_s: float = 0.0  # since the plant last changed
    settled: bool = False
    probing: bool = False
    relieved: bool = False  # the last move was a remedy
    probe_measured: bool = False  # the window of a probe or a remedy has closed
    trust_octaves: float = TRUST_START
    tabu: dict[Setting, int] = field(default_factory=dict)  # until which window
    windows: int = 0
    windows_since_fit: int = 0
    patience: int = 0
    held: Setting | None = None  # the newest that was moved to and not to try it
    idle_fits: int = 0  # fits in a row, converged, that changed nothing of what is held
    cooldown_s: float = 0.0
    mismatch_ticks: int = 0
    faults: int = 0
    backoff_s: float = 0.0
    grown: tuple[Setting, float] | None = None  # from where, and what it served [rps] there, when
    # it last grew for a queue that is still there
    harmful_growths: int = 0  # taken back, in a row
    growth_hold_s: float = 0.0  # for so long it does not grow for a queue
    shed: tuple[Setting, float] | None = None  # the same of the last shrink for a queue
    vain_sheds: int = 0  # taken back, in a row
    shed_hold_s: float = 0.0  # for so long it does not shrink for a queue
    outgrown_s: float = 0.0  # for so long no plan makes it larger: fewer were tried for a queue
    last_shrank: bool = False  # the last move took something away, which may still drain
    no_shrink_windows: int = 0  # to be measured before anything smaller is taken
    shrink_penalty: int = 1  # doubles when clients queue soon after a shrink
    shrunk_at_window: int | None = None
    leverage_asked: bool = False  # the outstanding request wants to learn, not to gain
    closed: Observation | None = None  # the window that closed in this tick
    previous: Setting | None = None  # held before the last move
    errand: Errand | None = None
    advice: Advice | None = None  # as last given
    approved_from: Setting | None = None  # where to go back to if an approved move breaches
    pin: Setting | None = None  # by an operator at the control socket
    pin_why: str = ""
    pin_until_wall_ns: int | None = None
    rejected: tuple[str, ...] = ()
    kept: Kept = field(default_factory=Kept)  # as last told
    counted_version: int = 0  # the plan that patience has counted
    asks_probe: bool = False
    pressed: bool = False  # tasks stall for CPU, memory or I/O
    queued: bool = False  # clients wait for a worker, in this tick and for some before it
    trial: Trial | None = None
    holdouts: tuple[Holdout, ...] = ()
    since_holdout_s: float = 0.0
    vain_holdouts: int = 0  # in a row
    going_back: Setting | None = None  # from the baseline
    finished: Holdout | None = None  # in this tick
    events: list[str] = field(default_factory=list)  # of this tick

    def advance(self, event: Event, note: str = "") -> None:
        """Let `event` change the phase, and say so."""
        before, self.phase = self.phase, after(self.phase, event)
        if self.phase is not before:
            self.phase_why = note
            self.idle_fits = 0
            self.events.append(f"{before} -> {self.phase}: {note or event}")

    @property
    def warm(self) -> bool:
        """Whether enough has been observed, in this run or an earlier one, to act."""
        return len(self.evidence) >= self.policy.explore.warmup_windows

    def shun(self, setting: Setting) -> None:
        """Try it no more for a while: it breached, did harm, or there is no room for it."""
        self.tabu[setting] = self.windows + _TABU_WINDOWS

    def stop_trying(self) -> None:
        """What was tried or compared is over, whatever it showed."""
        self.probing = False
        self.stop_comparing()

    def stop_comparing(self) -> None:
        """What was measured on one side only says nothing."""
        if self.trial is not None:
            self.end_trial(self.trial)
            self.probing = False
            self.vain_holdouts += 1
            self.since_holdout_s = 0.0  # not again at once: the baseline must not be tried for ever
            self.events.append("the comparison with the baseline was broken off")

    def end_trial(self, trial: Trial) -> None:
        """A comparison is over; from the baseline there is a way back to what it was made of."""
        self.trial = None
        self.going_back = trial.tuned if self.commanded != trial.tuned else None

    @property
    def in_command(self) -> bool:
        """Whether the level is poolwright's: what is found otherwise is another hand."""
        if self.phase is Phase.MANUAL:
            return False
        if self.errand is not None:
            return True
        mine = self.policy.mode is Mode.AUTO or self.pin is not None
        return mine and self.phase is not Phase.PAUSED

    def to_keep(self) -> Kept:
        """What must survive a restart."""
        lasting = (Phase.PAUSED, Phase.MANUAL, Phase.STOOD_DOWN)
        return Kept(
            phase=self.phase if self.phase in lasting else Phase.WARMUP,
            phase_why=self.phase_why if self.phase in lasting else "",
            pin=self.pin,
            pin_until_wall_ns=self.pin_until_wall_ns,
            pin_why=self.pin_why,
            rejected=self.rejected,
            holdouts=self.holdouts,
        )

    def unsettle(self) -> None:
        """The plant is changing: measure nothing until it has settled."""
        self.window = None
        self.still_s = 0.0
        self.settled = False

    def digest(self) -> str:
        """Sixteen hex digits that two equal histories share."""
        hot = (
            self.phase,
            self.commanded,
            self.baseline,
            self.last_safe,
            self.plan_version,
            self.evidence.digest,
            self.waiting_s,
            self.still_s,
            self.settled,
            self.probing,
            self.probe_measured,
            self.trust_octaves,
            self.windows,
            self.patience,
            self.idle_fits,
            self.cooldown_s,
            self.backoff_s,
            self.no_shrink_windows,
            self.shrink_penalty,
            self.budget.left,
            self.fall.hold_s,
            self.burn.rates,
            self.schedule.load_rps,
            self.errand,
            self.pin,
            self.advice,
            self.rejected,
            self.trial is not None,
            self.holdouts,
            self.since_holdout_s,
        )
        return hashlib.blake2b(repr(hot).encode(), digest_size=8).hexdigest()


def new_state(policy: Policy, resume: Resume) -> State:
    """The state in which a run begins."""
    state = State(
        policy=policy,
        written=policy,
        guard=Guard(policy),
        budget=Budget(policy.explore, resume.budget),
        burn=ErrorBudget(policy),
        fall=Fall(policy.guard),
        evidence=EvidenceStore(resume.evidence),
        prior=resume.prior,
        baseline=resume.baseline,
        last_safe=resume.last_safe,
        plan=resume.plan,
        plan_version=0 if resume.plan is None else resume.plan.version,
        phase=resume.kept.phase,
        phase_why=resume.kept.phase_why,
        pin=resume.kept.pin,
        pin_why=resume.kept.pin_why,
        pin_until_wall_ns=resume.kept.pin_until_wall_ns,
        rejected=resume.kept.rejected,
        holdouts=resume.kept.holdouts,
        kept=resume.kept,
    )
    state.events.extend(resume.notes)
    return state
