"""What `poolwright top` shows: a state, and the picture of it. No terminal, no network."""

import textwrap
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from poolwright.core.reasons import REASONS
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.surface.standing import figures, notices
from poolwright.surface.words import (
    daemon_troubles,
    did,
    number,
    pool_troubles,
    seconds,
    utc,
)

KEPT = 600  # looks, for the sparklines
_BARS = "▁▂▃▄▅▆▇█"
_PLAIN_BARS = "_.-:=+*#"
_WIDE = 130  # columns, from which sparklines have room beside the figures
_DETAILS = 18  # lines that what stands for the selected pool may take
_HELP = (
    "j k, arrows      the next pool, the one before; in an explanation: scroll",
    "space, b         a page on, a page back",
    "Enter, d         why the last decision was made; again, or Esc: back",
    "h, ?             this help; again, or Esc: back",
    "q, ctrl-C        leave; the daemon goes on",
    "",
    "load, p99, level over time: each mark is one look, the newest at the right.",
    "p99 is over ten seconds; ! marks one above the policy's objective.",
    "A level a->b: a is applied, b is wanted.",
)


@dataclass(slots=True)
class History:
    """The last looks at one pool; None: it was not seen."""

    load_rps: deque[float | None] = field(default_factory=lambda: deque(maxlen=KEPT))
    p99_s: deque[float | None] = field(default_factory=lambda: deque(maxlen=KEPT))
    level: deque[float | None] = field(default_factory=lambda: deque(maxlen=KEPT))

    def see(self, pool: PoolSnapshot | None) -> None:
        """One more look."""
        applied = None if pool is None else pool.tick.applied
        self.load_rps.append(None if pool is None else pool.sample.load_rps)
        self.p99_s.append(None if pool is None else pool.recent.p99_s)
        self.level.append(None if applied is None else float(applied.setting.levels[0][1]))


@dataclass(slots=True)
class View:
    """What is known, and what the person looks at."""

    url: str
    snapshot: Snapshot | None = None  # of now; None: the daemon cannot be seen
    fault: str = "it was not asked yet"  # why it cannot
    gone_s: float = 0.0  # for how long
    pools: tuple[str, ...] = ()  # known by name, also while the daemon is gone
    history: dict[str, History] = field(default_factory=dict)
    selected: int = 0
    page: str = "pools"  # or "explain", "help"
    lines: tuple[str, ...] = ()  # of the explanation
    top: int = 0  # its first line that is shown

    @property
    def pool(self) -> str | None:
        """The name of the selected pool."""
        return self.pools[self.selected] if self.pools else None

    def see(self, snapshot: Snapshot | None, fault: str) -> None:
        """The outcome of one look: a snapshot of now, or why there is none."""
        fresh = self.snapshot is None or snapshot is None
        if not fresh and snapshot is not None and self.snapshot is not None:
            fresh = snapshot.wall_ns != self.snapshot.wall_ns
        self.snapshot, self.fault = snapshot, fault
        if snapshot is not None:
            name = self.pool
            self.pools = tuple(pool.pool for pool in snapshot.pools)
            self.selected = self.pools.index(name) if name in self.pools else 0
        if fresh:
            now = {pool.pool: pool for pool in snapshot.pools} if snapshot else {}
            for name in self.pools:
                self.history.setdefault(name, History()).see(now.get(name))

    def press(self, key: str, height: int) -> bool:
        """What a key does to what is shown; False: leave. An explanation is not made here."""
        if key == "q":
            return False
        if key in {"h", "?"}:
            self.page = "pools" if self.page == "help" else "help"
        elif key == "esc":
            self.page = "pools"
        step = {"down": 1, "j": 1, "up": -1, "k": -1, " ": height - 4, "b": 4 - height}.get(key, 0)
        if self.page == "explain":
            self.top = max(0, self.top + step)
        elif self.page == "pools" and self.pools:
            self.selected = min(len(self.pools) - 1, max(0, self.selected + step))
        return True


def picture(view: View, width: int, height: int, *, blocks: bool) -> RenderableType:
    """The whole screen."""
    head = _head(view)
    if view.page == "help":
        return Group(head, Text(), *(Text(f"  {line}") for line in _HELP))
    if view.page == "explain":
        return Group(head, *_explained(view, width, height))
    shown = _in_sight(view, height)
    parts: list[RenderableType] = [head, Text(), _table(view, shown, width, blocks=blocks)]
    if len(shown) < len(view.pools):
        parts.append(Text(f"  {len(view.pools) - len(shown)} more pools: j, k", style="dim"))
    selected = _selected(view)
    if selected is not None:
        past = view.history[selected.pool]
        parts += [Text(), Padding(_details(selected, past, width, blocks=blocks), (0, 1))]
    return Group(*parts)


def _in_sight(view: View, height: int) -> tuple[str, ...]:
    """The pools that fit, the selected one among them."""
    room = max(3, height - _DETAILS - 4)
    first = max(0, min(view.selected - room // 2, len(view.pools) - room))
    return view.pools[first : first + room]


def _head(view: View) -> RenderableType:
    """One line: of now, or plainly not."""
    if view.snapshot is None:
        lost = f"NOT LIVE for {seconds(view.gone_s)}, trying again: {view.fault}"
        return Text(lost, style="bold red", no_wrap=True, overflow="ellipsis")
    seen = view.snapshot
    up_s = (seen.wall_ns - seen.started_wall_ns) / 1e9
    wrong = len(daemon_troubles(seen)) + sum(len(pool_troubles(p)) for p in seen.pools)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append("poolwright", style="bold")
    text.append(f"  {utc(seen.wall_ns)}  up {seconds(up_s)}  {_count(len(seen.pools), 'pool')}  ")
    text.append(_count(wrong, "trouble"), style="bold red" if wrong else "green")
    text.append("  h: help  q: quit", style="dim")
    return text


def _count(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def _table(view: View, shown: tuple[str, ...], width: int, *, blocks: bool) -> Table:
    """A row a pool. While the daemon is gone there are names and no figures."""
    table = Table(box=None, pad_edge=False, expand=True, padding=(0, 2, 0, 0), show_edge=False)
    spark = min(24, (width - _WIDE) // 3 + 6) if width >= _WIDE else 0
    heads = ["", "pool", "phase", "level"]
    heads += ["load", "p99", "cpu", "power"] if width >= 60 else ["p99"]
    for name in heads:
        right = name in {"load", "p99", "cpu", "power"}
        table.add_column(name, no_wrap=True, justify="right" if right else "left")
        if spark and name in {"level", "load", "p99"}:
            table.add_column("", no_wrap=True, min_width=spark)
    table.add_column("why", no_wrap=True, overflow="ellipsis", ratio=1)
    now = {pool.pool: pool for pool in view.snapshot.pools} if view.snapshot else {}
    for name in shown:
        cells = _cells(name, now.get(name))
        kept = view.history[name]
        past = {"load": kept.load_rps, "p99": kept.p99_s, "level": kept.level}
        row: list[str | Text] = [">" if name == view.pool else " "]
        for head in heads[1:]:
            row.append(cells[head])
            if spark and head in past:
                row.append(Text(sparkline(past[head], spark, blocks=blocks), style="cyan"))
        table.add_row(*row, cells["why"], style="bold" if name == view.pool else "")
    return table


def _cells(name: str, pool: PoolSnapshot | None) -> dict[str, str | Text]:
    if pool is None:
        blank: dict[str, str | Text] = dict.fromkeys(
            ("phase", "level", "load", "p99", "cpu", "power"), "-"
        )
        return {"pool": name, **blank, "why": "not seen now"}
    decision, sample, applied = pool.decision, pool.sample, pool.tick.applied
    level = "-" if applied is None else _levels(applied.setting.levels)
    wanted = decision.wanted
    if wanted is not None and (applied is None or wanted != applied.setting):
        level += f"->{_levels(wanted.levels)}"
    slo = next((s.below for s in pool.policy.slo if s.response == "latency_p99_s"), None)
    p99 = pool.recent.p99_s
    over = p99 is not None and slo is not None and p99 > slo
    why = REASONS[decision.reason] + (f": {decision.detail}" if decision.detail else "")
    return {
        "pool": name,
        "phase": f"{decision.phase} ({pool.policy.mode})",
        "level": level,
        "load": _known("load_rps", sample.load_rps),
        "p99": Text(f"{'!' * over}{_known('p99_s', p99)}", style="bold red" if over else ""),
        "cpu": _known("cpu_cores", sample.cpu_cores),
        "power": _known("power_w", sample.power_w),
        "why": "; ".join(pool_troubles(pool)) or why,
    }


def _levels(levels: tuple[tuple[str, int], ...]) -> str:
    """A level; of several knobs, in the order of their names."""
    return "/".join(str(level) for _, level in levels)


def _known(quantity: str, value: float | None) -> str:
    return "-" if value is None else number(quantity, value)


def _selected(view: View) -> PoolSnapshot | None:
    pools = view.snapshot.pools if view.snapshot else ()
    return next((pool for pool in pools if pool.pool == view.pool), None)


def _details(pool: PoolSnapshot, past: History, width: int, *, blocks: bool) -> RenderableType:
    """What stands for the selected pool, as `status POOL` tells it, and how it came there."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold", max_width=max(20, width - 18))
    decision = pool.decision
    why = REASONS[decision.reason] + (f": {decision.detail}" if decision.detail else "")
    marks = max(10, min(KEPT, width - 45))
    for head, quantity, seen in (
        ("load", "load_rps", past.load_rps),
        ("p99", "p99_s", past.p99_s),
        ("level", "level", past.level),
    ):
        most = max((value for value in seen if value is not None), default=None)
        line = Text(sparkline(seen, marks, blocks=blocks), style="cyan", no_wrap=True)
        table.add_row(head, line.append(f" most {_known(quantity, most)}", style="default"))
    told = [("why", why), *(("trouble", said) for said in pool_troubles(pool))]
    told += notices(pool) + figures(pool)
    move = pool.last_move
    if move is not None:
        when = "" if pool.last_move_wall_ns is None else f"{utc(pool.last_move_wall_ns)}: "
        told.append(("last move", f"{when}{did(move)} {move.setting}: {REASONS[move.reason]}"))
    for head, said in told:
        table.add_row(head, said)
    return Group(Text(pool.pool, style="bold"), table)


def _explained(view: View, width: int, height: int) -> list[RenderableType]:
    """The part of the explanation that fits, and where in it that is."""
    lines = [part for line in view.lines for part in _folded(line, width)]
    room = max(1, height - 3)
    view.top = min(view.top, max(0, len(lines) - room))
    shown = lines[view.top : view.top + room]
    below = len(lines) - view.top - len(shown)
    more = f"{below} more lines: space, j" if below else "the end"
    return [
        Text(),
        *(Text(line, style="" if line.startswith(" ") else "bold", no_wrap=True) for line in shown),
        Text(f"-- {more}; Esc: back", style="dim", no_wrap=True),
    ]


def _folded(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(
        line, max(20, width - 1), subsequent_indent=indent, drop_whitespace=True
    ) or [""]


def sparkline(seen: Iterable[float | None], width: int, *, blocks: bool) -> str:
    """The last `width` values from 0 to their largest; a gap where nothing was seen."""
    bars = _BARS if blocks else _PLAIN_BARS
    last = list(seen)[-width:]
    most = max((value for value in last if value is not None), default=0.0)
    marks = (
        " " if value is None else bars[round((len(bars) - 1) * value / most) if most else 0]
        for value in last
    )
    return "".join(marks).rjust(width)
