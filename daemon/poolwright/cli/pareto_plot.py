"""A picture of a Pareto front: every response over the one it is paid with.

Needs matplotlib (`pip install poolwright[plot]`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from poolwright.core.errors import PlantFault
from poolwright.core.policy import Policy
from poolwright.surface import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from poolwright.learn.front import Front, Outlook

_FRONT, _OTHER, _HELD, _SLO = "#0b6e99", "#9aa5ad", "#e8890c", "#c0392b"
_NAMED_MOST = 14  # labels in one panel
_HOPELESS = 0.05  # of P(safe)
_WIDEST = 1.5  # octaves from what was tried: further out is not drawn
_UNITS = {"_s": (1e3, "ms"), "_bytes": (2.0**-20, "MiB"), "_w": (1.0, "W"), "_rps": (1.0, "1/s")}


def draw(path: Path, pool: str, front: "Front", policy: Policy) -> None:
    """Write the picture. Raises PlantFault without matplotlib or where it cannot write."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise PlantFault("a plot needs matplotlib: pip install 'poolwright[plot]'") from error
    pairs = _pairs(front)
    if not pairs:
        raise PlantFault(f"pool {pool}: nothing to draw, only one response was measured")
    figure = Figure(figsize=(6.2 * min(2, len(pairs)), 4.6 * ((len(pairs) + 1) // 2)), dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{pool} at {front.load_rps:.4g} requests/s, from {front.windows} windows",
        x=0.02, ha="left", fontsize=12, fontweight="bold",
    )  # fmt: skip
    for k, (x, y) in enumerate(pairs):
        axes = figure.add_subplot((len(pairs) + 1) // 2, min(2, len(pairs)), k + 1)
        _panel(axes, front, policy, x, y)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False
    )
    figure.tight_layout(rect=(0.0, 0.05, 1.0, 0.97))
    try:
        figure.savefig(path, metadata={"Software": "poolwright"})
    except (OSError, ValueError) as error:
        raise PlantFault(f"{path}: cannot be written: {error}") from error


def _pairs(front: "Front") -> list[tuple[str, str]]:
    """Which responses are drawn over which: what clients feel over what it takes."""
    paid: list[str] = [n for n in ("power_w", "memory_bytes") if n in front.responses]
    felt = [name for name in front.responses if name not in ("power_w", "memory_bytes")]
    if len(felt) > 1 and not paid:
        return [(felt[0], name) for name in felt[1:]]
    latency = felt[:1]
    jitter = [name for name in felt if name == "jitter_s"]
    pairs = [(x, y) for y in latency for x in paid]
    pairs += [(paid[0], y) for y in jitter if paid]
    return pairs + [(paid[-1], y) for y in felt if y == "throughput_rps" and paid]


def _unit(name: str) -> tuple[float, str]:
    return next(unit for suffix, unit in _UNITS.items() if name.endswith(suffix))


def _panel(axes: "Axes", front: "Front", policy: Policy, x: str, y: str) -> None:
    near = [o for o in front.outlooks if _drawn(o) or o.setting == front.held]
    groups: dict[str, tuple[list[Outlook], dict[str, Any]]] = {
        "beaten in everything": (
            [o for o in near if not o.front and o.setting != front.held],
            {"color": _OTHER, "markersize": 3.5, "alpha": 0.7},
        ),
        "on the front": ([o for o in near if o.front], {"color": _FRONT, "markersize": 6}),
        "held at this load": (
            [o for o in near if o.setting == front.held],
            {"color": _HELD, "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 2},
        ),
    }
    for label, (some, style) in groups.items():
        if some:
            (xs, dx), (ys, dy) = _values(some, x), _values(some, y)
            axes.errorbar(xs, ys, xerr=dx, yerr=dy, fmt="o", elinewidth=0.7, label=label, **style)
    axes.set_ylim(bottom=0.0)
    _bounds(axes, policy, y)
    _names(axes, [o for o in near if o.front], x, y)
    axes.set_xlabel(f"{words.name(x)} [{_unit(x)[1]}]")
    axes.set_ylabel(f"{words.name(y)} [{_unit(y)[1]}]")
    axes.grid(visible=True, color="#e3e7ea", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _drawn(outlook: "Outlook") -> bool:
    """Not what is hopeless, beside which the rest is a dot; nor what is far from all experience."""
    return outlook.p_safe >= _HOPELESS and (outlook.front or outlook.octaves <= _WIDEST)


def _values(some: "list[Outlook]", name: str) -> tuple[list[float], list[float]]:
    seen = [dict(outlook.predictions)[name] for outlook in some]
    scale = _unit(name)[0]
    return [scale * e.mean for e in seen], [scale * e.std for e in seen]


def _bounds(axes: "Axes", policy: Policy, y: str) -> None:
    """The SLO, and no more room above it than its own height."""
    for slo in policy.slo:
        if slo.response == y:
            bound = _unit(y)[0] * slo.below
            axes.axhline(bound, color=_SLO, linewidth=1.2, linestyle="--", label="SLO")
            axes.set_ylim(0.0, min(axes.get_ylim()[1], 2.0 * bound))


def _names(axes: "Axes", some: "list[Outlook]", x: str, y: str) -> None:
    """Each setting's levels beside its point, of no more than can be read."""
    every = -(-len(some) // _NAMED_MOST)
    for outlook in some[::every]:
        (at_x,), _ = _values([outlook], x)
        (at_y,), _ = _values([outlook], y)
        text = "x".join(str(level) for _, level in outlook.setting.levels)
        axes.annotate(
            text, (at_x, at_y), xytext=(4, 4), textcoords="offset points", fontsize=8,
            annotation_clip=True, clip_on=True,
        )  # fmt: skip
