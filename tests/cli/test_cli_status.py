"""`poolwright status` against a real Surface, and against what is none."""

import asyncio
import json
import socket
import sys
import threading
from pathlib import Path

import pytest

from poolwright.cli.main import main
from poolwright.surface.http import Surface

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import snapshots as make

pytestmark = pytest.mark.e2e


class Served:
    """A Surface in a thread of its own, for the command blocks."""

    def __init__(self):
        self.snapshot = make.snapshot()
        self.age_s = 0.0
        self.loop = asyncio.new_event_loop()
        self.surface = Surface(lambda: self.snapshot, mono_ns=self.mono_ns)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.call(self.surface.start("127.0.0.1:0", None, lambda _pool, _command: ""))
        self.url = f"http://{self.surface.address}"

    def mono_ns(self):
        return self.snapshot.pools[0].tick.mono_ns + int(self.age_s * 1e9)

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def close(self):
        self.call(self.surface.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def served():
    made = Served()
    yield made
    made.close()


GOLDEN = """\
poolwright 0.1.0, 2026-11-21 07:06:52 UTC, up 6.87 min

pool  phase           applied    wanted     load  p50    p99     cpu        power  why
web   explore (auto)  workers=5  workers=5  48/s  51 ms  158 ms  1.1 cores  31 W   \
measuring this setting

web
  benefit  not measured: tuning was never compared with the baseline
  policy   balanced, mode auto, sha256 9f2c9f2c9f2c
"""


def test_a_pool_that_is_well(served, capsys):
    assert main(["status", "--url", served.url]) == 0
    assert capsys.readouterr().out == GOLDEN


def test_everything_that_is_wrong_is_said(served, capsys):
    served.snapshot = make.snapshot(
        make.pool_snapshot(), make.blind_pool("mail"), journal_error="disk full"
    )
    served.age_s = 9.0
    assert main(["status", "--url", served.url + "/"]) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("!")] == [
        "! web: the newest tick is 9.0 s old, 5 s allowed",
        "! journal: disk full",
        "! mail: its plant has not been seen yet",
        "! mail: the level cannot be read back: no such process 4711",
        "! mail: blind: latency_s not seen",
        f"! mail: sensor {make.TREE}: /run/web/gunicorn.pid: No such file",
    ]


BUSY = """\
web
  advice      5fbb3e2a: workers=5 -> workers=4, expected gain 12 % ± 7.8 % (95 %), P(safe) 0.97: \
this is the best safe setting known at this load
  to answer   `poolwright approve web 5fbb3e2a` or `poolwright reject web 5fbb3e2a --why TEXT`
  pinned      workers=5 until 2027-01-01 00:00:00 UTC by ann (pid 7): launch day \
(`poolwright unpin web`)
  override    pin workers=12 until 2027-01-01 00:00:00 UTC: launch day
  override    freeze: audit
  override    workers within 4..8 until 2027-01-01 00:00:00 UTC: small host
  not trying  the mode is recommend, quiet: Mon-Fri 09:00-10:00 Europe/Berlin, \
mail holds this host's experiment
"""
FIGURES = """\
  benefit     8 % (95 %: 3 % to 13 %), from 6 comparisons with the baseline
  budgets     probes 12.3 (20 an hour), time 90 s (3 min an hour), error budget 11.7 min \
(12 min an hour)
  burn rate   0.4 (short window) and 0.1 (long window); above 1 in both nothing is tried
  room        1.2 GB and 0.7 cores left of what all pools share
  policy      balanced, mode recommend, sha256 9f2c9f2c9f2c, from balanced.yaml, 10-site.yaml
"""


def test_all_that_stands_is_told(served, capsys):
    served.snapshot = make.snapshot(make.busy_pool())
    assert main(["status", "--url", served.url]) == 0
    assert capsys.readouterr().out.endswith(f"\n\n{BUSY}{FIGURES}")


def test_of_many_pools_only_what_a_person_must_know_is_told(served, capsys):
    served.snapshot = make.snapshot(make.pool_snapshot("mail"), make.busy_pool())
    assert main(["status", "--url", served.url]) == 0
    assert capsys.readouterr().out.endswith(f"\n\n{BUSY}")
    assert main(["status", "web", "--url", served.url]) == 0
    assert capsys.readouterr().out.endswith(f"\n\n{BUSY}{FIGURES}")


def test_a_refused_policy_is_told_last_and_is_trouble_for_every_pool(served, capsys):
    served.snapshot = make.snapshot(policy_error="a.yaml:1:1: one\nb.yaml:2:2: two")
    for words in (["status"], ["status", "web"]):
        assert main([*words, "--url", served.url]) == 1
        assert capsys.readouterr().out.endswith(
            "! the policy on disk is refused and the one before stays in force: a.yaml:1:1: one\n"
            "! b.yaml:2:2: two\n"
        )


def test_json_has_all_that_stands(served, capsys):
    served.snapshot = make.snapshot(make.busy_pool(), policy_error="a.yaml:1:1: one")
    assert main(["status", "--json", "--url", served.url]) == 1
    told = json.loads(capsys.readouterr().out)
    (pool,) = told["pools"]
    assert told["policy_error"] == "a.yaml:1:1: one"
    assert pool["decision"]["advice"]["id"] == "5fbb3e2a"
    assert pool["benefit"] == {"mean": 0.08, "lower": 0.03, "upper": 0.13, "count": 6}
    assert pool["kept"]["pin_why"] == "ann (pid 7): launch day"
    assert pool["tick"]["quiet"] == "Mon-Fri 09:00-10:00 Europe/Berlin"
    assert [o["reason"] for o in pool["tick"]["overrides"]] == [
        "launch day",
        "audit",
        "small host",
    ]


def test_only_the_pool_that_is_asked_for_counts(served, capsys):
    served.snapshot = make.snapshot(make.pool_snapshot(), make.blind_pool("mail"))
    assert main(["status", "web", "--url", served.url]) == 0
    assert "mail" not in capsys.readouterr().out
    assert main(["status", "mail", "--url", served.url]) == 1
    assert main(["status", "nope", "--url", served.url]) == 2
    assert capsys.readouterr().err == "there is no pool 'nope'; there is web, mail\n"


def test_json_is_the_answer_of_the_api(served, capsys):
    assert main(["status", "--json", "--url", served.url]) == 0
    assert json.loads(capsys.readouterr().out)["pools"][0]["pool"] == "web"
    assert main(["status", "web", "--json", "--url", served.url]) == 0
    assert json.loads(capsys.readouterr().out)["recent"]["p99_s"] == 0.158


def test_a_daemon_that_has_not_ticked_is_not_well(served, capsys):
    well = served.snapshot
    served.snapshot = None
    assert main(["status", "--url", served.url]) == 1
    assert capsys.readouterr().err == "no tick has been made yet\n"
    served.snapshot = well


def test_the_configuration_says_where(served, capsys, tmp_path):
    config = tmp_path / "poolwright.yaml"
    config.write_text(
        f"version: 1\nlisten: {served.surface.address}\npools:\n"
        "  - {name: web, actuator: {kind: gunicorn, pidfile: /x}, sensors: [{kind: host}]}\n"
    )
    assert main(["status", "--config", str(config)]) == 0
    assert "web" in capsys.readouterr().out
    config.write_text(config.read_text().replace(served.surface.address, "null"))
    assert main(["status", "--config", str(config)]) == 2
    assert "nobody to ask" in capsys.readouterr().err


def test_a_proxy_in_the_environment_is_not_asked(served, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert main(["status", "--url", served.url]) == 0


def test_a_dead_daemon_is_named(capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert main(["status", "--url", url]) == 3
    said = capsys.readouterr().err
    assert f"{url}/healthz: not reachable: [Errno 111] Connection refused" in said


@pytest.mark.parametrize("url", ["ftp://x", "file:///etc/passwd", "127.0.0.1:9817", "http://"])
def test_what_is_no_url_is_refused(url, capsys):
    assert main(["status", "--url", url]) == 2
    assert "not a URL such as http://127.0.0.1:9817" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>\xff..",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
)
def test_somebody_else_at_the_address_is_told_apart(answer, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_answer_all, args=(server, answer))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert main(["status", "--url", url]) == 3
        assert url in capsys.readouterr().err
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _answer_all(server, answer):
    """Give every client the same bytes, until the listener is shut."""
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            client.recv(4096)
            client.sendall(answer)
