"""The Debian package, from the tree: `python packaging/deb.py OUT` prints the path of what it made.

Everything that poolwright needs is inside, in /usr/lib/poolwright (a virtual environment of the
system's python3), so that `apt install ./poolwright_*.deb` fetches nothing. The layout is made here
and packed by dpkg-deb; packaging/debian has what is Debian's: control, maintainer scripts,
changelog, and the overrides of lintian with their reasons.
"""

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pages import share

from poolwright import __version__
from poolwright.cli.install_files import PROGRAM

ROOT = Path(__file__).parents[1]
DEBIAN = ROOT / "packaging" / "debian"
PYTHON = "/usr/bin/python3"  # the one that the package depends on
HOME = "usr/lib/poolwright"
BIN = "/usr/bin/poolwright"
EXTRAS = "access_log,celery,file,pgbouncer,systemd"


def run(*command: str | Path, **environment: str) -> str:
    """The output of a command; ends with its complaint when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def build(out: Path) -> Path:
    """The path of the package, made in `out`."""
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="poolwright-deb") as folder:
        stage = Path(folder) / "stage"
        environment(stage)
        integrate(stage / "usr", stage / "etc" / "poolwright")
        control(stage)
        return pack(stage, out)


def environment(stage: Path) -> None:
    """All that runs, in a virtual environment that knows its final place."""
    home = stage / HOME
    run(PYTHON, "-m", "venv", "--without-pip", home)
    pip = (sys.executable, "-m", "pip", "--python", home / "bin/python", "--isolated")
    options = ("install", "--quiet", "--no-compile", "--no-warn-script-location")
    links = [f"--find-links={p}" for p in os.environ.get("PIP_FIND_LINKS", "").split()]
    run(*pip, *options, *links, f"{ROOT}[{EXTRAS}]")
    for script in (home / "bin").iterdir():
        if script.name != "poolwright" and not script.name.startswith("python"):
            script.unlink()
    python = home / "bin" / "python3"
    python.unlink()
    python.symlink_to(os.path.relpath(PYTHON, f"/{HOME}/bin"))
    entry = home / "bin" / "poolwright"
    lines = entry.read_text().splitlines()
    entry.write_text("\n".join([f"#!/{HOME}/bin/python", *lines[1:]]) + "\n")
    told = home / "pyvenv.cfg"
    kept = [one for one in told.read_text().splitlines() if not one.startswith("command")]
    told.write_text("\n".join(kept) + "\n")
    for pattern in ("**/tests", "**/include", "**/*.pyx", "**/*.pxd", "lib64", "**/RECORD"):
        for extra in list(home.glob(pattern)):
            shutil.rmtree(extra) if extra.is_dir() and not extra.is_symlink() else extra.unlink()
    for library in home.rglob("*.so*"):
        library.chmod(0o644)


def integrate(usr: Path, etc: Path) -> None:
    """What the rest of the system meets: unit, user, folders, command, pages, examples."""
    (usr / "bin").mkdir()
    (usr / "bin" / "poolwright").symlink_to(f"../{HOME.removeprefix('usr/')}/bin/poolwright")
    units = usr / "lib" / "systemd" / "system"
    units.mkdir(parents=True)
    for name in ("poolwright.service", "poolwright@.service"):
        text = (ROOT / "deploy" / "systemd" / name).read_text()
        (units / name).write_text(text.replace(PROGRAM, BIN))
    for kind in ("sysusers", "tmpfiles"):
        source = ROOT / "deploy" / "systemd" / f"poolwright.{kind}.conf"
        (usr / "lib" / f"{kind}.d").mkdir()
        shutil.copy(source, usr / "lib" / f"{kind}.d" / "poolwright.conf")
    share(usr / "share")
    documents = usr / "share" / "doc" / "poolwright"
    examples = documents / "examples"
    shutil.copytree(ROOT / "deploy" / "systemd" / "poolwright.service.d", examples / "drop-ins")
    shutil.copytree(ROOT / "deploy" / "polkit", examples / "polkit")
    shutil.copytree(ROOT / "policies", examples / "policies")
    shutil.copy(ROOT / "deploy" / "README.md", examples)
    shutil.copy(DEBIAN / "copyright", documents)
    changes = (DEBIAN / "changelog").read_text().replace("@VERSION@", __version__)
    (documents / "changelog.gz").write_bytes(gzip.compress(changes.encode(), mtime=0))
    overrides = usr / "share" / "lintian" / "overrides"
    overrides.mkdir(parents=True)
    shutil.copy(DEBIAN / "lintian-overrides", overrides / "poolwright")
    (etc / "policies.d").mkdir(parents=True)
    shutil.copy(ROOT / "config" / "poolwright.yaml", etc / "poolwright.yaml.example")


def control(stage: Path) -> None:
    """DEBIAN/: control, maintainer scripts, and the configuration files."""
    made = stage / "DEBIAN"
    made.mkdir()
    version = run(PYTHON, "-c", "import sys; print('%d.%d %d.%d' % (*sys.version_info[:2],"
                  " 3, sys.version_info[1] + 1))").split()  # fmt: skip
    fields = {
        "@VERSION@": __version__,
        "@ARCHITECTURE@": run("dpkg", "--print-architecture"),
        "@PYTHON@": version[0],
        "@NEXT@": version[1],
        "@SIZE@": run("du", "-sk", "--exclude=DEBIAN", stage).split()[0],
    }
    text = (DEBIAN / "control").read_text()
    (made / "control").write_text(re.sub("@[A-Z]+@", lambda m: fields[m[0]], text))
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(DEBIAN / name, made / name)
        (made / name).chmod(0o755)
    (made / "conffiles").write_text("/etc/poolwright/poolwright.yaml.example\n")
    sums = run("bash", "-c", f"cd {stage} && find usr -type f -print0 | sort -z | xargs -0 md5sum")
    (made / "md5sums").write_text(sums + "\n")


def pack(stage: Path, out: Path) -> Path:
    """One .deb of a tree, the same bytes for the same commit."""
    out.mkdir(parents=True, exist_ok=True)
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if (
        not epoch and (ROOT / ".git").exists()
    ):  # else a source distribution, whose files have one time
        epoch = run("git", "-C", ROOT, "log", "-1", "--format=%ct")
    epoch = epoch or str(int((ROOT / "pyproject.toml").stat().st_mtime))
    command: Sequence[str | Path] = ("dpkg-deb", "--root-owner-group", "-Zzstd", "-b", stage, out)
    said = run(*command, SOURCE_DATE_EPOCH=epoch)
    return Path(said.rpartition(" in '")[2].rstrip("'."))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(build(Path(sys.argv[1])))
