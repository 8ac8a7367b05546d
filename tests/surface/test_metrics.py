"""The exposition: complete, clean, and silent about what is not known."""

import runpy
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import snapshots as make
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from poolwright.core.model import Applied, Benefit, Estimate, Kept, Phase, Reading, Status
from poolwright.core.sample import Sample
from poolwright.engine.snapshot import LearnerState, Recent
from poolwright.surface.metrics import Exposition, JournalFile
from poolwright.surface.response_metrics import predictions

ROOT = Path(__file__).parents[2]
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


NOW_NS = make.MONO_NS + 415 * 10**9  # three seconds after the tick of `make.snapshot()`


def exposition_of(snapshot, journal=None):
    return Exposition("0.1.0", lambda: snapshot, journal, mono_ns=lambda: NOW_NS)


def rendered(snapshot, *, published=1):
    exposition = exposition_of(snapshot)
    for _ in range(published):
        exposition.collector.published(snapshot)
    return exposition.render("")[0].decode()


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
        if sample.name.startswith("poolwright_")
    }


def one(snapshot, name, **labels):
    return samples(rendered(snapshot))[f"poolwright_{name}", tuple(sorted(labels.items()))]


def names(snapshot):
    return {name for name, _ in samples(rendered(snapshot))}


def test_promtool_finds_nothing_to_say():
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: apt-get install -y --no-install-recommends prometheus"
    pools = (make.pool_snapshot("web"), make.blind_pool("mail"), make.busy_pool("api"))
    text = rendered(make.snapshot(*pools, reloads=(("applied", 2), ("refused", 1))))
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_both_formats_say_the_same():
    snapshot = make.snapshot(make.pool_snapshot("web"), make.blind_pool("mail"))
    exposition = exposition_of(snapshot)
    exposition.collector.published(snapshot)
    text, text_type = exposition.render("text/plain;version=0.0.4")
    open_text, open_type = exposition.render(OPENMETRICS)
    assert text_type.startswith("text/plain")
    assert open_type.startswith("application/openmetrics-text")
    assert open_text.endswith(b"# EOF\n")
    opened = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(open_text.decode())
        for sample in family.samples
        if sample.name.startswith("poolwright_")
    }
    assert opened == samples(text.decode())


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("build_info", {"version": "0.1.0"}, 1),
        ("ready", {}, 1),
        ("journal_ok", {}, 1),
        ("pool_up", {"pool": "web"}, 1),
        ("pool_phase", {"pool": "web", "phase": "explore"}, 1),
        ("pool_phase", {"pool": "web", "phase": "blind"}, 0),
        ("knob_wanted", {"pool": "web", "knob": "workers"}, 5),
        ("knob_applied", {"pool": "web", "knob": "workers"}, 5),
        ("knob_baseline", {"pool": "web", "knob": "workers"}, 5),
        ("knob_lower", {"pool": "web", "knob": "workers"}, 2),
        ("knob_upper", {"pool": "web", "knob": "workers"}, 64),
        ("latency_seconds", {"pool": "web", "quantile": "0.99"}, 0.158),
        ("latency_seconds", {"pool": "web", "quantile": "0.5"}, 0.051),
        ("jitter_seconds", {"pool": "web"}, 0.03),
        ("load_requests_per_second", {"pool": "web"}, 48),
        ("error_ratio", {"pool": "web"}, 0.5 / 47.5),
        ("memory_bytes", {"pool": "web"}, 412e6),
        ("power_watts", {"pool": "web", "source": "model"}, 31),
        ("power_error_watts", {"pool": "web", "source": "model"}, 4),
        ("predicted_latency_seconds", {"pool": "web", "percentile": "99"}, 0.16),
        ("prediction_error_latency_seconds", {"pool": "web", "percentile": "99"}, 0.009),
        ("predicted_power_watts", {"pool": "web"}, 31),
        ("decisions_total", {"pool": "web", "action": "hold", "reason": "measuring"}, 380),
        ("guard_trips_total", {"pool": "web", "reason": "slo_breach"}, 1),
        ("late_ticks_total", {"pool": "web"}, 2),
        ("probes_total", {"pool": "web"}, 6),
        ("fit_failures_total", {"pool": "web"}, 1),
        ("sensor_success", {"pool": "web", "sensor": make.STATSD}, 1),
        ("sensor_read_duration_seconds", {"pool": "web", "sensor": make.TREE}, 0.0012),
        ("learner_state", {"pool": "web", "state": "idle"}, 1),
        ("learner_state", {"pool": "web", "state": "failed"}, 0),
        ("learner_resident_memory_bytes", {"pool": "web"}, 142e6),
        ("plan_version", {"pool": "web"}, 7),
        ("regret_bound_ratio", {"pool": "web"}, 0.062),
        ("calibration_ratio", {"pool": "web", "response": "latency_p99_s"}, 0.91),
        ("slo_latency_seconds", {"pool": "web", "percentile": "99"}, 0.25),
        ("slo_error_ratio", {"pool": "web"}, 0.01),
        ("cadence_seconds", {}, 1),
        ("guard_tripped", {"pool": "web", "reason": "slo_breach"}, 0),
        ("guard_tripped", {"pool": "web", "reason": "memory_breach"}, 0),
        ("sensor_failures_total", {"pool": "web", "sensor": make.STATSD}, 0),
        ("reversals_total", {"pool": "web", "knob": "workers"}, 0),
        ("probing_seconds_total", {"pool": "web"}, 0),
        (
            "policy_info",
            {
                "pool": "web",
                "policy": "balanced",
                "sha256": make.POLICY.sha256,
                "mode": "auto",
                "actuator": "gunicorn /run/web/gunicorn.pid",
            },
            1,
        ),
    ],
)
def test_what_is_known_is_told(name, labels, expected):
    assert one(make.snapshot(), name, **labels) == pytest.approx(expected)


API = {"pool": "api"}


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("policy_valid", {}, 0),
        ("policy_reloads_total", {"result": "applied"}, 2),
        ("policy_reloads_total", {"result": "refused"}, 1),
        ("advice_level", {**API, "knob": "workers"}, 4),
        ("advice_gain_ratio", API, 0.12),
        ("advice_gain_error_ratio", API, 0.04),
        ("advice_safe_probability", API, 0.97),
        ("pinned", API, 1),
        ("overrides_active", {**API, "kind": "pin"}, 1),
        ("overrides_active", {**API, "kind": "freeze"}, 1),
        ("overrides_active", {**API, "kind": "bounds"}, 1),
        ("quiet", API, 1),
        ("probes_remaining", API, 12.3),
        ("probe_remaining_seconds", API, 90),
        ("error_budget_remaining_seconds", API, 700),
        ("slo_burn_rate", {**API, "window": "short"}, 0.4),
        ("slo_burn_rate", {**API, "window": "long"}, 0.1),
        ("benefit_ratio", API, 0.08),
        ("benefit_lower_ratio", API, 0.03),
        ("benefit_upper_ratio", API, 0.13),
        ("benefit_comparisons", API, 6),
        ("holdouts_total", API, 2),
        ("pool_phase", {**API, "phase": "stood_down"}, 0),
    ],
)
def test_what_people_ask_of_a_pool_is_told(name, labels, expected):
    reloads = (("applied", 2), ("refused", 1))
    snapshot = make.snapshot(make.busy_pool("api"), policy_error="a.yaml:1:1", reloads=reloads)
    assert one(snapshot, name, **labels) == pytest.approx(expected)


def test_what_nobody_asked_is_zero_and_what_nobody_knows_is_absent():
    well = make.snapshot()
    assert one(well, "policy_valid") == 1
    assert one(well, "pinned", pool="web") == 0
    assert one(well, "quiet", pool="web") == 0
    assert one(well, "overrides_active", pool="web", kind="freeze") == 0
    told = names(well)
    for name in (
        "advice_level", "advice_gain_ratio", "advice_gain_error_ratio", "advice_safe_probability",
        "probes_remaining", "probe_remaining_seconds", "slo_burn_rate", "benefit_ratio",
        "benefit_comparisons", "policy_reloads_total",
    ):  # fmt: skip
        assert f"poolwright_{name}" not in told


def test_an_advice_of_unknown_gain_and_a_benefit_without_interval_leave_that_out():
    pool = make.busy_pool(
        decision=make.hold(advice=make.advice(gain=None, p_safe=None)),
        benefit=Benefit(mean=0.08, lower=None, upper=None, count=1),
    )
    told = names(make.snapshot(pool))
    assert {"poolwright_advice_level", "poolwright_benefit_ratio"} <= told
    for name in ("advice_gain_ratio", "advice_safe_probability", "benefit_lower_ratio"):
        assert f"poolwright_{name}" not in told


def test_a_pin_of_an_operator_and_one_of_the_policy_both_count():
    by_hand = make.pool_snapshot("a", kept=Kept(pin=make.at(5)))
    written = make.pool_snapshot("b", tick=make.tick(overrides=(make.override(),)))
    frozen = make.pool_snapshot(
        "c", tick=make.tick(overrides=(make.override(pin=(), freeze=True),))
    )
    seen = make.snapshot(by_hand, written, frozen)
    assert [one(seen, "pinned", pool=pool) for pool in "abc"] == [1, 1, 0]


def test_a_counter_that_has_not_counted_yet_is_zero():
    fresh = make.snapshot(make.pool_snapshot(counters=(("ticks", 1),)))
    assert one(fresh, "fit_failures_total", pool="web") == 0


def test_predictions_of_the_policys_own_quantile_and_of_cost_are_told():
    own = (
        ("cost_per_hour", Estimate(mean=0.4, std=0.01)),
        ("latency_p99.9_s", Estimate(mean=0.3, std=0.02)),
    )
    pool = make.pool_snapshot()
    rows = tuple(replace(row, predictions=own) for row in pool.plan.schedule)
    seen = make.snapshot(replace(pool, plan=replace(pool.plan, schedule=rows)))
    assert one(seen, "predicted_latency_seconds", pool="web", percentile="99.9") == 0.3
    assert one(seen, "predicted_cost_per_hour", pool="web") == 0.4


def test_every_counter_of_the_snapshot_is_told():
    told = names(make.snapshot())
    for counter, _ in make.COUNTERS:
        assert f"poolwright_{counter.split(':')[0]}_total" in told


def test_what_is_not_known_is_absent_and_nothing_is_nan():
    text = rendered(make.snapshot(make.blind_pool()))
    told = {name for name, _ in samples(text)}
    for name in (
        "latency_seconds", "latency_estimated", "jitter_seconds", "load_requests_per_second",
        "throughput_requests_per_second", "error_ratio", "cpu_cores", "memory_bytes",
        "power_watts", "power_error_watts", "knob_wanted", "knob_applied", "knob_baseline",
        "plan_version", "predicted_latency_seconds", "learner_resident_memory_bytes",
        "last_move_timestamp_seconds", "advice_level", "benefit_ratio",
    ):  # fmt: skip
        assert f"poolwright_{name}" not in told
    assert "nan" not in text.lower()
    assert one(make.snapshot(make.blind_pool()), "pool_up", pool="web") == 0
    assert one(make.snapshot(make.blind_pool()), "pool_ready", pool="web") == 0
    assert one(make.snapshot(make.blind_pool()), "ready") == 0


def test_zero_is_a_value():
    quiet = make.pool_snapshot(sample=Sample(tick=412, dt_s=1.0, load_rps=0.0, throughput_rps=0.0))
    assert one(make.snapshot(quiet), "load_requests_per_second", pool="web") == 0
    assert "poolwright_error_ratio" not in names(make.snapshot(quiet))


def test_without_a_snapshot_only_the_build_is_known():
    text = Exposition("0.1.0", lambda: None).render("")[0].decode()
    assert set(samples(text)) == {
        ("poolwright_build_info", (("version", "0.1.0"),)),
        ("poolwright_ready", ()),
    }
    assert samples(text)["poolwright_ready", ()] == 0


def test_the_process_is_told_in_our_registry_only():
    text = rendered(make.snapshot())
    assert "process_resident_memory_bytes" in text
    assert "python_gc" not in text
    assert not [f for f in REGISTRY.collect() if f.name.startswith("poolwright")]


def played(*pools):
    """The exposition after a slot for each of these snapshots of one pool."""
    seen = [
        make.snapshot(replace(p, tick=make.tick(i, applied=p.tick.applied)))
        for i, p in enumerate(pools, start=400)
    ]
    exposition = exposition_of(seen[-1])
    for snapshot in seen:
        exposition.collector.published(snapshot)
    return exposition


def after(*pools):
    return samples(played(*pools).render("")[0].decode())


def test_every_tick_counts_in_the_histogram_once():
    fast, slow = make.pool_snapshot(), make.pool_snapshot(tick_duration_s=9.0)
    exposition = played(fast, fast, slow)
    exposition.collector.published(exposition.collector._latest())  # its next tick failed
    seen = samples(exposition.render("")[0].decode())

    def bucket(le):
        key = (("le", le), ("pool", "web"))
        return seen["poolwright_tick_duration_seconds_bucket", key]

    assert [bucket(le) for le in ("0.0025", "0.005", "2.5", "+Inf")] == [0, 2, 2, 3]
    assert seen["poolwright_tick_duration_seconds_count", (("pool", "web"),)] == 3
    total = seen["poolwright_tick_duration_seconds_sum", (("pool", "web"),)]
    assert total == pytest.approx(9.0062)


def test_counters_and_buckets_carry_the_newest_decision_as_exemplar():
    slow = make.pool_snapshot(decision=make.probe(401), tick_duration_s=0.3)
    exposition = played(make.pool_snapshot(decision=make.hold(400)), slow)
    text = exposition.render(OPENMETRICS)[0].decode()
    found = {
        (sample.labels.get("action"), sample.labels.get("le")): sample.exemplar
        for family in parse_openmetrics(text)
        for sample in family.samples
        if sample.exemplar
    }
    assert found["probe", None].labels == {"decision_id": "3/401"}
    assert found["hold", None].labels == {"decision_id": "3/400"}
    assert found[None, "0.5"].labels == {"decision_id": "3/401"}
    assert found[None, "0.5"].value == 0.3
    assert float(found[None, "0.5"].timestamp) == make.tick(401).wall_ns / 1e9
    assert "decision_id" not in exposition.render("text/plain")[0].decode()


def test_openmetrics_tells_units():
    text = played(make.pool_snapshot(), make.pool_snapshot()).render(OPENMETRICS)[0].decode()
    for line in (
        "# UNIT poolwright_sensor_age_seconds seconds",
        "# UNIT poolwright_probing_seconds seconds",
        "# UNIT poolwright_memory_bytes bytes",
        "# UNIT poolwright_error_ratio ratio",
        "# UNIT poolwright_power_watts watts",
        "# UNIT poolwright_tick_duration_seconds seconds",
    ):
        assert line in text.splitlines()


def test_a_sensor_that_is_cut_grows_old_and_the_others_do_not():
    cut = (*make.tick().readings[:2], make.broken_reading())
    seen = [make.snapshot(make.pool_snapshot(tick=make.tick(400)))]
    seen += [make.snapshot(make.pool_snapshot(tick=make.tick(i, readings=cut))) for i in (401, 402)]
    exposition = exposition_of(seen[-1])
    for snapshot in seen:
        exposition.collector.published(snapshot)
    told = samples(exposition.render("")[0].decode())

    def of(name, sensor):
        return told[f"poolwright_{name}", (("pool", "web"), ("sensor", sensor))]

    assert (of("sensor_age_seconds", make.TREE), of("sensor_failures_total", make.TREE)) == (15, 2)
    assert of("sensor_age_seconds", make.STATSD) == 13
    assert of("sensor_failures_total", make.STATSD) == 0


def test_a_sensor_that_was_never_well_is_as_old_as_the_first_try():
    pool = make.blind_pool()
    early = replace(pool, tick=replace(pool.tick, index=400, mono_ns=make.MONO_NS + 400 * 10**9))
    exposition = exposition_of(make.snapshot(pool))
    for one_pool in (early, pool):
        exposition.collector.published(make.snapshot(one_pool))
    told = samples(exposition.render("")[0].decode())
    assert told["poolwright_sensor_age_seconds", (("pool", "web"), ("sensor", make.TREE))] == 15


def test_moves_to_and_fro_are_counted_probes_aside():
    def held(level, there=None, **more):
        tick = make.tick(applied=Applied(setting=make.at(there or level)))
        return make.pool_snapshot(decision=make.hold(setting=make.at(level), **more), tick=tick)

    trial, back, failed = held(9, probing=True), held(5, there=9), held(9, there=6)
    told = after(held(5), trial, back, held(5), held(6), failed, held(6), held(4), held(3), held(7))
    assert told["poolwright_reversals_total", (("knob", "workers"), ("pool", "web"))] == 2
    assert told["poolwright_probing_seconds_total", (("pool", "web"),)] == 1


def test_what_the_newest_window_measured_is_told_until_the_next():
    told = after(make.pool_snapshot(decision=make.probe()), make.pool_snapshot())
    p99 = (("percentile", "99"), ("pool", "web"))
    assert told["poolwright_measured_latency_seconds", p99] == 0.161
    assert told["poolwright_measurement_error_latency_seconds", p99] == 0.004
    assert "poolwright_measured_latency_seconds" not in names(make.snapshot())


def test_the_age_of_a_tick_is_by_the_ticks_own_clock():
    assert one(make.snapshot(), "tick_age_seconds", pool="web") == 3


def test_the_guard_is_tripped_while_it_is():
    pool = make.pool_snapshot(decision=make.retreat())
    assert one(make.snapshot(pool), "guard_tripped", pool="web", reason="slo_breach") == 1
    assert one(make.snapshot(pool), "guard_tripped", pool="web", reason="cpu_breach") == 0


def test_the_journal_is_told_with_its_log_and_its_bound(tmp_path):
    file = JournalFile(tmp_path / "journal.db", 2**20)
    exposition = exposition_of(make.snapshot(), file)
    told = samples(exposition.render("")[0].decode())
    assert ("poolwright_journal_size_bytes", ()) not in told
    assert told["poolwright_journal_limit_bytes", ()] == 2**20
    (tmp_path / "journal.db").write_bytes(b"x" * 4096)
    (tmp_path / "journal.db-wal").write_bytes(b"x" * 100)
    told = samples(exposition.render("")[0].decode())
    assert told["poolwright_journal_size_bytes", ()] == 4196


def test_no_label_has_more_values_than_there_are_words_pools_or_parts():
    bounded = {
        "pool", "knob", "percentile", "quantile", "le", "action", "reason", "phase", "state",
        "sensor", "source", "response", "status", "window", "kind", "result", "version",
    }  # fmt: skip
    seen = samples(rendered(make.snapshot(make.busy_pool("api"), make.pool_snapshot())))
    for name, labels in seen:
        if name != "poolwright_policy_info":
            assert {label for label, _ in labels} <= bounded, name


@pytest.mark.parametrize(
    ("status", "expected"), [(Status.NO_DATA, 1), (Status.STALE, 0), (Status.ERROR, 0)]
)
def test_a_sensor_succeeds_only_when_all_it_gives_is_sound(status, expected):
    readings = (*make.tick().readings, Reading(signal="x", source=make.TREE, status=status))
    pool = make.pool_snapshot(tick=make.tick(readings=readings))
    assert one(make.snapshot(pool), "sensor_success", pool="web", sensor=make.TREE) == expected
    assert one(make.snapshot(pool), "sensor_success", pool="web", sensor=make.STATSD) == 1
    worst = Status.OK if status is Status.NO_DATA else status
    for word in Status:
        labels = {"pool": "web", "sensor": make.TREE, "status": word.value}
        assert one(make.snapshot(pool), "sensor_status", **labels) == (word is worst)


def test_predictions_are_of_the_applied_setting_at_the_present_load():
    pool = make.pool_snapshot()
    p99 = dict(predictions(pool))["latency_p99_s"]
    assert p99.mean == 0.16
    six = make.tick(applied=replace(pool.tick.applied, setting=make.at(6)))
    assert dict(predictions(replace(pool, tick=six)))["latency_p99_s"].mean == 0.171
    unknown = make.tick(applied=replace(pool.tick.applied, setting=make.at(33)))
    assert predictions(replace(pool, tick=unknown)) == ()
    assert predictions(replace(pool, plan=None)) == ()


def test_labels_are_escaped():
    odd = make.pool_snapshot('a"b\\c\nd')
    assert one(make.snapshot(odd), "pool_up", pool='a"b\\c\nd') == 1


def test_each_phase_and_learner_state_has_its_sample():
    seen = samples(rendered(make.snapshot()))
    phases = {dict(labels)["phase"] for name, labels in seen if name == "poolwright_pool_phase"}
    states = {dict(labels)["state"] for name, labels in seen if name == "poolwright_learner_state"}
    assert phases == {phase.value for phase in Phase}
    assert states == {state.value for state in LearnerState}


def test_estimated_latency_is_marked():
    pool = make.pool_snapshot(recent=Recent(span_s=10, count=3, p99_s=0.2, estimated=True))
    assert one(make.snapshot(pool), "latency_estimated", pool="web") == 1
    assert one(make.snapshot(), "latency_estimated", pool="web") == 0


def test_the_page_of_metrics_is_what_the_metrics_say_of_themselves():
    made = runpy.run_path(str(ROOT / "docs" / "list_metrics.py"))
    assert made["PAGE"].read_text() == made["page"](), "run `make docs`"
