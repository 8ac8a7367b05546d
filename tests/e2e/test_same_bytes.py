"""The same seed gives the same bytes in any process, of what is shipped; no server is started."""

import json
import os
import subprocess
import sys

import pytest

from poolwright.engine.stage import find_scenario

pytestmark = pytest.mark.e2e


def output_of(*words, hash_seed):
    """What `poolwright WORDS` prints in a process of its own, with sets in an order of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "poolwright", *map(str, words)],
        capture_output=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_a_swarm_prints_the_same_twice():
    first, again = (output_of("swarm", "--seeds", "3", hash_seed=seed) for seed in ("1", "4711"))
    assert first == again
    assert first.startswith(b"3 seeds, 0 broken, ")


def test_the_shipped_steady_scenario_is_played_the_same_twice(tmp_path):
    text = find_scenario("steady").read_text()
    assert "duration: 1d\n" in text
    path = tmp_path / "steady.yaml"
    path.write_text(text.replace("duration: 1d\n", "duration: 6m\n"))
    play = ("simulate", path, "--seed", "1", "--json")
    first, again = (output_of(*play, hash_seed=seed) for seed in ("1", "4711"))
    assert first == again
    (pool,) = json.loads(first)["pools"]
    assert pool["probes"] > 0, "chance had a say in it"
