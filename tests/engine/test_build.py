"""Where configuration, policies and adapters meet: what is refused before anything is started."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import snapshots as make

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Evidence
from poolwright.core.policy import GuardRule, Knob, Mode
from poolwright.engine.build import build_parts, build_policies, unheeded, unsatisfied
from poolwright.journal.prior import encode_prior
from poolwright.policy.config import load_config
from poolwright.policy.load import find_policy, load_policy

POLICY = """\
version: 1
name: mine
knobs:
  workers: {min: 2, max: 16}
objective: {latency_p99: 1.0}
"""
CONFIG = """\
version: 1
policies: policies.d
pools:
"""
POOL = """\
  - name: %s
    policy: %s
    actuator: {kind: gunicorn, pidfile: web.pid}
    sensors:
      - {kind: access_log, listen: "127.0.0.1:0"}
      - {kind: host}
"""
ALL = "      - {kind: process_tree, pidfile: web.pid}\n      - {kind: power}\n"


@pytest.fixture
def build(tmp_path):
    """A configuration of pools (name, policy) and files in its policies' folder."""
    folder = tmp_path / "policies.d"
    folder.mkdir()

    def write(pools, head="", sensors="", **files):
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text)
        text = CONFIG + "".join(POOL % pool + sensors for pool in pools)
        path = tmp_path / "poolwright.yaml"
        path.write_text(head + text)
        return load_config(path)

    return write


class Sees:
    """A sensor as far as `unsatisfied` looks."""

    def __init__(self, *signals):
        self.signals = signals


class Moves:
    """An actuator as far as `unsatisfied` looks."""

    knobs = ("workers",)


HOST = ("host_memory_used_bytes", "memory_limit_bytes", "throughput_rps", "errors_rps", "latency_s")


def policy(tmp_path, text=POLICY):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_policy(path)


def test_each_pool_has_its_own_effective_policy(build):
    config = build(
        [("web", "mine"), ("api", "mine"), ("batch", "throughput-first")],
        mine=POLICY,
        site='version: 1\npools: ["*"]\ncadence: 2s\nexplore: {window: 60s}\n',
        web='version: 1\npools: ["web"]\nmode: auto\n',
    )
    found = build_policies(config)
    assert [p.mode for p in found.values()] == [Mode.AUTO, Mode.RECOMMEND, Mode.RECOMMEND]
    assert {p.cadence_s for p in found.values()} == {2.0}
    assert len({p.sha256 for p in found.values()}) == 3


def test_one_loop_ticks_all_pools_at_the_shortest_cadence_or_the_daemons(build):
    files = {"mine": POLICY, "api": "version: 1\npools: [api]\ncadence: 500ms\n"}
    pools = [("web", "mine"), ("api", "mine")]
    assert {p.cadence_s for p in build_policies(build(pools, **files)).values()} == {0.5}
    config = build(pools, head="cadence: 3s\n", **files)
    assert {p.cadence_s for p in build_policies(config).values()} == {3.0}


def test_a_cadence_too_slow_for_a_window_is_refused(build):
    config = build([("web", "balanced")], head="cadence: 15s\n")
    with pytest.raises(PolicyError, match="less than two ticks of 15 s"):
        build_policies(config)


def test_everything_wrong_with_all_files_and_pools_is_said_at_once(build):
    config = build(
        [("web", "mine"), ("api", "mime"), ("batch", "mine")],
        mine=POLICY + "cadence: 1\n",
        site='version: 1\npools: ["*"]\nknobs: {workers: {mox: 1}}\n',
        draft="version: 1\nname: draft\nmood: auto\n",
        broken="version: [\n",
    )
    with pytest.raises(PolicyError) as caught:
        build_policies(config)
    lines = [line.rpartition("policies.d/")[2] for line in str(caught.value).splitlines()]
    assert [line.split(":")[0] for line in lines] == [
        "broken.yaml", "pool api", "draft.yaml", "mine.yaml", "site.yaml"
    ]  # fmt: skip
    assert "policy 'mime' does not exist; did you mean 'mine'?" in lines[1]


def test_contradictions_of_layers_name_the_pools_they_are_for(build):
    config = build(
        [("web", "mine"), ("api", "mine"), ("other", "balanced")],
        mine=POLICY,
        site='version: 1\npools: ["web", "api"]\nknobs: {workers: {max: 1}}\n',
    )
    with pytest.raises(PolicyError, match=r"2 is more than max, 1; see .*\(pools web, api\)"):
        build_policies(config)


def test_a_folder_that_cannot_be_read_is_the_worlds_fault(build, tmp_path):
    config = build([("web", "balanced")])
    (tmp_path / "policies.d").rmdir()
    assert build_policies(config)["web"].name == "balanced"  # none is none
    (tmp_path / "policies.d").touch()
    with pytest.raises(PlantFault, match="cannot be listed"):
        build_policies(config)


def test_parts_are_built_of_what_is_right(build):
    (part,) = build_parts(build([("web", "balanced")], sensors=ALL))
    assert part.name == "web"
    assert part.actuator.knobs == ("workers",)
    assert len(part.sensors) == 4


def test_a_prior_is_read_and_one_of_other_knobs_refused(build, tmp_path):
    there = (Evidence(observation=make.observation(4, 0.19)),)
    (tmp_path / "prior.json").write_bytes(encode_prior("web", make.POLICY, there))
    line = "    prior: prior.json\n"
    (parts,) = build_parts(build([("web", "mine")], sensors=ALL + line, mine=POLICY))
    assert parts.prior == there
    odd = replace(make.POLICY, knobs=(Knob(name="threads", lower=1, upper=8),))
    (tmp_path / "prior.json").write_bytes(encode_prior("web", odd, ()))
    with pytest.raises(PolicyError, match=r"prior\.json: learned of the knobs threads"):
        build_parts(build([("web", "mine")], sensors=ALL + line, mine=POLICY))


def test_knobs_that_the_actuator_does_not_move(build):
    config = build([("web", "mine")], sensors=ALL, mine=POLICY.replace("workers:", "threads:"))
    with pytest.raises(PolicyError, match="has the knobs threads, the actuator moves workers"):
        build_parts(config)


def test_an_slo_that_no_sensor_sees(tmp_path):
    made = policy(
        tmp_path, POLICY + "slo: {latency_p99.9: {below: 1s}, error_ratio: {below: 1%}}\n"
    )
    wrong = unsatisfied("web", made, (Sees(*HOST[:3]),), Moves())
    assert [line.split("SLO on ")[1] for line in wrong[:2]] == [
        "error_ratio, which no sensor gives", "latency_p99.9_s, which no sensor gives"
    ]  # fmt: skip
    assert unsatisfied("web", made, (Sees(*HOST),), Moves()) == []


def test_a_limit_of_pressure_needs_a_sensor_of_pressure(tmp_path):
    made = policy(tmp_path, POLICY + "guard: {pressure: {memory: {below: 10%}}}\n")
    (wrong,) = unsatisfied("web", made, (Sees(*HOST),), Moves())
    assert wrong.startswith("pool web: no sensor gives psi_memory_ratio, which the guard needs")
    assert unsatisfied("web", made, (Sees(*HOST, "psi_memory_ratio"),), Moves()) == []


def test_a_cap_on_connections_needs_no_sensor(tmp_path):
    made = policy(tmp_path, POLICY + "guard: {connections: {below: 50%}}\n")
    assert made.guard == GuardRule(connections_ratio=0.5)
    assert unsatisfied("web", made, (Sees(*HOST),), Moves()) == []


def test_cost_needs_sensors_of_all_that_has_a_price(tmp_path):
    text = POLICY.replace("latency_p99: 1.0", "latency_p99: 1.0, cost: 1") + (
        "prices: {core_hour: 0.04, kwh: 0.3}\n"
    )
    made = policy(tmp_path, text)
    (wrong,) = unsatisfied("web", made, (Sees(*HOST, "cpu_cores"),), Moves())
    assert "no sensor gives all that has a price: core_hour, kwh" in wrong
    assert unsatisfied("web", made, (Sees(*HOST, "cpu_cores", "power_w"),), Moves()) == []


def test_prices_without_a_weight_on_cost_need_no_sensor(tmp_path):
    made = policy(tmp_path, POLICY + "prices: {kwh: 0.3}\n")
    assert unsatisfied("web", made, (Sees(*HOST),), Moves()) == []


def test_an_objective_of_which_nothing_can_be_seen(tmp_path):
    made = policy(tmp_path, POLICY.replace("latency_p99", "power"))
    (wrong,) = unsatisfied("web", made, (Sees(*HOST),), Moves())
    assert "an objective of which no sensor gives anything" in wrong


def test_a_weight_that_counts_for_nothing_is_known_and_not_refused():
    made = load_policy(find_policy("balanced", None))
    sensors = (Sees(*HOST),)
    assert unsatisfied("web", made, sensors, Moves()) == []
    assert unheeded("web", made, sensors) == [
        "pool web: policy balanced gives power_w a weight, and no sensor sees it"
    ]


def test_mode_auto_needs_to_see_the_memory_of_a_worker(tmp_path):
    made = policy(tmp_path, POLICY + "mode: auto\n")
    (wrong,) = unsatisfied("web", made, (Sees(*HOST),), Moves())
    assert "no sensor gives memory_bytes" in wrong
