"""The load generator against real servers on loopback."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest

from poolwright.core.errors import PolicyError
from poolwright.core.sketch import merged
from poolwright.demo.loadgen import Generator, answer_kind, arrivals, load_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def server(handle):
    """A server on loopback; `handle(head, writer)` answers one request."""

    async def connected(reader, writer):
        try:
            await handle(await reader.readuntil(b"\r\n\r\n"), writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away first: some of these tests want that
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"


async def generate(url, **how):
    reports = []
    final = await Generator(load_of(url, **how), reports.append).run()
    assert reports[-1] is final
    return reports[:-1], final


def test_arrivals_are_drawn_from_the_seed_and_evenly_many_a_second():
    due = arrivals(40.0, 3.0, 7)
    assert due == arrivals(40.0, 3.0, 7)
    assert due != arrivals(40.0, 3.0, 8)
    assert due == sorted(due)
    assert [sum(s <= at < s + 1 for at in due) for s in range(3)] == [40, 40, 40]
    assert len(arrivals(2.5, 4.0, 1)) == 10
    assert any(a == b for a, b in itertools.pairwise(due)), "pages ask for several at once"


@pytest.mark.e2e
async def test_a_stall_is_felt_by_all_requests_that_it_delayed():
    """100 a second for 4 s; the server answers nothing in [1.5 s, 2.5 s)."""
    began = time.monotonic()
    starts = []

    async def handle(head, writer):
        starts.append(float(head.partition(b"X-Request-Start: t=")[2].partition(b"\r")[0]))
        into = time.monotonic() - began
        if 1.5 <= into < 2.5:
            await asyncio.sleep(2.5 - into)
        writer.write(OK)

    async with server(handle) as url:
        began, wall = time.monotonic(), time.time()
        reports, final = await generate(url, rps=100, seconds=4, seed=3)
    assert (final.intended, final.sent, final.completed, final.errors) == (400, 400, 400, {})
    assert final.in_flight == 0
    due = arrivals(100, 4, 3)
    expected = sum(1.5 <= at < 2.4 for at in due)  # those delayed by 0.1 s and more
    assert abs(final.latency.above(0.1) - expected) <= 10
    assert final.p50_s < 0.1
    assert 0.6 < final.p95_s < 1.1  # the slowest fifth of a quarter
    assert 0.85 < final.p99_s < 1.2
    assert final.jitter_s > 0.15
    # The seconds add up to the whole, but for what ended after the last full one.
    parts = merged(r.latency for r in reports)
    assert parts.count == sum(r.completed for r in reports)
    assert 300 <= parts.count <= 400
    # The header tells the intended moment, not the moment of sending.
    told = sorted(starts)
    first_told, first_due = told[0] - wall, due[0]
    assert first_told == pytest.approx(first_due, abs=0.05)
    assert [t - told[0] for t in told] == pytest.approx([d - due[0] for d in due], abs=2e-6)


@pytest.mark.e2e
async def test_each_kind_of_error_is_counted():
    async def handle(head, writer):
        number = int(head.partition(b"?n=")[2].partition(b" ")[0])
        match number % 5:
            case 0:
                writer.write(OK)
            case 1:
                writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
            case 2:
                writer.write(OK[:-1])
            case 3:
                writer.write(b"garbage\r\n\r\n")
            case 4:
                await asyncio.sleep(1.0)

    async with server(handle) as url:
        _, final = await generate(url, rps=50, seconds=1, seed=1, timeout_s=0.4)
    assert final.completed == 10
    assert final.errors == {"status_503": 10, "truncated": 10, "malformed": 10, "timeout": 10}
    assert final.intended == 50
    assert final.latency.count == 20
    assert final.p99_s == pytest.approx(0.4, rel=0.25)


@pytest.mark.e2e
async def test_refused_and_over_the_bound_in_flight():
    async def never(head, writer):
        await asyncio.sleep(30.0)

    async with server(never) as url:
        _, final = await generate(url, rps=60, seconds=1, seed=1, timeout_s=0.5, most_in_flight=5)
        assert final.errors["over_limit"] + final.errors["timeout"] == 60
        assert final.errors["over_limit"] >= 30
        assert final.sent == final.errors["timeout"]
    _, final = await generate(url, rps=20, seconds=1, seed=1)
    assert final.errors == {"refused": 20}
    assert (final.sent, final.completed, final.p99_s, final.jitter_s) == (0, 0, None, None)


@pytest.mark.e2e
async def test_a_starved_generator_says_so():
    async def handle(head, writer):
        writer.write(OK)

    async with server(handle) as url:
        task = asyncio.create_task(generate(url, rps=50, seconds=1, seed=1))
        await asyncio.sleep(0.3)
        time.sleep(0.4)  # noqa: ASYNC251  nothing runs: as when others have the CPU
        _, final = await task
    stalled = 0.7 - min(at for at in arrivals(50, 1, 1) if at > 0.35)  # the first one caught
    assert stalled > 0.1
    assert final.lateness_max_s >= stalled
    assert final.latency.quantile(1.0) > 0.98 * stalled
    assert final.completed == 50


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:80/",
        "http://0.0.0.0:80/",
        "http://localhost:80/",
        "https://127.0.0.1:80/",
        "http://127.0.0.1/",
        "http://127.0.0.1:99999/",
        "127.0.0.1:80",
        "",
    ],
)
def test_only_loopback(url):
    with pytest.raises(PolicyError):
        load_of(url, rps=1.0, seconds=1.0)


@pytest.mark.parametrize("how", [{"rps": 0.0}, {"rps": 1e9}, {"seconds": 1e9}, {"timeout_s": 0.0}])
def test_only_within_bounds(how):
    with pytest.raises(PolicyError):
        load_of("http://[::1]:80/", **{"rps": 1.0, "seconds": 1.0, **how})


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", ""),
        (b"HTTP/1.1 204 No\r\ncontent-length:0\r\n\r\n", ""),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "status_404"),
        (b"HTTP/1.1 200 OK\r\n\r\nab", "malformed"),
        (b"SMTP\r\n\r\n", "malformed"),
    ],
)
def test_an_answer_is_read_whole(answer, kind):
    assert answer_kind(answer) == kind


def command(url, seconds, *more):
    return [
        *(sys.executable, "-m", "poolwright.demo.loadgen", "--url", url, "--rps", "20"),
        *("--seconds", str(seconds), *more),
    ]


@pytest.mark.e2e
async def test_the_command_prints_json_lines_and_ends_by_itself():
    async def handle(head, writer):
        writer.write(OK)

    async with server(handle) as url:
        process = await asyncio.create_subprocess_exec(
            *command(url, 2), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 20.0)
    lines = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0
    assert [line["final"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["completed"] == 40
    assert len(lines) in (2, 3)


def test_the_command_refuses_other_hosts():
    done = subprocess.run(
        command("http://192.0.2.1:80/", 1), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "loopback" in done.stderr


@pytest.mark.e2e
def test_it_ends_when_its_parent_dies():
    """A shell starts it, tells its process id and is killed."""
    shell = subprocess.Popen(
        ["sh", "-c", f"{' '.join(command('http://127.0.0.1:9/', 60))} >/dev/null & echo $!; wait"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with shell:
        pid = int(shell.stdout.readline())
        time.sleep(1.0)  # its parent must be the one that it saw at its start
        os.kill(pid, 0)
        shell.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the load generator outlived its parent")
