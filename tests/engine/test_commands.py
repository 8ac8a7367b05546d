"""What an operator asks, refused in a line or made whole; and whose the level is."""

import pytest
import ticks as make

from poolwright.core.model import (
    Action,
    Advice,
    Command,
    CommandKind,
    Decision,
    Kept,
    Phase,
    Reason,
    Setting,
    Tick,
    setting,
)
from poolwright.core.policy import Knob, Mode, Override, Relation
from poolwright.core.sample import Sample
from poolwright.engine.commands import completed, expiry, hands_off, refusal, standing
from poolwright.engine.snapshot import LearnerState, PoolSnapshot, Recent

NOW_NS = 1_789_000_000_000_000_000  # 2026-09-10T00:26:40Z
HOUR_NS = 3600 * 10**9
ADVICE = Advice(
    id="4f21",
    setting=setting(workers=6),
    replaces=setting(workers=4),
    gain=None,
    p_safe=None,
    reason=Reason.BEST_KNOWN,
)
TWO_KNOBS = make.policy(
    knobs=(Knob(name="threads", lower=1, upper=8), Knob(name="workers", lower=1, upper=16, step=3)),
    relations=(
        Relation(
            text="workers * threads <= 40", terms=((1, ("threads", "workers")), (-40, ()))
        ),
    ),
)  # fmt: skip


def snapshot(*, policy=None, held=None, advice=None, overrides=(), kept=None, previous=None):
    """A pool that holds `held`."""
    tick = Tick(index=7, mono_ns=0, wall_ns=NOW_NS, overrides=overrides)
    decision = Decision(
        tick=7,
        phase=Phase.CONVERGED,
        action=Action.HOLD,
        setting=held or setting(workers=4),
        moves=False,
        advice=advice,
        reason=Reason.BEST_KNOWN,
    )
    return PoolSnapshot(
        pool="web",
        run_id=1,
        policy=policy or make.policy(),
        endpoint="",
        baseline=None,
        tick=tick,
        sample=Sample(tick=7, dt_s=1.0),
        recent=Recent(),
        decision=decision,
        plan=None,
        last_move=None,
        last_move_wall_ns=None,
        previous=previous,
        learner=LearnerState.ASLEEP,
        learner_rss_bytes=None,
        tick_duration_s=0.0,
        sensor_durations_s=(),
        counters=(),
        kept=kept or Kept(),
    )


def ask(kind, **more):
    return Command(kind=CommandKind(kind), who="ana", **more)


def pin(until=None, **levels):
    return ask("pin", setting=setting(**levels), until_wall_ns=until)


OBSERVES = {"policy": make.policy(mode=Mode.OBSERVE)}
FROZEN = {"overrides": (Override(reason="launch day", freeze=True),)}
PINNED = {"overrides": (Override(reason="launch day", pin=(("workers", 12),)),)}
NARROW = {"overrides": (Override(reason="cheap week", bounds=(("workers", 2, 5),)),)}

REFUSED = [
    (pin(workers=40), {}, "workers=40 is outside 1..16"),
    (pin(worker=4), {}, "there is no knob worker; there is workers"),
    (ask("pin"), {}, "pin needs a setting, such as workers=12"),
    (pin(NOW_NS, workers=5), {}, "2026-09-10T00:26:40Z has passed"),
    (pin(workers=5), OBSERVES, "policy test is in mode observe: poolwright moves nothing"),
    (
        pin(workers=5),
        FROZEN,
        "the policy freezes every move (launch day); pin cannot change that",
    ),
    (
        pin(workers=6),
        NARROW,
        "workers=6 is outside 2..5, to which the policy is narrowed now (cheap week)",
    ),
    (ask("unpin"), {}, "nothing is pinned"),
    (
        ask("unpin"),
        PINNED,
        "the policy pins workers=12 (launch day); change the policy",
    ),
    (ask("approve", advice_id="4f21"), {}, "there is no advice now"),
    (
        ask("approve", advice_id="0000"),
        {"advice": ADVICE},
        "advice '0000' is not current; '4f21' is",
    ),
    (ask("reject", advice_id=""), {"advice": ADVICE}, "advice '' is not current; '4f21' is"),
    (
        ask("approve", advice_id="4f21"),
        {"advice": ADVICE, **PINNED},
        "the policy pins workers=12 (launch day); approve cannot change that",
    ),
    (
        ask("approve", advice_id="4f21"),
        {"advice": ADVICE, "kept": Kept(pin=setting(workers=9))},
        "it is pinned to workers=9; unpin first",
    ),
    (
        ask("rollback"),
        {},
        "nothing was moved since the daemon started; name the setting to go back to",
    ),
    (
        ask("rollback"),
        OBSERVES,
        "policy test is in mode observe: poolwright moves nothing",
    ),
    (ask("rollback", setting=setting(workers=0)), {}, "workers=0 is outside 1..16"),
]


@pytest.mark.parametrize(("command", "world", "why"), REFUSED, ids=[w for _, _, w in REFUSED])
def test_refused_in_one_line(command, world, why):
    assert refusal(command, snapshot(**world)) == why


ACCEPTED = [
    (ask("pause"), OBSERVES),
    (ask("resume"), FROZEN),
    (pin(workers=5), {}),
    (pin(NOW_NS + HOUR_NS, workers=16), {"policy": make.policy(mode=Mode.RECOMMEND)}),
    (pin(workers=5), PINNED),
    (ask("unpin"), {"kept": Kept(pin=setting(workers=5))}),
    (ask("approve", advice_id="4f21"), {"advice": ADVICE}),
    (ask("reject", advice_id="4f21"), {"advice": ADVICE, **OBSERVES}),
    (ask("rollback"), {"previous": setting(workers=3)}),
    (ask("rollback", setting=setting(workers=3)), {}),
]


@pytest.mark.parametrize(("command", "world"), ACCEPTED, ids=[str(c.kind) for c, _ in ACCEPTED])
def test_accepted(command, world):
    assert refusal(command, snapshot(**world)) == ""


def test_before_the_pool_was_seen_only_what_moves_nothing_is_accepted():
    assert refusal(ask("pause"), None) == ""
    assert refusal(pin(workers=4), None) == "the pool has not been seen yet"


def test_relations_and_the_lattice_hold_for_what_would_be_held():
    held = Setting(levels=(("threads", 4), ("workers", 7)))
    world = snapshot(policy=TWO_KNOBS, held=held)
    assert refusal(pin(workers=10), world) == ""
    assert "'workers * threads <= 40'" in refusal(pin(workers=13), world)
    assert refusal(pin(workers=5), world) == "workers=5 is not on the lattice of step 3"


def test_an_unpin_right_after_a_pin_is_accepted_and_not_twice():
    world = snapshot()
    waiting = (pin(workers=5),)
    assert refusal(ask("unpin"), world, waiting) == ""
    assert refusal(ask("unpin"), world, (*waiting, ask("unpin"))) == "nothing is pinned"


def test_what_a_command_leaves_out_is_written_into_it():
    held = Setting(levels=(("threads", 4), ("workers", 7)))
    world = snapshot(policy=TWO_KNOBS, held=held, previous=held.replace("workers", 4))
    assert completed(pin(workers=10), world).setting == held.replace("workers", 10)
    assert completed(ask("rollback"), world).setting == held.replace("workers", 4)
    assert completed(ask("pause"), world) == ask("pause")


def test_a_pin_ends_when_its_time_has_passed():
    kept = Kept(pin=setting(workers=5), pin_until_wall_ns=NOW_NS)
    assert expiry(kept, NOW_NS - 1) is None
    over = expiry(kept, NOW_NS)
    assert (over.kind, over.who, over.why) == (
        CommandKind.UNPIN,
        "poolwright",
        "its time has passed",
    )
    assert expiry(Kept(pin=setting(workers=5)), NOW_NS) is None, "for ever"
    assert expiry(Kept(), NOW_NS) is None


WHOSE = [
    (Kept(phase=Phase.MANUAL), (), "it is manual"),
    (Kept(phase=Phase.PAUSED), (), "it is paused"),
    (Kept(pin=setting(workers=5), pin_why="ana: test"), (), "it is pinned to workers=5: ana: test"),
    (Kept(), FROZEN["overrides"], "the policy freezes every move: launch day"),
    (Kept(), PINNED["overrides"], "the policy pins workers=12: launch day"),
    (Kept(), NARROW["overrides"], ""),
    (Kept(phase=Phase.STOOD_DOWN), (), ""),
]


@pytest.mark.parametrize(("kept", "overrides", "why"), WHOSE)
def test_a_level_that_a_person_has_is_not_ours_to_restore(kept, overrides, why):
    assert hands_off(kept, overrides) == why


def test_what_stands_after_a_restart_is_said():
    kept = Kept(
        phase=Phase.STOOD_DOWN,
        pin=setting(workers=5),
        pin_until_wall_ns=NOW_NS,
        pin_why="ana: launch",
        rejected=("a", "b"),
    )
    assert standing(kept, NOW_NS - 1) == (
        "still stood down",
        "still pinned to workers=5 until 2026-09-10T00:26:40Z: ana: launch",
        "2 rejected advices are remembered",
    )
    assert standing(kept, NOW_NS)[1] == "the pin to workers=5 ended at 2026-09-10T00:26:40Z"
    assert standing(Kept(), NOW_NS) == ()
