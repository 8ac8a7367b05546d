"""The haproxy actuator on a real HAProxy, under real clients. Nothing here may fail a request."""

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

import pytest
from gunicorn_service import Load
from haproxy_service import HaproxyService
from server_table import Row, note
from started import free_port

from poolwright.actuators.haproxy import Haproxy
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, setting

pytestmark = pytest.mark.e2e

WAYS = ("socket", "agent", "page")


class Stand:
    """An HAProxy and an actuator of it, by one of the ways."""

    def __init__(self, folder, way="socket", moves=("maxconn",), step_timeout=8.0, **shape):
        self.agent = None if way == "socket" else f"127.0.0.1:{free_port()}"
        self.service = HaproxyService(folder, agent=self.agent, **shape)
        servers = tuple(f"s{n + 1}" for n in range(shape.get("servers", 1)))
        place = {
            "socket": {"socket": str(self.service.admin)},
            "agent": {"socket": str(self.service.user), "agent": self.agent},
            "page": {"url": self.service.url, "agent": self.agent},
        }[way]
        self.options = Haproxy.Options(
            backend="app", servers=servers, moves=moves, step_timeout=step_timeout, **place
        )
        self.made = Haproxy(self.options, "web")

    async def __aenter__(self):
        await asyncio.to_thread(self.service.start)
        return self.service, self.made

    async def __aexit__(self, *_):
        await self.made.close()
        await asyncio.to_thread(self.service.stop)


async def eventually(done, within_s):
    """Poll `done` until it is true."""
    end = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < end, f"not within {within_s} s"
        await asyncio.sleep(0.05)


async def level(made, knob="maxconn"):
    return (await made.read()).setting[knob]


async def of_another_epoch(made, before):
    """What is read once another process answers; in between, a tick may be without a read-back."""
    for _ in range(100):
        with contextlib.suppress(PlantFault):
            if (after := await made.read()).epoch != before.epoch:
                return after
        await asyncio.sleep(0.05)
    raise AssertionError(f"still {before.epoch}")


async def applied(made, tick=1, **levels):
    outcome = await made.apply(setting(**levels), tick)
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    return outcome


@pytest.mark.parametrize("way", WAYS)
async def test_grows_and_shrinks_under_load_without_losing_a_request(tmp_path, way):
    async with Stand(tmp_path, way, servers=2, maxconn=6) as (service, made):
        assert await level(made) == 6
        async with (
            Load(service.port, "/sleep?s=0.005", clients=12) as short,
            Load(service.port, "/sleep?s=0.5", clients=12) as long,
        ):
            for tick, wanted in enumerate((12, 1, 9, 2, 16, 3)):
                await applied(made, tick, maxconn=wanted)
                assert await level(made) == service.limit("s1") == service.limit("s2") == wanted
                await asyncio.sleep(0.3)
        assert not short.failed, short.outcomes
        assert not long.failed, long.outcomes
        assert short.outcomes["ok"] >= 100
        assert long.outcomes["ok"] >= 20
        row = service.rows()["BACKEND"]
        sent = short.outcomes["ok"] + long.outcomes["ok"] + 1  # the one of the start
        assert int(row["hrsp_2xx"]) >= sent
        assert int(row["hrsp_5xx"]) == int(row["econ"]) == int(row["eresp"]) == 0


@pytest.mark.parametrize("way", ["socket", "agent"])
async def test_a_shrink_cuts_nothing_and_queues_what_comes(tmp_path, way):
    async with Stand(tmp_path, way, maxconn=8) as (service, made):
        async with Load(service.port, "/sleep?s=1.5", clients=8) as load:
            await eventually(lambda: int(service.rows()["s1"]["scur"]) == 8, 3.0)
            outcome = await applied(made, maxconn=2)
            assert "connections above the limit are finished" in outcome.detail
            assert int(service.rows()["s1"]["scur"]) > 2
            await eventually(lambda: int(service.rows()["s1"]["scur"]) <= 2, 10.0)
            await eventually(lambda: int(service.rows()["BACKEND"]["qcur"]) > 0, 3.0)
        assert not load.failed, load.outcomes
        assert load.outcomes["ok"] >= 8


async def test_twice_is_once(tmp_path):
    async with Stand(tmp_path) as (service, made):
        await applied(made, maxconn=5)
        again = await applied(made, maxconn=5)
        assert again.took_s < 0.5
        assert service.limit() == 5


@pytest.mark.parametrize("way", WAYS)
async def test_another_hand_is_seen_and_its_level_stays(tmp_path, way):
    async with Stand(tmp_path, way, servers=2) as (service, made):
        await applied(made, maxconn=4)
        before = await made.read()
        assert service.ask("set maxconn server app/s2 9").strip() == ""
        for _ in range(4):
            seen = await made.read()
            assert (seen.setting, seen.epoch) == (setting(maxconn=9), before.epoch)
        assert seen.detail == "the servers differ: maxconn 4 of s1, maxconn 9 of s2"
        await asyncio.sleep(0.8)  # four of HAProxy's questions: no answer of ours puts it back
        assert service.limit("s2") == 9
        await applied(made, maxconn=4)
        assert (await made.read()).detail == ""


@pytest.mark.parametrize("way", WAYS)
async def test_a_reload_under_load_is_another_epoch_with_the_configured_level(tmp_path, way):
    async with Stand(tmp_path, way, maxconn=3) as (service, made):
        await applied(made, maxconn=7)
        before = await made.read()
        async with Load(service.port, "/sleep?s=0.05", clients=4) as load:
            await asyncio.sleep(0.3)
            await made.read()
            await asyncio.to_thread(service.reload)
            after = await of_another_epoch(made, before)
            assert after.setting == setting(maxconn=3)
        assert not load.failed, load.outcomes
        await applied(made, maxconn=7)
        assert (await made.read()).epoch == after.epoch


@pytest.mark.parametrize("way", WAYS)
async def test_a_killed_haproxy_is_a_fault_and_its_successor_another_epoch(tmp_path, way):
    async with Stand(tmp_path, way, maxconn=3, step_timeout=0.5) as (service, made):
        before = await made.read()
        await asyncio.to_thread(service.kill)
        with pytest.raises(PlantFault, match=r"\.sock|;csv"):
            await made.read()
        outcome = await made.apply(setting(maxconn=4), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert made.endpoint in outcome.detail
        await asyncio.to_thread(service.start)
        after = await made.read()
        assert after.setting == setting(maxconn=3)
        assert (after.epoch != before.epoch) or way == "page"  # a page without traffic cannot tell


async def test_servers_that_begin_apart_are_at_the_lowest_level_until_they_are_moved(tmp_path):
    async with Stand(tmp_path, servers=2, maxconn=5) as (service, made):
        assert await level(made) == 5
        apart = service.config.read_text().replace(
            "maxconn 5 weight 100", "maxconn 20 weight 100", 1
        )
        service.write = lambda: service.config.write_text(apart)
        await asyncio.to_thread(service.reload)
        assert (service.limit("s1"), service.limit("s2")) == (20, 5)
        await eventually(lambda: service.info().get("Stopping") == "0", 5.0)
        for _ in range(2):
            seen = await made.read()
            assert seen.setting == setting(maxconn=5)
            assert "the servers differ" in seen.detail
        await applied(made, maxconn=6)
        assert service.limit("s1") == service.limit("s2") == 6


async def test_a_reload_during_a_move_fails_the_move(tmp_path):
    async with Stand(tmp_path, "agent", maxconn=3) as (service, made):
        await made.read()
        service.ask("set server app/s1 agent-port 1")  # nobody is asked any more
        move = asyncio.create_task(made.apply(setting(maxconn=5), 1))
        await asyncio.sleep(0.3)
        assert not move.done()
        await asyncio.to_thread(service.reload)
        outcome = await move
        assert outcome.status is ActuationStatus.FAILED, outcome
        assert "began anew" in outcome.detail or "Connect" in outcome.detail, outcome.detail


@pytest.mark.parametrize("knob", ["maxconn", "weight"])
async def test_below_one_is_refused(tmp_path, knob):
    async with Stand(tmp_path, moves=("maxconn", "weight")) as (service, made):
        wanted = {"maxconn": 4, "weight": 100} | {knob: 0}
        outcome = await made.apply(setting(**wanted), 1)
        assert outcome.status is ActuationStatus.REFUSED
        assert f"{knob} 0" in outcome.detail
        assert service.limit() == 2


async def test_a_socket_that_may_only_read_is_refused_with_what_to_do(tmp_path):
    async with Stand(tmp_path) as (service, _):
        options = Haproxy.Options(backend="app", servers=("s1",), socket=str(service.user))
        made = Haproxy(options, "web")
        assert await level(made) == 2
        outcome = await made.apply(setting(maxconn=4), 1)
        assert outcome.status is ActuationStatus.REFUSED
        assert "Permission denied" in outcome.detail
        assert "level admin" in outcome.detail
        assert service.limit() == 2


async def test_a_server_without_a_limit_is_not_moved(tmp_path):
    async with Stand(tmp_path, maxconn=None) as (service, made):
        with pytest.raises(PlantFault, match="app/s1 has no maxconn"):
            await made.read()
        outcome = await made.apply(setting(maxconn=4), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert service.rows()["s1"]["slim"] in ("", "0")


async def test_what_is_not_there_is_named(tmp_path):
    async with Stand(tmp_path) as (service, _):
        for options, why in (
            ({"backend": "nobody", "servers": ("s1",)}, "No such proxy"),
            ({"backend": "app", "servers": ("s9",)}, "no server app/s9"),
            ({"backend": "fe", "servers": ("s1",)}, "no backend fe"),
        ):
            made = Haproxy(Haproxy.Options(socket=str(service.user), **options), "web")
            with pytest.raises(PlantFault, match=why):
                await made.read()


async def test_weight_is_absolute_also_where_per_cent_would_turn_the_server_off(tmp_path):
    async with Stand(tmp_path, moves=("weight",), servers=2, weight=1) as (service, made):
        assert await level(made, "weight") == 1
        for wanted in (50, 256, 1):
            await applied(made, weight=wanted)
            assert service.rows()["s2"]["uweight"] == str(wanted)
        outcome = await made.apply(setting(weight=257), 1)
        assert outcome.status is ActuationStatus.REFUSED


async def test_a_static_algorithm_refuses_weights_in_words(tmp_path):
    async with Stand(tmp_path, moves=("weight",), balance="static-rr") as (_, made):
        outcome = await made.apply(setting(weight=50), 1)
        assert outcome.status is ActuationStatus.REFUSED
        assert "leastconn" in outcome.detail


async def test_both_knobs_in_one_move(tmp_path):
    async with Stand(tmp_path, "agent", moves=("weight", "maxconn")) as (service, made):
        assert made.knobs == ("maxconn", "weight")
        for wanted in (37, 99, 1, 256):
            await applied(made, maxconn=wanted, weight=wanted)
            row = service.rows()["s1"]
            assert (row["slim"], row["uweight"]) == (str(wanted), str(wanted))


async def test_a_weight_that_per_cent_cannot_say_is_refused_not_rounded(tmp_path):
    async with Stand(tmp_path, "agent", moves=("weight",), weight=256) as (service, made):
        outcome = await made.apply(setting(weight=1), 1)
        assert outcome.status is ActuationStatus.REFUSED
        assert "weight 100" in outcome.detail
        assert service.rows()["s1"]["uweight"] == "256"


async def test_an_agent_that_is_not_asked_says_so(tmp_path):
    async with Stand(tmp_path, "agent", step_timeout=0.8) as (service, made):
        service.ask("set server app/s1 agent-port 1")
        await asyncio.sleep(0.3)
        outcome = await made.apply(setting(maxconn=5), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert "agent-check" in outcome.detail
        assert service.limit() == 2


async def test_an_address_that_is_taken_is_told_and_fails_the_move(tmp_path):
    stand = Stand(tmp_path, "agent")
    host, _, port = stand.agent.rpartition(":")
    with socket.create_server((host, int(port))):
        async with stand as (_, made):
            seen = await made.read()
            assert seen.setting == setting(maxconn=2)
            assert stand.agent in seen.detail
            outcome = await made.apply(setting(maxconn=5), 1)
            assert outcome.status is ActuationStatus.FAILED
            assert stand.agent in outcome.detail


async def test_connections_that_hang_do_not_keep_haproxy_from_its_answer(tmp_path):
    stand = Stand(tmp_path, "agent")
    async with stand as (service, made):
        await made.read()
        host, _, port = stand.agent.rpartition(":")
        hung = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
        for _, writer in hung:
            with contextlib.suppress(OSError):
                writer.write(b"x" * 100_000)
        await applied(made, maxconn=5)
        assert service.limit() == 5
        for _, writer in hung:
            writer.close()
        assert len(made._agent._links) <= 64


_CHILD = """
import asyncio, sys
from poolwright.actuators.haproxy import Haproxy
from poolwright.core.model import setting
async def main():
    made = Haproxy(Haproxy.Options(backend="app", servers=("s1",), socket=sys.argv[1],
                                   agent=sys.argv[2]), "web")
    done = await made.apply(setting(maxconn=6), 1)
    print(done.status, done.detail, flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_when_the_daemon_is_gone_haproxy_keeps_the_level_and_the_server(tmp_path, end):
    stand = Stand(tmp_path, "agent")
    async with stand as (service, made):
        child = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-c", _CHILD, str(service.user), stand.agent],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            told = await asyncio.to_thread(child.stdout.readline)
            assert told.startswith("applied"), told
            async with Load(service.port, "/sleep?s=0.02", clients=4) as load:
                os.kill(child.pid, end)
                bad = ("L4CON", "L4TOUT", "L7TOUT", "L7RSP")
                await eventually(lambda: service.rows()["s1"]["agent_status"] in bad, 20.0)
                await asyncio.sleep(1.0)
            assert not load.failed, load.outcomes
            assert service.limit() == 6
            assert service.rows()["s1"]["status"] in ("no check", "UP")
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        assert await level(made) == 6  # the next daemon finds it, and answers in its place
        await applied(made, maxconn=4)


async def test_the_row_of_the_servers_page(tmp_path):
    async with Stand(tmp_path, servers=2, maxconn=4) as (service, made):
        version = service.info()["Version"]
        before = await made.read()
        took = []
        async with Load(service.port, "/sleep?s=0.01", clients=8) as load:
            for tick in range(20):
                began = time.perf_counter()
                await applied(made, tick, maxconn=2 + tick % 2 * 10)
                took.append(time.perf_counter() - began)
            service.ask("set maxconn server app/s1 5")
            hand = await made.read()
            assert (hand.setting, hand.epoch) == (setting(maxconn=5), before.epoch)
            await asyncio.to_thread(service.reload)
            reloaded = await of_another_epoch(made, before)
            assert reloaded.setting == before.setting
        assert not load.failed, load.outcomes
        await asyncio.to_thread(service.kill)
        with pytest.raises(PlantFault):
            await made.read()
        await asyncio.to_thread(service.start)
        again = await made.read()
        assert (again.setting, again.epoch != reloaded.epoch) == (before.setting, True)
        note(
            Row(
                kind="haproxy",
                server="HAProxy",
                version=version,
                reads="`slim` and `uweight` in `show stat`, over the socket or the statistics page",
                moves="`set maxconn server`, `set weight`, or the answer to `agent-check`",
                confirmed_s=(min(took), statistics.median(took), max(took)),
                on_reload="the configured level, another epoch; no request lost",
                on_crash="read-back fails naming the socket; the successor is another epoch",
                on_another_hand="the level is read at once and stays, epoch kept",
            )
        )
