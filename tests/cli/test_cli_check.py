"""`poolwright check`: good and bad files, folders, and a look at the world."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from poolwright.cli.main import main
from poolwright.engine.build import unpressed
from poolwright.policy.load import bind_policy, resolve
from poolwright.policy.tree import parse_document
from poolwright.sensors.host import Host

ROOT = Path(__file__).parents[2]

OVER = "2020-01-01T00:00:00Z"
CONFIG = """\
version: 1
policies: {policies}
pools:
  - name: web
    policy: {policy}
    actuator: {{kind: gunicorn, pidfile: {pidfile}}}
    sensors:
      - {{kind: statsd, listen: "127.0.0.1:0", preset: gunicorn}}
      - {{kind: host}}
{more}"""


def config(tmp_path, *, policy="balanced", pidfile="web.pid", more=""):
    path = tmp_path / "poolwright.yaml"
    path.write_text(CONFIG.format(policies=tmp_path, policy=policy, pidfile=pidfile, more=more))
    return path


def test_shipped_policies_and_the_example_are_right(capsys):
    assert main(["check", str(ROOT / "policies"), str(ROOT / "config/poolwright.yaml")]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.count(": ok\n") == 6


def test_every_bad_file_is_reported_and_the_good_one_too(capsys):
    golden = ROOT / "tests/golden/policies"
    assert main(["check", str(golden), str(ROOT / "policies/balanced.yaml")]) == 1
    said = capsys.readouterr()
    for path in golden.glob("*.yaml"):
        assert f"{path}:" in said.err
    assert said.out == f"{ROOT / 'policies/balanced.yaml'}: ok\n"


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml: cannot be read: No such file or directory" in capsys.readouterr().err


def test_an_empty_folder_is_not_a_success(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 1
    assert f"{tmp_path}: holds no *.yaml" in capsys.readouterr().err


def test_all_adapters_and_the_policy_of_a_configuration_are_checked(tmp_path, capsys):
    more = "      - {kind: hosst}\n      - {kind: statsd, lissten: 127.0.0.1:1}\n"
    path = config(tmp_path, policy="balancd", more=more)
    assert main(["check", str(path)]) == 1
    err = capsys.readouterr().err
    assert "policy 'balancd' does not exist; did you mean 'balanced'?" in err
    assert f"{path}:10:16: unknown sensor kind 'hosst'; did you mean 'host'?" in err
    assert f"{path}:11:24: unknown key 'lissten'; did you mean 'listen'?" in err


def test_the_problems_of_a_pools_policy_carry_their_own_place(tmp_path, capsys):
    own = tmp_path / "mine.yaml"
    own.write_text("version: 1\nname: mine\nknobs: {workers: {max: 16}}\n")
    assert main(["check", str(config(tmp_path, policy="mine"))]) == 1
    err = capsys.readouterr().err
    assert f"{own}:1:1: 'objective' is missing\n" in err
    assert f"{own}:3:18: knobs.workers: 'min' is missing\n" in err


def test_an_slo_that_no_sensor_sees(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(
        "version: 1\npools:\n  - name: web\n    actuator: {kind: gunicorn, pidfile: web.pid}\n"
        "    sensors: [{kind: host}]\n"
    )
    assert main(["check", str(path)]) == 1
    err = capsys.readouterr().err
    assert "SLO on latency_p99_s, which no sensor gives" in err


SEEING = """\
      - {kind: access_log, listen: "127.0.0.1:0"}
      - {kind: process_tree, pidfile: web.pid}
"""


def test_the_layers_over_a_pool_are_checked_with_its_policy(tmp_path, capsys):
    (tmp_path / "10-small.yaml").write_text(
        'version: 1\npools: ["w*"]\nknobs: {workers: {max: 1}}\n'
    )
    (tmp_path / "20-typo.yaml").write_text('version: 1\npools: ["api"]\nmood: auto\n')
    assert main(["check", str(config(tmp_path, more=SEEING))]) == 1
    err = capsys.readouterr().err
    assert ": knobs.workers.min: 2 is more than max, 1" in err
    assert f"see {tmp_path}/10-small.yaml:3:24 (pool web)" in err
    assert f"{tmp_path}/20-typo.yaml:3:1: unknown key 'mood'; did you mean 'mode'?" in err


def test_a_layer_can_be_checked_by_itself(tmp_path, capsys):
    path = tmp_path / "site.yaml"
    path.write_text('version: 1\npools: ["web*"]\nslo: {latency_p99: {below: 100ms}}\n')
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: ok\n"
    path.write_text('version: 1\npools: ["web*"]\nslo: {latency_p99: {below: 100}}\n')
    assert main(["check", str(path)]) == 1
    assert f"{path}:3:28: slo.latency_p99.below: '100' has no unit" in capsys.readouterr().err


def test_what_is_surely_not_meant_is_a_warning(tmp_path, capsys):
    (tmp_path / "10-launch.yaml").write_text(
        'version: 1\npools: ["*"]\noverride:\n'
        "  - {freeze: true, until: 2020-01-01T00:00:00Z, reason: the launch}\n"
        "  - {pools: [wbe], freeze: true, until: 2090-01-01T00:00:00Z, reason: typing}\n"
    )
    (tmp_path / "20-api.yaml").write_text('version: 1\npools: ["api*"]\nmode: auto\n')
    assert main(["check", str(config(tmp_path, more=SEEING))]) == 0
    nobody = "no pool of this configuration"
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/20-api.yaml:2:8: this layer is for {nobody} (warning)",
        f"{tmp_path}/10-launch.yaml:5:5: an override for wbe: {nobody} (warning)",
        "pool web: policy balanced gives power_w a weight, and no sensor sees it (warning)",
        f"{tmp_path}/10-launch.yaml:4:5: this override (the launch) was over at {OVER} (warning)",
    ]


def test_an_expired_override_of_a_policy_by_itself_is_a_warning(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "version: 1\nname: mine\nextends: balanced\n"
        f"override: [{{pin: {{workers: 4}}, until: {OVER}, reason: old}}]\n"
    )
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().err == (
        f"{path}:4:12: this override (old) was over at {OVER} (warning)\n"
    )


def test_the_effective_policy_reads_as_the_same_policy(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("version: 1\nname: mine\nextends: autoscale\nseed: 4\n")
    (tmp_path / "site.yaml").write_text('version: 1\npools: ["*"]\nslo: {error_ratio: null}\n')
    path = config(tmp_path, policy="mine", more=SEEING)
    assert main(["check", "--effective", str(path)]) == 0
    said = capsys.readouterr().out
    head, text = said.split("---\n")
    policy = resolve("web", "mine", tmp_path)
    assert head == f"{path}: ok\n"
    assert text.splitlines()[0] == f"# pool web: policy mine, sha256 {policy.sha256}"
    again = bind_policy(parse_document(text.encode(), "f"), tmp_path)
    assert again == policy
    assert re.search(rf"(?m)^seed: 4 +# {tmp_path}/mine.yaml:4$", text)
    assert re.search(r"(?m)^    dwell: 1m +# .*/policies/autoscale.yaml:[0-9]+$", text)
    assert re.search(r"(?m)^  patience: 5 +# default$", text)
    assert "error_ratio" not in text


def test_a_window_too_short_for_the_cadence_of_the_daemon(tmp_path, capsys):
    path = config(tmp_path, more=SEEING)
    path.write_text("cadence: 20s\n" + path.read_text())
    assert main(["check", str(path)]) == 1
    assert "policy balanced has a window of less than two ticks of 20 s" in capsys.readouterr().err


BUDGET = "budget: {{memory: {memory}, cpu: {cpu}}}\n"
SCRAPED = """\
      - kind: prometheus
        url: http://127.0.0.1:9/metrics
        signals: {{{signals}}}
"""
USE, CAP = "connections: {gauge: pg_used}", "connections_limit: {gauge: pg_max}"


def test_a_shared_budget_that_nobody_measures_is_refused_like_at_the_start(tmp_path, capsys):
    path = config(tmp_path)
    text = path.read_text()
    path.write_text(BUDGET.format(memory="2GiB", cpu=1.5) + text)
    assert main(["check", str(path)]) == 1
    needs = "which `budget` needs: add a sensor of kind process_tree"
    assert capsys.readouterr().err.splitlines() == [
        f"pool web: no sensor gives memory_bytes, {needs}",
        f"pool web: no sensor gives cpu_cores, {needs}",
    ]
    path.write_text(BUDGET.format(memory="2GiB", cpu=1.5) + text + SEEING)
    assert main(["check", str(path)]) == 0
    path.write_text(BUDGET.format(memory="null", cpu="null") + text)
    assert main(["check", str(path)]) == 0


def test_a_budget_is_not_blamed_on_a_pool_whose_sensors_are_mistyped(tmp_path, capsys):
    path = config(tmp_path, more="      - {kind: process_tee, pidfile: web.pid}\n")
    path.write_text(BUDGET.format(memory="2GiB", cpu=1) + path.read_text())
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr().err == (
        f"{path}:11:16: unknown sensor kind 'process_tee'; did you mean 'process_tree'?\n"
    )


@pytest.mark.parametrize(
    ("mapped", "lacks"),
    [
        ((USE,), ("connections", "connections_limit")),
        ((CAP,), ("connections_limit", "connections")),
        ((USE, CAP), None),
    ],
)
def test_connections_without_their_cap_or_the_cap_alone_is_a_warning(
    tmp_path, capsys, mapped, lacks
):
    more = SEEING + SCRAPED.format(signals=", ".join(mapped))
    assert main(["check", str(config(tmp_path, more=more, policy="throughput-first"))]) == 0
    told = capsys.readouterr().err.splitlines()
    if lacks is None:
        assert told == []
        return
    one, other = lacks
    (line,) = told
    assert line == (
        f"pool web: a sensor gives {one}, and none gives {other}: nothing grows without both; "
        f"map {other} too, or neither (warning)"
    )


PRESSED = (
    "version: 1\nname: mine\nextends: throughput-first\n"
    "guard: {pressure: {memory: {below: 10%}, io: {below: 20%}}}\n"
)


@pytest.mark.parametrize("told", [False, True])
async def test_a_limit_of_pressure_that_the_host_does_not_tell(tmp_path, told):
    policy = bind_policy(parse_document(PRESSED.encode(), "f"), tmp_path)
    for name in ("memory", "io") if told else ():
        (tmp_path / "proc/pressure").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/pressure" / name).write_text("some avg10=0.00 total=7\n")
    sensor = Host(Host.Options(), "web", root=tmp_path)
    await sensor.read(10**9)
    found = unpressed("web", policy, await sensor.read(2 * 10**9))
    await sensor.close()
    assert found == [] if told else [
        f"pool web: policy mine limits psi_{name}_ratio, which this host does not tell, so the "
        f"guard is blind: {tmp_path}/proc/pressure/{name}: No such file or directory "
        "(kernel without PSI?)"
        for name in ("memory", "io")
    ]  # fmt: skip


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide a kernel's PSI")
def test_probe_warns_of_pressure_on_a_kernel_without_it(tmp_path):
    (tmp_path / "mine.yaml").write_text(PRESSED)
    path = config(tmp_path, policy="mine", more=SEEING)
    hidden = 'mount -t tmpfs -o ro none /proc/pressure 2>/dev/null; exec "$@"'
    command = [sys.executable, "-m", "poolwright", "check", "--probe", str(path)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", hidden, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr.splitlines() == [
        f"pool web: policy mine limits psi_{name}_ratio, which this host does not tell, so the "
        f"guard is blind: /proc/pressure/{name}: No such file or directory (kernel without PSI?)"
        " (warning)"
        for name in ("memory", "io")
    ]


@pytest.mark.e2e
def test_probe_says_what_it_sees_and_what_is_dead(tmp_path, capsys):
    assert main(["check", "--probe", str(config(tmp_path))]) == 1
    out = capsys.readouterr().out
    assert "actuator gunicorn: FAILED: " in out
    assert "web.pid" in out
    assert "host_cpu_cores" in out
    assert "throughput_rps" in out


def test_a_policy_is_told_from_a_configuration_by_its_content(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text("version: 1\nlisten: 127.0.0.1:1\njournal: j\n")
    assert main(["check", str(path)]) == 1
    assert "'pools' is missing" in capsys.readouterr().err
    path.write_text("version: 1\nname: x\nmode: auto\n")
    assert main(["check", str(path)]) == 1
    assert "'knobs' is missing" in capsys.readouterr().err


def test_a_file_that_may_not_be_read(tmp_path, capsys):
    path = config(tmp_path)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root reads everything
    try:
        assert main(["check", str(path)]) == 1
    finally:
        os.seteuid(user)
    assert "poolwright.yaml: cannot be read: Permission denied" in capsys.readouterr().err
