"""The rules for Prometheus: sound, tested both ways, and with a page for every alert."""

import re
import subprocess

import pytest
import yaml
from prometheus_files import (
    PAGES,
    ROOT,
    RULES,
    alerts,
    documented,
    faster,
    metric_names,
    queries_of_pages,
    recorded,
    seconds,
)
from started import program

from poolwright.cli.main import COMMANDS

TESTS = sorted((ROOT / "deploy" / "prometheus" / "tests").glob("*.yml"))
HEADINGS = ["Meaning", "Impact", "Look at", "Do", "When it is no trouble"]


def promtool(*words):
    done = subprocess.run(
        [program("promtool"), *map(str, words)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def asked():
    """(test's name, alert, whether it is to fire) of every question of the rules' tests."""
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for question in test.get("alert_rule_test", ()):
                yield test["name"], question["alertname"], bool(question["exp_alerts"])


@pytest.mark.parametrize(
    "words", [("check", "rules", RULES), ("check", "config", RULES.with_name("scrape.yml"))]
)
def test_promtool_accepts_the_files(words):
    status, said = promtool(*words)
    assert status == 0, said
    assert "SUCCESS" in said


def test_the_rules_pass_their_own_tests():
    status, said = promtool("test", "rules", *TESTS)
    assert status == 0, said
    assert said.count("SUCCESS") == len(TESTS)


def test_every_alert_is_shown_to_fire_not_at_once_and_to_stay_silent():
    fired = {alert for _, alert, fires in asked() if fires}
    healthy = {alert for name, alert, fires in asked() if "all is well" in name and not fires}
    near = {alert for name, alert, fires in asked() if "stays silent" in name and not fires}
    early = {alert for name, alert, fires in asked() if "not at once" in name and not fires}
    assert fired == healthy == near == early == set(alerts())


def test_every_alert_has_a_page_and_every_page_an_alert():
    assert {page.stem for page in PAGES.glob("*.md")} == set(alerts())
    for name, rule in alerts().items():
        url = rule["annotations"]["runbook_url"]
        assert url == "{{ $externalLabels.runbooks }}docs/runbooks/" + name + ".md"


@pytest.mark.parametrize("name", sorted(alerts()))
def test_a_page_says_what_to_know_and_names_commands_that_exist(name):
    text = (PAGES / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    named = set(re.findall(r"`poolwright ([a-z]+)", text))
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        named |= set(re.findall(r"^poolwright ([a-z]+)", block, re.MULTILINE))
    assert named <= set(COMMANDS)


def test_every_alert_waits_and_only_a_breach_of_the_objective_pages():
    for name, rule in alerts().items():
        assert seconds(rule["for"]) >= 120, name
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert {"summary", "description", "runbook_url"} == set(rule["annotations"]), name
    paging = {name for name, r in alerts().items() if r["labels"]["severity"] == "critical"}
    assert paging == {"PoolwrightSloBreached"}


def test_every_metric_that_rules_and_pages_name_exists():
    known = documented() | recorded()
    assert metric_names(" ".join(a["expr"] for a in alerts().values())) <= known
    for page, query in queries_of_pages():
        assert metric_names(query) <= known, page


def test_every_query_of_a_page_is_promql(tmp_path):
    queries = [{"record": "q", "expr": query} for _, query in queries_of_pages()]
    assert len(queries) > len(alerts())
    groups = [{"name": f"q{i}", "rules": [rule]} for i, rule in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    status, said = promtool("check", "rules", path)
    assert status == 0, said


def test_the_faster_copy_for_a_live_run_differs_in_durations_only(tmp_path):
    path = tmp_path / "faster.yml"
    path.write_text(faster())
    assert promtool("check", "rules", path)[0] == 0
    for old, new in zip(
        yaml.safe_load(RULES.read_text())["groups"],
        yaml.safe_load(path.read_text())["groups"],
        strict=True,
    ):
        for was, now in zip(old["rules"], new["rules"], strict=True):
            bare = [re.sub(r"\[\w+\]", "[]", rule["expr"]) for rule in (was, now)]
            assert bare[0] == bare[1]
            assert now.get("for") in (None, "1s")
