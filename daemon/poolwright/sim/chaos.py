"""Random scenarios for the swarm: a service, a policy, and everything that can go wrong with both.

A case is a function of its seed. Its first part is chaos: faults, commands, policies that change.
Then all faults are over and an operator gives the level back, and poolwright has to come to rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from poolwright.core.model import Command, CommandKind, setting
from poolwright.core.policy import (
    ExploreRule,
    GuardRule,
    Knob,
    Mode,
    OtherHand,
    Override,
    Policy,
    Slo,
)
from poolwright.sim.faults import (
    ActuatorFault,
    DaemonKilled,
    DiskFull,
    Disturbed,
    Fault,
    LearnerFault,
    PlantBlow,
    Sense,
    SensorFault,
    ServiceDown,
    Suspend,
    WallJump,
)
from poolwright.sim.faults import (
    OtherHand as SomebodyElse,
)
from poolwright.sim.load import Burst, Constant, Diurnal, Load, Ramp, Step
from poolwright.sim.shape import Boot, Clients, Memory, PlantShape, ServiceClass
from poolwright.sim.world import START_WALL_NS

CHAOS_S = 120.0
CALM_S = 100.0
LONG_CALM_S = 500.0
POOL = "web"
_MIB = 2**20
_SensorLie = Literal[
    "silent", "error", "stale", "scaled", "stuck", "nan", "inf", "negative", "reset"
]  # fmt: skip
_GIVEN_BACK = (CommandKind.UNPIN, CommandKind.RESUME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One seed's scenario. `real_learner`: plans come from the surrogate, else they are wild."""

    seed: int
    shape: PlantShape
    workers: int
    load: Load
    policy: Policy
    reloads: tuple[tuple[float, Policy], ...]
    faults: tuple[Fault, ...]
    commands: tuple[tuple[float, Command], ...]
    real_learner: bool


def case(seed: int) -> Case:
    """The scenario of a seed."""
    random = Random(f"chaos:{seed}")
    shape = _shape(random)
    base_rps = random.uniform(8.0, 40.0)
    busy = base_rps * sum(c.share * (c.cpu + c.io) for c in shape.service)
    policy = _policy(random, seed, least=max(1, round(2.5 * busy)))
    knob = policy.knobs[0]
    workers = random.randint(knob.lower, knob.upper)
    return Case(
        seed=seed,
        shape=_with_room(shape, workers / policy.guard.memory_ratio),
        workers=workers,
        load=_load(random, base_rps),
        policy=policy,
        reloads=tuple(_reloads(random, policy)),
        faults=tuple(_fault(random) for _ in range(random.randint(0, 8))),
        commands=(*_commands(random, knob), *_give_back()),
        real_learner=random.random() < 0.04,
    )


def _shape(random: Random) -> PlantShape:
    mix = ServiceClass(
        cpu=random.uniform(0.001, 0.008),
        io=random.uniform(0.01, 0.08),
        io_cv=random.choice([0.0, 0.5, 1.0, 2.0]),
    )
    return PlantShape(
        service=(mix,),
        cores=random.choice([1.0, 2.0, 4.0]),
        memory=Memory(
            worker=random.randint(20, 200) * _MIB,
            warm=random.choice([0, 30 * _MIB]),
            leak=random.choice([0, 0, 20_000]),
            limit=random.randint(3, 12) * 10**9,
        ),
        boot=Boot(lasts=random.choice([0.0, 0.5, 2.0])),
        clients=random.choice([Clients(), Clients(timeout=2.0, retries=2)]),
    )


def _with_room(shape: PlantShape, workers: float) -> PlantShape:
    """The shape with memory for so many workers at least: it can run as it is found."""
    memory = shape.memory
    least = round(1.5 * (memory.host + memory.base + workers * (memory.worker + memory.warm)))
    return replace(shape, memory=replace(memory, limit=max(memory.limit, least)))


def _load(random: Random, rps: float) -> Load:
    """A load of at most a few times `rps`, and at most `rps` when the calm begins."""
    kind = random.choice(["constant", "step", "ramp", "burst", "diurnal"])
    late = CHAOS_S * 0.8
    if kind == "step":
        return Step(before=rps * random.uniform(0.2, 1.5), after=rps, at=random.uniform(20.0, late))
    if kind == "ramp":
        begins = random.uniform(20.0, late / 2)
        first = rps * random.uniform(0.1, 1.5)
        return Ramp(before=first, after=rps, at=begins, lasts=late - begins)
    if kind == "burst":
        at = random.uniform(20.0, late / 2)
        return Burst(base=rps, peak=rps * random.uniform(1.5, 4.0), at=at, lasts=late / 3)
    if kind == "diurnal":
        return Diurnal(low=rps * random.uniform(0.2, 0.7), high=rps, period=CHAOS_S)
    return Constant(rps=rps)


def _policy(random: Random, seed: int, least: int) -> Policy:
    """A policy whose bounds leave room for `least` workers."""
    lower = random.randint(1, max(1, least // 2))
    step = random.choice([1, 1, 1, 2])
    upper = lower + step * random.randint(max(4, least), 3 * max(4, least))
    knob = Knob(
        name="workers",
        lower=lower,
        upper=upper,
        step=step,
        slew_per_move=step * random.randint(1, 6),
        settle_s=random.choice([1.0, 2.0, 4.0]),
        drain_s=random.choice([0.0, 3.0]),
        dwell_s=random.choice([0.0, 0.0, 8.0]),
    )
    return Policy(
        name=f"chaos-{seed}",
        knobs=(knob,),
        objective=(("latency_p99_s", 1.0), ("memory_bytes", 0.3), ("power_w", 0.3)),
        slo=(
            Slo(response="error_ratio", below=0.05),
            Slo(response="latency_p99_s", below=random.choice([0.3, 0.6, 1.5])),
        ),
        guard=GuardRule(
            blind_s=random.choice([5.0, 10.0, 20.0]),
            cooldown_s=random.choice([5.0, 15.0]),
            fall_hold_s=random.choice([60.0, 1800.0]),
            memory_ratio=random.choice([0.5, 0.85]),
        ),
        explore=ExploreRule(
            window_s=random.choice([4.0, 6.0]),
            warmup_windows=random.choice([1, 2, 3]),
            patience=random.choice([2, 3]),
            probes_per_hour=random.choice([0.0, 20.0, 300.0]),
            budget_ratio=random.choice([0.05, 0.5]),
            burn_rate=random.choice([1.0, 5.0]),
            quiet=random.choice([(), (), ("daily 00:01-00:03 UTC",)]),
            holdout_every_s=random.choice([0.0, 900.0]),
        ),
        overrides=tuple(_overrides(random, knob)),
        mode=random.choice([Mode.AUTO] * 8 + [Mode.RECOMMEND, Mode.OBSERVE]),
        on_other_hand=random.choice([OtherHand.YIELD, OtherHand.YIELD, OtherHand.REASSERT]),
        seed=seed,
    )


def _overrides(random: Random, knob: Knob) -> list[Override]:
    if random.random() < 0.7:
        return []
    since = random.uniform(20.0, CHAOS_S * 0.6)
    begins = START_WALL_NS + round(since * 1e9)
    ends = begins + round(random.uniform(10.0, 80.0) * 1e9)
    level = knob.clamp(random.randint(knob.lower, knob.upper))
    middle = knob.clamp((knob.lower + knob.upper) // 2)
    one = random.choice(
        [
            Override(reason="freeze", freeze=True),
            Override(reason="pin", pin=((knob.name, level),)),
            Override(reason="bounds", bounds=((knob.name, knob.lower, middle),)),
        ]
    )
    return [replace(one, since_wall_ns=begins, until_wall_ns=ends)]


def _reloads(random: Random, policy: Policy) -> list[tuple[float, Policy]]:
    """Policies that replace the first, the last of them before the calm."""
    found = []
    for at in sorted(
        random.uniform(20.0, CHAOS_S * 0.9) for _ in range(random.choice([0, 0, 1, 2]))
    ):
        knob = policy.knobs[0]
        upper = random.choice([knob.upper, knob.upper + 4 * knob.step])
        policy = replace(
            policy,
            knobs=(replace(knob, upper=upper, slew_per_move=random.randint(1, 4) * knob.step),),
            mode=random.choice([policy.mode, Mode.AUTO]),
        )
        found.append((at, policy))
    return found


def _fault(random: Random) -> Fault:
    """One fault that is over when the calm begins."""
    at = random.uniform(5.0, CHAOS_S * 0.85)
    lasts = random.uniform(1.0, min(60.0, CHAOS_S * 0.95 - at))
    spells = (_sensor, _sensor, _actuator, _disturbed, _learner, _host)
    made = random.choice([*spells, _hand, _plant, _killed, _killed])
    return made(random, at, lasts)


def _sensor(random: Random, at: float, lasts: float) -> Fault:
    does: Sequence[_SensorLie] = (
        "silent", "error", "stale", "scaled", "stuck", "nan", "inf", "negative", "reset"
    )  # fmt: skip
    senses: Sequence[Sense | None] = (None, "requests", "queue", "processes", "host")
    return SensorFault(
        at=at,
        lasts=lasts,
        does=random.choice(does),
        sensor=random.choice(senses),
        factor=random.choice([0.01, 0.3, 3.0, 100.0]),
    )


def _actuator(random: Random, at: float, lasts: float) -> Fault:
    does: Sequence[Literal["fails", "refuses", "delays", "partial", "ignores", "unreadable"]]
    does = ("fails", "refuses", "delays", "partial", "ignores", "unreadable")
    return ActuatorFault(at=at, lasts=lasts, does=random.choice(does))


def _disturbed(random: Random, at: float, lasts: float) -> Fault:
    return Disturbed(
        at=at,
        lasts=lasts,
        dependency_factor=random.choice([1.0, 4.0]),
        cpu_factor=random.choice([1.0, 2.0]),
        foreign_cores=random.choice([0.0, 0.7]),
        fail_ratio=random.choice([0.0, 0.3]),
    )


def _learner(random: Random, at: float, lasts: float) -> Fault:
    does: Sequence[Literal["hangs", "crashes", "slow", "absurd"]]
    does = ("hangs", "crashes", "slow", "absurd")
    return LearnerFault(at=at, lasts=lasts, does=random.choice(does))


def _host(random: Random, at: float, lasts: float) -> Fault:
    """The clock, the machine, the disk, the whole service."""
    jump = WallJump(at=at, by=random.choice([5.0, 7200.0]), back=random.random() < 0.5)
    spells = [kind(at=at, lasts=lasts) for kind in (Suspend, DiskFull, ServiceDown)]
    return random.choice([jump, *spells])


def _hand(random: Random, at: float, _: float) -> Fault:
    return SomebodyElse(at=at, to=random.randint(1, 24))


def _plant(random: Random, at: float, _: float) -> Fault:
    does: Sequence[Literal["reload", "restart", "worker-killed"]]
    does = ("reload", "restart", "worker-killed")
    return PlantBlow(at=at, does=random.choice(does), to=random.choice([None, 2, 9]))


def _killed(random: Random, at: float, _: float) -> Fault:
    before: Sequence[Literal["step", "journal", "apply", "mid-apply", "close"]]
    before = ("step", "journal", "apply", "mid-apply", "close")
    return DaemonKilled(at=at, before=random.choice(before), down=random.choice([1.0, 6.0, 40.0]))


def _commands(random: Random, knob: Knob) -> list[tuple[float, Command]]:
    """What operators ask in the chaos."""
    found = []
    for _ in range(random.choice([0, 0, 1, 3])):
        kind = random.choice(
            [CommandKind.PAUSE, CommandKind.RESUME, CommandKind.PIN, CommandKind.UNPIN,
             CommandKind.APPROVE, CommandKind.REJECT, CommandKind.ROLLBACK]
        )  # fmt: skip
        level = random.randint(1, knob.upper + 2)
        pinned = setting(workers=level) if kind is CommandKind.PIN else None
        command = Command(kind=kind, who="chaos", why="no reason", setting=pinned)
        found.append((random.uniform(10.0, CHAOS_S * 0.95), command))
    return sorted(found, key=lambda item: item[0])


def _give_back() -> list[tuple[float, Command]]:
    """An operator gives the level back when the chaos is over; twice, if a daemon was down."""
    return [
        (CHAOS_S + after_s, Command(kind=kind, who="chaos", why="over"))
        for after_s in (1.0, 60.0, 300.0)
        for kind in _GIVEN_BACK
    ]
