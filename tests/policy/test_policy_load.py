"""Policies and configurations: the shipped ones load, the bad ones say why."""

from dataclasses import replace
from pathlib import Path

import pytest

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.policy import ExploreRule, GuardRule, Knob, Mode, Override, Slo
from poolwright.policy.bind import field_specs
from poolwright.policy.config import bind_options, load_config, unknown_kind
from poolwright.policy.load import find_policy, load_policy, shipped_policies, unseen
from poolwright.policy.rules import Guard
from poolwright.policy.schema import Explore, KnobRule, PolicyFile
from poolwright.policy.tree import parse_document

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/policies"
BAD = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
SHIPPED = ["autoscale", "balanced", "latency-first", "observe-only", "throughput-first"]


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
    assert policy.sources[-1] == str(path)
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


EVERY_KEY = """\
version: 1
name: p
mode: auto
on_other_hand: reassert
exit: restore
cadence: 2s
seed: 7
knobs:
  workers: {min: 3, max: 13, step: 2, slew: 6, settle: 4s, drain: 5s, dwell: 6s, baseline: 7,
            scale: linear}
  threads: {min: 1, max: 8}
objective: {cpu: 2, cost: 1, latency_p99.9: 3}
prices: {core_hour: 0.04, gib_hour: 0.005, kwh: 0.3}
relations: ["workers * threads <= 60"]
slo:
  jitter: {below: 1s, confidence: 90%}
  latency_p90: {below: 200ms}
  latency_p99.9: {below: 2s, confidence: 0.8}
guard:
  memory: {below: 70%}
  cpu: {below: 60%}
  pressure: {cpu: {below: 10%}, memory: {below: 20%}, io: {below: 30%}}
  connections: {below: 80%}
  load_fall: {more_than: 40%, hold: 10m}
  dependency: {slower_than: 2.5}
  breach: {ticks: 1, of: 2}
  blind: 8s
  cooldown: 9s
explore: {probes_per_hour: 1, budget: 2%, epsilon: 3%, patience: 4, converged_every: 5,
          window: 60s, window_jitter: 7%, warmup: 8, slo_budget: 10%, burn_rate: 2,
          quiet: ["Mon-Fri 09:00-10:00 Europe/Berlin"], holdout_every: 0s}
override:
  - {pin: {workers: 5, threads: 2}, until: 2026-12-31T00:00:00Z, reason: launch}
  - {pools: [web], freeze: true, since: 2027-01-01T00:00:00+01:00, until: "2027-02-01T00:00:00.5Z",
     reason: "a year's end"}
  - {bounds: {workers: {max: 9}, threads: {min: 2, max: 4}}, since: 2027-03-01T00:00Z, reason: mem}
"""


def test_every_key_reaches_the_core(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(EVERY_KEY)
    policy = load_policy(path)
    assert [knob.name for knob in policy.knobs] == ["threads", "workers"]
    assert policy.knob("workers") == Knob(
        name="workers", lower=3, upper=13, step=2, slew_per_move=6, settle_s=4.0, drain_s=5.0,
        dwell_s=6.0, baseline=7, scale="linear",
    )  # fmt: skip
    assert policy.guard == GuardRule(
        memory_ratio=0.7, cpu_ratio=0.6, breach_ticks=1, breach_of_ticks=2, blind_s=8.0,
        cooldown_s=9.0, psi_cpu_ratio=0.1, psi_memory_ratio=0.2, psi_io_ratio=0.3,
        connections_ratio=0.8, fall_ratio=0.4, fall_hold_s=600.0, dependency_ratio=2.5,
    )  # fmt: skip
    assert policy.explore == ExploreRule(
        probes_per_hour=1.0, budget_ratio=0.02, epsilon=0.03, patience=4, converged_every=5,
        window_s=60.0, window_jitter=0.07, warmup_windows=8, slo_budget_ratio=0.1, burn_rate=2.0,
        quiet=("Mon-Fri 09:00-10:00 Europe/Berlin",), holdout_every_s=0.0,
    )  # fmt: skip
    assert policy.slo == (
        Slo(response="jitter_s", below=1.0, confidence=0.9),
        Slo(response="latency_p90_s", below=0.2),
        Slo(response="latency_p99.9_s", below=2.0, confidence=0.8),
    )
    assert policy.objective == (
        ("cost_per_hour", 1.0),
        ("cpu_cores", 2.0),
        ("latency_p99.9_s", 3.0),
    )
    assert policy.prices == (("core_hour", 0.04), ("gib_hour", 0.005), ("kwh", 0.3))
    assert [r.terms for r in policy.relations] == [((1, ("threads", "workers")), (-60, ()))]
    assert (policy.mode, policy.on_other_hand, policy.exit) == ("auto", "reassert", "restore")
    assert (policy.cadence_s, policy.seed) == (2.0, 7)
    year = 1_798_761_600 * 10**9  # 2027-01-01T00:00:00Z
    day = 86_400 * 10**9
    month = 31 * day
    assert policy.overrides == (
        Override(reason="launch", pin=(("threads", 2), ("workers", 5)), until_wall_ns=year - day),
        Override(
            reason="a year's end",
            freeze=True,
            since_wall_ns=year - 3600 * 10**9,
            until_wall_ns=year + month + 5 * 10**8,
        ),
        Override(
            reason="mem",
            bounds=(("threads", 2, 4), ("workers", 3, 9)),
            since_wall_ns=year + month + 28 * day,
        ),
    )


def test_every_key_of_the_language_is_in_that_test():
    """A key that is added to the schema and not to the test above is found here."""
    document = parse_document(EVERY_KEY.encode(), "f")
    for at, kind in (((), PolicyFile), (("explore",), Explore), (("guard",), Guard),
                     (("knobs", "workers"), KnobRule)):  # fmt: skip
        node = document.root
        for key in at:
            node = node.get(key)
        keys = {spec.name for spec in field_specs(kind)} - {"extends", "pools"}
        assert keys - {key.text for key, _ in node.entries} == set()


def test_the_operators_policy_goes_before_the_shipped_one(tmp_path):
    assert find_policy("balanced", tmp_path).parent == shipped_policies()
    own = tmp_path / "balanced.yaml"
    own.write_text("version: 1\nname: balanced\n")
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


def test_a_response_needs_sensors_that_see_it():
    policy = load_policy(find_policy("balanced", None))
    asked = ("error_ratio", "latency_p99.9_s", "cost_per_hour")
    assert unseen(policy, asked, ["throughput_rps"]) == ("error_ratio", "latency_p99.9_s")
    seen = ["throughput_rps", "errors_rps", "service_time_s"]
    assert unseen(policy, asked, seen) == ()
    priced = replace(policy, prices=(("core_hour", 1.0), ("kwh", 1.0)))
    assert unseen(priced, asked, [*seen, "cpu_cores"]) == ("cost_per_hour",)
    assert unseen(priced, asked, [*seen, "cpu_cores", "power_w"]) == ()


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
