"""Declared models: the graph's order, what users bring, and what each node learns."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learn_loop import policy, request
from plants import Plant
from test_make_plan import windows

from poolwright.core.model import Estimate, setting
from poolwright.core.policy import Knob, Scale
from poolwright.learn.declare import Model, Normal, installed, ordered
from poolwright.learn.plan import make_plan
from poolwright.learn.points import tabulate
from poolwright.learn.responses import shipped
from poolwright.learn.surrogate import build
from poolwright.learn.wire import encode

ROOT = Path(__file__).parents[2]
LEVELS = [5, 6, 7, 8, 6, 9, 10, 7]


def paused(evidence):
    """The same evidence with a pause that follows memory, 20 ms at 270 MiB."""
    changed = []
    for item in evidence:
        seen = item.observation
        pause = 0.02 * seen.response("memory_bytes").mean / (270 * 2**20)
        more = (*seen.responses, ("gc_pause_s", Estimate(mean=pause, std=0.03 * pause)))
        changed.append(replace(item, observation=replace(seen, responses=tuple(sorted(more)))))
    return changed


def test_a_package_adds_a_response_by_an_entry_point(tmp_path):
    """The example as it stands, installed as pip would leave it."""
    info = tmp_path / "own_response-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-response\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[poolwright.models]\ngc = own_response:GcPause\n")
    (tmp_path / "own_response.py").write_text((ROOT / "examples/own_response.py").read_text())
    rule = policy(weights={"gc_pause_s": 1.0})
    asked = request(paused(windows(LEVELS)), setting(workers=8), policy=rule)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from poolwright.learn.plan import make_plan\n"
        "from poolwright.learn.wire import Reply, decode_request, encode\n"
        "sys.stdout.buffer.write(encode(Reply(plan=make_plan(decode_request("
        "sys.stdin.buffer.read())))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        input=encode(asked), capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    from poolwright.learn.wire import decode_reply

    plan = decode_reply(done.stdout).plan
    at = {c.setting["workers"]: dict(c.predictions)["gc_pause_s"] for c in plan.candidates}
    truth = 0.02 * Plant().memory(12) / (270 * 2**20)
    assert at[12].mean == pytest.approx(truth, rel=0.15)
    assert at[5].mean < at[8].mean < at[12].mean
    with pytest.raises(ValueError, match="nothing of the objective"):
        make_plan(asked)  # where the package is not installed


def test_a_graph_of_ones_own_replaces_the_shipped_one():
    class Flat(Model):
        response = "latency_p99_s"

        def priors(self, seen):
            return {"level": Normal(seen.first, 1.0)}

        def mean(self, p, at):
            return p.level + np.zeros(len(at.points))

    plan = make_plan(request(windows(LEVELS), setting(workers=8)), lambda seen, policy: (Flat(),))
    assert [name for name, _ in plan.candidates[0].predictions] == ["latency_p99_s"]
    assert dict(plan.belief) == {"noise_latency_p99_s": dict(plan.belief)["noise_latency_p99_s"]}


def test_parents_come_first_and_circles_are_refused():
    def node(name, *above):
        model = Model()
        model.response, model.parents = name, above
        return model

    order = ordered([node("c", "b"), node("b", "a"), node("a"), node("d", "not there")])
    assert [model.response for model in order] == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="circle: a, b"):
        ordered([node("a", "b"), node("b", "a")])
    with pytest.raises(ValueError, match="two models of one response"):
        ordered([node("a"), node("a")])


def test_without_packages_the_graph_is_the_shipped_one():
    assert installed() == (None, ())
    names = [m.response for m in shipped(["latency_p95_s", "latency_p99_s"], policy())]
    assert names[:3] == ["throughput_rps", "latency_p95_s", "latency_p99_s"]


def test_power_is_learned_over_cpu_and_is_concave():
    """A plant of 20 W + 12 W cores^0.8, seen at loads from 20 to 90 rps."""
    seen = windows([4, 6, 8, 10] * 5, loads=(20.0, 40.0, 60.0, 80.0, 90.0))
    table = tabulate(request(seen, setting(workers=8)))
    surrogate = build(table, policy())
    levels = np.full((3, 1), 8.0)
    points = table.context_points(levels, np.array([30.0, 50.0, 70.0]), 0.0)
    found = surrogate.natural("power_w", surrogate.predict(points, ["power_w"])["power_w"].mean)
    truth = [Plant().power(8, load) for load in (30.0, 50.0, 70.0)]
    assert found == pytest.approx(truth, rel=0.03)
    node = surrogate.nodes["power_w"]
    values = node.values(node.fit.theta[None, :])
    assert values.step.shape == (1, 1)
    assert set(node.origins) == {"cpu_cores"}


def test_what_foreign_cpu_takes_is_learned():
    """On a plant whose CPU is shared, a busy neighbour costs capacity; the prior says half."""
    from plants import window

    def share(taken):
        plant, rng = replace(Plant(), cpu_s=0.012, miss_s=0.012), np.random.default_rng(5)
        seen = [window(plant, rng, 10 * k, 6, 75.0, foreign=taken * (k % 2)) for k in range(16)]
        belief = make_plan(request(seen, setting(workers=6))).belief
        return dict(belief)["foreign_share"]

    assert share(0.0) == pytest.approx(0.5, abs=0.02)
    assert abs(share(0.5) - 0.5) > 0.03


def test_the_scale_of_a_knob_says_how_far_levels_are_apart():
    """From 4 of 1..64: half an octave is 3..5; on a linear scale it is five steps."""
    near = {}
    for scale in Scale:
        knob = Knob(name="workers", lower=1, upper=64, scale=scale)
        rule = replace(policy(), knobs=(knob,))
        plan = make_plan(
            request(windows([4, 5, 4, 6]), setting(workers=5), policy=rule, trust_octaves=0.5)
        )
        near[scale] = {
            c.setting["workers"] for c in plan.candidates if c.verdict != "outside_trust_region"
        }
    assert {4, 5, 6} <= near[Scale.LOG] <= {4, 5, 6, 7}
    assert near[Scale.LINEAR] >= set(range(1, 11))
