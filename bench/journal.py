"""A month in the journal: how large the file is, and how long `explain --at` takes in it.

A day is simulated (the real daemon on virtual time, `--scenario`), and every sixth ten minutes of
it are written again and again, at one tick a second, through the real journal with its default
retention, until `--days` are full. Then a decision is explained `--asks` times at random times of
the month: as a command (python included; the file's pages dropped from the page cache before each
where the kernel lets us) and inside, as the HTTP API does.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, ActuationStatus, Resume
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal
from poolwright.policy.config import DaemonConfig
from poolwright.surface.story import explanation, tell

BLOCK, EVERY = 600, 6  # ticks, blocks


def simulated(scenario, path):
    command = [sys.executable, "-m", "poolwright", "simulate", scenario, "--journal", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def steps_of(path):
    """The policy, and every sixth ten minutes of the first run."""
    with JournalReader(path) as reader:
        run = reader.runs()[0].id
        kept = [step for i, step in enumerate(reader.steps(run)) if i // BLOCK % EVERY == 0]
        return reader.start_of(run)[0], kept


def shifted(step, index, mono_ns, wall_ns):
    """The same tick at another time."""
    moved = mono_ns - step.tick.mono_ns
    readings = tuple(
        replace(reading, taken_mono_ns=reading.taken_mono_ns + moved)
        for reading in step.tick.readings
    )
    tick = replace(step.tick, index=index, mono_ns=mono_ns, wall_ns=wall_ns, readings=readings)
    return tick, replace(step.decision, tick=index)


def write(path, policy, steps, days):
    """Fill a journal as the daemon would, with its defaults; seconds spent."""
    defaults = {name: DaemonConfig.__dataclass_fields__[name].default
                for name in ("journal_max_bytes", "journal_max_age")}  # fmt: skip
    journal = SqliteJournal(
        path, max_bytes=defaults["journal_max_bytes"], max_age_s=defaults["journal_max_age"]
    )
    wall_ns = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 10**9
    run = journal.begin_run("web", policy, Resume(), wall_ns)
    began, largest = time.perf_counter(), 0
    for index in range(days * 86400):
        at = index * 10**9
        tick, decision = shifted(steps[index % len(steps)], index, at, wall_ns + at)
        journal.append(run, tick, decision)
        if decision.moves:
            done = Actuation(decision_tick=index, status=ActuationStatus.APPLIED, took_s=0.4)
            journal.close_intent(run, done, wall_ns + at)
        if index % 86400 == 0:
            largest = max(largest, size(path))
            print(f"day {index // 86400}: {size(path) / 1e6:.1f} MB", file=sys.stderr, flush=True)
    journal.close()
    return time.perf_counter() - began, max(largest, size(path))


def size(path):
    """Bytes of the file with its write-ahead log."""
    return sum(p.stat().st_size for p in (path, Path(f"{path}-wal")) if p.exists())


def forget(path):
    """Drop the file's pages from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def asked(path, moments, *, cold):
    """Seconds that the command takes, each time."""
    took = []
    for at in moments:
        if cold:
            forget(path)
        command = [sys.executable, "-m", "poolwright", "explain", "web", "--journal", str(path),
                   "--at", at.isoformat()]  # fmt: skip
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    return took


def inside(path, moments, *, cold):
    """Seconds that the same takes in a process that is there."""
    took = []
    for at in moments:
        if cold:
            forget(path)
        began = time.perf_counter()
        with JournalReader(path) as reader, reader.one_moment():
            row = reader.newest_decision("web", until_wall_ns=int(at.timestamp() * 1e9))
            if row is None:
                raise PlantFault("nothing is kept of that time")
            assert explanation(row, tell(reader, row)).text
        took.append(time.perf_counter() - began)
    return took


def what_is_kept(path):
    with JournalReader(path) as reader:
        rows = reader.headers(reader.runs()[0].id)
        first = reader.db.execute("SELECT min(wall_ns), count(*) FROM decisions").fetchone()
        plans = reader.db.execute("SELECT count(*) FROM plans").fetchone()[0]
        last = rows[-1].last_wall_ns
        return {
            "days_of_ticks": round((last - rows[0].first_wall_ns) / 86400e9, 2),
            "days_of_decisions": round((last - first[0]) / 86400e9, 2),
            "decisions": first[1],
            "plans": plans,
        }


def summary(took):
    ordered = sorted(took)
    return {
        "median_ms": round(statistics.median(took) * 1e3, 1),
        "p90_ms": round(ordered[int(0.9 * (len(ordered) - 1))] * 1e3, 1),
        "most_ms": round(ordered[-1] * 1e3, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--asks", type=int, default=20)
    parser.add_argument("--scenario", default="diurnal")
    parser.add_argument("--day", type=Path, help="a simulated day that is there already")
    parser.add_argument("--keep", type=Path, help="leave the month here, or use the one that is")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        month = args.keep or Path(folder) / "month.db"
        found = {"days": args.days}
        if not month.exists():
            day = args.day or Path(folder) / "day.db"
            if not day.exists():
                simulated(args.scenario, day)
            policy, steps = steps_of(day)
            took, largest = write(month, policy, steps, args.days)
            found |= {
                "largest_MB": round(largest / 1e6, 1),
                "append_us": round(took / (args.days * 86400) * 1e6, 1),
            }
        found |= {"file_MB": round(size(month) / 1e6, 1)} | what_is_kept(month)
        chance = random.Random(0)
        end = datetime(2026, 11, 1, tzinfo=UTC).timestamp() + args.days * 86400
        span = found["days_of_decisions"] * 86400
        moments = [datetime.fromtimestamp(end - chance.random() * span * 0.99, UTC)
                   for _ in range(args.asks)]  # fmt: skip
        for cold in (True, False):
            name = "cold" if cold else "warm"
            with suppress(AttributeError):  # no posix_fadvise
                found[f"explain_command_{name}"] = summary(asked(month, moments, cold=cold))
                found[f"explain_inside_{name}"] = summary(inside(month, moments, cold=cold))
        found["python_alone_ms"] = round(python_alone() * 1e3, 1)
        print(json.dumps(found, indent=2))


def python_alone():
    """What an interpreter that does nothing takes, for comparison."""
    began = time.perf_counter()
    for _ in range(5):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
    return (time.perf_counter() - began) / 5


if __name__ == "__main__":
    main()
