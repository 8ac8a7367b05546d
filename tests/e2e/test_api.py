"""The API of a real daemon over a real gunicorn: what it says, to whom, and what it never does."""

import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from api_daemon import api_daemon
from gunicorn_service import until

from poolwright.journal.query import JournalReader
from poolwright.surface.connection import HEAD_S, MOST_HEAD_BYTES

pytestmark = pytest.mark.e2e

HOSTS = "allowed_hosts: [poolwright.example]\n"
POOL = "/api/v1/pools/web"
PAGES = (
    "/plain",
    "/metrics",
    "/healthz",
    "/readyz",
    "/api/v1/openapi.json",
    "/api/v1/status",
    "/api/v1/status/web",
    "/api/v1/events",
    f"{POOL}/history",
    f"{POOL}/decisions",
    f"{POOL}/decisions/1",
    f"{POOL}/surrogate",
    f"{POOL}/schedule",
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with api_daemon(tmp_path_factory.mktemp("api"), config=HOSTS, mode="recommend") as made:
        yield made


def ask(daemon, path, method="GET", body=None, **headers):
    """The status, the headers and the body; of a stream only its head is read."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)) as link:
        link.request(method, path, body, named)
        answer = link.getresponse()
        streams = answer.headers["Content-Type"] == "text/event-stream"
        return answer.status, answer.headers, b"" if streams else answer.read()


def test_schemathesis_finds_nothing(daemon, tmp_path):
    """As a user runs it, with all its checks. The stream of events, which has no end, is apart."""
    program = shutil.which("schemathesis", path=Path(sys.executable).parent)
    assert program, "schemathesis is missing: make .venv/.ready installs it"
    done = subprocess.run(
        [program, "run", f"{daemon.url}/api/v1/openapi.json", "--exclude-path", "/api/v1/events",
         "--seed", "1", "--max-examples", "15", "--no-color", "--request-timeout", "60"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested, done.stdout
    described = json.loads(ask(daemon, "/api/v1/openapi.json")[2])["paths"]
    assert int(tested[1]) == len(described) - 2, done.stdout  # nor does it test the description


def test_every_page_is_described(daemon):
    described = json.loads(ask(daemon, "/api/v1/openapi.json")[2])["paths"]
    asked = {re.sub(r"/(pools|status)/web", r"/\1/{pool}", path) for path in PAGES}
    asked = {path.replace("decisions/1", "decisions/{id}") for path in asked}
    assert set(described) == asked - {"/plain"}
    for path in PAGES:
        assert ask(daemon, path)[0] == 200, path


def test_a_decision_is_explained_as_the_command_explains_it(daemon):
    newest = daemon.page("/pools/web/decisions?from_s=0&limit=1")[0]["id"]
    command = [sys.executable, "-m", "poolwright", "explain", "web", "--decision", str(newest)]
    command += ["--journal", str(daemon.journal)]

    def same():
        """Windows that close between the two questions are told by the second."""
        told = daemon.page(f"/pools/web/decisions/{newest}")
        json_too = subprocess.run([*command, "--json"], capture_output=True, check=True)
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        assert told["id"] == newest
        return told == json.loads(json_too.stdout) and said.stdout.startswith(told["text"])

    until(same, 120.0, "both tell the same")


def test_events_are_the_ticks_as_they_happen(daemon):
    with closing(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)) as link:
        link.request("GET", "/api/v1/events")
        answer = link.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.readline() == b"retry: 2000\n"
        ticks = []
        while len(ticks) < 3:
            line = answer.readline()
            if line.startswith(b"data: "):
                ticks.append(json.loads(line[6:]))
    points = [tick["pools"][0] for tick in ticks]
    assert [point["tick"] for point in points] == list(
        range(points[0]["tick"], points[0]["tick"] + 3)
    )
    assert set(daemon.page("/pools/web/history")) - set(points[0]) <= {"from_s", "to_s", "step_s"}


def test_history_goes_on_where_the_journal_has_it(tmp_path):
    with api_daemon(tmp_path, mode="observe") as daemon:
        before = daemon.page("/pools/web/history")["time_s"]
        daemon.stop()
        daemon.start()
        until(
            lambda: daemon.page("/pools/web/history")["time_s"][0] <= before[0] + 1.0,
            60.0,
            "the charts begin where they began before the restart",
        )
        after = daemon.page("/pools/web/history")
    assert set(before[:-12]) <= set(after["time_s"])  # what was not yet in a batch may be lost
    assert any(value is not None for value in after["latency_p99_s"][: len(before) - 12])


@pytest.mark.parametrize("path", [*PAGES, "/"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:9817", "10.0.0.7", "127.0.0.1.x"])
def test_a_foreign_host_is_refused(daemon, path, host):
    status, headers, body = ask(daemon, path, Host=host)
    assert (status, headers["Content-Type"]) == (403, "application/problem+json")
    assert host in json.loads(body)["detail"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.9:80", "[::1]:9817", "::1",
             "poolwright.example:443", "Poolwright.Example"]
)  # fmt: skip
def test_names_of_our_own_are_answered(daemon, host):
    assert ask(daemon, "/metrics", Host=host)[0] == 200


CROSS = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "empty"}


@pytest.mark.parametrize("path", [*PAGES, "/"])
def test_a_request_of_another_site_is_refused(daemon, path):
    assert ask(daemon, path, **CROSS)[0] == 403
    assert ask(daemon, path, **CROSS | {"Sec_Fetch_Site": "same-site"})[0] == 403
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        assert ask(daemon, path, Origin=origin)[0] == 403
    own = {"Origin": daemon.url, "Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}
    assert ask(daemon, path, **own)[0] in (200, 404)


def test_a_link_leads_to_the_dashboard_and_nowhere_else(daemon):
    link = CROSS | {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask(daemon, "/", **link)[0] != 403
    assert ask(daemon, "/api/v1/status", **link)[0] == 403
    assert ask(daemon, "/", **link | {"Sec_Fetch_Dest": "iframe"})[0] == 403


def test_oversized_requests_are_refused(daemon):
    assert ask(daemon, f"/api/v1/status?{'x' * MOST_HEAD_BYTES}")[0] == 431
    assert ask(daemon, "/api/v1/status", X_Big="x" * MOST_HEAD_BYTES)[0] == 431
    assert ask(daemon, "/api/v1/status", body=b"x" * 10_000)[0] == 413


def test_a_slow_request_is_refused(daemon):
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=HEAD_S + 30) as link:
        link.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert link.makefile("rb").readline() == b"HTTP/1.1 408 Request Timeout\r\n"


def test_a_client_that_reads_no_events_is_hung_up_on_and_others_are_served(daemon):
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as link:
        link.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert link.recv(12) == b"HTTP/1.1 200"
        link.sendall(b"GET /api/v1/status HTTP/1.1\r\n")  # a stream is not talked to
        while link.recv(65536):
            pass
    assert ask(daemon, "/healthz")[0] == 200


def content(path):
    """Everything that a journal says of what was decided and asked, but for its newest ticks."""
    with JournalReader(path) as reader:
        rows = [row for row in reader.decisions() if row.commands]
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        kept = db.execute("SELECT pool, baseline, kept FROM pools").fetchall()
        return rows, kept, db.execute("SELECT policy FROM runs").fetchall()


def test_nothing_that_is_asked_over_tcp_changes_anything(daemon):
    files = {p: hashlib.sha256(p.read_bytes()).digest() for p in daemon.folder.rglob("*.yaml")}
    before, run = content(daemon.journal), daemon.page("/status/web")["run_id"]
    commands = [f"{POOL}/{what}" for what in ("pause", "resume", "pin", "rollback", "restore")]
    for path in (*PAGES, *commands, *(path.replace("/api", "") for path in commands)):
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
            status, headers, _ = ask(daemon, path, method, b"" if method == "POST" else None)
            assert status == (405 if path in PAGES else 404), (path, method)
            assert headers["Allow"] == ("GET, HEAD" if path in PAGES else None)
    assert content(daemon.journal) == before
    assert files == {p: hashlib.sha256(p.read_bytes()).digest() for p in files}
    status = daemon.page("/status/web")
    assert (status["run_id"], status["kept"]["phase"]) == (run, "warmup")
    assert status["tick"]["commands"] == []


def test_every_answer_says_what_a_browser_may_do_with_it(daemon):
    for path in (*PAGES, "/", "/nope"):
        headers = ask(daemon, path)[1]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for nowhere in ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
            assert nowhere in policy
