"""Freeze a golden journal of the present schema and core: `python tests/golden/journals/freeze.py`.

It is written once, when a schema is released, and must from then on be read, and replay to the
last bit, with every later release (tests/journal/test_golden_journals.py). `--again` writes it
anew: only before it was released. `--name NAME` adds another one, for a fixed bug of the core.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

import journal_life
import ticks as make

from poolwright.core.controller import Controller
from poolwright.core.model import Command, CommandKind, setting
from poolwright.core.policy import Mode, Override
from poolwright.engine.replay import replay
from poolwright.journal.query import JournalReader
from poolwright.journal.schema import MIGRATIONS
from poolwright.journal.sqlite import SqliteJournal
from poolwright.journal.verify import verify

HERE = Path(__file__).parent
FREEZE = Override(reason="launch", freeze=True)


def of(index, **said):
    """The commands of a tick, by its index: `t40=Command(...)`."""
    found = said.get(f"t{index}")
    return () if found is None else (found,)


def asked(kind, **more):
    return Command(kind=kind, who="ana", why="load test", **more)


def rule(**changes):
    """A policy with short windows and few levels, so that plans and the journal stay small."""
    base = make.policy()
    knob = replace(base.knobs[0], upper=5)
    explore = replace(base.explore, window_s=24.0, warmup_windows=1)
    return replace(base, knobs=(knob,), explore=explore, seed=7, sha256="0" * 64, **changes)


def write(path):
    """Two lives of a pool, the second ended by a crash, and one of a pool that is only advised."""
    auto, advised = rule(), rule(mode=Mode.RECOMMEND)
    journal = SqliteJournal(path)
    first = list(
        journal_life.simulated(
            auto, 92, workers=3, load_rps=lambda i: 5.0 if i < 56 else 14.0,
            commands=lambda i: of(
                i,
                t68=asked(CommandKind.PAUSE),
                t71=asked(CommandKind.RESUME),
                t76=asked(CommandKind.PIN, setting=setting(workers=5)),
                t81=asked(CommandKind.UNPIN),
            ),
            quiet=lambda i: "daily 09:00-10:00 UTC" if 60 <= i < 64 else "",
            overrides=lambda i: (FREEZE,) if 86 <= i < 89 else (),
            may_probe=lambda i: not 30 <= i < 34,
            room_bytes=lambda i: 4e9,
        )
    )  # fmt: skip
    journal_life.keep(journal, first, auto)
    resume = journal.last_resume("web")
    level = first[-1][1].setting["workers"]
    second = list(
        journal_life.simulated(auto, 40, seed=2, workers=level, resume=resume,
                               load_rps=lambda _: 60.0)
    )  # fmt: skip
    last = next(tick.index for tick, decision in second if decision.moves)
    run = journal_life.keep(journal, second[: last + 1], auto, resume=resume, end=False)
    journal.note(run, journal_life.WALL_NS, "policy", "reloaded: nothing changed")
    journal_life.keep(journal, rejecting(advised), advised, pool="api")
    journal.close()


def rejecting(advised):
    """A life in which the first advice is rejected after some ticks."""
    given = []

    def commands(index):
        return of(index, t30=asked(CommandKind.REJECT, advice_id=given[0] if given else "none"))

    for tick, decision in journal_life.simulated(
        advised, 33, seed=4, workers=5, load_rps=lambda _: 6.0, commands=commands
    ):
        given += [] if decision.advice is None else [decision.advice.id]
        yield tick, decision


def check(path):
    """Refuse to freeze what is damaged, does not replay or says nothing."""
    with JournalReader(path) as reader:
        report = verify(reader)
        assert not report.damage, report.damage
        for run in reader.runs():
            outcome = replay(reader, run.id, Controller)
            assert outcome.identical, outcome.difference
        kinds = {kind for row in reader.decisions() for kind in row.kinds}
    assert {"advice", "command", "move", "phase", "plan", "policy", "window"} <= kinds, kinds
    size = path.stat().st_size
    assert size < 100_000, size
    print(f"{path.name}: {report.runs} runs, {report.ticks} ticks, {sorted(kinds)}, {size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="write it anew")
    parser.add_argument("--name", help="beside the schema's own one")
    args = parser.parse_args()
    name = f"v{len(MIGRATIONS)}{f'-{args.name}' if args.name else ''}.db"
    golden = HERE / name
    if golden.exists() and not args.again:
        sys.exit(f"{golden} is frozen already")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / name
        write(made)
        check(made)
        golden.write_bytes(made.read_bytes())


if __name__ == "__main__":
    main()
