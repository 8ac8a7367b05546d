"""Parts of the API with a real client on loopback: routes, queries, events, files, the journal."""

import asyncio
import gzip
import json
import sqlite3

import journal_life
import msgspec
import pytest
import snapshots as make
import ticks
from asking import Client

from poolwright.journal.sqlite import SqliteJournal
from poolwright.surface import events as tested
from poolwright.surface import records as recorded
from poolwright.surface.api import ROUTES
from poolwright.surface.gate import gate
from poolwright.surface.http import Surface
from poolwright.surface.message import Request
from poolwright.surface.openapi import describe_api
from poolwright.surface.past import frames, histories
from poolwright.surface.pictures import surrogate
from poolwright.surface.records import Busy, Records
from poolwright.surface.static_files import StaticFiles

pytestmark = pytest.mark.e2e

POOL = "/api/v1/pools/web"


async def detail(client, path, status=400):
    answer = await client.get(path)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    return answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("pionts=3", "unknown key 'pionts'; did you mean 'points'?"),
        ("points=3&points=4", "points is given 2 times; once is enough"),
        ("points=0", "Expected `int` >= 1 - at `points`"),
        ("points=2001", "Expected `int` <= 2000 - at `points`"),
        ("points=many", "Expected `int`, got `str` - at `points`"),
        ("points=", "Expected `int`, got `str` - at `points`"),
        ("points", "the query cannot be read: bad query field: 'points'"),
        ("from_s=-1", "Expected `float` >= 0.0 - at `from_s`"),
        ("to_s=nan", "Expected `float` >= 0.0 - at `to_s`"),
        ("to_s=inf", "Expected `float` <= 100000000000.0 - at `to_s`"),
        ("from_s=null", "Expected `float`, got `str` - at `from_s`"),
        ("%ff=1", "the query cannot be read: 'utf-8' codec can't decode byte 0xff"),
    ],
)
async def test_a_query_that_is_not_understood_is_refused_with_a_line(client, query, said):
    assert (await detail(client, f"{POOL}/history?{query}")).startswith(said)


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/events", "/api/v1/openapi.json"])
async def test_where_nothing_can_be_asked_for_nothing_is_ignored(client, path):
    assert await detail(client, f"{path}?x=1") == "unknown key 'x'; none is allowed here"


async def test_a_pool_that_is_not_there_is_said_and_so_is_what_is_not_learned(client, world):
    for what in ("history", "decisions", "decisions/1", "surrogate", "schedule"):
        said = await detail(client, f"/api/v1/pools/mail/{what}", 404)
        assert said == "no pool 'mail'; there is web"
    world.snapshot = make.snapshot(make.blind_pool())
    for what in ("surrogate", "schedule"):
        said = await detail(client, f"{POOL}/{what}", 404)
        assert said == "nothing is learned of 'web' yet: its first plan is to come"


async def test_the_schedule_and_the_surrogate_are_the_plan_in_force(client, world):
    found = (await client.get(f"{POOL}/schedule")).json()
    assert [(row["load_low_rps"], row["setting"]["levels"]) for row in found] == [
        (0.0, [["workers", 4]]),
        (40.0, [["workers", 5]]),
    ]
    seen = make.pool_snapshot()
    drawn = surrogate(seen, seen.plan, [(seen.tick.wall_ns - 60 * 10**9, make.observation(4, 0.2))])
    assert drawn.levels == [3, 4, 5, 6, 7, 12, 60]
    assert (drawn.incumbent, drawn.probe, drawn.applied) == (5, 4, 5)
    assert drawn.safe == [False, True, True, True, True, False, False]
    band = drawn.responses["latency_p99_s"]
    assert band.mean[0] == 0.287
    assert band.low[0] < band.mean[0] < band.high[0]
    (window,) = drawn.observed
    assert (window.level, window.age_s) == (4, 60.0)
    assert window.latency_p99_s == pytest.approx(0.2)


async def read_events(address, count):
    """The data of so many events, and the writer of the connection."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"text/event-stream" in head
    found = []
    while len(found) < count:
        line = await reader.readline()
        if line.startswith(b"data: "):
            found.append(json.loads(line[6:]))
    return found, reader, writer


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what a server does is not told
            await asyncio.sleep(0.01)


async def test_an_event_tells_the_newest_tick_at_once(surface, world):
    world.snapshot = make.snapshot(make.busy_pool())
    surface.published(world.snapshot)
    (told,), _, writer = await read_events(surface.address, 1)
    assert told["pools"][0]["tick"] == 412
    assert told["pools"][0]["wanted"] == 4  # what is advised
    writer.close()


async def test_there_are_only_so_many_listeners_and_a_place_is_free_again(surface, client):
    there = [await read_events(surface.address, 0) for _ in range(tested.MOST_CLIENTS)]
    said = await detail(client, "/api/v1/events", 503)
    assert said == "8 clients listen already; 2 s later may do"
    there[0][2].close()
    await until(lambda: len(surface._events._listeners) < tested.MOST_CLIENTS)
    _, _, writer = await read_events(surface.address, 0)
    for *_, one in (*there, (writer,)):
        one.close()


async def test_a_listener_that_does_not_keep_up_is_dropped(surface, world):
    names = [f"pool {i} {'x' * 2000}" for i in range(200)]
    world.snapshot = make.snapshot(*map(make.pool_snapshot, names))
    _, slow, writer = await read_events(surface.address, 0)
    slow._transport.pause_reading()
    for _ in range(200):  # 90 MB: more than all buffers between the two
        surface.published(world.snapshot)
        await asyncio.sleep(0)
        if not surface._events._listeners:
            break
    assert not surface._events._listeners
    writer.close()


async def test_silence_is_broken_by_a_comment(surface, monkeypatch):
    monkeypatch.setattr(tested, "BEAT_S", 0.05)
    _, reader, writer = await read_events(surface.address, 0)
    async with asyncio.timeout(20):
        while await reader.readline() != b": alive\n":
            pass
    writer.close()


async def test_the_description_is_of_the_routes(client):
    described = (await client.get("/api/v1/openapi.json")).json()
    assert described == json.loads(msgspec.json.encode(describe_api(ROUTES)))
    assert described["openapi"] == "3.1.0"
    assert all(set(methods) == {"get"} for methods in described["paths"].values())
    for route in ROUTES:
        operation = described["paths"][f"/api/v1{route.path}"]["get"]
        told = {p["name"] for p in operation["parameters"] if p["in"] == "query"}
        assert told == {field.encode_name for field in msgspec.structs.fields(route.query)}


async def asked(files, file=None, **headers):
    named = {} if file is None else {"file": file}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(
        method="GET", path="", named=named, headers=headers, body=b"", connection=None
    )
    return files.index(request) if file is None else files.asset(request)


async def test_files_are_typed_compressed_and_known_by_their_content(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html>" + "x" * 1000)
    (tmp_path / "plot.0123456789ab.js").write_text("let a = 1;" * 100)
    (tmp_path / "secret").write_text("no")
    files = StaticFiles(tmp_path)
    page = await asked(files)
    assert (page.status, page.content_type) == (200, "text/html; charset=utf-8")
    assert dict(page.headers)["Cache-Control"] == "no-cache"
    packed = await asked(files, accept_encoding="br, gzip;q=0.5")
    assert gzip.decompress(packed.body) == page.body
    assert dict(packed.headers)["Content-Encoding"] == "gzip"
    assert dict(packed.headers)["Vary"] == dict(page.headers)["Vary"] == "Accept-Encoding"
    tags = {dict(one.headers)["ETag"] for one in (page, packed)}
    assert len(tags) == 2
    assert (await asked(files, accept_encoding="gzip;q=0")).body == page.body
    again = await asked(files, if_none_match=f'"x", {dict(page.headers)["ETag"]}')
    assert (again.status, again.body) == (304, b"")
    script = await asked(files, "plot.0123456789ab.js")
    assert "immutable" in dict(script.headers)["Cache-Control"]
    for nothing in ("secret", "../index.html", "..", "nope.js", "index.html/", "/etc/passwd"):
        assert (await asked(files, nothing)).status == 404, nothing


def knocks(bound, listen, *allowed, **headers):
    """Whether a request gets in."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(method="GET", path="/metrics", headers=named, body=b"", connection=None)
    return gate(listen, bound, allowed)(request) is None


def test_at_a_public_address_numbers_are_ours_and_names_only_when_told():
    for host in ("10.0.0.7:9817", "[2001:db8::1]:9817", "localhost", "box.example"):
        assert knocks("0.0.0.0", "box.example", host=host), host
    assert not knocks("0.0.0.0", "0.0.0.0", host="evil.example")
    assert not knocks("0.0.0.0", "0.0.0.0", host="10.0.0.7.evil.example")
    assert knocks("0.0.0.0", "0.0.0.0", "Board.Example", host="board.example:443")
    assert not knocks("127.0.0.1", "127.0.0.1", host="10.0.0.7")
    assert knocks("127.0.0.1", "127.0.0.1")  # HTTP/1.0


@pytest.fixture
def life(tmp_path):
    """A journal with the first minutes of a pool."""
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    policy = ticks.policy()
    steps = list(journal_life.simulated(policy, 200, workers=3, load_rps=lambda _: 8.0))
    journal_life.keep(journal, steps, policy)
    journal.close()
    return path, steps


@pytest.fixture
async def recalling(life, world):
    """A Surface with a journal behind it."""
    made = Surface(lambda: world.snapshot, mono_ns=lambda: world.mono_ns, journal=life[0])
    await made.start("127.0.0.1:0", None, world.command)
    yield Client(made.address)
    await made.close()


async def test_decisions_are_those_that_matter_newest_first(recalling, life):
    moved = [decision.tick for _, decision in life[1] if decision.moves]
    found = (await recalling.get(f"{POOL}/decisions?from_s=0&limit=1000")).json()
    assert [one["id"] for one in found] == sorted((one["id"] for one in found), reverse=True)
    assert [one["tick"] for one in found if "move" in one["kinds"]] == moved[::-1]
    assert all(set(one["kinds"]) - {"window", "plan"} for one in found)
    move = next(one for one in found if "move" in one["kinds"])
    assert move["from"] != move["setting"]
    assert move["reason_text"] != move["reason"]
    newest = (await recalling.get(f"{POOL}/decisions?from_s=0&limit=1")).json()
    assert newest == found[:1]
    assert (await recalling.get(f"{POOL}/decisions?from_s=5&to_s=6")).json() == []
    told = (await recalling.get(f"{POOL}/decisions/{move['id']}")).json()
    assert told["id"] == move["id"]
    assert told["text"]
    for number in ("0", "999999", "9" * 18, "9" * 30, "-1", "x", "%E2%91%A0"):
        said = await detail(recalling, f"{POOL}/decisions/{number}", 404)
        assert said.startswith("pool 'web' has no decision")


async def test_windows_are_drawn_from_the_journal(recalling):
    drawn = (await recalling.get(f"{POOL}/surrogate")).json()
    assert drawn["observed"]
    assert all(one["latency_p99_s"] > 0.0 for one in drawn["observed"])


async def test_a_journal_that_cannot_be_read_is_said_and_asked_again(recalling, life):
    life[0].rename(life[0].with_name("away"))
    assert "cannot read the journal" in await detail(recalling, f"{POOL}/decisions", 503)
    life[0].with_name("away").rename(life[0])
    assert (await recalling.get(f"{POOL}/decisions")).status == 200


async def test_a_question_that_takes_too_long_is_given_up(life, monkeypatch):
    monkeypatch.setattr(recorded, "LIMIT_S", 0.1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    asking = Records(life[0])
    with pytest.raises(Busy, match=r"did not answer within 0\.1 s"):
        await asking.ask(lambda reader: reader.db.execute(endless).fetchone())
    assert await asking.ask(lambda reader: len(reader.runs())) == 1
    with pytest.raises(Busy, match="readonly"):
        await asking.ask(lambda reader: reader.db.execute("DELETE FROM runs"))
    asking.close()


async def test_too_many_questions_are_refused(life, monkeypatch):
    monkeypatch.setattr(recorded, "MOST_WAITING", 2)
    asking = Records(life[0])
    answers = await asyncio.gather(
        *(asking.ask(lambda reader: len(reader.runs())) for _ in range(5)), return_exceptions=True
    )
    assert answers[:2] == [1, 1]
    assert [type(answer) for answer in answers[2:]] == [Busy] * 3
    asking.close()


def test_the_past_of_a_journal_is_what_was_live(life):
    path, steps = life
    last_s = steps[-1][0].wall_ns / 1e9
    with recorded.JournalReader(path) as reader:
        found = histories(reader, "web", 0.0).answer(
            "web", ["workers"], last_s - 900.0, last_s, 2000
        )
        made = list(frames(reader, ["web"], last_s))
    assert len(found.time_s) == 200
    assert found.applied == [tick.applied.setting["workers"] for tick, _ in steps]
    assert found.commanded == [decision.setting["workers"] for _, decision in steps]
    assert [frame.level for frame in made] == [0, 0, 1, 2]
    assert len(made[0].buckets) == 8 * 200


def test_a_journal_of_the_schema_before_is_asked_without_its_index(life):
    path, _ = life
    db = sqlite3.connect(path)
    db.execute("DROP INDEX decisions_by_time")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with recorded.JournalReader(path) as reader:
        newest = reader.newest_decision("web")
        assert newest == reader.decisions("web")[-1]
