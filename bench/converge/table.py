"""The table of docs/measurements.md, between its two marks."""

import datetime as dt
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

_DOC = Path(__file__).resolve().parents[2] / "docs" / "measurements.md"
BEGIN, END = "<!-- converge: begin -->", "<!-- converge: end -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run. J is the policy's objective; `*over_best` are ratios to the sweep's best."""

    server: str
    version: str
    rps: float
    began: int
    held: int | None
    best: int
    best_j: float
    best_low: float
    best_high: float
    began_over_best: float
    over_best: float  # of the level held, in the sweep
    run_over_best: float  # in the run's last part
    converged_s: float | None
    windows: int | None
    settled_s: float | None
    levels: int
    breach_ratio: float | None  # of five-second blocks over the SLO
    last_breach_ratio: float | None
    requests: int
    lost: int
    power_source: str


def _known(value, form="{:.0f}", none="-"):
    return none if value is None else form.format(value)


_COLUMNS = {
    "server": lambda r: f"{r.server} {r.version}",
    "load/s": lambda r: f"{r.rps:g}",
    "from": lambda r: f"{r.began} ({r.began_over_best:.1f} x)",
    "held": lambda r: f"**{_known(r.held, '{}')}**",
    "sweep's best": lambda r: f"{r.best} (J {r.best_j:.2f}, {r.best_low:.2f} to {r.best_high:.2f})",
    "J of held over best": lambda r: f"{r.over_best:.2f}",
    "J in the run's end over best": lambda r: f"{r.run_over_best:.2f}",
    "converged s": lambda r: _known(r.converged_s, none="not"),
    "windows": lambda r: _known(r.windows, none="-"),
    "last move s": lambda r: _known(r.settled_s, none="none"),
    "levels seen": lambda r: str(r.levels),
    "SLO breached, whole run": lambda r: _known(r.breach_ratio, "{:.0%}"),
    "at its end": lambda r: _known(r.last_breach_ratio, "{:.0%}"),
    "requests": lambda r: f"{r.requests:,}",
    "lost": lambda r: str(r.lost),
}


def text(rows):
    """The table in Markdown."""
    heads = [*_COLUMNS]
    lines = [heads, ["---"] * len(heads), *([form(r) for form in _COLUMNS.values()] for r in rows)]
    sources = sorted({r.power_source or "none" for r in rows})
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nSource of watts: {', '.join(sources)}."


def write(made, arguments, cores):
    """Put `made` between the marks, with how it was made."""
    page = _DOC.read_text()
    head, _, rest = page.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"{_DOC}: {BEGIN} and {END} are not there")
    command = shlex.join([".venv/bin/python", "bench/converge/run.py", *arguments])
    load = os.getloadavg()[2]
    when = dt.datetime.now(dt.UTC).date()
    said = f"`{command}`, {when}, {cores} cores, load average of the last quarter {load:.1f}:"
    _DOC.write_text(f"{head}{BEGIN}\n{said}\n\n{made}\n{END}{tail}")
