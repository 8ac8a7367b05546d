"""What importing the client brings into an application: some of the standard library, no more."""

import subprocess
import sys
from pathlib import Path

import pytest

import poolwright
from poolwright import client

_OURS = str(Path(poolwright.__file__).parents[1])
_ALONE = """
import sys, tempfile, os, time
sys.path.insert(0, sys.argv[1])
import poolwright.client
lazy = set(sys.modules)
from poolwright.client import *
pool, meter = ResizableThreadPoolExecutor(2), Meter()
app = WsgiMeter(lambda environ, start: [start("200 OK", []) and b"" or b"x"], meter)
with tempfile.TemporaryDirectory(prefix="pw", dir="/tmp") as home:
    made = offer(home + "/o", pool=pool, meter=meter)
    assert pool.submit(pow, 2, 3).result() == 8
    pool.resize(5)
    assert list(app({}, lambda *_: None)) == [b"x"]
    child = os.fork()
    if child == 0:
        os._exit(pool.submit(pow, 2, 3).result() - 8)
    assert os.waitpid(child, 0)[1] == 0
    made.close()
pool.shutdown()
async def go():
    async with ConcurrencyLimiter(2) as _:
        pass
import asyncio
asyncio.run(go())
loaded = {name.partition(".")[0] for name in sys.modules}
foreign = loaded - sys.stdlib_module_names - {"poolwright", "__main__", "__mp_main__"}
assert not foreign, foreign
ours = {name for name in sys.modules if name.startswith("poolwright.")}
assert ours <= {"poolwright.core", "poolwright.core.request_start"} | {
    name for name in ours if name.startswith("poolwright.client")
}, ours
assert "asyncio" not in lazy and "threading" not in lazy, sorted(lazy)
assert "dataclasses" not in lazy and "pathlib" not in lazy
"""


def test_it_runs_without_any_package_installed():
    """-S leaves site-packages out, -I the environment: so it is alone with the stdlib."""
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "ignore", "-c", _ALONE, _OURS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_every_name_that_is_promised_is_there():
    for name in client.__all__:
        assert getattr(client, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        client.no_such_name
