"""The status as one plain HTML page: no script, nothing loaded from elsewhere."""

from html import escape
from urllib.parse import quote

from poolwright.core.reasons import REASONS
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.surface.standing import Lines, figures, notices
from poolwright.surface.words import number, seconds, troubles, utc

COLUMNS = ("pool", "phase", "applied", "wanted", "load", "p50", "p99", "cpu", "power", "why")

STYLE = """
body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}
td,th{border:1px solid #999;padding:.3em .6em;text-align:left}li{color:#a00}
h2{font-size:1.1em;margin:1.5em 0 .3em}dl{display:grid;grid-template-columns:8em 1fr;margin:0}
dt{color:#555}dd{margin:0 0 .2em;overflow-wrap:anywhere}.ask{font-weight:bold}
"""
_HEAD = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>poolwright</title>
<meta http-equiv="refresh" content="5">
<style>{STYLE}</style></head><body>
<h1>poolwright</h1>
"""
_LINKS = ("/", "/metrics", "/healthz", "/readyz", "/api/v1/status")


def row(pool: PoolSnapshot) -> tuple[str, ...]:
    """One pool's status in words, in the order of COLUMNS; `-` where nothing is known."""
    sample, applied = pool.sample, pool.tick.applied
    decision = pool.decision
    why = REASONS[decision.reason] + (f": {decision.detail}" if decision.detail else "")
    if decision.advice is not None:
        why += f" (advice: {decision.advice.setting})"
    return (
        pool.pool,
        f"{decision.phase} ({pool.policy.mode})",
        str(applied.setting) if applied else "-",
        str(decision.setting) if decision.setting else "-",
        _known("load_rps", sample.load_rps),
        _known("p50_s", pool.recent.p50_s),
        _known("p99_s", pool.recent.p99_s),
        _known("cpu_cores", sample.cpu_cores),
        _known("power_w", sample.power_w),
        why,
    )


def page(snapshot: Snapshot | None, stale: str) -> str:
    """The whole page; `stale` says why the loop seems to stand still, if it does."""
    links = " · ".join(f'<a href="{link}">{link}</a>' for link in _LINKS)
    if snapshot is None:
        return f"{_HEAD}<p>{escape(stale)}</p><p>{links}</p></body></html>\n"
    up_s = (snapshot.wall_ns - snapshot.started_wall_ns) / 1e9
    wrong = [stale] if stale else []
    items = "".join(f"<li>{escape(line)}</li>" for line in [*wrong, *troubles(snapshot)])
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    rows = "".join(_html_row(pool) for pool in snapshot.pools)
    more = "".join(_html_standing(pool) for pool in snapshot.pools)
    return (
        f"{_HEAD}<p>{escape(snapshot.version)}, {utc(snapshot.wall_ns)}, up {seconds(up_s)}</p>"
        f"<ul>{items}</ul><table><tr>{head}</tr>{rows}</table>{more}<p>{links}</p></body></html>\n"
    )


def _html_row(pool: PoolSnapshot) -> str:
    first, *rest = map(escape, row(pool))
    cells = "".join(f"<td>{cell}</td>" for cell in rest)
    link = f"/api/v1/status/{quote(pool.pool, safe='')}"
    return f'<tr><td><a href="{link}">{first}</a></td>{cells}</tr>'


def _html_standing(pool: PoolSnapshot) -> str:
    def told(lines: Lines, kind: str) -> str:
        pairs = (f"<dt>{escape(head)}</dt><dd{kind}>{escape(said)}</dd>" for head, said in lines)
        return "".join(pairs)

    listed = told(notices(pool), ' class="ask"') + told(figures(pool), "")
    return f"<h2>{escape(pool.pool)}</h2><dl>{listed}</dl>"


def _known(quantity: str, value: float | None) -> str:
    return "-" if value is None else number(quantity, value)
