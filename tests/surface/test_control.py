"""The UNIX socket: who may ask, what is understood, and whose file it is."""

import asyncio
import grp
import json
import os
import pwd
import socket
import stat
import subprocess
import sys

import pytest
import snapshots as make
import uvloop
from asking import Client

from poolwright.core.errors import PlantFault
from poolwright.core.model import Command, CommandKind, setting
from poolwright.surface.asked import BODIES
from poolwright.surface.control import ControlServer, peer_of

pytestmark = pytest.mark.e2e

ME = pwd.getpwuid(os.geteuid()).pw_name
NOBODY = 65534

# A peer of another user: leaves root's groups and uid, asks once, prints the answer's first line.
STRANGER = """
import os, socket, sys
path, uid, groups = sys.argv[1], int(sys.argv[2]), [int(g) for g in sys.argv[3].split(",") if g]
what = sys.argv[4].encode()
os.setgroups(groups); os.setgid(uid); os.setuid(uid)
body = b'{"why": "because"}'
with socket.socket(socket.AF_UNIX) as s:
    s.connect(path)
    s.sendall(b"%s HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
              b"Content-Length: %d\\r\\n\\r\\n%s" % (what, len(body), body))
    print(s.makefile("rb").readline().decode().strip())
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control.sock"


@pytest.fixture
async def asking(path, world):
    """A client of a running ControlServer."""
    server = ControlServer(str(path), world.command, world.latest)
    await server.start()
    yield Client(path)
    await server.close()


async def asked(client, url, body):
    answer = await client.request("POST", url, body)
    return answer.status, answer.json()


@pytest.mark.parametrize("kind", [CommandKind.PAUSE, CommandKind.RESUME])
async def test_a_request_becomes_a_command_with_who_and_why(asking, world, kind):
    status, said = await asked(asking, f"/v1/pools/web/{kind}", b'{"why": " deploy 4.2 "}')
    who = f"{ME} (pid {os.getpid()})"
    assert (status, said) == (202, {"pool": "web", "asked": kind.value, "who": who})
    assert world.commands == [("web", Command(kind=kind, who=who, why="deploy 4.2"))]


YEAR_2027_NS = 1_798_761_600_000_000_000


@pytest.mark.parametrize(
    ("kind", "body", "more", "said"),
    [
        ("unpin", {}, {}, {}),
        (
            "pin",
            {"setting": {"workers": 12}},
            {"setting": setting(workers=12)},
            {"setting": "workers=12"},
        ),
        (
            "pin",
            {"setting": {"workers": 12, "threads": 4}, "until": "2027-01-01T01:00:00.5+01:00"},
            {
                "setting": setting(threads=4, workers=12),
                "until_wall_ns": YEAR_2027_NS + 500_000_000,
            },
            {"setting": "threads=4 workers=12"},
        ),
        ("approve", {"advice": "5fbb3e2a"}, {"advice_id": "5fbb3e2a"}, {}),
        ("reject", {"advice": "5fbb3e2a"}, {"advice_id": "5fbb3e2a"}, {}),
        (
            "rollback",
            {"setting": {"workers": 3}},
            {"setting": setting(workers=3)},
            {"setting": "workers=3"},
        ),
        ("rollback", {"to": "baseline"}, {"setting": make.at(5)}, {"setting": "workers=5"}),
        ("rollback", {}, {}, {"setting": "workers=7"}),  # what was held before: the engine's word
    ],
)
async def test_each_command_has_its_body(asking, world, kind, body, more, said):
    world.snapshot = make.snapshot(make.pool_snapshot(previous=make.at(7)))
    text = json.dumps({"why": "launch", **body}).encode()
    status, answer = await asked(asking, f"/v1/pools/web/{kind}", text)
    who = f"{ME} (pid {os.getpid()})"
    assert (status, answer) == (202, {"pool": "web", "asked": kind, "who": who, **said})
    made = Command(kind=CommandKind(kind), who=who, why="launch", **more)
    assert world.commands == [("web", made)]


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("pause", {"advice": "5fbb3e2a"}, "unknown field `advice`"),
        ("pin", {}, "missing required field `setting`"),
        ("pin", {"setting": {}}, "`setting` names no knob"),
        ("pin", {"setting": {"workers": "12"}}, "Expected `int`, got `str`"),
        ("pin", {"setting": {"workers": 1.5}}, "Expected `int`, got `float`"),
        ("pin", {"setting": {"workers": True}}, "Expected `int`, got `bool`"),
        ("pin", {"setting": {"workers": -1}}, ">= 0"),
        ("pin", {"setting": {"workers": 2**31}}, "<= 2147483647"),
        ("pin", {"setting": {"\u001b[2J": 1}}, "`setting` is one line"),
        ("pin", {"setting": {"w": 1}, "until": "2027-01-01T00:00:00"}, "timezone"),
        ("pin", {"setting": {"w": 1}, "until": "tomorrow"}, "Invalid RFC3339"),
        ("pin", {"setting": {"w": 1}, "until": "9999-01-01T00:00:00Z"}, "the year 2262"),
        ("pin", {"setting": {"w": 1}, "for": "2h"}, "unknown field `for`"),
        ("approve", {}, "missing required field `advice`"),
        ("approve", {"advice": ""}, "`advice` is one line"),
        ("approve", {"advice": "x" * 101}, "`advice` is one line"),
        ("reject", {"advice": 7}, "Expected `str`, got `int`"),
        ("rollback", {"to": "yesterday"}, "Invalid enum value 'yesterday'"),
        ("rollback", {"to": "baseline", "setting": {"w": 1}}, "one is enough"),
        ("unpin", {"pool": "web"}, "unknown field `pool`"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_with_a_line(asking, world, kind, body, said):
    text = json.dumps({"why": "launch", **body}).encode()
    status, answer = await asked(asking, f"/v1/pools/web/{kind}", text)
    assert (status, answer["error"].count("\n")) == (400, 0)
    assert said in answer["error"]
    assert world.commands == []


async def test_what_the_engine_refuses_is_a_conflict_with_its_reason(asking, world):
    world.refusal = "workers=12 is outside 2..8"
    body = b'{"why": "x", "setting": {"workers": 12}}'
    answer = await asked(asking, "/v1/pools/web/pin", body)
    assert answer == (409, {"error": "workers=12 is outside 2..8"})


async def test_a_baseline_that_nobody_has_seen_is_not_gone_back_to(asking, world):
    world.snapshot = make.snapshot(make.blind_pool())
    for pool in ("web", "mail"):
        answer = await asked(
            asking, f"/v1/pools/{pool}/rollback", b'{"why": "x", "to": "baseline"}'
        )
        assert answer == (409, {"error": f"the baseline of pool '{pool}' is not known"})
    assert world.commands == []


async def test_the_advice_in_force_can_be_asked(asking, world):
    answer = await asking.get("/v1/pools/web/advice")
    assert (answer.status, answer.json()) == (200, {"advice": None})
    world.snapshot = make.snapshot(make.busy_pool())
    answer = await asking.get("/v1/pools/web/advice")
    assert answer.json()["advice"]["id"] == make.advice().id
    answer = await asking.get("/v1/pools/mail/advice")
    assert (answer.status, answer.json()) == (404, {"error": "no pool 'mail' has been seen"})
    world.snapshot = None
    assert (await asking.get("/v1/pools/web/advice")).status == 404


@pytest.mark.parametrize("kind", BODIES)
async def test_an_unknown_pool_is_said(asking, kind):
    body = b'{"why": "x", "setting": {"workers": 1}}' if kind == "pin" else b'{"why": "x"}'
    body = b'{"why": "x", "advice": "1"}' if kind in ("approve", "reject") else body
    answer = await asked(asking, f"/v1/pools/mail/{kind}", body)
    assert answer == (404, {"error": "no pool 'mail'"})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"why": 1}',
        b'{"why": null}',
        b'{"why": "  "}',
        b'{"why": "a\\nb"}',
        b'{"why": "\\u001b[2J"}',
        b'{"why": "x", "pin": 3}',
        b'{"why": "\xff"}',
        json.dumps({"why": "x" * 501}).encode(),
    ],
)
async def test_what_is_not_understood_is_refused(asking, world, body):
    status, said = await asked(asking, "/v1/pools/web/pause", body)
    assert status == 400
    assert said["error"]
    assert world.commands == []


async def test_a_long_body_is_refused(asking, world):
    answer = await asking.request("POST", "/v1/pools/web/pause", b"x" * 5000)
    assert answer.status == 413
    assert world.commands == []


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/v1/pools/web/pause", 405),
        ("POST", "/v1/pools/web/restore", 404),
        ("POST", "/v1/pools/web", 404),
        ("GET", "/metrics", 404),
    ],
)
async def test_nothing_else_is_served(asking, world, method, url, status):
    answer = await asking.request(method, url, b'{"why": "x"}')
    assert answer.status == status
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Allow"] == ("POST" if status == 405 else None)
    assert world.commands == []


async def test_only_the_owner_and_its_group_may_connect(asking, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


PAUSE = "POST /v1/pools/web/pause"


async def stranger(path, groups="", what=PAUSE):
    """The first line that nobody gets from the server, with these supplementary groups."""
    path.parent.chmod(0o755)
    path.chmod(0o666)
    for folder in path.parents:
        if folder.owner() == ME and folder.stat().st_mode & 0o077 == 0:
            folder.chmod(0o711)
    args = (sys.executable, "-c", STRANGER, str(path), str(NOBODY), groups, what)
    made = await asyncio.create_subprocess_exec(*args, stdout=subprocess.PIPE)
    async with asyncio.timeout(20):
        return (await made.communicate())[0].decode().strip()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    "what", [*(f"POST /v1/pools/web/{kind}" for kind in BODIES), "GET /v1/pools/web/advice"]
)
async def test_a_stranger_is_refused_even_where_the_file_lets_it_in(asking, path, world, what):
    assert await stranger(path, what=what) == "HTTP/1.1 403 Forbidden"
    assert world.commands == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_member_of_the_group_is_let_in(path, world):
    gid = grp.getgrnam("daemon").gr_gid
    server = ControlServer(str(path), world.command, world.latest, "daemon")
    await server.start()
    assert path.stat().st_gid == gid
    assert await stranger(path) == "HTTP/1.1 403 Forbidden"
    assert await stranger(path, f"100,{gid}") == "HTTP/1.1 202 Accepted"
    assert [(p, c.who.split(" (")[0], c.why) for p, c in world.commands] == [
        ("web", pwd.getpwuid(NOBODY).pw_name, "because")
    ]
    await server.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_more_groups_than_can_be_read_are_taken_from_the_user_database(path, world):
    server = ControlServer(str(path), world.command, world.latest, "daemon")
    await server.start()
    gid = grp.getgrnam("daemon").gr_gid
    groups = ",".join(map(str, [*range(70_000, 71_000), gid]))
    assert await stranger(path, groups) == "HTTP/1.1 403 Forbidden"  # not a member by name
    await server.close()


def test_an_unknown_group_is_named(path):
    with pytest.raises(PlantFault, match="there is no group 'no-such-group'"):
        ControlServer(str(path), lambda _pool, _command: "", lambda: None, "no-such-group")


def test_the_kernel_says_who_a_peer_is():
    here, there = socket.socketpair()
    with here, there:
        peer = peer_of(here)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert set(os.getgroups()) | {os.getegid()} == set(peer.gids)


def bound(path):
    """A socket file, and who listens on it."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    return made


async def test_a_file_that_a_dead_daemon_left_is_replaced(path, world):
    bound(path).close()
    old = path.stat().st_ino, path.stat().st_mtime_ns
    server = ControlServer(str(path), world.command, world.latest)
    await server.start()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) != old
    await server.close()
    assert not path.exists()


async def test_a_daemon_that_answers_is_left_alone(path, world):
    with bound(path) as other:
        other.listen()
        server = ControlServer(str(path), world.command, world.latest)
        with pytest.raises(PlantFault, match=r"control\.sock: another process answers there"):
            await server.start()
        await server.close()
        assert path.exists()


async def test_a_file_that_is_no_socket_is_left_alone(path, world):
    path.write_text("precious")
    with pytest.raises(PlantFault, match="it exists and is not a socket"):
        await ControlServer(str(path), world.command, world.latest).start()
    assert path.read_text() == "precious"


async def test_a_file_that_became_another_daemons_is_left_alone(path, world):
    first = ControlServer(str(path), world.command, world.latest)
    await first.start()
    path.rename(path.with_name("moved"))
    with bound(path):
        await first.close()
        assert path.exists()


async def test_a_path_that_is_too_long_is_named(tmp_path, world):
    long = tmp_path / ("x" * 120)
    with pytest.raises(PlantFault, match="AF_UNIX path too long"):
        await ControlServer(str(long), world.command, world.latest).start()


async def test_closing_twice_is_closing_once(path, world):
    server = ControlServer(str(path), world.command, world.latest)
    await server.close()
    await server.start()
    await server.close()
    await server.close()


def test_it_works_on_the_loop_that_the_daemon_uses(path, world):
    async def main():
        server = ControlServer(str(path), world.command, world.latest)
        await server.start()
        answer = await asked(Client(path), "/v1/pools/web/pause", b'{"why": "x"}')
        await server.close()
        return answer

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status, said = runner.run(main())
    assert (status, said["who"]) == (202, f"{ME} (pid {os.getpid()})")
    assert not path.exists()
