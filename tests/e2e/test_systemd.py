"""The unit under a real systemd: ready, status, reload, kill -9, stop, and its hardening."""

import json
import os
import re
import socket
import sys
import sysconfig
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import systemd_machine

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can boot a machine"),
]

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
POLICY_FILE = "/etc/poolwright/policies.d/mine.yaml"


def free_port(kind):
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def files():
    ports = {
        "port": free_port(socket.SOCK_STREAM),
        "listen": free_port(socket.SOCK_STREAM),
        "statsd": free_port(socket.SOCK_DGRAM),
        "repo": REPO,
    }
    return {
        "/opt/poolwright/bin/poolwright": (0o755, wrapper("poolwright.cli.main", "main")),
        "/opt/poolwright/bin/gunicorn": (0o755, wrapper("gunicorn.app.wsgiapp", "run")),
        "/opt/web/app.py": (0o644, APP),
        "/etc/poolwright/poolwright.yaml": (0o644, CONFIG.format(**ports)),
        POLICY_FILE: (0o644, POLICY.format(most=64)),
        "/etc/systemd/system/web.service": (0o644, WEB.format(**ports)),
        "/etc/systemd/system/poolwright.service": (
            0o644,
            (UNITS / "poolwright.service").read_text(),
        ),
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
    missing = systemd_machine.missing()
    assert not missing, f"{', '.join(missing)} missing: {systemd_machine.PACKAGES}"
    binds = {
        Path(sys.base_prefix): "/opt/python",
        ROOT: REPO,
        SITE: "/opt/poolwright/site",
    }
    with systemd_machine.Machine(tmp_path_factory.mktemp("machine"), binds, files()) as booted:
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


def until(found, seconds=15):
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
    until(lambda: main_pid(running) not in (0, pid), 40)
    assert "watchdog" in log(running).lower()


def test_stop_takes_less_than_two_seconds(stopped):
    machine = stopped
    machine.run("systemctl", "start", "poolwright.service")
    began = time.monotonic()
    machine.run("systemctl", "stop", "poolwright.service")
    assert time.monotonic() - began < 2.0
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
