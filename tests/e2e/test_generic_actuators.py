"""The actuators `command`, `http` and `file` on real servers under real clients, and their rows for
docs/servers.md. Nothing here may fail a request.
"""

import asyncio
import re
import signal
import statistics

import pytest
from generic_services import Caddy, Haproxy, Nginx, PhpFpm
from gunicorn_service import Load, until
from plant import kind_of
from plant_command import command_options
from plant_file import file_options
from plant_http import http_options
from server_table import Row, note

from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, setting

pytestmark = pytest.mark.e2e

LEVELS = (5, 2, 6, 1, 4, 2)


async def level(made):
    return (await made.read()).setting["workers"]


async def moved_under_load(made, port, path, count, clients=12):
    """Go through LEVELS while clients ask; the seconds that each move took. No request may fail."""
    took = []
    async with Load(port, path, clients=clients) as load:
        for wanted in LEVELS:
            outcome = await made.apply(setting(workers=wanted), 1)
            assert outcome.status is ActuationStatus.APPLIED, outcome.detail
            assert await level(made) == wanted
            assert count() == wanted
            took.append(outcome.took_s)
            seen = load.outcomes["ok"]
            until_more = asyncio.get_running_loop().time() + 20
            while load.outcomes["ok"] < seen + 10:  # served at this level too
                assert asyncio.get_running_loop().time() < until_more, load.outcomes
                await asyncio.sleep(0.02)
    assert not load.failed, load.outcomes
    assert load.outcomes["ok"] >= 10 * len(LEVELS)
    print(f"requests {load.outcomes}, moves {[round(s, 3) for s in took]}")
    return took


async def read_when(made, wanted, within_s=20.0):
    """Read until `wanted(applied)`; a fault in between is a tick without a read-back."""
    end = asyncio.get_running_loop().time() + within_s
    seen = None
    while True:
        try:
            seen = await made.read()
            if wanted(seen):
                return seen
        except PlantFault as fault:
            seen = fault
        assert asyncio.get_running_loop().time() < end, seen
        await asyncio.sleep(0.05)


async def crashed(made, server, name):
    """Kill the server, see a fault that names it, start it again; what is read then."""
    server.kill()
    with pytest.raises(PlantFault, match=re.escape(name)):
        await made.read()
    failed = await made.apply(setting(workers=3), 1)
    assert failed.status is ActuationStatus.FAILED
    assert name in failed.detail
    server.start()
    return await read_when(made, lambda seen: True)


def times(took):
    return min(took), statistics.median(took), max(took)


@pytest.fixture
def haproxy(tmp_path, gunicorn_service):
    folder = tmp_path / "haproxy"
    folder.mkdir()
    backend = gunicorn_service(workers=1, flags=("-k", "gthread", "--threads", "24"))
    made = Haproxy(folder, backend.port)
    made.server.start()
    yield made
    made.server.kill()


async def test_command_moves_a_real_haproxy_and_loses_nothing(haproxy):
    made = kind_of("command")(command_options(haproxy), "web")
    before = await made.read()
    assert before.setting == setting(workers=2)
    took = await moved_under_load(made, haproxy.port, "/sleep?s=0.02", haproxy.maxconn)
    await made.apply(setting(workers=4), 2)

    haproxy.ask("set maxconn server be/s1 7")
    hand = await made.read()
    assert (hand.setting, hand.epoch) == (setting(workers=7), before.epoch)

    haproxy.server.signal(signal.SIGUSR2)
    reloaded = await read_when(made, lambda seen: seen.epoch != before.epoch)
    assert reloaded.setting == setting(workers=2)

    again = await crashed(made, haproxy.server, str(haproxy.sock))
    assert again.setting == setting(workers=2)
    assert again.epoch not in {before.epoch, reloaded.epoch}
    note(
        Row(
            kind="command",
            server="any, through programs (kind `command`); met: HAProxy",
            version=haproxy.version(),
            reads="what `get` prints: here `slim` of `show stat`",
            moves="`set` with {level}: here `set maxconn server`",
            confirmed_s=times(took),
            on_reload="`epoch` prints another process: the file's level is taken over",
            on_crash="a fault that names the command; after the restart another epoch",
            on_another_hand="the level differs, the epoch does not: MANUAL",
        )
    )


@pytest.fixture
def caddy(tmp_path, gunicorn_service):
    folder = tmp_path / "caddy"
    folder.mkdir()
    backend = gunicorn_service(workers=1, flags=("-k", "gthread", "--threads", "24"))
    made = Caddy(folder, backend.port)
    made.server.start()
    yield made
    made.server.kill()


async def test_http_moves_a_real_caddy_and_loses_nothing(caddy):
    made = kind_of("http")(http_options(caddy), "web")
    before = await made.read()
    assert before.setting == setting(workers=2)
    took = await moved_under_load(made, caddy.port, "/sleep?s=0.02", caddy.most)

    await made.apply(setting(workers=4), 2)
    caddy.reload()
    reloaded = await made.read()
    assert (reloaded.setting, reloaded.epoch) == (setting(workers=2), before.epoch)

    await made.apply(setting(workers=4), 3)
    again = await crashed(made, caddy.server, caddy.url)
    assert (again.setting, again.epoch) == (setting(workers=2), before.epoch)
    note(
        Row(
            kind="http",
            server="any, through an HTTP API (kind `http`); met: Caddy",
            version=caddy.version(),
            reads="GET and a JSON pointer: here `/max_conns_per_host` of a proxy",
            moves="PUT, POST or PATCH: here PATCH of the admin API",
            confirmed_s=times(took),
            on_reload="a level that it resets is another hand, unless `epoch` points at what tells",
            on_crash="a fault that names the url; after the restart as after a reload",
            on_another_hand="the level differs, the epoch does not: MANUAL",
        )
    )


@pytest.fixture
def php_fpm(tmp_path):
    folder = tmp_path / "fpm"
    folder.mkdir()
    tmp_path.chmod(0o755)
    made = PhpFpm(folder)
    made.server.start()
    yield made
    made.server.kill()


@pytest.fixture
def nginx(tmp_path, php_fpm):
    folder = tmp_path / "nginx"
    folder.mkdir()
    made = Nginx(
        folder,
        f"location / {{ fastcgi_pass unix:{php_fpm.sock}; fastcgi_read_timeout 30s;\n"
        f"fastcgi_param SCRIPT_FILENAME {php_fpm.script};\n"
        "fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD GET; }",
    )
    made.server.start()
    yield made
    made.server.kill()


async def test_file_moves_a_real_php_fpm_and_loses_nothing(php_fpm, nginx):
    made = kind_of("file")(file_options(php_fpm), "web")
    before = await made.read()
    assert before.setting == setting(workers=2)
    took = await moved_under_load(made, nginx.port, "/?s=0.02", php_fpm.processes)
    text = php_fpm.config.read_text()
    assert "pm.max_children = 2 ; as the load needs\n" in text, "all but the digits stays"

    # Edited by hand: what runs counts, not what the file says; until it is loaded.
    await made.apply(setting(workers=4), 2)
    php_fpm.config.write_text(text.replace("children = 2", "children = 7"))
    assert await level(made) == 4
    php_fpm.server.signal(signal.SIGUSR2)
    hand = await read_when(made, lambda seen: seen.setting == setting(workers=7))
    assert hand.epoch == before.epoch
    until(lambda: php_fpm.processes() == 7, 10.0, "7 are there")

    php_fpm.server.signal(signal.SIGUSR2)
    await asyncio.sleep(0.5)
    reloaded = await read_when(made, lambda seen: seen.setting == setting(workers=7))
    assert reloaded.epoch == before.epoch

    outcome = await made.apply(setting(workers=2), 3)
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    again = await crashed(made, php_fpm.server, str(php_fpm.config))
    assert again.setting == setting(workers=2)
    assert again.epoch != before.epoch
    note(
        Row(
            kind="file",
            server="any, through a file and a signal (kind `file`); met: PHP-FPM",
            version=php_fpm.version(),
            reads="the file, or `get` and `get_http`: here the processes of the status page",
            moves="the digits in the file, then SIGUSR2 to the pidfile's process",
            confirmed_s=times(took),
            on_reload="the level is in the file, and stays",
            on_crash="a fault that names the file and the process; the level outlives the restart",
            on_another_hand="seen once it is loaded: the level differs, the epoch does not: MANUAL",
        )
    )


async def test_a_request_longer_than_a_move_is_answered_by_who_began_it(php_fpm, nginx):
    made = kind_of("file")(file_options(php_fpm), "web")
    async with Load(nginx.port, "/?s=1.5", clients=2) as load:
        await asyncio.sleep(0.5)
        outcome = await made.apply(setting(workers=1), 1)
        load._stop = True
    assert outcome.status is ActuationStatus.APPLIED, outcome.detail
    assert outcome.took_s > 0.5, "it waited for the busy ones"
    assert set(load.outcomes) == {"ok"}
    assert php_fpm.processes() == 1
