"""`poolwright check`: good and bad files, folders, and a look at the world."""

import os
import shutil
from pathlib import Path

import pytest

from poolwright.cli.main import main

ROOT = Path(__file__).parents[2]

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
    shutil.copy(ROOT / "tests/golden/policies/missing-keys.yaml", own)
    assert main(["check", str(config(tmp_path, policy="mine"))]) == 1
    err = capsys.readouterr().err
    assert f"{own}:1:1: 'name' is missing\n" in err
    assert f"{own}:3:12: knobs.workers: 'min' is missing\n" in err


def test_an_slo_that_no_sensor_sees(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(
        "version: 1\npools:\n  - name: web\n    actuator: {kind: gunicorn, pidfile: web.pid}\n"
        "    sensors: [{kind: host}]\n"
    )
    assert main(["check", str(path)]) == 1
    err = capsys.readouterr().err
    assert "SLO on latency_p99_s, which no sensor gives" in err


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
