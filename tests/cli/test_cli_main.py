"""The command line's frame: what is imported, and what becomes of failures."""

import importlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from poolwright import __version__
from poolwright.cli import main as frame
from poolwright.cli.main import COMMANDS, main
from poolwright.cli.schema import schema_text

ROOT = Path(__file__).parents[2]


def poolwright(*words):
    return subprocess.run(
        [sys.executable, "-m", "poolwright", *words], capture_output=True, text=True, check=False
    )


def test_version():
    done = poolwright("--version")
    assert (done.returncode, done.stdout) == (0, f"poolwright {__version__}\n")


def test_help_names_every_command_and_imports_none():
    script = textwrap.dedent("""
        import sys
        from poolwright.cli.main import main
        try:
            main(["--help"])
        except SystemExit as end:
            assert end.code == 0
        heavy = {"yaml", "asyncio", "h11", "rich", "psutil", "numpy", "prometheus_client"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, (_, text) in COMMANDS.items():
        assert name in done.stdout
        assert text.split()[0] in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there(name, capsys):
    module = importlib.import_module(COMMANDS[name][0])
    assert callable(module.run)
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"poolwright {name}" in capsys.readouterr().out


def test_no_command_and_an_unknown_one():
    done = poolwright()
    assert done.returncode == 2
    assert "commands" in done.stdout
    done = poolwright("chek")
    assert done.returncode == 2
    assert "invalid choice: 'chek'" in done.stderr


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("raise PolicyError('f.yaml:1:2: wrong')", 2, "f.yaml:1:2: wrong\n"),
        ("raise PlantFault('/run/x: gone')", 3, "poolwright: /run/x: gone\n"),
        ("raise KeyboardInterrupt", 130, ""),
        ("return 7", 7, ""),
    ],
)
def test_failures_are_one_message_and_a_status(body, status, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "pw_fails.py").write_text(
        "from poolwright.core.errors import PlantFault, PolicyError\n"
        "def add(subparsers):\n    subparsers.add_parser('fails')\n"
        f"def run(args):\n    {body}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(COMMANDS, "fails", ("pw_fails", "fails"))
    monkeypatch.delitem(sys.modules, "pw_fails", raising=False)
    assert main(["fails"]) == status
    assert capsys.readouterr().err == said


def test_a_bug_of_ours_is_not_dressed_up(tmp_path, monkeypatch):
    (tmp_path / "pw_bug.py").write_text(
        "def add(subparsers):\n    subparsers.add_parser('bug')\n"
        "def run(args):\n    assert False, 'ours'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(frame.COMMANDS, "bug", ("pw_bug", "bug"))
    with pytest.raises(AssertionError, match="ours"):
        main(["bug"])


def test_a_reader_that_went_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "poolwright", "schema", "policy"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_schema_policy_prints_json(capsys):
    assert main(["schema", "policy"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "poolwright policy"


@pytest.mark.parametrize("what", ["config", "policy"])
def test_the_shipped_schemas_are_current(what):
    shipped = ROOT / f"config/schema/{what}.schema.json"
    assert shipped.read_text() == schema_text(what), f"poolwright schema {what} > {shipped}"
