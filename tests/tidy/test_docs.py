"""What the documentation names exists: tests, pages that are linked, and an answer in every row."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")), key=str)
FOLDERS = ("daemon", "tests", "bench", "policies", "scenarios", "config", "deploy")
ALL_PAGES = sorted((*PAGES, *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))), key=str)
LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"([\w./-]*\btest_\w+\.py)(?:::(\w+))?")
TESTS = tuple((ROOT / "tests").rglob("test_*.py"))


@cache
def names_in(path):
    """The names of the test functions of one file, those of its classes too."""
    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {n.name for n in nodes if isinstance(n, kinds) and n.name.startswith("test_")}


def file_of(name):
    """The file that a page means by `tests/core/test_x.py`, `core/test_x.py` or `test_x.py`."""
    found = [p for p in TESTS if f"/{p.relative_to(ROOT)}".endswith(f"/{name}")]
    return found[0] if len(found) == 1 else None


def missing(text):
    """The names in `text` that lead to no test."""
    for file, test in NAMED.findall(text):
        path = file_of(file)
        if path is None or (test and test not in names_in(path)):
            yield f"{file}::{test}" if test else file


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_test_that_a_page_names_exists(page):
    assert not list(missing(page.read_text()))


def test_a_name_that_leads_nowhere_is_noticed():
    here = "tests/tidy/test_docs.py"
    assert not list(missing(f"`{here}::test_a_name_that_leads_nowhere_is_noticed`, `{here}`"))
    assert not list(missing(f"`{here}::test_every_test_that_a_page_names_exists[pains.md]`"))
    assert list(missing(f"`{here}::test_of_nothing`")) == [f"{here}::test_of_nothing"]
    assert list(missing(f"`{here}::file_of`")) == [f"{here}::file_of"], "it is no test"
    assert list(missing("`tests/core/test_nowhere.py`")) == ["tests/core/test_nowhere.py"]


def headings(path):
    """The names by which a page's headings are linked, as GitHub makes them."""
    found = re.findall(r"^#+ +(.+?) *$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


def dead_links(page, text):
    """The relative links of a page that lead to no file, or to no heading of one."""
    for link in LINK.findall(text):
        place, _, heading = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = page.parent / place if place else page
        if not path.exists() or (heading and heading not in headings(path)):
            yield link


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page):
    assert not list(dead_links(page, page.read_text()))


def test_a_link_that_leads_nowhere_is_noticed():
    page = ROOT / "README.md"
    good = (
        "[a](ARCHITECTURE.md#decisions) [b](https://example.com/x.md) [c](docs/policy.md) [d](docs)"
    )
    assert not list(dead_links(page, good))
    bad = "[a](docs/nowhere.md) [b](ARCHITECTURE.md#no-such-heading) [c](policy.md)"
    assert list(dead_links(page, bad)) == LINK.findall(bad)


def test_tables_are_not_torn_apart():
    """A blank line after a table's head ends the table, and its rows are text."""
    for page in PAGES:
        assert not re.search(r"^\|[-| ]+\|\n\n\|", page.read_text(), re.MULTILINE), page


def test_every_pain_has_a_proof_or_the_reason_why_not():
    text = (ROOT / "docs" / "pains.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in row] for row in rows if row[0].strip() != "pain"]
    assert len(rows) > 100
    for row in rows:
        pain, answer, proof = row
        assert pain, row
        assert answer, row
        assert NAMED.search(proof) or re.match(r"not answered: \w", proof), row
