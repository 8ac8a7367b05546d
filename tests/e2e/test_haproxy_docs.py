"""What docs/haproxy.md and docs/kubernetes.md tell people to write is accepted."""

import re
import subprocess
from pathlib import Path

import pytest
from started import program

from poolwright.engine.build import build_parts
from poolwright.policy.config import load_config

pytestmark = pytest.mark.e2e

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, language):
    found = re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert found
    return found


def test_haproxy_takes_every_configuration(tmp_path):
    for text in blocks("haproxy.md", "haproxy"):
        config = tmp_path / "haproxy.cfg"
        config.write_text(text.replace("/run/haproxy/", f"{tmp_path}/"))
        argv = [program("haproxy"), "-c", "-f", str(config)]
        found = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("page", ["haproxy.md", "kubernetes.md"])
def test_every_pool_can_be_built(tmp_path, monkeypatch, page):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    folder = tmp_path / "policies.d"
    folder.mkdir()
    configs = []
    for text in blocks(page, "yaml"):
        if "pools:" in text:
            configs.append(text)
        else:
            (folder / "mine.yaml").write_text(text)
    for text in configs:
        config = tmp_path / "poolwright.yaml"
        config.write_text(f"{text}\npolicies: policies.d\njournal: journal.db\n")
        (part,) = build_parts(load_config(config))
        assert part.actuator.knobs == tuple(knob.name for knob in part.policy.knobs)
