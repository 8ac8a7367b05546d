"""`preset` in a configuration: the common case in five lines, and what it stands for."""

import re
from pathlib import Path

import pytest
import yaml

from poolwright.cli.main import main
from poolwright.core.errors import PolicyError
from poolwright.core.policy import Mode
from poolwright.engine.build import build_actuator, build_parts, build_sensor, unheeded
from poolwright.engine.reload import restart_needed
from poolwright.policy.bind import field_specs
from poolwright.policy.config import load_config
from poolwright.policy.library import shipped_policies
from poolwright.policy.preset import PRESETS

LOG = "access_log: /var/log/nginx/web.log"
BLIND = {  # without what would tell latency
    "celery": "broker: redis://127.0.0.1:6379/0, node: web@host",
    "haproxy": "backend: app, servers: [a, b]",
    "pgbouncer": "user: poolwright",
    "php_fpm": 'version: "8.2"',
    "uwsgi": "fifo: /run/web/fifo, stats: /run/web/stats.sock",
}
SEEING = {
    "celery": f"{BLIND['celery']}, events: true",
    "gunicorn": "pidfile: /run/web/gunicorn.pid",
    "haproxy": f"{BLIND['haproxy']}, {LOG}",
    "php_fpm": f"{BLIND['php_fpm']}, {LOG}",
    "systemd_units": f"template: worker@.service, {LOG}",
    "uvicorn": f"pidfile: /run/web/uvicorn.pid, {LOG}",
    "uwsgi": f"{BLIND['uwsgi']}, requests: 127.0.0.1:8126",
}
ALL = [(kind, options) for table in (BLIND, SEEING) for kind, options in table.items()]
SHIPPED = sorted(path.stem for path in shipped_policies().glob("*.yaml"))


@pytest.fixture
def config(tmp_path):
    """Loads a configuration of one pool `web` with a preset; `more` are further lines of it."""

    def load(kind, options, *more):
        lines = ["version: 1", "pools:", "  - name: web"]
        lines += [f"    preset: {{kind: {kind}, {options}}}", *(f"    {line}" for line in more)]
        assert len(lines) - len(more) <= 5
        path = tmp_path / "poolwright.yaml"
        path.write_text("\n".join([*lines, f"policies: {tmp_path}/policies.d", ""]))
        return load_config(path)

    return load


def kinds(parts):
    return [adapter.kind for adapter in parts.sensors]


def test_there_is_one_of_every_server():
    assert {kind for kind, _ in ALL} == set(PRESETS)


@pytest.mark.parametrize("kind", PRESETS)
def test_the_page_names_every_option(kind):
    page = (Path(__file__).parents[2] / "docs/init.md").read_text().split("## Presets")[1]
    (row,) = re.findall(rf"^\| {kind} \| (.*) \| .* \|$", page, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", row))
    fields = {spec.name for spec in field_specs(PRESETS[kind].options)}
    assert named <= fields
    assert fields - named <= {"pidfile", "cgroup"}  # said once for all that have processes
    must = set(re.findall(r"`(\w+)`", row.split(" | ")[0]))
    assert {spec.name for spec in field_specs(PRESETS[kind].options) if spec.required} <= must


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_the_common_case_is_a_whole_configuration(config, kind, options):
    (part,) = build_parts(config(kind, options))
    assert part.policy.mode is Mode.RECOMMEND
    assert unheeded("web", part.policy, part.sensors) == []
    (knob,) = part.policy.knobs
    assert (knob.lower, knob.upper) == (2, 64)  # those of balanced, on every host
    assert any(slo.response == "latency_p99_s" for slo in part.policy.slo) == (
        options == SEEING.get(kind)
    )


@pytest.mark.parametrize("policy", SHIPPED)
@pytest.mark.parametrize(("kind", "options"), ALL)
def test_every_shipped_policy_suits_every_preset(config, kind, options, policy):
    (part,) = build_parts(config(kind, options, f"policy: {policy}"))
    assert part.policy.name == policy


def test_a_policy_of_ones_own_is_taken_as_it_is_written(config, tmp_path):
    folder = tmp_path / "policies.d"
    folder.mkdir()
    (folder / "own.yaml").write_text("version: 1\nname: own\nextends: balanced\n")
    with pytest.raises(PolicyError, match="own has an SLO on latency_p99_s, which no sensor"):
        build_parts(config("haproxy", BLIND["haproxy"], "policy: own"))


def test_a_layer_lies_over_what_the_preset_leaves_of_the_policy(config, tmp_path):
    folder = tmp_path / "policies.d"
    folder.mkdir()
    (folder / "web.yaml").write_text(
        "version: 1\npools: [web]\nmode: auto\nknobs: {maxconn: {max: 8}}\n"
        "slo: {error_ratio: {below: 2%}}\n"
    )
    # the memory of its processes is to be seen before anything is moved
    more = "sensors: [{kind: process_tree, pidfile: /run/haproxy.pid}]"
    (part,) = build_parts(config("haproxy", BLIND["haproxy"], more))
    (knob,) = part.policy.knobs
    assert (knob.name, knob.lower, knob.upper, part.policy.mode) == ("maxconn", 2, 8, Mode.AUTO)
    assert [slo.below for slo in part.policy.slo] == [0.02]


def test_sensors_beside_a_preset_are_added_or_replace_their_kind(config):
    more = "sensors: [{kind: process_tree, cgroup: /web}, {kind: nginx, url: http://127.0.0.1/s}]"
    (pool,) = config("gunicorn", SEEING["gunicorn"], more).pools
    assert kinds(pool) == ["access_log", "host", "power", "process_tree", "nginx"]
    assert build_sensor(pool.sensors[3], "web").source == "process_tree /web"


def test_a_sensor_that_tells_latency_beside_a_preset_keeps_the_promise_of_it(config):
    signals = "signals: {latency: {histogram: seconds}}"
    more = f"sensors: [{{kind: prometheus, url: http://127.0.0.1:9/m, {signals}}}]"
    (part,) = build_parts(config("pgbouncer", BLIND["pgbouncer"], more))
    assert [slo.response for slo in part.policy.slo] == ["latency_p99_s"]
    assert dict(part.policy.objective)["latency_p99_s"] == 1.0


def test_null_takes_a_default_away(config):
    options = SEEING["gunicorn"]
    assert kinds(config("gunicorn", f"{options}, requests: null").pools[0])[0] == "process_tree"
    assert kinds(config("gunicorn", f"{options}, statsd: 127.0.0.1:8125").pools[0])[0] == "statsd"
    assert kinds(config("php_fpm", f"{SEEING['php_fpm']}, status: null").pools[0])[:2] == [
        "access_log",
        "process_tree",
    ]
    (pool,) = config("gunicorn", options).pools
    assert build_sensor(pool.sensors[0], "web").source == "access_log 127.0.0.1:8126"


def test_what_is_wrong_with_a_value_points_at_it(config):
    (pool,) = config("uwsgi", 'fifo: /run/f, stats: "no:where"').pools
    for adapter, build in ((pool.actuator, build_actuator), (pool.sensors[0], build_sensor)):
        with pytest.raises(PolicyError, match=r"poolwright.yaml:4:13: .*no:where"):
            build(adapter, "web")


def test_paths_begin_at_the_file_and_units_are_escaped_as_systemd_does(config, tmp_path):
    (pool,) = config("gunicorn", "pidfile: run/g.pid").pools
    assert build_actuator(pool.actuator, "web").endpoint.endswith(f"{tmp_path}/run/g.pid")
    (pool,) = config("systemd_units", r"template: we\x2db-a@.service").pools
    assert build_sensor(pool.sensors[0], "web").source.endswith(
        r"/system.slice/system-we\x5cx2db\x2da.slice"
    )


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_what_check_shows_of_it_written_out_is_the_same(config, tmp_path, capsys, kind, options):
    short = config(kind, options)
    assert main(["check", "--effective", str(tmp_path / "poolwright.yaml")]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"# pool web: preset {kind}, \S+/poolwright.yaml:4:13\n", said)
    shown = next(part for part in said.split("---\n") if "\nactuator:\n" in part)
    assert set(yaml.safe_load(shown)) == {"actuator", "sensors"}
    lines = "".join(f"    {line}\n" for line in shown.splitlines() if not line.startswith("#"))
    full = tmp_path / "full.yaml"
    full.write_text(f"version: 1\npolicies: {tmp_path}/policies.d\npools:\n  - name: web\n{lines}")
    written = load_config(full)
    assert restart_needed(short, written) == []  # compares actuator and sensors
