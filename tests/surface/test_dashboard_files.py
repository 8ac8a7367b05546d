"""What the dashboard is made of: nothing from elsewhere, and what is of others as they made it."""

import base64
import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest

from poolwright.core.reasons import REASONS
from poolwright.core.vocabulary import Action, Phase

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "daemon" / "poolwright" / "surface" / "static"
DASHBOARD = ROOT / "dashboard"
OURS = sorted(p for p in STATIC.iterdir() if not p.name.startswith("uplot."))
VENDORED = {
    "uplot.iife.min.js": "package/dist/uPlot.iife.min.js",
    "uplot.min.css": "package/dist/uPlot.min.css",
    "uplot.LICENSE.txt": "package/LICENSE",
}


def test_what_is_shipped_of_uplot_is_what_the_lock_pins():
    lock = json.loads((DASHBOARD / "package-lock.json").read_text())
    pinned = lock["packages"]["node_modules/uplot"]
    archive = DASHBOARD / f"uplot-{pinned['version']}.tgz"
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert pinned["integrity"] == f"sha512-{digest}"
    with tarfile.open(archive) as packed:
        for name, member in VENDORED.items():
            assert (STATIC / name).read_bytes() == packed.extractfile(member).read(), name


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.name)
def test_our_files_name_no_other_host_and_are_short(path):
    text = path.read_text()
    hosts = {host for host in re.findall(r"//([\w.-]+\.\w+)", text) if host != "www.w3.org"}
    assert not hosts
    assert "innerHTML" not in text, "what the daemon says is text, never markup"
    lines = text.splitlines()
    assert len(lines) <= 400
    assert path.suffix == ".html" or max(map(len, lines)) <= 100


def test_the_page_loads_only_files_that_are_there():
    text = (STATIC / "index.html").read_text()
    named = set(re.findall(r'"/assets/([\w.-]+)"', text))
    assert named <= {p.name for p in STATIC.iterdir()}
    modules = {p.name for p in OURS if p.suffix == ".js"}
    assert modules <= named, "a module that is not preloaded costs a round trip"
    assert "style=" not in text
    assert not re.search(r"<script(?![^>]*src=)", text)


def words(table):
    """A table of words.js: word -> the rest of its line."""
    text = (STATIC / "words.js").read_text()
    body = re.search(rf"const {table} = {{\n(.*?)\n}};", text, re.DOTALL)[1]
    return dict(re.findall(r"^  (\w+): (.*),$", body, re.MULTILINE))


def test_the_page_has_the_words_of_the_core():
    assert {word: json.loads(text) for word, text in words("REASONS").items()} == REASONS
    assert set(words("PHASES")) == set(Phase)
    assert set(words("ACTIONS")) == set(Action)
