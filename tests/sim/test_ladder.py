"""The failure ladder and the list of what makes it safe to leave on, played through the simulator.

Only what no other test of the whole daemon shows: the rungs "no data", "blind too long", "breach"
and "another hand", and dying at any step, are in test_simulate.py. docs/failures.md has them all.
"""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import playing
import pytest
from gunicorn_service import until
from playing import PLANT, POLICY, faults, makers, scripted

from poolwright.core.model import Action, ClampKind, Estimate, Setting
from poolwright.engine.stage import Made

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


def play(folder, **parts):
    """Play with the real learner, where nothing else is said."""
    return playing.play(folder, **{"made": makers(), **parts})


def stubborn(level):
    """A learner that is sure, whatever it is shown, that `level` workers are best and safe."""
    real = makers()

    def plan(request):
        found = real.plan(request)
        best = Setting(levels=((KNOB, level),))
        return replace(
            found,
            schedule=tuple(replace(b, setting=best, p_safe=0.99) for b in found.schedule),
            candidates=tuple(
                replace(
                    c, p_safe=0.99,
                    objective=Estimate(mean=0.5 if c.setting == best else 1.0, std=0.01),
                )
                for c in found.candidates
            ),
            probes=(),
            best_gain_ratio=0.0,
        )  # fmt: skip

    return Made(plant=real.plant, plan=plan)


# -- the ladder ----------------------------------------------------------------------------------


def test_rung_breach_a_probe_whose_requests_fail_is_left_at_once(tmp_path):
    """At 26 s four workers are tried, and from 30 s every third request fails."""
    fails = faults("kind: disturbance, fail_ratio: 30%, at: 30s, lasts: 30s")
    played = play(tmp_path, more=fails, made=scripted(4))
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
        duration="3m",
        policy=with_policy("settle: 2s", "settle: 2s, dwell: 8s"),
        more="commands:\n  - {at: 60s, command: pin, workers: 16, who: ann, why: a test}\n",
    )
    steps = [s for s in played.moves(60, 180) if str(s.decision.reason) == "pinned"]
    assert [s.decision.setting[KNOB] for s in steps][-1] == 16
    assert len(steps) >= 3
    assert all(s.decision.setting[KNOB] - s.moment.truth.level <= 4 for s in steps)
    assert all(b.at_s - a.at_s >= 8.0 for a, b in pairwise(steps))
    assert clamps(played, ClampKind.SLEW)
    assert clamps(played, ClampKind.DWELL)
    assert levels(played, 150, 180) == {16}


def grown(tmp_path, plant, policy=POLICY, more=""):
    """Four times the load after a minute and a half: more than six workers can serve."""
    load = "load: {kind: step, before: 40/s, after: 160/s, at: 90s}"
    assert PLANT.count("load: {kind: constant, rps: 40/s}") == 1
    plant = PLANT.replace("load: {kind: constant, rps: 40/s}", f"{plant}\n{load}")
    return play(tmp_path, duration="4m", plant=plant, policy=policy, more=more)


def test_guard_without_a_limit_in_the_way_the_pool_grows_to_what_the_load_needs(tmp_path):
    """And an overload of its own is not taken for a slow dependency."""
    played = grown(tmp_path, "")
    assert min(levels(played, 120, 190)) >= 10
    assert "slow_dependency" not in played.reasons(0, 240)


def test_guard_memory_is_forecast_before_a_worker_is_added(tmp_path):
    """85 % of 3.2 GB is room for eight workers of 200 MB, and not for nine."""
    played = grown(tmp_path, "  memory: {base: 0B, worker: 200MB, host: 1GB, limit: 3.2GB}")
    assert clamps(played, ClampKind.MEMORY)
    used = {
        r.value for s in played.seen for r in s.moment.truth.readings
        if r.signal == "host_memory_used_bytes"
    }  # fmt: skip
    assert max(used) <= 0.85 * 3.2e9
    assert max(levels(played, 0, 240)) in {7, 8}


def test_guard_connections_are_kept_below_what_the_dependency_accepts(tmp_path):
    """90 % of nine are eight; one worker more than nine, and its requests would fail."""
    played = grown(tmp_path, "  connections: {per_worker: 1, limit: 9, over: fail}")
    assert clamps(played, ClampKind.CONNECTIONS)
    assert max(levels(played, 0, 240)) == 8


def queueing(played, first_s, last_s):
    """The growths because clients wait."""
    return [s for s in played.moves(first_s, last_s) if str(s.decision.reason) == "queueing"]


def test_guard_cpu_clients_that_queue_grow_nothing_on_a_host_whose_cpu_is_used_up(tmp_path):
    more = faults("kind: disturbance, foreign_cores: 40, at: 85s, lasts: 100s")
    played = grown(tmp_path, "", more=more)
    assert "slo_breach" in {r for s in played.between(90, 184) for r in s.decision.guard_trips}
    assert not queueing(played, 85, 184)
    assert queueing(played, 185, 240)  # as soon as there is CPU to serve them


def test_guard_pressure_clients_that_queue_grow_nothing_while_tasks_stall(tmp_path):
    policy = with_policy("guard: {", "guard: {pressure: {cpu: {below: 10%}}, ")
    more = faults("kind: disturbance, foreign_cores: 3.4, at: 85s, lasts: 100s")
    played = grown(tmp_path, "", policy=policy, more=more)
    assert "pressure_breach" in {r for s in played.between(90, 184) for r in s.decision.guard_trips}
    assert not queueing(played, 90, 184)
    assert not tried(played, 90, 184)
    assert queueing(played, 185, 240)


# -- causes --------------------------------------------------------------------------------------


def test_causes_a_slow_dependency_is_held_and_not_chased_with_workers(tmp_path):
    """What each request waits for takes five times as long: ten workers would be busy, of six."""
    policy = with_policy("probes_per_hour: 120", "probes_per_hour: 0")
    slow = "kind: disturbance, dependency_factor: 5, at: 180s, lasts: 60s"
    played = play(tmp_path, duration="4m", policy=policy, more=faults(slow))
    (before,) = levels(played, 170, 179)
    assert levels(played, 180, 239) == {before}
    assert "slow_dependency" in played.reasons(180, 239)


# -- shrinking -----------------------------------------------------------------------------------


def test_shrinking_waits_after_a_sudden_fall_in_load(tmp_path):
    policy = with_policy("guard: {", "guard: {load_fall: {more_than: 30%, hold: 3m}, ")
    policy = policy.replace("memory: 0.2", "memory: 2.0")  # small is beautiful
    load = "load: {kind: step, before: 120/s, after: 20/s, at: 280s}"
    plant = PLANT.replace("load: {kind: constant, rps: 40/s}", load).replace(
        "workers: 6", "workers: 10"
    )
    played = play(tmp_path, duration="12m", policy=policy, plant=plant)
    fell = next(s for s in played.seen if str(s.decision.reason) == "load_fell")
    (held,) = levels(played, fell.at_s, fell.at_s)
    hold = [v for s, v in zip(played.seen, told(played, "no_shrink_s"), strict=True) if v]
    assert 280.0 <= fell.at_s <= 330.0
    assert max(hold) == pytest.approx(180.0, abs=2.0)
    assert min(levels(played, fell.at_s, 280.0 + 180.0)) == held
    assert min(levels(played, 520, 720)) < held


def test_shrinking_that_made_clients_queue_comes_back_later_and_later(tmp_path):
    """The learner is sure that two workers are enough, of load for two and a half."""
    played = play(tmp_path, duration="20m", made=stubborn(2))
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
    played = play(tmp_path, policy=policy)
    assert len(tried(played)) == 2
    assert "budget_spent" in played.reasons(0, 300)


def test_budget_of_time_ends_probing(tmp_path):
    """One per cent of an hour is 36 seconds, and a probe that has begun is measured."""
    played = play(tmp_path, policy=with_policy("budget: 50%", "budget: 1%"))
    away = sum(s.decision.probing for s in played.seen)
    assert 0 < away <= 36 + 20
    assert "budget_spent" in played.reasons(0, 300)


def test_budget_of_errors_that_burns_stops_probing_before_anything_breaches(tmp_path):
    """Two and a half of the five per cent that may fail do: no breach, but half of the budget."""
    policy = with_policy("probes_per_hour: 120", "probes_per_hour: 120, burn_rate: 0.25")
    played = play(
        tmp_path, policy=policy,
        more=faults("kind: disturbance, fail_ratio: 2.5%, at: 1s, lasts: 150s"),
    )  # fmt: skip
    assert not tried(played, 0, 151)
    assert "budget_burns" in played.reasons(0, 151)
    assert not {r for s in played.between(0, 151) for r in s.decision.guard_trips}
    short = [v for s, v in zip(played.seen, told(played, "burn_short"), strict=True)
             if 100 < s.at_s < 150]  # fmt: skip
    assert 0.3 < sum(short) / len(short) < 0.7


def test_budget_nothing_is_tried_in_a_quiet_window_and_the_guard_goes_on(tmp_path):
    """The simulation begins on a Monday at midnight; clients queue within the window."""
    policy = with_policy("explore:\n    {", 'explore:\n    {quiet: ["Mon 00:00-00:03 UTC"], ')
    load = "load: {kind: burst, base: 40/s, peak: 150/s, at: 100s, lasts: 40s}"
    plant = PLANT.replace("load: {kind: constant, rps: 40/s}", load)
    played = play(tmp_path, duration="6m", policy=policy, plant=plant)
    assert not tried(played, 0, 180)
    assert "quiet_time" in played.reasons(0, 180)
    assert max(levels(played, 105, 140)) > 6  # clients queued: that is no experiment
    assert tried(played, 180, 360)


# -- the operator --------------------------------------------------------------------------------


def test_operator_a_freeze_of_the_policy_forbids_even_the_way_back(tmp_path):
    """Frozen while four workers are tried and nothing can be seen: held, until the freeze ends."""
    frozen = (
        '  override: [{freeze: true, since: "2026-01-05T00:00:54Z", '
        'until: "2026-01-05T00:01:20Z", reason: change freeze}]\n'
    )
    blind = "kind: sensor, does: error, sensor: requests, at: 55s, lasts: 40s"
    played = play(tmp_path, duration="2m", policy=POLICY + frozen, more=faults(blind))
    assert levels(played, 55, 79) == {4}
    assert set(played.reasons(55, 79)) <= {"frozen", "no_data"}
    (move,) = played.moves(54, 94)
    assert str(move.decision.reason) == "blind_too_long"
    assert 80.0 <= move.at_s <= 82.0


# -- proof of benefit ----------------------------------------------------------------------------


def test_benefit_a_learner_that_is_wrong_is_found_out_and_the_baseline_put_back(tmp_path):
    """Nine workers cost half as much memory again as six, and gain nothing."""
    policy = with_policy("memory: 0.2", "memory: 1.0").replace(
        "holdout_every: 0s", "holdout_every: 4m"
    )
    played = play(tmp_path, duration="12m", policy=policy, made=stubborn(9))
    done = [s.decision.holdout for s in played.seen if s.decision.holdout is not None]
    assert len(done) >= 3
    assert all(h.gain_ratio < 0.0 for h in done)
    assert {h.baseline[KNOB] for h in done} == {6}
    assert played.phases(600, 720) == ["stood_down"]
    assert levels(played, 700, 720) == {6}
    down = next(s for s in played.seen if str(s.decision.phase) == "stood_down")
    worth = down.moment.benefit
    assert worth.upper < 0.01
    assert not played.moves(down.at_s + 10, 720)


def test_benefit_a_comparison_is_paid_from_the_budget_of_probes(tmp_path):
    policy = with_policy("holdout_every: 0s", "holdout_every: 4m")
    played = play(tmp_path, duration="8m", policy=policy)
    left = told(played, "probes_left")
    compared = [s for s in tried(played) if s.decision.action is Action.COMPARE]
    assert compared
    for seen in compared:
        before = left[seen.tick.index - 1]
        assert seen.decision.setting[KNOB] == 6  # the baseline
        assert left[seen.tick.index] == pytest.approx(before - 1.0, abs=0.1)
