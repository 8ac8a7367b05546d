"""Scenarios: what is bound, what is refused, and that every shipped one can be played."""

from dataclasses import replace
from pathlib import Path

import pytest
from playing import PLANT, POLICY, makers, scenario, scripted

from poolwright.core.errors import PolicyError
from poolwright.core.policy import Mode
from poolwright.engine.stage import find_scenario, load_scenario, shipped_scenarios, stage
from poolwright.sim.faults import FAULTS, SENSES
from poolwright.sim.load import LOADS, Burst, Constant, Sum
from poolwright.sim.scenario import Scenario

ROOT = Path(__file__).parents[2]
HEAD = "version: 1\nname: x\nduration: 60s\n"
SHIPPED = sorted(path.stem for path in shipped_scenarios().glob("*.yaml"))
PROMISED = {
    "steady", "step", "ramp", "burst", "diurnal", "retry-storm", "slow-dependency", "memory-leak",
    "oom", "gc", "other-hand", "blind", "deploy", "two-pools", "worldcup-day", "aws-day",
    "azure-hour", "chaos", "own-lock",
}  # fmt: skip


def test_the_shortest_scenario_has_one_pool_called_web():
    found = scenario(HEAD + "policy: balanced\n")
    (part,) = found.services()
    assert (part.name, part.workers, part.load) == ("web", 4, Constant())


def test_units_and_kinds_are_read():
    found = scenario(
        HEAD
        + "policy: balanced\nplant: {service: [{cpu: 6ms}], memory: {limit: 2GB}}\n"
        + "load: {kind: sum, parts: [{kind: constant, rps: 600/m}, "
        + "{kind: burst, peak: 5, at: 1s, lasts: 2s}]}\n"
    )
    (part,) = found.services()
    assert part.plant.service[0].cpu == 0.006
    assert part.plant.memory.limit == 2_000_000_000
    assert part.load == Sum(parts=(Constant(rps=10.0), Burst(peak=5.0, at=1.0, lasts=2.0)))


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "1:1", "write either one `policy`"),
        ("policy: balanced\npools: [{policy: balanced}]\n", "4:9", "write either one `policy`"),
        ("pools: [{policy: balanced}, {policy: balanced}]\n", "4:", "the name of an earlier pool"),
        ("policy: balanced\nworkers: 0\n", "5:10", "is less than 1"),
        ("policy: balanced\nload: {kind: stap}\n", "5:14", "did you mean 'step'?"),
        ("policy: balanced\nplant: {cpu: 3}\n", "5:9", "unknown key 'cpu'"),
        ("policy: balanced\nlod: {}\n", "5:1", "did you mean 'load'?"),
        ("policy: balanced\ncommands: [{at: 1s, command: pin}]\n", "5:", "pin what?"),
        ("policy: balanced\ncommands: [{at: 1s, command: stop}]\n", "5:30", "'stop' is not known"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text, place, message):
    with pytest.raises(PolicyError) as refused:
        scenario(HEAD + text)
    assert message in str(refused.value)
    assert f"s.yaml:{place}" in str(refused.value)


def test_a_bad_policy_in_a_scenario_is_told_with_its_place(tmp_path):
    found = scenario(HEAD + "policy: {version: 1, name: y, extends: balanced, mood: auto}\n")
    with pytest.raises(PolicyError, match=r"s\.yaml:4:\d+: unknown key 'mood'; did you mean"):
        stage(found, 0, makers(), tmp_path / "j.db")


def test_a_policy_that_nobody_has_is_told_with_its_place(tmp_path):
    with pytest.raises(PolicyError, match=r"s\.yaml:4:9: .*did you mean 'balanced'"):
        stage(scenario(HEAD + "policy: balance\n"), 0, makers(), tmp_path / "j.db")


def test_a_scenario_that_nobody_has():
    with pytest.raises(PolicyError, match="did you mean 'steady'"):
        find_scenario("stedy")
    with pytest.raises(PolicyError, match="there is no such file"):
        find_scenario("./none.yaml")


def test_the_promised_scenarios_are_shipped():
    assert set(SHIPPED) == PROMISED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_scenario_plays_its_first_minutes(name, tmp_path):
    found = load_scenario(find_scenario(name))
    assert found.name == name
    assert found.describe
    short = _first(found, 100.0)  # the first plan comes after 88 s
    staged = stage(short, 0, makers(), tmp_path / "j.db")
    staged.simulation.run()
    report = staged.report()
    assert {pool.minutes for pool in report.pools} == {1}
    assert all(pool.plans for pool in report.pools)
    assert all(policy.mode is Mode.AUTO for policy in staged.policies.values())
    assert all(pool.requests > 0 for pool in report.pools)


def test_the_report_is_of_the_world_as_it_was(tmp_path):
    """A sensor that says a tenth changes what is decided, not what is reported."""
    lie = "faults: [{kind: sensor, does: scaled, at: 0s, lasts: 60s}]\n"
    counts = []
    for name, more in (("a", ""), ("b", lie)):
        text = HEAD + POLICY.replace("auto", "observe") + PLANT + more
        staged = stage(scenario(text), 0, scripted(4), tmp_path / name)
        staged.simulation.run()
        counts.append(staged.report().pools[0].requests)
    assert counts[0] == counts[1]
    assert counts[0] == pytest.approx(60 * 40, rel=0.1)


def _first(found: Scenario, duration_s: float) -> Scenario:
    """The beginning of a scenario, with what happens in it."""

    def within(items):
        return tuple(item for item in items if item.at < duration_s)

    return replace(
        found,
        duration=duration_s,
        faults=within(found.faults),
        commands=within(found.commands),
        reload=within(found.reload),
    )


def test_the_page_about_simulating_names_every_kind():
    page = (ROOT / "docs" / "simulate.md").read_text()
    for kind in (*FAULTS, *LOADS):
        assert f"| `{kind}` |" in page, kind
    for sense in SENSES:
        assert sense in page, sense
    example = page.split("## A scenario")[1].split("\n\nA mistake")[0]
    assert scenario("\n".join(line[4:] for line in example.splitlines())).name == "monday"
