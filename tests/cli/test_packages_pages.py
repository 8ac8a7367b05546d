"""Man pages, completions and docs/reference are made from the code, and are what it says."""

import gzip
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from poolwright.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages():
    """packaging/pages.py."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "packaging" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pages"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shared(pages, tmp_path_factory):
    """What a package puts below /usr/share."""
    folder = tmp_path_factory.mktemp("share")
    pages.share(folder)
    return folder


def program(name):
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install -y --no-install-recommends {name}"
    return found


@pytest.mark.parametrize("name", ["cli.md", "config.md", "policy.md"])
def test_the_reference_is_up_to_date(pages, name):
    text = (ROOT / "docs" / "reference" / name).read_text()
    assert text == pages.reference()[name], "run `make docs`"


def test_the_pages_of_the_manual_have_no_warnings(shared):
    found = sorted((shared / "man").rglob("*.gz"))
    assert [p.name for p in found] == [
        "poolwright.1.gz", "poolwright-policy.5.gz", "poolwright.yaml.5.gz",
    ]  # fmt: skip
    for page in found:
        command = [program("man"), "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
        environment = {**os.environ, "MANROFFSEQ": "", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, ""), page


def test_a_warning_would_be_seen(tmp_path):
    page = tmp_path / "x.1"
    page.write_text(".TH X 1\n.SH NAME\nx \\- y\n.nosuchrequest\n")
    command = [program("man"), "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "nosuchrequest" in done.stderr


def test_the_manual_has_every_command_and_every_key(shared):
    commands = gzip.decompress((shared / "man/man1/poolwright.1.gz").read_bytes()).decode()
    for name in COMMANDS:
        assert re.search(rf"poolwright(\\fR)? (\\fI)?\\?{name}", commands), name
    keys = gzip.decompress((shared / "man/man5/poolwright.yaml.5.gz").read_bytes()).decode()
    for key in ("journal_max_bytes", "control_group", "pidfile", "template", "preset"):
        assert f".B {key}\n" in keys


BASH = """
source {file}
words() {{
    COMP_WORDS=("$@") COMP_CWORD=$(( $# - 1 )) COMP_LINE="$*" COMPREPLY=()
    COMP_POINT=${{#COMP_LINE}}
    _shtab_poolwright "$1" "${{@: -1}}" ""
    echo "${{COMPREPLY[@]}}"
}}
words poolwright ro
words poolwright schema ""
words poolwright pin --fo
"""
ZSH = """
fpath=({folder} $fpath); autoload -Uz compinit; compinit -D
echo $_comps[poolwright]; autoload +X _poolwright; whence -w _poolwright
"""
FISH = "source {file}; complete -C 'poolwright ro'; complete -C 'poolwright schema '"


def test_completion_in_a_real_bash(shared):
    file = shared / "bash-completion/completions/poolwright"
    done = shell("bash", "--norc", "-c", BASH.format(file=file))
    assert done.splitlines() == ["rollback", "config policy explanation", "--for"]


def test_completion_in_a_real_zsh(shared):
    file = shared / "zsh/vendor-completions/_poolwright"
    assert file.read_text().startswith("#compdef poolwright\n")
    said = shell("zsh", "-f", "-c", ZSH.format(folder=file.parent))
    assert said.splitlines() == ["_poolwright", "_poolwright: function"]
    shell("zsh", "-n", str(file))
    assert "rollback" in file.read_text()


def test_completion_in_a_real_fish(shared):
    file = shared / "fish/vendor_completions.d/poolwright.fish"
    said = shell("fish", "--no-config", "-c", FISH.format(file=file))
    found = [line.split("\t")[0] for line in said.splitlines()]
    assert found == ["rollback", "config", "policy", "explanation"]


def shell(name, *words):
    command = [program(name), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_the_command_prints_what_the_package_has(shared, capsys):
    assert main(["completion", "bash"]) == 0
    packaged = (shared / "bash-completion/completions/poolwright").read_text()
    assert capsys.readouterr().out == packaged
