"""The rights that `poolwright install` gives are enough to see and move a real server, and needed.

One booted systemd with an HAProxy, a uWSGI, a PgBouncer and Debian's own php-fpm, each of its own
user, and for each an instance of the unit with the drop-ins that its configuration asks for.
"""

import json
import os
import sys
import sysconfig
from pathlib import Path

import pytest
import systemd_machine
from test_systemd import REPO, ROOT, UNITS, until, wrapper

pytestmark = [pytest.mark.e2e, pytest.mark.root]

POOLWRIGHT = "/opt/poolwright/bin/poolwright"
CONFIG = """version: 1
listen: 127.0.0.1:{port}
control: /run/poolwright/{name}/control.sock
journal: /var/lib/poolwright/{name}/journal.db
pools:
  - name: pool
    policy: {name}
    actuator: {actuator}
    sensors:
      - {sensor}
      - {{kind: host}}
"""
POLICY = """version: 1
name: {name}
mode: recommend
knobs:
  {knob}: {{min: 1, max: 8, slew: 4, settle: 1s}}
objective: {{throughput: 1.0}}
"""
HAPROXY = """global
  stats socket /run/haproxy/poolwright.sock user haproxy group haproxy mode 660 level admin
  user haproxy
  group haproxy
defaults
  mode http
  timeout connect 2s
  timeout client 9s
  timeout server 9s
frontend web
  bind 127.0.0.1:8080
  default_backend app
backend app
  server s1 127.0.0.1:8001 maxconn 2
"""
PGBOUNCER = """[databases]
bench = host=/run/pgb dbname=bench
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
unix_socket_dir = /run/pgb
auth_type = any
admin_users = poolwright
default_pool_size = 2
"""
UWSGI = (
    "/usr/bin/uwsgi_python3 --http-socket 127.0.0.1:8002 --wsgi-file /opt/servers/app.py"
    " --callable app --master --processes 8 --cheaper 1 --cheaper-initial 2 --cheaper-algo manual"
    " --master-fifo /run/up/master.fifo --stats /run/up/stats.sock --die-on-term"
)
FPM = """[www]
user = www-data
group = www-data
listen = /run/php/poolwright.sock
pm = static
pm.max_children = 2
pm.status_path = /status
pm.status_listen = 127.0.0.1:9001
"""
# name: (knob, actuator, sensor, drop-ins, what is said without them)
CASES = {
    "haproxy": (
        "maxconn",
        "{kind: haproxy, socket: /run/haproxy/poolwright.sock, backend: app, servers: [s1]}",
        "{kind: haproxy, socket: /run/haproxy/poolwright.sock, backend: app}",
        ["haproxy.conf"],
        "Permission denied",
    ),
    "uwsgi": (
        "workers",
        "{kind: uwsgi, fifo: /run/up/master.fifo, stats: /run/up/stats.sock}",
        "{kind: uwsgi, stats: /run/up/stats.sock}",
        ["uwsgi.conf"],
        "Permission denied",
    ),
    "pgbouncer": (
        "pool_size",
        '{kind: pgbouncer, address: "unix:/run/pgb/.s.PGSQL.6432", user: poolwright}',
        '{kind: pgbouncer, address: "unix:/run/pgb/.s.PGSQL.6432", user: poolwright}',
        ["pgbouncer.conf"],
        "",
    ),
    "php-fpm": (
        "workers",
        (
            "{kind: php_fpm, config: /etc/php/8.2/fpm/pool.d/www.conf, "
            "main_config: /etc/php/8.2/fpm/php-fpm.conf, pidfile: /run/php/php8.2-fpm.pid, "
            "binary: /usr/sbin/php-fpm8.2}"
        ),
        '{kind: php_fpm, listen: "127.0.0.1:9001"}',
        ["php-fpm.conf"],
        "is not running",  # as far as it can see
    ),
}


def service(start, runtime, more=""):
    return f"[Service]\nExecStart={start}\nRuntimeDirectory={runtime}\n{more}"


def files():
    units = "/etc/systemd/system"
    texts = {
        "/opt/servers/haproxy.cfg": HAPROXY,
        "/opt/servers/app.py": "def app(environ, start):\n    start('200 OK', [])\n    return []\n",
        "/etc/pgb.ini": PGBOUNCER,
        "/etc/php/8.2/fpm/pool.d/www.conf": FPM,
        f"{units}/s-haproxy.service": service(
            "/usr/sbin/haproxy -db -f /opt/servers/haproxy.cfg", "haproxy"
        ),
        f"{units}/s-uwsgi.service": service(UWSGI, "up", "User=www-data\n"),
        f"{units}/s-pgbouncer.service": service(
            "/usr/sbin/pgbouncer /etc/pgb.ini", "pgb", "User=postgres\n"
        ),
    }
    for name in ("poolwright.service", "poolwright@.service"):
        texts[f"/usr/lib/systemd/system/{name}"] = (UNITS / name).read_text()
    for kind in ("sysusers", "tmpfiles"):
        text = (UNITS / f"poolwright.{kind}.conf").read_text()
        texts[f"/usr/lib/{kind}.d/poolwright.conf"] = text
    for port, (name, (knob, actuator, sensor, *_)) in enumerate(CASES.items(), 9820):
        texts[f"/etc/poolwright/{name}.yaml"] = CONFIG.format(
            name=name, port=port, actuator=actuator, sensor=sensor
        )
        texts[f"/etc/poolwright/policies.d/{name}.yaml"] = POLICY.format(name=name, knob=knob)
    program = {POOLWRIGHT: (0o755, wrapper("poolwright.cli.main", "main"))}
    return {**program, **{path: (0o644, text) for path, text in texts.items()}}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    assert os.geteuid() == 0, "only root can boot a machine"
    missing = systemd_machine.missing()
    assert not missing, f"{', '.join(missing)} missing: {systemd_machine.PACKAGES}"
    binds = {
        Path(sys.base_prefix): "/opt/python",
        ROOT: REPO,
        Path(sysconfig.get_path("purelib")): "/opt/poolwright/site",
    }
    state = tmp_path_factory.mktemp("machine")
    with systemd_machine.Machine(state, binds, files(), own_network=True) as booted:
        booted.run("systemd-sysusers", "poolwright.conf")
        booted.run("chown", "postgres:postgres", "/etc/pgb.ini")
        booted.run("chmod", "640", "/etc/pgb.ini")
        grace = "s/^;?process_control_timeout.*/process_control_timeout = 10s/"
        booted.run("sed", "-Ei", grace, "/etc/php/8.2/fpm/php-fpm.conf")
        booted.run("touch", "/var/log/php8.2-fpm.log")
        for command in ("chgrp poolwright", "chmod g+w"):  # as the drop-in says
            places = ("/etc/php/8.2/fpm/pool.d", "/var/log/php8.2-fpm.log")
            booted.run(*command.split(), *places)
        yield booted


SERVERS = {"php-fpm": "php8.2-fpm.service"}


@pytest.fixture(params=CASES)
def case(request, machine):
    name = request.param
    server = SERVERS.get(name, f"s-{name}.service")
    machine.run("systemctl", "start", server)
    yield name
    unit = f"poolwright@{name}.service"
    print(machine.run("journalctl", "-u", unit, "-u", server, "-n", "60", "-o", "cat"))
    machine.run("systemctl", "stop", unit, server)


def levels(machine, name):
    """What the daemon reads back; None while it does not."""
    port = 9820 + list(CASES).index(name)
    said = machine.run(POOLWRIGHT, "status", "--json", "--url", f"http://127.0.0.1:{port}",
                       check=False)  # fmt: skip
    try:
        applied = json.loads(said)["pools"][0]["tick"]["applied"]
    except (ValueError, KeyError, TypeError):
        return None
    return applied and dict(applied["setting"]["levels"])


def test_with_its_dropins_it_sees_and_moves_the_server(machine, case):
    knob, _, _, dropins, _ = CASES[case]
    unit = f"poolwright@{case}.service"
    machine.run(POOLWRIGHT, "install", "--instance", case)
    folder = f"/etc/systemd/system/{unit}.d"
    assert machine.run("ls", folder).split() == dropins
    machine.run("systemctl", "start", unit)
    until(lambda: levels(machine, case) == {knob: 2})
    socket = f"/run/poolwright/{case}/control.sock"
    ask = ("pin", "pool", f"{knob}=1", "--why", "a test", "--socket", socket)
    machine.run(POOLWRIGHT, *ask)
    until(lambda: levels(machine, case) == {knob: 1})
    security = machine.run("systemd-analyze", "security", unit).splitlines()[-1]
    assert float(security.split(": ")[1].split()[0]) <= 2.0, security


@pytest.mark.parametrize("case", ["haproxy", "uwsgi", "php-fpm"], indirect=True)
def test_without_them_it_cannot_and_says_so(machine, case):
    """PgBouncer lets anybody move it who may connect; its drop-in is for telling a restart."""
    unit, folder = f"poolwright@{case}.service", f"/etc/systemd/system/poolwright@{case}.service.d"
    machine.run("sh", "-c", f"rm -rf {folder}; systemctl daemon-reload")
    machine.run("systemctl", "start", "--no-block", unit)
    log = ("journalctl", "-u", unit, "-n", "20", "-o", "cat")
    until(lambda: CASES[case][-1] in machine.run(*log))
    assert levels(machine, case) is None
