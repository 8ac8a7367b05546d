"""What people see of the demo while it runs, and the table at its end."""

from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from poolwright.core.model import Candidate, Plan, Verdict
from poolwright.demo.run import Agreement, Outcome, State
from poolwright.demo.stats import Summary
from poolwright.surface.words import estimate, number

_PLAIN_EVERY_S = 5
_EVENTS_SHOWN = 6
_BAR = 30
_STARVED_S = 0.1  # a request sent so late was delayed by this machine, not by the service
_STYLES = {
    Verdict.RECOMMENDED: "bold green",
    Verdict.PROBE: "bold cyan",
    Verdict.WORSE: "",
    Verdict.UNSAFE_SLO: "red",
    Verdict.UNSAFE_MEMORY: "red",
    Verdict.OUTSIDE_TRUST_REGION: "dim",
    Verdict.TABU: "red",
}


class View(Protocol):
    """Shows the state each second; used as a context manager."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""

    def show(self, state: State) -> None:
        """Show one more second."""


class Silent:
    """Shows nothing: `--json`."""

    def __enter__(self) -> Self:
        """Nothing to begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def show(self, state: State) -> None:
        """Nothing to show."""


class Plain(Silent):
    """A line every five seconds and one for each event: no terminal."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._told = (-1.0, "")  # the last event that was written

    def show(self, state: State) -> None:
        """Write what is new."""
        events = state.watch.events
        fresh = events.index(self._told) + 1 if self._told in events else 0
        for at, text in events[fresh:]:
            self._console.print(f"      {at:5.0f} s  {text}", highlight=False, soft_wrap=True)
            self._told = (at, text)
        if len(state.seconds) % _PLAIN_EVERY_S == 0:
            self._console.print(_line(state), highlight=False, soft_wrap=True)


class Lively:
    """The whole picture, redrawn each second: a terminal."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`."""
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        """Take the terminal."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""
        self._live.stop()

    def show(self, state: State) -> None:
        """Draw again."""
        self._live.update(picture(state), refresh=True)


def picture(state: State) -> RenderableType:
    """All of it."""
    options, done = state.options, len(state.seconds)
    progress = Table.grid(padding=(0, 1), expand=True)
    progress.add_column(ratio=1)
    progress.add_column(justify="right")
    progress.add_row(ProgressBar(total=options.seconds, completed=done), _phase(state))
    plan = state.watch.pool.plan if state.watch.pool else None
    workers = state.seconds[-1].workers
    told = state.watch.events[-_EVENTS_SHOWN:]
    events = "\n".join(f"{at:5.0f} s  {text}" for at, text in told) or "nothing yet"
    return Group(
        progress,
        Panel(_now(state), title="the last ten seconds", title_align="left"),
        Panel(_belief(plan, workers), title="what the model believes", title_align="left"),
        Panel(Text(events), title="decisions", title_align="left"),
    )


def _phase(state: State) -> str:
    pool = state.watch.pool
    phase = pool.decision.phase.value if pool else "starting"
    return f"{len(state.seconds)} of {state.options.seconds} s   {phase}"


def _now(state: State) -> Table:
    clients, pool = state.recent(), state.watch.pool
    own = pool.recent if pool else None
    table = Table.grid(padding=(0, 3))
    table.add_row(
        f"load {_shown('load_rps', clients.load_rps)}",
        f"workers {_count(state.seconds[-1].workers)}",
        f"CPU {_shown('cpu_cores', clients.cpu_cores)}",
        f"memory {_shown('memory_bytes', clients.memory_bytes)}",
        f"errors {clients.error_count}",
    )
    for who, p50, p99, jitter in (
        ("clients", clients.p50_s, clients.p99_s, clients.jitter_s),
        ("poolwright", *((own.p50_s, own.p99_s, own.jitter_s) if own else (None, None, None))),
    ):
        times = (f"{k} {_shown('s_s', v)}" for k, v in (("p50", p50), ("p99", p99)))
        table.add_row(who, *times, f"jitter {_shown('s_s', jitter)}", "")
    return table


def _belief(plan: Plan | None, workers: int | None) -> RenderableType:
    """Predicted p99 of every candidate, as a bar, with its standard error and verdict."""
    if plan is None:
        return Text("nothing yet: watching the baseline")
    seen = [(c, p) for c in plan.candidates if (p := dict(c.predictions).get("latency_p99_s"))]
    if not seen:
        return Text("the plan predicts no p99")
    longest = max(min(p.mean, 4 * min(q.mean for _, q in seen)) for _, p in seen)
    table = Table.grid(padding=(0, 2))
    for candidate, p99 in seen:
        level = candidate.setting.levels[0][1]
        bar = "█" * max(1, round(_BAR * min(1.0, p99.mean / longest)))
        table.add_row(
            f"{'>' if level == workers else ' '}{level:3d}",
            Text(bar, style=_style(candidate)),
            estimate("latency_p99_s", p99),
            candidate.verdict.value.replace("_", " "),
        )
    belief = ", ".join(f"{name} {value:.3g}" for name, value in plan.belief)
    return Group(table, Text(belief, style="dim"))


def _style(candidate: Candidate) -> str:
    return _STYLES.get(candidate.verdict, "")


def _line(state: State) -> str:
    recent, pool = state.recent(_PLAIN_EVERY_S), state.watch.pool
    own = pool.recent.p99_s if pool else None
    return (
        f"{len(state.seconds):4d} s  {_phase(state).rpartition(' ')[2]:<9}"
        f" load {_shown('load_rps', recent.load_rps)}"
        f"  workers {_count(state.seconds[-1].workers)}"
        f"  p50 {_shown('p50_s', recent.p50_s)}  p99 {_shown('p99_s', recent.p99_s)}"
        f" (poolwright, 10 s: {_shown('p99_s', own)})"
        f"  CPU {_shown('cpu_cores', recent.cpu_cores)}  errors {recent.error_count}"
    )


def table_of(outcome: Outcome) -> Table:
    """Before and after, side by side."""
    before, after = outcome.before, outcome.after
    table = Table(title=f"{outcome.cpus} CPUs, {before.load_rps:.3g} requests a second")
    table.add_column("")
    for head, seen in (("before", before), ("after", after)):
        table.add_column(f"{head} ({seen.seconds} s)", justify="right")
    table.add_column("change", justify="right")
    table.add_row("workers", _count(outcome.baseline), _count(outcome.final), "")
    for label, quantity in (
        ("latency p50", "p50_s"),
        ("latency p99", "p99_s"),
        ("jitter", "jitter_s"),
        ("throughput", "throughput_rps"),
        ("CPU", "cpu_cores"),
        ("memory", "memory_bytes"),
        ("power", "power_w"),
    ):
        old, new = getattr(before, quantity), getattr(after, quantity)
        table.add_row(label, _shown(quantity, old), _shown(quantity, new), _change(old, new))
    table.add_row("errors", _errors(before), _errors(after), "")
    table.add_row("p99 over the SLO", _ratio(before), _ratio(after), "")
    costs = outcome.objective_before, outcome.objective_after
    table.add_row("objective", *(f"{cost:.3f}" for cost in costs), _change(*costs))
    return table


def notes(outcome: Outcome) -> list[str]:
    """What is to be said beside the table, a line each."""
    after, whole = outcome.after, outcome.whole
    lateness = _shown("late_s", whole.lateness_max_s)
    spread = f" ± {number('power_w', after.power_std_w)}" if after.power_std_w else ""
    errors = f"errors in the whole run {_errors(whole)}"
    agreement = [_agreement(a) for a in (outcome.agreement_before, outcome.agreement_after)]
    own = _shown("rss_bytes", outcome.daemon_rss_bytes)
    starved = whole.lateness_max_s is not None and whole.lateness_max_s > _STARVED_S
    return [
        *(
            ["the load generator was starved: others use this machine, do not trust the figures"]
            * starved
        ),
        f"power: {after.power_source or 'not known'}{spread}",
        f"probes {outcome.probes}, moves {outcome.moves}, guard trips {outcome.guard_trips}",
        f"{errors}; the load generator was late by at most {lateness}",
        f"converged: {_after(outcome.converged_s)}; last move: {_after(outcome.settled_s)}",
        f"p99, poolwright / load generator: before {agreement[0]}, after {agreement[1]}",
        f"the daemon's memory: {own}; ticks {outcome.ticks_seen}, missed {outcome.ticks_missed}",
        f"journal: {outcome.journal}",
        f"why the last decision was made: {outcome.explain}",
    ]


def _agreement(seen: Agreement | None) -> str:
    if seen is None:
        return "not seen"
    own, theirs = number("p99_s", seen.daemon_s), number("p99_s", seen.generator_s)
    return f"{own} / {theirs} ({seen.ratio - 1.0:+.1%})"


def _after(seconds: float | None) -> str:
    return "not in this run" if seconds is None else f"after {seconds:.0f} s"


def _errors(summary: Summary) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in summary.errors) or "0"


def _ratio(summary: Summary) -> str:
    if summary.breach_ratio is None:
        return "not known"
    return f"{summary.breach_ratio:.0%} of the time"


def _shown(quantity: str, value: float | None) -> str:
    return "-" if value is None else number(quantity, value)


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _change(old: float | None, new: float | None) -> str:
    return "" if not old or new is None else f"{new / old - 1.0:+.0%}"
