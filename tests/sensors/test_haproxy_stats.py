"""HAProxy's statistics from something that is no HAProxy, or a bad one. Never a wrong number."""

import asyncio
import re
import time

import pytest

from poolwright.core.errors import PolicyError
from poolwright.core.model import Status
from poolwright.sensors.haproxy import Haproxy
from poolwright.wire import haproxy as wire

INFO = "Name: HAProxy\nPid: 7\nStart_time_sec: 100\nStopping: 0\n\n"
HEAD = (
    "# pxname,svname,qcur,scur,stot,econ,eresp,mode,"
    "hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,\n"
)
ROWS = "app,s1,1,4,10,0,0,http,,,,,,\napp,BACKEND,2,7,10,0,0,http,9,0,0,1,0,\n\n"


def info(**changes):
    told = {"Name": "HAProxy", "Pid": "7", "Start_time_sec": "100", "Stopping": "0"} | changes
    return "".join(f"{key}: {text}\n" for key, text in told.items()) + "\n"


async def seen(tmp_path, *answers, timeout_s=1.0, hold=False):
    """The readings of one look after the other at a socket that answers so."""
    left = list(answers)

    async def serve(reader, writer):
        await reader.readline()
        answer = left.pop(0)
        try:
            for piece in [answer] if isinstance(answer, str) else answer:
                writer.write(piece.encode("latin-1"))
                await writer.drain()
            if hold:
                await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    path = str(tmp_path / "s")
    server = await asyncio.start_unix_server(serve, path)
    made = Haproxy(Haproxy.Options(backend="app", socket=path, timeout=timeout_s), "web")
    found = []
    try:
        for at in range(len(answers)):
            found.append({r.signal: r for r in await made.read((at + 1) * 10**9)})
    finally:
        server.close()
        await server.wait_closed()
    return found if len(found) > 1 else found[0]


async def test_a_good_answer_is_understood(tmp_path):
    later = ROWS.replace("http,9,0,0,1", "http,19,0,0,4")
    first, second = await seen(tmp_path, INFO + HEAD + ROWS, INFO + HEAD + later)
    assert first["queue_length"].value == 3.0
    assert first["in_flight"].value == 4.0
    assert first["throughput_rps"].status is Status.NO_DATA
    assert second["throughput_rps"].value == 13.0
    assert second["errors_rps"].value == 3.0


BROKEN = {
    "nothing": ("", "no backend app"),
    "another server": ("HTTP/1.1 400 Bad\r\n\r\n", "400"),
    "no such proxy": (INFO + "No such proxy.\n\n", "No such proxy"),
    "denied": ("Permission denied\n\n", "Permission denied"),
    "escape": (INFO + "\x1b[31mred\n", r"\?\[31mred"),
    "no backend": (INFO + HEAD + "app,s1,1,4,10,0,0,http,,,,,,\n\n", "no backend app"),
    "another backend": (INFO + HEAD + ROWS.replace("app", "apple"), "no backend app"),
    "no pid": ("Name: x\n\n" + HEAD + ROWS, "no Pid"),
    "stopping": (info(Stopping="1") + HEAD + ROWS, "process 7 is stopping"),
    "short row": (INFO + HEAD + ROWS.replace("app,s1,1,4,10,", "app,s1,"), "shorter than its head"),
    "cut": (INFO + HEAD + ROWS.rstrip()[:-4], "cut"),
    "quote": (INFO + HEAD + ROWS.replace(",s1,1,", ',s1,"1,'), "cannot be read"),
    "no number": (INFO + HEAD + ROWS.replace("BACKEND,2", "BACKEND,x"), "qcur of BACKEND is 'x'"),
    "negative": (INFO + HEAD + ROWS.replace("BACKEND,2", "BACKEND,-2"), "'-2', not a number"),
    "empty": (INFO + HEAD + ROWS.replace("http,9", "http,"), "hrsp_2xx of BACKEND is ''"),
    "huge": (INFO + HEAD + ROWS.replace("http,9", "http," + "9" * 30), "not a number"),
    "long line": (INFO + HEAD + "x" * 100_000, "a line of over"),
    "many": (INFO + HEAD + "app,s,,,,,,,,,,,,\n" * 5000 + "\n", "over 4096 servers"),
    "old columns": (INFO + HEAD.replace("qcur", "other") + ROWS, "qcur of s1"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_what_cannot_be_believed_is_an_error_that_says_why(tmp_path, how):
    answer, why = BROKEN[how]
    found = await seen(tmp_path, answer)
    for reading in found.values():
        assert reading.status is Status.ERROR
        assert reading.value is None
        assert str(tmp_path / "s") in reading.detail
    assert re.search(why, found["queue_length"].detail), found["queue_length"].detail


async def test_an_answer_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "MOST_BYTES", 1 << 20)
    endless = ("x" * 65_536 for _ in range(10_000))
    found = await seen(tmp_path, endless, timeout_s=10.0)
    assert "an answer of over 1048576 bytes" in found["queue_length"].detail


async def test_a_slow_answer_is_not_waited_for(tmp_path):
    began = time.monotonic()
    found = await seen(tmp_path, INFO + HEAD + ROWS, timeout_s=0.1, hold=True)
    assert time.monotonic() - began < 2.0
    assert "no answer within 0.1 s" in found["queue_length"].detail


async def test_another_process_counts_from_zero_also_when_it_has_counted_more(tmp_path):
    later = ROWS.replace("http,9,0,0,1", "http,30,0,0,2")
    _, second = await seen(
        tmp_path, INFO + HEAD + ROWS, info(Pid="8", Start_time_sec="101") + HEAD + later
    )
    assert second["throughput_rps"].value == 32.0
    assert second["throughput_rps"].estimated


async def test_processes_that_answer_in_turn_are_an_error(tmp_path):
    one = INFO + HEAD + ROWS
    other = info(Pid="8") + HEAD + ROWS.replace("http,9", "http,5")
    found = await seen(tmp_path, *([one, other] * 6))
    assert found[-1]["throughput_rps"].status is Status.ERROR
    assert "several processes" in found[-1]["throughput_rps"].detail


async def test_a_server_that_is_taken_away_is_no_restart(tmp_path):
    tcp = ROWS.replace("http,9,0,0,1,0", "tcp,,,,,")
    more = tcp.replace("app,BACKEND", "app,s2,0,2,500,0,0,tcp,,,,,,\napp,BACKEND")
    less = tcp.replace("s1,1,4,10", "s1,1,4,14")
    _, second = await seen(tmp_path, INFO + HEAD + more, INFO + HEAD + less)
    assert second["throughput_rps"].value == 4.0
    assert not second["throughput_rps"].estimated


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "`socket` or `url`"),
        ({"socket": "/s", "url": "http://h/s;csv"}, "one of them"),
        ({"url": "http://h/stats"}, "ends in ;csv"),
        ({"url": "https://h/stats;csv"}, "https"),
        ({"socket": "/s", "backend": "a;shutdown"}, "no name in HAProxy"),
        ({"socket": "/s", "backend": ""}, "no name in HAProxy"),
        ({"socket": "/s", "timeout": 0.0}, "above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, why):
    with pytest.raises(PolicyError, match=why):
        Haproxy.Options(**{"backend": "app"} | options)
