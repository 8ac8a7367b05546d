"""Every refusal has a golden error text: bad files together, and that no text is left out.

Bad files by themselves are walked in test_policy_load.py.
"""

import ast
import re
from pathlib import Path

import pytest

from poolwright.core.errors import PolicyError
from poolwright.policy.library import shipped_policies
from poolwright.policy.load import resolve
from poolwright.policy.rules import SloRules

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/policies"
PACKAGE = ROOT / "daemon/poolwright/policy"
BAD = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
LAYERED = sorted(path.name for path in (GOLDEN / "layers").iterdir())


def test_there_are_bad_files_and_each_has_its_text():
    assert len(BAD) >= 70
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == BAD


@pytest.mark.parametrize("name", LAYERED)
def test_bad_files_together_say_everything_that_is_wrong(name, monkeypatch):
    monkeypatch.chdir(GOLDEN / "layers" / name)
    with pytest.raises(PolicyError) as caught:
        resolve("web", "web", Path())
    said = f"{caught.value}\n".replace(str(shipped_policies()), "SHIPPED")
    assert said == Path("expected.txt").read_text()


# What cannot be provoked by a file here, and what shows it instead.
ELSEWHERE = {
    "but this host has no time zones": "test_calendar.py",
    "is not a path": "test_quantities.py",
    "is not a whole number of bytes": "test_quantities.py",
    "has no valid host": "test_quantities.py",
    "holds no IPv6 address": "test_quantities.py",
    "there is no such file": "test_policy_load.py",
    "the file is larger than": "test_bind.py",
    "nested more than": "test_bind.py",
    "a key is a plain name": "test_bind.py",
}


def functions():
    """(file, function) of all that judges what is written."""
    for path in sorted(PACKAGE.glob("*.py")):
        if path.name in ("config.py", "json_schema.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield path, node


def is_refusal(call):
    """Whether a call is handed a text for the author of a file, and which argument that is."""
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    place = {"ValueError": 0, "PolicyError": 0, "Contradiction": 2, "refuse": 2, "add": 1}
    place |= {"note": 0, "_wrong": 1}
    return call.args[place[name]] if name in place and len(call.args) > place[name] else None


def texts(node, function):
    """The texts that an expression may give, as regular expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.escape(node.value)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            re.escape(part.value.replace("{other}", "\0")).replace("\0", ".*")
            if isinstance(part, ast.Constant)
            else ".*"
            for part in node.values
        )
    elif isinstance(node, ast.BinOp):
        yield from texts(node.left, function)
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body, function)
        yield from texts(node.orelse, function)
    elif isinstance(node, ast.Name):
        for one in ast.walk(function):
            names = getattr(one, "targets", [getattr(one, "target", None)])
            if isinstance(one, ast.Assign | ast.AugAssign) and any(
                isinstance(name, ast.Name) and name.id == node.id for name in names
            ):
                yield from texts(one.value, function)


def templates():
    for path, function in functions():
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and (argument := is_refusal(node)) is not None:
                for text in texts(argument, function):
                    if len(re.sub(r"\.\*|\W", "", text)) >= 3:  # more than punctuation
                        yield f"{path.name}:{node.lineno}", text


def test_the_scan_finds_what_it_looks_for():
    found = [text for _, text in templates()]
    assert len(found) >= 75
    for text in ("multiplies", "is\\ no\\ level", "extends:\\ a\\ circle", "'version'"):
        assert any(text in one for one in found), text


def test_every_text_of_a_refusal_stands_in_a_golden_file():
    golden = "\n".join(path.read_text() for path in sorted(GOLDEN.rglob("*.txt")))
    missing = [
        f"{place}: {text}"
        for place, text in templates()
        if not re.search(text, golden)
        and not any(re.search(other, text.replace("\\", "")) for other in ELSEWHERE)
    ]
    assert missing == []
    said = [text.replace("\\", "") for _, text in templates()]
    assert [other for other in ELSEWHERE if not any(other in text for text in said)] == []


def test_every_key_that_is_refused_with_an_explanation_is_in_a_golden_file():
    golden = "\n".join(path.read_text() for path in sorted(GOLDEN.rglob("*.txt")))
    assert len(SloRules.REFUSED) >= 5
    assert [why for why in SloRules.REFUSED.values() if why not in golden] == []
