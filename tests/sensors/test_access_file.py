"""`access_log` from a file: formats, rotations, and whatever else happens to a log."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from generic_services import Apache, Caddy, Nginx
from gunicorn_service import until
from hypothesis import given
from hypothesis import strategies as st
from test_access_log import Totals

from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import Status
from poolwright.sensors import access_file, log_lines, tail
from poolwright.sensors.access_log import AccessLog
from poolwright.sensors.log_lines import Request, Unreadable, parser
from poolwright.sensors.tail import MOST_LINE_BYTES, Tail

SECOND = 1_000_000_000
GOOD = b"poolwright 200 0.250\n"


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


class Log:
    """A sensor of a file, and time that goes on by a second a read."""

    def __init__(self, path, **options):
        options.setdefault("format", None if "pattern" in options else "nginx")
        self.path = path
        self.sensor = AccessLog(AccessLog.Options(file=str(path), **options), "web")
        self._second = 0

    async def started(self):
        await self.sensor.start()
        await self.read()
        return self

    async def read(self):
        self._second += 1
        return {one.signal: one for one in await self.sensor.read(self._second * SECOND)}

    def add(self, *lines):
        with self.path.open("ab") as out:
            out.write(b"".join(lines))


@contextlib.asynccontextmanager
async def log_in(folder, text=b"", **options):
    path = folder / "access.log"
    path.write_bytes(text)
    log = await Log(path, **options).started()
    try:
        yield log
    finally:
        await log.sensor.close()


async def rate(log):
    return (await log.read())["throughput_rps"].value


async def test_a_tick_of_requests_and_not_the_history(tmp_path):
    async with log_in(tmp_path, GOOD * 100) as log:
        assert (await log.read())["throughput_rps"].status is Status.NO_DATA
        log.add(GOOD, b"poolwright 503 0.750\n", b"poolwright 200 -\n")
        seen = await log.read()
    assert set(seen) == {"throughput_rps", "errors_rps", "latency_s"}
    assert seen["throughput_rps"].value == 2.0, "what nginx answered by itself does not count"
    assert seen["errors_rps"].value == 1.0
    assert seen["latency_s"].value == pytest.approx(0.5)
    assert seen["latency_s"].sketch.count == 2


async def test_silence_is_zero_load_then_stale(tmp_path):
    async with log_in(tmp_path, silence_s=3.0) as log:
        log.add(GOOD)
        assert await rate(log) == 1.0
        quiet = await log.read()
        assert quiet["throughput_rps"].value == 0.0
        assert quiet["latency_s"].status is Status.NO_DATA
        for _ in range(3):
            seen = await log.read()
        assert {one.status for one in seen.values()} == {Status.STALE}


async def test_a_line_is_read_once_it_has_its_end(tmp_path):
    async with log_in(tmp_path, b"poolwright 200") as log:
        log.add(b" 0.1\npoolwright 2")
        assert (await log.read())["throughput_rps"].status is Status.NO_DATA, "began before us"
        log.add(b"00 0.")
        assert (await log.read())["throughput_rps"].status is Status.NO_DATA
        log.add(b"5\n")
        assert (await log.read())["latency_s"].value == 0.5


async def test_renamed_the_old_file_is_read_to_its_end(tmp_path):
    async with log_in(tmp_path) as log:
        log.add(GOOD)
        assert await rate(log) == 1.0
        old = log.path.rename(tmp_path / "access.log.1")
        with old.open("ab") as late:
            late.write(GOOD * 2)
        assert await rate(log) == 2.0, "nobody has made the new one yet"
        log.add(GOOD * 3)
        with old.open("ab") as late:  # a writer that has not changed over yet
            late.write(GOOD * 4)
        assert await rate(log) == 7.0
        assert await rate(log) == 0.0


async def test_an_old_file_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(tail, "_LINGER_S", 0.0)
    before = open_files()
    async with log_in(tmp_path) as log:
        for i in range(20):
            log.add(GOOD)
            log.path.rename(tmp_path / f"access.log.{i}")
            log.add(GOOD)
            assert await rate(log) == 2.0
        await log.read()
        await log.read()
        assert open_files() <= before + 2
    assert open_files() == before


async def test_a_quiet_file_is_read_on_for_a_while_after_its_rotation(tmp_path):
    async with log_in(tmp_path) as log:
        log.add(GOOD)
        await log.read()
        log.sensor._log._tail._files[0].grown_s -= 3600.0  # an hour without a request
        old = log.path.rename(tmp_path / "access.log.1")
        log.path.touch()
        await log.read()
        with old.open("ab") as late:
            late.write(GOOD)
        assert await rate(log) == 1.0


async def test_a_deleted_file_does_not_hold_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tail, "_LINGER_S", 0.0)
    before = open_files()
    async with log_in(tmp_path) as log:
        log.add(GOOD)
        log.path.unlink()
        assert await rate(log) == 1.0
        await log.read()
        assert open_files() == before
        with pytest.raises(PlantFault, match="is not there"):
            await log.read()
        log.add(GOOD * 2)
        assert (await log.read())["latency_s"].sketch.count == 2


async def test_rotated_faster_than_files_end_their_number_is_bounded(tmp_path):
    before = open_files()
    async with log_in(tmp_path) as log:
        for i in range(20):
            log.path.rename(tmp_path / f"access.log.{i}")
            log.add(GOOD)
            await log.read()
        assert open_files() <= before + 5


@pytest.mark.parametrize("more", [0, 1, 50])
async def test_truncated_by_copytruncate_is_read_anew_and_said(tmp_path, more):
    async with log_in(tmp_path) as log:
        log.add(b"poolwright 200 0.1\n" * 10)
        assert await rate(log) == 10.0
        os.truncate(log.path, 0)
        log.add(b"poolwright 500 0.2\n" * more)  # also longer than it was before
        seen = await log.read()
    assert seen["throughput_rps"].value == more
    assert seen["throughput_rps"].estimated
    assert "truncated" in seen["throughput_rps"].detail


async def test_a_hole_that_a_truncation_leaves_is_no_line(tmp_path):
    async with log_in(tmp_path) as log:
        with log.path.open("wb") as out:  # not O_APPEND: writes on where it was
            out.write(GOOD * 3)
            out.flush()
            assert await rate(log) == 3.0
            os.truncate(log.path, 0)
            out.write(GOOD)
            out.flush()
            seen = await log.read()
    assert seen["throughput_rps"].value == 1.0


async def test_a_file_that_is_not_there_yet_is_read_from_its_beginning(tmp_path):
    log = Log(tmp_path / "later.log")
    await log.sensor.start()
    with pytest.raises(PlantFault, match=r"later\.log: is not there"):
        await log.read()
    log.add(GOOD * 2)
    assert (await log.read())["latency_s"].value == 0.25
    await log.sensor.close()


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
async def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "log"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(PlantFault, match="is no regular file"):
        await Log(path).sensor.start()


async def test_unreadable_lines_are_an_error_that_shows_the_first(tmp_path):
    async with log_in(tmp_path) as log:
        log.add(GOOD * 99, b"GET / HTTP/1.1 \x1b[2J\xff\n")
        assert (await log.read())["throughput_rps"].value == 99.0, "one in a hundred is tolerated"
        log.add(GOOD * 9, b"GET / HTTP/1.1\n")
        seen = await log.read()
    assert {one.status for one in seen.values()} == {Status.ERROR}
    assert "1 unreadable lines, the first: b'GET / HTTP/1.1'" in seen["latency_s"].detail
    assert str(log.path) in seen["latency_s"].detail


async def test_a_huge_line_takes_no_memory_and_spoils_no_other(tmp_path):
    async with log_in(tmp_path) as log:
        log.add(GOOD * 200, b"poolwright 200 0.1 " + b"x" * 5_000_000)
        await log.read()
        assert all(len(one.rest) <= MOST_LINE_BYTES for one in log.sensor._log._tail._files)
        log.add(b"\n", GOOD * 200)
        assert await rate(log) == 200.0


async def test_what_comes_faster_than_it_can_be_read_is_skipped_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(access_file, "BUDGET_S", 0.02)
    path = tmp_path / "access.log"
    path.touch()
    form = access_file.Form(parse=log_lines.nginx, has_status=True, time_signal="latency_s")
    made = access_file.AccessFile(str(path), form, 10.0, budget_s=0.02)
    await made.start()
    await made.read(SECOND)
    path.write_bytes(GOOD * 1_000_000)
    began = time.perf_counter()
    seen = await made.read(2 * SECOND)
    assert time.perf_counter() - began < 0.3
    assert {one.status for one in seen} == {Status.ERROR}
    assert "faster than they can be read" in seen[0].detail
    with path.open("ab") as out:
        out.write(GOOD * 3)
    again = await made.read(3 * SECOND)
    # the first line may be the end of one that was skipped
    assert again[0].value in {2.0, 3.0}
    await made.close()


async def test_the_rest_of_the_tick_goes_on_while_a_log_is_read(tmp_path):
    path = tmp_path / "access.log"
    path.touch()
    followed = Tail(str(path), 5.0)
    followed.start()
    path.write_bytes(GOOD * 500_000)
    gaps, done = [], asyncio.Event()

    async def tick():
        last = time.perf_counter()
        while not done.is_set():
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    beside = asyncio.create_task(tick())
    lines = []
    await followed.read(lambda line: lines.append(log_lines.nginx(line)))
    done.set()
    await beside
    followed.close()
    assert len(lines) == 500_000
    gaps.sort()
    assert gaps[len(gaps) * 99 // 100] < 0.1


APACHE = (
    b'127.0.0.1 - frank [10/Oct/2026:13:55:36 -0700] "GET /a_\\"b\\" HTTP/1.1" %d 2326 '
    b'"http://www.example.com/\\xc3" "Mozilla/4.08 \\"x\\" [en]" %d'
)
CADDY = (
    b'{"level":"info","ts":1.5,"logger":"http.log.access.log0","msg":"handled request","request":'
    b'{"uri":"/","headers":{"User-Agent":["\\"status\\": 500"]}},"duration":%s,"status":%d}'
)
LINES = {
    "nginx": (b"poolwright 200 0.012", Request(False, 0.012)),
    "nginx, tried twice": (b"poolwright 502 0.1, 0.2 : 0.3", Request(True, 0.6)),
    "nginx, one not connected": (b"poolwright 200 -, 0.25 tail", Request(False, 0.25)),
    "nginx, by itself": (b"poolwright 404 -", None),
    "apache": (APACHE % (200, 12_500), Request(False, 0.0125)),
    "apache, failed": (APACHE % (503, 1_000_000), Request(True, 1.0)),
    "caddy": (CADDY % (b"0.25", 200), Request(False, 0.25)),
    "caddy, failed": (CADDY % (b"1e-3", 502), Request(True, 0.001)),
    "caddy, another logger": (b'{"logger":"tls","msg":"x","status":"on"}', "unreadable"),
    "caddy, its own news": (b'{"level":"info","logger":"admin","msg":"started"}', None),
}


@pytest.mark.parametrize("how", LINES)
def test_what_a_line_says(how):
    line, wanted = LINES[how]
    parse = getattr(log_lines, how.partition(",")[0])
    if wanted == "unreadable":
        with pytest.raises(Unreadable):
            parse(line)
        return
    found = parse(line)
    assert found == (wanted and pytest.approx(wanted))


@pytest.mark.parametrize(
    "line",
    [
        b"poolwright 200 0.1.2",
        b"poolwright 200 4000",
        b"poolwright 20 0.1",
        b"poolwright 200 1e5",
        b"poolwright 200 :",
        b"poolwright 200 " + b"9" * 200,
        APACHE % (200, 10**12),
        APACHE[:-3] % 200 + b"x",
        CADDY % (b"-1", 200),
        CADDY % (b"NaN", 200),
        CADDY % (b"1e999", 200),
        CADDY % (b'"0.1"', 200),
        b'{"logger":"http.log.access","status":200}',
        b"[" * 50_000,
        b'{"logger": "\xff", "status": 1}',
    ],
)
def test_what_is_no_line_is_unreadable(line):
    for parse in (log_lines.nginx, log_lines.apache, log_lines.caddy):
        with pytest.raises(Unreadable):
            parse(line)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_parser_raise_anything_else(line):
    custom, _ = parser(None, r"(?P<status>\S+) (?P<seconds>\S+)")
    for parse in (log_lines.nginx, log_lines.apache, log_lines.caddy, custom):
        with contextlib.suppress(Unreadable):
            found = parse(line)
            assert found is None or 0.0 <= found.took_s <= log_lines.MOST_S


@given(st.text('"\\ [x0', max_size=2000))
def test_no_line_takes_an_apache_parser_long(text):
    began = time.perf_counter()
    with contextlib.suppress(Unreadable):
        log_lines.apache(text.encode() * 30)
    assert time.perf_counter() - began < 0.5


async def test_a_pattern_of_the_operators(tmp_path):
    pattern = r"^(?P<status>\d+) \S+ rt=(?P<milliseconds>[\d.]+)$"
    async with log_in(tmp_path, pattern=pattern, time="service_time") as log:
        log.add(b"200 /\xff rt=12.5\n", b"500 / rt=7.5\n")
        seen = await log.read()
    assert seen["errors_rps"].value == 1.0
    assert seen["service_time_s"].value == pytest.approx(0.010)
    assert "latency_s" not in seen


async def test_a_pattern_that_would_backtrack_for_ever_is_linear(tmp_path):
    async with log_in(tmp_path, pattern=r"^(?:(?:a+)+)+b (?P<seconds>\d)$") as log:
        log.add((b"a" * 60_000 + b"!\n") * 3)
        began = time.perf_counter()
        seen = await log.read()
        assert time.perf_counter() - began < 0.5
    assert seen["throughput_rps"].status is Status.ERROR
    assert "errors_rps" not in seen, "nothing tells a status"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "needs listen or file"),
        ({"listen": "127.0.0.1:1", "file": "/x", "format": "nginx"}, "not both"),
        ({"listen": "127.0.0.1:1", "format": "nginx"}, "are for a file"),
        ({"file": "/x"}, "format and pattern: one"),
        ({"file": "/x", "format": "nginx", "pattern": "x"}, "format and pattern: one"),
        ({"file": "/x", "pattern": "("}, r"pattern: missing \)"),
        ({"file": "/x", "pattern": r"(?P<status>\d+)"}, "needs one of"),
        ({"file": "/x", "pattern": r"(?P<seconds>\d)(?P<x>\d)"}, "or no other group"),
        ({"file": "/x", "pattern": r"(?P<seconds>\d)(?=x)"}, "RE2"),
    ],
)
def test_what_makes_no_sense_is_refused(options, why):
    with pytest.raises(PolicyError, match=why):
        AccessLog.Options(**options)


def clients(port, count, each, answered, path="/"):
    """Threads that ask and count what they got."""

    def ask():
        for _ in range(each):
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            link.request("GET", path)
            answered.append(link.getresponse().status)
            link.close()

    made = [threading.Thread(target=ask) for _ in range(count)]
    for one in made:
        one.start()
    return made


async def counted(sensor, threads, between=lambda: None):
    """Totals of reads until the clients have ended and nothing more comes."""
    totals = Totals(sensor)
    totals.sketches = {"latency_s": []}
    await totals.read()
    for thread in threads():
        while thread.is_alive():
            await asyncio.sleep(0.05)
            await totals.read()
            between()
    for _ in range(8):
        await asyncio.sleep(0.1)
        await totals.read()
    return totals


@pytest.mark.e2e
async def test_a_real_nginx_is_counted_exactly_through_logrotate(tmp_path, gunicorn_service):
    """mv and USR1 as logrotate does it, many times under load: no request lost or counted twice."""
    service = gunicorn_service(workers=2)
    log = tmp_path / "nginx" / "web.log"
    log.parent.mkdir()
    nginx = Nginx(
        log.parent,
        f"access_log {log} poolwright;\n"
        f"location / {{ proxy_pass http://127.0.0.1:{service.port}; }}\n"
        "location /own { return 204; }",
        http="log_format poolwright 'poolwright $status $upstream_response_time';",
    )
    nginx.server.start()
    rotated = []

    def rotate():
        if len(rotated) < 10 and log.exists() and log.stat().st_size > 0:
            log.rename(log.with_name(f"web.log.{len(rotated)}"))
            nginx.server.signal(signal.SIGUSR1)
            rotated.append(1)

    sensor = AccessLog(AccessLog.Options(file=str(log), format="nginx"), "web")
    await sensor.start()
    answered, own = [], []
    try:
        totals = await counted(
            sensor,
            lambda: [
                *clients(nginx.port, 6, 60, answered, "/sleep?s=0.004"),
                *clients(nginx.port, 1, 20, own, "/own"),
            ],
            rotate,
        )
    finally:
        await sensor.close()
        nginx.server.kill()
    assert (len(answered), len(own), set(own)) == (360, 20, {204})
    assert len(rotated) >= 3
    assert totals.counts["throughput_rps"] == pytest.approx(360, abs=1e-6)
    sketch = totals.sketch("latency_s")
    assert sketch.count == 360
    assert sketch.mean > 0.004


@pytest.mark.e2e
async def test_a_real_caddy_is_counted_exactly(tmp_path, gunicorn_service):
    service = gunicorn_service(workers=2)
    caddy = Caddy(tmp_path, service.port)
    log = tmp_path / "access.json"
    config = json.loads(caddy.config.read_text())
    config["apps"]["http"]["servers"]["web"]["logs"] = {}
    config["logging"] = {
        "logs": {"default": {"writer": {"output": "file", "filename": str(log), "roll": False}}}
    }
    caddy.config.write_text(json.dumps(config))
    caddy.server.start()
    try:
        until(log.exists, 10.0, "Caddy has opened its log")
        sensor = AccessLog(AccessLog.Options(file=str(log), format="caddy"), "web")
        await sensor.start()
        answered = []
        totals = await counted(
            sensor, lambda: clients(caddy.port, 4, 25, answered, "/sleep?s=0.01")
        )
        await sensor.close()
    finally:
        caddy.server.kill()
    assert answered == [200] * 100
    assert totals.counts["throughput_rps"] == pytest.approx(100, abs=1e-6)
    assert totals.sketch("latency_s").mean > 0.01


@pytest.mark.e2e
async def test_a_real_apache_is_counted_exactly_whatever_clients_write(tmp_path, gunicorn_service):
    service = gunicorn_service(workers=2)
    apache = Apache(tmp_path, service.port)
    apache.server.start()
    sensor = AccessLog(AccessLog.Options(file=str(apache.access), format="apache"), "web")
    await sensor.start()
    odd = [
        {"User-Agent": 'a" 500 1 "b" "c" 1', "Referer": "\\"},
        {"User-Agent": "\\\\\\", "Referer": '"' * 300},
        {"User-Agent": "\xff\xfe [x]", "Authorization": "Basic IiAiOiBb"},
        {},
    ]

    def strange():
        for headers in odd * 10:
            link = http.client.HTTPConnection("127.0.0.1", apache.port, timeout=20)
            link.putrequest("GET", "/sleep?s=0.01&q=%22%5B\\x22]", skip_accept_encoding=True)
            for name, value in headers.items():
                link.putheader(name, value.encode("latin-1"))
            link.endheaders()
            answered.append(link.getresponse().status)
            link.close()

    answered = []
    threads = [threading.Thread(target=strange) for _ in range(2)]

    def begin():
        for one in threads:
            one.start()
        return threads

    try:
        totals = await counted(sensor, begin)
    finally:
        await sensor.close()
        apache.server.kill()
    assert answered == [200] * 80
    assert totals.counts["throughput_rps"] == pytest.approx(80, abs=1e-6)
    assert totals.counts["errors_rps"] == 0
    assert totals.sketch("latency_s").mean > 0.01
