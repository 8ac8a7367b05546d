"""Every kind of fault leads to the promised rung of the failure ladder (design, safety).

The daemon is the real one: tick, journal, recovery, core. The learner is a script that tries four
workers at 26 s and has converged on them at 47 s; what is to meet a daemon at rest comes later.
"""

from itertools import pairwise

import pytest
from playing import PLANT, POLICY, curious, faults, play

from poolwright.core.controller import Controller
from poolwright.core.envelope import violations
from poolwright.core.model import ActuationStatus, Status
from poolwright.engine.replay import replay
from poolwright.engine.tick import CoreFault
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal

KNOB = "workers"


def bounded(played):
    """Every move stays within bounds and slew, and is one that the journal has as an intent."""
    policy = played.stage.policies["web"]
    (knob,) = policy.knobs
    for seen in played.moves():
        assert not violations(seen.decision.setting, policy)
        free = str(seen.decision.action) in {"retreat", "restore"} or (
            str(seen.decision.reason) == "reassert"  # back to where the slew had been kept
        )
        step = abs(seen.decision.setting[KNOB] - seen.moment.truth.level)
        assert free or step <= knob.slew_per_move


def replays(played):
    """Every run in the journal decides the same again."""
    with JournalReader(played.journal) as reader:
        runs = reader.runs()
        for row in runs:
            assert replay(reader, row.id, Controller).identical, row
    return len(runs)


@pytest.fixture
def run(tmp_path):
    """Plays a scenario, and checks what must hold in any."""

    def run(*lines, **parts):
        parts.setdefault("more", "")
        parts["more"] += faults(*lines) if lines else ""
        played = play(tmp_path, **parts)
        bounded(played)
        replays(played)
        return played

    return run


def test_without_faults_it_warms_up_explores_and_converges(run):
    played = run(duration="100s")
    assert played.phases(0, 100)[:3] == ["warmup", "explore", "converged"]
    (pool,) = played.report.pools
    assert pool.requests_failed == 0
    assert 0 < pool.probes <= 20
    assert pool.converged_at_s is not None
    assert played.report.lives == 1


# -- no data -> hold; blind too long -> last safe ------------------------------------------------


@pytest.mark.parametrize("does", ["silent", "error", "hang", "stale", "nan", "inf", "negative"])
def test_no_data_holds(run, does):
    fault = f"kind: sensor, does: {does}, sensor: requests, at: 50s, lasts: 9s"
    played = run(fault, duration="60s")
    assert played.reasons(50, 58) == ["no_data"]
    assert not played.moves(50, 58)
    if does not in {"silent", "negative"}:  # a negative reading is made, and not believed
        assert all(
            r.status is not Status.OK
            for seen in played.between(50, 58)
            for r in seen.tick.readings
            if r.signal == "latency_s"
        )


@pytest.mark.parametrize("does", ["silent", "error", "hang", "stale", "nan"])
def test_blind_too_long_goes_to_the_last_safe_setting(run, does):
    """At 26 s four workers are tried; nothing says yet that this is safe."""
    fault = f"kind: sensor, does: {does}, sensor: requests, at: 30s, lasts: 30s"
    played = run(fault, duration="75s")
    assert played.between(29, 29)[0].decision.setting[KNOB] == 4
    (move,) = played.moves(30, 59)
    assert str(move.decision.reason) == "blind_too_long"
    assert str(move.decision.action) == "retreat"
    assert move.at_s - 30.0 <= 10.0  # guard.blind
    assert move.decision.setting[KNOB] == 6
    assert played.phases(32, 59) == ["blind"]
    assert played.phases(60, 75)[0] == "warmup"


@pytest.mark.parametrize("sense", ["host", "processes", "queue", "power"])
def test_one_blind_sensor_moves_nothing_out_of_bounds_and_passes(run, sense):
    played = run(f"kind: sensor, does: error, sensor: {sense}, at: 50s, lasts: 8s", duration="80s")
    assert not [s for s in played.moves(50, 58) if str(s.decision.action) == "probe"]
    assert played.phases(70, 80)[-1] == "converged"


def test_a_lie_of_a_tenth_of_the_load_is_not_followed_below_what_the_queue_needs(run):
    """Nobody can see through a plausible lie; what is moved stays small, and it is found out."""
    played = run(
        "kind: sensor, does: scaled, factor: 0.1, sensor: requests, at: 60s, lasts: 60s",
        duration="4m",
    )
    (pool,) = played.report.pools
    assert pool.requests_failed == 0
    assert played.phases(200, 240)[-1] in {"converged", "explore"}


def test_a_reset_counter_moves_nothing(run):
    fault = "kind: sensor, does: reset, sensor: requests, at: 60s, lasts: 2s"
    played = run(fault, duration="70s")
    assert not played.moves(60, 65)


# -- breach -> retreat at once -------------------------------------------------------------------


def test_a_breach_in_a_probe_retreats_at_once(run):
    """Requests get dear while four workers are tried: k of n ticks over the SLO, then back."""
    played = run("kind: disturbance, cpu_factor: 4, at: 30s, lasts: 40s", duration="70s")
    assert played.between(29, 29)[0].decision.probing
    first = next(s for s in played.between(30, 70) if s.decision.guard_trips)
    retreat = next(s for s in played.moves(30, 70) if str(s.decision.action) == "retreat")
    assert retreat.at_s - first.at_s <= 1.0
    assert retreat.decision.setting[KNOB] > 4
    assert str(retreat.decision.phase) == "cooldown"
    assert not [
        s for s in played.moves(retreat.at_s + 1, retreat.at_s + 10)
        if str(s.decision.action) == "probe"
    ]  # fmt: skip


# -- another hand -> MANUAL ----------------------------------------------------------------------


def test_another_hand_is_respected_until_resume(run):
    played = run(
        "kind: other-hand, to: 12, at: 60s",
        "kind: other-hand, to: 11, at: 80s, every: 10s, times: 3",
        more="commands:\n  - {at: 120s, command: resume, who: ann}\n",
        duration="160s",
    )
    assert played.phases(63, 119) == ["manual"]
    assert not played.moves(60, 119)
    assert played.between(110, 110)[0].moment.truth.level == 11
    assert played.phases(120, 160)[0] == "warmup"
    assert played.moves(120, 160)


def test_another_hand_is_undone_where_the_policy_says_so(run):
    policy = POLICY.replace("mode: auto", "mode: auto\n  on_other_hand: reassert")
    played = run("kind: other-hand, to: 12, at: 60s", policy=policy, duration="90s")
    assert "manual" not in played.phases(0, 90)
    assert "reassert" in played.reasons(60, 80)
    assert played.between(90, 90)[0].moment.truth.level < 12


@pytest.mark.parametrize("does", ["reload", "restart"])
def test_a_reload_is_no_other_hand(run, does):
    played = run(f"kind: plant, does: {does}, to: 9, at: 60s", duration="90s")
    assert played.between(60, 60)[0].decision.phase == "warmup"
    assert "manual" not in played.phases(0, 90)
    assert played.between(60, 60)[0].decision.setting[KNOB] == 9  # taken over without a jump


def test_a_worker_that_dies_is_replaced_and_is_no_other_hand(run):
    fault = "kind: plant, does: worker-killed, at: 60s, every: 5s, times: 3"
    played = run(fault, duration="90s")
    assert "manual" not in played.phases(0, 90)
    assert played.report.pools[0].requests_failed > 0


def test_a_service_that_is_gone_is_held_and_taken_up_again(run):
    played = run("kind: service-down, at: 60s, lasts: 10s", duration="80s")
    assert played.reasons(60, 69) == ["read_back_failed"]
    assert not played.moves(60, 70)
    assert played.between(70, 70)[0].decision.phase == "warmup"
    assert 300 < played.report.pools[0].requests_failed < 600  # forty a second for ten seconds


# -- the actuator --------------------------------------------------------------------------------


@pytest.mark.parametrize(("does", "status"), [("fails", "failed"), ("refuses", "refused")])
def test_a_move_that_fails_is_not_hammered(run, does, status):
    played = run(f"kind: actuator, does: {does}, at: 20s, lasts: 100s", duration="2m")
    tried = [s.at_s for s in played.moves(20, 119)]
    assert 2 <= len(tried) <= 5
    gaps = [b - a for a, b in pairwise(tried)]
    assert gaps == sorted(gaps)  # it waits longer after each
    assert {s.moment.truth.level for s in played.between(20, 119)} == {6}
    outcomes = {str(s.tick.actuation.status) for s in played.between(20, 119) if s.tick.actuation}
    assert outcomes == {status}
    assert "actuation_failed" in played.reasons(20, 119)


def test_a_slow_move_is_waited_for(run):
    played = run("kind: actuator, does: delays, delay: 5s, at: 20s, lasts: 40s", duration="1m")
    first = played.moves(20, 60)[0]
    within = played.between(first.at_s + 1, first.at_s + 4)
    assert {str(s.decision.reason) for s in within} == {"actuation_pending"}
    assert not [s for s in within if s.decision.moves]


def test_half_a_move_is_taken_as_it_is(run):
    played = run("kind: actuator, does: partial, at: 20s, lasts: 40s", duration="1m")
    first = played.moves(20, 60)[0]
    after = played.between(first.at_s + 1, first.at_s + 1)[0]
    assert after.tick.actuation.status is ActuationStatus.FAILED
    assert after.decision.setting[KNOB] == after.moment.truth.level == 5


def test_an_actuator_that_lies_is_treated_as_another_hand(run):
    played = run("kind: actuator, does: ignores, at: 20s, lasts: 100s", duration="2m")
    assert len(played.moves(20, 119)) == 1
    assert played.phases(35, 119) == ["manual"]


def test_a_level_that_cannot_be_read_is_held(run):
    played = run("kind: actuator, does: unreadable, at: 60s, lasts: 20s", duration="80s")
    assert played.reasons(60, 79) == ["read_back_failed"]
    assert not played.moves(60, 79)


# -- we ourselves --------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["step", "journal", "apply", "mid-apply", "close"])
def test_killed_at_any_step_it_continues_from_what_is_there(run, point):
    played = run(f"kind: daemon-killed, before: {point}, at: 25s, down: 7s", duration="2m")
    assert played.report.lives == 2
    assert played.report.pools[0].minutes == 2  # the world went on
    born = next(s for s in played.seen if s.moment.life == 2)
    assert str(born.decision.phase) == "warmup"
    assert born.decision.setting[KNOB] == born.moment.truth.level  # no jump
    assert not born.decision.moves
    assert born.moment.baseline[KNOB] == 6
    assert any("did not end in order" in event for event in born.decision.events)
    if point in {"apply", "mid-apply", "close"}:
        found = {"apply": 6, "mid-apply": 5, "close": 4}[point]
        assert born.moment.truth.level == found
        assert any(f"found workers={found}" in event for event in born.decision.events)
    journal = SqliteJournal(played.journal)
    assert not journal.open_intents("web")
    journal.close()
    assert played.phases(90, 110)[-1] == "converged"  # what it had learned, it still has


def test_a_full_disk_holds_the_level(run):
    played = run("kind: disk-full, at: 20s, lasts: 40s", duration="2m")
    assert {s.moment.truth.level for s in played.between(21, 59)} == {6}
    refused = [s.tick.actuation for s in played.between(21, 59) if s.tick.actuation is not None]
    assert refused
    assert all("not journalled" in outcome.detail for outcome in refused)
    assert played.moves(60, 120)  # and goes on when there is room again


def test_killed_while_the_disk_is_full_it_starts_again_when_there_is_room(run):
    played = run(
        "kind: disk-full, at: 58s, lasts: 20s",
        "kind: daemon-killed, before: step, at: 60s",
        duration="140s",
    )
    assert played.report.failed_starts >= 2
    assert not played.between(61, 77)
    assert played.phases(110, 140)[-1] == "converged"


def test_a_core_that_fails_ends_the_simulation_with_its_words(tmp_path, monkeypatch):
    def fail(self, tick):
        raise ValueError("a bug")

    monkeypatch.setattr(Controller, "step", fail)
    with pytest.raises(CoreFault, match="a bug"):
        play(tmp_path)


# -- clocks --------------------------------------------------------------------------------------


def test_a_step_of_the_wall_clock_costs_one_latency_and_nothing_else(run):
    played = run(
        "kind: wall-jump, by: 1h, at: 60s",
        "kind: wall-jump, by: 1h, back: true, at: 70s",
        duration="90s",
    )
    assert "blind" not in played.phases(0, 90)
    for at in (60, 70):
        (seen,) = played.between(at, at)
        lost = {r.signal for r in seen.tick.readings if r.status is Status.ERROR}
        assert lost == {"latency_s"}
    walls = [s.tick.wall_ns - s.tick.mono_ns for s in played.between(59, 71)]
    assert max(walls) - min(walls) == 3600 * 10**9


def test_a_suspended_machine_drops_what_was_being_measured(run):
    played = run("kind: suspend, at: 60s, lasts: 60s", duration="130s")
    assert not played.between(61, 120)
    assert played.reasons(121, 121) == ["clock_gap"]
    assert not played.moves(121, 125)


# -- the learner ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "told"), [("hangs", "no plan within 20 s"), ("crashes", "signal 9")]
)
def test_a_learner_that_dies_is_asked_again_and_the_old_plan_goes_on(run, does, told):
    fault = f"kind: learner, does: {does}, at: 30s, lasts: 50s"
    played = run(fault, made=curious(5, 7), duration="2m")
    failures = [s.tick.learner_fault for s in played.between(30, 100) if s.tick.learner_fault]
    assert len(failures) >= 2
    assert all(told in text for text in failures)
    held = [s.moment.plan for s in played.between(30, 80)]
    assert all(plan is not None for plan in held)
    assert [s for s in played.between(80, 120) if s.tick.plan is not None]


def test_a_slow_learner_delays_and_stops_nothing(run):
    fault = "kind: learner, does: slow, takes: 8s, at: 20s, lasts: 60s"
    played = run(fault, made=curious(5, 7), duration="80s")
    plans = [s.at_s for s in played.between(20, 80) if s.tick.plan is not None]
    assert len(plans) >= 3
    assert all(b - a >= 8.0 for a, b in pairwise(plans))


@pytest.mark.parametrize("seed", range(4))
def test_an_absurd_plan_is_followed_only_within_the_envelope(run, seed):
    """`bounded` looks at every move: bounds, slew. And clients are not left waiting."""
    played = run("kind: learner, does: absurd, at: 20s, lasts: 50s", seed=seed, duration="90s")
    assert [s for s in played.between(20, 70) if s.tick.plan is not None]
    assert played.report.pools[0].requests_failed == 0


# -- several pools, commands, reloads ------------------------------------------------------------


def two(rps=40):
    return "pools:\n" + "".join(
        f"  - name: {name}\n"
        + "\n".join(
            f"    {line}"
            for line in (POLICY + PLANT).replace("40/s", f"{rps}/s").splitlines()
            if line
        )
        + "\n"
        for name in ("web", "api")
    )


def test_two_pools_share_cores_and_are_tried_one_at_a_time(run):
    played = run(policy=two(), plant="", duration="2m")
    ticks = {}
    for seen in played.seen:
        ticks.setdefault(seen.at_s, {})[seen.moment.truth.pool] = seen.decision
    assert all(set(found) == {"web", "api"} for found in ticks.values())
    assert not [at for at, found in ticks.items() if all(d.probing for d in found.values())]
    assert any("host_busy" in str(d.reason) for found in ticks.values() for d in found.values())
    web = played.between(100, 100)[0].tick
    foreign = {r.signal: r.value for r in web.readings}
    assert foreign["host_cpu_cores"] > 1.5 * foreign["cpu_cores"]  # the neighbour is seen


def test_operators_are_obeyed_and_told_when_not(run):
    played = run(
        more="commands:\n"
        "  - {at: 50s, command: pin, workers: 9, who: ann, why: a test}\n"
        "  - {at: 70s, command: pause}\n"
        "  - {at: 75s, command: unpin}\n"
        "  - {at: 80s, command: pin, workers: 99}\n",
        duration="100s",
        made=curious(5, 7),
    )
    assert played.between(65, 65)[0].moment.truth.level == 9
    assert "pinned" in played.reasons(55, 65)
    (refusal,) = played.report.refusals
    assert refusal.startswith("pin web: ")
    assert played.phases(71, 100) == ["paused"]
    assert not played.moves(71, 100)


def test_a_reload_changes_the_policy_and_moves_only_into_the_new_bounds(run, tmp_path):
    body = POLICY.strip().removeprefix("policy:").replace("min: 2", "min: 8")
    body = body.replace("baseline: 6", "baseline: 8")
    written = "".join(f"    {line}\n" for line in body.splitlines() if line.strip())
    more = f"reload:\n- at: 60s\n  policy:\n{written}"
    played = play(tmp_path, seed=1, more=more, duration="2m")
    assert played.between(59, 59)[0].moment.truth.level < 8
    assert played.between(80, 80)[0].moment.truth.level == 8
    assert min(s.moment.truth.level for s in played.between(80, 120)) == 8
    assert replays(played) == 2


# -- determinism ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    more = faults(
        "kind: sensor, does: reset, at: 60s, lasts: 5s",
        "kind: daemon-killed, before: mid-apply, at: 20s",
        "kind: learner, does: absurd, at: 60s, lasts: 40s",
    )
    runs = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        made = curious(5, 7)
        runs.append(play(tmp_path / folder, seed=seed, more=more, made=made, duration="2m"))
    assert all(len(played.report.faults) == 3 for played in runs)  # each of them happened
    first, again, other = ([(s.tick, s.decision) for s in played.seen] for played in runs)
    assert first == again
    assert first != other
    assert runs[0].report == runs[1].report
