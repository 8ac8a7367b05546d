"""Source distribution and wheel: built, and each installed into an empty virtual environment."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from poolwright import __version__

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def said(*command, cwd=None):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of both; the wheel is built from the source distribution, not from the tree."""
    out = tmp_path_factory.mktemp("dist")
    said(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT))
    return out


@pytest.fixture(params=["whl", "tar.gz"])
def program(request, made, tmp_path):
    """`poolwright` of a fresh virtual environment; away from the tree."""
    (package,) = made.glob(f"*.{request.param}")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    said(sys.executable, "-m", "pip", "--python", str(python), "install", "-q", str(package))
    return tmp_path / "venv/bin/poolwright"


def test_installed_it_checks_tells_its_schema_simulates_and_knows_its_unit(program, tmp_path):
    def poolwright(*words):
        return said(str(program), *words, cwd=tmp_path)

    assert poolwright("--version") == f"poolwright {__version__}\n"
    (tmp_path / "policies.d").mkdir()
    config = (ROOT / "config/poolwright.yaml").read_text()
    (tmp_path / "c.yaml").write_text(config.replace("/etc/poolwright/", f"{tmp_path}/"))
    assert poolwright("check", "c.yaml") == "c.yaml: ok\n"
    shipped = (ROOT / "config/schema/config.schema.json").read_text()
    assert poolwright("schema", "config") == shipped
    for name in (p.stem for p in (ROOT / "scenarios").glob("*.yaml")):
        assert re.search(rf"^\s*{name}\b", poolwright("simulate", "--list"), re.MULTILINE)
    (tmp_path / "s.yaml").write_text(short_scenario())
    assert "kept every invariant" in poolwright("simulate", "s.yaml")
    (tmp_path / "root/etc/poolwright").mkdir(parents=True)
    would = poolwright("install", "--root", "root", "--config", "c.yaml", "--dry-run")
    assert "poolwright.service.d/gunicorn.conf" in would
    poolwright("install", "--root", "root", "--config", "c.yaml")
    unit = (tmp_path / "root/etc/systemd/system/poolwright.service").read_text()
    assert f"ExecStart={program} run --config /etc/poolwright/poolwright.yaml\n" in unit
    assert "complete" in poolwright("completion", "bash")


def short_scenario():
    text = (ROOT / "scenarios/steady.yaml").read_text()
    return re.sub(r"^duration: .*$", "duration: 3m", text, flags=re.MULTILINE)


def test_the_wheel_holds_all_that_is_read_at_run_time(made):
    (wheel,) = made.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = said("git", "-C", str(ROOT), "ls-files", "daemon/poolwright", "policies", "scenarios")
    places = {
        "daemon/poolwright": "poolwright",
        "policies": "poolwright/policy/shipped",
        "scenarios": "poolwright/sim/scenarios",
    }
    for line in listed.splitlines():
        folder = next(f for f in places if line.startswith(f"{f}/"))
        assert places[folder] + line.removeprefix(folder) in names, line
    assert not [n for n in names if n.endswith(".pyc")]


def test_the_source_distribution_holds_the_tree(made):
    (source,) = made.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    listed = said("git", "-C", str(ROOT), "ls-files").splitlines()
    missing = [line for line in listed if line not in names and not line.startswith(".")]
    assert not missing
