"""A picture of a simulation: workers, load and latency over time, with what went wrong shaded.

Needs matplotlib (`pip install poolwright[plot]`).
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from poolwright.core.errors import PlantFault
from poolwright.core.signals import quantile_of
from poolwright.sim.faults import Blow, Fault, Suspend
from poolwright.sim.report import Tally

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_APPLIED, _WANTED, _LOAD, _LATENCY, _SLO, _FAULT = (
    "#0b6e99", "#e8890c", "#5b6770", "#6a3d9a", "#c0392b", "#d9480f",
)  # fmt: skip
_UNITS = ((2 * 86400.0, 86400.0, "days"), (2 * 3600.0, 3600.0, "hours"), (0.0, 60.0, "minutes"))


def draw(path: Path, title: str, tallies: Sequence[Tally], faults: Sequence[Fault]) -> None:
    """Write the picture of a run. Raises PlantFault without matplotlib or where it cannot write."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise PlantFault("a plot needs matplotlib: pip install 'poolwright[plot]'") from error
    figure = Figure(figsize=(12.0 if len(tallies) == 1 else 9.0 * len(tallies), 7.5), dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    _fill(figure, tallies, faults)
    try:
        figure.savefig(path, metadata={"Software": "poolwright"})
    except (OSError, ValueError) as error:
        raise PlantFault(f"{path}: cannot be written: {error}") from error


def _fill(figure: "Figure", tallies: Sequence[Tally], faults: Sequence[Fault]) -> None:
    columns = len(tallies)
    names = 0.017 * min(12, 1 + len(faults) // 6)  # room for the faults' names
    grid = figure.add_gridspec(
        3, columns, height_ratios=(3, 2, 3), left=0.07, right=0.985, top=0.91 - names,
        bottom=0.08, hspace=0.2, wspace=0.16,
    )  # fmt: skip
    for column, tally in enumerate(tallies):
        size, unit = next((s, u) for least, s, u in _UNITS if tally.duration_s >= least)
        axes = [figure.add_subplot(grid[row, column]) for row in range(3)]
        for axis in axes:
            axis.set_xlim(0.0, tally.duration_s / size)
            axis.grid(visible=True, color="#e3e7ea", linewidth=0.7)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelbottom=axis is axes[-1], labelsize=9)
            axis.tick_params(which="minor", length=0)
        _workers(axes[0], tally, size)
        _load(axes[1], tally, size)
        _latency(axes[2], tally, size)
        axes[2].set_xlabel(f"{unit} since the start", fontsize=9)
        _shade(axes, [f for f in faults if f.strikes(tally.pool)], size)
        if columns > 1:
            axes[0].set_title(f"pool {tally.pool}", loc="left", fontsize=10, pad=3)


def _workers(axis: "Axes", tally: Tally, size: float) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - an extra

    end = tally.duration_s
    for changes, color, label, width, style in (
        (tally.level_changes, _APPLIED, "workers that run", 2.2, "-"),
        (tally.wanted_changes, _WANTED, "what poolwright wants", 1.1, "--"),
    ):
        if changes:
            at, level = zip(*changes, (end, changes[-1][1]), strict=True)
            axis.step([t / size for t in at], level, where="post", color=color, lw=width,
                      ls=style, label=label)  # fmt: skip
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel("workers", fontsize=9)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axis)


def _load(axis: "Axes", tally: Tally, size: float) -> None:
    at = [span.ends_s / size for span in tally.spans]
    came = [span.arrived / span.span_s for span in tally.spans]
    bad = [span.failed / span.span_s for span in tally.spans]
    axis.plot(at, came, color=_LOAD, lw=0.9, label="requests (with retries)")
    if any(bad):
        axis.fill_between(at, bad, color=_SLO, alpha=0.7, lw=0, label="of them failed")
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel("requests a second", fontsize=9)
    _legend(axis)


def _latency(axis: "Axes", tally: Tally, size: float) -> None:
    seen = [(s.ends_s / size, s.p99_s * 1e3) for s in tally.spans if s.p99_s is not None]
    if seen:
        at, p99 = zip(*seen, strict=True)
        axis.plot(at, p99, color=_LATENCY, lw=0.8, label="p99 of what clients waited")
        if max(p99) > 10.0 * min(p99):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.yaxis.set_minor_formatter(lambda *_: "")
        else:
            axis.set_ylim(bottom=0.0)
    for slo in tally.policy.slo:
        quantile = quantile_of(slo.response)
        if quantile is not None:
            label = f"SLO: p{100 * quantile:g} below {slo.below * 1e3:g} ms"
            axis.axhline(slo.below * 1e3, color=_SLO, lw=1.2, ls="--", label=label)
    outside = [minute.ends_s for minute in tally.minutes if minute.outside]
    for end in outside:
        axis.axvspan((end - 60.0) / size, end / size, ymax=0.03, color=_SLO, lw=0)
    if outside:
        axis.plot([], [], color=_SLO, lw=4, label=f"{len(outside)} minutes outside the SLO")
    axis.set_ylabel("latency [ms]", fontsize=9)
    _legend(axis)


def _legend(axis: "Axes") -> None:
    """Above the panel on the right, where no line is."""
    axis.legend(
        loc="lower right", bbox_to_anchor=(1.0, 0.985), fontsize=8, frameon=False, ncols=3,
        borderpad=0.1, borderaxespad=0.0,
    )  # fmt: skip


def _shade(axes: "Sequence[Axes]", faults: Sequence[Fault], size: float) -> None:
    """Every fault through all panels, numbered at their top and named above them."""
    top = axes[0]
    where: Any = top.get_xaxis_transform()
    for number, fault in enumerate(faults, 1):
        for at in _moments(fault):
            for axis in axes:
                if isinstance(fault, Blow):
                    axis.axvline(at / size, color=_FAULT, lw=0.9, alpha=0.6)
                else:
                    axis.axvspan(at / size, fault.ends_s / size, color=_FAULT, alpha=0.13, lw=0)
        at_y = 0.95 - 0.06 * (number % 2)
        top.text(fault.at / size, at_y, f"{number}", color=_FAULT, fontsize=7, transform=where)
    words = "   ".join(f"{number} {fault}" for number, fault in enumerate(faults, 1))
    top.text(
        0.0, 1.1, fill(words, round(top.bbox.width / 6.0)), color=_FAULT, fontsize=7.5,
        transform=top.transAxes,
    )  # fmt: skip


def _moments(fault: Fault) -> list[float]:
    if not isinstance(fault, Blow) or isinstance(fault, Suspend):
        return [fault.at]
    return [fault.at + n * (fault.every or 0.0) for n in range(min(fault.times, 200))]
