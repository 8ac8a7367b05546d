"""The table of docs/servers.md, written by the tests that start the servers.

    row = Row(server="uWSGI", version="2.0.21", reads="...", moves="...", ...)
    note(row)

`make test` fails when docs/servers.md does not hold a server that was noted, or holds another text
for it (version and times aside, which are the machine's): `python tests/support/server_table.py`
writes it anew, `--check` only looks.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NOTES = ROOT / "out" / "servers"
_DOC = ROOT / "docs" / "servers.md"
_BEGIN, _END = "<!-- servers: begin -->", "<!-- servers: end -->"
_COLUMNS = (
    "server",
    "version",
    "reads",
    "moves",
    "confirmed after",
    "reload",
    "crash",
    "another hand",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One server as it was met. `confirmed_s`: (fewest, median, most) from command to read-back."""

    kind: str  # of the actuator: one row each
    server: str
    version: str  # as the server itself tells
    reads: str
    moves: str
    confirmed_s: tuple[float, float, float]
    on_reload: str
    on_crash: str
    on_another_hand: str


def note(row):
    """Keep what a test saw."""
    _NOTES.mkdir(parents=True, exist_ok=True)
    (_NOTES / f"{row.kind}.json").write_text(json.dumps(asdict(row), indent=1) + "\n")


def _cells(row):
    low, mid, high = row["confirmed_s"]
    return [
        row["server"],
        row["version"],
        row["reads"],
        row["moves"],
        f"{mid:.2f} s ({low:.2f} to {high:.2f})",
        row["on_reload"],
        row["on_crash"],
        row["on_another_hand"],
    ]


def _line(cells):
    return "| " + " | ".join(cells) + " |"


def _held():
    """Kind -> cells, of what the page holds."""
    text = _DOC.read_text()
    table = text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)].strip().splitlines()[2:]
    cells = (line.strip("| ").split(" | ") for line in table)
    return {row[0]: row for row in cells}


def stale():
    """Servers whose line in the page says another thing than what was met, in words."""
    held, found = _held(), []
    for file in sorted(_NOTES.glob("*.json")):
        now = _cells(json.loads(file.read_text()))
        then = held.get(now[0])
        if then is None:
            found.append(f"{now[0]} is not in {_DOC.name}")
        elif [*then[2:4], *then[5:]] != [*now[2:4], *now[5:]]:  # version and times are the host's
            found.append(f"{now[0]}: {_DOC.name} says {then[2:]}, the tests {now[2:]}")
    return found


def main():
    """Write the table; servers that were not met this time keep their lines."""
    held = _held()
    for file in sorted(_NOTES.glob("*.json")):
        cells = _cells(json.loads(file.read_text()))
        held[cells[0]] = cells
    text = _DOC.read_text()
    head, tail = text[: text.index(_BEGIN)], text[text.index(_END) :]
    rows = [
        _line(_COLUMNS),
        _line(["---"] * len(_COLUMNS)),
        *(_line(held[k]) for k in sorted(held)),
    ]
    _DOC.write_text(head + _BEGIN + "\n" + "\n".join(rows) + "\n" + tail)
    sys.stdout.write(f"{_DOC}: {len(held)} servers\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit("\n".join(stale()) or 0)
    main()
