"""What the controller remembers between ticks, in one place, with a digest of it."""

import hashlib
from dataclasses import dataclass, field

from poolwright.core.budget import Budget
from poolwright.core.derive import Deriver
from poolwright.core.evidence import EvidenceStore
from poolwright.core.guard import Guard
from poolwright.core.model import Action, Observation, Phase, Plan, Reason, Resume, Setting
from poolwright.core.phase import Event, after
from poolwright.core.policy import Policy
from poolwright.core.regime import Regime
from poolwright.core.schedule import Schedule
from poolwright.core.window import Window

TRUST_START = 0.5  # octaves round the incumbent that may be tried
TRUST_MOST = 1.5
TRUST_LEAST = 0.2
TRUST_AFTER_DRIFT = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a rule wants, before the envelope. `wanted` None: stay."""

    action: Action
    reason: Reason
    wanted: Setting | None = None
    urgent: bool = False
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class State:
    """Mutable, and touched only inside `Controller.step`."""

    policy: Policy
    deriver: Deriver = field(default_factory=Deriver)
    regime: Regime = field(default_factory=Regime)
    schedule: Schedule = field(default_factory=Schedule)
    guard: Guard
    budget: Budget
    evidence: EvidenceStore
    phase: Phase = Phase.WARMUP
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
    probe_measured: bool = False  # its window has closed
    trust_octaves: float = TRUST_START
    tabu: dict[Setting, int] = field(default_factory=dict)  # until which window
    windows: int = 0
    windows_since_fit: int = 0
    patience: int = 0
    cooldown_s: float = 0.0
    mismatch_ticks: int = 0
    faults: int = 0
    backoff_s: float = 0.0
    growth_throughput_rps: float | None = None  # when it last grew for a queue that is still there
    last_shrank: bool = False  # the last move took something away, which may still drain
    no_shrink_windows: int = 0  # to be measured before anything smaller is taken
    shrink_penalty: int = 1  # doubles when clients queue soon after a shrink
    shrunk_at_window: int | None = None
    leverage_asked: bool = False  # the outstanding request wants to learn, not to gain
    closed: Observation | None = None  # the window that closed in this tick
    events: list[str] = field(default_factory=list)  # of this tick

    def advance(self, event: Event, note: str = "") -> None:
        """Let `event` change the phase, and say so."""
        before, self.phase = self.phase, after(self.phase, event)
        if self.phase is not before:
            self.events.append(f"{before} -> {self.phase}: {note or event}")

    @property
    def warm(self) -> bool:
        """Whether enough has been observed, in this run or an earlier one, to act."""
        return len(self.evidence) >= self.policy.explore.warmup_windows

    def unsettle(self) -> None:
        """The plant is changing: measure nothing until it has settled."""
        self.window = None
        self.still_s = 0.0
        self.settled = False

    def digest(self) -> str:
        """Sixteen hex digits that two equal histories share."""
        probes, seconds = self.budget.left
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
            self.cooldown_s,
            self.backoff_s,
            self.no_shrink_windows,
            self.shrink_penalty,
            probes,
            seconds,
            self.schedule.load_rps,
        )
        return hashlib.blake2b(repr(hot).encode(), digest_size=8).hexdigest()


def new_state(policy: Policy, resume: Resume) -> State:
    """The state in which a run begins."""
    state = State(
        policy=policy,
        guard=Guard(policy),
        budget=Budget(policy.explore),
        evidence=EvidenceStore(resume.evidence),
        baseline=resume.baseline,
        last_safe=resume.last_safe,
        plan=resume.plan,
        plan_version=0 if resume.plan is None else resume.plan.version,
    )
    state.events.extend(resume.notes)
    return state
