"""The shipped unit, as systemd's own tools judge it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
SECURITY = ROOT / "docs" / "security.md"
DROPINS = sorted((UNITS / "poolwright.service.d").glob("*.conf"), key=str)
PROGRAM = "/opt/poolwright/bin/poolwright"
# Of 10, as `systemd-analyze security` counts with systemd 252; up to 2 is "OK". Never to grow;
# with each drop-in it is what docs/security.md says.
EXPOSURE = 1.2


@pytest.fixture
def analyze():
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing: apt-get install -y --no-install-recommends systemd"
    return program


@pytest.fixture
def units(tmp_path):
    """Makes the folder of a unit with drop-ins, and with a program that exists; the unit's path."""

    def make(name="poolwright.service", *dropins):
        text = (UNITS / name).read_text()
        assert text.count(PROGRAM) == 2  # run, and restore after a crash
        made = tmp_path / name
        made.write_text(text.replace(PROGRAM, "/bin/true"))
        folder = tmp_path / f"{name}.d"
        folder.mkdir(exist_ok=True)
        for dropin in dropins:
            shutil.copy(dropin, folder / dropin.name.removesuffix(".example"))
        return made

    return make


def said(*command, folder=None):
    path = {} if folder is None else {"SYSTEMD_UNIT_PATH": f"{folder}:"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **path}
    )


def verified(analyze, unit):
    """What `systemd-analyze verify` says of a unit and its drop-ins; empty: nothing."""
    done = said(analyze, "verify", "--man=no", str(unit), folder=unit.parent)
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"{done.returncode}")


def exposure(analyze, unit):
    done = said(analyze, "security", "--offline=true", str(unit), folder=unit.parent)
    return float(re.search(r"exposure level for .*: ([\d.]+) ", done.stdout)[1])


@pytest.mark.parametrize("name", ["poolwright.service", "poolwright@.service"])
def test_verify_finds_nothing_to_say_and_the_exposure_is_low(analyze, units, name):
    assert verified(analyze, units(name)) == ""
    assert exposure(analyze, units(name)) <= EXPOSURE


@pytest.mark.parametrize("dropin", DROPINS, ids=lambda p: p.stem)
def test_verify_finds_nothing_to_say_with_a_dropin_and_its_exposure_is_known(
    analyze, units, dropin
):
    unit = units("poolwright.service", dropin)
    assert verified(analyze, unit) == ""
    row = re.search(rf"^\| `{dropin.stem}` \|.*\| ([\d.]+) \|$", SECURITY.read_text(), re.MULTILINE)
    assert row, "every drop-in has its row in docs/security.md"
    assert exposure(analyze, unit) <= float(row[1])


def test_verify_would_find_a_mistake_also_in_a_dropin(analyze, units, tmp_path):
    unit = units()
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notfiy"))
    assert "notfiy" in verified(analyze, unit)
    wrong = tmp_path / "wrong.conf"
    wrong.write_text("[Service]\nProtectProc=maybe\n")
    assert "maybe" in verified(analyze, units("poolwright.service", wrong))


def test_the_example_that_binds_it_to_a_service_verifies(analyze, units, tmp_path):
    (tmp_path / "web.service").write_text("[Service]\nExecStart=/bin/true\n")
    example = UNITS / "poolwright.service.d" / "bind-to-service.conf.example"
    assert verified(analyze, units("poolwright.service", example)) == ""


def test_the_template_is_the_unit_with_places_of_its_own():
    """What differs is where an instance has its files, and nothing else."""
    one = (UNITS / "poolwright.service").read_text().splitlines()
    template = (UNITS / "poolwright@.service").read_text().splitlines()
    differing = {a.split("=")[0] for a, b in zip(one, template, strict=True) if a != b}
    places = {"ExecStart", "ExecStopPost", "StateDirectory", "RuntimeDirectory"}
    assert differing == {"Description", *places}


def test_the_watchdog_leaves_room_for_many_ticks():
    text = (UNITS / "poolwright.service").read_text()
    assert int(re.search(r"^WatchdogSec=(\d+)$", text, re.MULTILINE)[1]) >= 10


@pytest.mark.root
def test_sysusers_and_tmpfiles_make_what_the_unit_needs(tmp_path):
    assert os.geteuid() == 0, "systemd-sysusers needs root, even for another root"
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    done = said("systemd-sysusers", root, str(UNITS / "poolwright.sysusers.conf"))
    assert done.returncode == 0, done.stderr
    users = (tmp_path / "etc" / "passwd").read_text()
    assert re.search(r"^poolwright:[^:]*:\d+:\d+:poolwright daemon:", users, re.MULTILINE)
    tmpfiles = str(UNITS / "poolwright.tmpfiles.conf")
    done = said("systemd-tmpfiles", root, "--create", tmpfiles)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc" / "poolwright" / "policies.d").is_dir()
