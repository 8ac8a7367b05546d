"""A journal for other programs: Parquet read back with pyarrow, files that are whole or none."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import journal_life
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poolwright.cli.main import main
from poolwright.core.signals import RESPONSES
from poolwright.journal import export
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal


@pytest.fixture(scope="module")
def bench():
    return journal_life.lived()


@pytest.fixture
def path(tmp_path, bench):
    """A journal of two pools."""
    journal = SqliteJournal(tmp_path / "journal.db")
    journal_life.write(journal, bench)
    journal_life.write(journal, bench, pool="api")
    journal.close()
    return tmp_path / "journal.db"


def parquet(path, *args):
    out = path.with_name("out.parquet")
    where = ("--journal", str(path), "--format", "parquet", "--out", str(out))
    assert main(["journal", "export", *where, *args]) == 0
    return pq.read_table(out)


def test_parquet_is_read_back_row_by_row(path, bench, monkeypatch):
    monkeypatch.setattr(export, "ROWS", 7)  # several row groups
    table = parquet(path, "--pool", "web")
    rows = table.to_pylist()
    assert len(rows) == len(bench.ticks)
    assert pq.ParquetFile(path.with_name("out.parquet")).num_row_groups == -(-len(rows) // 7)
    with JournalReader(path) as reader:
        steps = list(reader.steps(1))
    for row, step in zip(rows, steps, strict=True):
        tick, decision = step.tick, step.decision
        assert (row["run"], row["pool"], row["tick"]) == (1, "web", tick.index)
        assert (row["action"], row["reason"], row["moves"]) == (
            decision.action, decision.reason, decision.moves,
        )  # fmt: skip
        assert row["commanded_workers"] == decision.setting["workers"]
        seen = {r.signal: r.value for r in tick.readings}
        assert {name: row[name] for name in seen} == seen
        latency = next((r.sketch for r in tick.readings if r.signal == "latency_s"), None)
        assert row["latency_p99_s"] == (None if latency is None else latency.quantile(0.99))
        window = decision.observation
        assert row["window_s"] == (None if window is None else window.span_s)
        if window is not None:
            assert row["window_throughput_rps"] == window.response("throughput_rps").mean
    times = table.column("time").cast(pa.int64()).to_pylist()
    assert times == [step.tick.wall_ns for step in steps]
    assert table.schema.field("time").type == pa.timestamp("ns", tz="UTC")
    assert any(row["plan_version"] for row in rows)
    assert any(row["actuation"] == "applied" for row in rows)


def test_every_column_says_what_it_tells(path):
    told = {f.name: f.metadata[b"meaning"].decode() for f in parquet(path).schema}
    assert told["throughput_rps"] == "requests completed a second since the last tick"
    assert all(told.values())
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    for name, (kind, meaning) in {**export.COLUMNS, **export.KNOB_COLUMNS}.items():
        if name.removeprefix("window_").removesuffix("_error") in RESPONSES and "window" in name:
            continue  # told together
        assert f"| `{name}` | {kind} | {meaning} |" in page, name


def test_filters(path, bench):
    wall_ns = [tick.wall_ns for tick, _ in journal_life.steps(bench)]
    since = wall_ns[len(wall_ns) // 2]
    stamp = datetime.fromtimestamp(since / 1e9, UTC).isoformat()
    half = parquet(path, "--pool", "api", "--since", stamp)
    assert half.num_rows == sum(w >= since for w in wall_ns)
    assert set(half.column("pool").to_pylist()) == {"api"}
    few = parquet(path, "--limit", "9").column("tick").to_pylist()
    assert few == [tick.index for tick in bench.ticks][-9:] * 2


def test_a_file_of_lines_is_what_stdout_gives(path, capsysbinary):
    assert main(["journal", "export", "--journal", str(path)]) == 0
    lines = capsysbinary.readouterr().out
    out = path.with_name("all.jsonl")
    assert main(["journal", "export", "--journal", str(path), "--out", str(out)]) == 0
    assert out.read_bytes() == lines
    counted = f"{len(lines.splitlines())} records"
    assert counted in capsysbinary.readouterr().err.decode()
    assert {json.loads(line)["kind"] for line in lines.splitlines()} == {"run", "intent", "tick"}


def test_an_export_that_fails_leaves_the_file_that_was_there(path, monkeypatch, capsys):
    out = path.with_name("out.parquet")
    out.write_text("yesterday's")

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_row", broken)
    args = ["--journal", str(path), "--format", "parquet", "--out", str(out)]
    assert main(["journal", "export", *args]) == 3
    assert "out.parquet: cannot be written: No space left on device" in capsys.readouterr().err
    assert out.read_text() == "yesterday's"
    assert {p.name for p in path.parent.iterdir() if "parquet" in p.name} == {"out.parquet"}


def test_what_cannot_be_is_said(path, capsys, monkeypatch):
    where = ["--journal", str(path), "--format", "parquet"]
    assert main(["journal", "export", *where]) == 2
    assert "give it a name with --out FILE" in capsys.readouterr().err
    assert main(["journal", "export", *where, "--out", str(path.parent / "no" / "x")]) == 3
    assert "no/x: cannot be written: No such file" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["journal", "export", *where, "--out", str(path.parent / "x")]) == 3
    assert "pip install 'poolwright[parquet]'" in capsys.readouterr().err
    assert not (path.parent / "x").exists()
