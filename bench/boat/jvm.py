"""A small allocating service on a real JVM, and what one run of it shows.

`Requests.java` is compiled once a process. A run takes about two seconds: open-loop requests from
one thread, on the serial collector with a fixed heap. On a machine with other work the scheduler's
time slices are longer than the pauses that are looked for; so where it is allowed the JVM runs with
real-time priority (`chrt`), and the output says whether it did.
"""

import functools
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HEAP_MB = 64
RATE_RPS, WARMUP_S, SPAN_S = 5000, 0.4, 1.2
YOUNG_MB, SURVIVOR, TENURING = (2, 44), (1, 16), (0, 15)
OWN = (21, 8, 15)  # what this JVM takes by itself: a third of the heap for the young
START = (8, 8, 15)  # an operator's, who hopes for short pauses from a small young generation
LIMIT_S = 15.0
_PAUSE = re.compile(r"^\[([\d.]+)s\].*Pause (Young|Full) .* ([\d.]+)ms$")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One run. A run that ran out of memory or of time is `failed`, and shows what it got to."""

    failed: bool
    p99_s: float = 0.0
    busy_s: float = 0.0  # of a request, its collections included: one over the throughput
    young_count: int = 0
    young_pause_s: float = 0.0  # mean
    full_count: int = 0
    full_pause_s: float = 0.0


def missing() -> str:
    """Why there can be no run here; empty when there can."""
    absent = [tool for tool in ("javac", "java") if shutil.which(tool) is None]
    return f"no {' and no '.join(absent)} on the path" if absent else ""


@functools.cache
def compiled() -> Path:
    """The folder of the class file; PermissionError and the like when there is no room for it."""
    folder = Path(tempfile.mkdtemp(prefix="poolwright-boat-"))
    source = Path(__file__).with_name("Requests.java")
    subprocess.run(["javac", "-d", str(folder), str(source)], check=True, timeout=120)
    return folder


@functools.cache
def priority() -> tuple[str, ...]:
    """The command before the command: real-time priority where it is allowed."""
    chrt = shutil.which("chrt")
    if chrt is None:
        return ()
    prefix = (chrt, "--rr", "1")
    tried = subprocess.run([*prefix, "true"], check=False, capture_output=True, timeout=10)
    return prefix if tried.returncode == 0 else ()


def run(levels: tuple[int, ...]) -> Shown:
    """One run at (young MiB, survivor ratio, tenuring threshold)."""
    young, survivor, tenuring = levels
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "gc.log"
        command = [
            *priority(), "java", "-XX:+UseSerialGC", f"-Xms{HEAP_MB}m", f"-Xmx{HEAP_MB}m",
            f"-Xmn{young}m", f"-XX:SurvivorRatio={survivor}",
            f"-XX:MaxTenuringThreshold={tenuring}", f"-Xlog:gc:file={log}",
            "-cp", str(compiled()), "Requests", str(RATE_RPS), str(WARMUP_S), str(SPAN_S),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return Shown(failed=True)
        pauses = pauses_of(log.read_text()) if log.exists() else {"Young": [], "Full": []}
    if done.returncode != 0:
        if "OutOfMemoryError" in done.stderr + done.stdout:
            return Shown(failed=True)
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return shown_of(done.stdout, pauses)


def pauses_of(log: str) -> dict[str, list[float]]:
    """Seconds of each pause after the warm-up, by kind, from -Xlog:gc."""
    found: dict[str, list[float]] = {"Young": [], "Full": []}
    for line in log.splitlines():
        seen = _PAUSE.match(line)
        if seen and float(seen[1]) > WARMUP_S:
            found[seen[2]].append(float(seen[3]) / 1e3)
    return found


def shown_of(printed: str, pauses: dict[str, list[float]]) -> Shown:
    """What the program printed, and the log."""
    count, busy, _, p99, _, _ = (int(word) for word in printed.split())
    young, full = pauses["Young"], pauses["Full"]
    return Shown(
        failed=False,
        p99_s=p99 / 1e9,
        busy_s=busy / 1e9 / count,
        young_count=len(young),
        young_pause_s=sum(young) / len(young) if young else 0.0,
        full_count=len(full),
        full_pause_s=sum(full) / len(full) if full else 0.0,
    )
