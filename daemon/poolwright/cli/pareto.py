"""`poolwright pareto POOL`: what every setting would give, from what was learned of the pool.

Lists the settings that nothing else beats in latency, throughput, jitter, power and memory at
once, each as a fresh window would show it, with its uncertainty; and up to what load some setting
holds every SLO. `--times 2` asks for twice the present load.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from poolwright.cli.explain import add_journal, journal_of
from poolwright.core.errors import PlantFault
from poolwright.core.model import FitRequest, Setting, Tick
from poolwright.core.policy import Policy
from poolwright.journal.query import JournalReader
from poolwright.surface import words

if TYPE_CHECKING:
    from poolwright.learn.front import Front, Outlook

_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_NEAR = 0.5  # octaves from what was tried: beyond that it is said to be far
_HOPELESS = 0.05  # of P(safe): what is less is not listed unasked
_FAR = 1.1  # times the highest load seen, likewise


def add(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "pareto", help="show what every setting would give, and cost", description=__doc__
    )
    parser.add_argument("pool", metavar="POOL")
    at = parser.add_mutually_exclusive_group()
    at.add_argument("--load", type=_positive, metavar="RPS", help="(default: the present load)")
    at.add_argument("--times", type=_positive, metavar="N", help="so many times the present load")
    parser.add_argument("--all", action="store_true", help="also what something else beats")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as .png, .svg or .pdf")
    add_journal(parser)


def run(args: argparse.Namespace) -> int:
    """Print the front. PlantFault when the journal cannot be read or knows too little."""
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    path = journal_of(args)
    with JournalReader(path) as reader, reader.one_moment():
        request = _request(reader, args.pool)
    from poolwright.learn.front import front_of  # noqa: PLC0415 - numpy and scipy take their time

    now = request.context.load_rps
    if args.times is not None and now is None:
        raise PlantFault(f"{path}: the present load of {args.pool} is not known; say --load")
    load = args.load if args.times is None else args.times * (now or 0.0)
    try:
        found = front_of(request, load)
    except ValueError as error:
        raise PlantFault(f"{path}: pool {args.pool}: {error}") from error
    if args.plot is not None:
        from poolwright.cli.pareto_plot import draw  # noqa: PLC0415 - matplotlib is an extra

        draw(args.plot, args.pool, found, request.policy)
    if args.json:
        print(msgspec.json.encode(found).decode())
    else:
        print("\n".join(told(args.pool, found, request, everything=args.all)))
    return 0


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _request(reader: JournalReader, pool: str) -> FitRequest:
    """What the learner would be asked now."""
    runs = reader.runs(pool)
    known = reader.known_of(pool)
    if not runs or known is None:
        pools = ", ".join(sorted({run.pool for run in reader.runs()})) or "none"
        raise PlantFault(f"{reader.path}: no pool {pool!r} (pools: {pools})")
    policy, _ = reader.start_of(runs[-1].id)
    last = reader.last_step(runs[-1].id)
    held = known.last_safe or known.baseline
    if last is not None:
        held = last.decision.setting or held
    if held is None or not known.evidence:
        raise PlantFault(f"{reader.path}: nothing was measured of pool {pool!r} yet")
    newest = known.evidence[-1].observation.context
    told_load = None if last is None else dict(last.decision.evidence).get("load_rps")
    return FitRequest(
        version=1,
        tick=0,
        policy=policy,
        evidence=known.evidence,
        context=replace(newest, load_rps=told_load) if told_load else newest,
        incumbent=held,
        trust_octaves=0.5,
        memory_limit_bytes=None if last is None else _memory_limit(last.tick, policy),
    )


def _memory_limit(tick: Tick, policy: Policy) -> float | None:
    """What the pool itself may use: the guard's share, less what others use."""
    seen = {r.signal: r.value for r in tick.readings if r.value is not None}
    names = ("host_memory_used_bytes", "memory_limit_bytes", "memory_bytes")
    if any(name not in seen for name in names):
        return None
    used, limit, own = (seen[name] for name in names)
    return max(0.0, policy.guard.memory_ratio * limit - max(0.0, used - own))


def told(pool: str, front: "Front", request: FitRequest, *, everything: bool) -> list[str]:
    """The front in words, a line each."""
    seen = f"{front.windows} windows at {front.lowest_rps:.4g} to {front.highest_rps:.4g}"
    lines = [f"{pool} at {front.load_rps:.4g} requests/s, from {seen} requests/s", ""]
    shown = [o for o in front.outlooks if everything or _worth_showing(o, front)]
    if not any(o.front for o in front.outlooks):
        lines.append("no setting fits the memory limit")
    elif not any(o.safe for o in front.outlooks):
        lines.append("no setting is known to hold the SLOs at this load")
    lines += _table(front, shown, request.incumbent) if shown else []
    lines += ["", *_room(front, request)]
    if request.memory_limit_bytes is None:
        lines.append("the host's memory was not seen last, so no size is held against it")
    far = [o for o in shown if o.octaves > _NEAR]
    if far:
        lines.append("? is far from anything that was tried: a guess of the model's form")
    return lines


def _worth_showing(outlook: "Outlook", front: "Front") -> bool:
    return outlook.setting == front.held or (outlook.front and outlook.p_safe >= _HOPELESS)


def _table(front: "Front", shown: "list[Outlook]", here: Setting) -> list[str]:
    knobs = [name for name, _ in here.levels]
    heads = ["", *knobs, *(words.name(name) for name in front.responses), "P(safe)"]
    rows = [heads]
    for outlook in shown:
        seen = dict(outlook.predictions)
        mark = " " if outlook.safe else "!"
        mark += ("*" if outlook.front else " ") + ("?" if outlook.octaves > _NEAR else " ")
        mark += ">" if outlook.setting == front.held else " "
        mark += "=" if outlook.setting == here else " "
        cells = [words.estimate(name, seen[name]) for name in front.responses]
        levels = [str(level) for _, level in outlook.setting.levels]
        rows.append([mark, *levels, *cells, f"{outlook.p_safe:.2f}"])
    widths = [max(len(row[k]) for row in rows) for k in range(len(heads))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    legend = "* nothing beats it in everything   > held at this load   = held now"
    return [*lines, "", f"{legend}   ! not known to be safe"]


def _room(front: "Front", request: FitRequest) -> list[str]:
    """Up to what load the SLOs hold."""
    if not request.policy.slo:
        return ["no SLO is set, so there is no load that is too much"]
    if front.room_rps is None:
        return ["no setting is known to hold the SLOs, even at the lowest load seen"]
    least = "at least " if front.room_open else ""
    lines = [
        f"the SLOs can be held up to {least}{front.room_rps:.4g} requests/s, with {front.room}"
    ]
    if front.room_rps > _FAR * front.highest_rps or front.load_rps > _FAR * front.highest_rps:
        lines.append(f"beyond {front.highest_rps:.4g} requests/s nothing was seen yet")
    return lines
