"""The failure ladder and the list of what makes it safe to leave on, played through the simulator.

Only what no other test of the whole daemon shows: the rungs "no data", "blind too long", "breach"
and "another hand", and dying at any step, are in test_simulate.py. docs/failures.md has them all.
The learner is a script that asks for what the rule forbids, but for two tests of what the real one
may do.
"""

import subprocess
import sys
from itertools import pairwise

import pytest
from gunicorn_service import until
from playing import PLANT, POLICY, curious, faults, knowing, makers, play, stubborn

from poolwright.core.model import Action, ClampKind

KNOB = "workers"
TRIED = {"probe", "dither", "compare"}


def with_policy(old, new):
    """POLICY with one text in it replaced."""
    assert POLICY.count(old) == 1, old
    return POLICY.replace(old, new)


def levels(played, first_s, last_s):
    """The levels that there really were."""
    return {s.moment.truth.level for s in played.between(first_s, last_s)}


def tried(played, first_s=0.0, last_s=1e9):
    """The experiments that began; of a comparison the way to the baseline, not the one back."""
    before = {b.tick.index: a.decision.probing for a, b in pairwise(played.seen)}
    return [
        s for s in played.moves(first_s, last_s)
        if str(s.decision.action) in TRIED
        and not (s.decision.action is Action.COMPARE and before[s.tick.index])
    ]  # fmt: skip


def clamps(played, kind):
    """The decisions that a rule of the envelope or a forecast changed."""
    return [s for s in played.seen if any(c.kind is kind for c in s.decision.clamps)]


def told(played, name):
    """A number on which each decision rests."""
    return [dict(s.decision.evidence).get(name) for s in played.seen]


# -- the ladder ----------------------------------------------------------------------------------


def test_rung_breach_a_probe_whose_requests_fail_is_left_at_once(tmp_path):
    """At 26 s four workers are tried, and from 30 s every third request fails."""
    fails = faults("kind: disturbance, fail_ratio: 30%, at: 30s, lasts: 30s")
    played = play(tmp_path, duration="1m", more=fails)
    assert levels(played, 29, 29) == {4}
    first = next(s for s in played.between(30, 60) if "error_breach" in s.decision.guard_trips)
    (retreat,) = (s for s in played.moves(30, 60) if str(s.decision.action) == "retreat")
    assert str(retreat.decision.reason) == "error_breach"
    assert retreat.at_s - first.at_s <= 1.0
    assert retreat.decision.setting[KNOB] == 6
    assert str(retreat.decision.phase) == "cooldown"


BREAKS = """
import sys
from poolwright.cli.main import main
from poolwright.core.controller import Controller

real = Controller.step

def step(self, tick):
    assert tick.index < 5, "a bug of ours"
    return real(self, tick)

Controller.step = step
sys.exit(main(["run", "--config", sys.argv[1]]))
"""
CONFIG = """
version: 1
listen: 127.0.0.1:0
control: {folder}/control.sock
journal: {folder}/journal.db
policies: {folder}
pools:
  - name: web
    policy: {folder}/mine.yaml
    actuator: {{kind: gunicorn, pidfile: {pidfile}}}
    sensors:
      - {{kind: access_log, listen: "127.0.0.1:0"}}
      - {{kind: process_tree, pidfile: {pidfile}}}
      - {{kind: host}}
"""
MINE = """
version: 1
name: mine
mode: auto
knobs: {workers: {min: 1, max: 8, baseline: 2}}
objective: {memory: 1.0}
cadence: 200ms
"""


@pytest.mark.e2e
def test_rung_own_faults_the_baseline_is_restored_and_the_exit_status_is_not_zero(
    gunicorn_service, tmp_path
):
    service = gunicorn_service(workers=4)
    (tmp_path / "mine.yaml").write_text(MINE)
    config = tmp_path / "config" / "poolwright.yaml"
    config.parent.mkdir()
    config.write_text(CONFIG.format(folder=tmp_path, pidfile=service.pidfile))
    ended = subprocess.run(
        [sys.executable, "-c", BREAKS, str(config)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 70, ended.stderr  # EX_SOFTWARE: systemd starts it again
    assert "a bug of ours" in ended.stderr
    until(lambda: len(service.children()) == 2, 20.0, "the baseline")


# -- envelope and guard --------------------------------------------------------------------------


def test_envelope_a_far_level_is_reached_in_small_steps_with_rests_that_are_written_down(tmp_path):
    played = play(
        tmp_path,
        duration="80s",
        policy=with_policy("settle: 2s", "settle: 2s, dwell: 8s"),
        more="commands:\n  - {at: 35s, command: pin, workers: 16, who: ann, why: a test}\n",
    )
    steps = [s for s in played.moves(35, 80) if str(s.decision.reason) == "pinned"]
    assert [s.decision.setting[KNOB] for s in steps][-1] == 16
    assert len(steps) >= 3
    assert all(s.decision.setting[KNOB] - s.moment.truth.level <= 4 for s in steps)
    assert all(b.at_s - a.at_s >= 8.0 for a, b in pairwise(steps))
    assert clamps(played, ClampKind.SLEW)
    assert clamps(played, ClampKind.DWELL)
    assert levels(played, 65, 80) == {16}


def grown(tmp_path, plant, made, policy=POLICY, more=""):
    """Four times the load after forty seconds: more than six workers can serve."""
    load = "load: {kind: step, before: 40/s, after: 160/s, at: 40s}"
    assert PLANT.count("load: {kind: constant, rps: 40/s}") == 1
    plant = PLANT.replace("load: {kind: constant, rps: 40/s}", f"{plant}\n{load}")
    return play(tmp_path, duration="2m", plant=plant, policy=policy, more=more, made=made)


def test_guard_without_a_limit_in_the_way_the_pool_grows_to_what_the_load_needs(tmp_path):
    """And an overload of its own is not taken for a slow dependency."""
    played = grown(tmp_path, "", makers())
    assert min(levels(played, 70, 120)) >= 10
    assert "slow_dependency" not in played.reasons(0, 120)


def test_guard_memory_is_forecast_before_a_worker_is_added(tmp_path):
    """85 % of 3.2 GB is room for eight workers of 200 MB, and not for nine."""
    limit = "  memory: {base: 0B, worker: 200MB, host: 1GB, limit: 3.2GB}"
    played = grown(tmp_path, limit, knowing(rps=12.0))  # fourteen at 160/s
    assert clamps(played, ClampKind.MEMORY)
    used = {
        r.value for s in played.seen for r in s.moment.truth.readings
        if r.signal == "host_memory_used_bytes"
    }  # fmt: skip
    assert max(used) <= 0.85 * 3.2e9
    assert max(levels(played, 0, 120)) in {7, 8}


def test_guard_connections_are_kept_below_what_the_dependency_accepts(tmp_path):
    """90 % of nine are eight; one worker more than nine, and its requests would fail."""
    limit = "  connections: {per_worker: 1, limit: 9, over: fail}"
    played = grown(tmp_path, limit, knowing(rps=12.0))
    assert clamps(played, ClampKind.CONNECTIONS)
    assert max(levels(played, 0, 120)) == 8


def queueing(played, first_s, last_s):
    """The growths because clients wait."""
    return [s for s in played.moves(first_s, last_s) if str(s.decision.reason) == "queueing"]


def test_guard_cpu_clients_that_queue_grow_nothing_on_a_host_whose_cpu_is_used_up(tmp_path):
    more = faults("kind: disturbance, foreign_cores: 40, at: 35s, lasts: 60s")
    played = grown(tmp_path, "", stubborn(6), more=more)
    assert "slo_breach" in {r for s in played.between(40, 94) for r in s.decision.guard_trips}
    assert not queueing(played, 35, 94)
    assert queueing(played, 95, 120)  # as soon as there is CPU to serve them


def test_guard_pressure_clients_that_queue_grow_nothing_while_tasks_stall(tmp_path):
    """Tasks wait for one another, and yet a fifth of the CPU is left."""
    policy = with_policy("guard: {", "guard: {pressure: {cpu: {below: 5%}}, ")
    more = faults("kind: disturbance, foreign_cores: 2, at: 35s, lasts: 60s")
    played = grown(tmp_path, "", stubborn(6), policy=policy, more=more)
    assert "pressure_breach" in {r for s in played.between(40, 94) for r in s.decision.guard_trips}
    assert not queueing(played, 40, 94)
    assert queueing(played, 95, 120)


def test_guard_pressure_a_probe_is_left_and_nothing_is_tried_while_tasks_stall(tmp_path):
    policy = with_policy("guard: {", "guard: {pressure: {cpu: {below: 5%}}, ")
    more = faults("kind: disturbance, foreign_cores: 2.6, at: 30s, lasts: 40s")
    played = play(tmp_path, duration="90s", policy=policy, more=more, made=curious(5, 7))
    assert len(tried(played, 20, 30)) == 1
    (back,) = played.moves(30, 69)
    assert str(back.decision.reason) == "pressure_breach"
    assert str(back.decision.action) == "retreat"
    assert back.at_s <= 40
    assert tried(played, 70, 90)


# -- causes --------------------------------------------------------------------------------------


def test_causes_a_slow_dependency_is_held_and_not_chased_with_workers(tmp_path):
    """What each request waits for takes five times as long: ten workers would be busy, of six."""
    policy = with_policy("probes_per_hour: 120", "probes_per_hour: 0")
    slow = "kind: disturbance, dependency_factor: 5, at: 90s, lasts: 50s"
    played = play(tmp_path, duration="140s", policy=policy, more=faults(slow), made=makers())
    (before,) = levels(played, 80, 89)
    assert levels(played, 90, 139) == {before}
    assert "slow_dependency" in played.reasons(90, 139)


# -- shrinking -----------------------------------------------------------------------------------


def test_shrinking_waits_after_a_sudden_fall_in_load(tmp_path):
    """It takes three minutes to know what the load was before."""
    policy = with_policy("guard: {", "guard: {load_fall: {more_than: 30%, hold: 1m}, ")
    load = "load: {kind: step, before: 120/s, after: 20/s, at: 200s}"
    plant = PLANT.replace("load: {kind: constant, rps: 40/s}", load).replace(
        "workers: 6", "workers: 10"
    )
    played = play(tmp_path, duration="290s", policy=policy, plant=plant, made=knowing(rps=10.0))
    fell = next(s for s in played.seen if str(s.decision.reason) == "load_fell")
    (held,) = levels(played, fell.at_s, fell.at_s)
    hold = [v for s, v in zip(played.seen, told(played, "no_shrink_s"), strict=True) if v]
    assert 200.0 <= fell.at_s <= 250.0
    assert max(hold) == pytest.approx(60.0, abs=2.0)
    assert min(levels(played, fell.at_s, 200.0 + 60.0)) == held
    assert min(levels(played, 280, 290)) < held


def test_shrinking_that_made_clients_queue_comes_back_later_and_later(tmp_path):
    """The learner is sure that two workers are enough, of load for two and a half."""
    played = play(tmp_path, duration="6m", made=stubborn(2))
    shrunk = [
        b.at_s for a, b in pairwise(played.moves()) if b.decision.setting[KNOB] == 2
        if a.decision.setting[KNOB] > 2
    ]  # fmt: skip
    gaps = [b - a for a, b in pairwise(shrunk)]
    assert len(gaps) >= 2
    assert gaps == sorted(gaps)
    assert gaps[-1] > 1.5 * gaps[0]
    assert played.report.pools[0].requests_failed == 0


# -- budgets -------------------------------------------------------------------------------------


def test_budget_probes_an_hour_are_not_exceeded(tmp_path):
    policy = with_policy("probes_per_hour: 120", "probes_per_hour: 2")
    played = play(tmp_path, duration="2m", policy=policy, made=curious(5, 7))
    assert len(tried(played)) == 2
    assert "budget_spent" in played.reasons(0, 120)


def test_budget_of_time_ends_probing(tmp_path):
    """One per cent of an hour is 36 seconds, and a probe that has begun is measured."""
    policy = with_policy("budget: 50%", "budget: 1%")
    played = play(tmp_path, duration="2m", policy=policy, made=curious(5, 7))
    away = sum(s.decision.probing for s in played.seen)
    assert 0 < away <= 36 + 20
    assert "budget_spent" in played.reasons(0, 120)


def test_budget_of_errors_that_burns_stops_probing_before_anything_breaches(tmp_path):
    """Two and a half of the five per cent that may fail do: no breach, but half of the budget."""
    policy = with_policy("probes_per_hour: 120", "probes_per_hour: 120, burn_rate: 0.25")
    played = play(
        tmp_path, duration="110s", policy=policy, made=curious(5, 7),
        more=faults("kind: disturbance, fail_ratio: 2.5%, at: 1s, lasts: 109s"),
    )  # fmt: skip
    assert not tried(played)
    assert "budget_burns" in played.reasons(0, 110)
    assert not {r for s in played.seen for r in s.decision.guard_trips}
    short = [v for s, v in zip(played.seen, told(played, "burn_short"), strict=True)
             if s.at_s > 60]  # fmt: skip
    assert 0.3 < sum(short) / len(short) < 0.7


def test_budget_nothing_is_tried_in_a_quiet_window_and_the_guard_goes_on(tmp_path):
    """The simulation begins on a Monday at midnight; clients queue within the window."""
    policy = with_policy("explore:\n    {", 'explore:\n    {quiet: ["Mon 00:00-00:02 UTC"], ')
    load = "load: {kind: burst, base: 40/s, peak: 120/s, at: 40s, lasts: 25s}"
    plant = PLANT.replace("load: {kind: constant, rps: 40/s}", load)
    played = play(tmp_path, duration="140s", policy=policy, plant=plant, made=curious(5, 7))
    assert not tried(played, 0, 120)
    assert "quiet_time" in played.reasons(0, 120)
    assert max(levels(played, 45, 70)) > 6  # clients queued: that is no experiment
    assert tried(played, 120, 140)


# -- the operator --------------------------------------------------------------------------------


def test_operator_a_freeze_of_the_policy_forbids_even_the_way_back(tmp_path):
    """Frozen while four workers are tried and nothing can be seen: held, until the freeze ends."""
    frozen = (
        '  override: [{freeze: true, since: "2026-01-05T00:00:29Z", '
        'until: "2026-01-05T00:00:55Z", reason: change freeze}]\n'
    )
    blind = "kind: sensor, does: error, sensor: requests, at: 30s, lasts: 40s"
    played = play(tmp_path, duration="70s", policy=POLICY + frozen, more=faults(blind))
    assert levels(played, 30, 54) == {4}
    assert set(played.reasons(30, 54)) <= {"frozen", "no_data"}
    (move,) = played.moves(29, 69)
    assert str(move.decision.reason) == "blind_too_long"
    assert 55.0 <= move.at_s <= 57.0


# -- proof of benefit ----------------------------------------------------------------------------


def test_benefit_a_learner_that_is_wrong_is_found_out_and_the_baseline_put_back(tmp_path):
    """Nine workers cost half as much memory again as six, and gain nothing."""
    policy = with_policy("memory: 0.2", "memory: 1.0").replace(
        "holdout_every: 0s", "holdout_every: 4m"
    )
    plant = PLANT.replace("40/s", "60/s")  # enough of them that windows of 10 s are alike
    played = play(tmp_path, duration="290s", policy=policy, plant=plant, made=stubborn(9))
    done = [s.decision.holdout for s in played.seen if s.decision.holdout is not None]
    assert len(done) >= 3
    assert all(h.gain_ratio < 0.0 for h in done)
    assert {h.baseline[KNOB] for h in done} == {6}
    assert played.phases(270, 290) == ["stood_down"]
    assert levels(played, 270, 290) == {6}
    down = next(s for s in played.seen if str(s.decision.phase) == "stood_down")
    worth = down.moment.benefit
    assert worth.upper < 0.01
    assert not played.moves(down.at_s + 10, 290)


def test_benefit_a_comparison_is_paid_from_the_budget_of_probes(tmp_path):
    policy = with_policy("holdout_every: 0s", "holdout_every: 4m")
    played = play(tmp_path, duration="2m", policy=policy, made=stubborn(5))
    left = told(played, "probes_left")
    compared = [s for s in tried(played) if s.decision.action is Action.COMPARE]
    assert compared
    for seen in compared:
        before = left[seen.tick.index - 1]
        assert seen.decision.setting[KNOB] == 6  # the baseline
        assert left[seen.tick.index] == pytest.approx(before - 1.0, abs=0.1)
