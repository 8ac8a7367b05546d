"""The TCP side with a real client on loopback."""

import asyncio
import socket

import msgspec
import pytest
import snapshots as make
from asking import Client

from poolwright.core.errors import PlantFault
from poolwright.engine.snapshot import PoolSnapshot, Snapshot
from poolwright.surface.asked import BODIES
from poolwright.surface.connection import MOST_HEAD_BYTES
from poolwright.surface.http import Surface, host_port
from poolwright.surface.server import MOST_CONNECTIONS

pytestmark = pytest.mark.e2e

PATHS = ("/plain", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/status/web")


async def got(client, path, **kwargs):
    answer = await client.get(path, **kwargs)
    return answer.status, answer.text


async def refused(client, path):
    """The status and the detail of a problem under /api/v1."""
    answer = await client.get(f"/api/v1{path}")
    assert answer.headers["Content-Type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == answer.status
    return said["status"], said["detail"]


@pytest.mark.parametrize("path", PATHS)
async def test_every_page_answers_and_is_not_kept(client, path):
    answer = await client.get(path)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in answer.headers
    head = await client.request("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Type"] == answer.headers["Content-Type"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_tcp_is_read_only(client, world, path, method):
    answer = await client.request(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert world.commands == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("what", [*BODIES, "restore", "advice"])
async def test_no_command_can_be_asked_over_tcp(client, world, method, what):
    for path in (f"/v1/pools/web/{what}", f"/api/v1/pools/web/{what}"):
        answer = await client.request(method, path)
        assert answer.status == 404
    answer = await client.request(method, f"/api/v1/status/web/{what}")
    assert answer.status == 404
    assert world.commands == []


@pytest.mark.parametrize("path", ["/nope", "/metrics/", "/api/v1", "/%2e%2e/etc/passwd"])
async def test_everything_else_is_not_found(client, path):
    assert (await got(client, path))[0] == 404


async def test_metrics_follow_the_accept_header(client):
    answer = await client.get("/metrics", headers={"Accept": "text/plain"})
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    wanted = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = await client.get("/metrics", headers=wanted)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_published_ticks_reach_the_histogram(client, surface, world):
    surface.published(world.snapshot)
    line = 'poolwright_tick_duration_seconds_count{pool="web"} 1.0'
    assert line in (await got(client, "/metrics"))[1]


@pytest.mark.parametrize(("age_s", "status"), [(0.0, 200), (4.9, 200), (5.0, 503), (600.0, 503)])
async def test_health_is_that_ticks_are_recent(client, world, age_s, status):
    world.mono_ns += int(age_s * 1e9)
    code, text = await got(client, "/healthz")
    assert code == status
    assert (text == "ok\n") == (status == 200)
    if status == 503:
        assert text == f"web: the newest tick is {age_s:.1f} s old, 5 s allowed\n"


async def test_one_pool_that_stands_still_is_enough(client, world):
    old = make.pool_snapshot("mail", tick=make.tick(400))
    world.snapshot = make.snapshot(make.pool_snapshot("web"), old)
    code, text = await got(client, "/healthz")
    assert (code, text) == (503, "mail: the newest tick is 12.0 s old, 5 s allowed\n")


async def test_before_the_first_tick_nothing_is_claimed(client, world):
    world.snapshot = None
    for path in ("/healthz", "/readyz"):
        assert await got(client, path) == (503, "no tick has been made yet\n")
    for path in ("/status", "/status/web", "/pools/web/history"):
        assert await refused(client, path) == (503, "no tick has been made yet")
    assert (await got(client, "/metrics"))[0] == 200
    assert "no tick has been made yet" in (await got(client, "/plain"))[1]


async def test_ready_when_every_pool_was_seen_once(client, world):
    world.snapshot = make.snapshot(make.pool_snapshot("web"), make.blind_pool("mail"))
    assert await got(client, "/readyz") == (503, "not seen yet: mail\n")
    world.snapshot = make.snapshot(make.pool_snapshot("web", tick=make.tick(applied=None)))
    assert await got(client, "/readyz") == (200, "ready\n")


async def test_the_status_is_the_whole_snapshot(client, world):
    _, text = await got(client, "/api/v1/status")
    assert msgspec.json.decode(text, type=Snapshot) == world.snapshot
    _, text = await got(client, "/api/v1/status/web")
    assert msgspec.json.decode(text, type=PoolSnapshot) == world.snapshot.pools[0]
    assert await refused(client, "/status/mail") == (404, "no pool 'mail'; there is web")


async def test_the_page_runs_no_script_and_escapes(client, world):
    world.snapshot = make.snapshot(
        make.pool_snapshot(
            "<script>x</script>", decision=make.hold(detail="<img src=x>", advice=make.advice())
        ),
        journal_error="<b>disk</b> full",
    )
    _, text = await got(client, "/plain")
    for bad in ("<script", "<img", "<b>disk"):
        assert bad not in text
    assert "&lt;script&gt;x&lt;/script&gt;" in text
    assert 'href="/api/v1/status/%3Cscript%3Ex%3C%2Fscript%3E"' in text
    assert "journal: &lt;b&gt;disk&lt;/b&gt; full" in text
    assert "measuring this setting: &lt;img src=x&gt; (advice: workers=4)" in text


async def test_the_page_tells_what_stands_and_what_is_refused(client, world):
    world.snapshot = make.snapshot(
        make.busy_pool(), policy_error="10-site.yaml:3:5: workers: min 9 > max 4"
    )
    _, text = await got(client, "/plain")
    for said in (
        "<li>the policy on disk is refused and the one before stays in force: 10-site.yaml:3:5",
        "expected gain 12 % ± 7.8 % (95 %), P(safe) 0.97",
        "poolwright approve web 5fbb3e2a",
        "override</dt>",
        "Mon-Fri 09:00-10:00 Europe/Berlin",
        "8 % (95 %: 3 % to 13 %), from 6 comparisons with the baseline",
        "from balanced.yaml, 10-site.yaml",
    ):
        assert said in text, said


async def test_big_requests_are_refused(client):
    too_much = "x" * MOST_HEAD_BYTES
    assert (await client.get("/healthz", headers={"X-Big": too_much})).status == 431
    assert (await client.get(f"/healthz?{too_much}")).status == 431
    assert (await client.get("/healthz", body=b"x" * 100)).status == 413


@pytest.mark.parametrize("name", ["a/b", "ü p%", "{pool}"])
async def test_a_pool_of_any_name_has_its_page(client, world, name):
    world.snapshot = make.snapshot(make.pool_snapshot(name))
    _, text = await got(client, "/plain")
    link = text.partition('href="/api/v1/status/')[2].partition('"')[0]
    status, text = await got(client, f"/api/v1/status/{link}")
    assert (status, msgspec.json.decode(text, type=PoolSnapshot).pool) == (200, name)


async def test_garbage_does_not_hurt(surface, client):
    host, port = host_port(surface.address)
    for garbage in (b"\x16\x03\x01\x00\xa5", b"GET\r\n\r\n", b"\x00" * 9000 + b"\r\n\r\n"):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(garbage)
        writer.write_eof()
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert not answer or b" 400 " in answer.split(b"\r\n")[0]
        writer.close()
        await writer.wait_closed()
    assert (await got(client, "/healthz"))[0] == 200


async def test_idle_clients_cannot_use_up_the_file_descriptors(surface, client):
    host, port = host_port(surface.address)
    idle = [await asyncio.open_connection(host, port) for _ in range(3 * MOST_CONNECTIONS)]
    assert (await got(client, "/healthz"))[0] == 200
    async with asyncio.timeout(5):
        for reader, _ in idle[: 2 * MOST_CONNECTIONS]:  # the oldest made room
            assert await reader.read() == b""
    for _, writer in idle:
        writer.close()


async def test_a_taken_address_is_named_and_nothing_stays_open(world, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        made = Surface(lambda: world.snapshot)
        with pytest.raises(PlantFault, match=f"cannot listen on {address}: "):
            await made.start(address, str(tmp_path / "c.sock"), world.command)
    assert not (tmp_path / "c.sock").exists()


async def test_a_control_socket_that_cannot_be_made_closes_tcp_again(world, tmp_path):
    made = Surface(lambda: world.snapshot)
    where = str(tmp_path / "no" / "such" / "folder" / "c.sock")
    with pytest.raises(PlantFault, match=r"such/folder/c\.sock: No such file"):
        await made.start("127.0.0.1:0", where, world.command)
    with pytest.raises(ConnectionRefusedError):
        await Client(made.address).get("/healthz")


async def test_both_sides_may_be_left_out_and_close_is_idempotent(world):
    made = Surface(lambda: world.snapshot)
    await made.close()
    await made.start(None, None, world.command)
    assert made.address == ""
    await made.close()
    await made.close()


async def test_ipv6(world):
    made = Surface(lambda: world.snapshot, mono_ns=lambda: world.mono_ns)
    await made.start("[::1]:0", None, world.command)
    assert await got(Client(made.address), "/healthz") == (200, "ok\n")
    await made.close()


@pytest.mark.parametrize(
    "listen", ["", "9817", ":9817", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "h:70000", "::1:9817"]
)
def test_an_address_of_another_form_is_refused(listen):
    with pytest.raises(PlantFault, match="not of the form host:port"):
        host_port(listen)
