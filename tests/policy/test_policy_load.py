"""Policies and configurations: the shipped ones load, the bad ones say why."""

import hashlib
from pathlib import Path

import pytest

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.policy import ExploreRule, GuardRule, Knob, Mode, Slo
from poolwright.policy.config import bind_options, load_config, unknown_kind
from poolwright.policy.load import find_policy, load_policy, shipped_policies, unseen_slos

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/policies"
SHIPPED = ["autoscale", "balanced", "latency-first", "observe-only", "throughput-first"]
BAD = sorted(path.stem for path in GOLDEN.glob("*.yaml"))


def test_there_are_bad_files_and_each_has_its_text():
    assert len(BAD) >= 25
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == BAD


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_says_everything_that_is_wrong(name, monkeypatch):
    monkeypatch.chdir(GOLDEN)
    load = load_config if name.startswith("config-") else load_policy
    with pytest.raises(PolicyError) as caught:
        load(Path(f"{name}.yaml"))
    assert f"{caught.value}\n" == Path(f"{name}.txt").read_text()


def test_the_shipped_policies_are_these():
    assert sorted(path.stem for path in shipped_policies().glob("*.yaml")) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_loads_and_only_advises(name):
    path = find_policy(name, None)
    policy = load_policy(path)
    assert policy.name == name
    assert policy.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert policy.mode is (Mode.OBSERVE if name == "observe-only" else Mode.RECOMMEND)
    assert {slo.response for slo in policy.slo} == {"error_ratio", "latency_p99_s"}


def test_balanced_is_what_the_documentation_shows():
    policy = load_policy(find_policy("balanced", None))
    assert policy.knobs == (Knob(name="workers", lower=2, upper=64),)
    assert policy.objective == (("jitter_s", 0.2), ("latency_p99_s", 1.0), ("power_w", 0.3))
    assert policy.slo == (
        Slo(response="error_ratio", below=0.01),
        Slo(response="latency_p99_s", below=0.25),
    )
    assert policy.guard == GuardRule(memory_ratio=0.85, cpu_ratio=0.95)
    assert policy.explore == ExploreRule()


def test_every_key_reaches_the_core(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: 1\nname: p\nmode: auto\non_other_hand: reassert\nexit: restore\ncadence: 2s\n"
        "seed: 7\nknobs:\n  workers: {min: 3, max: 13, step: 2, slew: 6, settle: 4s, drain: 5s, "
        "dwell: 6s, baseline: 7, scale: linear}\nobjective: {cpu: 2}\n"
        "slo: {jitter: {below: 1s, confidence: 90%}}\nguard: {memory: {below: 70%}, "
        "cpu: {below: 60%}, breach: {ticks: 1, of: 2}, blind: 8s, cooldown: 9s}\n"
        "explore: {probes_per_hour: 1, budget: 2%, epsilon: 3%, patience: 4, converged_every: 5, "
        "window: 60s, window_jitter: 7%, warmup: 8}\n"
    )
    policy = load_policy(path)
    assert policy.knobs[0] == Knob(
        name="workers", lower=3, upper=13, step=2, slew_per_move=6, settle_s=4.0, drain_s=5.0,
        dwell_s=6.0, baseline=7, scale="linear",
    )  # fmt: skip
    assert policy.guard == GuardRule(
        memory_ratio=0.7, cpu_ratio=0.6, breach_ticks=1, breach_of_ticks=2, blind_s=8.0,
        cooldown_s=9.0,
    )  # fmt: skip
    assert policy.explore == ExploreRule(
        probes_per_hour=1.0, budget_ratio=0.02, epsilon=0.03, patience=4, converged_every=5,
        window_s=60.0, window_jitter=0.07, warmup_windows=8,
    )  # fmt: skip
    assert policy.slo == (Slo(response="jitter_s", below=1.0, confidence=0.9),)
    assert policy.objective == (("cpu_cores", 2.0),)
    assert (policy.mode, policy.on_other_hand, policy.exit) == ("auto", "reassert", "restore")
    assert (policy.cadence_s, policy.seed) == (2.0, 7)


def test_the_operators_policy_goes_before_the_shipped_one(tmp_path):
    assert find_policy("balanced", tmp_path).parent == shipped_policies()
    own = tmp_path / "balanced.yaml"
    own.write_text("version: 1\n")
    assert find_policy("balanced", tmp_path) == own
    assert find_policy(str(own), None) == own


def test_a_policy_that_is_not_there():
    with pytest.raises(PolicyError, match="did you mean 'balanced'"):
        find_policy("balance", None)
    with pytest.raises(PolicyError, match="no such file"):
        find_policy("./balanced.yaml.bak/x", None)


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PlantFault, match="file: cannot be listed: Not a directory"):
        find_policy("balanced", tmp_path / "file")
    assert find_policy("balanced", tmp_path / "none").parent == shipped_policies()


def test_an_slo_needs_a_sensor_that_sees_it():
    policy = load_policy(find_policy("balanced", None))
    assert unseen_slos(policy, ["throughput_rps"]) == ("error_ratio", "latency_p99_s")
    assert unseen_slos(policy, ["throughput_rps", "errors_rps", "service_time_s"]) == ()


def test_the_example_configuration_loads():
    config = load_config(ROOT / "config/poolwright.yaml")
    assert [pool.name for pool in config.pools] == ["web"]
    assert config.journal == "/var/lib/poolwright/journal.db"
    assert config.cadence is None


def test_options_and_kinds_are_refused_with_their_place(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "version: 1\njournal: j.db\npools:\n  - name: web\n    actuator: {kind: gunicron, pid: 3}\n"
        "    policy: own.yaml\n"
        "    sensors: [{kind: host, root: p}]\n"
    )
    config = load_config(path)
    assert config.journal == str(tmp_path / "j.db")
    assert config.pools[0].policy == str(tmp_path / "own.yaml")
    pool = config.pools[0]
    error = unknown_kind(pool.actuator, "actuator", ["gunicorn", "pretend"])
    assert str(error) == (
        f"{path}:5:22: unknown actuator kind 'gunicron'; did you mean 'gunicorn'?"
    )
    from test_bind import Everything

    with pytest.raises(PolicyError, match=r"c\.yaml:7:28: unknown key 'root'"):
        bind_options(pool.sensors[0], Everything)
