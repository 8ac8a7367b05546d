"""The shipped unit, as systemd's own tools judge it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
EXPOSURE_MOST = 2.0  # of 10; systemd calls up to 2 "OK"


@pytest.fixture
def analyze():
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing: apt-get install -y --no-install-recommends systemd"
    return program


@pytest.fixture
def unit(tmp_path):
    """The unit with a program that exists at its path."""
    made = tmp_path / "poolwright.service"
    text = (UNITS / "poolwright.service").read_text()
    assert text.count("/opt/poolwright/bin/poolwright") == 2  # run, and restore after a crash
    made.write_text(text.replace("/opt/poolwright/bin/poolwright", "/bin/true"))
    return made


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_verify_finds_nothing_to_say(analyze, unit):
    done = said(analyze, "verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verify_would_find_a_mistake(analyze, unit):
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notfiy"))
    assert "notfiy" in said(analyze, "verify", "--man=no", str(unit)).stderr


def test_the_exposure_is_low(analyze, unit):
    limit = str(round(EXPOSURE_MOST * 10))
    done = said(analyze, "security", "--offline=true", f"--threshold={limit}", str(unit))
    assert done.returncode == 0, done.stdout
    table = said(analyze, "security", "--offline=true", "--json=short", str(unit)).stdout
    exposed = [row["json_field"] for row in json.loads(table) if row["set"] is False]
    for protected in ("NoNewPrivileges", "ProtectSystem", "MemoryDenyWriteExecute"):
        assert not [field for field in exposed if field.startswith(protected)]


def test_the_watchdog_leaves_room_for_many_ticks():
    text = (UNITS / "poolwright.service").read_text()
    assert int(re.search(r"^WatchdogSec=(\d+)$", text, re.MULTILINE)[1]) >= 10


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-sysusers needs root, even for another root")
@pytest.mark.root
def test_sysusers_and_tmpfiles_make_what_the_unit_needs(tmp_path):
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
