"""The files that are shipped for Prometheus and Grafana, as tests read them."""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "poolwright.rules.yml"
BOARD = ROOT / "deploy" / "grafana" / "poolwright.json"
PAGES = ROOT / "docs" / "runbooks"
_DURATION = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def alerts():
    """Alert name -> its rule."""
    return {r["alert"]: r for g in _groups() for r in g["rules"] if "alert" in r}


def recorded():
    """The names that recording rules make."""
    return {r["record"] for g in _groups() for r in g["rules"] if "record" in r}


def _groups():
    return yaml.safe_load(RULES.read_text())["groups"]


def faster():
    """The rules with a second for each minute of a [range], 15 at least, and `for: 1s`, as YAML."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
            rule["expr"] = re.sub(r"\[(\w+)\]", _shorter, rule["expr"])
    return yaml.safe_dump(rules, sort_keys=False)


def _shorter(found):
    return f"[{max(15, seconds(found[1]) // 60)}s]"


def seconds(duration):
    """`1h30m` in seconds."""
    return sum(int(n) * _SECONDS[unit] for n, unit in _DURATION.findall(duration))


def queries_of_pages():
    """(page, query) of every line in a promql block of a runbook."""
    for page in sorted(PAGES.glob("*.md")):
        for block in re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                yield page.stem, line


def board():
    """The dashboard."""
    return json.loads(BOARD.read_text())


def panels():
    """Every panel of the board that is no row, those in closed rows too."""
    for panel in board()["panels"]:
        for inner in (panel, *panel.get("panels", ())):
            if inner["type"] != "row":
                yield inner


def queries_of_panels():
    """(panel's title, query) of every target."""
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def metric_names(query):
    """The names of poolwright's metrics in a query."""
    return set(re.findall(r"\bpoolwright[:_][\w:]*", query))


def documented():
    """The names of all samples that docs/metrics.md lists."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+)", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    names = {name for name, _ in rows}
    for name, kind in rows:
        if kind == "histogram":
            names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")}
    return names
