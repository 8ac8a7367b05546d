"""The Debian package in a booted Debian, in order: install, start, upgrade, remove, purge."""

import gzip
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import systemd_machine
from test_systemd import APP, CONFIG, REPO, ROOT, WEB, until, wrapper

from poolwright import __version__

pytestmark = [pytest.mark.e2e, pytest.mark.root]

NEWER = f"{__version__}+1"
SITE = Path(sysconfig.get_path("purelib"))
UNIT = "poolwright.service"


def host(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def debs(tmp_path_factory):
    """The package, and the next release of it."""
    folder = tmp_path_factory.mktemp("debs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "daemon")}
    made = host(sys.executable, ROOT / "packaging/deb.py", folder, env=environment).strip()
    tree = folder / "tree"
    host("dpkg-deb", "-R", made, tree)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {__version__}", f"Version: {NEWER}"))
    (init,) = tree.glob("usr/lib/poolwright/lib/python3*/site-packages/poolwright/__init__.py")
    init.write_text(init.read_text().replace(__version__, NEWER))
    host("dpkg-deb", "--root-owner-group", "-Zzstd", "-b", tree, folder / "newer.deb")
    Path(made).rename(folder / "poolwright.deb")
    return folder


@pytest.fixture(scope="module")
def machine(tmp_path_factory, debs):
    assert os.geteuid() == 0, "only root can boot a machine"
    missing = systemd_machine.missing()
    assert not missing, f"{', '.join(missing)} missing: {systemd_machine.PACKAGES}"
    binds = {
        Path(sys.base_prefix): "/opt/python",
        SITE: "/opt/poolwright/site",
        ROOT: REPO,
        debs: "/opt/debs",
    }
    places = {"port": 8000, "listen": 9817, "statsd": 8125}
    files = {
        "/opt/poolwright/bin/gunicorn": (0o755, wrapper("gunicorn.app.wsgiapp", "run")),
        "/opt/web/app.py": (0o644, APP),
        "/etc/systemd/system/web.service": (0o644, WEB.format(**places)),
        "/root/poolwright.yaml": (0o644, CONFIG.format(**places).replace("mine", "balanced")),
    }
    state = tmp_path_factory.mktemp("machine")
    with systemd_machine.Machine(state, binds, files, own_network=True) as booted:
        booted.run("systemctl", "start", "web.service")
        until(lambda: booted.run("test", "-e", "/run/web/gunicorn.pid", check=False) == "")
        yield booted


def installed(machine):
    return machine.run("dpkg-query", "-W", "-f", "${Status} ${Version}", "poolwright", check=False)


def test_it_installs_without_a_network_and_starts_nothing(machine):
    machine.run("dpkg", "-i", "/opt/debs/poolwright.deb")
    assert installed(machine) == f"install ok installed {__version__}"
    assert machine.run("poolwright", "--version") == f"poolwright {__version__}\n"
    assert machine.shown(UNIT, "ActiveState") == "inactive"
    assert machine.run("systemctl", "is-enabled", UNIT, check=False).strip() == "disabled"
    assert machine.run("systemd-analyze", "verify", UNIT, "poolwright@.service") == ""
    machine.run("man", "--warnings", "-P", "cat", "5", "poolwright.yaml")
    machine.run("dpkg", "--verify", "poolwright")
    machine.run("dpkg", "-i", "/opt/debs/poolwright.deb")  # again: its scripts may run twice
    assert machine.run("getent", "passwd", "poolwright")


def test_with_a_configuration_it_is_given_its_rights_and_runs(machine):
    machine.run("cp", "/root/poolwright.yaml", "/etc/poolwright/poolwright.yaml")
    would = machine.run("poolwright", "install", "--dry-run")
    assert machine.run("ls", "/etc/systemd/system").count("poolwright") == 0
    done = machine.run("poolwright", "install")
    folder = "/etc/systemd/system/poolwright.service.d"
    assert machine.run("ls", folder).split() == ["gunicorn.conf", "processes.conf"]
    assert would.count("would write") == done.count("write  ") == 2
    assert "run       systemctl daemon-reload" in done
    machine.run("systemctl", "enable", "--now", UNIT)
    assert machine.shown(UNIT, "StatusText").startswith("web: ")
    machine.run("poolwright", "pause", "web", "--why", "before the upgrade")
    until(lambda: "paused" in machine.shown(UNIT, "StatusText"))


def test_it_is_not_taken_away_from_under_a_running_daemon(machine):
    with pytest.raises(RuntimeError, match="disable --now"):
        machine.run("poolwright", "install", "--remove")
    assert machine.shown(UNIT, "ActiveState") == "active"


def test_an_upgrade_goes_on_with_the_journal(machine):
    pid = machine.shown(UNIT, "MainPID")
    machine.run("dpkg", "-i", "/opt/debs/newer.deb")
    assert machine.run("poolwright", "--version") == f"poolwright {NEWER}\n"
    until(lambda: machine.shown(UNIT, "ActiveState") == "active")
    assert machine.shown(UNIT, "MainPID") not in ("0", pid)
    until(lambda: "paused" in machine.shown(UNIT, "StatusText"))
    assert "before the upgrade" in machine.run("poolwright", "journal", "list", "--json")
    machine.run("poolwright", "journal", "verify")
    machine.run("poolwright", "replay", "/var/lib/poolwright/journal.db")
    machine.run("poolwright", "resume", "web")


def test_removed_it_leaves_what_is_the_operators_and_purged_nothing(machine):
    machine.run("dpkg", "-r", "poolwright")
    assert machine.shown(UNIT, "LoadState") == "not-found"
    assert int(machine.run("pgrep", "-c", "-u", "www-data")) >= 3, "the pool is alone"
    machine.run("test", "-s", "/var/lib/poolwright/journal.db")
    machine.run("test", "-e", "/etc/poolwright/poolwright.yaml")
    machine.run("sh", "-c", "! test -e /usr/lib/poolwright")
    machine.run("dpkg", "-P", "poolwright")
    for path in ("/var/lib/poolwright", "/etc/poolwright/poolwright.yaml.example"):
        machine.run("sh", "-c", f"! test -e {path}")
    machine.run("test", "-e", "/etc/poolwright/poolwright.yaml")  # no file of the package


def test_lintian_finds_nothing_that_is_not_explained(debs, tmp_path):
    """Of everything but the wheels of others, which it would take minutes to look through."""
    assert shutil.which("lintian"), "lintian is missing: apt-get install lintian"
    tree = tmp_path / "tree"
    host("dpkg-deb", "-R", debs / "poolwright.deb", tree)
    shutil.rmtree(tree / "usr/lib/poolwright/lib")
    sums = tree / "DEBIAN/md5sums"
    lines = [one for one in sums.read_text().splitlines() if "usr/lib/poolwright/lib/" not in one]
    sums.write_text("\n".join(lines) + "\n")
    slim = tmp_path / "poolwright.deb"
    host("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, slim)
    said = host("lintian", "--allow-root", "--fail-on", "error,warning", slim)
    assert "E: " not in said, said
    assert "W: " not in said, said


def test_the_changelog_and_the_pages_are_those_of_this_release(debs, tmp_path):
    host("dpkg-deb", "-x", debs / "poolwright.deb", tmp_path)
    changes = gzip.decompress((tmp_path / "usr/share/doc/poolwright/changelog.gz").read_bytes())
    assert re.match(rf"poolwright \({re.escape(__version__)}\) ", changes.decode())
    page = gzip.decompress((tmp_path / "usr/share/man/man1/poolwright.1.gz").read_bytes())
    assert f'"poolwright {__version__}"' in page.decode()
