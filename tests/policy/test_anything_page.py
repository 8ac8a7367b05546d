"""The configurations on docs/anything.md are accepted as they stand."""

import re
import textwrap
from pathlib import Path

import pytest

from poolwright.engine.build import build_actuator, build_sensor
from poolwright.policy.config import load_config

PAGE = Path(__file__).parents[2] / "docs" / "anything.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: " ".join(b.split())[:30])
def test_a_block_is_a_configuration(tmp_path, block):
    more = (
        "sensors: [{kind: host}]"
        if block.startswith("actuator")
        else "actuator: {kind: file, path: x}"
    )
    pool = textwrap.indent(f"policy: balanced\n{more}\n{block}", "    ")
    path = tmp_path / "poolwright.yaml"
    path.write_text(f"version: 1\npools:\n  - name: web\n{pool}")
    (pool,) = load_config(path).pools
    assert build_actuator(pool.actuator, "web").endpoint
    for sensor in pool.sensors:
        assert build_sensor(sensor, "web").signals


def test_the_page_has_all_kinds():
    kinds = set(re.findall(r"kind: (\w+)", "".join(BLOCKS)))
    assert kinds == {"command", "http", "file", "promql", "access_log"}
