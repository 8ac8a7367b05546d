"""Write docs/metrics.md from the metrics' own names, types, units and help: `make docs`.

Rendered from snapshots in which everything that can be known is known (tests/support/snapshots.py).
"""

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests" / "support"), str(ROOT / "daemon")]

import snapshots as make  # noqa: E402
from prometheus_client.core import Metric  # noqa: E402

from poolwright.core.model import Estimate  # noqa: E402
from poolwright.surface.metrics import JournalFile, SnapshotCollector  # noqa: E402

PAGE = ROOT / "docs" / "metrics.md"
HEAD = """\
# Metrics

`GET /metrics` at the address of `listen`: the text format or, for a scraper that asks for it,
OpenMetrics with units, and with the newest decision of a kind as exemplar (`decision_id`: what
`poolwright explain POOL --decision` takes). `process_*` tells of the control process. What is not
known is an absent sample: never 0, never NaN.

Labels are bounded: pools, knobs, sensors and responses are those of the configuration, all else is
one of a fixed list. [deploy/prometheus](../deploy/prometheus/README.md) has rules and alerts,
[deploy/grafana](../deploy/grafana/README.md) a board. Made from the metrics' own help by
`make docs`.

| name | type | unit | labels | tells |
|---|---|---|---|---|
"""


def everything() -> list[Metric]:
    """Every family, from pools of which everything is known."""
    busy, web = make.busy_pool("api"), make.pool_snapshot("web")
    responses = (*make.responses(0.16), ("cost_per_hour", Estimate(mean=0.4, std=0.01)))
    responses = tuple(sorted(responses, key=lambda pair: pair[0]))
    assert web.plan is not None
    row = replace(web.plan.schedule[1], predictions=responses)
    window = replace(make.observation(5, 0.161), responses=responses)
    slo = (*make.POLICY.slo, replace(make.POLICY.slo[1], response="jitter_s"))
    web = replace(
        web,
        plan=replace(web.plan, schedule=(row,)),
        decision=make.probe(observation=window),
        policy=replace(make.POLICY, slo=slo),
        sample=replace(web.sample, psi_memory_ratio=0.0, throttled_ratio=0.0),
    )
    whole = make.snapshot(busy, web, reloads=(("applied", 1),))
    journal = JournalFile(Path(__file__), 2**29)  # a file that is there
    collector = SnapshotCollector("0.1.0", lambda: whole, journal, lambda: make.MONO_NS)
    collector.published(whole)
    return list(collector.collect())


def page() -> str:
    """The whole page."""
    rows = []
    for metric in sorted(everything(), key=lambda m: m.name):
        ends = {"counter": "_total", "info": "_info"}.get(metric.type, "")
        labels = sorted({f"`{name}`" for s in metric.samples for name in s.labels} - {"`le`"})
        cells = (f"`{metric.name}{ends}`", metric.type, metric.unit, ", ".join(labels))
        rows.append(f"| {' | '.join(cells)} | {metric.documentation} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
