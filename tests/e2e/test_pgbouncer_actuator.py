"""The pgbouncer actuator on a real PgBouncer and PostgreSQL. No transaction may fail."""

import asyncio
import json
import signal
import statistics
import subprocess
import sys
import time

import pytest
from pgbouncer_service import PgBouncerService, finished, identity
from server_table import Row, note

from poolwright.actuators.pgbouncer import PgBouncer
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import ActuationStatus, setting

pytestmark = pytest.mark.e2e


@pytest.fixture
def pg():
    """Starts PgBouncers: `service = pg(default_pool_size=4)`; ended with the test."""
    started = []

    def start(**options):
        started.append(PgBouncerService(**options))
        return started[-1].start()

    yield start
    for service in started:
        service.stop()


@pytest.fixture
def actuator():
    """Makes actuators of a service; closed with the test."""
    made = []

    def make(service, **options):
        given = {"address": service.address, "user": "boss"} | options
        made.append(PgBouncer(PgBouncer.Options(**given), "db"))
        return made[-1]

    yield make
    for one in made:
        one._console.close()


async def level(made):
    return (await made.read()).setting["pool_size"]


async def moved(made, size):
    """How long the move took. AssertionError when it was not applied."""
    outcome = await made.apply(setting(pool_size=size), 1)
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    return outcome.took_s


async def until(done, within_s, what):
    """Poll what may be slow to ask without holding up the loop."""
    end = time.monotonic() + within_s
    while not await asyncio.to_thread(done):
        assert time.monotonic() < end, what
        await asyncio.sleep(0.05)


async def test_no_transaction_fails_through_grows_and_shrinks_under_load(pg, actuator):
    """And the row of docs/servers.md: confirmed times, reload, crash, another hand."""
    service = pg(default_pool_size=2)
    made = actuator(service)
    assert await level(made) == 2
    times = []
    bench = service.pgbench(clients=24, seconds=9)
    await until(lambda: service.backends() == 2, 10, "the clients are there")
    for size in (10, 3, 12, 2, 8, 5):
        times.append(await moved(made, size))
        assert await level(made) == service.size == size
        seen = await asyncio.to_thread(service.backends)
        assert seen <= size
        # grown because clients wait for it, or drained though none of them was ever idle
        await until(lambda size=size: service.backends() == size, 5, f"{size} are used")
        assert await asyncio.to_thread(service.backends, "own") == 0
    done, failed = await asyncio.to_thread(finished, bench)
    assert failed == 0
    assert done > 500
    assert (await made.read()).detail == ""

    before = await made.read()
    service.psql("SET default_pool_size = 7")
    by_hand = await made.read()
    assert (by_hand.setting, by_hand.epoch) == (setting(pool_size=7), before.epoch)
    assert "another hand" in by_hand.detail
    service.psql("RELOAD")
    reloaded = await made.read()
    assert reloaded.setting == setting(pool_size=2)
    assert reloaded.epoch != before.epoch
    assert "reloaded" in reloaded.detail
    await moved(made, 6)
    service.kill()
    with pytest.raises(PlantFault, match=r"\.s\.PGSQL"):
        await made.read()
    service.start()
    crashed = await made.read()
    assert crashed.setting == setting(pool_size=2)
    assert crashed.epoch not in {before.epoch, reloaded.epoch}
    assert "restarted" in crashed.detail
    (version,) = service.psql("SHOW VERSION")
    note(
        Row(
            kind="pgbouncer",
            server="PgBouncer",
            version=version[0].split()[-1],
            reads="SHOW CONFIG, SHOW DATABASES, SHOW POOLS on the admin console",
            moves="SET default_pool_size; RECONNECT where connections above it are never idle",
            confirmed_s=(min(times), statistics.median(times), max(times)),
            on_reload="RELOAD puts the file's size back: new epoch, taken over",
            on_crash="the file's size, new epoch, taken over",
            on_another_hand="SET by a person: MANUAL, same epoch",
        )
    )


async def test_set_alone_would_leave_the_connections_under_load(pg, actuator):
    """Why there is a RECONNECT; and applying again drains what another hand has left."""
    service = pg(default_pool_size=10)
    made = actuator(service)
    bench = service.pgbench(clients=24, seconds=6)
    await until(lambda: service.backends() == 10, 10, "ten are used")
    service.psql("SET default_pool_size = 4")
    await asyncio.sleep(1.2)
    assert service.backends() == 10
    seen = await made.read()
    assert seen.setting == setting(pool_size=4)
    assert seen.detail == "connections beyond the size: bench 6"
    await moved(made, 4)
    assert service.backends() == 4
    assert finished(bench)[1] == 0


async def test_a_database_whose_name_must_be_quoted_is_drained_too(pg, actuator):
    service = pg(default_pool_size=8)
    made = actuator(service)
    bench = service.pgbench(clients=16, seconds=4, database="my-db")
    await until(lambda: service.backends("my-db") == 8, 10, "eight are used")
    await moved(made, 3)
    assert service.backends("my-db") == 3
    assert finished(bench)[1] == 0


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_what_stays_busy_fails_the_move_and_is_not_ended(pg, actuator, mode):
    service = pg(default_pool_size=6, pool_mode=mode)
    made = actuator(service, drain_timeout=0.5)
    sql = "select pg_sleep(3)" if mode == "transaction" else "select 1"
    bench = service.pgbench(clients=6, seconds=4, sql=sql)
    await until(lambda: service.backends() == 6, 10, "six are busy")
    outcome = await made.apply(setting(pool_size=2), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert "bench 4; nothing busy was ended" in outcome.detail
    assert await level(made) == 2
    done, failed = await asyncio.to_thread(finished, bench)
    assert (failed, done >= 6) == (0, True)
    await moved(made, 2)
    assert service.backends() <= 2


async def test_a_reload_during_the_drain_fails_the_move(pg, actuator):
    service = pg(default_pool_size=6)
    made = actuator(service)
    await made.read()
    bench = service.pgbench(clients=6, seconds=3, sql="select pg_sleep(2)")
    await until(lambda: service.backends() == 6, 10, "six are busy")
    move = asyncio.create_task(made.apply(setting(pool_size=2), 1))
    await until(lambda: service.size == 2, 5, "set")
    service.psql("RELOAD")
    outcome = await move
    assert outcome.status is ActuationStatus.FAILED
    assert "another hand or a reload: we set 2, it is 6" in outcome.detail
    assert finished(bench)[1] == 0


async def test_a_reload_cannot_be_told_where_the_file_cannot_be_read(pg, actuator):
    service = pg(default_pool_size=4)
    made = actuator(service, config=str(service.folder / "nowhere.ini"))
    before = await made.read()
    await moved(made, 5)
    service.psql("RELOAD")
    for _ in range(2):
        seen = await made.read()
        assert (seen.setting, seen.epoch) == (setting(pool_size=4), before.epoch)
        assert "another hand (or a reload, which cannot be told: " in seen.detail
        assert "nowhere.ini: No such file" in seen.detail


async def test_a_reload_with_another_size_in_the_file_is_a_reload(pg, actuator):
    service = pg(default_pool_size=4)
    made = actuator(service)
    before = await made.read()
    await moved(made, 6)
    epochs = {before.epoch}
    # PgBouncer knows no comment behind a number, and falls back on its own default
    for line, size in ((9, 9), ("7 ; for the sale", 20), (5, 5)):
        service.write_config(default_pool_size=line)
        service.signal(signal.SIGHUP)
        await until(lambda size=size: service.size == size, 5, "reloaded")
        seen = await made.read()
        assert seen.setting == setting(pool_size=size)
        epochs.add(seen.epoch)
    assert len(epochs) == 4


async def test_over_tcp_with_a_password(pg, actuator, tmp_path):
    service = pg(auth_type="scram-sha-256")
    secret = tmp_path / "secret"
    secret.write_text("boss-secret\n")
    secret.chmod(0o600)
    made = actuator(service, address=service.tcp, password_file=str(secret))
    before = await made.read()
    await moved(made, 3)
    assert service.size == 3
    assert (await made.read()).epoch == before.epoch
    service.kill()
    service.start()
    assert (await made.read()).epoch != before.epoch
    secret.chmod(0o644)
    with pytest.raises(PlantFault, match="everybody may read"):
        await actuator(service, password_file=str(secret)).read()
    secret.chmod(0o600)
    secret.write_text("wrong")
    for given in ({"password_file": str(secret)}, {}):
        with pytest.raises(PlantFault, match=r"(password|SASL).*admin_users.*password_file"):
            await actuator(service, **given).read()


async def test_who_may_only_look_is_refused_and_told_what_to_do(pg, actuator):
    service = pg(default_pool_size=4)
    made = actuator(service, user="watcher")
    assert await level(made) == 4
    refused = await made.apply(setting(pool_size=5), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "admin access needed; name a user of admin_users" in refused.detail
    assert service.size == 4
    with pytest.raises(PlantFault, match="not allowed; name a user of admin_users"):
        await actuator(service, user="postgres").read()


_AS_ITS_USER = """
import asyncio, json, os, sys
import pg8000.native  # what is installed may be root's
from poolwright.actuators.pgbouncer import PgBouncer
from poolwright.core.model import setting
who = json.loads(sys.argv[2])
if who:
    os.setgroups([]); os.setgid(who["group"]); os.setuid(who["user"])
async def main():
    made = PgBouncer(PgBouncer.Options(address=sys.argv[1]), "db")
    done = await made.apply(setting(pool_size=5), 1)
    print(json.dumps([str(done.status), done.detail, (await made.read()).setting["pool_size"]]))
    await made.close()
asyncio.run(main())
"""


async def test_its_own_unix_user_needs_no_password(pg):
    service = pg(auth_type="scram-sha-256")
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _AS_ITS_USER, service.address, json.dumps(identity())],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == ["applied", "", 5]


async def test_what_would_move_nothing_is_refused(pg, actuator):
    service = pg(databases={"a": "pool_size=3", "b": "pool_size=4"})
    refused = await actuator(service).apply(setting(pool_size=5), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "each of a, b has a pool_size of its own" in refused.detail
    service = pg(max_db_connections=6)
    refused = await actuator(service).apply(setting(pool_size=7), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "max_db_connections or max_user_connections allows 6" in refused.detail
    assert service.size == 2
    service = pg(so_reuseport=1)
    refused = await actuator(service, address=service.tcp).apply(setting(pool_size=7), 1)
    assert refused.status is ActuationStatus.REFUSED
    assert "so_reuseport" in refused.detail


async def test_one_that_hangs_is_a_fault_within_a_second_and_is_met_again(pg, actuator):
    service = pg()
    made = actuator(service)
    before = await made.read()
    service.signal(signal.SIGSTOP)
    try:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(PlantFault, match="no answer within"):
                await made.read()
            assert time.monotonic() - began < 1.5
    finally:
        service.signal(signal.SIGCONT)
    after = await made.read()
    assert (after.epoch, after.setting) == (before.epoch, before.setting)


async def test_cancelled_while_it_hangs_nothing_is_set_later(pg, actuator):
    service = pg()
    made = actuator(service)
    await made.read()
    service.signal(signal.SIGSTOP)
    try:
        move = asyncio.create_task(made.apply(setting(pool_size=8), 1))
        await asyncio.sleep(0.2)
        move.cancel()
        await asyncio.wait([move])
        assert move.cancelled()
    finally:
        service.signal(signal.SIGCONT)
    assert await level(made) == service.size == 2
    assert (await made.read()).detail == ""


async def test_without_pg8000_it_says_what_to_install(pg, actuator, monkeypatch):
    monkeypatch.setitem(sys.modules, "pg8000.native", None)
    with pytest.raises(PlantFault, match=r"pip install 'poolwright\[pgbouncer\]'"):
        await actuator(pg()).read()


def test_what_is_no_address_is_refused():
    for wrong in ("6432", "unix:relative", "[::1]", "host:0", ":1", "unix:"):
        with pytest.raises(PolicyError, match=r"is no address such as 127\.0\.0\.1:6432"):
            PgBouncer.Options(address=wrong)
