"""The dashboard measured: first paint, bytes, frames with ten pools and a day, memory.

A real daemon over real gunicorns (`--pools`), whose journal begins with a simulated day, and a real
Chromium. First paint and the time until figures are shown are medians of five loads, each with an
empty cache. Frames are counted over `--seconds` while the pointer moves over the charts and the
page scrolls, at a time range of 24 h.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from dashboard_stand import Stand, Wire, chromium
from simulated_day import day

LOADS = 5
PAINT = "performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)[0]"
COUNT_FRAMES = """() => {
  globalThis.frames_ms = [];
  let before = performance.now();
  const next = (now) => {
    globalThis.frames_ms.push(now - before);
    before = now;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
}"""


def one_load(browser, url):
    """(first paint, figures shown) in ms, and bytes over the wire, of one load."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    wire = Wire(page)
    began = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("main[aria-busy='false']")
    shown_ms = (time.perf_counter() - began) * 1000.0
    page.wait_for_selector("#sensors tbody tr")
    paint_ms, size = page.evaluate(PAINT), wire.total_bytes
    context.close()
    return paint_ms, shown_ms, size


def frames(browser, url, seconds):
    """Milliseconds between frames while the pointer moves and the page scrolls, at 24 h."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("main[aria-busy='false']")
    with page.expect_response(lambda answer: "/history?" in answer.url) as asked:
        page.check("#range input[value='86400']", force=True)
    points = len(asked.value.json()["time_s"])
    page.evaluate(COUNT_FRAMES)
    end, step = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        page.mouse.move(400 + (step * 17) % 700, 350 + (step * 5) % 200)
        if step % 10 == 0:
            page.mouse.wheel(0, 120 if step % 200 < 100 else -120)
        step += 1
    seen = page.evaluate("globalThis.frames_ms")
    context.close()
    return points, seen


def rss_mb(pid):
    """Resident memory of a process."""
    return psutil.Process(pid).memory_info().rss / 1e6


def measure(stand, seconds):
    pid = stand.daemon.pid
    before = rss_mb(pid)
    with chromium() as browser:
        loads = [one_load(browser, stand.url) for _ in range(LOADS)]
        paints, shown, sizes = zip(*loads, strict=True)
        print(f"  first paint          {statistics.median(paints):.0f} ms, median of {LOADS}")
        print(f"  figures shown        {statistics.median(shown):.0f} ms, median of {LOADS}")
        print(f"  over the wire        {max(sizes) / 1000:.0f} kB at most")
        points, seen = frames(browser, stand.url, seconds)
        cut = statistics.quantiles(seen, n=100)
        print(
            f"  frames, {points} points  median {cut[49]:.1f} ms, p95 {cut[94]:.1f} ms, "
            f"worst {max(seen):.0f} ms, of {len(seen)}"
        )
        print(f"  control process      {before:.1f} MB before, {rss_mb(pid):.1f} MB with the page")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--journal", type=Path, help="a simulated day; made when it is not there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = ["web", *(f"pool{n}" for n in range(1, max(given.pools)))]
        journal = given.journal or Path(folder) / "day.db"
        if not journal.exists():
            day(journal, names)
        for count in given.pools:
            load = psutil.getloadavg()[0]
            print(f"{count} pools and a day, load average {load:.1f} on {psutil.cpu_count()} CPUs")
            with Stand(Path(folder) / str(count), tuple(names[:count]), journal=journal) as stand:
                measure(stand, given.seconds)


if __name__ == "__main__":
    main()
