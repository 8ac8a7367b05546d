"""The unit and its drop-ins under a real systemd.

Ready, status, reload, watchdog, kill -9, stop and restore, instances, binding, and the sandbox.
"""

import json
import os
import re
import sys
import sysconfig
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import systemd_machine

pytestmark = [pytest.mark.e2e, pytest.mark.root]

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
REPO = "/opt/poolwright/repo"
PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
SITE = Path(sysconfig.get_path("purelib"))

# The unit runs as it is shipped: only what stands at its paths is made for the test.
ENV = {
    "LD_LIBRARY_PATH": "/opt/python/lib",
    "PYTHONPATH": f"{REPO}/daemon:/opt/poolwright/site",
}


def wrapper(module, function):
    """A program that calls a function of the bound tree with the bound interpreter."""
    exports = " ".join(f"{name}={value}" for name, value in ENV.items())
    call = f"from {module} import {function}; raise SystemExit({function}())"
    return f'#!/bin/sh\nexport {exports}\nexec {PYTHON} -c "{call}" "$@"\n'


APP = "def app(environ, start):\n    start('200 OK', [])\n    return [b'ok']\n"
WEB = """[Service]
User=www-data
RuntimeDirectory=web
WorkingDirectory=/opt/web
ExecStart=/opt/poolwright/bin/gunicorn -w 3 -b 127.0.0.1:{port} -p /run/web/gunicorn.pid \\
    --statsd-host 127.0.0.1:{statsd} app:app
"""
CONFIG = """version: 1
listen: 127.0.0.1:{listen}
pools:
  - name: web
    policy: mine
    actuator: {{kind: gunicorn, pidfile: /run/web/gunicorn.pid}}
    sensors:
      - {{kind: statsd, listen: "127.0.0.1:{statsd}", preset: gunicorn}}
      - {{kind: process_tree, pidfile: /run/web/gunicorn.pid}}
      - {{kind: host}}
"""

POLICY = """version: 1
name: mine
extends: balanced
knobs:
  workers: {{min: 2, max: {most}}}
"""
ACTING = POLICY.format(most=64) + "mode: auto\nexit: "
BASELINE = 3  # of web.service
POLICY_FILE = "/etc/poolwright/policies.d/mine.yaml"


def dropin(name):
    return f"poolwright.service.d/{name}.conf"


def files():
    ports = {"port": 8000, "listen": 9817, "statsd": 8125}  # of the machine's own loopback
    return {
        "/opt/poolwright/bin/poolwright": (0o755, wrapper("poolwright.cli.main", "main")),
        "/opt/poolwright/bin/gunicorn": (0o755, wrapper("gunicorn.app.wsgiapp", "run")),
        "/opt/web/app.py": (0o644, APP),
        "/etc/poolwright/poolwright.yaml": (0o644, CONFIG.format(**ports)),
        POLICY_FILE: (0o644, POLICY.format(most=64)),
        "/etc/systemd/system/web.service": (0o644, WEB.format(**ports)),
        **{
            f"/etc/systemd/system/{place}": (0o644, (UNITS / place).read_text())
            for place in ("poolwright.service", "poolwright@.service", dropin("gunicorn"))
        },
        "/usr/lib/sysusers.d/poolwright.conf": (
            0o644,
            (UNITS / "poolwright.sysusers.conf").read_text(),
        ),
        "/usr/lib/tmpfiles.d/poolwright.conf": (
            0o644,
            (UNITS / "poolwright.tmpfiles.conf").read_text(),
        ),
    }


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    assert os.geteuid() == 0, "only root can boot a machine"
    missing = systemd_machine.missing()
    assert not missing, f"{', '.join(missing)} missing: {systemd_machine.PACKAGES}"
    binds = {
        Path(sys.base_prefix): "/opt/python",
        ROOT: REPO,
        SITE: "/opt/poolwright/site",
    }
    state = tmp_path_factory.mktemp("machine")
    with systemd_machine.Machine(state, binds, files(), own_network=True) as booted:
        booted.run("systemd-sysusers", "poolwright.conf")
        booted.run("systemd-tmpfiles", "--create", "poolwright.conf")
        booted.run("systemctl", "start", "web.service")
        until(lambda: booted.run("test", "-e", "/run/web/gunicorn.pid", check=False) == "")
        yield booted


@pytest.fixture
def stopped(machine):
    """The machine, with the unit's count of starts at zero: they are limited."""
    machine.run("systemctl", "reset-failed", "poolwright.service", check=False)
    return machine


@pytest.fixture
def running(stopped):
    machine = stopped
    try:
        machine.run("systemctl", "start", "poolwright.service")
    except RuntimeError:
        pytest.fail(log(machine))
    yield machine
    machine.run("systemctl", "stop", "poolwright.service")


def log(machine):
    return machine.run("journalctl", "-u", "poolwright.service", "-n", "60", "-o", "cat")


def until(found, seconds=60):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def main_pid(machine):
    return int(machine.shown("poolwright.service", "MainPID"))


def test_start_waits_for_ready_and_status_is_shown(running):
    assert running.shown("poolwright.service", "ActiveState") == "active"
    assert running.shown("poolwright.service", "StatusText").startswith("web: ")


def test_it_runs_as_its_own_user_with_one_capability(running):
    status = running.run("cat", f"/proc/{main_pid(running)}/status")
    uid = running.run("id", "-u", "poolwright").strip()
    assert re.search(r"^Uid:\t(\d+)", status, re.MULTILINE)[1] == uid != "0"
    assert int(re.search(r"^CapEff:\t(\w+)", status, re.MULTILINE)[1], 16) == 1 << 5  # CAP_KILL
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)


def status(machine):
    config = machine.run("cat", "/etc/poolwright/poolwright.yaml")
    url = "http://" + re.search(r"^listen: (.*)$", config, re.MULTILINE)[1]
    command = ("/opt/poolwright/bin/poolwright", "status", "--json", "--url", url)
    return json.loads(machine.run(*command, check=False))


def test_it_sees_the_service_of_another_user(running):
    until(lambda: status(running)["pools"][0]["tick"]["applied"] is not None)
    seen = status(running)
    assert seen["pools"][0]["tick"]["applied"]["setting"]["levels"] == [["workers", 3]]
    assert seen["journal_error"] == ""


def test_reload_waits_and_keeps_the_process(running):
    pid = main_pid(running)
    running.run("systemctl", "reload", "poolwright.service")
    until(lambda: running.shown("poolwright.service", "SubState") == "running")
    assert main_pid(running) == pid
    assert int(running.shown("poolwright.service", "NRestarts")) == 0


def tick_of(machine):
    """The upper bound under which the newest tick was made, and when that began."""
    pool = status(machine)["pools"][0]
    return pool["policy"]["knobs"][0]["upper"], pool["tick"]["wall_ns"]


def most(machine):
    return tick_of(machine)[0]


def write_policy(machine, text):
    machine.run("tee", POLICY_FILE, stdin=text)


@pytest.fixture
def unwatched(stopped):
    """The unit running with `watch: false`."""
    machine, file = stopped, "/etc/poolwright/poolwright.yaml"
    machine.run("sed", "-i", "1a watch: false", file)
    machine.run("systemctl", "start", "poolwright.service")
    yield machine
    machine.run("systemctl", "stop", "poolwright.service")
    machine.run("sed", "-i", "/^watch:/d", file)
    write_policy(machine, POLICY.format(most=64))


def test_systemctl_reload_puts_an_edit_in_force_and_a_broken_one_changes_nothing(unwatched):
    machine = unwatched
    pid = main_pid(machine)
    write_policy(machine, POLICY.format(most=32))
    assert most(machine) == 64
    machine.run("systemctl", "reload", "poolwright.service")
    reloaded_ns, ticks = time.time_ns(), []
    until(lambda: ticks.append(tick_of(machine)) or ticks[-1][0] == 32)
    assert all(wall_ns < reloaded_ns for upper, wall_ns in ticks if upper == 64), (
        "when the command has returned, no tick is begun under the old policy"
    )
    write_policy(machine, POLICY.format(most=32).replace("min:", "mim:"))
    machine.run("systemctl", "reload", "poolwright.service")
    until(lambda: status(machine)["policy_error"])
    assert f"{POLICY_FILE}:5:13: " in status(machine)["policy_error"]
    assert most(machine) == 32
    assert f"{POLICY_FILE}:5:13: " in log(machine)
    until(lambda: machine.shown("poolwright.service", "SubState") == "running")
    write_policy(machine, POLICY.format(most=16))
    machine.run("systemctl", "reload", "poolwright.service")
    until(lambda: most(machine) == 16)
    assert status(machine)["policy_error"] == ""
    assert main_pid(machine) == pid
    assert "knobs.workers.max: 32 -> 16" in log(machine)


def test_an_edit_is_noticed_under_the_hardening(running):
    write_policy(running, POLICY.format(most=48))
    until(lambda: most(running) == 48)
    until(lambda: running.shown("poolwright.service", "SubState") == "running")
    write_policy(running, POLICY.format(most=64))
    until(lambda: most(running) == 64)
    assert "looked at every" not in log(running), "it was inotify that told"


def test_kill_9_is_survived(running):
    pid = main_pid(running)
    running.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "poolwright.service")
    until(lambda: main_pid(running) not in (0, pid))
    until(lambda: running.shown("poolwright.service", "ActiveState") == "active")
    assert running.shown("poolwright.service", "StatusText").startswith("web: ")


def test_a_hanging_daemon_is_restarted_by_the_watchdog(running):
    running.run("systemctl", "service-watchdogs", "yes")
    pid = main_pid(running)
    running.run("kill", "-STOP", str(pid))
    until(lambda: main_pid(running) not in (0, pid))
    assert "watchdog" in log(running).lower()


def level(machine):
    """What the machine itself tells: the children of gunicorn's master."""
    master = machine.shown("web.service", "MainPID")
    return int(machine.run("pgrep", "-c", "-P", master, check=False).split()[0])


def command(machine, *words):
    try:
        return machine.run("/opt/poolwright/bin/poolwright", *words)
    except RuntimeError as error:
        pytest.fail(f"{error}\n{log(machine)}")


def moved(machine, workers):
    """Have the daemon move the pool, and let go of it: the level is its own, and no person's."""
    command(machine, "pin", "web", f"workers={workers}", "--why", "a test")
    until(lambda: level(machine) == workers)
    command(machine, "unpin", "web")
    until(lambda: status(machine)["pools"][0]["kept"]["pin"] is None)


@pytest.fixture
def acting(stopped):
    """Starts the unit in mode auto with `exit`, on a pool that has its baseline."""
    machine = stopped

    def start(exit_):
        write_policy(machine, f"{ACTING}{exit_}\n")
        machine.run("systemctl", "restart", "web.service")
        until(lambda: level(machine) == BASELINE)
        machine.run("systemctl", "start", "poolwright.service")
        until(lambda: status(machine)["pools"][0]["tick"]["applied"] is not None)
        return machine

    yield start
    machine.run("systemctl", "stop", "poolwright.service")
    write_policy(machine, POLICY.format(most=64))


def test_stop_restores_the_baseline(acting):
    machine = acting("restore")
    moved(machine, 5)
    machine.run("systemctl", "stop", "poolwright.service")
    assert level(machine) == BASELINE
    assert machine.shown("poolwright.service", "Result") == "success"


def test_after_kill_9_exec_stop_post_restores_the_baseline_and_the_next_life_goes_on(acting):
    machine = acting("restore")
    moved(machine, 5)
    pid = main_pid(machine)
    machine.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "poolwright.service")
    until(lambda: main_pid(machine) not in (0, pid))
    until(lambda: machine.shown("poolwright.service", "ActiveState") == "active")
    assert level(machine) == BASELINE
    assert "ended: restored; found workers=3; the baseline is workers=3" in log(machine)
    command(machine, "journal", "verify")


def test_kill_9_keeps_the_level_and_the_baseline_where_the_policy_says_keep(acting):
    machine = acting("keep")
    moved(machine, 5)
    pid = main_pid(machine)
    machine.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "poolwright.service")
    until(lambda: main_pid(machine) not in (0, pid))
    until(lambda: machine.shown("poolwright.service", "ActiveState") == "active")
    until(lambda: status(machine)["pools"][0]["tick"])
    assert level(machine) == 5
    assert status(machine)["pools"][0]["baseline"]["levels"] == [["workers", BASELINE]]


def shipped(machine, name, unit="poolwright.service", edit=str):
    """Put a shipped drop-in in place, as `edit` changes it."""
    text = edit((UNITS / "poolwright.service.d" / name).read_text())
    folder = f"/etc/systemd/system/{unit}.d"
    machine.run("mkdir", "-p", folder)
    machine.run("tee", f"{folder}/{name.removesuffix('.example')}", stdin=text)
    machine.run("systemctl", "daemon-reload")


def withdrawn(machine, name, unit="poolwright.service"):
    machine.run("systemctl", "stop", unit)
    machine.run("rm", f"/etc/systemd/system/{unit}.d/{name}")
    machine.run("systemctl", "daemon-reload")


def test_the_members_of_the_control_group_may_command_and_nobody_else(stopped):
    machine, file = stopped, "/etc/poolwright/poolwright.yaml"
    machine.run("groupadd", "poolwright-ops")
    machine.run("useradd", "-G", "poolwright-ops", "ann")
    machine.run("useradd", "bob")
    shipped(machine, "control-group.conf")
    machine.run("sed", "-i", "1a control_group: poolwright-ops", file)
    try:
        machine.run("systemctl", "start", "poolwright.service")
        asked = "/opt/poolwright/bin/poolwright pause web --why lunch"
        machine.run("runuser", "-u", "ann", "--", "sh", "-c", asked)
        refused = machine.run("runuser", "-u", "bob", "--", "sh", "-c", asked, check=False)
        assert "ermission" in refused
        command(machine, "resume", "web")
    finally:
        withdrawn(machine, "control-group.conf")
        machine.run("sed", "-i", "/^control_group:/d", file)


def test_other_hosts_and_other_users_processes_are_out_of_reach(machine):
    """The unit's sandbox round a program that tries: without a drop-in, and with two of them."""
    machine.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    machine.run("install", "-d", "-m", "1777", "/opt/open")
    tries = (
        "import os, socket\n"
        "def can(call, *words):\n"
        "    try: call(*words)\n"
        "    except OSError as error: return type(error).__name__\n"
        "    return 'yes'\n"
        "def reach(address):\n"
        "    with socket.socket() as link: link.settimeout(2), link.connect((address, 8000))\n"
        "link = lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).close()\n"
        "print(can(reach, '127.0.0.1'), can(reach, '192.0.2.1'), can(os.stat, '/proc/1'),\n"
        "    can(link), can(os.mkdir, '/opt/open/x'), can(os.chroot, '/'))\n"
    )
    machine.run("tee", "/opt/web/tries.py", stdin=tries)
    machine.run("sed", "-i", "s/127.0.0.1:8000/0.0.0.0:8000/", "/etc/systemd/system/web.service")
    unit = (UNITS / "poolwright.service").read_text()
    unit = re.sub(
        "^ExecStart=.*", f"ExecStart={PYTHON} /opt/web/tries.py", unit, flags=re.MULTILINE
    )
    unit = re.sub("^(ExecStopPost|ExecReload|Restart|WatchdogSec)=.*", "", unit, flags=re.MULTILINE)
    unit = unit.replace("Type=notify", "Type=oneshot\nEnvironment=LD_LIBRARY_PATH=/opt/python/lib")
    machine.run("tee", "/etc/systemd/system/tries.service", stdin=unit)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "web.service")
    until(lambda: level(machine) == BASELINE)

    def said():
        machine.run("systemctl", "start", "tries.service")
        return machine.run("journalctl", "-u", "tries.service", "-o", "cat", "_COMM=python3.11")

    denied = "yes TimeoutError FileNotFoundError OSError OSError PermissionError"
    assert said().splitlines()[-1:] == [denied]
    for name in ("network.conf", "listen-queue.conf"):
        shipped(machine, name, "tries.service")
    opened = "yes yes yes yes OSError PermissionError"
    assert said().splitlines()[-1:] == [opened]


def test_bound_to_its_service_it_starts_stops_and_restarts_with_it(stopped):
    machine = stopped
    shipped(machine, "bind-to-service.conf.example")
    machine.run("systemctl", "enable", "poolwright.service")
    try:
        machine.run("systemctl", "stop", "web.service")
        machine.run("systemctl", "start", "web.service")
        until(lambda: machine.shown("poolwright.service", "ActiveState") == "active")
        pid = main_pid(machine)
        machine.run("systemctl", "restart", "web.service")
        until(lambda: machine.shown("poolwright.service", "ActiveState") == "active")
        until(lambda: main_pid(machine) not in (0, pid))
        machine.run("systemctl", "stop", "web.service")
        assert machine.shown("poolwright.service", "ActiveState") == "inactive"
    finally:
        machine.run("systemctl", "disable", "poolwright.service")
        withdrawn(machine, "bind-to-service.conf")
        machine.run("systemctl", "start", "web.service")


def test_an_instance_has_its_own_files_beside_the_unit(running):
    machine, unit = running, "poolwright@second.service"
    places = (
        "listen: 127.0.0.1:9818\n"
        "control: /run/poolwright/second/control.sock\n"
        "journal: /var/lib/poolwright/second/journal.db\n"
    )
    config = machine.run("cat", "/etc/poolwright/poolwright.yaml")
    second = re.sub("^listen: .*\n", places, config, flags=re.MULTILINE)
    second = second.replace("127.0.0.1:8125", "127.0.0.1:8126")
    machine.run("tee", "/etc/poolwright/second.yaml", stdin=second)
    shipped(machine, "gunicorn.conf", unit)
    machine.run("systemctl", "start", unit)
    try:
        assert machine.shown(unit, "StatusText").startswith("web: ")
        machine.run("test", "-f", "/var/lib/poolwright/second/journal.db")
        socket = "/run/poolwright/second/control.sock"
        command(machine, "pause", "web", "--socket", socket, "--why", "just this one")
        until(lambda: "paused" in machine.shown(unit, "StatusText"))
    finally:
        machine.run("systemctl", "stop", unit)
    assert machine.shown("poolwright.service", "ActiveState") == "active"
    machine.run("test", "-S", "/run/poolwright/control.sock")


def test_stop_ends_in_order_and_leaves_the_pool_alone(stopped):
    machine = stopped
    machine.run("systemctl", "start", "poolwright.service")
    machine.run("systemctl", "stop", "poolwright.service")
    assert machine.shown("poolwright.service", "Result") == "success"
    assert int(machine.run("pgrep", "-c", "-f", "/run/web/gunicorn.pid").strip()) >= 4, (
        "the pool is alone"
    )


def test_the_heavy_libraries_run_under_the_hardening(machine):
    """What the learner imports and works with, with MemoryDenyWriteExecute and the call filter."""
    unit = (UNITS / "poolwright.service").read_text()
    keys = r"^((?:Protect|Private|Restrict|SystemCall|Lock|NoNew|Keyring|MemoryDeny)\w*=.*)$"
    properties = [f"--property={line}" for line in re.findall(keys, unit, re.MULTILINE)]
    assert "--property=MemoryDenyWriteExecute=yes" in properties
    program = (
        "import uvloop, asyncio, numpy as np\n"
        "import poolwright.learn.plan\n"
        "from scipy.linalg import cholesky\n"
        "from skopt.sampler import Halton\n"
        "uvloop.run(asyncio.sleep(0))\n"
        "assert len(Halton().generate([(1, 64)], 8)) == 8\n"
        "cholesky(np.eye(96) + 0.1)\n"
        "import mmap\n"
        "try:\n    mmap.mmap(-1, 4096, prot=7)\nexcept OSError: print('denied')\n"
    )
    said = machine.run(
        "systemd-run", "--pipe", "--wait", "--quiet", "--uid=poolwright",
        "--setenv=OPENBLAS_NUM_THREADS=1", *(f"--setenv={k}={v}" for k, v in ENV.items()),
        *properties, PYTHON, "-c", program,
    )  # fmt: skip
    assert said.strip() == "denied"
