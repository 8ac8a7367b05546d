"""The configurations and policies on the pages of servers are ones that the daemon takes."""

import re
from pathlib import Path

import pytest

from poolwright.engine.build import build_parts
from poolwright.policy.config import load_config

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


PAGES = [
    ("pgbouncer", "pool_size"),
    ("php-fpm", "workers"),
    ("uvicorn", "workers"),
    ("uwsgi", "workers"),
]


@pytest.mark.parametrize(("page", "knob"), PAGES)
def test_the_examples_of_a_page_are_taken(page, knob, tmp_path):
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text())
    policies = [b for b in blocks if "\nknobs:" in b]
    configs = [b for b in blocks if "\npools:\n" in b]
    assert policies
    assert configs
    assert len(policies) + len(configs) == len(blocks)
    folder = tmp_path / "policies.d"
    folder.mkdir()
    for index, text in enumerate(policies):
        (folder / f"{index}.yaml").write_text(text)
    for text in configs:
        path = tmp_path / "poolwright.yaml"
        path.write_text(f"{text}policies: {folder}\n")
        (parts,) = build_parts(load_config(path))
        assert [k.name for k in parts.policy.knobs] == [knob]
        assert parts.actuator.knobs == (knob,)
