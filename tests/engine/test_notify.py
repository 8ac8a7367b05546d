"""sd_notify against a real datagram socket."""

import os
import socket
import time
from contextlib import closing
from pathlib import Path

import pytest

from poolwright.core.errors import PlantFault
from poolwright.engine.notify import Notifier, watchdog_s


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket, and its address as NOTIFY_SOCKET spells it."""
    if request.param == "path":
        address = bind_to = str(tmp_path / "notify")
    else:
        name = f"poolwright-test-{os.getpid()}-{time.monotonic_ns()}"
        address, bind_to = f"@{name}", f"\0{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(bind_to)
        server.settimeout(5)
        yield server, address


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def shout(notifier):
    for _ in range(100_000):
        notifier.watchdog()


def test_every_message_reaches_the_manager(manager):
    server, address = manager
    with closing(Notifier.from_environment({"NOTIFY_SOCKET": address})) as notifier:
        notifier.ready("2 pools")
        assert server.recv(4096) == b"READY=1\nSTATUS=2 pools"
        notifier.status("web: explore")
        assert server.recv(4096) == b"STATUS=web: explore"
        notifier.watchdog()
        assert server.recv(4096) == b"WATCHDOG=1"
        notifier.watchdog("web: converged")
        assert server.recv(4096) == b"WATCHDOG=1\nSTATUS=web: converged"
        notifier.reloading(12_345_678_901)
        assert server.recv(4096) == b"RELOADING=1\nMONOTONIC_USEC=12345678"
        notifier.stopping("SIGTERM")
        assert server.recv(4096) == b"STOPPING=1\nSTATUS=SIGTERM"


def test_a_status_cannot_smuggle_in_another_assignment(manager):
    server, address = manager
    with closing(Notifier(address)) as notifier:
        notifier.status("web\nMAINPID=1\r\nSTOPPING=1")
        assert server.recv(4096) == b"STATUS=web MAINPID=1 STOPPING=1"


def test_a_manager_that_made_its_socket_anew_is_heard(tmp_path):
    path = str(tmp_path / "notify")
    with closing(Notifier(path)) as notifier:
        for text in ("first", "second"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
                server.settimeout(5)
                server.bind(path)
                notifier.status(text)
                assert server.recv(4096) == f"STATUS={text}".encode()
            Path(path).unlink()


def test_without_a_manager_nothing_is_sent_and_nothing_opened():
    before = open_files()
    notifier = Notifier.from_environment({})
    notifier.ready("alone")
    notifier.watchdog()
    assert notifier.watchdog_s is None
    assert open_files() == before
    notifier.close()


def test_a_dead_socket_is_named(tmp_path):
    address = str(tmp_path / "nobody")
    with closing(Notifier(address)) as notifier, pytest.raises(PlantFault, match="nobody: No such"):
        notifier.watchdog()


def test_a_manager_that_does_not_listen_never_blocks_a_tick(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        with closing(Notifier(path)) as notifier, pytest.raises(PlantFault, match="unavailable"):
            shout(notifier)


def test_close_may_be_called_twice_and_the_notifier_used_again(manager):
    server, address = manager
    notifier = Notifier(address)
    notifier.watchdog()
    notifier.close()
    notifier.close()
    notifier.watchdog()
    notifier.close()
    assert [server.recv(4096) for _ in range(2)] == [b"WATCHDOG=1"] * 2


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/path", " /x"])
def test_an_address_of_another_kind_is_refused(address):
    with pytest.raises(PlantFault, match="neither a path nor an abstract socket"):
        Notifier.from_environment({"NOTIFY_SOCKET": address})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "15000000"}, 15.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "42"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "43"}, None),
    ],
)
def test_the_watchdog_is_ours_only_when_it_names_us(environ, expected):
    assert watchdog_s(environ, pid=42) == expected


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "soon", "1e6", "٣"])
@pytest.mark.parametrize("name", ["WATCHDOG_USEC", "WATCHDOG_PID"])
def test_a_watchdog_that_cannot_be_understood_is_refused(name, text):
    environ = {"WATCHDOG_USEC": "1000000", name: text}
    with pytest.raises(PlantFault, match=name):
        Notifier.from_environment(environ, pid=42)
