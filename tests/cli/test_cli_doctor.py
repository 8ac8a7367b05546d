"""`poolwright doctor` on made-up hosts, and on this one."""

import json
from pathlib import Path

import pytest

from poolwright.cli.doctor import Host, State, examine
from poolwright.cli.main import main


@pytest.fixture
def host(tmp_path):
    for folder in ("proc/self", "proc/pressure", "proc/sys/net/core", "sys/class"):
        (tmp_path / folder).mkdir(parents=True)
    return Host(proc=tmp_path / "proc", sys=tmp_path / "sys", environ={})


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(host):
    return {finding.topic: finding for finding in examine(host)}


def process(host, pid, parent, *words):
    write(host.proc / str(pid) / "cmdline", "\0".join(words) + "\0")
    write(host.proc / str(pid) / "stat", f"{pid} (a ) b) S {parent} 1 1")


def test_a_host_that_gives_nothing(host):
    findings = found(host)
    assert findings["cgroup"].state is State.ABSENT
    assert findings["pressure (PSI)"].state is State.ABSENT
    assert findings["power (RAPL)"].state is State.ABSENT
    assert findings["CAP_KILL"].state is State.LIMITED
    assert findings["gunicorn"].state is State.ABSENT
    assert findings["clock"].state is State.LIMITED
    assert findings["rmem_max"].state is State.ABSENT
    assert findings["systemd notify"].state is State.ABSENT


def test_cgroup_2_takes_the_tightest_limit_on_the_way_up(host):
    root = host.sys / "fs/cgroup"
    write(host.proc / "self/cgroup", "0::/system.slice/web.service\n")
    write(root / "cgroup.controllers", "cpu memory")
    write(root / "system.slice/memory.max", "536870912\n")
    write(root / "system.slice/cpu.max", "max 100000\n")
    write(root / "system.slice/web.service/memory.max", "max\n")
    write(root / "system.slice/web.service/cpu.max", "150000 100000\n")
    findings = found(host)
    assert findings["cgroup"].seen == "version 2, /system.slice/web.service"
    assert findings["limits of this process"].seen == "memory 512MiB, CPU 1.5 cores"


def test_cgroup_1_and_no_limit(host):
    root = host.sys / "fs/cgroup"
    write(host.proc / "self/cgroup", "4:memory:/a\n3:cpu,cpuacct:/b\n0::/\n")
    write(root / "memory/a/memory.limit_in_bytes", "9223372036854771712\n")
    write(root / "cpu/b/cpu.cfs_quota_us", "-1\n")
    write(root / "cpu/b/cpu.cfs_period_us", "100000\n")
    assert found(host)["cgroup"].seen == "version 1"
    assert found(host)["limits of this process"].seen == "memory unlimited, CPU unlimited"
    write(root / "memory/a/memory.limit_in_bytes", "1073741824\n")
    write(root / "cpu/b/cpu.cfs_quota_us", "20000\n")
    assert found(host)["limits of this process"].seen == "memory 1GiB, CPU 0.2 cores"


def test_pressure_in_part(host):
    write(host.proc / "pressure/cpu", "some avg10=0.00")
    assert found(host)["pressure (PSI)"].seen == "cpu"
    assert found(host)["pressure (PSI)"].state is State.LIMITED


def test_rapl_readable_and_not(host):
    zone = host.sys / "class/powercap/intel-rapl:0"
    write(zone / "name", "package-0\n")
    write(zone / "max_energy_range_uj", "262143328850\n")
    finding = found(host)["power (RAPL)"]
    assert finding.state is State.LIMITED
    assert "energy_uj" in finding.advice
    assert found(host)["power"].seen.startswith("modelled")
    write(zone / "energy_uj", "123\n")
    assert found(host)["power (RAPL)"].seen == "readable: package-0"
    assert found(host)["power"].seen == "measured: source auto takes RAPL"


def test_the_best_meter_is_named_and_how_to_have_a_better_one(host, monkeypatch):
    bare = found(host)
    assert bare["power"].state is State.LIMITED
    assert "idle_w and peak_w" in bare["power"].advice
    assert "acpi_power_meter" in bare["power (hwmon)"].advice
    assert "udev rule" in bare["power (BMC)"].advice
    assert "udev" not in bare["power (BMC)"].seen
    write(host.sys / "class/hwmon/hwmon0/name", "power_meter\n")
    write(host.sys / "class/hwmon/hwmon0/power1_average", "212000000\n")
    measured = found(host)
    assert measured["power (hwmon)"].seen.startswith("212 W")
    assert measured["power"].seen == "measured: source auto takes hwmon"
    write(host.sys.parent / "dev/ipmi0", "")
    monkeypatch.setenv("PATH", "")
    assert found(host)["power (BMC)"].state is State.LIMITED


def test_capabilities_are_read_as_bits(host):
    write(host.proc / "self/status", "Name:\tx\nCapEff:\t0000000000000020\n")
    assert found(host)["CAP_KILL"].state is State.OK
    assert found(host)["CAP_SYS_PTRACE"].state is State.LIMITED


def test_a_gunicorn_with_a_pidfile_is_ready_to_use(host):
    words = ("python", "/v/bin/gunicorn", "--pid=/run/w.pid", "--statsd-host", "127.0.0.1:8125")
    process(host, 10, 1, *words, "app:app")
    process(host, 11, 10, *words, "app:app")  # its worker
    process(host, 12, 1, "vi", "notes", "about", "gunicorn")
    findings = [f for f in examine(host) if f.topic == "gunicorn"]
    assert [f.state for f in findings] == [State.OK]
    assert findings[0].seen.startswith("pid 10: ")
    assert findings[0].advice == "actuator: {kind: gunicorn, pidfile: /run/w.pid}"


def test_a_gunicorn_that_lacks_its_flags_is_told_which(host):
    process(host, 10, 1, "python", "-m", "gunicorn", "-c", "c.py", "app:app")
    finding = found(host)["gunicorn"]
    assert finding.state is State.LIMITED
    assert finding.advice == "start it with --pid FILE --statsd-host 127.0.0.1:8125"
    assert "configuration file" in finding.seen


def test_a_control_socket_is_preferred(host):
    process(host, 10, 1, "gunicorn", "-p", "/w.pid", "--control-socket", "/run/g.ctl", "app")
    assert found(host)["gunicorn"].advice == (
        "actuator: {kind: gunicorn, control: /run/g.ctl}; "
        "start it with --statsd-host 127.0.0.1:8125"
    )


def test_the_receive_buffer(host):
    write(host.proc / "sys/net/core/rmem_max", "212992\n")
    assert found(host)["rmem_max"].advice == "sysctl -w net.core.rmem_max=1048576"
    write(host.proc / "sys/net/core/rmem_max", "4194304\n")
    assert found(host)["rmem_max"].state is State.OK


def test_under_systemd(host):
    under = Host(proc=host.proc, sys=host.sys, environ={"NOTIFY_SOCKET": "/run/systemd/notify"})
    assert found(under)["systemd notify"].seen == "/run/systemd/notify"


def test_this_host_as_json_and_as_a_table(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"topic", "state", "seen", "advice"} == set(findings[0])
    assert any(f["topic"] == "versions" and "uvloop" in f["seen"] for f in findings)
    assert main(["doctor"]) == 0
    assert "CAP_KILL" in capsys.readouterr().out
